"""Capacity: who has room, who is well, and how long answers take.

Synchronous and in-process, on the clock it is given. :meth:`Capacity.take` counts a call at once against every row of
its seller, so what was read as free is free; the slot it gives corrects the count when the call has ended. With a
shared store, :mod:`negotiator.capacity_leases` decides how much of each row this worker may hand out by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from providers.clock import Clock
from providers.dialect import Window as Report
from providers.errors import AuthFailed, ProviderError, ProviderTimeout, RateLimited, RequestRefused
from providers.terms import RateLimit, Usage

from .capacity_health import Breaker, Health, RetryBudget
from .capacity_latency import Latencies, Spread, patience_ms
from .capacity_leases import LeasedSlots, LeasedWindow, Leases
from .capacity_windows import Bucket, Slots, Window
from .errors import StoreUnavailable
from .events import Emit, Event
from .limits import ENQUEUED, HELD, UNITS, Full, Lack, LimitRow, Load, limit_rows
from .order import Loss
from .store import RateStore

__all__ = ["Capacity", "Health", "Slot", "Spread"]

MAX_PAIRS: Final = 4_096
"""Sellers' models watched; beyond, the one first seen is forgotten (remote sellers name models as they like)."""

MIN_BACKOFF_MS: Final = 1_000  # after a 429 that does not say; doubles with every further one
MAX_BACKOFF_MS: Final = 60_000
MAX_RETRY_AFTER_MS: Final = 3_600_000  # what a seller may ask for

Counter = Window | Slots | LeasedWindow | LeasedSlots


class _Row:
    """A row, what counts it, and the lack that is reported when it is full."""

    __slots__ = ("counter", "kind", "lack", "row", "taken", "told", "units")

    def __init__(self, row: LimitRow, counter: Counter) -> None:
        self.row = row
        self.kind = row.kind
        self.units = UNITS[row.kind]
        self.lack = Lack(row.name)
        self.counter = counter
        self.taken = 0  # since the beginning, less what came back
        self.told = 0  # of it, what :meth:`Capacity.taken` has said


class _Pair:
    """What is known of one seller's model, of its batch endpoint apart."""

    __slots__ = ("backoff", "backoff_ms", "backoff_until_ms", "breaker", "ejected", "latencies", "rows")

    def __init__(self, provider: str, model: str, rows: Sequence[_Row], batch: bool) -> None:
        self.rows = tuple(row for row in rows if row.row.covers(provider, model, batch=batch))
        self.breaker = Breaker()
        self.latencies = Latencies()
        self.ejected = Lack(f"{provider}/{model}:ejected", Loss.EJECTED)
        self.backoff = Lack(f"{provider}/{model}:backoff")
        self.backoff_ms = 0
        self.backoff_until_ms = 0


def _counter(row: LimitRow) -> Window | Slots:
    return Slots(row.amount) if row.kind in HELD else Window(row.amount, row.per_ms)


class Slot:
    """Room taken for one call. The first of :meth:`settle` and :meth:`release` ends it; what follows does nothing."""

    __slots__ = ("_capacity", "_load", "_open", "_pair", "_taken")

    def __init__(
        self, capacity: Capacity, pair: _Pair, load: Load, taken: Sequence[tuple[_Row, Bucket, int]]
    ) -> None:
        self._capacity = capacity
        self._pair = pair
        self._load = load
        self._taken = taken
        self._open = True

    def settle(self, usage: Usage | None) -> None:
        """The call ended; ``usage`` None = as it was expected. Frees the slot in flight."""
        if not self._open:
            return
        self._open = False
        self._pair.breaker.probing = False
        now_ms, used = self._capacity.now_ms(), None
        if usage is not None:
            used = Load(usage.input_tokens, usage.output_tokens, usage.cache_read_tokens)
        for row, bucket, units in self._taken:
            if row.kind in HELD:
                row.counter.give(bucket, units, now_ms)
            elif used is not None and (less := units - row.units(used)) > 0:
                row.counter.give(bucket, less, now_ms)
                row.taken -= less
            elif used is not None and less < 0:
                row.counter.take(-less, now_ms)
                row.taken -= less

    def release(self) -> None:
        """The call never reached the seller: all of it comes back."""
        if not self._open:
            return
        self._open = False
        self._pair.breaker.probing = False
        now_ms = self._capacity.now_ms()
        for row, bucket, units in self._taken:
            row.counter.give(bucket, units, now_ms)
            row.taken -= units


