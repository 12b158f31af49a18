"""A batch as a server runs it: room left to others, priority by value, a time to end by, what was cut off or lost."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from virtual_market import market

from negotiator.batch_progress import Pace, Progress
from negotiator.batch_results import ResultFile, ResultTally
from negotiator.batch_share import Share
from negotiator.batch_tries import Tries
from negotiator.batches import BatchRun, Circumstances
from negotiator.capacity import Capacity
from negotiator.errors import Reject, RejectCode
from negotiator.events import Event, discard
from negotiator.intake import to_order
from negotiator.limits import Full, Load
from negotiator.order import Order
from negotiator.plan_lines import read_lines
from negotiator.wire import PlanOptions, Terms, terms_from
from providers.clock import run_virtual
from providers.terms import RateKind, RateLimit, Usage

OPTIONS = PlanOptions(time_limit_s=2)
MINUTE_MS = 60_000
CANCELLED = Reject(code=RejectCode.CANCELLED, message="it was cancelled")


class Stopped:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.at_ms = 0

    def now_ms(self) -> int:
        return self.at_ms

    def monotonic_ms(self) -> int:
        return self.at_ms


def shop(clock: Any, **limits: int) -> Capacity:
    rows = tuple(RateLimit(RateKind(kind), amount) for kind, amount in limits.items())
    return Capacity({"s": rows}, clock, discard)


def taken(share: Share, load: Load, most: int = 1_000, **how: bool) -> int:
    """How many calls of a batch find room now."""
    for count in range(most):
        if isinstance(share.take("s", "m", load, **how), Full):
            return count
    return most


LOAD = Load(10, 10)


def test_a_twentieth_is_left_where_nobody_came() -> None:
    """100 calls a minute and nobody else: a batch gets 95, and an interactive call finds room at once."""
    capacity = shop(Stopped(), requests=100)
    share = Share(capacity)
    assert taken(share, LOAD) == 95
    assert not isinstance(capacity.take("s", "m", LOAD), Full)


def test_a_batch_takes_what_interactive_calls_leave() -> None:
    """40 interactive calls in the last minute: 50 are left to such calls, a quarter more than came, 50 to the batch."""
    clock = Stopped()
    capacity = shop(clock, requests=100)
    share = Share(capacity)
    for _ in range(40):
        capacity.take("s", "m", LOAD)
    clock.at_ms = 30_000
    assert taken(share, LOAD) == 50
    for _ in range(10):
        assert not isinstance(capacity.take("s", "m", LOAD), Full)


def test_demand_is_forgotten_within_minutes() -> None:
    """Half of what others used is forgotten a minute after it left the window."""
    clock = Stopped()
    capacity = shop(clock, requests=1_000)
    share = Share(capacity)
    for _ in range(800):
        capacity.take("s", "m", LOAD)
    share.look(clock.at_ms)
    clock.at_ms += 3 * MINUTE_MS
    assert taken(share, LOAD) == 1_000 - 800 * 5 // 4 // 8


def test_urgent_batches_compete_as_others_do() -> None:
    """A batch that would be late takes all that is left."""
    share = Share(shop(Stopped(), requests=100))
    assert taken(share, LOAD, urgent=True) == 100


def test_slots_in_flight_are_shared_too() -> None:
    """Of 20 calls at once others have 8: ten are theirs, ten the batch's; what ends comes back."""
    clock = Stopped()
    capacity = shop(clock, concurrency=20)
    share = Share(capacity)
    for _ in range(8):
        capacity.take("s", "m", LOAD)
    slot = share.take("s", "m", LOAD)
    assert not isinstance(slot, Full)
    assert taken(share, LOAD) == 9
    slot.settle(None)
    slot.settle(None)
    assert taken(share, LOAD) == 1


def test_what_a_call_used_less_comes_back_to_the_batch() -> None:
    """Expected 200 tokens of 1,000 each, used 20: room for the rest is there again; a call never made gives all back."""
    clock = Stopped()
    capacity = shop(clock, tokens=1_000)
    share, load = Share(capacity), Load(100, 100)
    slots = [share.take("s", "m", load) for _ in range(4)]
    assert taken(share, load) == 0
    for slot in slots:
        assert not isinstance(slot, Full)
        slot.settle(Usage(10, 10))
    assert taken(share, load) == 4
    clock.at_ms = MINUTE_MS
    slot = share.take("s", "m", load)
    assert not isinstance(slot, Full)
    slot.release()
    assert taken(share, load) == 4


