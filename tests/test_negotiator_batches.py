"""Running batches: paced by limits, retried, refused for good, continued after a crash, summed with the ledger."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from virtual_market import market

from negotiator.batch_counts import RunReport
from negotiator.batch_replan import PlanFacts
from negotiator.batch_results import ResultFile
from negotiator.batches import BatchRun, batch_id_of
from negotiator.config import Config, StoreConfig
from negotiator.engine import Engine
from negotiator.errors import InputInvalid
from negotiator.order_log import read_log
from negotiator.plan_lines import RequestFile, read_lines
from negotiator.report import read_market
from negotiator.store_open import open_store
from negotiator.wire import PlanOptions
from providers.clock import LoopClock, run_virtual
from providers.simulated import Fault, FaultKind, default_sellers

OPTIONS = PlanOptions(time_limit_s=2)


def lines(count: int, **terms: Any) -> list[dict[str, Any]]:
    return [
        {
            "custom_id": f"r{n}",
            "body": {"messages": [{"role": "user", "content": f"Question {n}?"}], "max_tokens": 120},
            "terms": terms,
        }
        for n in range(count)
    ]


async def run(
    engine: Engine, out: Path, requests: list[dict[str, Any]], batch_id: str = "b"
) -> tuple[RunReport, int]:
    with ResultFile(out) as results:
        report = await BatchRun(engine, batch_id, results, OPTIONS).run(read_lines(requests))
        return report, results.cost_nusd


def results_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text().splitlines()]


async def posted(engine: Engine) -> tuple[int, int]:
    balance = (await engine.rooms.store.balances("default", engine.rooms.clock.now_ms()))[0]
    return balance.posted_nusd, balance.pending_nusd


def test_every_line_has_one_result_and_the_sum_is_the_ledgers(tmp_path: Path) -> None:
    """Served and refused together are all lines, once each; their costs are what was posted."""

    async def play() -> None:
        async with market() as engine:
            requests = [*lines(30), {**lines(1, min_quality=0.999)[0], "custom_id": "never"}]
            report, cost_nusd = await run(engine, tmp_path / "out.jsonl", requests)
            results = results_of(tmp_path / "out.jsonl")
            assert Counter(r["custom_id"] for r in results) == Counter(r["custom_id"] for r in requests)
            assert (report.served, report.refused) == (30, 1)
            assert await posted(engine) == (cost_nusd, 0)
            (never,) = [r for r in results if r["custom_id"] == "never"]
            assert never["error"]["code"] == "QUALITY_UNREACHABLE"
            assert never["error"]["reject"]["counter_offers"]

    run_virtual(play())


def test_a_batch_larger_than_the_windows_takes_several_and_breaks_none(tmp_path: Path) -> None:
    """More requests than a minute holds: all are served in time, and no seller ever answered 429."""

    async def play() -> None:
        async with market(limits_scale=0.05) as engine:
            failed: list[str] = []
            engine.rooms.bus.subscribe(lambda e: failed.append(e.name) if e.name == "seller.failed" else None)
            began_ms = engine.rooms.clock.now_ms()
            report, cost_nusd = await run(engine, tmp_path / "out.jsonl", lines(400))
            assert report.served == 400
            assert engine.rooms.clock.now_ms() - began_ms > 60_000
            assert failed == []
            assert await posted(engine) == (cost_nusd, 0)

    run_virtual(play())


def test_failures_are_tried_again_and_what_they_cost_is_counted(tmp_path: Path) -> None:
    """Errors, cuts and silent sellers on the way: every line ends, and the results still sum to the ledger."""
    faults = {
        name: [
            Fault(kind=FaultKind.ERROR_500, share=0.1),
            Fault(kind=FaultKind.CUT, share=0.1),
            Fault(kind=FaultKind.NEVER_ANSWERS, share=0.05),
            Fault(kind=FaultKind.NO_USAGE, share=0.1),
        ]
        for name in ("openai", "anthropic", "deepseek", "mistral")
    }

    async def play() -> None:
        async with market(faults) as engine:
            report, cost_nusd = await run(engine, tmp_path / "out.jsonl", lines(120))
            assert report.served + report.refused == 120
            assert report.failovers > 0
            assert await posted(engine) == (cost_nusd, 0)
            assert await engine.rooms.store.audit() == ()

    run_virtual(play())


def test_an_answer_that_was_paid_but_not_written_is_found_again(tmp_path: Path) -> None:
    """The result file is lost after the run: the same batch is answered from the ledger, and nothing is paid twice."""

    async def play() -> None:
        async with market(store=await open_store("embedded://", clock=LoopClock())) as engine:
            first, cost_nusd = await run(engine, tmp_path / "one.jsonl", lines(10))
            second, again_nusd = await run(engine, tmp_path / "two.jsonl", lines(10))
            assert (first.replayed, second.replayed) == (0, 10)
            assert cost_nusd == again_nusd == (await posted(engine))[0]
            one, two = (
                sorted(results_of(tmp_path / f"{n}.jsonl"), key=lambda r: r["custom_id"])
                for n in ("one", "two")
            )
            answers = [[r["response"]["body"]["choices"] for r in rows] for rows in (one, two)]
            assert answers[0] == answers[1]

    run_virtual(play())


def test_a_torn_last_line_is_dropped_and_the_rest_is_kept(tmp_path: Path) -> None:
    """Killed in the middle of a write: that line runs again, whole lines do not."""
    out = tmp_path / "out.jsonl"
    whole = {"custom_id": "r0", "cost_usd": "0.000001", "response": {}, "error": None}
    out.write_text(json.dumps(whole) + "\n" + '{"custom_id": "r1", "cos')
    with ResultFile(out) as results:
        assert results.done == {"r0"}
        assert results.cost_nusd == 1000
    assert out.read_text() == json.dumps(whole) + "\n"


@pytest.mark.parametrize("text", ["not json\n", '{"other": 1}\n', '{"custom_id": "a", "cost_usd": "x"}\n'])
def test_a_file_that_is_no_result_is_not_written_over(tmp_path: Path, text: str) -> None:
    """A wrong --out is refused with its line, and stays as it was."""
    out = tmp_path / "precious.txt"
    out.write_text(text)
    with pytest.raises(InputInvalid, match=r"precious\.txt:1: expected a result"), ResultFile(out):
        pass
    assert out.read_text() == text


def test_the_same_content_is_the_same_batch() -> None:
    """The id follows the content, so that the same file continues and another begins."""
    assert batch_id_of(b"a") == batch_id_of(b"a") != batch_id_of(b"b")


def test_a_file_is_run_without_being_held_and_its_id_is_its_bytes(tmp_path: Path) -> None:
    """Lines are read again when they are executed; the id of the open file is that of its content."""
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(map(json.dumps, lines(30))))
    with path.open("rb") as content:
        assert batch_id_of(content) == batch_id_of(path.read_bytes())

    async def play() -> None:
        async with market() as engine:
            with ResultFile(tmp_path / "out.jsonl") as results:
                report = await BatchRun(engine, "b", results, OPTIONS).run(RequestFile(path))
            assert report.served == 30
            assert report.first_plan is not None
            assert not report.first_plan.batch.orders
            assert {r["custom_id"] for r in results_of(tmp_path / "out.jsonl")} == {
                f"r{n}" for n in range(30)
            }

    run_virtual(play())


def test_a_round_plans_a_bounded_part_of_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds of ten lines: three of them end 28 lines, each once, and no plan is of more than ten."""
    monkeypatch.setattr("negotiator.batches.MAX_PLANNED", 10)

    async def play() -> None:
        async with market() as engine:
            report, _ = await run(engine, tmp_path / "out.jsonl", lines(28))
            assert (report.rounds, report.served) == (3, 28)
            assert report.first_plan is not None
            assert len(report.first_plan.batch) == 10
            assert len(results_of(tmp_path / "out.jsonl")) == 28

    run_virtual(play())


