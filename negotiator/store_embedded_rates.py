"""Shared rate limits and shared values in memory.

Each limit is a sliding window cut into buckets. A grant sits in the bucket in which its lease ends and counts until
that bucket is a whole ``per_ms`` old, so that the calls made under all leases in any ``per_ms`` never exceed the
limit. (GCRA with the burst sellers allow would let nearly twice the limit through in some window; without the burst
it refuses bursts that sellers take.) The price is at most one bucket and one lease of idle capacity.

What comes back is taken from the grant it was part of, so that each counts for at least what is used of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from .store import Lease, LeaseAsk, Unused

__all__ = ["BUCKETS", "VENDOR", "MemoryRates"]

BUCKETS: Final = 64
"""Parts of a window: how finely what was granted comes free again."""

VENDOR: Final = "~vendor"
"""Who holds what a vendor says was used beyond all leases."""


@dataclass(slots=True)
class _Window:
    """One limit. buckets: by number, what each worker was granted; concurrency has a bucket per worker's end."""

    amount: int = 0
    per_ms: int = 0
    buckets: dict[int, dict[str, int]] = field(default_factory=dict)

    @property
    def width_ms(self) -> int:
        return max(1, self.per_ms // BUCKETS)

    def expire(self, now_ms: int) -> None:
        gone = [number for number in self.buckets if (number + 1) * self.width_ms + self.per_ms <= now_ms]
        for number in gone:
            del self.buckets[number]

    def taken(self) -> int:
        return sum(sum(grants.values()) for grants in self.buckets.values())

    def drop(self, worker: str) -> None:
        for grants in self.buckets.values():
            grants.pop(worker, None)

    def grant(self, worker: str, want: int, spare: int, until_ms: int) -> int:
        if self.per_ms == 0:
            self.drop(worker)
        left = max(0, self.amount - self.taken())
        granted = min(want, left)
        granted += min(spare, (left - granted) // 2)
        if granted:
            grants = self.buckets.setdefault(until_ms // self.width_ms, {})
            grants[worker] = grants.get(worker, 0) + granted
        return granted

    def give_back(self, worker: str, unused: Unused) -> None:
        left, until_ms = unused.units, unused.until_ms
        for number in sorted(self.buckets) if until_ms is None else (until_ms // self.width_ms,):
            grants = self.buckets.get(number, {})
            back = min(left, grants.get(worker, 0))
            if back:
                grants[worker] -= back
                left -= back

    def correct(self, remaining: int, now_ms: int) -> None:
        self.drop(VENDOR)
        unseen = self.amount - max(0, remaining) - self.taken()
        if unseen > 0:
            self.buckets.setdefault(now_ms // self.width_ms, {})[VENDOR] = unseen


class MemoryRates:
    """The limits of one embedded store."""

    def __init__(self) -> None:
        self._windows: dict[str, _Window] = {}

    def lease(self, worker: str, asks: Sequence[LeaseAsk], lease_ms: int, now_ms: int) -> tuple[Lease, ...]:
        """One lease per ask, in order."""
        return tuple(self._lease(worker, ask, now_ms + lease_ms, now_ms) for ask in asks)

    def _lease(self, worker: str, ask: LeaseAsk, until_ms: int, now_ms: int) -> Lease:
        window = self._windows.setdefault(ask.key, _Window())
        if window.per_ms != ask.per_ms:
            window.buckets.clear()
        window.amount, window.per_ms = ask.amount, ask.per_ms
        window.expire(now_ms)
        return Lease(
            key=ask.key, granted=window.grant(worker, ask.want, ask.spare, until_ms), until_ms=until_ms
        )

    def give_back(self, worker: str, unused: Sequence[Unused], now_ms: int) -> None:
        """Return what was leased and not used, to the lease it was part of."""
        for each in unused:
            if each.key in self._windows:
                self._windows[each.key].expire(now_ms)
                self._windows[each.key].give_back(worker, each)

    def correct(self, key: str, remaining: int, now_ms: int) -> None:
        """Grant no more than ``remaining`` until what the vendor counted is out of its window."""
        if key in self._windows:
            self._windows[key].expire(now_ms)
            self._windows[key].correct(remaining, now_ms)
