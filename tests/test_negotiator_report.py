"""The report in hindsight: parts that sum, what each of them sees, and a log that is read back."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from negotiator.config import Config, StoreConfig
from negotiator.engine import Engine
from negotiator.errors import InputInvalid, Rejected
from negotiator.order import Completion
from negotiator.order_log import read_log
from negotiator.report import hindsight, read_market, summary
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
    name: str, billed: int, quotes: list[list[Any]], min_quality: float = 0.0, at_ms: int = 0
) -> dict[str, Any]:
    attempt = {"quote_id": "w", "outcome": "ok", "billed_nusd": billed}
    return {
        "type": "order", "order_id": name, "account": "a", "state": "SETTLED", "received_ms": at_ms, "task": None,
        "min_quality": min_quality, "rounds": [["r", quotes, []]], "award": "w", "attempts": [attempt],
        "billed_nusd": billed, "house_nusd": 0, "reject": None,
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


def test_an_answer_longer_than_expected_is_the_prices_part() -> None:
    """The cheapest was chosen, and billed twice what was expected: all of the regret is its price."""
    told, before, paid = parts(
        market_line(), order("x", 200, [quote("w", "one", 100), quote("l", "two", 300)])
    )
    assert (before, paid) == (100, 200)
    assert told == {"prices": 100, "quality": 0, "capacity": 0, "decisions": 0}


def test_choosing_the_dearer_is_the_decisions_part() -> None:
    """A cheaper one was eligible and had room: the difference is the decision's."""
    told, before, paid = parts(
        market_line(), order("x", 300, [quote("w", "one", 300), quote("l", "two", 100)])
    )
    assert (before, paid) == (100, 300)
    assert told == {"prices": 0, "quality": 0, "capacity": 0, "decisions": 200}


def test_a_model_that_was_worse_than_believed_is_the_quality_part() -> None:
    """Feedback says the cheaper model misses the floor: paying for the better one was right after all."""
    judged = [{"type": "judged", "provider": "acme", "model": "two", "score": 0.0}] * 20
    quotes = [quote("w", "one", 300), quote("l", "two", 100)]
    told, _, _ = parts(market_line(), *judged, order("x", 300, quotes, min_quality=0.8))
    assert told == {"prices": 0, "quality": 200, "capacity": 0, "decisions": 0}


def test_a_seller_that_was_out_is_the_capacity_part() -> None:
    """The cheaper model was ejected when the order came: nobody could have bought it."""
    out = {"type": "ejected", "provider": "acme", "model": "two", "at_ms": 0, "ejection_ms": 30_000}
    quotes = [quote("w", "one", 300), quote("l", "two", 100)]
    told, _, _ = parts(market_line(), out, order("x", 300, quotes, at_ms=10_000))
    assert told == {"prices": 0, "quality": 0, "capacity": 200, "decisions": 0}


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
    assert told["orders"] == found.orders
    assert told["by_account"]["default"]["orders"] == found.orders
    assert market.scores
    assert "Question" not in path.read_text()