def test_a_file_that_changes_while_it_is_run_ends_the_run_in_one_sentence(tmp_path: Path) -> None:
    """No other line is executed under a wrong name."""
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(map(json.dumps, lines(5))))

    class Swapped(RequestFile):
        def lines(self, start: int, end: int) -> Any:
            yield from super().lines(start, end)
            path.write_text("\n".join(map(json.dumps, reversed(lines(5)))))

    async def play() -> None:
        async with market() as engine:
            with ResultFile(tmp_path / "out.jsonl") as results:
                with pytest.raises(InputInvalid, match=r"in\.jsonl: expected 'r0' where it was first read"):
                    await BatchRun(engine, "b", results, OPTIONS).run(Swapped(path))
                assert not results.done

    run_virtual(play())


def test_what_a_new_plan_does_differently_is_told(tmp_path: Path) -> None:
    """Lines whose sellers failed are planned again: an event per further round says how many and what has changed."""
    faults = {
        name: [Fault(kind=FaultKind.ERROR_500, share=0.6)] for name in ("openai", "anthropic", "deepseek")
    }

    async def play() -> None:
        async with market(faults) as engine:
            told: list[Mapping[str, Any]] = []
            engine.rooms.bus.subscribe(
                lambda e: told.append(e.facts) if e.name == "batch.replanned" else None
            )
            requests = lines(40, models=["openai/*", "anthropic/*", "deepseek/*"])
            report, _ = await run(engine, tmp_path / "out.jsonl", requests)
            assert report.rounds > 1
            assert [facts["round"] for facts in told] == list(range(2, report.rounds + 1))
            assert all(0 <= facts["moved"] <= facts["lines"] <= 40 for facts in told)
            assert all(facts["offers_repriced"] == [] for facts in told)

    run_virtual(play())


