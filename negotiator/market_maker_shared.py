"""One market maker for all workers of a store: reports and prices are shared values, leadership is a lease.

Each worker posts what it saw under a number of its own and reads the prices. Any number of processes may offer to be
the market maker: the one that holds the lease prices, the others stand by; a token that grows with every change of
lead keeps the prices of one that lost it, but does not know yet, from being heard.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, TypeVar

from providers.clock import Clock

from .errors import StoreUnavailable
from .events import Emit, Event
from .limits import LimitRow, ShadowPrices
from .market_maker import MarketMaker, RunIn, in_a_thread, prices_from_bytes, prices_to_bytes
from .market_maker_demand import DemandMeter, DemandReport
from .store import SharedStore

__all__ = ["PRICES_KEY", "ROLE", "SharedMarketMaker", "WorkerPost"]

logger = logging.getLogger("negotiator.market_maker")

Told = TypeVar("Told")

ROLE: Final = "market_maker"
PRICES_KEY: Final = "market:prices"
MAX_WORKERS: Final = 64
LEASES: Final = 3
"""A lease of lead, a worker's number and a report last so many rounds."""


def _read(parse: Callable[[bytes], Told], data: bytes) -> Told | None:
    """What another process wrote, None where it writes another language: workers are not all updated at once."""
    try:
        return parse(data)
    except ValueError as error:
        logger.warning("not understood in the store: %s", error)
        return None


def _demand_key(number: int) -> str:
    return f"market:demand:{number}"


class WorkerPost:
    """One worker's side: posts reports, hears prices."""

    def __init__(
        self,
        store: SharedStore,
        worker: str,
        clock: Clock,
        *,
        meter: DemandMeter,
        taken: Callable[[], Mapping[str, int]],
        publish: Callable[[ShadowPrices], bool],
    ) -> None:
        self._store = store
        self._worker = worker
        self._clock = clock
        self._meter = meter
        self._taken = taken
        self._publish = publish
        self._number: int | None = None
        self._epoch = 0

    async def step(self, reprice_ms: int) -> None:
        """Post what was seen, take what was priced. Raises StoreUnavailable."""
        ttl_ms = LEASES * reprice_ms
        number = await self._claim(ttl_ms)
        now_ms = self._clock.now_ms()
        if number is not None:
            report = self._meter.report(now_ms, self._taken())
            await self._store.publish(_demand_key(number), report.to_bytes(), ttl_ms)
        told = await self._store.read(PRICES_KEY)
        prices = None if told is None else _read(prices_from_bytes, told)
        if prices is not None and self._publish(prices) and prices.epoch != self._epoch:
            self._epoch = prices.epoch
            self._meter.forget()  # the new market maker knows no classes

    async def run(self, reprice_ms: int) -> None:
        """Do so every ``reprice_ms``, until cancelled; a store that is away is asked again."""
        while True:
            try:
                await self.step(reprice_ms)
            except StoreUnavailable as error:
                logger.info("no prices while the store is away: %s", error)
            await asyncio.sleep(reprice_ms / 1000)

    async def _claim(self, ttl_ms: int) -> int | None:
        """A number nobody else posts under, kept for as long as it is renewed; None = there are too many workers."""
        now_ms = self._clock.now_ms()
        tried = range(MAX_WORKERS) if self._number is None else (self._number, *range(MAX_WORKERS))
        for number in tried:
            if await self._store.lead(f"worker:{number}", self._worker, ttl_ms, now_ms) is not None:
                self._number = number
                return number
        return None


class SharedMarketMaker:
    """One candidate for the lead."""

    def __init__(
        self,
        store: SharedStore,
        holder: str,
        rows: tuple[LimitRow, ...],
        clock: Clock,
        emit: Emit,
        *,
        run_in: RunIn = in_a_thread,
    ) -> None:
        self._store = store
        self._holder = holder
        self._rows = rows
        self._clock = clock
        self._emit = emit
        self._run_in = run_in
        self._maker: MarketMaker | None = None

    @property
    def leads(self) -> bool:
        """Whether it led when it looked last."""
        return self._maker is not None

    async def step(self, reprice_ms: int) -> ShadowPrices | None:
        """Take or keep the lead, hear the workers, price, publish. Raises StoreUnavailable.

        None = another leads, or there is no demand yet.
        """
        epoch = await self._store.lead(ROLE, self._holder, LEASES * reprice_ms, self._clock.now_ms())
        if epoch is None:
            self._maker = None
            return None
        if self._maker is None or self._maker.epoch != epoch:
            self._maker = MarketMaker(self._rows, epoch=epoch)
            self._emit(Event("market_maker.leads", self._clock.now_ms(), {"epoch": epoch}))
            await self._take_over(self._maker)
        posts = await asyncio.gather(*[self._store.read(_demand_key(k)) for k in range(MAX_WORKERS)])
        for post in posts:
            report = None if post is None else _read(DemandReport.from_bytes, post)
            if report is not None:
                self._maker.observe(report)
        maker, now_ms = self._maker, self._clock.now_ms()
        prices = await self._run_in(lambda: maker.reprice(now_ms))
        if prices is not None:
            await self._store.publish(PRICES_KEY, prices_to_bytes(prices))
        return prices

    async def _take_over(self, maker: MarketMaker) -> None:
        """Publish the last prices as one's own: workers see who leads now, and describe to it what they buy."""
        told = await self._store.read(PRICES_KEY)
        last = None if told is None else _read(prices_from_bytes, told)
        if last is None:
            last = ShadowPrices(made_ms=self._clock.now_ms(), nusd_per_million={})
        else:
            maker.resume(last)
        await self._store.publish(PRICES_KEY, prices_to_bytes(replace(last, epoch=maker.epoch)))

    async def run(self, reprice_ms: int) -> None:
        """Do so until cancelled, twice as often as workers post, so that no report is missed."""
        while True:
            try:
                await self.step(reprice_ms)
            except StoreUnavailable as error:
                logger.info("no prices while the store is away: %s", error)
            await asyncio.sleep(reprice_ms / 2000)
