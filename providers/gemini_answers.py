"""Gemini's answers and stream chunks as deltas; its usage, where thoughts are output beside the answer; its faults."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Final

import orjson

from .errors import (
    AuthFailed,
    ContentRefused,
    ContextTooLong,
    MalformedAnswer,
    Overloaded,
    ProviderError,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
    StreamCut,
    error_for,
)
from .limit_headers import duration_ms, retry_after_ms, retry_hint_ms
from .openai_faults import leaf_for, safe_detail
from .openai_usage import count_of
from .sse import Event
from .terms import Delta, Usage
from .vendor_json import error_body, object_of, redirect

__all__ = ["ContentReader", "delta_of_answer", "fault_of", "usage_of"]

_FINISH: Final = {
    "BLOCKLIST": "content_filter",
    "IMAGE_SAFETY": "content_filter",
    "LANGUAGE": "content_filter",
    "MAX_TOKENS": "length",
    "PROHIBITED_CONTENT": "content_filter",
    "RECITATION": "content_filter",
    "SAFETY": "content_filter",
    "SPII": "content_filter",
    "STOP": "stop",
}
_BROKEN: Final = frozenset({"MALFORMED_FUNCTION_CALL", "MALFORMED_RESPONSE", "UNEXPECTED_TOOL_CALL"})
_BY_STATUS: Final[Mapping[str, type[ProviderError]]] = {
    "DEADLINE_EXCEEDED": ProviderTimeout,
    "INTERNAL": ProviderUnavailable,
    "PERMISSION_DENIED": AuthFailed,
    "RESOURCE_EXHAUSTED": RateLimited,
    "UNAUTHENTICATED": AuthFailed,
    "UNAVAILABLE": Overloaded,
}
_KEY_REASONS: Final = frozenset(
    {"API_KEY_INVALID", "API_KEY_SERVICE_BLOCKED", "BILLING_DISABLED", "SERVICE_DISABLED"}
)


def usage_of(report: object) -> Usage | None:
    """The usage in ``usageMetadata``: cached tokens are part of the prompt, thoughts are output beside the answer."""
    if not isinstance(report, Mapping):
        return None
    cached = count_of(report, "cachedContentTokenCount")
    prompt = count_of(report, "promptTokenCount") + count_of(report, "toolUsePromptTokenCount")
    input_tokens = max(prompt, cached)
    if not input_tokens:
        return None
    thoughts = count_of(report, "thoughtsTokenCount")
    output_tokens = count_of(report, "candidatesTokenCount", "responseTokenCount") + thoughts
    beside = count_of(report, "totalTokenCount") - input_tokens - output_tokens
    return Usage(
        input_tokens,
        output_tokens + max(beside, 0),  # the total is billed
        cache_read_tokens=cached,
        reasoning_tokens=thoughts,
    )


def delta_of_answer(data: bytes) -> Delta:
    """The one delta of a buffered answer; raises ContentRefused for a blocked prompt, MalformedAnswer for no answer."""
    body = object_of(data)
    if "embeddings" in body:
        return _embeddings(body)
    reader = ContentReader()
    delta = reader.chunk(body)
    last = reader.last()
    message: dict[str, Any] = {"role": "assistant", "content": None, **delta}
    return Delta(delta=message, finish_reason=last.finish_reason, usage=last.usage)


def _embeddings(body: Mapping[str, Any]) -> Delta:
    data = [
        {"object": "embedding", "index": index, "embedding": embedding["values"]}
        for index, embedding in enumerate(body["embeddings"])
    ]
    usage = usage_of(body.get("usageMetadata"))
    return Delta(delta={"object": "list", "data": data}, finish_reason="stop", usage=usage)


class ContentReader:
    """Reads one stream of ``generateContent`` chunks. It has no end mark: the stream ends with its connection."""

    __slots__ = ("_calls", "_reason", "_usage", "done", "finished")

    def __init__(self) -> None:
        self.finished = False
        self.done = False
        self._reason: str | None = None
        self._usage: Usage | None = None
        self._calls = 0

    def event(self, event: Event) -> Delta | None:
        """The delta a chunk carries."""
        delta = self.chunk(object_of(event.data))
        return Delta(delta=delta) if delta else None

    def chunk(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """What a chunk adds to the message; raises what a blocked prompt or an error in it stands for."""
        if "error" in body:
            raise _fault_in(body["error"], None)
        self._usage = usage_of(body.get("usageMetadata")) or self._usage
        candidates = body.get("candidates") or ()
        if not candidates:
            blocked = (body.get("promptFeedback") or {}).get("blockReason")
            if blocked:
                raise ContentRefused(f"the prompt was blocked: {blocked}")
            return {}
        candidate = candidates[0]
        reason = candidate.get("finishReason")
        if reason in _BROKEN:
            raise MalformedAnswer(f"the model's answer broke off: {reason}")
        if reason:
            self._reason, self.finished = reason, True
        return self._delta((candidate.get("content") or {}).get("parts") or ())

    def last(self) -> Delta:
        """The finish; raises StreamCut where no finish reason was seen."""
        if self._reason is None:
            raise StreamCut("the answer ended before a finish reason")
        reason = _FINISH.get(self._reason, "stop")
        if self._calls and reason == "stop":
            reason = "tool_calls"
        return Delta(finish_reason=reason, usage=self._usage)

    def _delta(self, parts: Any) -> dict[str, Any]:
        text: list[str] = []
        thoughts: list[str] = []
        calls: list[dict[str, Any]] = []
        for part in parts:
            if "functionCall" in part:
                calls.append(self._call(part))
            elif "text" in part:
                (thoughts if part.get("thought") else text).append(part["text"])
            elif "inlineData" in part:
                raise MalformedAnswer("expected text or tool calls, found media")
        delta: dict[str, Any] = {}
        for name, pieces in (("reasoning_content", thoughts), ("content", text)):
            if any(pieces):
                delta[name] = "".join(pieces)
        if calls:
            delta["tool_calls"] = calls
        return delta

    def _call(self, part: Mapping[str, Any]) -> dict[str, Any]:
        function = part["functionCall"]
        arguments = orjson.dumps(function.get("args") or {})
        # The API matches results by name; our buyers' clients want an id, the same streamed and buffered.
        digest = blake2b(arguments, digest_size=6).hexdigest()
        call: dict[str, Any] = {
            "index": self._calls,
            "id": function.get("id") or f"call_{self._calls}_{digest}",
            "type": "function",
            "function": {"name": function.get("name"), "arguments": arguments.decode()},
        }
        if signature := part.get("thoughtSignature"):
            call["extra_content"] = {"google": {"thought_signature": signature}}
        self._calls += 1
        return call


def fault_of(status: int, headers: Mapping[str, str], data: bytes) -> ProviderError:
    """The failure that an HTTP error answer stands for; its RetryInfo says when to come back."""
    if moved := redirect(status):
        return moved
    body = error_body(data)
    if isinstance(body, list):  # a stream that failed before it began answers with a list of one
        body = body[0] if body else None
    fault = _fault_in(body.get("error") if isinstance(body, Mapping) else None, status)
    asked_ms = retry_after_ms(headers)
    if asked_ms is not None:
        fault.retry_after_ms = asked_ms
    return fault


def _fault_in(error: object, status: int | None) -> ProviderError:
    told: Mapping[str, Any] = error if isinstance(error, Mapping) else {}
    code = told.get("code")
    status = status or (code if isinstance(code, int) else 500)
    name, detail = str(told.get("status", "")), safe_detail(told.get("message") or "no message")
    leaf = leaf_for(status, (), detail)
    if leaf not in (ContextTooLong, ContentRefused):  # its full windows are worded like an empty purse
        leaf = _BY_STATUS.get(name, error_for(status))
    wait_ms = retry_hint_ms(detail)
    for entry in told.get("details") or ():
        if not isinstance(entry, Mapping):
            continue
        if entry.get("reason") in _KEY_REASONS:
            leaf = AuthFailed
        wait_ms = duration_ms(entry.get("retryDelay")) or wait_ms
    return leaf(
        "its key was refused" if leaf is AuthFailed else detail, status=status, retry_after_ms=wait_ms
    )
