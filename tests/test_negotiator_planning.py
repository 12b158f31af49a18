"""Batches: the arrays judge as policy does, the plan keeps every limit, and broken lines do not stop the others."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from virtual_market import market

from negotiator.clearing_book import BatchBook, BatchOffer, problem_of
from negotiator.config import Config
from negotiator.engine import Engine
from negotiator.engine_book import Job, ask
from negotiator.errors import InputInvalid
from negotiator.order import Order
from negotiator.plan_asked import Asked
from negotiator.plan_book import Pairs
from negotiator.plan_lines import LineFault, PlanLine, RequestFile, read_file, read_lines
from negotiator.plan_slots import sold_over
from negotiator.plan_tokens import count_tokens, used_vocabularies
from negotiator.planning import plan_requests, read_orders
from negotiator.store import Account
from negotiator.wire import PlanOptions
from providers.base import ModelSettings, ProviderSettings
from providers.clock import SystemClock, run_virtual
from providers.http_sellers import http_seller
from solver import solve


def line(
    custom_id: str, text: str = "Say hi.", terms: dict[str, Any] | None = None, **body: Any
) -> dict[str, Any]:
    return {
        "custom_id": custom_id,
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "auto", "messages": [{"role": "user", "content": text}], **body},
        "terms": terms or {},
    }


def pairs_of(engine: Engine, orders: list[Order]) -> Pairs:
    asked, sold = Asked(), sold_over(engine.rooms, 60_000, 1)
    for order in orders:
        asked.add(order)
    counts = count_tokens(asked.texts, used_vocabularies(sold.offers))
    return Pairs(asked, sold, engine.rooms.quality, 0.9, counts)


def test_the_arrays_judge_as_policy_does(root: Path) -> None:
    """Pair by pair over the whole example workload: expected and ceiling price, p95, and whether it is eligible."""

    async def run() -> None:
        async with market() as engine:
            orders = (await read_orders(engine, read_file(root / "examples" / "workload.jsonl"))).orders
            pairs = pairs_of(engine, orders)
            offers = pairs.sold.offers
            column = {(o.provider, o.model, o.tier): j for j, o in enumerate(offers)}
            words = [pairs.priced(j) for j in range(len(offers))]
            allowed = np.zeros((len(orders), len(offers)), dtype=bool)
            for j, word in enumerate(words):
                allowed[word.rows[word.met], j] = True
            place = [{row: at for at, row in enumerate(word.rows.tolist())} for word in words]
            compared = 0
            for i, order in enumerate(orders):
                eligible = np.zeros(len(offers), dtype=bool)
                first = (
                    await ask(engine.rooms, job := Job(order, engine.rooms.clock.now_ms()))
                ) and job.rounds[0]
                for candidate in first.candidates:
                    quote = candidate.quote
                    j = column[quote.provider, quote.model, quote.tier]
                    if any(discount.kind in ("idle", "cache_hit") for discount in quote.discounts):
                        eligible[j] = allowed[i, j]  # a reduction of the moment, which no plan counts on
                        continue
                    eligible[j] = candidate.eligible
                    if not candidate.eligible:
                        continue
                    single = (candidate.expected_nusd, candidate.ceiling_nusd, quote.latency_ms.p95)
                    word, at = words[j], place[j][i]
                    assert single == (
                        word.cost_nusd[at],
                        word.ceiling_nusd[at],
                        word.latency_ms_p95[at],
                    )
                    compared += 1
                assert (eligible == allowed[i]).all(), order.body
            assert compared > 500

    run_virtual(run())


def test_a_plan_keeps_every_limit_and_beats_cheapest_first() -> None:
    """With limits that bind, the plan serves at least what cheapest-first serves, and no row is above its cap."""

    async def run() -> None:
        async with market(limits_scale=0.1) as engine:
            lines = [
                line(f"r{n}", f"Question {n}: why?", {"budget_usd": "0.01"}, max_tokens=200)
                for n in range(150)
            ]
            planned = await plan_requests(engine, lines, PlanOptions(time_limit_s=5))
            summary = planned.summary()
            assert summary["served"] == summary["served_bound"] == 150
            assert all(limit["used"] <= limit["cap"] for limit in summary["limits"])
            assert any(limit["shadow_price_usd"] != "0" for limit in summary["limits"])
            greedy = summary["baselines"]["cheapest_feasible"]
            assert greedy["served"] < 150 or float(summary["cost_usd"]) <= float(greedy["cost_usd"])
            assert summary["gap"] <= 0.01

    run_virtual(run())


def test_accounts_and_batch_budgets_are_limits() -> None:
    """An account's available money and the batch's total budget bind like any other limit."""

    async def run() -> None:
        async with market() as engine:
            await engine.rooms.store.put_account(Account(account_id="poor", budget_nusd=400_000))
            terms = {"account": "poor"}
            lines = [line(f"r{n}", f"Say {n}.", terms, max_tokens=100) for n in range(40)]
            planned = await plan_requests(engine, lines, PlanOptions())
            assert 0 < planned.plan.served < 40
            assert planned.plan.cost_nusd <= 400_000
            assert planned.summary()["rejects"] == {"FUNDS_INSUFFICIENT": 40 - planned.plan.served}
            free = [line(f"r{n}", f"Say {n}.", max_tokens=100) for n in range(40)]
            capped = await plan_requests(engine, free, PlanOptions(total_budget_usd="0.0002"))  # type: ignore[arg-type]
            assert capped.plan.cost_nusd <= 200_000
            better = await plan_requests(engine, free, PlanOptions(min_mean_quality=0.95))
            assert better.mean_quality is not None
            assert better.mean_quality >= 0.95 - 1e-6

    run_virtual(run())


BROKEN = [
    (b"{not json", "expected a JSON object"),
    (b"[]", "input should be a valid dictionary"),
    (
        json.dumps(line("a", terms={"budget_usd": "-1"})).encode(),
        "terms.budget_usd: expected US dollars >= 0",
    ),
    (json.dumps(line("a", terms={"min_quality": 1.5})).encode(), "terms.min_quality"),
    (b'{"custom_id":"a","body":{"messages":[]},"terms":{"min_quality":NaN}}', "expected a JSON object"),
    (json.dumps(line("a", terms={"speed": 3})).encode(), "terms.speed: expected no such field"),
    (json.dumps({**line("a"), "url": "/v1/other"}).encode(), "url"),
    (json.dumps({**line("a"), "custom_id": ""}).encode(), "custom_id"),
    (json.dumps(line("a", messages=[])).encode(), "messages"),
    (json.dumps(line("a", max_tokens=0)).encode(), "max_tokens"),
    (json.dumps(line("good")).encode(), "custom_id: expected each once, found 'good' of line 1 again"),
    (b"\xff\xfe", "expected a JSON object"),
]


@pytest.mark.parametrize(("text", "message"), BROKEN, ids=range(len(BROKEN)))
def test_a_broken_line_is_told_and_the_others_go_on(text: bytes, message: str) -> None:
    """The fault names the line's number and what was expected; the good lines around it are planned."""

    async def run() -> None:
        async with market() as engine:
            lines = [json.dumps(line("good")).encode(), text, json.dumps(line("other")).encode()]
            planned = await plan_requests(engine, lines, PlanOptions())
            summary = planned.summary()
            assert [fault["line"] for fault in summary["errors"]] == [2]
            assert message in summary["errors"][0]["message"]
            assert summary["served"] == 2

    run_virtual(run())


