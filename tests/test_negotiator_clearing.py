"""Clearing: the lowest bid that fits, runners-up, holds, refusals; and batches through the solver."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from negotiator.clearing import STALE_MS, Clearing
from negotiator.clearing_batch import BatchBook, BatchLimit, BatchOffer, clear_batch, problem_of
from negotiator.errors import Reject, RejectCode
from negotiator.events import Event
from negotiator.limits import Lack, LimitRow, Load, ShadowPrices, limit_rows, load_of
from negotiator.order import Assignment, Candidate, Loss, Lost, Order, QualityEstimate
from providers.terms import LineKind, PriceLine, Quantiles, Quote, RateKind, RateLimit, Rates

FREE = Rates(0, 0, 0, 0, 0)
ROWS = tuple(
    row
    for provider in "abc"
    for row in limit_rows(
        provider,
        [RateLimit(kind, 100) for kind in RateKind] + [RateLimit(RateKind.REQUESTS, 50, models=("small",))],
    )
)


class HandClock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.ms = 1_000_000

    def now_ms(self) -> int:
        return self.ms


class Rooms:
    """Says of which offers there is room: ``full`` and ``out`` are ``provider`` or ``provider/model``."""

    def __init__(self, full: str = "", out: str = "", probe: str = "", waits: dict[str, Any] | None = None):
        self._full, self._out, self._probe = full.split(), out.split(), probe.split()
        self._waits = waits or {}

    def lacks(self, provider: str, model: str, load: Load, *, retry: bool = False) -> Lack | None:
        if provider in self._out:
            return Lack(f"{provider}/{model}:ejected", Loss.EJECTED)
        if provider in self._full or f"{provider}/{model}" in self._full:
            return Lack(f"{provider}:requests")
        return None

    def may_probe(self, provider: str, model: str) -> bool:
        return provider in self._probe

    def retry_after_ms(self, provider: str, model: str, load: Load) -> int | None:
        return self._waits.get(provider, 5_000)


def offer(
    key: str, expected_nusd: int, ceiling_nusd: int | None = None, quality: float = 0.8, **quote: Any
) -> Candidate:
    """A candidate ``provider/model``: 1,000 tokens in (200 of them cached), 100 out, 700 ms."""
    provider, model = key.split("/")
    ceiling_nusd = 2 * expected_nusd if ceiling_nusd is None else ceiling_nusd
    told = Quote(
        quote_id=key,
        rfq_id="r",
        provider=provider,
        model=model,
        tier="standard",
        firm=True,
        rates=FREE,
        lines=(PriceLine(LineKind.CACHE_READ, 200, 0, 0),),
        expected_nusd=expected_nusd,
        ceiling_nusd=ceiling_nusd,
        input_tokens=1_000,
        expected_output_tokens=100,
        max_output_tokens=400,
        latency_ms=Quantiles(quote.get("p50", 700), 2_000),
        ttft_ms=Quantiles(200, 400),
        valid_for_ms=30_000,
    )
    return Candidate(
        quote=told,
        estimate=QualityEstimate(quality, 0.1, 5, 100, 300),
        expected_nusd=expected_nusd,
        ceiling_nusd=ceiling_nusd,
        max_output_tokens=400,
        valid_until_ms=0,
    )


def order(**terms: Any) -> Order:
    return Order(order_id="o", account="default", body={}, **terms)


class Market:
    """A clearing with its clock and what it told."""

    def __init__(
        self, prices: dict[str, int] | None = None, unserved_nusd: int | None = None, heat: float = 0.0
    ) -> None:
        self.clock = HandClock()
        self.events: list[Event] = []
        self.clearing = Clearing(ROWS, self.clock, self.events.append)
        if prices is not None:
            self.publish(prices, unserved_nusd, heat=heat)

    def publish(
        self,
        prices: dict[str, int],
        unserved_nusd: int | None = None,
        epoch: int = 0,
        heat: float = 0.0,
    ) -> bool:
        made_ms = self.clock.now_ms()
        return self.clearing.publish(
            ShadowPrices(
                made_ms=made_ms,
                nusd_per_million=prices,
                unserved_nusd=unserved_nusd,
                epoch=epoch,
                heat=heat,
            )
        )

    def choose(self, ranked: list[Candidate], room: Rooms | None = None, **terms: Any) -> Assignment | Reject:
        return self.clearing.choose(order(**terms), ranked, room or Rooms())

    def award(self, ranked: list[Candidate], room: Rooms | None = None, **terms: Any) -> str:
        chosen = self.choose(ranked, room, **terms)
        assert isinstance(chosen, Assignment), chosen
        return chosen.award.quote.key


def keys(assignment: Assignment | Reject) -> list[str]:
    assert isinstance(assignment, Assignment), assignment
    return [candidate.quote.key for candidate in assignment.candidates]


# The award ------------------------------------------------------------------------------------------------------


def test_without_prices_the_cheapest_that_fits_wins() -> None:
    """No market maker yet: the first in the policy's order with room gets it."""
    ranked = [offer("a/m", 100), offer("b/m", 200), offer("c/m", 300)]
    assert Market().award(ranked) == "a/m"
    assert Market().award(ranked, Rooms(full="a")) == "b/m"


