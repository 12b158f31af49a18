"""Server-sent events: bytes as they arrive in, whole events out.

Follows the HTML standard's event stream (``event`` and ``data`` lines, comments, any line ending). Keep-alive
comments and blank lines vanish. One line, one event and so the memory held are bounded.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from .errors import MalformedAnswer

__all__ = ["DONE", "MAX_EVENT_BYTES", "Event", "EventReader", "encode_event"]

MAX_EVENT_BYTES: Final = 8 * 2**20
"""The largest event taken: a tool call's arguments or an inline image fit, a runaway stream does not."""

DONE: Final = b"[DONE]"
"""The data of the event with which OpenAI-shaped streams end."""


class Event(NamedTuple):
    """One event: its name (empty = ``message``) and its data."""

    name: bytes
    data: bytes


class EventReader:
    """Cuts a byte stream into events. Raises :class:`MalformedAnswer` when one is larger than ``max_event_bytes``."""

    __slots__ = ("_max_event_bytes", "_tail")

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._tail = b""

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that ``chunk`` completes."""
        data = self._tail + chunk if self._tail else chunk
        if b"\r" in data:
            data = self._with_newlines(data)
        blocks = data.split(b"\n\n")
        self._tail = blocks.pop()
        if len(self._tail) > self._max_event_bytes:
            raise MalformedAnswer(
                f"expected an event of at most {self._max_event_bytes} bytes, found more without an end"
            )
        return [event for block in blocks if (event := self._event(block)) is not None]

    def close(self) -> list[Event]:
        """The last event, where the stream ended without the blank line after it."""
        block, self._tail = self._tail.replace(b"\r", b"\n"), b""
        event = self._event(block)
        return [] if event is None else [event]

    @staticmethod
    def _with_newlines(data: bytes) -> bytes:
        # A carriage return at the very end may be half of a CRLF: it stays until its other half is here.
        held = b"\r" if data.endswith(b"\r") else b""
        body = data[: len(data) - len(held)]
        return body.replace(b"\r\n", b"\n").replace(b"\r", b"\n") + held

    def _event(self, block: bytes) -> Event | None:
        if len(block) > self._max_event_bytes:
            raise MalformedAnswer(
                f"expected an event of at most {self._max_event_bytes} bytes, found {len(block)}"
            )
        if block.startswith(b"data: ") and b"\n" not in block:
            return Event(b"", block[6:])
        name, data = b"", []
        for line in block.split(b"\n"):
            field, _, value = line.partition(b":")
            if field == b"data":
                data.append(value.removeprefix(b" "))
            elif field == b"event":
                name = value.removeprefix(b" ")
        return Event(name, b"\n".join(data)) if data else None


def encode_event(data: bytes, name: bytes = b"") -> bytes:
    """The bytes of one event; ``data`` has no line break."""
    return (b"event: " + name + b"\n" if name else b"") + b"data: " + data + b"\n\n"
