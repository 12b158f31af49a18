"""Anthropic's messages and stream events as deltas; its usage, which counts cached tokens beside the input; its faults.

Thoughts come as ``reasoning_content`` and, whole and with their signatures, as ``thinking_blocks``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from .errors import (
    AuthFailed,
    ContextTooLong,
    MalformedAnswer,
    Overloaded,
    ProviderError,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
    RequestRefused,
    StreamCut,
)
from .limit_headers import retry_after_ms
from .openai_faults import leaf_for, safe_detail
from .openai_usage import count_of
from .sse import Event
from .terms import Delta, Usage
from .vendor_json import error_body, object_of, redirect

__all__ = ["MessageReader", "delta_of_message", "fault_of", "usage_of"]

_STOP: Final = {
    "end_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "pause_turn": "stop",
    "refusal": "content_filter",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
}
_BY_TYPE: Final[Mapping[str, type[ProviderError]]] = {
    "api_error": ProviderUnavailable,
    "authentication_error": AuthFailed,
    "billing_error": AuthFailed,
    "overloaded_error": Overloaded,
    "permission_error": AuthFailed,
    "rate_limit_error": RateLimited,
    "request_too_large": ContextTooLong,
    "not_found_error": RequestRefused,
    "timeout_error": ProviderTimeout,
}
_CLASSES: Final = (
    "input_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "output_tokens",
)
_TEXT_BLOCKS: Final = {"text": "content", "thinking": "reasoning_content"}


def usage_of(report: object) -> Usage | None:
    """The usage in a report: input, cache reads and cache writes stand beside each other and are added up.

    Where a breakdown (by lifetime of the cache entry, by iteration of a tool loop) says more than the total, the
    larger is billed and so counts. None where it says nothing.
    """
    if not isinstance(report, Mapping):
        return None
    totals = {name: count_of(report, name) for name in _CLASSES}
    rounds = [one for one in report.get("iterations") or () if isinstance(one, Mapping)]
    for name in _CLASSES:
        totals[name] = max(totals[name], sum(count_of(one, name) for one in rounds))
    by_life = report.get("cache_creation")
    by_life = by_life if isinstance(by_life, Mapping) else {}
    hour = count_of(by_life, "ephemeral_1h_input_tokens")
    written = max(
        totals["cache_creation_input_tokens"], hour + count_of(by_life, "ephemeral_5m_input_tokens")
    )
    read, output_tokens = totals["cache_read_input_tokens"], totals["output_tokens"]
    input_tokens = totals["input_tokens"] + read + written
    if not input_tokens:
        return None
    details = report.get("output_tokens_details")
    thoughts = count_of(details, "thinking_tokens") if isinstance(details, Mapping) else 0
    return Usage(
        input_tokens,
        max(output_tokens, thoughts),
        cache_read_tokens=read,
        cache_write_tokens=written - hour,
        cache_write_1h_tokens=hour,
        reasoning_tokens=thoughts,
    )


def delta_of_message(data: bytes) -> Delta:
    """The one delta of a buffered message; raises MalformedAnswer where it is none."""
    body = object_of(data)
    if body.get("type") == "error":
        raise _fault_in(body)
    blocks = body.get("content")
    if not isinstance(blocks, list):
        raise MalformedAnswer("expected a message with a list of content blocks, found none")
    reader = MessageReader()
    message: dict[str, Any] = {"role": "assistant", "content": None}
    for index, block in enumerate(blocks):
        for delta in (reader.block_begins(index, block), reader.block_ends(index)):
            _merge(message, delta)
    reason = _STOP.get(body.get("stop_reason") or "end_turn", "stop")
    return Delta(delta=message, finish_reason=reason, usage=usage_of(body.get("usage")))


def _merge(message: dict[str, Any], delta: Mapping[str, Any]) -> None:
    for name, value in delta.items():
        known = message.get(name)
        message[name] = value if known is None else known + value


class MessageReader:
    """Reads one stream of Messages events."""

    __slots__ = ("_blocks", "_calls", "_reason", "_report", "done", "finished")

    def __init__(self) -> None:
        self.finished = False
        self.done = False
        self._reason: str | None = None
        self._report: dict[str, Any] = {}
        self._blocks: dict[int, dict[str, Any]] = {}
        self._calls = 0

    def event(self, event: Event) -> Delta | None:
        """The delta an event carries; raises the failure an error event stands for."""
        body = object_of(event.data)
        kind = body.get("type")
        if kind == "content_block_delta":
            piece = self._piece(body.get("index", 0), body.get("delta") or {})
            return Delta(delta=piece) if piece else None
        if kind == "content_block_start":
            piece = self.block_begins(body.get("index", 0), body.get("content_block") or {}, streamed=True)
            return Delta(delta=piece) if piece else None
        if kind == "content_block_stop":
            piece = self.block_ends(body.get("index", 0))
            return Delta(delta=piece) if piece else None
        if kind == "message_start":
            self._report |= _given((body.get("message") or {}).get("usage"))
            return Delta(delta={"role": "assistant", "content": ""})
        if kind == "message_delta":
            reason = (body.get("delta") or {}).get("stop_reason")
            self._reason = reason or self._reason
            self.finished = self._reason is not None
            self._report |= _given(body.get("usage"))
        elif kind == "message_stop":
            self.done = True
        elif kind == "error":
            raise _fault_in(body)
        return None

    def last(self) -> Delta:
        """The finish; raises StreamCut where no stop reason was seen."""
        if self._reason is None:
            raise StreamCut("the stream ended before a stop reason")
        return Delta(finish_reason=_STOP.get(self._reason, "stop"), usage=usage_of(self._report))

    def block_begins(self, index: int, block: Mapping[str, Any], streamed: bool = False) -> dict[str, Any]:
        """What a block that begins adds to the message; a whole block, where the message is buffered."""
        kind = block.get("type", "")
        if name := _TEXT_BLOCKS.get(kind):
            if kind == "thinking":
                self._blocks[index] = {"type": kind, "thinking": "", "signature": ""} | dict(block)
            text = block.get(kind) or ""
            return {name: text} if text else {}
        if kind == "redacted_thinking":
            return {"thinking_blocks": [dict(block)]}
        if kind == "tool_use":
            arguments = "" if streamed else orjson.dumps(block.get("input") or {}).decode()
            call = {
                "index": self._calls,
                "id": block.get("id"),
                "type": "function",
                "function": {"name": block.get("name"), "arguments": arguments},
            }
            self._blocks[index] = {"type": kind, "call": self._calls, "written": bool(arguments)}
            self._calls += 1
            return {"tool_calls": [call]}
        return {}  # a server's own tool: what it found is in the text that follows

    def block_ends(self, index: int) -> dict[str, Any]:
        """What a block that ended adds: a thought with its signature; the empty arguments of a call without any."""
        block = self._blocks.pop(index, None)
        if block is None:
            return {}
        if block["type"] == "thinking":
            return {"thinking_blocks": [block]}
        if not block["written"]:
            return {"tool_calls": [{"index": block["call"], "function": {"arguments": "{}"}}]}
        return {}

    def _piece(self, index: int, delta: Mapping[str, Any]) -> dict[str, Any]:
        kind, block = delta.get("type"), self._blocks.get(index)
        if kind == "text_delta":
            return {"content": delta.get("text", "")}
        if kind == "thinking_delta":
            if block is not None:
                block["thinking"] += delta.get("thinking", "")
            return {"reasoning_content": delta.get("thinking", "")}
        if kind == "signature_delta" and block is not None:
            block["signature"] += delta.get("signature", "")
        if kind == "input_json_delta" and block is not None and delta.get("partial_json"):
            block["written"] = True
            arguments = {"arguments": delta["partial_json"]}
            return {"tool_calls": [{"index": block["call"], "function": arguments}]}
        return {}


def _given(report: object) -> dict[str, Any]:
    """The counts that are really there: reports are running totals, and a later one may leave some out."""
    if not isinstance(report, Mapping):
        return {}
    return {name: value for name, value in report.items() if value is not None}


def fault_of(status: int, headers: Mapping[str, str], data: bytes) -> ProviderError:
    """The failure that an HTTP error answer stands for."""
    if moved := redirect(status):
        return moved
    body = error_body(data)
    fault = _fault_in(body if isinstance(body, Mapping) else {}, status)
    fault.retry_after_ms = retry_after_ms(headers)
    return fault


def _fault_in(body: Mapping[str, Any], status: int | None = None) -> ProviderError:
    error = body.get("error")
    error = error if isinstance(error, Mapping) else {}
    kind, detail = str(error.get("type", "")), safe_detail(error.get("message") or "no message")
    leaf = leaf_for(status or 500, (), detail)
    if leaf is not ContextTooLong and not (leaf is AuthFailed and status in (400, 429)):
        leaf = _BY_TYPE.get(kind, leaf)
    return leaf("its key was refused" if status == 401 else detail, status=status)
