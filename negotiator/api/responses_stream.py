"""OpenAI's response events, made of chat deltas as they come."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web

from ..engine_delivery import Delivery
from ..order import Completion
from ..responses_out import call_item, message_item, response_out, text_part
from .buying import award_headers
from .openai_stream import chunks_of, open_stream
from .routes import Call

Out = dict[str, Any]

__all__ = ["relay_response"]


async def relay_response(call: Call, delivery: Delivery | Completion, frame: Out) -> web.StreamResponse:
    """Answer with OpenAI's response events."""
    events = _Events(frame)
    response: web.StreamResponse | None = None
    async with aclosing(chunks_of(delivery)) as chunks:
        async for chunk in chunks:
            if response is None:
                known = award_headers(delivery) if isinstance(delivery, Delivery) else {}
                response = await open_stream(call, known, b"".join(events.begin()))
            if chunk.delta:
                await response.write(b"".join(events.add(chunk.delta)))
            if chunk.completion is not None:
                broken = delivery.fault() if isinstance(delivery, Delivery) else None
                whole = response_out(frame, chunk.completion, broken)
                await response.write(b"".join(events.end(whole)))
    assert response is not None, "a delivery without a piece is a reject"
    await response.write_eof()
    return response


@dataclass(slots=True)
class _ToolCall:
    """A call of a tool while its arguments come."""

    index: int
    place: int
    call_id: str = ""
    name: str = ""
    arguments: str = ""


class _Events:
    """The state of one response's stream: one message with text or refusal, and tool calls."""

    def __init__(self, frame: Out) -> None:
        self._frame = frame
        self._id = frame["id"]
        self._number = 0
        self._places = 0
        self._message_place: int | None = None
        self._part = ""
        self._text = ""
        self._content_index = -1
        self._calls: dict[int, _ToolCall] = {}

    def begin(self) -> Iterator[bytes]:
        """The first events."""
        yield self._event("response.created", response=self._frame)
        yield self._event("response.in_progress", response=self._frame)

    def add(self, delta: Mapping[str, Any]) -> Iterator[bytes]:
        """The events of one delta."""
        for name, kind in (("content", "output_text"), ("refusal", "refusal")):
            if delta.get(name):
                yield from self._write(kind, delta[name])
        for position, piece in enumerate(delta.get("tool_calls") or ()):
            yield from self._call(piece, piece.get("index", position))

    def end(self, whole: Out) -> Iterator[bytes]:
        """What closes every item, and the last event."""
        status = "completed" if whole["status"] == "completed" else "incomplete"
        yield from self._end_part()
        if self._message_place is not None:
            content = next(item["content"] for item in whole["output"] if item["type"] == "message")
            item = message_item(self._id, status, content)
            yield self._event("response.output_item.done", output_index=self._message_place, item=item)
        for call in self._calls.values():
            item = call_item(self._id, call.index, status, call.call_id, call.name, call.arguments)
            yield self._event(
                "response.function_call_arguments.done",
                item_id=item["id"],
                output_index=call.place,
                name=call.name,
                arguments=call.arguments,
            )
            yield self._event("response.output_item.done", output_index=call.place, item=item)
        yield self._event(f"response.{whole['status']}", response=whole)

    def _write(self, kind: str, text: str) -> Iterator[bytes]:
        if self._message_place is None:
            self._message_place = self._place()
            item = message_item(self._id, "in_progress", [])
            yield self._event("response.output_item.added", output_index=self._message_place, item=item)
        if self._part != kind:
            yield from self._end_part()
            self._part, self._text = kind, ""
            self._content_index += 1
            yield self._event("response.content_part.added", **self._at(), part=self._made(""))
        self._text += text
        more: Out = {"logprobs": []} if kind == "output_text" else {}
        yield self._event(f"response.{kind}.delta", **self._at(), delta=text, **more)

    def _end_part(self) -> Iterator[bytes]:
        if not self._part:
            return
        part = self._made(self._text)
        if self._part == "output_text":
            yield self._event("response.output_text.done", **self._at(), text=self._text, logprobs=[])
        else:
            yield self._event("response.refusal.done", **self._at(), refusal=self._text)
        yield self._event("response.content_part.done", **self._at(), part=part)
        self._part = ""

    def _call(self, piece: Mapping[str, Any], index: int) -> Iterator[bytes]:
        call = self._calls.get(index)
        function = piece.get("function") or {}
        arguments = function.get("arguments") or ""
        if call is None:
            call = self._calls[index] = _ToolCall(index, self._place())
            call.call_id, call.name = piece.get("id") or "", function.get("name") or ""
            item = call_item(self._id, index, "in_progress", call.call_id, call.name, "")
            yield self._event("response.output_item.added", output_index=call.place, item=item)
        if arguments:
            call.arguments += arguments
            yield self._event(
                "response.function_call_arguments.delta",
                item_id=f"fc_{self._id}_{index}",
                output_index=call.place,
                delta=arguments,
            )

    def _made(self, text: str) -> Out:
        return text_part(text) if self._part == "output_text" else {"type": "refusal", "refusal": text}

    def _at(self) -> Out:
        return {
            "item_id": f"msg_{self._id}",
            "output_index": self._message_place,
            "content_index": self._content_index,
        }

    def _place(self) -> int:
        self._places += 1
        return self._places - 1

    def _event(self, kind: str, **values: Any) -> bytes:
        number, self._number = self._number, self._number + 1
        data = orjson.dumps({"type": kind, "sequence_number": number, **values})
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)
