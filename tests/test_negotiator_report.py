"""The report in hindsight: parts that sum, what each of them sees, and a log that is read back."""

from __future__ import annotations

import asyncio
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from negotiator.cli import group
from negotiator.config import Config, StoreConfig
from negotiator.engine import Engine
from negotiator.errors import InputInvalid, Rejected
from negotiator.order import Completion
from negotiator.order_log import read_log
from negotiator.report import read_market
from negotiator.report_hindsight import hindsight
from negotiator.report_page import report_page
from negotiator.report_summary import report_of, summary
from negotiator.report_text import report_markdown
from negotiator.report_ways import ways
from negotiator.wire import terms_from
from providers.clock import LoopClock, run_virtual
from providers.simulated import Fault, FaultKind, Faults, default_sellers


def quote(quote_id: str, model: str, expected: int, quality: float = 0.9) -> list[Any]:
    loss = 0 if quote_id == "w" else 1
    return [
        quote_id,
        "acme",
        model,
        "standard",
        expected,
        10 * expected,
        500,
        quality,
        loss,
        [],
        100,
        50,
        300,
    ]


def order(
    name: str, billed: int, quotes: list[list[Any]], min_quality: float = 0.0, at_ms: int = 0, **more: Any
) -> dict[str, Any]:
    attempt = {"quote_id": "w", "outcome": "ok", "billed_nusd": billed}
    return {
        "type": "order", "order_id": name, "account": "a", "state": "SETTLED", "received_ms": at_ms, "task": None,
        "min_quality": min_quality, "rounds": [["r", quotes, []]], "award": "w", "attempts": [attempt],
        "billed_nusd": billed, "house_nusd": 0, "reject": None, **more,
    }  # fmt: skip


def market_line(amount: int = 100) -> dict[str, Any]:
    limit = {
        "name": "acme:requests",
        "provider": "acme",
        "kind": "requests",
        "amount": amount,
        "per_ms": 60_000,
    }
    return {"type": "market", "at_ms": 0, "limits": [{**limit, "models": None}]}


def parts(*lines: dict[str, Any]) -> tuple[dict[str, int], int, int]:
    found = hindsight(read_market(lines), time_limit_s=4)
    assert found.beforehand_nusd + sum(found.parts_nusd.values()) == found.paid_nusd
    return dict(found.parts_nusd), found.beforehand_nusd, found.paid_nusd


def test_an_answer_longer_than_expected_is_the_part_of_quotes() -> None:
    """The cheapest was chosen, and billed twice what was expected: all of the regret is its price."""
    told, before, paid = parts(
        market_line(), order("x", 200, [quote("w", "one", 100), quote("l", "two", 300)])
    )
    assert (before, paid) == (100, 200)
    assert told == {"quotes": 100, "quality": 0, "capacity": 0, "decisions": 0}


def test_choosing_the_dearer_is_the_decisions_part() -> None:
    """A cheaper one was eligible and had room: the difference is the decision's."""
    told, before, paid = parts(
        market_line(), order("x", 300, [quote("w", "one", 300), quote("l", "two", 100)])
    )
    assert (before, paid) == (100, 300)
    assert told == {"quotes": 0, "quality": 0, "capacity": 0, "decisions": 200}


def test_a_model_that_was_worse_than_believed_is_the_quality_part() -> None:
    """Feedback says the cheaper model misses the floor: paying for the better one was right after all."""
    judged = [{"type": "judged", "provider": "acme", "model": "two", "score": 0.0}] * 20
    quotes = [quote("w", "one", 300), quote("l", "two", 100)]
    told, _, _ = parts(market_line(), *judged, order("x", 300, quotes, min_quality=0.8))
    assert told == {"quotes": 0, "quality": 200, "capacity": 0, "decisions": 0}


def test_a_seller_that_was_out_is_the_capacity_part() -> None:
    """The cheaper model was ejected when the order came: nobody could have bought it."""
    out = {"type": "ejected", "provider": "acme", "model": "two", "at_ms": 0, "ejection_ms": 30_000}
    quotes = [quote("w", "one", 300), quote("l", "two", 100)]
    told, _, _ = parts(market_line(), out, order("x", 300, quotes, at_ms=10_000))
    assert told == {"quotes": 0, "quality": 0, "capacity": 200, "decisions": 0}


