"""A large file in shards: whoever prices them, here, in processes or on a Ray cluster, the plan is the same."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from negotiator import plan_shards
from negotiator.config import Config
from negotiator.engine import Engine
from negotiator.errors import InputInvalid
from negotiator.plan_book import PlanBook
from negotiator.plan_lines import RequestFile
from negotiator.plan_ray import on_ray
from negotiator.plan_shards import Engines, on_this_machine, shards_of
from negotiator.planning import PlannedBatch, plan_requests
from negotiator.store import Account
from negotiator.wire import PlanOptions
from providers.clock import LoopClock, run_virtual
from providers.simulated import default_sellers

OPTIONS = PlanOptions(horizon_ms=3_600_000, time_limit_s=30)


@pytest.fixture
def workload(tmp_path: Path, root: Path) -> RequestFile:
    """1,500 lines of several accounts, with blank, broken and repeated ones, in a file of many small shards."""
    path = tmp_path / "work.jsonl"
    make = [
        sys.executable,
        str(root / "examples" / "make_workload.py"),
        "1500",
        "--seed",
        "4",
        "--out",
        str(path),
    ]
    subprocess.run(make, check=True)
    lines = path.read_text().splitlines()
    for n in range(0, 1_500, 7):
        line = json.loads(lines[n])
        lines[n] = json.dumps({**line, "terms": {"account": f"a{n % 3}", "min_quality": 0.7}})
    lines[10], lines[700], lines[1_400] = "", "{nope", lines[3]
    path.write_text("\n".join(lines))
    return RequestFile(path)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of 64 KiB, and every file is large."""
    monkeypatch.setattr(plan_shards, "SHARD_BYTES", 65_536)
    monkeypatch.setattr(plan_shards, "LARGE_BYTES", 0)


def plan(
    file: RequestFile, engines: Engines = on_this_machine, options: PlanOptions = OPTIONS
) -> PlannedBatch:
    async def run() -> PlannedBatch:
        clock = LoopClock(1_795_514_400_000)
        async with Engine.open(Config(), clock=clock, sellers=default_sellers(clock, seed=3)) as engine:
            for n, budget in enumerate((20_000, None, 900)):
                account = Account(account_id=f"a{n}", budget_nusd=10**9, default_budget_nusd=budget)
                await engine.rooms.store.put_account(account)
            return await plan_requests(engine, file, options, engines=engines)

    return run_virtual(run())


def same(one: PlannedBatch, other: PlannedBatch) -> None:
    for name in (f.name for f in fields(PlanBook) if f.name != "sold"):
        assert np.array_equal(getattr(one.book, name), getattr(other.book, name)), name
    assert one.batch.ids == other.batch.ids
    assert one.batch.offsets == other.batch.offsets
    assert one.batch.faults == other.batch.faults
    assert one.summary() == other.summary()
    assert list(one.rows()) == list(other.rows())


def test_shards_make_the_plan_of_the_lines(workload: RequestFile) -> None:
    """Numbers of faults, accounts, ids met twice and default budgets are those of the file read at once."""
    assert len(shards_of(workload)) > 5
    sharded, held = plan(workload), plan(workload.path.read_bytes().splitlines())  # type: ignore[arg-type]
    assert [fault.number for fault in sharded.batch.faults] == [701, 1401]
    assert sharded.batch.faults == [type(f)(f.number, f.message) for f in held.batch.faults]
    assert sharded.summary() == held.summary()
    assert list(sharded.rows()) == list(held.rows())


def test_two_processes_make_the_plan_of_one(workload: RequestFile) -> None:
    """To the bit."""
    same(plan(workload), plan(workload, partial(on_this_machine, processes=2)))


def test_a_file_that_vanishes_is_one_sentence_also_from_processes(tmp_path: Path) -> None:
    """What a process finds is told as it would be here."""
    file = RequestFile(tmp_path / "gone.jsonl")
    with pytest.raises(InputInvalid, match=r"gone\.jsonl: expected a readable file"):
        plan(file, partial(on_this_machine, processes=2))


def test_estimates_change_little_and_say_how_much(
    workload: RequestFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most lines need no count; what is chosen costs what the counted plan costs, to a thousandth."""
    monkeypatch.setattr("negotiator.planning.COUNTED_AT_MOST", 100)
    guessed, counted = (
        plan(workload),
        plan(workload, options=OPTIONS.model_copy(update={"tokens": "counted"})),
    )
    told = guessed.summary()["tokens"]
    assert counted.summary()["tokens"] == {"counted": len(counted.batch), "estimated": 0, "off_p99": 0.0}
    assert told["estimated"] > 0.6 * len(guessed.batch)
    assert 0 < told["off_p99"] < 0.25
    rows = np.flatnonzero((guessed.plan.choice >= 0) & (counted.plan.choice >= 0))
    chosen = counted.book.cost_nusd[rows, guessed.plan.choice[rows]].sum()
    assert chosen == pytest.approx(counted.book.cost_nusd[rows, counted.plan.choice[rows]].sum(), rel=1e-3)
    off = guessed.book.input_tokens[rows, 0] / np.maximum(counted.book.input_tokens[rows, 0], 1) - 1
    assert np.quantile(np.abs(off[counted.book.able[rows, 0]]), 0.98) <= told["off_p99"]
    sure = guessed.book.counted
    assert np.array_equal(guessed.book.cost_nusd[sure], counted.book.cost_nusd[sure])


@pytest.mark.filterwarnings("ignore")
def test_a_ray_cluster_makes_the_plan_of_one_machine(workload: RequestFile) -> None:
    """Two workers: the same arrays, plan, bound and certificate; a mistake is told in one sentence."""
    ray: Any = pytest.importorskip("ray", reason="needs Ray: pip install 'negotiator[ray]'")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        local, spread = plan(workload), plan(workload, on_ray)
        same(local, spread)
        assert local.plan.cost_bound_nusd == spread.plan.cost_bound_nusd
        assert np.array_equal(local.plan.prices.lam, spread.plan.prices.lam)
        with pytest.raises(InputInvalid, match=r"gone\.jsonl: expected a readable file"):
            plan(RequestFile(workload.path.with_name("gone.jsonl")), on_ray)
        assert ray.is_initialized()
    finally:
        ray.shutdown()


def test_without_ray_the_engine_says_what_to_install(
    workload: RequestFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sentence with the extra's name."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputInvalid, match=r"negotiator\[ray\]"):
        plan(workload, on_ray)