class Capacity:
    """The limits and the health of all sellers, as this process sees them."""

    def __init__(
        self,
        limits: Mapping[str, Sequence[RateLimit]],
        clock: Clock,
        emit: Emit,
        *,
        rates: RateStore | None = None,
        worker: str = "0",
    ) -> None:
        """``rates``: where several workers share the limits, None = this process has them to itself."""
        self._clock = clock
        self._emit = emit
        self._leases = None if rates is None else Leases(rates, worker, emit)
        count = _counter if self._leases is None else self._leases.counter
        self._rows = {
            provider: tuple(_Row(row, count(row)) for row in limit_rows(provider, limits_))
            for provider, limits_ in limits.items()
        }
        self._pairs: dict[tuple[str, str, bool], _Pair] = {}
        self._retries: dict[str, tuple[RetryBudget, Lack]] = {}
        self._last_ms = 0
        self._behind_ms = 0

    @property
    def rows(self) -> tuple[LimitRow, ...]:
        """All limits, by seller in the order given."""
        return tuple(row.row for rows in self._rows.values() for row in rows)

    def now_ms(self) -> int:
        """The clock's time made monotone: a clock that steps back stands still here."""
        now_ms = self._clock.now_ms() + self._behind_ms
        if now_ms < self._last_ms:
            self._behind_ms += self._last_ms - now_ms
            now_ms = self._last_ms
        self._last_ms = now_ms
        return now_ms

    def left(self) -> dict[str, int]:
        """What is left of each row now, by name: units of its window, or free slots."""
        now_ms = self.now_ms()
        return {
            row.row.name: max(0, row.counter.left(now_ms)) for rows in self._rows.values() for row in rows
        }

    def taken(self) -> dict[str, int]:
        """What this process took of each row since it was asked last, what came back subtracted; by name."""
        taken = {}
        for rows in self._rows.values():
            for row in rows:
                if row.taken != row.told:
                    taken[row.row.name], row.told = row.taken - row.told, row.taken
        return taken

    def in_use(self) -> dict[str, int]:
        """Of every row what this process took since it opened, what came back subtracted; of concurrency, in flight now."""
        return {
            row.row.name: row.counter.used if row.kind in HELD else row.taken
            for rows in self._rows.values()
            for row in rows
        }

    # Room -------------------------------------------------------------------------------------------------------

    def lacks(self, provider: str, model: str, load: Load, *, retry: bool = False) -> Lack | None:
        """What keeps this call from the seller now, None = it fits. ``retry``: another seller failed before.

        A seller that is out is lacking unless its time is over and nobody is trying it; see :meth:`may_probe`.
        """
        pair, now_ms = self._pair(provider, model, load.batch), self.now_ms()
        if pair.breaker.out and (pair.breaker.probing or not pair.breaker.due(now_ms)):
            return pair.ejected
        return self._full(pair, provider, load, now_ms, retry)

    def _full(self, pair: _Pair, provider: str, load: Load, now_ms: int, retry: bool) -> Lack | None:
        if pair.backoff_until_ms > now_ms:
            return pair.backoff
        if retry:
            budget, lack = self._budget(provider)
            if budget.left(now_ms) <= 0:
                return lack
        for row in pair.rows:
            units = row.units(load)
            if units > row.counter.left(now_ms):
                if self._leases is not None and isinstance(row.counter, LeasedWindow | LeasedSlots):
                    self._leases.missed(row.counter, units, now_ms)
                return row.lack
        return None

    def take(self, provider: str, model: str, load: Load, *, retry: bool = False) -> Slot | Full:
        """Room for one call, counted at once; or what is full and when it may not be."""
        pair, now_ms = self._pair(provider, model, load.batch), self.now_ms()
        lack = self._full(pair, provider, load, now_ms, retry)
        if pair.breaker.out and not self.may_probe(provider, model, batch=load.batch):
            lack = pair.ejected
        if lack is not None:
            return Full(lack, self.retry_after_ms(provider, model, load))
        if pair.breaker.out:
            pair.breaker.probe(now_ms)
        self._budget(provider)[0].count(now_ms, retry=retry)
        taken = []
        for row in pair.rows:
            units = row.units(load)
            taken.append((row, row.counter.take(units, now_ms), units))
            row.taken += units
        return Slot(self, pair, load, taken)

    def retry_after_ms(self, provider: str, model: str, load: Load) -> int | None:
        """When this call may fit if nobody else comes: 0 = now, None = never, it is larger than a limit."""
        pair, now_ms = self._pair(provider, model, load.batch), self.now_ms()
        waits_ms = [max(0, pair.backoff_until_ms - now_ms), self._budget(provider)[0].wait_ms(now_ms)]
        if pair.breaker.out:
            waits_ms.append(pair.breaker.wait_ms(now_ms, self._last_of_kind(provider, model, load.batch)))
        for row in pair.rows:
            wait_ms = row.counter.wait_ms(row.units(load), now_ms)
            if wait_ms is None:
                return None
            waits_ms.append(wait_ms)
        return max(waits_ms)

    def enqueued(self) -> dict[str, int]:
        """What waits at batch endpoints, by the rows' names."""
        return {
            row.row.name: row.counter.used
            for rows in self._rows.values()
            for row in rows
            if row.kind in ENQUEUED
        }

    def correct(self, provider: str, model: str, reports: Iterable[Report]) -> None:
        """Believe the vendor's own windows where they leave less than is counted here."""
        pair, now_ms = self._pair(provider, model), self.now_ms()
        for report in reports:
            if report.remaining is None:
                continue
            same = [
                row.counter
                for row in pair.rows
                if row.kind is report.kind and row.row.per_ms == report.per_ms
            ]
            for counter in same:
                assert isinstance(counter, Window | LeasedWindow)
                counter.correct(report.remaining, report.reset_ms, now_ms)
            if not same and report.remaining == 0 and report.reset_ms:
                self.backoff(provider, model, report.reset_ms)  # a limit that nobody told us about

    def backoff(self, provider: str, model: str, retry_after_ms: int | None, *, batch: bool = False) -> None:
        """Leave the seller alone for so long (None: 1 s, and twice as long every further time)."""
        pair, now_ms = self._pair(provider, model, batch), self.now_ms()
        if retry_after_ms is None:
            pair.backoff_ms = min(MAX_BACKOFF_MS, max(MIN_BACKOFF_MS, 2 * pair.backoff_ms))
            retry_after_ms = pair.backoff_ms
        until_ms = now_ms + min(retry_after_ms, MAX_RETRY_AFTER_MS)
        pair.backoff_until_ms = max(pair.backoff_until_ms, until_ms)
        self._tell("capacity.backoff", provider, model, retry_after_ms=retry_after_ms)

    # Shared limits ----------------------------------------------------------------------------------------------

    async def refill(self) -> bool:
        """Ask the store for room where a call was refused for lack of it; whether it gave any, so that asking again may help."""
        if self._leases is None:
            return False
        return await self._leases.under_way() or await self._leases.refill(self.now_ms())

    async def keep_leased(self) -> None:
        """Renew leases until cancelled; then give all back."""
        if self._leases is None:
            return
        try:
            while True:
                await self.refill()
                await asyncio.sleep(self._leases.renew_ms / 1000)
        finally:
            with suppress(StoreUnavailable):  # what is not given back comes free by itself
                await self._leases.close(self.now_ms())

    # Health -----------------------------------------------------------------------------------------------------

    def state(self, provider: str, model: str, *, batch: bool = False) -> Health:
        """Whether the seller is up, out, or being tried."""
        breaker = self._pair(provider, model, batch).breaker
        if not breaker.out:
            return Health.UP
        return breaker.health(self.now_ms(), self._last_of_kind(provider, model, batch))

    def may_probe(self, provider: str, model: str, *, batch: bool = False) -> bool:
        """Whether a seller that is out may be tried now: its time is over, or it is the last of its kind."""
        breaker, now_ms = self._pair(provider, model, batch).breaker, self.now_ms()
        return breaker.out and breaker.wait_ms(now_ms, self._last_of_kind(provider, model, batch)) == 0

    def succeeded(self, provider: str, model: str, load: Load, ttft_ms: int | None, latency_ms: int) -> None:
        """A whole answer of this size came in such a time; ``ttft_ms`` None = it was not streamed."""
        pair = self._pair(provider, model, load.batch)
        pair.latencies.add(load.output_tokens, ttft_ms, latency_ms)
        self._well(pair, provider, model)

    def took(self, provider: str, model: str) -> None:
        """A batch was taken: the endpoint is well, whatever becomes of the lines."""
        self._well(self._pair(provider, model, batch=True), provider, model)

    def _well(self, pair: _Pair, provider: str, model: str) -> None:
        pair.backoff_ms = 0
        if pair.breaker.succeeded():
            self._tell("capacity.recovered", provider, model)

    def failed(self, provider: str, model: str, load: Load, error: ProviderError, latency_ms: int) -> None:
        """A call failed. A full window backs off; a refused key ejects at once; a timeout also counts as slow."""
        pair = self._pair(provider, model, load.batch)
        if isinstance(error, RateLimited):
            self.backoff(provider, model, error.retry_after_ms, batch=load.batch)
            return
        if isinstance(error, ProviderTimeout):
            pair.latencies.add(load.output_tokens, None, latency_ms)
        if not error.seller_fault:
            if isinstance(error, RequestRefused) and pair.breaker.out:
                self._well(pair, provider, model)  # it answers again, if only to say no
            return
        shut = isinstance(error, AuthFailed)
        ejection_ms = pair.breaker.failed(self.now_ms(), type(error).__name__, shut=shut)
        if error.retry_after_ms:
            self.backoff(provider, model, error.retry_after_ms, batch=load.batch)
        if ejection_ms:
            self._tell(
                "capacity.ejected", provider, model, ejection_ms=ejection_ms, error=type(error).__name__
            )

    # Latency ----------------------------------------------------------------------------------------------------

    def latency(self, provider: str, model: str, output_tokens: int, *, batch: bool = False) -> Spread | None:
        """How long answers of about this size take here, None = too few were seen."""
        return self._pair(provider, model, batch).latencies.spread(output_tokens)

    def ttft(self, provider: str, model: str) -> Spread | None:
        """How soon answers start here, None = too few were seen."""
        return self._pair(provider, model).latencies.ttft

    def abandon_after_ms(self, provider: str, model: str, load: Load) -> int:
        """When a call without a deadline is given up: three times the p99 observed, or guessed from the median."""
        spread = self.latency(provider, model, load.output_tokens, batch=load.batch)
        return patience_ms(spread, load.latency_ms)

    # ------------------------------------------------------------------------------------------------------------

    def _pair(self, provider: str, model: str, batch: bool = False) -> _Pair:
        key = (provider, model, batch)
        pair = self._pairs.get(key)
        if pair is None:
            if len(self._pairs) >= MAX_PAIRS:
                del self._pairs[next(iter(self._pairs))]
            pair = self._pairs[key] = _Pair(provider, model, self._rows.get(provider, ()), batch)
        return pair

    def _budget(self, provider: str) -> tuple[RetryBudget, Lack]:
        known = self._retries.get(provider)
        if known is None:
            if len(self._retries) >= MAX_PAIRS:
                del self._retries[next(iter(self._retries))]
            known = self._retries[provider] = (RetryBudget(), Lack(f"{provider}:retries"))
        return known

    def _last_of_kind(self, provider: str, model: str, batch: bool = False) -> bool:
        """Whether no other seller of the model is up; asked only while this one is out."""
        return all(
            pair.breaker.out
            for (other, name, endpoint), pair in self._pairs.items()
            if name == model and other != provider and endpoint == batch
        )

    def _tell(self, name: str, provider: str, model: str, **facts: Any) -> None:
        self._emit(Event(name, self._last_ms, {"provider": provider, "model": model, **facts}))
