"""Put an answer together from the pieces a seller streams (OpenAI chat deltas)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from providers.terms import Delta, Usage

__all__ = ["Assembly"]


class Assembly:
    """Collects deltas: the message so far, how it finished, what the seller said it used and billed."""

    def __init__(self) -> None:
        self._texts: dict[str, list[str]] = {}
        self._other: dict[str, Any] = {}
        self._tools: dict[int, dict[str, Any]] = {}
        self.finish_reason: str | None = None
        self.usage: Usage | None = None
        self.billed_nusd: int | None = None
        self.started = False  # something a buyer would notice has come

    def add(self, piece: Delta) -> None:
        """Take the next piece; later usage replaces earlier (sellers repeat running totals)."""
        for name, value in piece.delta.items():
            if not value or name == "role":
                continue
            self.started = True
            if name == "tool_calls":
                for call in value:
                    self._add_tool_call(call)
            elif isinstance(value, str):
                self._texts.setdefault(name, []).append(value)
            else:
                self._other[name] = value
        if piece.finish_reason is not None:
            self.finish_reason = piece.finish_reason
        if piece.usage is not None:
            self.usage = piece.usage
        if piece.billed_nusd is not None:
            self.billed_nusd = piece.billed_nusd

    @property
    def message(self) -> dict[str, Any]:
        """The assistant message in OpenAI chat shape."""
        message: dict[str, Any] = {"role": "assistant", "content": None, **self._other}
        message |= {name: "".join(parts) for name, parts in self._texts.items()}
        if self._tools:
            message["tool_calls"] = [self._tools[index] for index in sorted(self._tools)]
        return message

    @property
    def text(self) -> str:
        """All that was generated, as text: what its tokens are counted from when the seller does not say."""
        calls = [call["function"] for call in self._tools.values()]
        tools = [f"{call['name']}{call['arguments']}" for call in calls]
        return "".join(part for parts in self._texts.values() for part in parts) + "".join(tools)

    def _add_tool_call(self, call: Mapping[str, Any]) -> None:
        index = int(call.get("index", len(self._tools)))
        known = self._tools.setdefault(
            index, {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
        )
        known["id"] = call.get("id") or known["id"]
        known["type"] = call.get("type") or known["type"]
        function = call.get("function") or {}
        known["function"]["name"] += function.get("name") or ""
        known["function"]["arguments"] += function.get("arguments") or ""
