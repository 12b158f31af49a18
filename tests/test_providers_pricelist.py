"""A seller's counter: who is answered, what a second round changes, and what calls teach."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from providers.base import ModelSettings
from providers.pricelist import PriceList, Standing
from providers.quoting import Reduction
from providers.ratecard import RateCard, UnpricedModel
from providers.terms import (
    RFQ,
    Decline,
    DeclineCode,
    DiscountKind,
    LineKind,
    Offer,
    PrefixMark,
    Quote,
    Rates,
    SpeedModel,
    Target,
    Ticket,
    Usage,
)

USD = 1_000_000_000
RATES = Rates(USD, 4 * USD, USD // 10, USD, USD)
ASK = RFQ(rfq_id="r", input_tokens=1_003, expected_output_tokens=100, prefix=(PrefixMark(1_000, "p"),))


class Clock:
    """A clock that stands until it is moved; it starts half an hour before DeepSeek's peak."""

    now = 1_795_480_200_000

    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        return self.now


def counter(clock: Clock | None = None, vendor: str = "self-hosted", *models: ModelSettings) -> PriceList:
    """A price list of two own models, or of a vendor's."""
    own = [ModelSettings(name=name, rates=RATES, context_tokens=50_000) for name in ("one", "two")]
    sold = models or (own if vendor == "self-hosted" else ())
    tiers = ("standard", "flex", "batch")
    return PriceList(RateCard("acme", vendor, sold, tiers=tiers), clock or Clock(), id_prefix="t")


def quotes(prices: PriceList, rfq: RFQ = ASK, standing: Standing | None = None) -> list[Quote]:
    """The quotes for an RFQ."""
    answer = prices.answer(rfq) if standing is None else prices.answer(rfq, lambda offer, rfq: standing)
    return [item for item in answer if isinstance(item, Quote)]


def call(prices: PriceList, quote: Quote, usage: Usage, prefix: tuple[PrefixMark, ...] = ASK.prefix) -> None:
    """One call that was served with ``usage``."""
    ticket = Ticket(
        reservation_id="v", order_id="o", quote=quote, body={}, max_output_tokens=100, prefix=prefix
    )
    prices.ended(prices.began(ticket), usage)


@pytest.mark.parametrize(
    ("models", "answered"),
    [(None, ["one", "two"]), ({"two"}, ["two"]), ({"acme/one"}, ["one"]), ({"other/one"}, []), (set(), [])],
)
def test_only_models_asked_for_answer(models: set[str] | None, answered: list[str]) -> None:
    """By bare name or ``provider/model``; None = any."""
    rfq = replace(ASK, models=None if models is None else frozenset(models))
    assert [quote.model for quote in quotes(counter(), rfq)] == answered


def test_tiers_are_separate_competing_quotes() -> None:
    """Each accepted path of each model has its own price and latency."""
    prices = counter(None, "openai", ModelSettings(name="gpt-5-nano"))
    found = quotes(prices, replace(ASK, tiers=("standard", "flex", "batch")))
    assert [quote.tier for quote in found] == ["standard", "flex", "batch"]
    standard, flex, batch = found
    assert standard.expected_nusd == 2 * flex.expected_nusd == 2 * batch.expected_nusd
    assert standard.latency_ms.p50 < flex.latency_ms.p50 < batch.latency_ms.p50
    assert flex.discounts[0].saves_nusd == flex.expected_nusd


def test_a_seller_may_decline_be_indicative_or_full() -> None:
    """Its standing toward an offer shows in the answer."""
    no = counter().answer(ASK, lambda o, r: Standing(decline=(DeclineCode.DISABLED, "switched off")))
    assert {(item.code, item.detail) for item in no if isinstance(item, Decline)} == {
        (DeclineCode.DISABLED, "switched off")
    }
    (first, _) = quotes(counter(), ASK, Standing(firm=False, capacity=3))
    assert (first.firm, first.capacity) == (False, 3)


def test_prices_change_at_the_hour_without_being_told() -> None:
    """The same counter quotes double once DeepSeek's peak begins, and old quotes ended there."""
    clock = Clock()
    prices = counter(clock, "deepseek")
    (before, _) = quotes(prices)
    clock.now += 29 * 60_000 + 50_000
    (near, _) = quotes(prices)
    clock.now += 10_000
    (after, _) = quotes(prices)
    assert (before.valid_for_ms, near.valid_for_ms) == (30_000, 10_000)
    assert after.expected_nusd == 2 * before.expected_nusd
    assert [saved.kind for saved in before.discounts] == [DiscountKind.OFF_PEAK]
    assert before.discounts[0].saves_nusd == before.expected_nusd
    assert after.discounts == ()