def test_a_seller_that_came_back_early_counts_as_there_again() -> None:
    """Ejected for 30 s and answering again after 5: an order at 10 s could have bought from it."""
    out = {"type": "ejected", "provider": "acme", "model": "two", "at_ms": 0, "ejection_ms": 30_000}
    back = {"type": "recovered", "provider": "acme", "model": "two", "at_ms": 5_000}
    quotes = [quote("w", "one", 300), quote("l", "two", 100)]
    told, _, _ = parts(market_line(), out, back, order("x", 300, quotes, at_ms=10_000))
    assert told == {"quotes": 0, "quality": 0, "capacity": 0, "decisions": 200}


def test_limits_hold_in_each_minute_of_a_log() -> None:
    """One call a minute to the seller: of two orders in one minute the optimum leaves one where it was."""
    quotes = [quote("w", "one", 300), quote("l", "two", 100)]
    line = market_line(amount=1)
    line["limits"][0]["models"] = ["two"]
    same = [order("x", 300, quotes, at_ms=0), order("y", 300, quotes, at_ms=30_000)]
    apart = [order("x", 300, quotes, at_ms=0), order("y", 300, quotes, at_ms=90_000)]
    assert parts(line, *same)[0]["decisions"] == 200
    assert parts(line, *apart)[0]["decisions"] == 400


def test_the_parts_sum_for_every_group_of_orders() -> None:
    """By account, model and task: each group's parts sum to its regret, and the groups to the whole."""
    quotes = [quote("w", "one", 300), quote("l", "two", 100)]
    lines = [
        order(f"x{n}", 300 + 10 * n, quotes, account="ab"[n % 2], task="t" * (1 + n % 3)) for n in range(9)
    ]
    told = report_of([market_line(), *lines], time_limit_s=4)
    whole = told["regret"]["regret_usd"]
    for grouping in ("account", "model", "task", "cause"):
        groups = told[f"by_{grouping}"].values()
        for one in groups:
            assert sum(map(parse, one["parts_usd"].values())) == parse(one["regret_usd"])
        assert sum(parse(one["regret_usd"]) for one in groups) == parse(whole)


def parse(usd: str) -> int:
    return round(float(usd) * 1e9)


def test_ways_of_routing_are_played_on_the_same_quotes() -> None:
    """Three models, checked by hand: the named one, the best one, the cheapest that meets the terms, two tiers."""
    rows = [quote("w", "mid", 200, 0.8), quote("c", "cheap", 100, 0.5), quote("b", "best", 400, 0.9)]
    rows[1][8] = 3  # below the order's floor
    named = [quote("w", "mid", 200, 0.8)]
    refused = order("r", 0, rows, state="REJECTED", award="", reject={"name": "FUNDS_HELD"})
    lines = [market_line(), order("x", 200, rows), order("n", 200, named, asked={"named": "mid"}), refused]
    found = ways(read_market(lines))
    assert (found["negotiator"].served, found["negotiator"].cost_nusd) == (2, 400)
    assert (found["cheapest_first"].served, found["cheapest_first"].cost_nusd) == (3, 600)
    assert (found["always_best"].served, found["always_best"].cost_nusd) == (2, 800)
    assert (found["as_requested"].served, found["as_requested"].cost_nusd) == (3, 1_000)
    assert found["always_best"].out()["saved_share"] == 0.5  # one order by both: 400 there, 200 here
    two = found["two_tier"]
    assert (two.served, two.cost_nusd, two.quality) == (2, 600, 0.95)  # 100 + half of 400, twice


def test_a_report_of_part_of_a_log() -> None:
    """Since, until and accounts choose orders; a group that was not asked for is not made."""
    quotes = [quote("w", "one", 100)]
    lines = [market_line(), *(order(f"x{n}", 100, quotes, at_ms=n, account="ab"[n % 2]) for n in range(6))]
    told = report_of(lines, since_ms=2, until_ms=5, accounts=frozenset({"a"}), by=("model",), time_limit_s=0)
    assert (told["served"], told["spend_usd"], told["regret"]) == (2, "0.0000002", None)
    assert "by_model" in told
    assert "by_account" not in told


