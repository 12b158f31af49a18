"""Limits shared by several workers: each counts against what it leased, so no call waits for the store.

A worker asks for a little more than it used lately, gives back what it does not need, and returns to the store in
one round trip for all its limits, a few times a second. The first call after a quiet time finds nothing leased: then
:meth:`Leases.refill` is worth one wait. The store counts a grant until the calls made under it are out of the window.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Final

from providers.terms import RateKind

from .capacity_windows import Bucket, Slots
from .errors import StoreUnavailable
from .events import Emit, Event
from .limits import LimitRow
from .store import LeaseAsk, RateStore

__all__ = ["LEASE_MS", "RENEW_MS", "LeasedSlots", "LeasedWindow", "Leases"]

LEASE_MS: Final = 2_000
"""How long a lease lasts; a worker that dies keeps its part of a limit from the others for so long."""

RENEW_MS: Final = 500
AHEAD: Final = 2  # a lease is for as much as the last two rounds used
FADE: Final = 0.7


class LeasedWindow:
    """The part of a window this worker may use; the verbs of :class:`negotiator.capacity_windows.Window`."""

    __slots__ = ("_lots", "amount", "corrected", "owed", "per_ms", "recent", "returned", "short", "used")

    def __init__(self, amount: int, per_ms: int) -> None:
        self.amount = amount
        self.per_ms = per_ms
        self.used = 0  # since the last round
        self.recent = 0.0  # units a round, fading
        self.short = 0  # the largest call refused since the last round
        self.owed = 0  # used beyond what was leased: calls that were larger than they had said
        self.returned = 0  # to give back with the next round
        self.corrected: int | None = None  # the least the vendor said is left
        self._lots: deque[list[int]] = deque()  # [until, units], by end

    def left(self, now_ms: int) -> int:
        """What was leased and is not used."""
        lots = self._lots
        while lots and lots[0][0] <= now_ms:
            lots.popleft()
        return sum([units for _, units in lots]) - self.owed

    def take(self, units: int, now_ms: int) -> Bucket:
        """Use ``units`` of what was leased, the part that ends first; what is missing is owed."""
        self.used += units
        missing = units
        for lot in self._lots:
            part = min(missing, lot[1])
            lot[1] -= part
            missing -= part
            if not missing:
                break
        self.owed += missing
        return Bucket(now_ms, units)

    def give(self, bucket: Bucket, units: int, now_ms: int) -> None:
        """What a call did not use goes back to all workers with the next round, unless it is out of the window."""
        if now_ms - bucket.last_ms < self.per_ms:
            self.returned += units

    def wait_ms(self, units: int, now_ms: int) -> int | None:
        """A round of leases, or None = never; the store alone knows more. Asks for it in the next round."""
        if units > self.amount:
            return None
        if units <= self.left(now_ms):
            return 0
        self.short = max(self.short, units)
        return RENEW_MS

    def correct(self, remaining: int, reset_ms: int | None, now_ms: int) -> None:
        """The vendor says only ``remaining`` is left of the whole limit: told to the store with the next round."""
        self.corrected = remaining if self.corrected is None else min(self.corrected, remaining)
        excess = self.left(now_ms) - remaining
        while excess > 0 and self._lots:
            part = min(excess, self._lots[-1][1])
            self._lots[-1][1] -= part
            excess -= part
            if not self._lots[-1][1]:
                self._lots.pop()

    def plan(self, now_ms: int) -> tuple[int, int]:
        """For the next round: how much to ask for and how much to give back."""
        self.recent = max(float(self.used), FADE * self.recent)
        wanted = min(self.amount, max(AHEAD * round(self.recent), self.short))
        left = self.left(now_ms)
        ending = sum([units for until_ms, units in self._lots if until_ms <= now_ms + RENEW_MS])
        back = min(max(0, left), max(ending, left - 2 * wanted))
        self._drop(back)
        back += self.returned
        self.used = self.short = self.returned = 0
        return max(0, wanted - self.left(now_ms)), back

    def _drop(self, units: int) -> None:
        while units > 0:
            part = min(units, self._lots[0][1])
            self._lots[0][1] -= part
            units -= part
            if not self._lots[0][1]:
                self._lots.popleft()

    def surrender(self, now_ms: int) -> int:
        """Stop: all that is left, and nothing may be used any more."""
        unused = max(0, self.left(now_ms)) + self.returned
        self._lots.clear()
        self.returned = 0
        return unused

    def granted(self, units: int, until_ms: int) -> None:
        """A lease came; debts are paid first."""
        paid = min(units, self.owed)
        self.owed -= paid
        if units > paid:
            self._lots.append([until_ms, units - paid])


class LeasedSlots(Slots):
    """The slots in flight this worker may use; those in use are renewed for as long as they are."""

    __slots__ = ("_allowed", "_until_ms", "peak", "short")

    def __init__(self, amount: int) -> None:
        super().__init__(amount)
        self._allowed = 0
        self._until_ms = 0
        self.peak = 0.0
        self.short = 0

    def left(self, now_ms: int) -> int:
        """Leased slots that are free."""
        return (self._allowed if now_ms < self._until_ms else 0) - self.used

    def wait_ms(self, units: int, now_ms: int) -> int | None:
        """A round of leases where none is free. Asks for one more in it."""
        if self.left(now_ms) >= units:
            return 0
        self.short = min(self.amount, self.short + units)
        return RENEW_MS

    def take(self, units: int, now_ms: int) -> Bucket:
        """Take slots."""
        bucket = super().take(units, now_ms)
        self.peak = max(self.peak, self.used)
        return bucket

    def plan(self) -> int:
        """For the next round: how many slots to hold in all."""
        wanted = min(self.amount, max(self.used, round(1.25 * self.peak)) + self.short)
        self.peak = max(float(self.used), FADE * self.peak)
        self.short = 0
        return wanted

    def surrender(self, now_ms: int) -> int:
        """Stop: the free slots, and none may be taken any more."""
        free = max(0, self.left(now_ms))
        self._allowed -= free
        return free

    def granted(self, slots: int, until_ms: int) -> None:
        """The lease came: it replaces the one before."""
        self._allowed = slots
        self._until_ms = until_ms


class Leases:
    """Keeps the leases of one worker's rows fresh. One round at a time; whoever asks meanwhile waits for it."""

    def __init__(self, rates: RateStore, worker: str, emit: Emit) -> None:
        self._rates = rates
        self._worker = worker
        self._emit = emit
        self._counters: dict[str, tuple[LimitRow, LeasedWindow | LeasedSlots]] = {}
        self._round: asyncio.Task[None] | None = None
        self._lost = False

    def counter(self, row: LimitRow) -> LeasedWindow | LeasedSlots:
        """What counts a row of this worker."""
        counter: LeasedWindow | LeasedSlots = LeasedWindow(row.amount, row.per_ms)
        if row.kind is RateKind.CONCURRENCY:
            counter = LeasedSlots(row.amount)
        self._counters[row.name] = (row, counter)
        return counter

    async def refill(self, now_ms: int) -> None:
        """Ask the store for what was found missing; returns when it has answered."""
        if self._round is None or self._round.done():
            self._round = asyncio.ensure_future(self._renew(now_ms))
        await asyncio.shield(self._round)

    async def _renew(self, now_ms: int) -> None:
        asks: list[LeaseAsk] = []
        back: dict[str, int] = {}
        corrections: dict[str, int] = {}
        for key, (row, counter) in self._counters.items():
            if isinstance(counter, LeasedSlots):
                want = counter.plan()
            else:
                want, unused = counter.plan(now_ms)
                if unused:
                    back[key] = unused
                if counter.corrected is not None:
                    corrections[key], counter.corrected = counter.corrected, None
            if want or isinstance(counter, LeasedSlots):
                per_ms = 0 if isinstance(counter, LeasedSlots) else row.per_ms
                asks.append(LeaseAsk(key=key, amount=row.amount, per_ms=per_ms, want=want))
        try:
            await self._exchange(asks, back, corrections, now_ms)
        except StoreUnavailable as error:
            if not self._lost:
                self._emit(Event("capacity.leases_lost", now_ms, {"error": str(error)}))
            self._lost = True
        else:
            self._lost = False

    async def _exchange(
        self, asks: list[LeaseAsk], back: Mapping[str, int], corrections: Mapping[str, int], now_ms: int
    ) -> None:
        verbs = [self._rates.correct(key, remaining, now_ms) for key, remaining in corrections.items()]
        if back:
            verbs.append(self._rates.give_back(self._worker, back, now_ms))
        await asyncio.gather(*verbs)
        if asks:
            for lease in await self._rates.lease(self._worker, asks, LEASE_MS, now_ms):
                self._counters[lease.key][1].granted(lease.granted, lease.until_ms)

    async def close(self, now_ms: int) -> None:
        """Give everything back."""
        unused = {key: counter.surrender(now_ms) for key, (_, counter) in self._counters.items()}
        back = {key: units for key, units in unused.items() if units > 0}
        if back:
            await self._rates.give_back(self._worker, back, now_ms)
