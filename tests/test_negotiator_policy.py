"""Policy: which quotes meet the terms, why the others do not, who is first, and the nearest terms that would do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from negotiator.counter_offers import counter_offers, with_terms
from negotiator.errors import RejectCode
from negotiator.order import Candidate, Loss, Order, QualityEstimate
from negotiator.policy import POLICIES, consider, matches_any, rank, refuse, targets
from providers.terms import Decline, DeclineCode, LineKind, PriceLine, Quantiles, Quote, Rates

# 1,000 tokens in at $1 per million and 500 out at $2 per million: $0.001 + $0.001; at most 1,000 out: $0.003.
RATES = Rates(1_000_000_000, 2_000_000_000, 1_000_000_000, 1_000_000_000, 1_000_000_000)
QUOTE = Quote(
    quote_id="q",
    rfq_id="r",
    provider="acme",
    model="one",
    tier="standard",
    firm=True,
    rates=RATES,
    lines=(PriceLine(LineKind.INPUT, 1000, 10**9, 10**6), PriceLine(LineKind.OUTPUT, 500, 2 * 10**9, 10**6)),
    expected_nusd=2_000_000,
    ceiling_nusd=3_000_000,
    input_tokens=1000,
    expected_output_tokens=500,
    max_output_tokens=1000,
    latency_ms=Quantiles(1000, 2000),
    ttft_ms=Quantiles(100, 200),
    valid_for_ms=30_000,
    tags=frozenset({"tools", "region:eu"}),
)
BELIEF = QualityEstimate(mean=0.8, sd=0.1, observations=5, output_tokens=500, output_tokens_p95=800)
ORDER = Order(order_id="o", account="default", body={"messages": []})


def judge(quote: Quote = QUOTE, belief: QualityEstimate = BELIEF, **terms: Any) -> Candidate:
    return consider(replace(ORDER, **terms), quote, belief, now_ms=0)


BOUNDARIES: list[tuple[dict[str, Any], str | None]] = [
    ({"budget_nusd": 3_000_000, "max_output_tokens": 1000}, None),
    ({"budget_nusd": 2_999_999, "max_output_tokens": 1000}, "budget_usd"),
    ({"value_nusd": 2_999_999, "budget_nusd": 3_000_000, "max_output_tokens": 1000}, "value_usd"),
    ({"min_quality": 0.8}, None),
    ({"min_quality": 0.8001}, "min_quality"),
    ({"min_quality": 0.7, "quality_margin": 1.0}, None),
    ({"min_quality": 0.7001, "quality_margin": 1.0}, "min_quality"),
    ({"deadline_ms": 2000}, None),
    ({"deadline_ms": 1999}, "deadline_ms"),
    ({"ttft_ms": 200}, None),
    ({"ttft_ms": 199}, "ttft_ms"),
    ({"require": frozenset({"tools", "region:eu"})}, None),
    ({"require": frozenset({"vision"})}, "require"),
    ({"models": ("acme/*",)}, None),
    ({"models": ("o*",)}, None),
    ({"models": ("other/*",)}, "models"),
    ({"exclude": ("acme/one",)}, "exclude"),
    ({"exclude": ("acme/two",)}, None),
    ({"tiers": ("flex",)}, "tiers"),
]


@pytest.mark.parametrize(("terms", "missed"), BOUNDARIES)
def test_both_sides_of_every_term(terms: dict[str, Any], missed: str | None) -> None:
    """A term that is just met is met; just missed, it is named with what was asked and offered."""
    candidate = judge(**terms)
    assert [miss.term for miss in candidate.misses] == ([missed] if missed else [])
    assert candidate.eligible == (missed is None)


def test_an_indicative_quote_is_information_only() -> None:
    """It loses unless its seller is being probed."""
    indicative = replace(QUOTE, firm=False)
    assert [miss.loss for miss in judge(indicative).misses] == [Loss.INDICATIVE]
    assert consider(ORDER, indicative, BELIEF, now_ms=0, probe=True).eligible


def test_the_budget_shortens_an_answer_nobody_bounded() -> None:
    """Without max_tokens the output is cut to what the budget allows, if that still holds its p95 of 800 tokens."""
    cut = judge(budget_nusd=2_700_000)
    assert (cut.eligible, cut.max_output_tokens, cut.ceiling_nusd) == (True, 850, 2_700_000)
    just = judge(budget_nusd=2_600_000)
    assert (just.eligible, just.max_output_tokens) == (True, 800)
    short = judge(budget_nusd=2_599_999)
    assert [(miss.term, miss.offered) for miss in short.misses] == [("budget_usd", "0.0026")]


def test_globs_match_a_model_with_a_slash_in_its_name() -> None:
    """``provider/model`` where the model itself has a slash; a glob without one names the last part's model."""
    assert matches_any("groq/openai/gpt-oss-120b", ["groq/*"])
    assert matches_any("groq/openai/gpt-oss-120b", ["groq/openai/gpt-oss-*"])
    assert not matches_any("groq/openai/gpt-oss-120b", ["openai/*"])


