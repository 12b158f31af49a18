"""Anthropic's messages, whole and as events, bought on the same market and the same terms."""

from __future__ import annotations

from contextlib import aclosing

import orjson
from aiohttp import web

from ..engine_delivery import Delivery
from ..order import Completion
from .anthropic_chat import chat_body
from .anthropic_out import MessageEvents, message_out
from .buying import award_headers, buy, order_of, submit, terms_of
from .openai_stream import chunks_of, open_stream
from .routes import Answer, Call, route
from .schemas import MessagesRequest
from .schemas_out import MessageOut

__all__ = ["create_message"]


@route(
    "POST",
    "/v1/messages",
    req=MessagesRequest,
    res=MessageOut,
    streams=True,
    anthropic=True,
    errors=(402, 403, 404, 409, 422, 429, 499, 502, 503, 504),
)
async def create_message(call: Call) -> Answer:
    """Buy a message; terms go in ``negotiator`` or in ``x-negotiator-*`` headers."""
    asked: MessagesRequest = call.body
    terms = await terms_of(call, asked.negotiator)
    order = await order_of(call, chat_body(asked), terms, stream=bool(asked.stream))
    if asked.stream:
        return await _relay(call, await submit(call, order))
    done, _ = await buy(call, order)
    return orjson.dumps(message_out(done))


async def _relay(call: Call, delivery: Delivery | Completion) -> web.StreamResponse:
    events: MessageEvents | None = None
    response: web.StreamResponse | None = None
    async with aclosing(chunks_of(delivery)) as chunks:
        async for chunk in chunks:
            if response is None or events is None:
                known = award_headers(delivery) if isinstance(delivery, Delivery) else {}
                events = _events(call, delivery)
                response = await open_stream(call, known, b"".join(events.begin()))
            if chunk.delta:
                await response.write(b"".join(events.add(chunk.delta)))
            if chunk.completion is not None:
                broken = delivery.fault() if isinstance(delivery, Delivery) else None
                await response.write(b"".join(events.end(chunk.completion, broken)))
    assert response is not None, "a delivery without a piece is a reject"
    await response.write_eof()
    return response


def _events(call: Call, delivery: Delivery | Completion) -> MessageEvents:
    if isinstance(delivery, Completion):
        model, tokens = f"{delivery.provider}/{delivery.model}", delivery.usage.input_tokens
    else:
        model, tokens = delivery.serving.quote.key, delivery.serving.quote.input_tokens
    return MessageEvents(call.order_id or "", model, tokens, call.request_id)