def test_a_target_bounds_the_answer_where_the_buyer_did_not() -> None:
    """A list-price seller meets a target by a shorter bound: as long as fits, no shorter than twice the expected."""
    prices = counter()
    (first, _) = quotes(prices)
    for target, bound in ((3_000_000, 373), (first.ceiling_nusd, first.max_output_tokens), (1_800_000, None)):
        (second, _) = quotes(prices, replace(ASK, round=2, target=Target(nusd=target)))
        if bound is None:
            assert second.ceiling_nusd == first.ceiling_nusd
        else:
            assert second.max_output_tokens == bound
            assert second.ceiling_nusd <= target
    given = replace(ASK, max_output_tokens=1_000)
    (asked, _) = quotes(prices, given)
    (again, _) = quotes(prices, replace(given, round=2, target=Target(nusd=asked.ceiling_nusd // 2)))
    assert again.ceiling_nusd == asked.ceiling_nusd


def paths(answer: list[Quote]) -> set[tuple[str, str]]:
    """Model and tier of each quote."""
    return {(quote.model, quote.tier) for quote in answer}


def test_a_target_in_time_is_met_by_the_faster_tier() -> None:
    """Asked to be sooner, a list-price seller shows its priority tier where that is soon enough; unasked it does not."""
    card = RateCard("acme", "openai", [ModelSettings(name="gpt-6-luna")], tiers=("standard", "priority"))
    prices = PriceList(card, Clock(), id_prefix="t")
    (first,) = quotes(prices)
    wanted_ms = first.latency_ms.p95 * 9 // 10
    second = quotes(prices, replace(ASK, round=2, target=Target(latency_ms=wanted_ms)))
    assert paths(second) == {("gpt-6-luna", "standard"), ("gpt-6-luna", "priority")}
    (faster,) = (quote for quote in second if quote.tier == "priority")
    assert faster.latency_ms.p95 <= wanted_ms
    assert faster.expected_nusd > first.expected_nusd
    assert paths(quotes(prices, replace(ASK, round=2, target=Target(latency_ms=1)))) == paths([first])


def test_a_target_in_price_is_met_by_the_cheaper_tier() -> None:
    """Asked for less, a list-price seller shows its flex tier where that is cheap enough, and not where it is not."""
    card = RateCard("acme", "openai", [ModelSettings(name="gpt-6-luna")], tiers=("standard", "flex"))
    prices = PriceList(card, Clock(), id_prefix="t")
    ask = replace(ASK, max_output_tokens=500)
    (first,) = quotes(prices, ask)
    for share, met in ((6, True), (4, False)):
        target = Target(nusd=first.ceiling_nusd * share // 10)
        second = quotes(prices, replace(ask, round=2, target=target))
        assert (("gpt-6-luna", "flex") in paths(second)) is met


def test_a_target_in_time_bounds_an_answer_of_which_nobody_knows_the_length() -> None:
    """Without an estimate or a bound of the buyer's the answer is bounded so that its p95 fits; never below an estimate."""
    prices = counter()
    unknown = replace(ASK, expected_output_tokens=0)
    (first, _) = quotes(prices, unknown)
    wanted_ms = first.latency_ms.p95 * 8 // 10
    target = Target(latency_ms=wanted_ms)
    (second, _) = quotes(prices, replace(unknown, round=2, target=target))
    assert second.latency_ms.p95 <= wanted_ms < first.latency_ms.p95
    assert second.max_output_tokens < first.expected_output_tokens
    for known in (replace(ASK, expected_output_tokens=300), replace(unknown, max_output_tokens=5_000)):
        (before, _) = quotes(prices, known)
        (after, _) = quotes(prices, replace(known, round=2, target=target))
        assert (after.max_output_tokens, after.latency_ms) == (before.max_output_tokens, before.latency_ms)


def test_a_target_in_time_is_met_by_a_seller_that_is_quick_just_now() -> None:
    """Half the usual time, seen while nobody waits, is quoted in a second round that asks for it, with the price asked too."""
    prices = counter()
    given = replace(ASK, max_output_tokens=1_000)
    usual = offer(prices).speed
    quick = replace(
        usual, ttft_ms_p50=usual.ttft_ms_p50 / 2, ms_per_output_token_p50=usual.ms_per_output_token_p50 / 2
    )
    reserve = Reduction(DiscountKind.COUNTER, 6, 10, "idle")
    standing = Standing(quick=quick, reserve=reserve)
    (first, _) = quotes(prices, given, standing)
    wanted_ms = first.latency_ms.p95 * 6 // 10
    both = Target(nusd=first.ceiling_nusd * 8 // 10, latency_ms=wanted_ms)
    (second, _) = quotes(prices, replace(given, round=2, target=both), standing)
    assert second.latency_ms.p95 == pytest.approx(first.latency_ms.p95 / 2, abs=1)
    assert second.ttft_ms.p95 == pytest.approx(first.ttft_ms.p95 / 2, abs=1)
    assert second.ceiling_nusd <= first.ceiling_nusd * 8 // 10
    for target in (Target(latency_ms=wanted_ms // 2), Target(nusd=first.ceiling_nusd * 8 // 10)):
        (other, _) = quotes(prices, replace(given, round=2, target=target), standing)
        assert other.latency_ms == first.latency_ms


@pytest.mark.parametrize(("share", "met"), [(0.9, True), (0.61, True), (0.59, False)])
def test_a_reserve_is_the_floor_of_bargaining(share: float, met: bool) -> None:
    """Between the asked 80 % and the reserve of 60 % of its list price it meets a target exactly; below it does not."""
    given = replace(ASK, max_output_tokens=1_000)
    standing = Standing(
        reduction=Reduction(DiscountKind.IDLE, 8, 10, "idle"),
        reserve=Reduction(DiscountKind.COUNTER, 6, 10, "idle"),
    )
    prices = counter()
    (full, _) = quotes(prices, given)
    (first, _) = quotes(prices, given, standing)
    target = int(full.ceiling_nusd * share)
    (second, _) = quotes(prices, replace(given, round=2, target=Target(nusd=target)), standing)
    assert first.ceiling_nusd == pytest.approx(0.8 * full.ceiling_nusd, abs=2)
    if first.ceiling_nusd <= target or not met:
        assert second.ceiling_nusd == first.ceiling_nusd
    else:
        assert 0.99 * target <= second.ceiling_nusd <= target
        assert second.discounts[0].kind is DiscountKind.COUNTER


def tokens_in(quote: Quote) -> int:
    """Input tokens expected, however they are priced."""
    return sum(line.tokens for line in quote.lines if line.kind is not LineKind.OUTPUT)


def offer(prices: PriceList) -> Offer:
    """The first offer."""
    return prices.offers()[0]


def test_a_vendor_without_a_vocabulary_is_learnt_from_its_usage() -> None:
    """Thirty calls that weigh 1.31 times the reference count move factor and margin there; offers say so too."""
    prices = counter(None, "anthropic", ModelSettings(name="claude-haiku-5-5"))
    (before,) = quotes(prices)
    for number in range(30):
        call(prices, before, Usage(1_310 + number % 3, 50))
    (after,) = quotes(prices)
    assert tokens_in(before) == 1_505
    assert tokens_in(after) == pytest.approx(1_314, abs=6)
    assert 1.3 < offer(prices).token_factor < 1.32
    assert tokens_in(after) < after.input_tokens < before.input_tokens


def test_nothing_is_learnt_from_estimates_short_prompts_or_known_vocabularies() -> None:
    """Only a whole and possible usage of a real prompt says how a vendor counts."""
    prices = counter(None, "anthropic", ModelSettings(name="claude-haiku-5-5"))
    (quote,) = quotes(prices)
    for _ in range(30):
        call(prices, quote, Usage(2_000, 5, estimated=True))
        call(prices, quote, Usage(90, 5), (PrefixMark(20, "short"),))
        call(prices, quote, Usage(10_030, 5))
    assert offer(prices).token_factor == 1.5
    known = counter(None, "openai", ModelSettings(name="gpt-5-nano"))
    (quote,) = quotes(known)
    for _ in range(30):
        call(known, quote, Usage(2_000, 5))
    assert offer(known).token_factor == 1.0


def test_observed_latency_is_quoted_from_then_on_and_survives_a_price_change() -> None:
    """What the seller saw replaces what was assumed, for that model and tier alone."""
    clock = Clock()
    prices = counter(clock, "deepseek")
    quotes(prices)
    prices.observed("deepseek-flash", "standard", SpeedModel(100, 1, 0.1))
    first, other = quotes(prices)
    assert first.latency_ms.p50 == 200
    assert other.latency_ms.p50 > 1_000
    clock.now += 3_600_000
    assert quotes(prices)[0].latency_ms.p50 == 200
    assert offer(prices).speed.ttft_ms_p50 == 100


def test_a_failed_or_foreign_call_teaches_nothing() -> None:
    """A ticket for what is not sold, or without prefixes, is passed over."""
    prices = counter()
    (quote, _) = quotes(prices)
    call(prices, replace(quote, model="gone"), Usage(1_000, 5))
    call(prices, quote, Usage(1_000, 5), ())
    assert prices.cache_scores() == {}


@pytest.mark.parametrize("models", [(), (ModelSettings(name="gpt-6-luna"), ModelSettings(name="whisper-1"))])
def test_a_model_without_a_price_is_refused_when_the_seller_is_made(models: tuple[Any, ...]) -> None:
    """Not at the first request; the vendor's own list is all priced."""
    if models:
        with pytest.raises(UnpricedModel, match="acme/whisper-1: expected a price"):
            counter(None, "openai", *models)
    else:
        assert counter(None, "openai").offers()