class Tags(HTMLParser):
    """Which tags are open, and every address and script that a page names."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.outside += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in ("meta", "rect", "line", "circle", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()


def test_the_page_is_whole_by_itself_and_says_no_more_than_it_should() -> None:
    """Well-formed, with pictures and no script or address; what buyers named is escaped."""
    quotes = [quote("w", "one", 300), quote("l", "two", 100)]
    told = report_of([market_line(), order("x", 310, quotes, account="<b>&|")], time_limit_s=4)
    page, tags = report_page(told), Tags()
    tags.feed(page)
    assert tags.open == []
    assert tags.seen.count("svg") == 4
    assert "script" not in tags.seen
    assert tags.outside == []
    assert "<b>&" not in page
    assert "&lt;b&gt;&amp;|" in page
    assert "| <b>&\\| | 1 | 0 | $0.00000031 |" in report_markdown(told)


def test_nothing_served_is_a_report_too() -> None:
    """A log of refusals alone, and one without orders: no regret, no division by nothing."""
    refused = order("r", 0, [], state="REJECTED", award="", rounds=[], reject={"name": "NO_QUOTE"})
    told = report_of([market_line(), refused])
    assert (told["refused"], told["rejects"], told["regret"]) == (1, {"NO_QUOTE": 1}, None)
    assert "<svg" in report_page(told)
    assert report_page(report_of([market_line()]))


def test_an_empty_log_has_no_regret_and_broken_ones_are_named(tmp_path: Path) -> None:
    """No served order: no hindsight. A line that is no log line is named; a torn last one is passed over."""
    with pytest.raises(InputInvalid, match="at least one served order"):
        hindsight(read_market([market_line()]))
    path = tmp_path / "log.jsonl"
    path.write_text('{"type": "market", "limits": []}\n{"other": 1}\n')
    with pytest.raises(InputInvalid, match=r"log\.jsonl:2"):
        list(read_log(path))
    path.write_text('{"type": "market", "limits": []}\n{"type": "or')
    assert len(list(read_log(path))) == 1


def test_a_markets_own_log_is_reported(tmp_path: Path) -> None:
    """Orders, failures and feedback of a market in virtual time: spend equals what was paid, and the parts sum."""
    path = tmp_path / "orders.jsonl"

    async def play() -> int:
        clock = LoopClock()
        faults = {"openai": Faults([Fault(kind=FaultKind.ERROR_500, share=0.3)])}
        sellers = default_sellers(clock, seed=5, limits_scale=0.1, faults=faults)
        config = Config(store=StoreConfig(order_log=path))
        async with Engine.open(config, clock=clock, sellers=sellers) as market:
            terms = terms_from({"budget_usd": "0.02", "min_quality": 0.8})
            answers = await asyncio.gather(
                *(market.complete(f"Question {n}?", terms=terms, max_tokens=100) for n in range(60)),
                return_exceptions=True,
            )
            served = [answer for answer in answers if isinstance(answer, Completion)]
            assert all(isinstance(answer, Completion | Rejected) for answer in answers)
            for done in served[:5]:
                await market.feedback(done.order_id, 1.0)
            return sum(done.cost_nusd for done in served)

    paid = run_virtual(play())
    market = read_market(read_log(path))
    found = hindsight(market, time_limit_s=8)
    told = summary(market, found)
    assert found.paid_nusd == paid
    assert found.beforehand_nusd + sum(found.parts_nusd.values()) == paid
    assert told["served"] == len(found.orders)
    assert told["by_account"]["default"]["served"] == len(found.orders)
    assert market.scores
    assert "Question" not in path.read_text()


def test_the_demo_is_reported(tmp_path: Path) -> None:
    """`demo --log`, then `report`: what the demo says it spent is what the report adds up, and the parts sum to the regret."""
    log, page, text = tmp_path / "demo.jsonl", tmp_path / "report.html", tmp_path / "report.md"
    run = CliRunner().invoke
    shown = run(group, ["demo", "--json", "--log", str(log)], catch_exceptions=False)
    demo = json.loads(shown.stdout)
    asked = ["report", str(log), "--html", str(page), "--md", str(text), "--time-limit-s", "4"]
    told = json.loads(run(group, [*asked, "--json"], catch_exceptions=False).stdout)
    bought_later = parse(demo["counter_offer"]["taken"]["cost_usd"]) + sum(
        line["billed_nusd"]
        for line in read_log(log)
        if line["type"] == "order" and line["asked"]["models"] == ["openai/gpt-5-nano"]
    )
    assert parse(told["spend_usd"]) == parse(demo["cost_usd"]) + bought_later
    regret = told["regret"]
    assert sum(map(parse, regret["parts_usd"].values())) == parse(regret["regret_usd"])
    assert parse(regret["paid_usd"]) - parse(regret["optimum_beforehand_usd"]) == parse(regret["regret_usd"])
    assert told["ways"]["always_best"]["saved_share"] > 0.5
    assert page.read_text().startswith("<!doctype html>")
    assert "## Regret in hindsight" in text.read_text()
    only = run(group, ["report", str(log), "--since", "2100-01-01", "--by", "model"], catch_exceptions=False)
    assert "0 of 0 orders" in only.stdout
    wrong = run(group, ["report", str(log), "--since", "soon"])
    assert wrong.exit_code == 2
