"""A completion as Anthropic's message, whole or as its events while chat deltas come."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson

from providers.terms import Usage

from ..errors import Reject
from ..order import Completion
from ..wire_out import completion_out
from .faults import ApiFault, fault_bytes

__all__ = ["MessageEvents", "message_out"]

_STOP: Final = {
    "content_filter": "refusal",
    "function_call": "tool_use",
    "length": "max_tokens",
    "stop": "end_turn",
    "tool_calls": "tool_use",
}

Out = dict[str, Any]


def message_out(done: Completion) -> Out:
    """The whole message."""
    return {
        **_frame(done.order_id, f"{done.provider}/{done.model}"),
        "content": list(_blocks(done.message)),
        "stop_reason": _STOP.get(done.finish_reason, "end_turn"),
        "usage": _usage_out(done.usage),
        "negotiator": completion_out(done),
    }


def _frame(order_id: str, model: str) -> Out:
    return {
        "id": f"msg_{order_id}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def _usage_out(usage: Usage) -> Out:
    written = usage.cache_write_tokens + usage.cache_write_1h_tokens
    return {
        "input_tokens": usage.input_tokens - usage.cache_read_tokens - written,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": usage.cache_read_tokens,
        "output_tokens": usage.output_tokens,
    }


def _blocks(message: Mapping[str, Any]) -> Iterator[Out]:
    yield from message.get("thinking_blocks") or ()
    text = message.get("content") or message.get("refusal")
    if text:
        yield {"type": "text", "text": text}
    for call in message.get("tool_calls") or ():
        function = call.get("function") or {}
        yield {
            "type": "tool_use",
            "id": call.get("id"),
            "name": function.get("name"),
            "input": _arguments(function.get("arguments")),
        }


def _arguments(text: str | None) -> Any:
    """A tool call's arguments; what is no JSON is handed on as text, for the buyer to judge."""
    try:
        return orjson.loads(text or "{}")
    except orjson.JSONDecodeError:
        return {"arguments": text}


class MessageEvents:
    """Anthropic's events of one message: blocks open and close as the kind of delta changes."""

    def __init__(self, order_id: str, model: str, input_tokens: int, request_id: str) -> None:
        self._message = _frame(order_id, model)
        self._input_tokens = input_tokens
        self._request_id = request_id
        self._index = -1
        self._open = ""

    def begin(self) -> Iterator[bytes]:
        """The first event; its input tokens are what was quoted, the last event has those billed."""
        usage = {"input_tokens": self._input_tokens, "output_tokens": 0}
        yield self._event("message_start", message={**self._message, "usage": usage})

    def add(self, delta: Mapping[str, Any]) -> Iterator[bytes]:
        """The events of one delta."""
        if delta.get("reasoning_content"):
            yield from self._turn("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            yield self._piece({"type": "thinking_delta", "thinking": delta["reasoning_content"]})
        for block in delta.get("thinking_blocks") or ():
            yield from self._thought(block)
        text = delta.get("content") or delta.get("refusal")
        if text:
            yield from self._turn("text", {"type": "text", "text": ""})
            yield self._piece({"type": "text_delta", "text": text})
        for position, call in enumerate(delta.get("tool_calls") or ()):
            function = call.get("function") or {}
            name = f"tool {call.get('index', position)}"
            block = {"type": "tool_use", "id": call.get("id"), "name": function.get("name"), "input": {}}
            yield from self._turn(name, block)
            if function.get("arguments"):
                yield self._piece({"type": "input_json_delta", "partial_json": function["arguments"]})

    def end(self, done: Completion, broken: Reject | None) -> Iterator[bytes]:
        """The bill, and the end or what broke the message off."""
        yield from self._close()
        stop = {"stop_reason": _STOP.get(done.finish_reason, "end_turn"), "stop_sequence": None}
        bill = {"usage": _usage_out(done.usage), "negotiator": completion_out(done)}
        yield self._event("message_delta", delta=stop, **bill)
        if broken is None:
            yield self._event("message_stop")
        else:
            data = fault_bytes(ApiFault.of(broken), self._request_id, anthropic=True)
            yield b"event: error\ndata: %b\n\n" % data

    def _thought(self, block: Mapping[str, Any]) -> Iterator[bytes]:
        """A whole thought: the signature of the one that was streamed, or a block of its own."""
        if self._open == "thinking" and block.get("type") == "thinking":
            yield self._piece({"type": "signature_delta", "signature": block.get("signature", "")})
            yield from self._close()
        else:
            yield from self._turn("whole thought", block)
            yield from self._close()

    def _turn(self, kind: str, block: Mapping[str, Any]) -> Iterator[bytes]:
        if self._open == kind:
            return
        yield from self._close()
        self._index += 1
        self._open = kind
        yield self._event("content_block_start", index=self._index, content_block=block)

    def _close(self) -> Iterator[bytes]:
        if self._open:
            self._open = ""
            yield self._event("content_block_stop", index=self._index)

    def _piece(self, delta: Out) -> bytes:
        return self._event("content_block_delta", index=self._index, delta=delta)

    def _event(self, kind: str, **values: Any) -> bytes:
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps({"type": kind, **values}))
