"""Counting against a limit: at most so much in any period, or so many at once.

A vendor may look at any period, not at full minutes, so the window slides. Neighbouring calls share a bucket that
is dropped only when its latest call is out of the window: the count errs towards too much, never towards too little.
Below ``GRAINS`` calls in a period it is exact; above, it keeps at most a 256th of the limit unused.

Against GCRA, which keeps one number per limit: with the whole limit as burst GCRA lets nearly twice the limit into
one period, and without burst it refuses calls that arrive together.
"""

from __future__ import annotations

from collections import deque
from typing import Final

__all__ = ["GRAINS", "Bucket", "Slots", "Window"]

GRAINS: Final = 256
"""Buckets in a period, at most (and two that are just leaving and coming)."""

SLOT_WAIT_MS: Final = 100


class Bucket:
    """Calls counted together. units: what they use. gone: out of the window, nothing to give back to."""

    __slots__ = ("first_ms", "gone", "last_ms", "units")

    def __init__(self, now_ms: int, units: int) -> None:
        self.first_ms = now_ms
        self.last_ms = now_ms
        self.units = units
        self.gone = False


class Window:
    """At most ``amount`` units in any ``per_ms``. Instants never go back: the caller sees to that."""

    __slots__ = ("_buckets", "_foreign", "_foreign_until_ms", "_grain_ms", "amount", "per_ms", "used")

    def __init__(self, amount: int, per_ms: int) -> None:
        self.amount = amount
        self.per_ms = per_ms
        self.used = 0
        self._grain_ms = max(1, per_ms // GRAINS)
        self._buckets: deque[Bucket] = deque()
        self._foreign = 0  # what the vendor counts and we do not: other users of the same account
        self._foreign_until_ms = 0

    def left(self, now_ms: int) -> int:
        """What fits now; negative after calls that used more than they had said."""
        buckets, out_ms = self._buckets, now_ms - self.per_ms
        while buckets and buckets[0].last_ms <= out_ms:
            bucket = buckets.popleft()
            bucket.gone = True
            self.used -= bucket.units
        if self._foreign and self._foreign_until_ms <= now_ms:
            self._foreign = 0
        return self.amount - self.used - self._foreign

    def take(self, units: int, now_ms: int) -> Bucket:
        """Count ``units`` now, whether they fit or not; the bucket is where to give some back."""
        self.used += units
        buckets = self._buckets
        if buckets and now_ms - buckets[-1].first_ms < self._grain_ms:
            bucket = buckets[-1]
            bucket.units += units
            bucket.last_ms = now_ms
            return bucket
        bucket = Bucket(now_ms, units)
        buckets.append(bucket)
        return bucket

    def give(self, bucket: Bucket, units: int, now_ms: int) -> None:
        """Take ``units`` of a call back; without effect once its bucket is out of the window."""
        if not bucket.gone:
            bucket.units -= units
            self.used -= units

    def wait_ms(self, units: int, now_ms: int) -> int | None:
        """How long until ``units`` fit if nobody else comes; None = never, it is more than the whole limit."""
        if units > self.amount:
            return None
        left = self.left(now_ms)
        waits = [(bucket.last_ms + self.per_ms, bucket.units) for bucket in self._buckets]
        if self._foreign:
            waits = sorted([*waits, (self._foreign_until_ms, self._foreign)])
        wait_ms = 0
        for out_ms, freed in waits:
            if left >= units:
                break
            left += freed
            wait_ms = out_ms - now_ms
        return max(0, wait_ms)

    def room_over(self, horizon_ms: int, now_ms: int) -> int:
        """What fits within ``horizon_ms`` from now: what is left, what leaves the window, and whole periods beyond."""
        room = self.left(now_ms) + max(0, horizon_ms - self.per_ms) * self.amount // self.per_ms
        out_ms = now_ms + horizon_ms - self.per_ms
        for bucket in self._buckets:
            if bucket.last_ms > out_ms:
                break
            room += bucket.units
        return room

    def correct(self, remaining: int, reset_ms: int | None, now_ms: int) -> None:
        """The vendor says only ``remaining`` is left: believe it where it is less than counted here."""
        self.left(now_ms)
        self._foreign = max(0, self.amount - self.used - remaining)
        self._foreign_until_ms = now_ms + min(self.per_ms, self.per_ms if reset_ms is None else reset_ms)

    def __len__(self) -> int:
        """Buckets kept: at most ``GRAINS`` + 2."""
        return len(self._buckets)


class Slots:
    """At most ``amount`` calls in flight at once; the same verbs as :class:`Window`."""

    __slots__ = ("amount", "used")

    per_ms: Final = 0

    def __init__(self, amount: int) -> None:
        self.amount = amount
        self.used = 0

    def left(self, now_ms: int) -> int:
        """Free slots."""
        return self.amount - self.used

    def wait_ms(self, units: int, now_ms: int) -> int | None:
        """A short while where none is free: nobody knows when a call ends. None = never, it takes more than there are."""
        if units > self.amount:
            return None
        return 0 if self.left(now_ms) >= units else SLOT_WAIT_MS

    def take(self, units: int, now_ms: int) -> Bucket:
        """Take slots; they come back by :meth:`give` alone."""
        self.used += units
        return Bucket(now_ms, units)

    def give(self, bucket: Bucket, units: int, now_ms: int) -> None:
        """Give slots back."""
        bucket.units -= units
        self.used -= units
        assert self.used >= 0, "a slot was given back twice"