@pytest.mark.parametrize(
    ("kind", "shadow_nusd"),
    [
        (RateKind.REQUESTS, 1),
        (RateKind.TOKENS, 1_100),
        (RateKind.INPUT_TOKENS, 1_000),
        (RateKind.UNCACHED_INPUT_TOKENS, 800),
        (RateKind.OUTPUT_TOKENS, 100),
        (RateKind.CONCURRENCY, 700),
    ],
)
def test_a_bid_is_the_cost_plus_what_its_room_is_worth(kind: RateKind, shadow_nusd: int) -> None:
    """Each kind of row is priced by what the call is expected to use of it: 1,000 in, 200 cached, 100 out, 700 ms."""
    market = Market({f"a:{kind}": 1_000_000})
    assert market.clearing.bid_nusd(offer("a/m", 50)) == 50 + shadow_nusd
    assert market.clearing.bid_nusd(offer("b/m", 50)) == 50


def test_rows_of_single_models_are_priced_for_them_alone() -> None:
    """A model's own row adds to its seller's."""
    market = Market({"a:requests": 10_000_000, "a/small:requests": 5_000_000})
    assert market.clearing.bid_nusd(offer("a/small", 0)) == 15
    assert market.clearing.bid_nusd(offer("a/large", 0)) == 10


def test_scarce_room_sends_the_order_elsewhere() -> None:
    """The cheapest offer's scarce room costs more than the next one's price: it is left to whoever needs it."""
    market = Market({"a:requests": 150_000_000})
    assert market.award([offer("a/m", 100), offer("b/m", 200), offer("c/m", 300)]) == "b/m"


@given(st.integers(0, 2**32), st.integers(1, 25))
def test_the_lazy_line_is_the_sorted_line(seed: int, count: int) -> None:
    """For any costs and prices the award and both runners-up are what sorting all bids would give."""
    rng = random.Random(seed)
    market = Market({row.name: rng.choice((0, 0, 10**6, 10**8)) for row in ROWS})
    offers = [
        offer(f"{rng.choice('abc')}/m{k}", rng.randrange(1_000), p50=rng.randrange(1, 900))
        for k in range(count)
    ]
    ranked = sorted(offers, key=lambda c: (c.expected_nusd, c.quote.latency_ms.p50))
    by_bid = sorted(ranked, key=market.clearing.bid_nusd)
    chosen = market.choose(ranked)
    assert isinstance(chosen, Assignment)
    assert chosen.award is by_bid[0]
    sellers, others, same = {by_bid[0].quote.provider}, [], []
    for candidate in by_bid[1:]:
        (same if candidate.quote.provider in sellers else others).append(candidate)
        sellers.add(candidate.quote.provider)
    assert list(chosen.runners_up) == (others[:2] + same)[:2]


def test_other_policies_keep_their_order_and_prices_only_veto() -> None:
    """best_quality takes its first, however scarce, unless the bid is more than the order is worth."""
    ranked = [offer("a/m", 300, quality=0.9), offer("b/m", 100, quality=0.7)]
    market = Market({"a:requests": 1_000_000_000})
    assert market.award(ranked, policy="best_quality") == "a/m"
    assert market.award(ranked, policy="best_quality", value_nusd=1_299) == "b/m"
    assert market.award(ranked, policy="best_quality", value_nusd=1_300) == "a/m"


def test_a_session_keeps_its_offer_when_it_fits_and_only_then() -> None:
    """The kept offer goes first; full, it is passed over."""
    market, ranked = Market(), [offer("a/m", 100), offer("b/m", 110)]
    kept = ranked[1]
    assert keys(market.clearing.choose(order(), ranked, Rooms(), kept=kept)) == ["b/m", "a/m"]
    assert keys(market.clearing.choose(order(), ranked, Rooms(full="b"), kept=kept)) == ["a/m"]


