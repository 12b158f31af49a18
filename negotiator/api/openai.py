"""OpenAI's chat completions: the seller's bytes where they can be relayed, with one object of ours added."""

from __future__ import annotations

from typing import Any

import orjson

from ..order import Completion
from ..wire_bodies import HOUSE_FIELDS
from ..wire_out import chat_completion_out, completion_out
from .buying import buy, order_of, submit, terms_of
from .openai_stream import relay_chat
from .routes import Answer, Call, route
from .schemas import ChatRequest
from .schemas_out import ChatOut

__all__ = ["answer_chat", "chat_bytes", "create_chat_completion"]

_USAGE = b'"usage"'
_OURS = b'"negotiator"'


@route(
    "POST",
    "/v1/chat/completions",
    req=ChatRequest,
    res=ChatOut,
    streams=True,
    errors=(402, 403, 404, 409, 410, 422, 429, 499, 502, 503, 504),
)
async def create_chat_completion(call: Call) -> Answer:
    """Buy a chat completion.

    ``model`` is ``auto``, ``auto:PROFILE``, ``provider/model`` or a model's name; terms go in ``negotiator`` or in
    ``x-negotiator-*`` headers.
    """
    asked: ChatRequest = call.body
    terms = await terms_of(call, asked.negotiator, asked.service_tier)
    return await answer_chat(call, asked, call.raw, terms, None)


async def answer_chat(
    call: Call, asked: ChatRequest, raw: dict[str, Any], terms: Any, quote_id: str | None
) -> Answer:
    """Buy what a chat body asks for and answer in its shape, whole or as a stream."""
    for name in HOUSE_FIELDS:
        raw.pop(name, None)
    order = await order_of(call, raw, terms, stream=bool(asked.stream))
    if not asked.stream:
        done, seller = await buy(call, order, quote_id)
        return chat_bytes(done, seller, call.engine.rooms.clock.now_ms())
    with_usage = asked.stream_options is not None and bool(asked.stream_options.include_usage)
    return await relay_chat(call, await submit(call, order, quote_id), with_usage)


def chat_bytes(done: Completion, seller: bytes | None, now_ms: int) -> bytes:
    """The answer as JSON: the seller's own where it came as one body, with ``negotiator`` added."""
    if seller is None or _OURS in seller or _USAGE not in seller or done.usage.estimated:
        return orjson.dumps(chat_completion_out(done, now_ms // 1000))
    body = seller.rstrip()
    return b"%b,%b:%b}" % (body[:-1], _OURS, orjson.dumps(completion_out(done)))
