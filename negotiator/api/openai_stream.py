"""A chat answer as server-sent events, piece by piece as it comes.

The status is decided by the first token: until then a refusal is an ordinary error. The finish chunk waits for the
bill and carries it. An answer that breaks off ends with what was delivered, its finish reason, and an error event.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

import orjson
from aiohttp import web

from ..engine_delivery import Delivery
from ..errors import Reject, Rejected
from ..order import Chunk, Completion
from ..wire_out import completion_out, usage_out
from .buying import award_headers
from .faults import ApiFault, fault_bytes
from .routes import Call

__all__ = ["EVENT_STREAM", "chunks_of", "open_stream", "relay_chat"]

EVENT_STREAM: Final = "text/event-stream"
_DONE: Final = b"data: [DONE]\n\n"


class _Together(web.StreamResponse):
    """A stream whose head waits for its first bytes and leaves with them: one packet, and no wait between the two."""

    _send_headers_immediately = False


async def open_stream(call: Call, headers: dict[str, str], first: bytes = b"") -> web.StreamResponse:
    """Begin an event stream, with its first event where that is known: from here the status is 200."""
    response = _Together(
        headers={
            **call.headers,
            **headers,
            "content-type": f"{EVENT_STREAM}; charset=utf-8",
            "cache-control": "no-cache",
            "x-accel-buffering": "no",
            "x-request-id": call.request_id,
        }
    )
    await response.prepare(call.request)
    call.stream = response
    await response.write(first)
    return response


async def chunks_of(delivery: Delivery | Completion) -> AsyncGenerator[Chunk]:
    """The pieces of a delivery, or of an answer given before as if it came now. Raises Rejected before the first."""
    if isinstance(delivery, Completion):
        message = {name: value for name, value in delivery.message.items() if value is not None}
        calls = message.get("tool_calls")
        if calls:
            message["tool_calls"] = [{"index": number, **one} for number, one in enumerate(calls)]
        yield Chunk(delta=message)
        yield Chunk(finish_reason=delivery.finish_reason, completion=delivery)
        return
    async with aclosing(delivery.chunks()) as chunks:
        async for chunk in chunks:
            yield chunk
    if delivery.job.reject is not None:
        raise Rejected(delivery.job.reject)


async def relay_chat(call: Call, delivery: Delivery | Completion, with_usage: bool) -> web.StreamResponse:
    """Answer with OpenAI's chat chunks."""
    writer: _Writer | None = None
    response: web.StreamResponse | None = None
    last = b""
    async with aclosing(chunks_of(delivery)) as chunks:
        async for chunk in chunks:
            if writer is None:
                seller = delivery.serving.quote if isinstance(delivery, Delivery) else delivery
                writer = _Writer(call, with_usage, f"{seller.provider}/{seller.model}")
            piece = b""
            if chunk.completion is None:
                piece = writer.piece(chunk)
            else:
                broken = delivery.fault() if isinstance(delivery, Delivery) else None
                last = writer.end(chunk, chunk.completion, broken)
            if response is None:
                known = award_headers(delivery) if isinstance(delivery, Delivery) else {}
                response = await open_stream(call, known, piece)
            else:
                await response.write(piece)
    assert response is not None, "a delivery without a piece is a reject"
    await response.write_eof(last)
    return response


class _Writer:
    """Chunks of one answer under one id: the seller's where its bytes are relayed."""

    def __init__(self, call: Call, with_usage: bool, model: str) -> None:
        self._with_usage = with_usage
        self._request_id = call.request_id
        self._first = True
        self._head: dict[str, Any] = {
            "id": f"chatcmpl-{call.order_id}",
            "object": "chat.completion.chunk",
            "created": call.engine.rooms.clock.now_ms() // 1000,
            "model": model,
        }

    def piece(self, chunk: Chunk) -> bytes:
        """One piece, as the seller wrote it where that is known."""
        first, self._first = self._first, False
        if chunk.raw is not None:
            if first:
                seller = orjson.loads(chunk.raw[6:].partition(b"\n\n")[0])
                self._head |= {name: seller[name] for name in ("id", "created", "model") if name in seller}
            return chunk.raw
        delta = {"role": "assistant", **chunk.delta} if first else chunk.delta
        return self._event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})

    def end(self, chunk: Chunk, done: Completion, broken: Reject | None) -> bytes:
        """The finish, the usage where it was asked for, and the end mark or what broke the answer off."""
        bill = {"negotiator": completion_out(done)}
        choice = self._last_choice(chunk)
        choice["finish_reason"] = done.finish_reason
        parts = [self._event({"choices": [choice]} | ({} if self._with_usage else bill))]
        if self._with_usage:
            parts.append(self._event({"choices": [], "usage": usage_out(done.usage)} | bill))
        if broken is None:
            parts.append(_DONE)
        else:
            parts.append(b"data: %b\n\n" % fault_bytes(ApiFault.of(broken), self._request_id))
        return b"".join(parts)

    def _last_choice(self, chunk: Chunk) -> dict[str, Any]:
        if chunk.raw is not None and chunk.raw.startswith(b"data: "):
            choices = orjson.loads(chunk.raw[6:]).get("choices")
            if choices:
                return dict(choices[0])
        delta = {"role": "assistant", **chunk.delta} if self._first and chunk.delta else chunk.delta
        return {"index": 0, "delta": delta}

    def _event(self, values: dict[str, Any]) -> bytes:
        return b"data: %b\n\n" % orjson.dumps({**self._head, **values})
