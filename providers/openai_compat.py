"""OpenAI's chat API and those who speak it: our body to their call, their answer and events to deltas.

The house's own shape is OpenAI's, so most of this is knowing where a vendor departs from it: the presets say where,
as data. Streams are handed on as the bytes they came in (``Delta.raw``); only the finish waits for the usage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from .dialect import HOUSE_FIELDS, Call, Want, Window, is_neutral, larger
from .errors import MalformedAnswer, Overloaded, ProviderError, ProviderUnavailable, StreamCut
from .limit_headers import LIMIT_HEADERS
from .openai_faults import fault_in_answer, fault_of
from .openai_usage import billed_of, usage_of
from .presets import Preset
from .sse import DONE, Event, encode_event
from .terms import Delta, Parameters, Usage
from .vendor_json import object_of

__all__ = ["ChatReader", "OpenAICompat"]

MAX_CACHE_KEY_CHARS: Final = 64

_FINISH: Final[Mapping[str, str]] = {
    "abort": "stop",
    "content_policy": "content_filter",
    "end_turn": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "max_tokens": "length",
    "model_length": "length",
    "safety": "content_filter",
    "sensitive": "content_filter",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
}
"""Finish reasons some servers use in place of OpenAI's."""

_BROKEN: Final[Mapping[str, type[ProviderError]]] = {
    "error": ProviderUnavailable,
    "insufficient_system_resource": Overloaded,
    "network_error": ProviderUnavailable,
}
"""Finish reasons that say the answer broke off."""

_NO_DELTA: Final[Mapping[str, Any]] = {}


def _finish_reason(reason: object) -> str:
    if not isinstance(reason, str):
        raise MalformedAnswer(f"expected a finish reason, found {reason!r}")
    if broken := _BROKEN.get(reason):
        raise broken(f"the answer broke off: finish reason {reason}")
    return _FINISH.get(reason, reason)


