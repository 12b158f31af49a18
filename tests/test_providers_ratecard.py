"""Rate cards: real prices, compiled to integers, equal the price package's own arithmetic."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from genai_prices import Usage as ListedUsage
from genai_prices import calc_price
from hypothesis import given
from hypothesis import strategies as st

from providers.base import ModelSettings
from providers.quoting import Quoter
from providers.ratecard import RateCard, UnpricedModel
from providers.terms import RFQ, Offer, Quote, Rates, Usage, price_nusd
from providers.vendor_terms import load_vendor_terms

TIERS = ("standard", "priority", "flex", "batch")
TERMS = load_vendor_terms()
SOLD = [
    (vendor, model) for vendor in TERMS.vendors for model in TERMS.listed(vendor) if TERMS.vendor(vendor).card
]


def at(text: str) -> int:
    """Milliseconds of an ISO time, UTC."""
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


NOON = at("2026-11-24T12:00")


def offer_of(vendor: str, model: str, tier: str = "standard", now_ms: int = NOON) -> Offer:
    """One offer of one model."""
    offers = RateCard(vendor, vendor, [ModelSettings(name=model)], tiers=TIERS).offers(now_ms)
    return next(offer for offer in offers if offer.tier == tier)


@pytest.mark.parametrize(
    ("vendor", "model", "tier", "input_usd", "read_usd", "write_usd", "output_usd"),
    [
        ("openai", "gpt-6.1-sol", "standard", "2", "0.10", "2.5", "10"),
        ("openai", "gpt-6.1-sol", "flex", "1", "0.05", "1.25", "5"),
        ("openai", "gpt-6.1-sol", "priority", "4", "0.20", "5", "20"),
        ("openai", "gpt-5-nano", "batch", "0.025", "0.0025", "0.025", "0.2"),
        ("anthropic", "claude-opus-5-5", "standard", "4", "0.20", "5", "20"),
        ("anthropic", "claude-opus-5-5", "priority", "8", "0.40", "10", "40"),
        ("google", "gemini-3.8-flash", "standard", "0.75", "0.075", "0.75", "3.75"),
        ("google", "gemini-3.8-flash", "priority", "1.35", "0.135", "1.35", "6.75"),
        ("mistral", "mistral-large-4", "standard", "0.70", "0.07", "0.70", "2.10"),
        ("x-ai", "grok-4.7", "standard", "2", "0.50", "2", "6"),
        ("groq", "openai/gpt-oss-120b", "flex", "0.15", "0.075", "0.15", "0.6"),
    ],
)
def test_five_token_classes_of_real_models(
    vendor: str, model: str, tier: str, input_usd: str, read_usd: str, write_usd: str, output_usd: str
) -> None:
    """Each class has the vendor's own price, in nano-dollars per million tokens; no flat rate on cached input."""
    rates = offer_of(vendor, model, tier).rates_for(1)
    found = (
        rates.input_nusd_per_mtok,
        rates.cache_read_nusd_per_mtok,
        rates.cache_write_nusd_per_mtok,
        rates.output_nusd_per_mtok,
    )
    assert found == tuple(int(Decimal(usd) * 10**9) for usd in (input_usd, read_usd, write_usd, output_usd))


def test_two_dollars_per_million_tokens_is_two_dollars_for_a_million() -> None:
    """One unit of money: $2 per million input and $10 per million output make $12 for a million of each."""
    rates = offer_of("openai", "gpt-6.1-sol").rates_for(1)
    assert price_nusd(rates, Usage(1_000_000, 1_000_000)) == 12_000_000_000


@given(st.data())
def test_prices_equal_the_package_own_arithmetic(data: st.DataObject) -> None:
    """For any listed model, tier, hour and usage the bill is the package's, rounded once per line."""
    vendor, model = data.draw(st.sampled_from(SOLD))
    day = data.draw(st.sampled_from(["2026-11-23", "2026-11-24", "2026-12-31", "2027-01-01"]))
    hour = data.draw(st.integers(0, 23))
    now_ms = at(f"{day}T{hour:02}:30")
    offers = RateCard(vendor, vendor, [ModelSettings(name=model)], tiers=TIERS).offers(now_ms)
    offer = data.draw(st.sampled_from(offers))
    read, write, write_1h, fresh = (
        data.draw(st.integers(0, most)) for most in (200_000, 50_000, 50_000, 150_000)
    )
    usage = Usage(read + write + write_1h + fresh, data.draw(st.integers(0, 60_000)), read, write, write_1h)
    row = TERMS.tier(vendor, model, offer.tier)
    if row is not None and row.rate is not None:
        return  # the package has no price of its own for this tier: see the test of factors
    listed = calc_price(
        ListedUsage(
            input_tokens=usage.input_tokens,
            cache_read_tokens=read,
            cache_write_tokens=write + write_1h,
            cache_write_1h_tokens=write_1h,
            output_tokens=usage.output_tokens,
        ),
        model,
        provider_id=TERMS.vendor(vendor).card,
        genai_request_timestamp=datetime.fromtimestamp(now_ms / 1000, UTC),
        price_context=row.context if row else None,
    )
    ours = price_nusd(offer.rates_for(usage.input_tokens), usage)
    assert abs(ours - listed.total_price * 10**9) <= Decimal("2.5")


