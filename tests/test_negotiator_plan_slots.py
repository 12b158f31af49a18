"""Planning over time: limits, prices and deadlines slot by slot, against brute force where it is small."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import orjson
import pytest

from negotiator.batch_results import ResultFile
from negotiator.batches import BatchRun
from negotiator.config import Config
from negotiator.engine import Engine
from negotiator.events import Event
from negotiator.plan_lines import read_lines
from negotiator.plan_slots import sold_over
from negotiator.planning import PlannedBatch, plan_requests
from negotiator.wire import PlanOptions
from providers.clock import LoopClock, run_virtual
from providers.simulated import SimulatedSeller, default_sellers
from providers.terms import Offer, RateKind, RateLimit

MINUTE_MS = 60_000
HOUR_MS = 3_600_000
PEAK_END_MS = 1_795_514_400_000
"""2026-11-24 10:00 UTC, a Tuesday: DeepSeek's peak hours end and its price is halved."""
DEAREST_HOUR_MS = PEAK_END_MS - HOUR_MS // 2


@asynccontextmanager
async def market(at_ms: int, limits: dict[str, tuple[RateLimit, ...]] | None = None) -> AsyncIterator[Engine]:
    """The simulated market, or some of its sellers with limits of the test's own."""
    clock = LoopClock(at_ms)
    sellers: Sequence[Any] = default_sellers(clock, seed=3)
    if limits is not None:
        sellers = [limited(seller, limits[seller.name]) for seller in sellers if seller.name in limits]
    async with Engine.open(Config(), clock=clock, sellers=sellers) as engine:
        yield engine


def limited(seller: SimulatedSeller, limits: tuple[RateLimit, ...]) -> Any:
    """The same seller with other limits."""

    class Limited:
        def __getattr__(self, name: str) -> Any:
            return getattr(seller, name)

        @property
        def limits(self) -> tuple[RateLimit, ...]:
            return limits

        def offers(self) -> Sequence[Offer]:
            return seller.offers()

        def offers_at(self, at_ms: int) -> Sequence[Offer]:
            return seller.offers_at(at_ms)

        def quote(self, rfq: Any) -> Any:
            return seller.quote(rfq)

        def execute(self, ticket: Any) -> Any:
            return seller.execute(ticket)

        async def aclose(self) -> None:
            await seller.aclose()

    return Limited()


def line(number: int, **terms: Any) -> dict[str, Any]:
    return {
        "custom_id": f"r{number}",
        "body": {"messages": [{"role": "user", "content": f"Question {number}?"}], "max_tokens": 40},
        "terms": terms,
    }