# Runners-up and the hold ----------------------------------------------------------------------------------------


def test_runners_up_come_from_other_sellers_first() -> None:
    """A seller that fails often fails with all its models: the next two are others', full ones are passed over."""
    ranked = [offer("a/m", 1), offer("a/n", 2), offer("b/m", 3), offer("b/n", 4), offer("c/m", 5)]
    assert keys(Market().choose(ranked)) == ["a/m", "b/m", "c/m"]
    assert keys(Market().choose(ranked, Rooms(full="c"))) == ["a/m", "b/m", "a/n"]


def test_two_tier_escalates_to_better_models() -> None:
    """After the cheapest come the best of those that are better than it, whoever sells them."""
    ranked = [offer("a/m", 1, quality=0.6), offer("a/n", 2, quality=0.7), offer("b/m", 3, quality=0.5)]
    ranked.append(offer("a/o", 9, quality=0.95))
    assert keys(Market().choose(ranked, policy="two_tier")) == ["a/m", "a/o", "a/n"]


def test_the_hold_is_the_dearest_ceiling_within_the_budget() -> None:
    """Award and runners-up are covered; the budget caps it."""
    ranked = [offer("a/m", 1, 10), offer("b/m", 2, 70), offer("c/m", 3, 30)]
    held = Market().choose(ranked)
    assert isinstance(held, Assignment)
    assert held.hold_nusd == 70
    capped = Market().choose(ranked, budget_nusd=60)
    assert isinstance(capped, Assignment)
    assert capped.hold_nusd == 60


# Refusals -------------------------------------------------------------------------------------------------------


def test_full_everywhere_is_told_with_the_soonest_room() -> None:
    """CAPACITY_EXHAUSTED names the full rows and the shortest wait."""
    refused = Market().choose(
        [offer("a/m", 1), offer("b/m", 2)], Rooms(full="a b", waits={"a": 900, "b": 400})
    )
    assert isinstance(refused, Reject)
    assert refused.code is RejectCode.CAPACITY_EXHAUSTED
    assert refused.retry_after_ms == 400
    assert refused.facts["limits"] == ["a:requests", "b:requests"]


def test_too_large_for_every_limit_has_no_time_to_try_again() -> None:
    """A call larger than a whole limit is told so instead of a time."""
    refused = Market().choose([offer("a/m", 1)], Rooms(full="a", waits={"a": None}))
    assert isinstance(refused, Reject)
    assert refused.code is RejectCode.CAPACITY_EXHAUSTED
    assert refused.retry_after_ms is None


def test_room_that_is_worth_more_to_others_is_refused() -> None:
    """PRICED_OUT when every bid is above the value; at the value it is served; the budget is the default value."""
    market, ranked = Market({"a:requests": 500_000_000}), [offer("a/m", 100)]
    refused = market.choose(ranked, value_nusd=599)
    assert isinstance(refused, Reject)
    assert refused.code is RejectCode.PRICED_OUT
    assert refused.facts == {
        "needed_usd": "0.0000006",
        "shadow_usd": "0.0000005",
        "value_usd": "0.000000599",
    }
    assert market.award(ranked, value_nusd=600) == "a/m"
    assert isinstance(market.choose(ranked, budget_nusd=599), Reject)
    assert market.award(ranked, budget_nusd=599, value_nusd=600) == "a/m"


def test_an_order_that_names_no_worth_is_refused_only_where_it_displaces_more_than_another() -> None:
    """Without value and budget the price of leaving an order unserved decides; without that nothing is refused.

    A bid of 100 + 500 is worth a price of 600; an order that costs more than that is worth room of half of it.
    """
    small, large = [offer("a/m", 100)], [offer("a/m", 10**9)]
    for ranked, unserved_nusd in ((small, 600), (large, 1_000)):
        assert Market({"a:requests": 500_000_000}).award(ranked) == "a/m"
        assert Market({"a:requests": 500_000_000}, unserved_nusd=unserved_nusd).award(ranked) == "a/m"
        scarce = Market({"a:requests": 500_000_000}, unserved_nusd=unserved_nusd - 1)
        assert isinstance(scarce.choose(ranked), Reject)


def test_orders_at_a_tie_are_spread_and_others_are_not() -> None:
    """Bids of 600 and 600 part by halves at a heat of 1 %; 600 and 700 do not, nor do equal bids without heat."""
    tie, apart = [offer("a/m", 100), offer("b/m", 600)], [offer("a/m", 100), offer("b/m", 700)]
    for ranked, heat, least, most in ((tie, 0.01, 180, 220), (apart, 0.01, 0, 0), (tie, 0.0, 0, 0)):
        market = Market({"a:requests": 500_000_000}, heat=heat)
        taken = [market.award(ranked) for _ in range(400)]
        assert least <= taken.count("b/m") <= most


