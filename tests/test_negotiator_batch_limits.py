"""What batches take of sellers' limits: their endpoints' queues, and nothing of the calls per minute."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from batch_vendors import MODELS, BatchVendor, batch_seller, hurry

from negotiator.batch_counts import RunReport
from negotiator.batch_results import ResultFile
from negotiator.batches import BatchRun
from negotiator.capacity import Capacity
from negotiator.config import Config
from negotiator.engine import Engine
from negotiator.limits import Full, LimitRow, Load, limit_rows
from negotiator.plan_lines import read_lines
from negotiator.store import Store
from negotiator.store_open import open_store
from negotiator.wire import PlanOptions
from providers.clock import SystemClock
from providers.errors import RateLimited
from providers.terms import RateKind, RateLimit
from providers.vendor_terms import load_vendor_terms

DAY_MS = 86_400_000
QUEUE = "shop:enqueued_requests"
OPTIONS = PlanOptions(time_limit_s=2)
ONE_A_MINUTE = RateLimit(RateKind.REQUESTS, 1)


def queue(requests: int) -> RateLimit:
    return RateLimit(RateKind.ENQUEUED_REQUESTS, requests, DAY_MS)


def lines(count: int, *tiers: str) -> list[dict[str, Any]]:
    return [
        {
            "custom_id": f"r{n}",
            "body": {"messages": [{"role": "user", "content": f"Question {n}?"}], "max_tokens": 60},
            "terms": {"tiers": list(tiers)},
        }
        for n in range(count)
    ]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Polls in milliseconds."""
    hurry(monkeypatch)


@asynccontextmanager
async def market(
    vendor: BatchVendor, *limits: RateLimit, store: Store | None = None
) -> AsyncIterator[Engine]:
    async with vendor.at() as url:
        seller = batch_seller(url, vendor.kind, limits=limits)
        async with Engine.open(Config(), sellers=[seller], store=store) as engine:
            yield engine


async def run(engine: Engine, out: Path, requests: Sequence[dict[str, Any]]) -> RunReport:
    with ResultFile(out) as results:
        return await BatchRun(engine, "b", results, OPTIONS).run(read_lines(requests))


def test_tiers_share_the_rows_of_a_seller_and_batches_have_their_own() -> None:
    """A minute's calls are covered but for batches; a queue covers batches alone, of its models."""
    rows = limit_rows("a", [ONE_A_MINUTE, RateLimit(RateKind.ENQUEUED_TOKENS, 5, DAY_MS, ("m",))])
    assert [row.name for row in rows] == ["a:requests", "a/m:enqueued_tokens"]
    assert [row.covers("a", "m") for row in rows] == [True, False]
    assert [row.covers("a", "m", batch=True) for row in rows] == [False, True]
    assert not rows[1].covers("a", "other", batch=True)


@pytest.mark.parametrize(("horizon_ms", "cap"), [(60_000, 100), (DAY_MS, 100), (2 * DAY_MS, 200)])
def test_a_queue_is_filled_at_once_and_again_when_its_promise_is_kept(horizon_ms: int, cap: int) -> None:
    """A hundred requests wait at most a day: a minute's plan may hand in all of them, two days' twice as many."""
    row = LimitRow("a:enqueued_requests", "a", RateKind.ENQUEUED_REQUESTS, 100, DAY_MS)
    assert row.cap_over(horizon_ms) == cap


def test_what_vendors_publish_holds_where_nothing_is_said() -> None:
    """OpenAI counts tokens of each model, Anthropic requests of all; Mistral says nothing; a configuration comes first."""
    terms = load_vendor_terms()
    assert terms.limits("openai", [ONE_A_MINUTE], batch_models=("gpt-6-luna", "gpt-5-nano")) == (
        ONE_A_MINUTE,
        RateLimit(RateKind.ENQUEUED_TOKENS, 5_000_000, DAY_MS, ("gpt-6-luna",)),
        RateLimit(RateKind.ENQUEUED_TOKENS, 2_000_000, DAY_MS, ("gpt-5-nano",)),
    )
    assert terms.limits("anthropic", (), batch_models=("claude-opus-5-5", "claude-haiku-5-5")) == (
        RateLimit(RateKind.ENQUEUED_REQUESTS, 200_000, DAY_MS),
    )
    assert terms.limits("mistral", (), batch_models=("mistral-large-4",)) == ()
    assert terms.limits("openai", (), batch_models=()) == ()
    own = (RateLimit(RateKind.ENQUEUED_TOKENS, 7), RateLimit(RateKind.ENQUEUED_REQUESTS, 8))
    assert terms.limits("openai", own, batch_models=("gpt-5-nano",)) == (
        RateLimit(RateKind.ENQUEUED_TOKENS, 7, DAY_MS, ("gpt-5-nano",)),
        RateLimit(RateKind.ENQUEUED_REQUESTS, 8, DAY_MS),
    )


async def test_a_plan_counts_batches_against_the_queue_alone() -> None:
    """One call a minute and room for five in the queue: of eight lines that take either six are served, five as a batch."""
    async with market(BatchVendor("openai"), ONE_A_MINUTE, queue(5)) as engine:
        plan = await engine.plan(lines(8, "standard", "batch"))
        limits = {limit.name: (limit.used, limit.cap) for limit in plan.plan.limits}
    tiers = [row["tier"] for row in plan.rows()]
    assert (tiers.count("batch"), tiers.count("standard"), tiers.count(None)) == (5, 1, 2)
    assert limits["shop:requests"] == (1, 1)
    assert limits[QUEUE] == (5, 5)