def test_one_large_call_is_never_shut_out() -> None:
    """A call of 990 of 1,000 tokens goes where the batch has nothing else out, though a twentieth is not left."""
    share, load = Share(shop(Stopped(), tokens=1_000)), Load(500, 490)
    assert taken(share, load) == 1


def test_a_wait_is_until_room_is_there() -> None:
    """Told to come again after so long, the batch then finds room."""
    clock = Stopped()
    share = Share(shop(clock, requests=20))
    assert taken(share, LOAD) == 19
    full = share.take("s", "m", LOAD)
    assert isinstance(full, Full)
    assert full.retry_after_ms is not None
    clock.at_ms += full.retry_after_ms
    assert not isinstance(share.take("s", "m", LOAD), Full)


def test_the_pace_is_that_of_the_last_minute() -> None:
    """Ten a second for a minute, then five: after another minute the rate is five and the rest takes as long."""
    pace = Pace(0, 0)
    for second in range(1, 121):
        pace.note(second * 1_000, 10 * min(second, 60) + 5 * max(0, second - 60))
    assert round(pace.per_second(120_000, 900), 1) == 5.0
    assert pace.left_ms(120_000, 900, 1_000) == 20_000
    assert Pace(0, 0).left_ms(0, 0, 10) is None


def test_the_bar_of_a_run_says_rate_spent_and_saved() -> None:
    """Forty of a hundred lines in ten seconds: four a second, what they cost and saved, a quarter of a minute left."""
    from negotiator.cli.run import progress_facts

    tally = ResultTally(served=38, refused=2, cost_nusd=1_234_500_000, saved_nusd=20_000_000)
    stands = Progress.of(Pace(0, 0), tally, 100, 10_000)
    assert progress_facts(stands) == "4.0/s, $1.2345 spent, $0.020000 saved"
    assert stands.eta_s == 15


def line(name: str, **terms: Any) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": f"Question {name}?"}], "max_tokens": 120}
    return {"custom_id": name, "body": body, "terms": terms}


def results_of(path: Path) -> dict[str, Mapping[str, Any]]:
    found = [json.loads(text) for text in path.read_text().splitlines()]
    return {result["custom_id"]: result for result in found}


def test_a_line_whose_own_terms_conflict_is_refused_at_once(tmp_path: Path) -> None:
    """Within a window nothing is hoped for that time does not bring: good and cheap at once is refused in the first round."""

    async def play() -> None:
        async with market() as engine:
            until_ms = engine.rooms.clock.now_ms() + 3_600_000
            with ResultFile(tmp_path / "out.jsonl") as results:
                within = Circumstances(until_ms=until_ms)
                run = BatchRun(engine, "b", results, OPTIONS, within=within)
                lines = [line("good"), line("no", budget_usd="0.00003", min_quality=0.95)]
                report = await run.run(read_lines(lines))
            assert (report.served, report.refused, report.rounds) == (1, 1, 1)

    run_virtual(play())


def test_offers_too_slow_for_the_window_are_not_planned_with(tmp_path: Path) -> None:
    """A minute is too short for batch tiers, which are cheaper: the lines go to a standard tier and are done in time."""

    async def play(window_ms: int) -> set[str]:
        async with market() as engine:
            now_ms = engine.rooms.clock.now_ms()
            out = tmp_path / f"{window_ms}.jsonl"
            with ResultFile(out) as results:
                within = Circumstances(until_ms=now_ms + window_ms)
                run = BatchRun(engine, "b", results, OPTIONS, within=within)
                models = ["openai/gpt-6-luna"]
                await run.run(read_lines([line("a", tiers=["standard", "batch"], models=models)]))
            assert engine.rooms.clock.now_ms() - now_ms < window_ms
            return {result["response"]["body"]["negotiator"]["tier"] for result in results_of(out).values()}

    assert run_virtual(play(120_000)) == {"standard"}
    assert run_virtual(play(48 * 3_600_000)) == {"batch"}


def test_lines_worth_more_go_first(tmp_path: Path) -> None:
    """Six calls a minute for 35 lines: the five with a value are among the first six, though last in the file."""

    async def play() -> None:
        async with market(limits_scale=0.02) as engine:
            plain = [line(f"plain{n}", models=["mistral/*"]) for n in range(30)]
            dear = [line(f"dear{n}", models=["mistral/*"], value_usd="1") for n in range(5)]
            out = tmp_path / "out.jsonl"
            with ResultFile(out) as results:
                within = Circumstances(until_ms=engine.rooms.clock.now_ms() + 3_600_000)
                run: BatchRun

                def enough(report: Any) -> None:
                    if report.served >= 6:
                        run.stop()

                run = BatchRun(engine, "b", results, OPTIONS, enough, within=within)
                await run.run(read_lines([*plain, *dear]))
                served = list(results_of(out))
            assert {f"dear{n}" for n in range(5)} < set(served[:6])

    run_virtual(play())