def test_of_orders_that_are_worth_as_much_as_their_room_a_part_is_served() -> None:
    """Room at the very price of leaving an order unserved: by a heat of 1 % half of the orders are refused."""
    market = Market({"a:requests": 500_000_000}, unserved_nusd=600, heat=0.01)
    taken = [isinstance(market.choose([offer("a/m", 100)]), Assignment) for _ in range(400)]
    assert 150 <= taken.count(True) <= 250


def test_sellers_that_are_out_are_tried_only_when_nobody_else_can() -> None:
    """An ejected seller loses with L9; the last one left is awarded as a probe where it may be probed."""
    market, ranked = Market(), [offer("a/m", 1), offer("b/m", 2)]
    chosen = market.choose(ranked, Rooms(out="a", probe="a"))
    assert keys(chosen) == ["b/m"]
    assert isinstance(chosen, Assignment)
    assert chosen.explain is not None
    assert chosen.explain(ranked[0]) == Lost(Loss.EJECTED, "a/m:ejected")
    assert market.award(ranked, Rooms(out="a", probe="a", full="b")) == "a/m"
    assert isinstance(market.choose(ranked, Rooms(out="a b")), Reject)


def test_every_loser_has_its_reason() -> None:
    """What was tried and full is named, what its scarce room made too dear has its shadow price, the rest were pricier."""
    market = Market({"c:requests": 900_000_000, "a:requests": 1_000_000})
    ranked = [offer("b/m", 1), offer("c/m", 2), offer("a/m", 3), offer("a/n", 4)]
    chosen = market.choose(ranked, Rooms(full="b"), value_nusd=100)
    assert isinstance(chosen, Assignment)
    assert keys(chosen)[0] == "a/m"
    assert chosen.explain is not None
    assert {c.quote.key: chosen.explain(c) for c in ranked if c is not chosen.award} == {
        "b/m": Lost(Loss.LIMIT_BINDING, "b:requests"),
        "c/m": Lost(Loss.LIMIT_BINDING, "", 900),
        "a/n": Lost(Loss.PRICIER, "", 1),
    }


def test_a_cheaper_offer_that_loses_by_its_scarce_room_is_not_called_pricier() -> None:
    """Expected at 100 plus 150 of shadow it loses to one of 200: its limit is the reason, even under later prices."""
    market, ranked = Market({"a:requests": 150_000_000}), [offer("a/m", 100), offer("b/m", 200)]
    chosen = market.choose(ranked)
    assert isinstance(chosen, Assignment)
    assert chosen.explain is not None
    market.clearing.publish(ShadowPrices(made_ms=market.clock.ms + 1, nusd_per_million={}))
    assert chosen.explain(ranked[0]) == Lost(Loss.LIMIT_BINDING, "", 150)


def test_an_order_that_is_refused_says_what_each_offer_lacked() -> None:
    """Full ones are named with their row, priced ones with their shadow price."""
    market, room = Market({"c:requests": 900_000_000}), Rooms(full="b")
    ranked = [offer("b/m", 1), offer("c/m", 2)]
    why = market.clearing.refused(order(value_nusd=100), ranked, room)
    assert [why(c) for c in ranked] == [
        Lost(Loss.LIMIT_BINDING, "b:requests"),
        Lost(Loss.LIMIT_BINDING, "", 900),
    ]


# Prices that age ------------------------------------------------------------------------------------------------


def test_stale_prices_degrade_to_cheapest_first_and_are_told_once() -> None:
    """Up to a minute old they decide; then the cheapest wins, with one event, and one more when prices come again."""
    market, ranked = Market({"a:requests": 150_000_000}), [offer("a/m", 100), offer("b/m", 200)]
    market.clock.ms += STALE_MS
    assert market.award(ranked) == "b/m"
    market.clock.ms += 1
    assert [market.award(ranked) for _ in range(3)] == ["a/m"] * 3
    market.publish({"a:requests": 150_000_000})
    assert market.award(ranked) == "b/m"
    assert [(event.name, event.facts["age_ms"]) for event in market.events] == [
        ("clearing.stale", STALE_MS + 1),
        ("clearing.fresh", 0),
    ]


