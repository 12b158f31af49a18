"""What batches may take of sellers' limits: what interactive traffic leaves.

Of every limit so much is left alone as others needed in its last period (half of it forgotten every minute they need
less), and a little in any case, so that the first interactive call after a quiet hour finds room. A batch that
would miss its window at the rate it goes is urgent: from then on it competes as everybody else does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Protocol

from providers.terms import Usage

from .capacity import Capacity, Slot
from .capacity_windows import Bucket, Slots, Window
from .limits import HELD, UNITS, Full, Lack, LimitRow, Load

__all__ = ["Room", "Share"]

KEPT_FREE: Final = 20
"""A twentieth of a limit is left to interactive calls even where there were none."""

MARGIN: Final = 4
"""Demand is taken to grow by a fourth."""

SAMPLE_MS: Final = 200
HALVE_MS: Final = 60_000
"""How soon half of the demand seen is forgotten."""

MIN_WAIT_MS: Final = 50


class Room(Protocol):
    """Room taken at a seller for one call; one of the two ends it."""

    def settle(self, usage: Usage | None) -> None:
        """The call ended; what it used, None = as was expected."""

    def release(self) -> None:
        """The call never reached the seller: give all of it back."""


class _Row:
    """One limit: what batches use of it now, and what others used in its last period, the most of it fading.

    others: sampled calls of everybody else, each counted for as long as the limit counts it.
    """

    __slots__ = ("before", "counter", "lack", "need", "others", "own", "row")

    def __init__(self, row: LimitRow) -> None:
        slots = row.kind in HELD
        self.row = row
        self.lack = Lack(row.name)
        self.counter = Slots(row.amount) if slots else Window(row.amount, row.per_ms)
        self.others = None if slots else Window(row.amount, row.per_ms)
        self.own = 0
        self.before = 0
        self.need = 0.0

    def look(self, used: int, fade: float, now_ms: int, workers: int) -> None:
        """Others' use now. used: of everybody here, in flight or since the beginning."""
        if self.others is None:
            others = used - self.counter.used
        else:
            alien = used - self.own
            if alien > self.before:
                self.others.take(alien - self.before, now_ms)
            self.before = alien
            others = self.row.amount - self.others.left(now_ms)
        self.need = max(fade * self.need, min(self.row.amount, max(0, others) * workers))

    def kept(self) -> int:
        """What is left to others."""
        return math.ceil(max(self.need * (1 + 1 / MARGIN), self.row.amount / KEPT_FREE))

    def wait_ms(self, units: int, now_ms: int) -> int:
        """0 = a batch may take so many units now; else when to ask again.

        One call alone is never too large for the share: it would wait for ever.
        """
        left = self.counter.left(now_ms)
        if units + self.kept() <= left or not self.counter.used:
            return 0
        return max(MIN_WAIT_MS, self.counter.wait_ms(min(units + self.kept(), self.row.amount), now_ms) or 0)


class Share:
    """Takes room for batches out of a market's capacity. workers: processes that share the interactive traffic."""

    def __init__(self, capacity: Capacity, *, workers: int = 1) -> None:
        self._capacity = capacity
        self._workers = workers
        self._rows = {row.name: _Row(row) for row in capacity.rows}
        self._pairs: dict[tuple[str, str, bool], tuple[_Row, ...]] = {}
        self._sampled_ms: int | None = None

    def take(self, provider: str, model: str, load: Load, *, urgent: bool = False) -> Room | Full:
        """Room for one call of a batch, or what is full and when to ask again."""
        now_ms = self._capacity.now_ms()
        self.look(now_ms)
        uses = [(row, UNITS[row.row.kind](load)) for row in self._covering(provider, model, load.batch)]
        if not urgent:
            for row, units in uses:
                wait_ms = row.wait_ms(units, now_ms)
                if wait_ms:
                    return Full(row.lack, wait_ms)
        slot = self._capacity.take(provider, model, load)
        if isinstance(slot, Full):
            return slot
        for row, units in uses:
            row.own += units
        taken = [(row, row.counter.take(units, now_ms), units) for row, units in uses]
        return _SharedSlot(self._capacity, slot, taken)

    def look(self, now_ms: int) -> None:
        """See what others use: at most five times a second, with every take or while nothing is to be taken."""
        passed_ms = SAMPLE_MS if self._sampled_ms is None else now_ms - self._sampled_ms
        if passed_ms < SAMPLE_MS:
            return
        self._sampled_ms = now_ms
        fade = 0.5 ** (passed_ms / HALVE_MS)
        for name, used in self._capacity.in_use().items():
            self._rows[name].look(used, fade, now_ms, self._workers)

    def _covering(self, provider: str, model: str, batch: bool) -> tuple[_Row, ...]:
        known = self._pairs.get((provider, model, batch))
        if known is None:
            known = tuple(row for row in self._rows.values() if row.row.covers(provider, model, batch=batch))
            self._pairs[provider, model, batch] = known
        return known


class _SharedSlot:
    """A slot of a batch's call: what it gives back or uses beyond goes to the market's count and to the share's."""

    __slots__ = ("_capacity", "_open", "_slot", "_taken")

    def __init__(self, capacity: Capacity, slot: Slot, taken: Sequence[tuple[_Row, Bucket, int]]) -> None:
        self._capacity = capacity
        self._slot = slot
        self._taken = taken
        self._open = True

    def settle(self, usage: Usage | None) -> None:
        """The call ended; ``usage`` None = as it was expected."""
        self._slot.settle(usage)
        used = None
        if usage is not None:
            used = Load(usage.input_tokens, usage.output_tokens, usage.cache_read_tokens)
        self._end(used)

    def release(self) -> None:
        """The call never reached the seller."""
        self._slot.release()
        self._end(None, unused=True)

    def _end(self, used: Load | None, *, unused: bool = False) -> None:
        if not self._open:
            return
        self._open = False
        now_ms = self._capacity.now_ms()
        for row, bucket, units in self._taken:
            if row.row.kind in HELD:
                row.counter.give(bucket, units, now_ms)
                continue
            less = units if unused else 0 if used is None else units - UNITS[row.row.kind](used)
            row.own -= less
            if less > 0:
                row.counter.give(bucket, less, now_ms)
            elif less < 0:
                row.counter.take(-less, now_ms)
