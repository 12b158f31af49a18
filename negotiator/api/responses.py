"""OpenAI's responses, whole and as events, bought as the chat they stand for; nothing is stored for later turns."""

from __future__ import annotations

import orjson

from ..responses_chat import chat_body
from ..responses_out import frame_of, response_out
from ..wire_bodies import ResponsesRequest
from .buying import buy, order_of, submit, terms_of
from .responses_stream import relay_response
from .routes import Answer, Call, route
from .schemas_out import ResponseOut

__all__ = ["create_response"]


@route(
    "POST",
    "/v1/responses",
    req=ResponsesRequest,
    res=ResponseOut,
    streams=True,
    errors=(402, 403, 404, 409, 422, 429, 499, 502, 503, 504),
)
async def create_response(call: Call) -> Answer:
    """Buy a response. Nothing is stored: each request brings its whole conversation."""
    asked: ResponsesRequest = call.body
    body = chat_body(asked)
    terms = await terms_of(call, asked.negotiator, asked.service_tier)
    order = await order_of(call, body, terms, stream=bool(asked.stream))
    now_ms = call.engine.rooms.clock.now_ms()
    frame = frame_of(asked, order.order_id, now_ms // 1000)
    if asked.stream:
        return await relay_response(call, await submit(call, order), frame)
    done, _ = await buy(call, order)
    return orjson.dumps(response_out(frame, done))