def test_plans_are_compared_by_lines_offers_prices_and_limits() -> None:
    """One line moved, one offer gone, one new, one dearer, one limit lowered; lines in one plan alone do not count."""
    clock = LoopClock()
    seller = next(iter(default_sellers(clock, seed=3)))
    cheap, dear, other = seller.offers()[:3]
    before = PlanFacts({"a": "x", "b": "x", "old": "x"}, {"x": cheap, "y": cheap}, {"r": 10, "s": 1})
    after = PlanFacts({"a": "z", "b": "x", "new": None}, {"x": dear, "z": other}, {"r": 5, "s": 1})
    assert cheap.steps != dear.steps
    assert after.since(before) == {
        "lines": 2,
        "moved": 1,
        "unserved": 0,
        "offers_gone": ["y"],
        "offers_new": ["z"],
        "offers_repriced": ["x"],
        "limits_changed": ["r"],
    }
    assert after.since(PlanFacts({"old": "x"}, {}, {})) is None


def test_a_program_runs_a_batch_through_the_engine(tmp_path: Path) -> None:
    """``Engine.run`` with the same batch id goes on where it stopped, and pays nothing again."""

    async def play() -> None:
        async with market() as engine:
            out = tmp_path / "out.jsonl"
            first = await engine.run(lines(4), out, batch_id="mine", time_limit_s=2)
            again = await engine.run(lines(6), out, batch_id="mine", time_limit_s=2)
            assert (first.served, again.skipped, again.served) == (4, 4, 2)
            assert await posted(engine) == (first.cost_nusd + again.cost_nusd, 0)

    run_virtual(play())


def test_lines_that_no_plan_serves_are_in_the_order_log(tmp_path: Path) -> None:
    """Terms that nobody meets, no room in any limit: refused orders there, once each, with quotes; so a report counts them."""

    async def play() -> None:
        clock, log = LoopClock(), tmp_path / "orders.jsonl"
        config = Config(store=StoreConfig(order_log=log))
        sellers = [s for s in default_sellers(clock, seed=3, limits_scale=0.01) if s.name == "mistral"]
        async with Engine.open(config, clock=clock, sellers=sellers) as engine:
            huge = {**lines(1)[0], "custom_id": "huge"}
            huge["body"] = {"messages": [{"role": "user", "content": "word " * 9_000}], "max_tokens": 20}
            never = {**lines(1, min_quality=0.999)[0], "custom_id": "never"}
            report, cost_nusd = await run(engine, tmp_path / "out.jsonl", [*lines(3), huge, never])
            assert (report.served, report.refused) == (3, 2)
            assert ("default", "b:never") not in engine.recent, (
                "what others bought lately keeps its place there"
            )
        orders = {line["order_id"]: line for line in read_log(log) if line["type"] == "order"}
        assert len(orders) == sum(line["type"] == "order" for line in read_log(log)) == 5
        refused = {name: orders[f"b:{name}"] for name in ("huge", "never")}
        assert refused["never"]["reject"]["name"] == "QUALITY_UNREACHABLE"
        assert refused["huge"]["reject"]["name"] == "CAPACITY_EXHAUSTED"
        assert all(line["rounds"][0][1] and line["asked"]["max_output_tokens"] for line in refused.values())
        logged = read_market(read_log(log))
        assert (len(logged.served), len(logged.orders)) == (3, 5)
        assert sum(order.billed_nusd for order in logged.orders) == cost_nusd

    run_virtual(play())
