"""The desk: one deadline for all sellers, late is absent, nonsense is as good as silence. And the shelf of shown quotes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from negotiator.desk import Desk
from negotiator.errors import Reject, RejectCode
from negotiator.events import Event, EventBus
from negotiator.order import Book, Candidate, Order, QualityEstimate
from negotiator.policy import consider
from negotiator.shelf import Shelf
from providers.clock import LoopClock, run_virtual
from providers.terms import (
    RFQ,
    Answer,
    Decline,
    DeclineCode,
    Delta,
    LineKind,
    Offer,
    PriceLine,
    Quantiles,
    Quote,
    RateLimit,
    Rates,
    Target,
    Ticket,
)

QUOTE = Quote(
    quote_id="q", rfq_id="r", provider="acme", model="one", tier="standard", firm=True,
    rates=Rates(10**9, 10**9, 10**9, 10**9, 10**9), lines=(PriceLine(LineKind.OUTPUT, 1, 10**9, 1000),),
    expected_nusd=1000, ceiling_nusd=2000, input_tokens=0, expected_output_tokens=1, max_output_tokens=2,
    latency_ms=Quantiles(1, 2), ttft_ms=Quantiles(1, 1), valid_for_ms=1000,
)  # fmt: skip
RFQ_ = RFQ(rfq_id="r", input_tokens=1, answer_within_ms=200)


class Seller:
    """Answers what it is told to, after so long; None = raises."""

    limits: Sequence[RateLimit] = ()

    def __init__(self, name: str, answer: Answer | None, after_s: float | None = None) -> None:
        self.name = name
        self.asked: list[RFQ] = []
        self._answer = answer
        self._after_s = after_s

    def offers(self) -> Sequence[Offer]:
        return ()

    def quote(self, rfq: RFQ) -> Any:
        self.asked.append(rfq)
        if self._answer is None:
            raise RuntimeError("a bug in somebody's seller")
        return self._answer if self._after_s is None else self._later(self._answer, self._after_s)

    async def _later(self, answer: Answer, after_s: float) -> Answer:
        await asyncio.sleep(after_s)
        return answer

    async def execute(self, ticket: Ticket) -> AsyncIterator[Delta]:
        raise AssertionError("the desk never executes")
        yield

    async def aclose(self) -> None:
        return None


def quote_of(seller: str, **changes: Any) -> Quote:
    return replace(QUOTE, provider=seller, **changes)


def test_late_and_broken_sellers_are_absent_and_the_market_goes_on() -> None:
    """One answers at once, one in time, one late, one raises: two quotes, 200 ms, and two silences told."""
    told: list[Event] = []

    async def run() -> None:
        bus = EventBus()
        bus.subscribe(told.append)
        sellers = {
            "now": Seller("now", (quote_of("now"), Decline("now", "two", DeclineCode.TOO_LONG))),
            "soon": Seller("soon", (quote_of("soon"),), after_s=0.1),
            "late": Seller("late", (quote_of("late"),), after_s=5),
            "broken": Seller("broken", None),
        }
        began_s = asyncio.get_running_loop().time()
        answers = await Desk(sellers, LoopClock(), bus.emit).ask(RFQ_)
        assert asyncio.get_running_loop().time() - began_s == pytest.approx(0.2)
        assert [quote.provider for quote in answers.quotes] == ["now", "soon"]
        assert [decline.model for decline in answers.declines] == ["two"]

    run_virtual(run())
    assert sorted(event.facts["provider"] for event in told) == ["broken", "late"]


NONSENSE = [
    {"rfq_id": "another"},
    {"ceiling_nusd": 999},
    {"expected_nusd": -1},
    {"expected_nusd": 1001},
    {"valid_for_ms": 0},
    {"max_output_tokens": 0},
]


@pytest.mark.parametrize("changes", NONSENSE, ids=str)
def test_a_quote_that_does_not_add_up_is_no_quote(changes: dict[str, Any]) -> None:
    """Wrong RFQ, ceiling below expected, negative, lines that do not sum, no validity, no output."""

    async def run() -> None:
        seller = Seller("acme", (replace(QUOTE, **changes),))
        answers = await Desk({"acme": seller}, LoopClock(), EventBus().emit).ask(RFQ_)
        assert answers.quotes == ()

    run_virtual(run())


def test_a_second_round_renews_the_quotes_of_those_asked() -> None:
    """Only the named seller hears the target; its newer quote replaces the older, the others' stand."""

    async def run() -> None:
        one, two = Seller("one", (quote_of("one", quote_id="new"),)), Seller("two", (quote_of("two"),))
        desk = Desk({"one": one, "two": two}, LoopClock(), EventBus().emit)
        first = await desk.ask(RFQ_)
        second = await desk.ask_again(RFQ_, {"one": Target(nusd=5), "gone": Target(nusd=5)})
        assert [(rfq.round, rfq.target) for rfq in one.asked] == [(1, None), (2, Target(nusd=5))]
        assert len(two.asked) == 1
        assert {quote.provider for quote in first.renewed(second).quotes} == {"one", "two"}

    run_virtual(run())


def test_a_subscriber_that_fails_is_dropped_and_the_market_goes_on() -> None:
    """Telemetry can break; orders cannot tell."""
    bus, heard = EventBus(), []

    def broken(event: Event) -> None:
        raise RuntimeError("disk full")

    bus.subscribe(broken)
    bus.subscribe(heard.append)
    for _ in range(2):
        bus.emit(Event("x", 0))
    assert len(heard) == 2


ORDER = Order(order_id="o", account="a", body={}, digests={"messages": "1", "terms.min_quality": "2"})


def shown() -> Candidate:
    return consider(ORDER, QUOTE, QualityEstimate(0.5, 0.1, 0, 1, 1), now_ms=0)


TAKEN: list[tuple[dict[str, Any], str, int, RejectCode | None]] = [
    ({}, "q", 999, None),
    ({"digests": {"messages": "1", "terms.min_quality": "other"}}, "q", 0, None),
    ({"digests": {"messages": "other"}}, "q", 0, RejectCode.INPUT_CHANGED),
    ({"account": "b"}, "q", 0, RejectCode.UNKNOWN_QUOTE),
    ({}, "p", 0, RejectCode.UNKNOWN_QUOTE),
    ({}, "q", 1000, RejectCode.QUOTE_EXPIRED),
]


@pytest.mark.parametrize(("changes", "quote_id", "now_ms", "code"), TAKEN)
def test_a_shown_quote_is_taken_by_its_account_for_its_body_while_it_holds(
    changes: dict[str, Any], quote_id: str, now_ms: int, code: RejectCode | None
) -> None:
    """Terms may change; the body, the account and the time may not."""
    shelf = Shelf()
    shelf.put(ORDER, Book(rfq_id="r", candidates=(shown(),)), RFQ_)
    found = shelf.take(quote_id, replace(ORDER, **changes), now_ms)
    assert (found.code if isinstance(found, Reject) else None) is code


def test_the_shelf_is_bounded() -> None:
    """The oldest quotes go first."""
    shelf = Shelf(max_quotes=2)
    for name in ("x", "y", "z"):
        candidate = replace(shown(), quote=replace(QUOTE, quote_id=name))
        shelf.put(ORDER, Book(rfq_id="r", candidates=(candidate,)), RFQ_)
    assert isinstance(shelf.take("x", ORDER, 0), Reject)
    assert not isinstance(shelf.take("z", ORDER, 0), Reject)
