"""What happened, as one frozen record; telemetry, logs and reports subscribe."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Emit", "Event", "EventBus", "discard"]

logger = logging.getLogger("negotiator")


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened: a dotted name (``order.settled``), when, and facts as plain values."""

    name: str
    at_ms: int
    facts: Mapping[str, Any] = field(default_factory=dict)


Emit = Callable[[Event], None]
"""How rooms report: never blocks, never raises."""


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
