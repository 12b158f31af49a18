"""The market maker: what workers report, what is forecast, what scarce room is worth, and who is in charge."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import orjson
import pytest

from negotiator import market_maker_process
from negotiator.clearing import Clearing
from negotiator.events import Event, discard
from negotiator.limits import LimitRow, ShadowPrices, limit_rows
from negotiator.market_maker import (
    LocalMarketMaker,
    MarketMaker,
    prices_from_bytes,
    prices_to_bytes,
)
from negotiator.market_maker_child import Instructions
from negotiator.market_maker_demand import MAX_NOTES, ClassReport, DemandMeter, DemandReport, OfferLoad
from negotiator.market_maker_forecast import MAX_CLASSES, Forecast, Outlook
from negotiator.market_maker_process import MarketMakerProcess
from negotiator.market_maker_shared import PRICES_KEY, SharedMarketMaker, WorkerPost
from negotiator.order import Candidate, Order, QualityEstimate
from negotiator.store_embedded import EmbeddedStore
from providers.clock import LoopClock, SystemClock, run_virtual
from providers.terms import Quantiles, Quote, RateKind, RateLimit, Rates

SCARCE = limit_rows("a", [RateLimit(RateKind.REQUESTS, 60)])
ROWS = (*SCARCE, *limit_rows("b", [RateLimit(RateKind.REQUESTS, 100_000)]))


async def here(work: Callable[[], ShadowPrices | None]) -> ShadowPrices | None:
    """Pricing without a thread, for virtual time."""
    return work()


def offer(key: str, nusd: int, input_tokens: int = 1_000, output_tokens: int = 100) -> Candidate:
    provider, model = key.split("/")
    quote = Quote(
        quote_id=key,
        rfq_id="r",
        provider=provider,
        model=model,
        tier="standard",
        firm=True,
        rates=Rates(0, 0, 0, 0, 0),
        lines=(),
        expected_nusd=nusd,
        ceiling_nusd=2 * nusd,
        input_tokens=input_tokens,
        expected_output_tokens=output_tokens,
        max_output_tokens=4_000,
        latency_ms=Quantiles(700, 2_000),
        ttft_ms=Quantiles(200, 400),
        valid_for_ms=30_000,
    )
    return Candidate(
        quote=quote,
        estimate=QualityEstimate(0.8, 0.1, 5, output_tokens, 2 * output_tokens),
        expected_nusd=nusd,
        ceiling_nusd=2 * nusd,
        max_output_tokens=4_000,
        valid_until_ms=0,
    )


PAIR = (offer("a/m", 100), offer("b/m", 400))
"""The cheap seller has room for one order a second, the dear one for all."""


def order(**terms: Any) -> Order:
    return Order(order_id="o", account="default", body={}, **terms)


def report(
    at_ms: int, classes: list[ClassReport], *, worker: str = "0", taken: dict[str, int] | None = None
) -> DemandReport:
    count = sum(told.count for told in classes)
    return DemandReport(
        worker=worker, at_ms=at_ms, span_ms=1_000, orders=count, classes=tuple(classes), taken=taken or {}
    )


def described(key: str, count: int, worth_nusd: int | None = None) -> ClassReport:
    loads = {
        ("a", "m", "standard"): OfferLoad(100, 1_000, 0, 100, 700),
        ("b", "m", "standard"): OfferLoad(400, 1_000, 0, 100, 700),
    }
    return ClassReport(key, count, worth_nusd, loads)


# What workers report --------------------------------------------------------------------------------------------


def test_orders_of_one_kind_are_one_class() -> None:
    """Nearly equal sizes, the same offers in any order and nearly equal worth count together; others apart."""
    meter = DemandMeter()
    meter.note(order(), PAIR)
    meter.note(order(), PAIR[::-1])
    meter.note(order(), (offer("a/m", 130, input_tokens=1_020), offer("b/m", 420)))
    meter.note(order(), PAIR[:1])
    meter.note(order(), (offer("a/m", 500, input_tokens=4_000), offer("b/m", 900)))
    meter.note(order(budget_nusd=1_000), PAIR)
    meter.note(order(budget_nusd=1_020), PAIR)
    told = meter.report(1_000, {})
    assert sorted(entry.count for entry in told.classes) == [1, 1, 2, 3]
    assert {entry.worth_nusd for entry in told.classes} == {None, 1_010}


def test_a_report_survives_the_wire() -> None:
    """Bytes and back are equal, whatever a later version adds; what is no report is refused with its beginning."""
    meter = DemandMeter("w1")
    meter.note(order(value_nusd=10**9), PAIR)
    told = meter.report(5_000, {"a:requests": 3})
    assert DemandReport.from_bytes(told.to_bytes()) == told
    later = orjson.loads(told.to_bytes()) | {"mood": "calm"}
    later["classes"] = [[*entry, "more"] for entry in later["classes"]]
    assert DemandReport.from_bytes(orjson.dumps(later)) == told
    for broken in (b"[]", b"{}", b'{"classes": [[1]]}'):
        with pytest.raises(ValueError, match="expected a demand report"):
            DemandReport.from_bytes(broken)


def test_a_class_is_described_when_new_and_again_later() -> None:
    """Its offers travel once, then every tenth report; on request at once."""
    meter = DemandMeter()

    def tells() -> bool:
        meter.note(order(), PAIR)
        return bool(meter.report(0, {}).classes[0].offers)

    assert [tells() for _ in range(11)] == [True] + [False] * 9 + [True]
    meter.forget()
    assert tells()


def test_a_flood_is_sampled_and_counted_whole() -> None:
    """Beyond the bound orders are no longer looked at, but their number is right."""
    meter = DemandMeter()
    for _ in range(3 * MAX_NOTES):
        meter.note(order(), PAIR)
    told = meter.report(1_000, {})
    assert (told.orders, told.classes[0].count) == (3 * MAX_NOTES, MAX_NOTES)
    forecast = Forecast(ROWS)
    forecast.observe(DemandReport.from_bytes(told.to_bytes()))
    expected = forecast.expect(1_000)
    assert expected is not None
    assert expected.count.sum() > 2 * MAX_NOTES


# What is expected -----------------------------------------------------------------------------------------------


def test_a_steady_flow_is_forecast_as_it_is() -> None:
    """Ten orders a second, two thirds of them of one class, are expected so for the time ahead, soon and later."""
    forecast = Forecast(ROWS)
    for second in range(1, 61):
        forecast.observe(report(second * 1_000, [described("x", 6), described("y", 4, 5_000)]))
        if second in (3, 60):
            expected = forecast.expect(30_000)
            assert expected is not None
            assert sorted(expected.count) == pytest.approx([120, 180], rel=0.05)
            assert expected.book.offers[0].provider == "a"
            assert expected.book.cost.tolist() == [[100, 400]] * 2
            assert sorted(expected.book.value.tolist()) == [5_000, expected.unserved_nusd]


def test_what_came_is_forgotten_by_half() -> None:
    """After a half-life without orders half the rate is expected."""
    forecast = Forecast(ROWS, half_life_ms=10_000)
    for second in range(1, 101):
        forecast.observe(report(second * 1_000, [described("x", 10)]))
    before = forecast.per_ms()
    forecast.observe(report(110_000, []))
    assert forecast.per_ms() == pytest.approx(before / 2, rel=1e-3)


def test_rare_classes_are_dropped_and_their_orders_still_count() -> None:
    """More classes than are kept: the total stays what came."""
    forecast = Forecast(ROWS)
    for second in range(1, 11):
        classes = [described(f"{second}-{k}", 1) for k in range(300)]
        forecast.observe(report(second * 1_000, classes))
    expected = forecast.expect(1_000)
    assert expected is not None
    assert len(expected.count) <= MAX_CLASSES
    assert expected.count.sum() == pytest.approx(300, rel=0.1)


def test_a_class_nobody_described_is_asked_for() -> None:
    """A market maker that started later cannot use counts alone, and says of how many orders."""
    forecast = Forecast(ROWS)
    forecast.observe(report(1_000, [ClassReport("x", 7)]))
    assert forecast.undescribed == 7
    assert forecast.expect(1_000) is None


# What scarce room is worth --------------------------------------------------------------------------------------


def test_scarce_room_is_worth_what_the_next_offer_costs_more() -> None:
    """Ten orders a second for one place a second at 100 instead of 400: a place is worth 300; plenty is worth 0."""
    maker = MarketMaker(ROWS)
    for second in range(1, 31):
        maker.observe(report(second * 1_000, [described("x", 10)], taken={"a:requests": 1}))
    prices = maker.reprice(30_000)
    assert prices is not None
    assert prices.nusd_per_million == {"a:requests": pytest.approx(300_000_000, rel=0.1)}


def test_room_goes_to_the_highest_value_when_there_is_too_little() -> None:
    """With the scarce seller alone, orders worth 1,000 and 5,000: a place costs what lets the better ones in only."""
    maker = MarketMaker(SCARCE)
    only = {("a", "m", "standard"): OfferLoad(100, 1_000, 0, 100, 700)}
    low, high = ClassReport("low", 5, 1_000, only), ClassReport("high", 1, 5_000, only)
    for second in range(1, 61):
        maker.observe(report(second * 1_000, [low, high], taken={"a:requests": 1}))
    prices = maker.reprice(60_000)
    assert prices is not None
    clearing = Clearing(SCARCE, LoopClock(60_000), discard)
    clearing.publish(prices)
    bid_nusd = clearing.bid_nusd(offer("a/m", 100))
    assert 1_000 * 0.95 <= bid_nusd <= 5_000


@pytest.mark.parametrize(("every", "refused"), [(15, False), (61, True)])
def test_room_is_not_kept_back_while_orders_are_refused_for_it(every: int, refused: bool) -> None:
    """56 orders a minute for 60 places are all served, though less than 56 would be priced where others serve too;
    60 a minute are still more than what may be promised."""
    maker = MarketMaker(SCARCE)
    only = {("a", "m", "standard"): OfferLoad(100, 1_000, 0, 100, 700)}
    for second in range(1, 181):
        classes = [ClassReport("x", 1, None, only)] if second % every else []
        maker.observe(report(second * 1_000, classes))
    prices = maker.reprice(180_000)
    assert prices is not None
    assert bool(prices.nusd_per_million) is refused


def test_a_window_that_runs_full_leaves_less() -> None:
    """What workers took of a row counts until it leaves the window, whoever took it; a report counts once."""
    maker = MarketMaker(SCARCE, horizon_ms=30_000)
    fresh = maker.left(0)["a:requests"]
    assert maker.observe(report(1_000, [], worker="1", taken={"a:requests": 30}))
    assert maker.observe(report(1_000, [], worker="2", taken={"a:requests": 10}))
    assert not maker.observe(report(1_000, [], worker="2", taken={"a:requests": 10}))
    assert maker.left(1_000)["a:requests"] == pytest.approx(fresh * 20 / 60)
    assert maker.left(40_000)["a:requests"] == pytest.approx(fresh)


@pytest.mark.parametrize("factor", [0.7, 1.3])
def test_a_forecast_that_is_always_off_is_corrected_by_what_comes(factor: float) -> None:
    """Two minutes of ten orders a second, expected to be seven or thirteen: the factor makes up for it."""
    outlook = Outlook()
    for second in range(1, 120):
        outlook.came(10)
        found = outlook.factor(second * 1_000, factor * 10 / 1_000)
    assert found == pytest.approx(1 / factor, rel=0.05)
    assert Outlook().factor(1_000, 5.0) == 1.0, "nothing came yet to judge by"


def test_before_any_demand_there_are_no_prices() -> None:
    """Nothing is priced from nothing."""
    assert MarketMaker(ROWS).reprice(0) is None


def test_a_quiet_market_is_told_that_nothing_is_scarce_whoever_keeps_it() -> None:
    """A minute after the last order, or after the first look where none ever came, prices are fresh and empty."""
    maker = MarketMaker(ROWS, epoch=4)
    assert maker.reprice(1_000) is None
    assert maker.reprice(61_000) is None
    assert maker.reprice(61_001) == ShadowPrices(made_ms=61_001, nusd_per_million={}, epoch=4)
    maker.observe(report(70_000, [described("x", 100)]))
    busy = maker.reprice(130_000)
    assert busy is not None
    assert busy.nusd_per_million
    assert maker.reprice(130_001) == ShadowPrices(made_ms=130_001, nusd_per_million={}, epoch=4)


def test_what_a_maker_has_not_seen_itself_it_takes_from_the_one_before() -> None:
    """After a second of orders its own prices count little, after many minutes alone."""
    maker, found = MarketMaker(ROWS), []
    maker.resume(ShadowPrices(made_ms=0, nusd_per_million={"a:requests": 900_000_000}))
    for second in range(1, 700):
        maker.observe(report(1_000 * second, [described("x", 10)]))
        if second in (1, 699):
            prices = maker.reprice(1_000 * second)
            assert prices is not None
            found.append(prices.nusd_per_million["a:requests"])
    assert found == [pytest.approx(900_000_000, rel=0.05), pytest.approx(300_000_000, rel=0.1)]


def test_prices_survive_the_wire() -> None:
    """Bytes and back are equal, whatever a later version adds; what is none is refused."""
    prices = ShadowPrices(made_ms=5, nusd_per_million={"a:requests": 7}, unserved_nusd=9, epoch=3, heat=0.01)
    assert prices_from_bytes(prices_to_bytes(prices)) == prices
    assert prices_from_bytes(orjson.dumps(orjson.loads(prices_to_bytes(prices)) | {"mood": "calm"})) == prices
    with pytest.raises(ValueError):
        prices_from_bytes(b"[]")


def test_an_engine_prices_for_itself_in_virtual_time() -> None:
    """Without any other process: orders are noted, prices follow, and decisions follow the prices."""

    async def scene() -> None:
        clock, meter = LoopClock(), DemandMeter()
        clearing, events = Clearing(ROWS, clock, discard), []
        maker = LocalMarketMaker(
            ROWS,
            clock,
            events.append,
            meter=meter,
            taken=dict,
            publish=clearing.publish,
            run_in=here,
        )
        running = asyncio.ensure_future(maker.run(2_000))
        for _ in range(300):
            meter.note(order(), PAIR)
            await asyncio.sleep(0.05)
        assert clearing.bid_nusd(PAIR[0]) == pytest.approx(400, rel=0.1)
        assert {event.name for event in events} == {"market.repriced"}
        await asyncio.sleep(3_600)
        assert clearing.prices is not None, "an hour without an order is no reason to distrust prices"
        assert clearing.bid_nusd(PAIR[0]) == PAIR[0].expected_nusd, "nothing is scarce where nobody comes"
        running.cancel()

    run_virtual(scene())


# Who is in charge -----------------------------------------------------------------------------------------------


def test_one_leads_and_the_other_stands_by_until_it_is_gone() -> None:
    """Two candidates on one store, two workers: one prices; when it stops, the other takes over with a higher token
    and the workers describe their classes to it."""

    async def scene() -> None:
        clock = LoopClock()
        store = EmbeddedStore(clock=clock)
        clearings = [Clearing(ROWS, clock, discard) for _ in range(2)]
        meters = [DemandMeter(str(k)) for k in range(2)]
        posts = [
            WorkerPost(store, f"w{k}", clock, meter=meters[k], taken=dict, publish=clearings[k].publish)
            for k in range(2)
        ]
        makers = [SharedMarketMaker(store, f"m{k}", ROWS, clock, discard, run_in=here) for k in range(2)]
        tasks = [asyncio.ensure_future(part.run(1_000)) for part in (*makers, *posts)]

        async def trade(seconds: int) -> None:
            for _ in range(seconds * 10):
                for meter in meters:
                    meter.note(order(), PAIR)
                await asyncio.sleep(0.1)

        await trade(15)
        assert [maker.leads for maker in makers] == [True, False]
        first = clearings[1].prices
        assert first is not None
        # Both workers' ten a second are seen: 30 places in 30 s, 600 orders.
        assert first.nusd_per_million["a:requests"] == pytest.approx(300_000_000, rel=0.1)
        tasks[0].cancel()
        await trade(15)
        assert makers[1].leads
        for clearing in clearings:
            second = clearing.prices
            assert second is not None
            assert second.epoch > first.epoch
            assert second.nusd_per_million["a:requests"] == pytest.approx(300_000_000, rel=0.1)
        for task in tasks:
            task.cancel()

    run_virtual(scene())


def test_a_new_leader_goes_on_from_the_last_prices_before_it_has_seen_an_order() -> None:
    """What it finds it publishes under its own token, so that workers tell it at once what they buy."""

    async def scene() -> None:
        clock = LoopClock()
        store = EmbeddedStore(clock=clock)
        clearing, meter = Clearing(ROWS, clock, discard), DemandMeter()
        post = WorkerPost(store, "w", clock, meter=meter, taken=dict, publish=clearing.publish)
        last = ShadowPrices(made_ms=clock.now_ms(), nusd_per_million={"a:requests": 7}, epoch=0)
        await store.publish(PRICES_KEY, prices_to_bytes(last))
        maker = SharedMarketMaker(store, "m", ROWS, clock, discard, run_in=here)
        assert await maker.step(1_000) is None, "nobody has ordered"
        await post.step(1_000)
        assert clearing.prices == replace(last, epoch=1)
        meter.note(order(), PAIR)
        await post.step(1_000)
        assert await maker.step(1_000) is not None, "the class was described"

    run_virtual(scene())


def test_what_others_write_in_another_language_is_passed_over() -> None:
    """A report or prices that this version does not understand stop neither the market maker nor a worker."""

    async def scene() -> None:
        clock = LoopClock()
        store = EmbeddedStore(clock=clock)
        clearing, meter = Clearing(ROWS, clock, discard), DemandMeter()
        post = WorkerPost(store, "w", clock, meter=meter, taken=dict, publish=clearing.publish)
        maker = SharedMarketMaker(store, "m", ROWS, clock, discard, run_in=here)
        await store.publish("market:demand:7", b'{"version": 2}')
        await store.publish(PRICES_KEY, b'{"version": 2}')
        for _ in range(100):
            meter.note(order(), PAIR)
        await post.step(1_000)
        await maker.step(1_000)
        await post.step(1_000)
        assert clearing.prices is not None

    run_virtual(scene())


def test_a_pricing_that_fails_leaves_the_last_prices(caplog: pytest.LogCaptureFixture) -> None:
    """The engine's own market maker logs the fault and goes on with the next round."""

    async def scene() -> None:
        clock, faults = LoopClock(), iter([True, False])

        async def flaky(work: Callable[[], ShadowPrices | None]) -> ShadowPrices | None:
            if next(faults):
                raise ArithmeticError("singular")
            return work()

        clearing, meter = Clearing(ROWS, clock, discard), DemandMeter()
        maker = LocalMarketMaker(
            ROWS, clock, discard, meter=meter, taken=dict, publish=clearing.publish, run_in=flaky
        )
        running = asyncio.ensure_future(maker.run(1_000))
        for _ in range(25):
            meter.note(order(), PAIR)
            await asyncio.sleep(0.1)
        running.cancel()
        assert clearing.prices is not None

    run_virtual(scene())
    assert "no new prices" in caplog.text