def test_tier_factors_stand_in_for_prices_the_package_lacks() -> None:
    """Gemini's flex is half and its priority 1.8 times the standard price, exactly."""
    standard = offer_of("google", "gemini-3.8-flash").rates_for(1)
    assert offer_of("google", "gemini-3.8-flash", "flex").rates_for(1) == standard.scaled(1, 2)
    assert offer_of("google", "gemini-3.8-flash", "priority").rates_for(1) == standard.scaled(9, 5)


def test_long_context_is_a_cliff_for_the_whole_request() -> None:
    """At 272,000 tokens the low rate holds; one token more and every token costs the high one."""
    offer = offer_of("openai", "gpt-6-luna")
    below, above = Usage(272_000, 100), Usage(272_001, 100)
    assert price_nusd(offer.rates_for(below.input_tokens), below) == 272_000 * 100 + 100 * 500
    assert price_nusd(offer.rates_for(above.input_tokens), above) == 272_001 * 200 + 100 * 750


@pytest.mark.parametrize(
    ("moment", "usd", "hours_left"),
    [
        ("2026-11-24T00:30", "0.15", 0.5),  # Tuesday, off peak until 01:00
        ("2026-11-24T01:00", "0.30", 3),  # peak until 04:00
        ("2026-11-24T07:00", "0.30", 3),  # peak until 10:00
        ("2026-11-24T10:00", "0.15", 15),  # off peak until Wednesday 01:00
        ("2026-11-27T12:00", "0.15", 61),  # Friday noon: no peak before Monday 01:00
        ("2026-11-28T02:00", "0.15", 47),  # Saturday at a peak hour
    ],
)
def test_peak_hours_hold_on_weekdays_only(moment: str, usd: str, hours_left: float) -> None:
    """DeepSeek costs double at its peak hours from Monday to Friday; an offer says how long its price holds."""
    offer = offer_of("deepseek", "deepseek-flash", now_ms=at(moment))
    assert offer.rates_for(1).input_nusd_per_mtok == int(Decimal(usd) * 10**9)
    assert offer.valid_for_ms == hours_left * 3_600_000
    peak = (offer.list_steps or offer.steps)[0].rates
    assert peak.input_nusd_per_mtok == 300_000_000


def test_offers_are_compiled_once_and_again_at_the_boundary() -> None:
    """The same objects until the hour strikes, with less time left; new prices from then on."""
    card = RateCard("deepseek", "deepseek")
    before, age_ms = card.current(at("2026-11-24T00:00"))
    same, later_ms = card.current(at("2026-11-24T00:59"))
    assert same is before
    assert (age_ms, later_ms) == (0, 59 * 60_000)
    assert card.offers(at("2026-11-24T00:59"))[0].valid_for_ms == 60_000
    after, age_ms = card.current(at("2026-11-24T01:00"))
    assert after is not before
    assert age_ms == 0
    assert after[0].rates_for(1).input_nusd_per_mtok == 2 * before[0].rates_for(1).input_nusd_per_mtok


def test_a_clock_that_steps_back_gets_the_prices_of_its_hour() -> None:
    """Prices follow the time asked for, not the order of asking."""
    card = RateCard("deepseek", "deepseek")
    peak = card.offers(at("2026-11-24T01:30"))[0].rates_for(1)
    assert card.offers(at("2026-11-24T00:30"))[0].rates_for(1).scaled(2, 1) == peak


def test_a_price_known_to_change_next_year_changes_then() -> None:
    """gemini-3.8-flash doubles at the first midnight of 2027, batch included."""
    eve, day = at("2026-12-31T23:59"), at("2027-01-01T00:00")
    for tier in ("standard", "batch"):
        old, new = (offer_of("google", "gemini-3.8-flash", tier, moment) for moment in (eve, day))
        assert new.rates_for(1) == old.rates_for(1).scaled(2, 1)
        assert old.valid_for_ms == 60_000


