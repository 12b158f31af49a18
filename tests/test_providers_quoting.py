"""Quotes: lines that sum, ceilings that hold, discounts that add up, and coded noes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from providers.prefix_cache import NO_CACHE, CacheHope
from providers.quoting import Quoter, Reduction, quote_ids, quote_offer
from providers.terms import (
    RFQ,
    CacheTerms,
    CacheWrites,
    Decline,
    DeclineCode,
    DiscountKind,
    LineKind,
    Offer,
    PriceStep,
    Quote,
    Rates,
    SpeedModel,
    Usage,
    price_nusd,
)

USD = 1_000_000_000
RATES = Rates(2 * USD, 10 * USD, USD // 5, 5 * USD // 2, 4 * USD)
CACHE = CacheTerms(1024, 128, 300_000, writes=CacheWrites.CHARGED)
OFFER = Offer(
    provider="acme",
    model="one",
    tier="standard",
    steps=(PriceStep(0, RATES),),
    context_tokens=100_000,
    max_output_tokens=4_000,
    tags=frozenset({"tools", "streaming"}),
    speed=SpeedModel(ttft_ms_p50=500, ms_per_output_token_p50=10, sigma=0.35),
)
ASK = RFQ(rfq_id="r1", input_tokens=1_000, expected_output_tokens=200)


def quote(offer: Offer = OFFER, rfq: RFQ = ASK, **options: object) -> Quote:
    """One quote, which must not be a decline."""
    answer = Quoter(offer, quote_ids("t")).quote(rfq, **{"ttl_ms": 30_000, **options})  # type: ignore[arg-type]
    assert isinstance(answer, Quote)
    return answer


def decline(offer: Offer, rfq: RFQ) -> Decline:
    """One decline, which must not be a quote."""
    answer = quote_offer(rfq, offer, ttl_ms=30_000, next_id=quote_ids("t"))
    assert isinstance(answer, Decline)
    return answer


def test_a_plain_quote_by_hand() -> None:
    """1,000 tokens at $2 and 200 at $10 make 0.4 cents; the ceiling has 4,000 out: 4.2 cents."""
    plain = quote()
    assert [(line.kind, line.tokens, line.nusd) for line in plain.lines] == [
        (LineKind.INPUT, 1_000, 2_000_000),
        (LineKind.OUTPUT, 200, 2_000_000),
    ]
    assert plain.expected_nusd == 4_000_000
    assert plain.ceiling_nusd == 2_000_000 + 40_000_000
    assert (plain.max_output_tokens, plain.expected_output_tokens, plain.input_tokens) == (4_000, 200, 1_000)
    assert plain.discounts == ()
    assert plain.firm


def test_latency_is_lognormal_in_the_length_of_the_answer() -> None:
    """Median 500 + 200 x 10 ms; the 95th percentile is exp(1.645 sigma) times that, and so for the first token."""
    plain = quote()
    late = math.exp(1.6448536 * 0.35)
    assert (plain.latency_ms.p50, plain.latency_ms.p95) == (2_500, round(2_500 * late))
    assert (plain.ttft_ms.p50, plain.ttft_ms.p95) == (500, round(500 * late))


@pytest.mark.parametrize(
    ("asked", "expected", "bound", "output"),
    [
        (None, 200, 4_000, 200),
        (150, 200, 150, 150),
        (9_000, 200, 4_000, 200),
        (None, 0, 4_000, 300),
        (1, 0, 1, 1),
    ],
)
def test_the_answer_is_bounded_by_buyer_and_model(
    asked: int | None, expected: int, bound: int, output: int
) -> None:
    """The ceiling covers the lower of both bounds; the expected length never exceeds it."""
    given_bound = quote(rfq=replace(ASK, max_output_tokens=asked, expected_output_tokens=expected))
    assert (given_bound.max_output_tokens, given_bound.expected_output_tokens) == (bound, output)


def test_tokens_counted_in_the_own_vocabulary_need_no_factor() -> None:
    """Its own count with 2 % for the chat template; else the reference count by factor and margin."""
    foreign = replace(OFFER, vocabulary="claude", token_factor=1.2, token_margin=1.5)
    guessed = quote(foreign)
    assert (guessed.lines[0].tokens, guessed.input_tokens) == (1_200, 1_500)
    counted = quote(foreign, replace(ASK, tokens_by_vocabulary={"claude": 1_111}))
    assert (counted.lines[0].tokens, counted.input_tokens) == (1_111, 1_134)
    learnt = quote(foreign, token_factor=1.1, token_margin=1.15)
    assert (learnt.lines[0].tokens, learnt.input_tokens) == (1_100, 1_150)


def test_a_warm_prefix_is_a_discount_times_its_probability() -> None:
    """900 of 1,000 tokens warm at 80 %: 720 are expected at a tenth of the price, and the ceiling expects none."""
    hope = CacheHope(read_tokens=900, hit=0.8, left_ms=10_000)
    warm = quote(replace(OFFER, cache=replace(CACHE, writes=CacheWrites.FREE)), cache=hope)
    assert [(line.kind, line.tokens) for line in warm.lines] == [
        (LineKind.INPUT, 280),
        (LineKind.CACHE_READ, 720),
        (LineKind.OUTPUT, 200),
    ]
    assert warm.expected_nusd == 560_000 + 144_000 + 2_000_000
    (saved,) = warm.discounts
    assert (saved.kind, saved.saves_nusd, saved.basis) == (
        DiscountKind.CACHE_HIT,
        4_000_000 - 2_704_000,
        hope.basis,
    )
    assert warm.ceiling_nusd == quote().ceiling_nusd
    assert warm.valid_for_ms == 10_000


def test_cache_writes_are_priced_and_bound_the_ceiling() -> None:
    """Where writing costs more than reading afresh, the expected bill has the write and the ceiling assumes all of it."""
    written = quote(replace(OFFER, cache=CACHE), cache=CacheHope(write_tokens=896))
    assert [(line.kind, line.tokens, line.nusd) for line in written.lines] == [
        (LineKind.INPUT, 104, 208_000),
        (LineKind.CACHE_WRITE, 896, 2_240_000),
        (LineKind.OUTPUT, 200, 2_000_000),
    ]
    assert written.discounts == ()
    assert written.ceiling_nusd == 2_500_000 + 40_000_000


@pytest.mark.parametrize(
    ("tier", "kind"),
    [("flex", DiscountKind.FLEX), ("batch", DiscountKind.BATCH), ("standard", DiscountKind.OFF_PEAK)],
)
def test_half_the_list_price_is_itemised_by_its_cause(tier: str, kind: DiscountKind) -> None:
    """A tier or hour at half price saves half, in a quote of its own."""
    half = replace(
        OFFER, tier=tier, steps=(PriceStep(0, RATES.scaled(1, 2)),), list_steps=(PriceStep(0, RATES),)
    )
    cheap = quote(half)
    assert cheap.expected_nusd == 2_000_000
    assert [(saved.kind, saved.saves_nusd) for saved in cheap.discounts] == [(kind, 2_000_000)]


def test_dearer_tiers_have_no_discount() -> None:
    """Priority costs double and claims to save nothing."""
    double = replace(
        OFFER, tier="priority", steps=(PriceStep(0, RATES.scaled(2, 1)),), list_steps=(PriceStep(0, RATES),)
    )
    assert quote(double).expected_nusd == 8_000_000
    assert quote(double).discounts == ()


def test_discounts_stack_and_add_up_to_the_list_price() -> None:
    """Cache, idle capacity and tier: the savings and the expected price sum to the list price, to the nano-dollar."""
    cheap = replace(
        OFFER, tier="flex", steps=(PriceStep(0, RATES.scaled(1, 2)),), list_steps=(PriceStep(0, RATES),)
    )
    idle = Reduction(DiscountKind.IDLE, 7, 10, "idle")
    stacked = quote(cheap, cache=CacheHope(read_tokens=512, hit=0.5), reduction=idle)
    assert [saved.kind for saved in stacked.discounts] == [
        DiscountKind.CACHE_HIT,
        DiscountKind.IDLE,
        DiscountKind.FLEX,
    ]
    assert stacked.expected_nusd + sum(saved.saves_nusd for saved in stacked.discounts) == 4_000_000
    assert stacked.rates.output_nusd_per_mtok == 7 * USD // 2


CLIFF = replace(OFFER, steps=(PriceStep(0, RATES), PriceStep(5_001, RATES.scaled(2, 1))))


@pytest.mark.parametrize(("tokens", "rate"), [(5_000, 2 * USD), (5_001, 4 * USD)])
def test_a_long_request_costs_more_from_its_first_token(tokens: int, rate: int) -> None:
    """The step counts for the whole request."""
    long = quote(CLIFF, replace(ASK, input_tokens=tokens))
    assert long.rates.input_nusd_per_mtok == rate
    assert long.lines[0].nusd == tokens * rate // 1_000_000


def test_near_a_cliff_the_covered_count_decides() -> None:
    """With a margin of 10 % a prompt of 4,600 tokens may turn out above 5,000: it is quoted at the high rate."""
    near = quote(replace(CLIFF, token_margin=1.1), replace(ASK, input_tokens=4_600))
    assert near.rates.input_nusd_per_mtok == 4 * USD


@pytest.mark.parametrize(
    ("boundary_ms", "age_ms", "valid_ms"), [(None, 0, 30_000), (90_000, 0, 30_000), (90_000, 75_000, 15_000)]
)
def test_a_quote_never_outlives_its_price(boundary_ms: int | None, age_ms: int, valid_ms: int) -> None:
    """Near a price boundary it expires at it."""
    assert quote(replace(OFFER, valid_for_ms=boundary_ms), age_ms=age_ms).valid_for_ms == valid_ms


@pytest.mark.parametrize(
    ("rfq", "code", "detail"),
    [
        (
            replace(ASK, capabilities=frozenset({"vision", "tools"})),
            DeclineCode.UNSUPPORTED,
            "cannot do vision",
        ),
        (replace(ASK, input_tokens=100_000), DeclineCode.TOO_LONG, "leave 0 of a context of 100000"),
        (replace(ASK, input_tokens=99_900), DeclineCode.TOO_LONG, "leave 100 of a context"),
    ],
)
def test_what_cannot_be_served_is_declined_with_its_code(rfq: RFQ, code: DeclineCode, detail: str) -> None:
    """A missing capability and a prompt that leaves no room for the expected answer."""
    no = decline(OFFER, rfq)
    assert (no.provider, no.model, no.code) == ("acme", "one", code)
    assert detail in no.detail


def test_room_for_the_expected_answer_is_enough() -> None:
    """200 tokens of room serve an answer expected at 200, or one that the buyer bounds to 100."""
    assert quote(rfq=replace(ASK, input_tokens=99_800)).max_output_tokens == 200
    assert quote(rfq=replace(ASK, input_tokens=99_900, max_output_tokens=100)).max_output_tokens == 100


def test_embedding_offers_answer_only_what_embeds() -> None:
    """An offer with the tag ``embeddings`` does not chat."""
    embeds = replace(OFFER, tags=frozenset({"embeddings"}))
    assert decline(embeds, ASK).detail == "cannot do chat"
    assert quote(embeds, replace(ASK, capabilities=frozenset({"embeddings"})))


def test_quote_ids_are_unique_to_a_seller() -> None:
    """Two sellers with other prefixes never make the same id."""
    one, two = quote_ids("a"), quote_ids("b")
    ids = [make() for _ in range(100) for make in (one, two)]
    assert len(set(ids)) == 200


RATE = st.integers(100_000, 20 * USD)


@given(
    st.tuples(RATE, RATE, RATE, RATE),
    st.integers(1, 90_000),
    st.integers(1, 4_000),
    st.sampled_from(CacheWrites),
    st.floats(1.0, 1.5),
    st.floats(0, 1),
    st.data(),
)
def test_the_ceiling_is_never_below_a_bill_for_the_covered_tokens(
    rates: tuple[int, int, int, int],
    tokens: int,
    output: int,
    writes: CacheWrites,
    factor: float,
    hit: float,
    data: st.DataObject,
) -> None:
    """For any rates, any split of the covered input into fresh, read and written, any answer within the bound."""
    write = rates[0] if writes is CacheWrites.FREE else max(rates[3], rates[0])
    base = Rates(rates[0], rates[1], min(rates[2], rates[0]), write, write)
    offer = replace(
        OFFER,
        steps=(PriceStep(0, base), PriceStep(20_000, base.scaled(2, 1))),
        cache=replace(CACHE, writes=writes),
        vocabulary="other",
        token_factor=factor,
        token_margin=factor,
    )
    read_hope, write_hope = (data.draw(st.integers(0, tokens)) for _ in range(2))
    hope = CacheHope(read_hope, hit, write_hope, max(0, write_hope - read_hope)) if read_hope else NO_CACHE
    answer = Quoter(offer, quote_ids("t")).quote(
        replace(ASK, input_tokens=tokens, max_output_tokens=output), ttl_ms=1_000, cache=hope
    )
    assume(isinstance(answer, Quote))
    assert isinstance(answer, Quote)
    assert sum(line.nusd for line in answer.lines) == answer.expected_nusd <= answer.ceiling_nusd
    used = data.draw(st.integers(1, answer.input_tokens))
    read = data.draw(st.integers(0, used))
    written = data.draw(st.integers(0, used - read)) if writes is not CacheWrites.FREE else 0
    usage = Usage(used, data.draw(st.integers(0, answer.max_output_tokens)), read, written)
    assert price_nusd(offer.rates_for(used), usage) <= answer.ceiling_nusd