def test_blank_lines_are_passed_over_and_numbers_count_them() -> None:
    """Line numbers are the file's own."""
    read = list(read_lines([b"\n", json.dumps(line("a")).encode(), b"  \n", b"nope"]))
    assert [type(one) for one in read] == [PlanLine, LineFault]
    assert [one.number for one in read] == [2, 4]


def test_files_that_are_not_there_or_empty_are_one_sentence(tmp_path: Path) -> None:
    """A missing, empty or unreadable file raises InputInvalid naming it."""
    (tmp_path / "empty.jsonl").touch()
    for name in ("missing.jsonl", "empty.jsonl", ""):
        with pytest.raises(InputInvalid, match="expected"):
            list(read_file(tmp_path / name))


def test_rows_tell_every_request_in_order() -> None:
    """One row per line, in order; the refused carry their reject with counter-offers."""

    async def run() -> None:
        async with market() as engine:
            lines = [line("a"), line("b", terms={"min_quality": 0.999}), line("c")]
            planned = await plan_requests(engine, lines, PlanOptions())
            rows = list(planned.rows())
            assert [row["custom_id"] for row in rows] == ["a", "b", "c"]
            assert rows[0]["reject"] is None
            assert rows[0]["model"]
            assert rows[1]["reject"]["name"] == "QUALITY_UNREACHABLE"
            assert rows[1]["reject"]["counter_offers"]
            assert rows[1]["model"] is None

    run_virtual(run())


