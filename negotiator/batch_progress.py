"""How fast a batch goes and when it will be done: what bars and progress events show."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Final

from .batch_results import ResultTally
from .money import format_usd

__all__ = ["Pace", "Progress"]

OVER_MS: Final = 60_000
"""The rate is that of the last minute."""

GRAIN_MS: Final = 250


class Pace:
    """Lines finished per second, lately. Instants never go back: the caller sees to that."""

    def __init__(self, now_ms: int, finished: int) -> None:
        self._seen: deque[tuple[int, int]] = deque([(now_ms, finished)])

    def note(self, now_ms: int, finished: int) -> None:
        """So many are finished now."""
        if now_ms - self._seen[-1][0] < GRAIN_MS:
            return
        self._seen.append((now_ms, finished))
        while len(self._seen) > 2 and self._seen[1][0] <= now_ms - OVER_MS:
            self._seen.popleft()

    def per_second(self, now_ms: int, finished: int) -> float:
        """The rate of the last minute, 0 = nobody knows yet."""
        at_ms, before = self._seen[0]
        return (finished - before) * 1000 / (now_ms - at_ms) if now_ms > at_ms else 0.0

    def left_ms(self, now_ms: int, finished: int, requests: int) -> int | None:
        """How long the rest takes at that rate, None = nobody knows yet."""
        rate = self.per_second(now_ms, finished)
        return None if rate <= 0 else round((requests - finished) * 1000 / rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a batch stands. eta_s: None = nobody knows yet."""

    requests: int
    tally: ResultTally
    per_second: float
    eta_s: int | None

    @classmethod
    def of(cls, pace: Pace, tally: ResultTally, requests: int, now_ms: int) -> Progress:
        """At this instant; notes it."""
        pace.note(now_ms, tally.finished)
        left_ms = pace.left_ms(now_ms, tally.finished, requests)
        return cls(
            requests=requests,
            tally=tally,
            per_second=round(pace.per_second(now_ms, tally.finished), 2),
            eta_s=None if left_ms is None else -(-left_ms // 1000),
        )

    def out(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "spent_usd": format_usd(self.tally.cost_nusd),
            "saved_usd": format_usd(self.tally.saved_nusd),
            "in_doubt_usd": format_usd(self.tally.in_doubt_nusd),
            "per_second": self.per_second,
            "eta_s": self.eta_s,
        }
