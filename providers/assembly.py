"""One message out of the deltas of a stream: the same that a buffered answer would have carried."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["MessageBuilder"]


class MessageBuilder:
    """Adds OpenAI chat deltas up: text is joined, tool calls by their index, other lists extended, the rest replaced."""

    __slots__ = ("_calls", "_message", "_texts")

    def __init__(self) -> None:
        self._message: dict[str, Any] = {"role": "assistant", "content": None}
        self._texts: dict[str, list[str]] = {}
        self._calls: dict[int, dict[str, Any]] = {}

    def add(self, delta: Mapping[str, Any]) -> None:
        """Take one delta in."""
        for name, value in delta.items():
            if value is None or name == "role":
                continue
            if name == "function_call":
                _join_function(self._message.setdefault(name, {}), value)
            elif name == "tool_calls":
                for position, call in enumerate(value):
                    self._add_call(call, call.get("index", position))
            elif isinstance(value, str):
                self._texts.setdefault(name, []).append(value)
            elif isinstance(value, list):
                self._message.setdefault(name, []).extend(value)
            else:
                self._message[name] = value

    @property
    def text(self) -> str:
        """All that the model wrote, thoughts and tool arguments too: what a count of its output is made from."""
        parts = [part for texts in self._texts.values() for part in texts]
        functions = [self._calls[index].get("function", {}) for index in sorted(self._calls)]
        for function in (*functions, self._message.get("function_call", {})):
            parts += [str(function.get("name", "")), str(function.get("arguments", ""))]
        return "".join(parts)

    @property
    def empty(self) -> bool:
        """Whether nothing the model wrote has come yet."""
        if self._calls or "function_call" in self._message:
            return False
        return "".join(map("".join, self._texts.values())) == ""

    def message(self) -> dict[str, Any]:
        """The message so far, in OpenAI chat shape."""
        message = self._message | {name: "".join(parts) for name, parts in self._texts.items()}
        if self._calls:
            message["tool_calls"] = [self._calls[index] for index in sorted(self._calls)]
        if self._calls and not message["content"]:
            message["content"] = None
        return message

    def _add_call(self, piece: Mapping[str, Any], index: int) -> None:
        call = self._calls.setdefault(index, {})
        for name, value in piece.items():
            if name == "function":
                _join_function(call.setdefault("function", {}), value)
            elif name != "index" and value is not None:
                call[name] = value


def _join_function(function: dict[str, Any], piece: Mapping[str, Any]) -> None:
    """Arguments arrive in pieces; the rest is said once."""
    for part, text in piece.items():
        known = function.get(part)
        joined = isinstance(known, str) and isinstance(text, str) and part == "arguments"
        function[part] = known + text if joined else text if text is not None else known
