"""A simulated seller's rate limits, enforced: sliding windows and calls in flight, 429 with the time to wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..terms import RateKind, RateLimit

__all__ = ["Windows"]


class _Window:
    """What was used in the last ``per_ms``; entries leave as time passes."""

    def __init__(self, limit: RateLimit) -> None:
        self.limit = limit
        self._entries: deque[tuple[int, int]] = deque()
        self._used = 0

    def used(self, now_ms: int) -> int:
        while self._entries and self._entries[0][0] <= now_ms - self.limit.per_ms:
            self._used -= self._entries.popleft()[1]
        return self._used

    def wait_ms(self, amount: int, now_ms: int) -> int:
        """How long until ``amount`` more fits; 0 = now. More than the whole limit never fits: one period."""
        excess = self.used(now_ms) + amount - self.limit.amount
        if excess <= 0:
            return 0
        for at_ms, entry in self._entries:
            excess -= entry
            if excess <= 0:
                return min(self.limit.per_ms, at_ms + self.limit.per_ms - now_ms)  # the clock may step back
        return self.limit.per_ms

    def add(self, amount: int, now_ms: int) -> None:
        self._entries.append((now_ms, amount))
        self._used += amount


@dataclass(slots=True)
class _InFlight:
    limit: RateLimit
    calls: int = 0


class Windows:
    """All limits of one account."""

    def __init__(self, limits: Sequence[RateLimit]) -> None:
        self.limits = tuple(limits)
        self._windows = [_Window(limit) for limit in limits if limit.kind is not RateKind.CONCURRENCY]
        self._in_flight = [_InFlight(limit) for limit in limits if limit.kind is RateKind.CONCURRENCY]

    def enter(self, model: str, uses: Mapping[RateKind, int], now_ms: int) -> int:
        """Take room for a call, all or nothing: 0, or how many milliseconds to wait."""
        covering = [window for window in self._windows if _covers(window.limit, model)]
        waits = [window.wait_ms(uses.get(window.limit.kind, 0), now_ms) for window in covering]
        full = any(
            entry.calls >= entry.limit.amount for entry in self._in_flight if _covers(entry.limit, model)
        )
        wait_ms = max([*waits, 1000 * full])
        if not wait_ms:
            for window in covering:
                window.add(uses.get(window.limit.kind, 0), now_ms)
            for entry in self._in_flight:
                entry.calls += _covers(entry.limit, model)
        return wait_ms

    def leave(self, model: str) -> None:
        """A call that entered has ended."""
        for entry in self._in_flight:
            entry.calls -= _covers(entry.limit, model)

    def room(self, model: str, now_ms: int) -> int | None:
        """Calls that fit by count alone, None = no limit counts calls."""
        left = [
            window.limit.amount - window.used(now_ms)
            for window in self._windows
            if window.limit.kind is RateKind.REQUESTS and _covers(window.limit, model)
        ]
        left += [entry.limit.amount - entry.calls for entry in self._in_flight if _covers(entry.limit, model)]
        return max(0, min(left)) if left else None

    def busy(self) -> float:
        """The share of its concurrency in use, 0 to 1; 0 without such a limit."""
        return max((entry.calls / entry.limit.amount for entry in self._in_flight), default=0.0)

    def used(self, now_ms: int) -> dict[RateLimit, int]:
        """What is used of each limit just now."""
        used = {window.limit: window.used(now_ms) for window in self._windows}
        return used | {entry.limit: entry.calls for entry in self._in_flight}


def _covers(limit: RateLimit, model: str) -> bool:
    return limit.models is None or model in limit.models
