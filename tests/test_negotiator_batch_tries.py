"""Order ids a line has used: what another run of the same batch may void, and what it must leave alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from negotiator.batch_counts import RunReport
from negotiator.batch_parcel import Parcel, ParcelLine
from negotiator.batch_results import ResultFile
from negotiator.batch_tries import Tries
from negotiator.batches import BatchRun
from negotiator.config import Config
from negotiator.engine import Engine
from negotiator.order import HoldState, QualityEstimate, Reservation
from negotiator.plan_lines import read_lines
from negotiator.store import Store
from negotiator.store_open import open_store
from negotiator.wire import PlanOptions
from providers.clock import LoopClock, run_virtual
from providers.simulated import default_sellers
from providers.terms import Rates

OPTIONS = PlanOptions(time_limit_s=2)
LINES = [
    {
        "custom_id": f"r{number}",
        "body": {"messages": [{"role": "user", "content": f"Question {number}?"}], "max_tokens": 60},
        "terms": {"tiers": ["batch"], "models": ["*/gpt-5-nano"]},
    }
    for number in range(4)
]


@asynccontextmanager
async def worker(store: Store) -> AsyncIterator[Engine]:
    """A market of one seller with a batch endpoint, on a store that others share."""
    clock = LoopClock()
    sellers = [seller for seller in default_sellers(clock, seed=3) if seller.name == "openai"]
    async with Engine.open(Config(), clock=clock, sellers=sellers, store=store) as engine:
        yield engine


async def run(engine: Engine, out: Path) -> tuple[RunReport, int]:
    with ResultFile(out) as results:
        report = await BatchRun(engine, "b", results, OPTIONS).run(read_lines(LINES))
        assert results.done == {line["custom_id"] for line in LINES}
        return report, results.cost_nusd


async def money(store: Store) -> tuple[int, int]:
    balance = (await store.balances("default", LoopClock().now_ms()))[0]
    return balance.posted_nusd, balance.pending_nusd


def play(work: Callable[[Store], Awaitable[None]], url: str = "embedded://") -> None:
    """In virtual time, on a store of its own whose books are right afterwards."""

    async def whole() -> None:
        store = await open_store(url, clock=LoopClock())
        try:
            await work(store)
            assert await store.audit() == ()
        finally:
            await store.aclose()

    run_virtual(whole())


def test_what_is_with_a_vendor_is_never_voided_by_another_run(tmp_path: Path) -> None:
    """A live run has handed its lines in: another one counts their holds as in doubt and leaves them; they settle once."""

    async def work(store: Store) -> None:
        async with worker(store) as engine:
            handed_in = asyncio.Event()
            engine.rooms.bus.subscribe(lambda e: handed_in.set() if e.name == "batch.handed_in" else None)
            task = asyncio.ensure_future(run(engine, tmp_path / "out.jsonl"))
            await handed_in.wait()
            before = await money(store)
            other = Tries(engine.rooms.ledger, "b")
            await other.taken("default", "r0")
            record = await store.find_order("default", "b:r0")
            assert record is not None
            assert (record.state, await money(store)) == (HoldState.IN_DOUBT, before)
            held = await store.find_reservation(record.reservation_id)
            assert held is not None
            assert other.end("r0") == (0, held.hold_nusd)
            report, cost_nusd = await task
            assert (report.served, await money(store)) == (4, (cost_nusd, 0))

    play(work)


def test_a_line_whose_hold_another_run_voided_is_not_handed_in_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Voided between hold and call: the line stays behind, the others go in, and it comes again under a hold of its own."""

    async def work(store: Store) -> None:
        async with worker(store) as engine:
            handed_in: list[int] = []
            engine.rooms.bus.subscribe(
                lambda e: handed_in.append(e.facts["lines"]) if e.name == "batch.handed_in" else None
            )
            ledger = engine.rooms.ledger
            begin, other = ledger.begin, Tries(ledger, "b")

            async def voided_before(held: Reservation, longest_ms: int = 0) -> None:
                if held.order_id == "b:r1" and not handed_in:
                    await other.taken("default", "r1")
                await begin(held, longest_ms)

            monkeypatch.setattr(ledger, "begin", voided_before)
            report, cost_nusd = await run(engine, tmp_path / "out.jsonl")
            assert other.end("r1") == (0, 0)
            assert (report.served, handed_in) == (4, [3, 1])
            assert await money(store) == (cost_nusd, 0)

    play(work)


def test_two_runs_of_one_batch_on_one_store_each_end_and_together_cost_what_was_posted(
    tmp_path: Path,
) -> None:
    """The same file run twice at once into two result files: each has every line once, and no hold is lost or left."""

    async def work(store: Store) -> None:
        async with worker(store) as one, worker(store) as two:
            outs = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
            both = await asyncio.gather(run(one, outs[0]), run(two, outs[1]))
            assert [report.served for report, _ in both] == [4, 4]
            assert await money(store) == (sum(cost_nusd for _, cost_nusd in both), 0)

    play(work, f"embedded://{tmp_path}/ledger.db")


def test_a_parcel_read_again_knows_which_line_was_dropped(tmp_path: Path) -> None:
    """The number of a dropped line is the next one's; after a crash the line before it is not there."""
    parcel = Parcel(tmp_path / "p.jsonl", "openai", "m", began_ms=1)
    parcel.begin()
    parcel.add(_line("first"))
    parcel.drop(0)
    parcel.add(_line("second"))
    again = Parcel.read(parcel.path)
    assert again is not None
    assert again.ids == parcel.ids == {0: "second"}
    assert [line.custom_id for line in again.lines()] == ["second"]


def _line(custom_id: str) -> ParcelLine:
    return ParcelLine(
        number=0,
        custom_id=custom_id,
        order_id=f"b:{custom_id}",
        account="default",
        task=None,
        reservation_id="rsv_1",
        hold_nusd=9,
        quote_id="q_1",
        rates=Rates(0, 0, 0, 0, 0),
        expected_nusd=5,
        ceiling_nusd=9,
        dearest_nusd=9,
        input_tokens=3,
        quality=QualityEstimate(mean=0.9, sd=0.1),
        history={},
    )
