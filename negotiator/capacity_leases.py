"""Limits shared by several workers: each counts against what it leased, so no call waits for the store.

A worker asks for a little more than it used lately and for some to spare, gives back what it does not need, and returns
to the store in one round trip for all its limits, a few times within a lease. The first calls after a quiet time find
too little leased: :meth:`Leases.refill` is worth a wait for as long as it brings something. The store counts a grant
until the calls made under it are out of the window.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from itertools import chain
from typing import Final

from providers.terms import RateKind

from .capacity_windows import Bucket, Slots
from .errors import StoreUnavailable
from .events import Emit, Event
from .limits import ENQUEUED, LimitRow
from .store import LeaseAsk, RateStore, Unused

__all__ = ["LEASE_MS", "LeasedSlots", "LeasedWindow", "Leases"]

LEASE_MS: Final = 2_000
"""How long a lease lasts; a worker that dies keeps its part of a limit from the others for so long."""

LEASE_SHARE: Final = 8
"""A lease is at most this part of its window: the limit counts a call until the window has passed after the lease."""

MIN_LEASE_MS: Final = 100
ROUNDS: Final = 4
"""Rounds in a lease."""

NUDGE_MS: Final = 50
"""The least between rounds that calls ask for which found nothing leased."""

AHEAD: Final = 2  # a lease is for as much as the last two rounds used
SPARE: Final = 16
"""And for this part of the limit, where it is to spare. Calls come one by one, not evenly: whoever holds only what it
used lately finds its best seller empty every fourth time, and pays for the next one."""

FADE: Final = 0.7


class _Drawn(Bucket):
    """A call counted against leases. parts: [end of the lease, units] of each it drew on."""

    __slots__ = ("parts",)

    def __init__(self, now_ms: int, units: int, parts: list[list[int]]) -> None:
        super().__init__(now_ms, units)
        self.parts = parts


class LeasedWindow:
    """The part of a window this worker may use; the verbs of :class:`negotiator.capacity_windows.Window`."""

    __slots__ = (
        "_lots", "amount", "corrected", "due_ms", "lease_ms", "owed", "per_ms", "recent", "returned", "short", "used"
    )  # fmt: skip

    def __init__(self, amount: int, per_ms: int) -> None:
        self.amount = amount
        self.per_ms = per_ms
        self.lease_ms = min(LEASE_MS, max(MIN_LEASE_MS, per_ms // LEASE_SHARE))
        self.due_ms = 0  # when its next round is
        self.used = 0  # since the last round
        self.recent = 0.0  # units a round, fading
        self.short = 0  # the largest call refused since the last round
        self.owed = 0  # used beyond what was leased: calls that were larger than they had said
        self.returned: dict[int, int] = {}  # to give back with the next round, by the lease's end
        self.corrected: int | None = None  # the least the vendor said is left
        self._lots: deque[list[int]] = deque()  # [until, units], by end

    @property
    def renew_ms(self) -> int:
        """How often its leases are renewed."""
        return self.lease_ms // ROUNDS

    def left(self, now_ms: int) -> int:
        """What was leased and is not used."""
        lots = self._lots
        while lots and lots[0][0] <= now_ms:
            lots.popleft()
        return sum([units for _, units in lots]) - self.owed

    def take(self, units: int, now_ms: int) -> Bucket:
        """Use ``units`` of what was leased, the part that ends first; what is missing is owed."""
        self.used += units
        missing, parts = units, []
        for lot in self._lots:
            part = min(missing, lot[1])
            if part:
                lot[1] -= part
                missing -= part
                parts.append([lot[0], part])
            if not missing:
                break
        self.owed += missing
        return _Drawn(now_ms, units, parts)

    def give(self, bucket: Bucket, units: int, now_ms: int) -> None:
        """What a call did not use goes back to all workers with the next round; first it makes up for what is owed."""
        assert isinstance(bucket, _Drawn)
        forgiven = min(units, self.owed, bucket.units - sum([part for _, part in bucket.parts]))
        self.owed -= forgiven
        units -= forgiven
        for lot in reversed(bucket.parts):
            part = min(units, lot[1])
            lot[1] -= part
            units -= part
            self._return(lot[0], part)

    def wait_ms(self, units: int, now_ms: int) -> int | None:
        """A round of leases, or None = never; the store alone knows more. Asks for it in the next round."""
        if units > self.amount:
            return None
        if units <= self.left(now_ms):
            return 0
        self.short = max(self.short, units)
        return self.renew_ms

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
        """For the next round: how much to ask for, and how much to spare; what to give back is in ``returned``."""
        self.recent = max(float(self.used), FADE * self.recent)
        wanted = min(self.amount, max(AHEAD * round(self.recent), self.short))
        stock = min(self.amount, wanted + self.amount // SPARE)
        left = self.left(now_ms)
        ending = sum([units for until_ms, units in self._lots if until_ms <= now_ms + self.renew_ms])
        self._drop(min(max(0, left), max(ending, left - 2 * stock)))
        self.used = self.short = 0
        self.due_ms = now_ms + self.renew_ms
        left = self.left(now_ms)
        return max(0, wanted - left), max(0, stock - max(wanted, left))

    def _drop(self, units: int) -> None:
        while units > 0:
            until_ms, part = self._lots[0][0], min(units, self._lots[0][1])
            self._lots[0][1] -= part
            units -= part
            self._return(until_ms, part)
            if not self._lots[0][1]:
                self._lots.popleft()

    def _return(self, until_ms: int, units: int) -> None:
        if units:
            self.returned[until_ms] = self.returned.get(until_ms, 0) + units

    def surrender(self, now_ms: int) -> int:
        """Stop: all that is left goes back by ``returned``, and nothing may be used any more; gives 0."""
        self._drop(max(0, self.left(now_ms)))
        self._lots.clear()
        return 0

    def granted(self, units: int, until_ms: int) -> None:
        """A lease came; debts are paid first."""
        paid = min(units, self.owed)
        self.owed -= paid
        if units > paid:
            self._lots.append([until_ms, units - paid])


class LeasedSlots(Slots):
    """The slots in flight this worker may use; those in use are renewed for as long as they are."""

    __slots__ = ("_allowed", "_until_ms", "due_ms", "peak", "short")

    lease_ms: Final = LEASE_MS
    renew_ms: Final = LEASE_MS // ROUNDS

    def __init__(self, amount: int) -> None:
        super().__init__(amount)
        self.due_ms = 0
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
        return self.renew_ms

    def take(self, units: int, now_ms: int) -> Bucket:
        """Take slots."""
        bucket = super().take(units, now_ms)
        self.peak = max(self.peak, self.used)
        return bucket

    def plan(self, now_ms: int) -> tuple[int, int]:
        """For the next round: how many slots to hold in all; none to spare."""
        self.due_ms = now_ms + self.renew_ms
        wanted = min(self.amount, max(self.used, round(1.25 * self.peak)) + self.short)
        self.peak = max(float(self.used), FADE * self.peak)
        self.short = 0
        return wanted, 0

    def surrender(self, now_ms: int) -> int:
        """Stop: how many slots are free and go back; none may be taken any more."""
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
        self._round: asyncio.Task[bool] | None = None
        self._planned = True  # whether the round under way has asked for what it asks
        self._lost = False
        self._asked_ms = 0
        self.renew_ms = LEASE_MS // ROUNDS
        """How often a round may be due."""

    def counter(self, row: LimitRow) -> LeasedWindow | LeasedSlots | Slots:
        """What counts a row of this worker; one worker leads a store's batches, so what is enqueued is its own count."""
        if row.kind in ENQUEUED:
            return Slots(row.amount)
        counter: LeasedWindow | LeasedSlots = LeasedWindow(row.amount, row.per_ms)
        if row.kind is RateKind.CONCURRENCY:
            counter = LeasedSlots(row.amount)
        self._counters[row.name] = (row, counter)
        self.renew_ms = min(self.renew_ms, counter.renew_ms)
        return counter

    def missed(self, counter: LeasedWindow | LeasedSlots, units: int, now_ms: int) -> None:
        """A call was passed over here: ask soon, or whoever was not used lately is never used again."""
        counter.short = max(counter.short, units)
        if now_ms - self._asked_ms >= NUDGE_MS and (self._round is None or self._round.done()):
            self._asked_ms = now_ms
            self._begin(now_ms)

    async def under_way(self) -> bool:
        """Wait for the round that has asked already, if there is one; whether it brought what was missing."""
        running = self._round is not None and not self._round.done() and self._planned
        return running and self._round is not None and await asyncio.shield(self._round)

    async def refill(self, now_ms: int) -> bool:
        """Ask the store for what was found missing, and for what is due; whether it gave of what was missing."""
        if self._round is None or self._round.done():
            self._begin(now_ms)
        assert self._round is not None
        return await asyncio.shield(self._round)

    def _begin(self, now_ms: int) -> None:
        self._planned = False
        self._round = asyncio.ensure_future(self._renew(now_ms))

    async def _renew(self, now_ms: int) -> bool:
        self._planned = True
        asks: dict[int, list[LeaseAsk]] = {}
        missing: set[str] = set()
        corrections: dict[str, int] = {}
        for key, (row, counter) in self._counters.items():
            told = isinstance(counter, LeasedWindow) and counter.corrected is not None
            if now_ms < counter.due_ms and not counter.short and not told:
                continue
            if counter.short:
                missing.add(key)
            (want, spare), slots = counter.plan(now_ms), isinstance(counter, LeasedSlots)
            if isinstance(counter, LeasedWindow) and counter.corrected is not None:
                corrections[key], counter.corrected = counter.corrected, None
            if want or spare or slots:
                per_ms = 0 if slots else row.per_ms
                ask = LeaseAsk(key=key, amount=row.amount, per_ms=per_ms, want=want, spare=spare)
                asks.setdefault(counter.lease_ms, []).append(ask)
        try:
            more = await self._exchange(asks, corrections, now_ms)
        except StoreUnavailable as error:
            if not self._lost:
                self._emit(Event("capacity.leases_lost", now_ms, {"error": str(error)}))
            self._lost = True
            return False
        self._lost = False
        return not missing.isdisjoint(more)

    async def _exchange(
        self, asks: Mapping[int, list[LeaseAsk]], corrections: Mapping[str, int], now_ms: int
    ) -> set[str]:
        """Tell and ask the store; the keys of which there is more now."""
        verbs = [self._rates.correct(key, remaining, now_ms) for key, remaining in corrections.items()]
        unused = self._returned()
        if unused:
            verbs.append(self._rates.give_back(self._worker, unused, now_ms))
        await asyncio.gather(*verbs)
        wishes = [
            self._rates.lease(self._worker, wanted, lease_ms, now_ms) for lease_ms, wanted in asks.items()
        ]
        more = set()
        for lease in chain.from_iterable(await asyncio.gather(*wishes)):
            counter = self._counters[lease.key][1]
            before = counter.left(now_ms)
            counter.granted(lease.granted, lease.until_ms)
            if counter.left(now_ms) > before:
                more.add(lease.key)
        return more

    def _returned(self) -> list[Unused]:
        unused = []
        for key, (_, counter) in self._counters.items():
            if isinstance(counter, LeasedWindow):
                unused += [
                    Unused(key=key, units=units, until_ms=until_ms)
                    for until_ms, units in counter.returned.items()
                ]
                counter.returned = {}
        return unused

    async def close(self, now_ms: int) -> None:
        """Give everything back."""
        unused = []
        for key, (_, counter) in self._counters.items():
            free = counter.surrender(now_ms)
            if free:
                unused.append(Unused(key=key, units=free))
        unused += self._returned()
        if unused:
            await self._rates.give_back(self._worker, unused, now_ms)