def write_lines(path: Path, lines: list[bytes]) -> RequestFile:
    path.write_bytes(b"\n".join(lines))
    return RequestFile(path)


def test_a_streamed_file_has_the_plan_of_the_same_lines_held(root: Path, tmp_path: Path) -> None:
    """Chunks priced by threads give the book, choice and answers of one thread with all orders in memory."""

    async def run() -> None:
        content = (root / "examples" / "workload.jsonl").read_bytes().splitlines()
        many = [
            json.dumps({**one, "custom_id": f"{n}-{one['custom_id']}"}).encode()
            for n in range(10)
            for one in map(json.loads, content)
        ]
        many.insert(1_000, b"{not json")
        file = write_lines(tmp_path / "many.jsonl", many)
        options = PlanOptions(time_limit_s=60, gap=1, horizon_ms=3_600_000)
        async with market() as engine:
            streamed = await plan_requests(engine, file, options)
            held = await plan_requests(engine, many, options)
            assert len(streamed.batch) == len(held.batch) > 2_000
            assert not streamed.batch.orders
            assert [fault.number for fault in streamed.batch.faults] == [1_001]
            for name in (
                "allowed",
                "able",
                "named",
                "pick",
                "cost_nusd",
                "ceiling_nusd",
                "latency_ms_p95",
                "input_tokens",
                "quality",
                "account",
            ):
                assert np.array_equal(getattr(streamed.book, name), getattr(held.book, name)), name
            row = len(held.batch) - 1
            assert (await streamed.batch.order(engine, row)).body == held.batch.orders[row].body
            assert streamed.summary()["requests"] == held.summary()["requests"]

    run_virtual(run())


def test_a_line_is_read_again_where_it_lies(tmp_path: Path) -> None:
    """Blank, broken and over-long lines before it do not move a line; a file that changed is refused by name."""

    async def run() -> None:
        texts = [
            b"",
            b"{nope",
            json.dumps(line("a", "Naïve ✓")).encode(),
            b"  ",
            json.dumps(line("b")).encode(),
        ]
        file = write_lines(tmp_path / "f.jsonl", texts)
        async with market() as engine:
            batch = await read_orders(engine, file)
            assert batch.ids == ["a", "b"]
            assert (await batch.part([1]).order(engine, 0)).body == line("b")["body"]
            assert (await batch.order(engine, 0)).body == line("a", "Naïve ✓")["body"]
            write_lines(file.path, [json.dumps(line("b")).encode(), *texts])
            with pytest.raises(InputInvalid, match=r"f\.jsonl: expected"):
                await batch.order(engine, 0)

    run_virtual(run())


