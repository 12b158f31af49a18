"""What happened, as one frozen record; telemetry, logs and reports subscribe."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any, Final

from providers.records import record

__all__ = ["Emit", "Event", "EventBus", "Later", "discard"]

logger = logging.getLogger("negotiator")

TOGETHER: Final = 64
"""Events handed on together."""


@record(frozen=True, slots=True)
class Event:
    """One thing that happened: a dotted name (``order.settled``), when, and facts as plain values."""

    name: str
    at_ms: int
    facts: Mapping[str, Any] = field(default_factory=dict)


Emit = Callable[[Event], None]
"""How rooms report: never blocks, never raises."""


class Later:
    """Hands events to sinks that only count them, many at a time: that costs a third of one by one.

    Subscribe :meth:`note` (or :meth:`now`, where none may wait); whoever reads what the sinks counted has
    :meth:`catch_up` called before. at_once: the name of an event that sinks look up, so that it cannot wait.
    """

    def __init__(self, *sinks: Emit, at_once: str) -> None:
        self._sinks = sinks
        self._at_once = at_once
        self._heard: list[Event] = []

    def note(self, event: Event) -> None:
        """Keep an event for the sinks."""
        self._heard.append(event)
        if len(self._heard) >= TOGETHER or event.name == self._at_once:
            self.catch_up()

    def now(self, event: Event) -> None:
        """Hand an event on at once."""
        self._heard.append(event)
        self.catch_up()

    def catch_up(self) -> None:
        """Hand on what is kept."""
        heard, self._heard = self._heard, []
        for sink in self._sinks:
            for event in heard:
                sink(event)


def discard(event: Event) -> None:
    """An :data:`Emit` for whoever does not listen."""


class EventBus:
    """Hands each event to every subscriber; one that raises is dropped with one log line, the market goes on."""

    def __init__(self) -> None:
        self._sinks: list[Emit] = []

    def subscribe(self, sink: Emit) -> None:
        """Add a subscriber; it must return at once."""
        self._sinks.append(sink)

    def emit(self, event: Event) -> None:
        """Tell all subscribers."""
        for sink in tuple(self._sinks):
            try:
                sink(event)
            except Exception:
                self._sinks.remove(sink)
                logger.exception("a subscriber failed on %s and was dropped", event.name)