def test_a_market_maker_that_lost_its_lead_is_not_heard() -> None:
    """Prices with an older fencing token are refused, however new they are."""
    market = Market()
    assert market.publish({"a:requests": 1}, epoch=2)
    market.clock.ms += 1_000
    assert not market.publish({"a:requests": 9}, epoch=1)
    assert market.clearing.prices is not None
    assert market.clearing.prices.nusd_per_million == {"a:requests": 1}


def test_a_store_that_lost_its_tokens_is_heard_once_the_last_prices_are_stale() -> None:
    """Tokens that count from one again are refused for a minute, not for ever."""
    market = Market()
    market.publish({"a:requests": 1}, epoch=5)
    market.clock.ms += STALE_MS
    assert not market.publish({"a:requests": 9}, epoch=1)
    market.clock.ms += 1
    assert market.publish({"a:requests": 9}, epoch=1)


def test_room_is_taken_for_long_answers_and_priced_for_likely_ones() -> None:
    """The load counts the 95th percentile of the output, never above what the order allows."""
    assert load_of(offer("a/m", 1)) == Load(1_000, 300, 200, 700)


# Batches --------------------------------------------------------------------------------------------------------


def book(n: int, prices: list[int], **changes: Any) -> BatchBook:
    """``n`` equal requests of 100 + 10 tokens and 500 ms, offered by a, b, ... at these prices."""
    cost = np.tile(np.array(prices, dtype=np.int64), (n, 1))
    given: dict[str, Any] = {
        "offers": [BatchOffer("abc"[j], "m") for j in range(len(prices))],
        "cost": cost,
        "allowed": np.ones((n, len(prices)), dtype=np.bool_),
        "input_tokens": np.full(n, 100),
        "output_tokens": np.full((n, len(prices)), 10),
        "latency_ms": np.full(n, 500),
    }
    return BatchBook(**(given | changes))


def row(name: str, kind: RateKind, amount: int, per_ms: int = 60_000) -> LimitRow:
    return LimitRow(name, name[0], kind, amount, per_ms)


def test_a_batch_fills_the_cheap_offer_and_prices_its_limit() -> None:
    """Four requests, room for three at the cheap seller: the fourth goes to the dear one, a unit is worth the difference."""
    plan = clear_batch(book(4, [10, 30], rows=[row("a:requests", RateKind.REQUESTS, 3)]))
    assert sorted(plan.choice.tolist()) == [0, 0, 0, 1]
    assert (plan.served, plan.served_bound, plan.cost_nusd, plan.cost_bound_nusd) == (4, 4, 60, 60)
    (limit,) = plan.limits
    assert (limit.name, limit.cap, limit.used) == ("a:requests", 3.0, 3.0)
    assert limit.nusd_per_million == pytest.approx(20_000_000, rel=1e-4)
    assert BatchLimit("a:requests", 3.0, 3.0, 20_000_000).shadow_price_usd == "0.00000002"
    assert plan.shadow_prices(5).nusd_per_million == {"a:requests": limit.nusd_per_million}


@pytest.mark.parametrize(
    ("kind", "amount", "horizon_ms", "fit"),
    [
        (RateKind.REQUESTS, 2, 60_000, 2),
        (RateKind.REQUESTS, 2, 120_000, 4),
        (RateKind.TOKENS, 330, 60_000, 3),
        (RateKind.INPUT_TOKENS, 330, 60_000, 3),
        (RateKind.UNCACHED_INPUT_TOKENS, 330, 60_000, 5),
        (RateKind.OUTPUT_TOKENS, 30, 60_000, 3),
        (RateKind.CONCURRENCY, 1, 1_700, 3),
    ],
)
def test_each_kind_of_limit_holds_over_the_horizon(
    kind: RateKind, amount: int, horizon_ms: int, fit: int
) -> None:
    """100 tokens in, 40 of them cached, 10 out, 500 ms: what fits is what divides."""
    plan = clear_batch(
        book(
            8,
            [10],
            rows=[row("a:x", kind, amount)],
            horizon_ms=horizon_ms,
            cached_tokens=np.full((8, 1), 40),
        )
    )
    assert plan.served == fit
    refused = [plan.reject(i) for i in range(8) if plan.choice[i] < 0]
    assert len(refused) == 8 - fit
    for reject in refused:
        assert reject is not None
        assert reject.code is RejectCode.CAPACITY_EXHAUSTED
        assert reject.facts["limit"] == "a:x"