def rival(**changes: Any) -> Candidate:
    quote = replace(QUOTE, quote_id="r", model="two", **changes.pop("quote", {}))
    return judge(quote, replace(BELIEF, **changes))


RANKS = [
    ("cheapest", rival(quote={"expected_nusd": 1_999_999}), True),
    ("cheapest", rival(quote={"expected_nusd": 2_000_001}), False),
    ("best_quality", rival(mean=0.81), True),
    ("best_quality", rival(mean=0.79), False),
    ("fastest", rival(quote={"latency_ms": Quantiles(999, 5000)}), True),
    ("balanced", rival(quote={"latency_ms": Quantiles(400, 5000)}), True),
    ("balanced", rival(mean=0.4), False),
    ("two_tier", rival(quote={"expected_nusd": 1_999_999}), True),
]


@pytest.mark.parametrize(("policy", "other", "wins"), RANKS)
def test_each_policy_has_its_order(policy: str, other: Candidate, wins: bool) -> None:
    """The better by the policy's own measure is first, whatever came first."""
    assert set(POLICIES) == {"cheapest", "best_quality", "fastest", "balanced", "two_tier"}
    order = replace(ORDER, policy=policy)
    for candidates in ([judge(), other], [other, judge()]):
        assert rank(order, candidates)[0].quote.model == ("two" if wins else "one")


REFUSALS: list[tuple[dict[str, Any], RejectCode]] = [
    ({"budget_nusd": 1, "max_output_tokens": 1000}, RejectCode.BUDGET_TOO_LOW),
    ({"min_quality": 0.9}, RejectCode.QUALITY_UNREACHABLE),
    ({"deadline_ms": 5}, RejectCode.DEADLINE_UNREACHABLE),
    ({"require": frozenset({"vision"})}, RejectCode.CAPABILITY_MISSING),
    ({"exclude": ("*/*",)}, RejectCode.POLICY_FORBIDS),
    ({"budget_nusd": 1, "min_quality": 0.9, "max_output_tokens": 1000}, RejectCode.BUDGET_TOO_LOW),
]


@pytest.mark.parametrize(("terms", "code"), REFUSALS)
def test_a_refusal_has_the_first_code_that_fits(terms: dict[str, Any], code: RejectCode) -> None:
    """Budget before quality before deadline before capability before policy, with numbers in the facts."""
    order = replace(ORDER, **terms)
    reject = refuse(order, [judge(**terms)])
    assert reject.code is code
    assert reject.facts["offers"] == 1