def test_instructions_survive_the_pipe() -> None:
    """Rows of all shapes, with and without a store."""
    rows = (*ROWS, LimitRow("c/m:tokens", "c", RateKind.TOKENS, 5, 60_000, frozenset({"m", "n"})))
    for store in (None, "redis://localhost/0"):
        told = Instructions(rows=rows, epoch=3, reprice_ms=500, store=store, holder="h")
        assert Instructions.from_bytes(told.to_bytes()) == told


class Worker:
    """A worker with a market maker process of its own."""

    def __init__(self, **options: Any) -> None:
        self.events: list[Event] = []
        self.meter = DemandMeter()
        self.heard: list[ShadowPrices] = []
        self.process = MarketMakerProcess(
            ROWS,
            SystemClock(),
            self.events.append,
            meter=self.meter,
            taken=dict,
            publish=self._publish,
            **options,
        )

    def _publish(self, prices: ShadowPrices) -> bool:
        self.heard.append(prices)
        return True

    async def until(self, seen: Callable[[], bool]) -> None:
        """Trade until something is seen."""
        async with asyncio.timeout(60):
            while not seen():
                self.meter.note(order(), PAIR)
                await asyncio.sleep(0.01)


async def test_a_killed_market_maker_is_started_again_and_the_worker_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A real child prices; killed, it is started again with a new epoch, and ends with its worker."""
    monkeypatch.setattr(market_maker_process, "FIRST_PAUSE_S", 0.05)
    worker = Worker()
    running = asyncio.ensure_future(worker.process.run(50))
    await worker.until(lambda: bool(worker.heard))
    first = worker.process.process
    assert first is not None
    os.kill(first.pid, signal.SIGKILL)
    await worker.until(lambda: worker.heard[-1].epoch == 2)
    assert [event.name for event in worker.events if event.name != "market.repriced"] == ["market_maker.died"]
    second = worker.process.process
    assert second is not None
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert second.returncode is not None


async def test_a_market_maker_that_hangs_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that never answers is ended after its time and started again."""
    monkeypatch.setattr(market_maker_process, "START_S", 0.2)
    worker = Worker(command=(sys.executable, "-c", "import time; time.sleep(600)"))
    running = asyncio.ensure_future(worker.process.run(50))
    await worker.until(lambda: len(worker.events) >= 1)
    assert worker.events[0].name == "market_maker.died"
    assert "gave no prices" in worker.events[0].facts["error"]
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