def test_an_over_long_line_is_passed_over_without_being_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is one fault; the lines after it keep their numbers and places."""
    monkeypatch.setattr("negotiator.plan_lines.MAX_LINE_BYTES", 300)
    texts = [
        json.dumps(line("a")).encode(),
        json.dumps(line("long", "x" * 2_000)).encode(),
        json.dumps(line("b")).encode(),
    ]
    file = write_lines(tmp_path / "f.jsonl", texts)
    first, fault, last = file
    assert isinstance(first, PlanLine)
    assert isinstance(fault, LineFault)
    assert isinstance(last, PlanLine)
    assert fault.message.startswith("expected at most 300 bytes")
    assert (last.number, last.offset) == (3, len(texts[0]) + len(texts[1]) + 2)
    assert [again.request.custom_id for again in file.at([last.offset, first.offset])] == ["b", "a"]


def test_counter_offers_are_made_although_many_others_found_no_room() -> None:
    """Lines without room need no explanation of their own and do not use up what may be explained."""

    async def run() -> None:
        async with market(limits_scale=0.001) as engine:
            lines = [line(f"r{n}") for n in range(1_200)]
            lines.append(line("never", terms={"min_quality": 0.999}))
            planned = await plan_requests(engine, lines, PlanOptions(time_limit_s=2))
            last = planned.rejects[1_200]
            assert last.code.name == "QUALITY_UNREACHABLE"
            assert last.counter_offers

    run_virtual(run())


def test_offers_that_share_a_column_lose_nothing() -> None:
    """All offers apart and the plan's columns have the same optimum; its choice keeps all limits at the cost proven."""

    async def run() -> None:
        async with market(limits_scale=0.02) as engine:
            tiers = {"tiers": ["standard", "flex", "batch"]}
            late = {"tiers": ["standard", "flex"], "deadline_ms": 20_000}
            lines = [line(f"r{n}", f"Say {n}.", (tiers, late, {})[n % 3], max_tokens=60) for n in range(60)]
            orders = (await read_orders(engine, read_lines(lines))).orders
            planned = await plan_requests(engine, lines, PlanOptions(gap=0, time_limit_s=10))
            whole = problem_of(apart(engine, pairs_of(engine, orders)))[0]
            exact = solve(whole, gap=0, time_limit_s=10)
            plan = planned.plan
            assert len(planned.book.sold.columns) < 0.7 * whole.m
            choice = np.array([planned.offer(row) for row in range(len(lines))], dtype=np.int32)
            served = np.flatnonzero(choice >= 0)
            assert whole.allowed[served, choice[served]].all()
            assert whole.cost[served, choice[served]].sum() == plan.cost_nusd
            assert plan.served == exact.served
            assert plan.cost_bound_nusd <= exact.cost
            assert exact.cost_bound <= plan.cost_nusd
            assert {"standard", "batch"} <= {planned.offers[j].tier for j in choice[served]}
            assert all(limit.used <= limit.cap for limit in plan.limits)

    run_virtual(run())


def apart(engine: Engine, pairs: Pairs) -> BatchBook:
    """Every offer as a column of its own."""
    offers = pairs.sold.offers
    shape = len(pairs), len(offers)
    cost, allowed = np.zeros(shape, np.int64), np.zeros(shape, bool)
    inputs, outputs, busy = (np.zeros(shape, np.float32) for _ in range(3))
    for j in range(len(offers)):
        word = pairs.priced(j)
        cost[word.rows, j], allowed[word.rows, j] = word.cost_nusd, word.met
        inputs[word.rows, j], outputs[word.rows, j] = word.input_tokens, word.output_tokens
        busy[word.rows, j] = word.latency_ms_p50
    return BatchBook(
        offers=[BatchOffer(o.provider, o.model, o.tier) for o in offers],
        cost=cost,
        allowed=allowed,
        input_tokens=inputs,
        output_tokens=outputs,
        latency_ms=busy,
        rows=engine.rooms.capacity.rows,
    )


def test_a_plan_gives_no_line_to_a_vendor_that_cannot_honour_its_parameters() -> None:
    """Groq and Anthropic are cheaper and know no logit_bias: a line that uses it is planned at OpenAI, the others are not."""

    async def run() -> None:
        made = {"groq": "openai/gpt-oss-20b", "anthropic": "claude-haiku-5-5", "openai": "gpt-6.1-sol"}
        sellers = [
            http_seller(
                ProviderSettings(kind=kind, api_key_env=("KEY",), models=(ModelSettings(name=name),)),
                SystemClock(),
                {"KEY": "k"},
            )
            for kind, name in made.items()
        ]
        async with Engine.open(Config(), sellers=sellers) as engine:
            lines = [
                line("plain", max_tokens=50),
                line("biased", max_tokens=50, logit_bias={"50256": -100}),
                line("neutral", max_tokens=50, logit_bias={}),
            ]
            plan = await plan_requests(engine, lines, PlanOptions(time_limit_s=2))
            went = {row["custom_id"]: row["provider"] for row in plan.rows()}
            assert went == {"plain": "groq", "biased": "openai", "neutral": "groq"}
            alone = await plan_requests(
                engine, [line("x", max_tokens=50, logit_bias={"1": 1})], PlanOptions(time_limit_s=2)
            )
            assert [row["provider"] for row in alone.rows()] == ["openai"]

    asyncio.run(run())