def test_a_stopped_run_gives_every_line_an_end(tmp_path: Path) -> None:
    """Lines that were not begun end with the code of the end, at no cost; they are told of as refused orders are."""

    async def play() -> None:
        async with market() as engine:
            out, told = tmp_path / "out.jsonl", list[tuple[str, str]]()

            def note(event: Event) -> None:
                if event.name == "order.rejected":
                    told.append((event.facts["order_id"], event.facts["reject"]))

            engine.rooms.bus.subscribe(note)
            with ResultFile(out) as results:
                run = BatchRun(engine, "b", results, OPTIONS)
                run.stop()
                await run.run(read_lines([line("a"), line("b")]))
                await run.end("batch_cancelled", CANCELLED, restarted=False)
            found = results_of(out)
            assert {result["error"]["code"] for result in found.values()} == {"batch_cancelled"}
            assert {result["cost_usd"] for result in found.values()} == {"0"}
            assert told == [("b:a", "CANCELLED"), ("b:b", "CANCELLED")]
            assert await engine.rooms.store.audit() == ()

    run_virtual(play())


def order_of(name: str) -> Order:
    order = to_order(line(name)["body"], terms_from({"budget_usd": "0.01"}))
    assert not isinstance(order, Reject)
    return order


def test_an_answer_that_was_paid_and_not_written_is_found_at_the_end(tmp_path: Path) -> None:
    """Bought before a crash, cancelled after it: the line has its answer, and is not paid twice."""

    async def play() -> None:
        async with market() as engine:
            tries = Tries(engine.rooms.ledger, "b")
            done = await engine.buy(tries.numbered(order_of("a"), "a"))
            out = tmp_path / "out.jsonl"
            with ResultFile(out) as results:
                run = BatchRun(engine, "b", results, OPTIONS)
                run.stop()
                await run.run(read_lines([line("a"), line("b")]))
                await run.end("batch_cancelled", CANCELLED, restarted=True)
                assert results.cost_nusd == done.cost_nusd
            found = results_of(out)
            assert found["a"]["response"]["body"]["negotiator"]["replayed"]
            assert found["b"]["error"]["code"] == "batch_cancelled"

    run_virtual(play())


def test_ids_of_different_lines_never_meet() -> None:
    """A second try of line ``a`` is not the first of ``a:1``; a line's id is used again while it cost nothing."""
    tries = Tries(None, "b")  # type: ignore[arg-type]
    order = order_of("a")
    assert tries.numbered(order, "a").order_id == "b:a"
    free = Reject(code=RejectCode.CAPACITY_EXHAUSTED, message="full")
    charged = Reject(code=RejectCode.PROVIDERS_FAILED, message="cut", facts={"charged_usd": "0.000001"})
    tries.failed("a", free)
    assert tries.numbered(order, "a").order_id == "b:a"
    tries.failed("a", charged)
    assert tries.numbered(order, "a").order_id == "b+1:a" != tries.numbered(order, "a:1").order_id
    assert tries.end("a") == (1_000, 0)


def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    """The second is told so; when the first has ended it may."""
    import pytest

    from negotiator.errors import InputInvalid

    with ResultFile(tmp_path / "out.jsonl"), pytest.raises(InputInvalid, match="another run"):
        ResultFile(tmp_path / "out.jsonl").__enter__()
    with ResultFile(tmp_path / "out.jsonl") as results:
        assert results.done == set()


def test_default_terms_fill_what_a_line_leaves_open(tmp_path: Path) -> None:
    """The batch's budget holds for a line that names none, and the same lines under the same defaults replay."""

    async def play() -> None:
        async with market() as engine:
            out = tmp_path / "out.jsonl"
            with ResultFile(out) as results:
                within = Circumstances(defaults=Terms(budget_usd="0.000000001"))
                run = BatchRun(engine, "b", results, OPTIONS, within=within)
                await run.run(read_lines([line("poor"), line("rich", budget_usd="0.1")]))
            found = results_of(out)
            assert found["poor"]["error"]["code"] == "BUDGET_TOO_LOW"
            assert found["rich"]["error"] is None

    run_virtual(play())