@pytest.mark.parametrize(
    ("vendor", "model"),
    [
        ("openai", "gpt-99"),
        ("openai", "whisper-1"),
        ("alibaba", "qwen3.8-max"),
        ("openrouter", "mistral-nemo:free"),
    ],
)
def test_a_model_without_a_price_is_refused_and_never_free(vendor: str, model: str) -> None:
    """Unknown to the price card, priced by the second, not on any card, or a free promotion: not sellable."""
    with pytest.raises(UnpricedModel, match=rf"{vendor}/{model}: expected a price .* input_usd_per_million"):
        RateCard(vendor, vendor, [ModelSettings(name=model)]).offers(NOON)


def test_dated_names_resolve_once_to_their_model() -> None:
    """A vendor's dated spelling gets its model's price, and keeps the name the buyer and the vendor use."""
    offer = offer_of("anthropic", "claude-haiku-5-5-20261001")
    assert offer.model == "claude-haiku-5-5-20261001"
    assert offer.steps == offer_of("anthropic", "claude-haiku-5-5").steps
    assert offer.price_source.endswith("anthropic/claude-haiku-5-5")


def test_every_offer_says_which_price_it_uses_and_how_old_it_is() -> None:
    """Package, release and date for list prices; "configuration" for an operator's own."""
    assert re.fullmatch(
        r"genai-prices \d[\d.]*( \(\d{4}-\d\d-\d\d\))?: openai/gpt-6-luna",
        offer_of("openai", "gpt-6-luna").price_source,
    )
    own = ModelSettings(name="mine", rates=Rates(*[200_000_000] * 5))
    assert RateCard("house", "self-hosted", [own]).offers(NOON)[0].price_source == "configuration"


@pytest.mark.parametrize(
    ("dollars_per_million", "fits"),
    [("0", True), ("0.00005", False), ("0.0001", True), ("5000", True), ("5000.01", False)],
)
def test_rates_of_the_wrong_unit_are_refused(dollars_per_million: str, fits: bool) -> None:
    """Dollars per token typed as dollars per million, or the other way round, never become a price."""
    rate = int(Decimal(dollars_per_million) * 10**9)
    own = [ModelSettings(name="mine", rates=Rates(200_000_000, rate, *[200_000_000] * 3))]
    if fits:
        offer = RateCard("house", "self-hosted", own).offers(NOON)[0]
        assert offer.rates_for(1).output_nusd_per_mtok == rate
    else:
        with pytest.raises(
            ValueError, match=r"house/mine: expected output_nusd_per_mtok .* instead of per million"
        ):
            RateCard("house", "self-hosted", own)


def test_every_listed_model_is_sold_at_rates_that_rise_with_length() -> None:
    """No default model is unpriced, and a longer request never has a lower rate of any class."""
    assert len(SOLD) >= 20
    for vendor in {vendor for vendor, _ in SOLD}:
        offers = RateCard(vendor, vendor, tiers=TIERS).offers(NOON)
        assert {offer.model for offer in offers} == set(TERMS.listed(vendor))
        for offer in offers:
            for lower, higher in zip(offer.steps, offer.steps[1:], strict=False):
                assert lower.from_input_tokens < higher.from_input_tokens
                assert lower.rates.input_nusd_per_mtok <= higher.rates.input_nusd_per_mtok
                assert lower.rates.output_nusd_per_mtok <= higher.rates.output_nusd_per_mtok


def test_an_embedding_model_can_embed_and_nothing_else() -> None:
    """It has no price for output and says so with its only tag."""
    offer = offer_of("openai", "text-embedding-3-small")
    assert offer.tags == {"embeddings"}
    assert offer.rates_for(1).output_nusd_per_mtok == 0


def test_a_seller_of_nothing_is_refused() -> None:
    """A vendor without listed models needs them in the configuration."""
    with pytest.raises(
        ValueError, match="shop: expected models to sell, found none, and none are listed for openrouter"
    ):
        RateCard("shop", "openrouter")


@pytest.mark.parametrize(
    ("vendor", "model"),
    [
        ("openai", "gpt-5-nano"),
        ("anthropic", "claude-opus-5-5"),
        ("google", "gemini-3.8-flash"),
        ("mistral", "mistral-large-4"),
    ],
)
def test_a_batch_tier_is_quoted_with_the_day_its_vendor_promises(vendor: str, model: str) -> None:
    """Half of a day at the median and 22.8 h at the p95, however long the answer is to be."""
    quoter = Quoter(offer_of(vendor, model, "batch"), str)
    for tokens in (1, 4_000):
        rfq = RFQ(rfq_id="r", input_tokens=10, max_output_tokens=tokens, tiers=("batch",))
        quote = quoter.quote(rfq, ttl_ms=1_000)
        assert isinstance(quote, Quote)
        assert (quote.latency_ms.p50, quote.latency_ms.p95) == (43_200_000, 82_080_000)