def test_what_search_proves_beyond_prices_is_the_plans_bound() -> None:
    """Three calls of 2 tokens and room for 3 of the cheap: prices allow half a call more than there are."""
    limit = row("a:input", RateKind.INPUT_TOKENS, 3)
    plan = clear_batch(book(3, [10, 100], rows=[limit], input_tokens=np.full(3, 2)), gap=0)
    assert (plan.served, plan.cost_nusd, plan.cost_bound_nusd) == (3, 210, 210)
    assert (plan.gap, plan.termination) == (0.0, "OPTIMAL")


def test_accounts_of_a_tree_draw_on_every_ancestor() -> None:
    """Team of 50 above two runs of 40 and no limit: five calls of 10 in all, at most four of them by the first run."""
    runs = np.array([0] * 6 + [1] * 6 + [-1] * 2, dtype=np.int32)
    given = book(
        14,
        [10],
        account=runs,
        accounts=["run-1", "run-2", "team"],
        available_nusd=[40, None, 50],
        parents=[2, 2, -1],
    )
    plan = clear_batch(given)
    served = plan.choice >= 0
    assert int(served[:12].sum()) == 5
    assert int(served[:6].sum()) <= 4
    assert served[12:].all()
    assert {limit.name: (limit.cap, limit.used) for limit in plan.limits}["account:team"] == (50.0, 50.0)
    codes = {reject.code for i in range(14) if (reject := plan.reject(i)) is not None}
    assert codes == {RejectCode.FUNDS_INSUFFICIENT}


def test_rows_are_named_in_the_solvers_order() -> None:
    """Names, caps and groups of the problem line up, whichever rows there are."""
    given = book(
        3,
        [10, 20],
        rows=[row("b:requests", RateKind.REQUESTS, 2)],
        account=np.array([0, 1, 1], dtype=np.int32),
        accounts=["x", "y"],
        available_nusd=[7, 9],
        total_budget_nusd=100,
        min_mean_quality=0.5,
        quality=np.full((3, 2), 0.75),
    )
    problem, names = problem_of(given)
    assert names == ("b:requests", "total_budget", "min_mean_quality", "account:x", "account:y")
    assert problem.caps.tolist() == [2.0, 100.0, 0.0, 7.0, 9.0]


def test_the_batchs_budget_and_quality_are_rows_of_their_own() -> None:
    """A budget of 45 for calls of 10 serves four; a mean quality of 0.7 between 0.5 and 0.9 splits evenly."""
    plan = clear_batch(book(8, [10], total_budget_nusd=45))
    assert plan.served == 4
    assert {reject.code for i in range(8) if (reject := plan.reject(i))} == {RejectCode.BUDGET_TOO_LOW}
    mixed = clear_batch(book(8, [10, 40], min_mean_quality=0.7, quality=np.tile([0.5, 0.9], (8, 1))))
    assert sorted(mixed.choice.tolist()) == [0] * 4 + [1] * 4


def test_a_batch_by_value_leaves_out_what_is_not_worth_it() -> None:
    """Objective surplus: with one place the higher value gets it; a value below every cost is priced out."""
    plan = clear_batch(
        book(
            3,
            [10],
            rows=[row("a:requests", RateKind.REQUESTS, 1)],
            value=np.array([15, 90, 5], dtype=np.int64),
        ),
        objective="surplus",
    )
    assert plan.choice.tolist() == [-1, 0, -1]
    first, last = plan.reject(0), plan.reject(2)
    assert first is not None
    assert last is not None
    assert last.code is RejectCode.PRICED_OUT
    assert first.code in (RejectCode.CAPACITY_EXHAUSTED, RejectCode.PRICED_OUT)


def test_who_had_no_offer_is_left_to_whoever_judged_the_terms() -> None:
    """No pair allowed gives no code; allowed but larger than a limit is capacity."""
    allowed = np.array([[True], [False]])
    given = book(2, [10], allowed=allowed, rows=[row("a:input_tokens", RateKind.INPUT_TOKENS, 99)])
    plan = clear_batch(given)
    assert plan.reject(1) is None
    large = plan.reject(0)
    assert large is not None
    assert large.code is RejectCode.CAPACITY_EXHAUSTED


def test_a_quality_nobody_reaches_is_unreachable() -> None:
    """Proven infeasible rows refuse the whole batch with the reason."""
    plan = clear_batch(book(2, [10], min_mean_quality=0.9, quality=np.full((2, 1), 0.5)))
    assert plan.served == 0
    assert {reject.code for i in range(2) if (reject := plan.reject(i))} == {RejectCode.QUALITY_UNREACHABLE}