def test_a_price_that_falls_later_is_waited_for_where_the_deadline_allows() -> None:
    """Half an hour before the peak ends, lines without a deadline start after it at half the price."""

    async def run() -> None:
        async with market(DEAREST_HOUR_MS) as engine:
            only = {"models": ["deepseek/deepseek-flash"]}
            lines = [line(n, **only, **({"deadline_ms": 600_000} if n < 3 else {})) for n in range(6)]
            options = PlanOptions(horizon_ms=2 * HOUR_MS, slots=3, gap=0)
            planned = await plan_requests(engine, lines, options)
            rows = list(planned.rows())
            assert [row["slot_start_ms"] for row in rows] == [0] * 3 + [HOUR_MS // 2] * 3
            prices = [float(row["expected_usd"]) for row in rows]
            assert prices[3] == pytest.approx(prices[0] / 2, rel=0.01)
            assert [slot["served"] for slot in planned.summary()["slots"]] == [3, 0, 3]
            now = await plan_requests(engine, lines, options.model_copy(update={"slots": 1}))
            assert planned.plan.cost_nusd < now.plan.cost_nusd
            few = await plan_requests(engine, lines, options.model_copy(update={"slots": 2}))
            assert few.plan.served == 6  # one cut is for the deadlines, none is left for the price

    run_virtual(run())


def test_slots_are_cut_where_prices_change_and_deadlines_end() -> None:
    """Whole windows; the dearer price where one changes within a window; as many slots as are allowed."""

    async def run() -> None:
        async with market(DEAREST_HOUR_MS - 30_000) as engine:
            sold = sold_over(engine.rooms, HOUR_MS, 4, [5 * MINUTE_MS + 1, 9 * MINUTE_MS])
            edges = [(slot.start_ms, slot.end_ms, slot.latest_ms) for slot in sold.slots]
            cuts = [5 * MINUTE_MS, 9 * MINUTE_MS, 31 * MINUTE_MS]
            assert edges == [
                (start, end, end - MINUTE_MS) for start, end in itertools.pairwise([0, *cuts, HOUR_MS])
            ]
            flash = [
                {sold.offers[j].rates_for(0).input_nusd_per_mtok for j in column.members}
                for column in sold.columns
                if sold.offers[column.members[0]].model == "deepseek-flash"
            ]
            assert flash == [{300_000_000}] * 3 + [{150_000_000}]
            assert len(sold_over(engine.rooms, HOUR_MS, 2, [5 * MINUTE_MS]).slots) == 2
            assert len(sold_over(engine.rooms, HOUR_MS, 4, [5 * MINUTE_MS], lines=10**6).slots) == 1
            assert len(sold_over(engine.rooms, MINUTE_MS, 4, [10_000]).slots) == 1

    run_virtual(run())


def test_a_deadline_keeps_a_line_out_of_later_slots_and_each_slot_has_its_limit() -> None:
    """Three lines must start in the first minute, whose limit is two; the others wait their turn."""

    async def run() -> None:
        limits = {"mistral": (RateLimit(RateKind.REQUESTS, 2),)}
        async with market(PEAK_END_MS, limits) as engine:
            lines = [line(n, **({"deadline_ms": 70_000} if n < 3 else {})) for n in range(6)]
            planned = await plan_requests(
                engine, lines, PlanOptions(horizon_ms=3 * MINUTE_MS, slots=3, gap=0)
            )
            starts = [row["slot_start_ms"] for row in planned.rows()]
            assert sorted(start for start in starts[:3] if start is not None) == [0, 0]
            assert starts[3:] == [MINUTE_MS] * 3
            assert planned.plan.served == planned.plan.served_bound == 5
            assert {r.code.name for r in planned.rejects.values()} == {"CAPACITY_EXHAUSTED"}
            assert "@" in str(next(iter(planned.rejects.values())).facts["limit"])

    run_virtual(run())


@pytest.mark.parametrize("seed", range(6))
def test_the_plan_is_the_best_of_all_that_start_in_time(seed: int) -> None:
    """Five lines, two models, three slots: every choice of offer and slot tried, with single quotes' arithmetic."""

    async def run() -> None:
        rng = np.random.default_rng(seed)
        limits = {
            "mistral": (
                RateLimit(RateKind.REQUESTS, int(rng.integers(1, 3))),
                RateLimit(RateKind.TOKENS, 900),
            ),
            "deepseek": (RateLimit(RateKind.REQUESTS, 1),),
        }
        async with market(
            DEAREST_HOUR_MS - HOUR_MS // 2 + int(rng.integers(28, 30)) * MINUTE_MS, limits
        ) as engine:
            globs = {"models": ["deepseek/deepseek-flash", "mistral/mistral-small-2603"]}
            deadlines = rng.choice([50_000, 110_000, 0], size=5)
            lines = [
                line(n, **globs, **({"deadline_ms": int(d)} if d else {})) for n, d in enumerate(deadlines)
            ]
            options = PlanOptions(horizon_ms=4 * MINUTE_MS, slots=3, gap=0, time_limit_s=20)
            planned = await plan_requests(engine, lines, options)
            sold = planned.book.sold
            served, cost = 0, 0
            for choice in itertools.product(range(-1, len(sold.columns)), repeat=len(lines)):
                if all(c < 0 or startable(planned, deadlines, i, c) for i, c in enumerate(choice)) and fits(
                    engine, planned, choice
                ):
                    count = sum(c >= 0 for c in choice)
                    nusd = sum(int(planned.book.cost_nusd[i, c]) for i, c in enumerate(choice) if c >= 0)
                    if (count, -nusd) > (served, -cost):
                        served, cost = count, nusd
            assert (planned.plan.served, planned.plan.cost_nusd) == (served, cost)

    run_virtual(run())


def startable(planned: PlannedBatch, deadlines: Any, row: int, column: int) -> bool:
    """Whether a call that starts in the last window of the column's slot ends by the line's deadline."""
    sold, book = planned.book.sold, planned.book
    end_ms = sold.slots[sold.columns[column].slot].end_ms
    model = sold.offers[sold.columns[column].members[0]].model
    if model not in ("deepseek-flash", "mistral-small-2603") or sold.columns[column].standard < 0:
        return False
    if not deadlines[row]:
        return True
    p95 = max(int(book.latency_ms_p95[row, c]) for c in columns_of_model(planned, model))
    return end_ms - MINUTE_MS + p95 <= int(deadlines[row])


def columns_of_model(planned: PlannedBatch, model: str) -> list[int]:
    sold = planned.book.sold
    return [
        c
        for c, one in enumerate(sold.columns)
        if one.standard >= 0 and sold.offers[one.standard].model == model
    ]


def fits(engine: Engine, planned: PlannedBatch, choice: Sequence[int]) -> bool:
    """Whether every limit holds in every slot."""
    sold, book = planned.book.sold, planned.book
    for row in engine.rooms.capacity.rows:
        used = [0.0] * len(sold.slots)
        for i, c in enumerate(choice):
            offer = sold.offers[sold.columns[c].members[0]]
            if c >= 0 and row.covers(offer.provider, offer.model):
                tokens = float(book.input_tokens[i, c] + book.output_tokens[i, c])
                used[sold.columns[c].slot] += 1.0 if row.kind is RateKind.REQUESTS else tokens
        for slot, amount in zip(sold.slots, used, strict=True):
            if amount > row.cap_over(slot.end_ms - slot.start_ms):
                return False
    return True


def test_a_run_keeps_to_the_slots_and_plans_again_before_each(tmp_path: Path) -> None:
    """Lines without a deadline are called after the price has fallen; the new plan and what changed are in the log."""

    async def run() -> None:
        async with market(DEAREST_HOUR_MS) as engine:
            told: list[Event] = []
            engine.rooms.bus.subscribe(told.append)
            only = {"models": ["deepseek/deepseek-flash"]}
            lines = [line(n, **only, **({"deadline_ms": 600_000} if n < 3 else {})) for n in range(6)]
            options = PlanOptions(horizon_ms=2 * HOUR_MS, slots=3)
            with ResultFile(tmp_path / "out.jsonl") as results:
                report = await BatchRun(engine, "b", results, options).run(read_lines(lines))
            assert (report.served, report.rounds) == (6, 2)
            written = (tmp_path / "out.jsonl").read_bytes().splitlines()
            answers = {one["custom_id"]: one for one in map(orjson.loads, written)}
            when = [answers[f"r{n}"]["response"]["body"]["created"] * 1_000 for n in range(6)]
            assert max(when[:3]) < DEAREST_HOUR_MS + 600_000
            assert min(when[3:]) >= PEAK_END_MS
            costs = [float(answers[f"r{n}"]["cost_usd"]) for n in range(6)]
            assert sum(costs[3:]) < 0.7 * sum(costs[:3])
            (replanned,) = (event for event in told if event.name == "batch.replanned")
            assert replanned.facts["lines"] == 3
            assert replanned.facts["offers_repriced"] == [
                "deepseek/deepseek-flash:standard",
                "deepseek/deepseek-v4-pro:standard",
            ]

    run_virtual(run())


def test_a_seller_that_goes_down_while_lines_wait_is_planned_around(tmp_path: Path) -> None:
    """What waited for the cheap hour of a seller that is out by then goes to another; the log says which is gone."""

    async def run() -> None:
        async with market(DEAREST_HOUR_MS) as engine:
            told: list[Event] = []
            engine.rooms.bus.subscribe(told.append)
            sellers = cast(dict[str, Any], engine.rooms.sellers)
            asyncio.get_running_loop().call_later(600, sellers.pop, "deepseek")
            lines = [line(n, models=["deepseek/deepseek-flash", "mistral/mistral-large-4"]) for n in range(4)]
            options = PlanOptions(horizon_ms=2 * HOUR_MS, slots=3)
            with ResultFile(tmp_path / "out.jsonl") as results:
                report = await BatchRun(engine, "b", results, options).run(read_lines(lines))
            assert report.served == 4
            assert set(report.models) == {"mistral/mistral-large-4"}
            (replanned,) = (event for event in told if event.name == "batch.replanned")
            assert "deepseek/deepseek-flash:standard" in replanned.facts["offers_gone"]
            assert replanned.facts["moved"] == 4

    run_virtual(run())
