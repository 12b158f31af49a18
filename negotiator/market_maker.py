"""The market maker: finds what scarce room is worth from what is left of it and what is expected to come.

It hears from workers what they saw, keeps the demand forecast and the sellers' windows of all of them together, and
every so often prices the rows. Workers decide by these prices alone; without it they go on with the last ones, then
cheapest-first. :class:`LocalMarketMaker` lives inside an engine; processes of their own are made of
:mod:`negotiator.market_maker_child` and :mod:`negotiator.market_maker_shared`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Final

import orjson

from providers.clock import Clock

from .capacity_windows import Window
from .clearing_prices import price_rows
from .events import Emit, Event
from .limits import HELD, UNITS_PER_PRICE, LimitRow, Load, ShadowPrices
from .market_maker_demand import DemandMeter, DemandReport
from .market_maker_forecast import Expected, Forecast, Outlook

if TYPE_CHECKING:
    from solver import Prices

__all__ = [
    "LocalMarketMaker",
    "MarketMaker",
    "RunIn",
    "in_a_thread",
    "prices_from_bytes",
    "prices_to_bytes",
    "refusing",
]

logger = logging.getLogger("negotiator.market_maker")

HORIZON_MS: Final = 60_000
"""How far ahead demand is set against room: a usual window, over which bursts even out."""

SHARE: Final = 0.92
"""The part of the room that is priced as if it were all: the rest takes what demand varies."""

REFUSING_SHARE: Final = 0.96
"""The same of a row for want of which orders are refused: half of what is kept back elsewhere would stay idle there."""

ENOUGH: Final = 0.9  # of the forecast's memory is its own: the prices of a market maker before are forgotten

QUIET_MS: Final = 60_000
"""Without an order for so long, windows are empty: nothing is scarce."""

_FIELDS: Final = tuple(field.name for field in fields(ShadowPrices))

RunIn = Callable[[Callable[[], ShadowPrices | None]], Awaitable[ShadowPrices | None]]
"""Where pricing happens: a thread, a process, or (in virtual time) here and now."""


class MarketMaker:
    """Reports in, prices out; pure but for its memory of demand and windows."""

    def __init__(
        self,
        rows: Iterable[LimitRow],
        *,
        horizon_ms: int = HORIZON_MS,
        epoch: int = 0,
        forecast: Forecast | None = None,
    ) -> None:
        self._rows = tuple(rows)
        self._horizon_ms = horizon_ms
        self.epoch = epoch
        self._forecast = forecast or Forecast(self._rows)
        self._outlook = Outlook()
        self._windows = {
            row.name: Window(row.amount, row.per_ms) for row in self._rows if row.kind not in HELD
        }
        self._warm: Prices | None = None
        self._before: Mapping[str, int] = {}
        self._heard: dict[str, int] = {}
        self._ordered_ms = 0  # when the last order was reported, or it was asked first

    def resume(self, prices: ShadowPrices) -> None:
        """Go on from the prices of the market maker before: they count for what this one has not seen itself."""
        self._before = prices.nusd_per_million

    def observe(self, report: DemandReport) -> bool:
        """Take a worker's report; False for one that was taken before."""
        if report.at_ms <= self._heard.get(report.worker, 0):
            return False
        self._heard[report.worker] = report.at_ms
        self._forecast.observe(report)
        self._outlook.came(report.orders)
        if report.orders:
            self._ordered_ms = max(self._ordered_ms, report.at_ms)
        latest_ms = max(self._heard.values())  # workers' clocks differ a little, windows never go back
        for name, units in report.taken.items():
            window = self._windows.get(name)
            if window is not None:
                window.left(latest_ms)
                window.take(units, latest_ms)
        return True

    def left(self, now_ms: int, refusing: Collection[str] = ()) -> dict[str, float]:
        """What each row has within the horizon, by name, in its unit over a horizon. refusing: see :func:`refusing`."""
        now_ms = max([now_ms, *self._heard.values()])
        left = {}
        for row in self._rows:
            window = self._windows.get(row.name)
            if window is None:
                room = row.cap_over(self._horizon_ms)
            else:
                room = window.room_over(self._horizon_ms, now_ms)
            left[row.name] = max(1.0, (REFUSING_SHARE if row.name in refusing else SHARE) * room)
        return left

    def reprice(self, now_ms: int) -> ShadowPrices | None:
        """New prices, None before any demand was seen; of a quiet market that nothing is scarce, whoever keeps it.

        Takes tens of milliseconds; touches nothing else.
        """
        self._ordered_ms = self._ordered_ms or now_ms
        if now_ms - self._ordered_ms > QUIET_MS:
            self._before = {}
            return ShadowPrices(made_ms=now_ms, nusd_per_million={}, epoch=self.epoch)
        expected = self._forecast.expect(self._horizon_ms)
        if expected is None:
            return None
        factor = self._outlook.factor(now_ms, self._forecast.per_ms())
        count = factor * expected.count
        nusd_per_million, self._warm = price_rows(expected.book, count, self.left(now_ms), warm=self._warm)
        if short := refusing(self._rows, nusd_per_million, expected):
            left = self.left(now_ms, short)
            nusd_per_million, self._warm = price_rows(expected.book, count, left, warm=self._warm)
        return ShadowPrices(
            made_ms=now_ms,
            nusd_per_million=self._blended(nusd_per_million),
            unserved_nusd=expected.unserved_nusd,
            epoch=self.epoch,
            heat=self._warm.heat,
        )

    def _blended(self, new: Mapping[str, int]) -> Mapping[str, int]:
        seen, before = self._forecast.seen(), self._before
        if not before:
            return new
        if seen > ENOUGH:
            self._before = {}
        mixed = {
            name: round(seen * new.get(name, 0) + (1 - seen) * before.get(name, 0))
            for name in {**new, **before}
        }
        return {name: nusd for name, nusd in mixed.items() if nusd > 0}