def test_terms_that_can_each_be_met_but_not_at_once_conflict() -> None:
    """One offer is too dear, the other not good enough: TERMS_CONFLICT names both terms."""
    terms: dict[str, Any] = {"budget_nusd": 2_999_999, "max_output_tokens": 1000, "min_quality": 0.8}
    poor = judge(replace(QUOTE, model="two", ceiling_nusd=2_000_000), replace(BELIEF, mean=0.5), **terms)
    reject = refuse(replace(ORDER, **terms), [judge(**terms), poor])
    assert reject.code is RejectCode.TERMS_CONFLICT
    assert reject.facts["terms"] == ["budget_usd", "min_quality"]


@pytest.mark.parametrize(
    ("declines", "code"),
    [
        ((), RejectCode.NO_QUOTE),
        ((Decline("acme", "one", DeclineCode.TOO_LONG),), RejectCode.CAPABILITY_MISSING),
        ((Decline("acme", "one", DeclineCode.RATE_LIMITED),), RejectCode.ALL_DECLINED),
    ],
)
def test_without_quotes_the_declines_say_why(declines: tuple[Decline, ...], code: RejectCode) -> None:
    """Silence may pass, a request nobody can serve will not."""
    reject = refuse(ORDER, [], declines)
    assert reject.code is code
    assert (reject.retry_after_ms is not None) == code.again


def test_a_tier_that_nobody_sells_is_forbidden_not_late() -> None:
    """Everybody answered and nobody sells the tier: asking again helps only where a seller was silent."""
    order = replace(ORDER, tiers=("priority",))
    reject = refuse(order, [], silent=False)
    assert (reject.code, reject.facts["asked"]) == (RejectCode.POLICY_FORBIDS, ["priority"])
    assert refuse(order, [], silent=True).code is RejectCode.NO_QUOTE


def test_a_seller_that_is_busy_just_now_is_not_forbidden() -> None:
    """The only seller the buyer accepts declines for a moment, others quote: come again, not "forbidden"."""
    terms: dict[str, Any] = {"models": ("busy/*",)}
    for decline, code in (
        (Decline("busy", "", DeclineCode.RATE_LIMITED), RejectCode.ALL_DECLINED),
        (Decline("busy", "m", DeclineCode.NO_CAPACITY), RejectCode.ALL_DECLINED),
        (Decline("other", "", DeclineCode.RATE_LIMITED), RejectCode.POLICY_FORBIDS),
        (Decline("other", "m", DeclineCode.NO_CAPACITY), RejectCode.POLICY_FORBIDS),
    ):
        assert refuse(replace(ORDER, **terms), [judge(**terms)], (decline,)).code is code


def test_a_counter_offer_changes_one_term_and_would_be_served() -> None:
    """For each single term the smallest change, nearest first; under the changed terms the offer is eligible."""
    terms: dict[str, Any] = {"deadline_ms": 1900, "max_output_tokens": 1000}
    order = replace(ORDER, **terms)
    slow = judge(**terms)
    far = judge(replace(QUOTE, quote_id="far", model="two", latency_ms=Quantiles(9000, 9900)), **terms)
    (offer,) = counter_offers(order, [far, slow], 0)
    assert offer.terms == {"deadline_ms": 2000}
    assert consider(with_terms(order, dict(offer.terms)), QUOTE, BELIEF, now_ms=0).eligible


def test_a_second_round_never_shows_the_budget() -> None:
    """The target is a share of the seller's own price, or a competitor's; a hopeless miss is not asked again."""
    order = replace(ORDER, budget_nusd=2_500_000, value_nusd=2_500_000, max_output_tokens=1000)
    near = consider(order, QUOTE, BELIEF, now_ms=0)
    wanted = targets(order, [near])["acme"]
    assert wanted.nusd == 1_800_000
    other_budget = replace(order, budget_nusd=2_900_000, value_nusd=2_900_000)
    assert targets(other_budget, [near])["acme"].nusd == wanted.nusd
    hopeless = replace(order, budget_nusd=1_000_000, value_nusd=1_000_000)
    assert targets(hopeless, [consider(hopeless, QUOTE, BELIEF, now_ms=0)]) == {}