def _choice_of(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    choices = body.get("choices")
    if not isinstance(choices, list):
        raise MalformedAnswer(f"expected a list of choices, found {type(choices).__name__}")
    if not choices:
        return None
    if not isinstance(choices[0], dict):
        raise MalformedAnswer(f"expected a choice, found {type(choices[0]).__name__}")
    return choices[0]


@dataclass(frozen=True, slots=True)
class OpenAICompat:
    """The dialect of one preset."""

    preset: Preset

    @property
    def tags(self) -> frozenset[str]:
        """Capabilities the vendor's API has."""
        return self.preset.tags | {"streaming"}

    @property
    def tiers(self) -> frozenset[str]:
        """Tiers that a call can ask for."""
        return frozenset({"standard", *self.preset.tiers})

    def unsupported(self, body: Mapping[str, Any]) -> str | None:
        """The first parameter of ``body`` that this vendor rejects or ignores, None = it takes all."""
        refuses = self.preset.refuses
        for name, value in body.items():
            if name in refuses and not is_neutral(name, value):
                return name
        return None

    @property
    def parameters(self) -> Parameters:
        """All but those that it rejects or ignores."""
        return Parameters(refused=self.preset.refuses)

    def authorise(self, key: str) -> dict[str, str]:
        """The header that carries the key."""
        return {"api-key": key} if self.preset.auth == "api-key" else {"authorization": f"Bearer {key}"}

    def call(self, body: Mapping[str, Any], want: Want) -> Call:
        """``POST /chat/completions``, or ``/embeddings`` for a body with input and no messages."""
        preset = self.preset
        asked = {
            name: value for name, value in body.items() if name not in HOUSE_FIELDS and value is not None
        }
        asked["model"] = want.model
        if "messages" not in asked:
            return Call("/embeddings", orjson.dumps(asked))
        for ours, theirs in preset.renames.items():
            if ours in asked:
                asked[theirs] = asked.pop(ours)
        asked[preset.output_limit] = want.max_output_tokens
        if tier := preset.tiers.get(want.tier):
            asked["service_tier"] = tier
        if preset.cache_key and want.cache_key and "prompt_cache_key" not in asked:
            asked["prompt_cache_key"] = want.cache_key[:MAX_CACHE_KEY_CHARS]
        if preset.extra:
            asked |= preset.extra
        if want.stream:
            asked["stream"] = True
            if preset.usage_option:
                asked["stream_options"] = {"include_usage": True, **preset.stream_extra}
        return Call("/chat/completions", orjson.dumps(asked))

    def answer(self, data: bytes) -> Delta:
        """The one delta of a buffered answer: the message of its first choice, or the embeddings' list."""
        body = object_of(data)
        if body.get("error"):
            raise fault_in_answer(body)
        usage, billed = usage_of(body.get("usage")), billed_of(body.get("usage"))
        if "choices" not in body and isinstance(body.get("data"), list):
            listed = {"object": "list", "data": body["data"]}
            return Delta(delta=listed, finish_reason="stop", usage=usage, billed_nusd=billed, raw=data)
        choice = _choice_of(body)
        message = choice.get("message") if choice is not None else None
        if choice is None or not isinstance(message, dict):
            raise MalformedAnswer("expected a choice with a message, found none")
        reason = choice.get("finish_reason") or ("tool_calls" if message.get("tool_calls") else "stop")
        return Delta(
            delta=message, finish_reason=_finish_reason(reason), usage=usage, billed_nusd=billed, raw=data
        )

    def reader(self) -> ChatReader:
        """A reader for one stream."""
        return ChatReader()

    def fault(self, status: int, headers: Mapping[str, str], data: bytes) -> ProviderError:
        """The failure an HTTP error stands for."""
        return fault_of(status, headers, data)

    def windows(self, headers: Mapping[str, str]) -> tuple[Window, ...]:
        """The rate-limit windows in an answer's headers."""
        return LIMIT_HEADERS[self.preset.limit_headers](headers)


class ChatReader:
    """Reads a stream of chat chunks. The chunk with the finish reason is held until its usage is known."""

    __slots__ = ("_billed_nusd", "_held", "_raw", "_reason", "_tools", "_usage", "done", "finished")

    def __init__(self) -> None:
        self.finished = False
        self.done = False
        self._reason: str | None = None
        self._held: Mapping[str, Any] = _NO_DELTA
        self._raw: bytes | None = None
        self._usage: Usage | None = None
        self._billed_nusd: int | None = None
        self._tools = False

    def event(self, event: Event) -> Delta | None:
        """The delta of one chunk; None for the finish (held), usage, the end and what carries nothing."""
        data = event.data
        if data == DONE:
            self.done = True
            return None
        chunk = object_of(data)
        if chunk.get("error") or event.name == b"error":
            raise fault_in_answer(chunk)
        self._note_usage(chunk)
        choice = _choice_of(chunk) if "choices" in chunk else None
        if choice is None:
            return None
        delta = choice.get("delta") or _NO_DELTA
        if type(delta) is not dict and delta is not _NO_DELTA:
            raise MalformedAnswer(f"expected a delta that is an object, found {type(delta).__name__}")
        reason = choice.get("finish_reason")
        if "tool_calls" in delta:
            self._tools = True
        if reason:
            self.finished = True
            self._reason = _finish_reason(reason)
        if not self.finished:
            return Delta(delta=delta, raw=encode_event(data)) if delta else None
        if not delta and self._raw is not None:
            return None
        earlier, self._held = self._held, delta
        self._raw = encode_event(data) if reason else None
        return Delta(delta=earlier) if earlier else None

    def last(self) -> Delta:
        """The finish with what usage came; raises StreamCut where neither finish reason nor end mark was seen."""
        reason = self._reason
        if reason is None:
            if not self.done:
                raise StreamCut("the stream ended before a finish reason")
            reason = "tool_calls" if self._tools else "stop"
        return Delta(
            delta=self._held,
            finish_reason=reason,
            usage=self._usage,
            billed_nusd=self._billed_nusd,
            raw=self._raw,
        )

    def _note_usage(self, chunk: Mapping[str, Any]) -> None:
        report = chunk.get("usage")
        if report is None:
            vendor = chunk.get("x_groq")
            report = vendor.get("usage") if isinstance(vendor, dict) else None
        if report is not None:
            self._usage = larger(self._usage, usage_of(report))
            billed_nusd = billed_of(report)
            if billed_nusd is not None:
                self._billed_nusd = billed_nusd