def refusing(rows: Iterable[LimitRow], nusd_per_million: Mapping[str, int], expected: Expected) -> set[str]:
    """The windows in which a usual order takes room worth more than half of what an order is: it is refused for it."""
    book, share = expected.book, expected.count / expected.count.sum()
    inputs, outputs = (
        round(float(share @ each.max(axis=1))) for each in (book.input_tokens, book.output_tokens)
    )
    load, most_nusd = Load(inputs, outputs), expected.unserved_nusd * UNITS_PER_PRICE // 2
    return {
        row.name
        for row in rows
        if row.kind not in HELD and nusd_per_million.get(row.name, 0) * load.of(row.kind) > most_nusd
    }


async def in_a_thread(work: Callable[[], ShadowPrices | None]) -> ShadowPrices | None:
    """In a thread of the default executor: NumPy computes beside the event loop."""
    return await asyncio.to_thread(work)


class LocalMarketMaker:
    """A market maker inside one engine, for a market without processes of its own.

    run_in: where the pricing happens.
    """

    def __init__(
        self,
        rows: Iterable[LimitRow],
        clock: Clock,
        emit: Emit,
        *,
        meter: DemandMeter,
        taken: Callable[[], Mapping[str, int]],
        publish: Callable[[ShadowPrices], bool],
        run_in: RunIn = in_a_thread,
    ) -> None:
        self._maker = MarketMaker(rows)
        self._clock = clock
        self._emit = emit
        self._meter = meter
        self._taken = taken
        self._publish = publish
        self._run_in = run_in
        self._meter.report(clock.now_ms(), {})

    async def step(self) -> ShadowPrices | None:
        """Hear what came, price, publish; None before any demand was seen."""
        now_ms = self._clock.now_ms()
        self._maker.observe(self._meter.report(now_ms, self._taken()))
        prices = await self._run_in(lambda: self._maker.reprice(now_ms))
        if prices is not None and self._publish(prices):
            self._emit(Event("market.repriced", now_ms, {"rows": len(prices.nusd_per_million)}))
        return prices

    async def run(self, reprice_ms: int) -> None:
        """Do so every ``reprice_ms``, until cancelled; a step that fails leaves the last prices and is logged."""
        while True:
            await asyncio.sleep(reprice_ms / 1000)
            try:
                await self.step()
            except Exception:
                logger.exception("no new prices")


def prices_to_bytes(prices: ShadowPrices) -> bytes:
    """As one line of JSON, for a pipe or a store."""
    return orjson.dumps(
        {
            "made_ms": prices.made_ms,
            "nusd_per_million": dict(prices.nusd_per_million),
            "unserved_nusd": prices.unserved_nusd,
            "epoch": prices.epoch,
            "heat": prices.heat,
        }
    )


def prices_from_bytes(data: bytes) -> ShadowPrices:
    """The prices in ``data``, without what a later version adds to them; raises ValueError where there are none."""
    told = orjson.loads(data)
    try:
        return ShadowPrices(**{key: told[key] for key in _FIELDS if key in told})
    except TypeError as error:
        raise ValueError(f"expected shadow prices, found {data[:80]!r}") from error