async def test_where_memory_is_short_a_batch_tier_counts_as_calls_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """More pairs than are kept: the tiers share a column, and one call a minute is all the plan gives either."""
    monkeypatch.setattr("negotiator.plan_slots.MOST_PAIRS", 15)
    async with market(BatchVendor("openai"), ONE_A_MINUTE, queue(5)) as engine:
        assert len(engine.rooms.sellers["shop"].offers()) == 2
        assert (await engine.plan(lines(7, "standard", "batch"))).plan.served == 6
        plan = await engine.plan(lines(8, "standard", "batch"))
    assert (plan.plan.served, [limit.name for limit in plan.plan.limits]) == (1, ["shop:requests"])


async def test_over_time_slots_the_queue_is_one() -> None:
    """What was handed in in the first of two slots waits in the second: five in all, beside a call a minute."""
    async with market(BatchVendor("openai"), ONE_A_MINUTE, queue(5)) as engine:
        requests = lines(12, "standard", "batch")
        requests[0]["terms"]["deadline_ms"] = 120_000
        plan = await engine.plan(requests, horizon_ms=240_000, slots=2, gap=0)
    tiers = [row["tier"] for row in plan.rows()]
    assert (tiers.count("batch"), tiers.count("standard")) == (5, 4)


@pytest.mark.usefixtures("quick")
async def test_a_run_hands_in_what_the_queue_takes_and_the_rest_when_there_is_room(tmp_path: Path) -> None:
    """A queue of three and eight lines that take nothing else: three, three and two, and nothing is left counted."""
    vendor = BatchVendor("openai")
    async with market(vendor, ONE_A_MINUTE, queue(3)) as engine:
        report = await run(engine, tmp_path / "out.jsonl", lines(8, "batch"))
        left = engine.rooms.capacity.enqueued()
    assert (report.served, report.refused, vendor.chats) == (8, 0, 0)
    assert [len(batch.lines) for batch in vendor.batches.values()] == [3, 3, 2]
    assert left[QUEUE] == 0
    assert set(left.values()) == {0}


@pytest.mark.usefixtures("quick")
async def test_what_an_earlier_run_handed_in_waits_still(tmp_path: Path) -> None:
    """Two of three places are a dead run's: they are counted again, and free once its batch is fetched."""
    vendor = BatchVendor("openai", ends_after=10**9)
    store, out, requests = (
        await open_store("embedded://", clock=SystemClock()),
        tmp_path / "out.jsonl",
        lines(2, "batch"),
    )
    async with market(vendor, queue(3), store=store) as engine:
        await _cut_off(run(engine, out, requests), engine, vendor)
    async with market(vendor, queue(3), store=store) as engine:
        assert engine.rooms.capacity.enqueued()[QUEUE] == 0
        await _cut_off(run(engine, out, requests), engine, vendor)
    vendor.ends_after = 1
    async with market(vendor, queue(3), store=store) as engine:
        report = await run(engine, out, requests)
        assert (report.served, engine.rooms.capacity.enqueued()[QUEUE]) == (2, 0)
    assert len(vendor.batches) == 1


async def _cut_off(running: Coroutine[Any, Any, RunReport], engine: Engine, vendor: BatchVendor) -> None:
    """Stop a run when its two lines wait at the vendor."""
    task = asyncio.ensure_future(running)
    async with asyncio.timeout(20):
        while engine.rooms.capacity.enqueued()[QUEUE] != 2 or not vendor.batches:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_a_batch_endpoint_that_is_full_keeps_no_call_away() -> None:
    """A 429 of the batch endpoint rests that endpoint; a full queue and slow batches say nothing of calls."""
    capacity = Capacity({"a": [ONE_A_MINUTE, queue(1)]}, SystemClock(), lambda event: None)
    call, batch = Load(10, 10, latency_ms=800), Load(10, 10, latency_ms=DAY_MS, batch=True)
    held = capacity.take("a", "m", batch)
    assert not isinstance(held, Full)
    full = capacity.take("a", "m", batch)
    assert isinstance(full, Full)
    assert full.lack.row == "a:enqueued_requests"
    capacity.failed("a", "m", batch, RateLimited("queue is full", retry_after_ms=9_000), 5)
    for _ in range(20):
        capacity.succeeded("a", "m", batch, None, DAY_MS)
    assert capacity.abandon_after_ms("a", "m", call) < 10_000
    assert not isinstance(capacity.take("a", "m", call), Full)
    held.settle(None)
    assert capacity.enqueued() == {"a:enqueued_requests": 0}
    assert capacity.lacks("a", "m", batch) is not None


def test_the_model_of_the_vendors_played_is_in_the_terms() -> None:
    """Every vendor whose batches the tests play and that publishes a queue has a limit for the model they use."""
    terms = load_vendor_terms()
    kinds = {
        vendor: [limit.kind for limit in terms.limits(vendor, (), batch_models=(MODELS[kind],))]
        for kind, vendor in (("openai", "openai"), ("anthropic", "anthropic"), ("gemini", "google"))
    }
    assert kinds == {
        "openai": [RateKind.ENQUEUED_TOKENS],
        "anthropic": [RateKind.ENQUEUED_REQUESTS],
        "google": [RateKind.ENQUEUED_TOKENS],
    }
