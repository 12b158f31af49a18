"""A list-price seller's answer to an RFQ: one offer in, one quote or coded decline out.

Pure. A quote has an expected price, line by line after discounts, and a ceiling that no bill for the tokens it
covers can exceed: no cache hit, cache writes where the seller may charge them, the longest answer allowed.
:class:`Quoter` compiles what one offer's quotes have in common, since a request asks for up to a hundred.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from .prefix_cache import NO_CACHE, CacheHope
from .terms import (
    RFQ,
    TOKENS_PER_RATE,
    CacheWrites,
    Decline,
    DeclineCode,
    Discount,
    DiscountKind,
    LineKind,
    Offer,
    PriceLine,
    PriceStep,
    Quantiles,
    Quote,
    Rates,
    SpeedModel,
)

__all__ = [
    "DEFAULT_OUTPUT_TOKENS",
    "EXCLUSIVE",
    "P95",
    "Quoter",
    "Reduction",
    "quote_ids",
    "quote_offer",
]

DEFAULT_OUTPUT_TOKENS: Final = 300
"""The expected length of an answer when the house does not say."""
MIN_VALID_MS: Final = 1
MAX_LATENCIES: Final = 512
P95: Final = 1.6448536269514722
"""Standard deviations from a lognormal's median to its 95th percentile."""
EXCLUSIVE: Final = frozenset({"embeddings"})
"""Tags of offers that can do that alone."""

_BY_TIER: Final = {"flex": DiscountKind.FLEX, "batch": DiscountKind.BATCH, "standard": DiscountKind.OFF_PEAK}
_BASIS: Final = {
    DiscountKind.FLEX: "flex tier instead of standard",
    DiscountKind.BATCH: "batch tier instead of standard",
    DiscountKind.OFF_PEAK: "off-peak hours",
}


@dataclass(frozen=True, slots=True)
class Reduction:
    """A seller's own reduction of all token rates to ``numerator/denominator`` of the offer's."""

    kind: DiscountKind
    numerator: int
    denominator: int
    basis: str


class Quoter:
    """Quotes for one offer. ``next_id`` makes quote ids; ``age_ms`` below is the time since the offer was compiled."""

    __slots__ = (
        "_latencies_ms",
        "_list_steps",
        "_next_id",
        "_one_step",
        "_path",
        "_plain",
        "_writes",
        "late",
        "offer",
        "slack_nusd",
        "speed",
        "ttft_ms",
        "worst_input_rates",
    )

    def __init__(self, offer: Offer, next_id: Callable[[], str]) -> None:
        self.offer = offer
        self._next_id = next_id
        self._writes = offer.cache is not None and offer.cache.writes is not CacheWrites.FREE
        self.worst_input_rates = tuple(_worst(offer.steps, self._writes))
        self.slack_nusd = int(offer.cache is not None and _has_fractions(offer.steps))
        self._list_steps = offer.list_steps if offer.tier != "priority" else None
        self._plain = not EXCLUSIVE & offer.tags
        one = len(offer.steps) == 1
        self._one_step = (offer.steps[0].rates, self.worst_input_rates[0]) if one else None
        self._path = _BY_TIER.get(offer.tier, DiscountKind.OFF_PEAK)
        self.set_speed(offer.speed)

    def set_speed(self, speed: SpeedModel) -> None:
        """Quote this latency from now on."""
        self.speed = speed
        self.late = math.exp(P95 * speed.sigma)
        self.ttft_ms = Quantiles(_ms(speed.ttft_ms_p50), _ms(speed.ttft_ms_p50 * self.late))
        self._latencies_ms: dict[int, Quantiles] = {}

    def _latency_ms(self, output: int) -> Quantiles:
        """How long an answer of so many tokens takes; kept, for lengths come again."""
        median = self.speed.ttft_ms_p50 + self.speed.ms_per_output_token_p50 * output
        if len(self._latencies_ms) >= MAX_LATENCIES:
            self._latencies_ms.clear()
        kept = self._latencies_ms[output] = Quantiles(_ms(median), _ms(median * self.late))
        return kept

    def longest_within(self, latency_ms: int) -> int:
        """The longest answer whose 95th percentile is within ``latency_ms``; 0 = none is."""
        left_ms = latency_ms / self.late - self.speed.ttft_ms_p50
        per_token_ms = self.speed.ms_per_output_token_p50
        return max(0, math.floor(left_ms / per_token_ms)) if per_token_ms else self.offer.max_output_tokens

    def quote(
        self,
        rfq: RFQ,
        *,
        ttl_ms: int,
        age_ms: int = 0,
        cache: CacheHope = NO_CACHE,
        reduction: Reduction | None = None,
        token_factor: float | None = None,
        token_margin: float | None = None,
        capacity: int | None = None,
        firm: bool = True,
    ) -> Quote | Decline:
        """The offer's answer to an RFQ.

        ttl_ms: how long it holds at most; a price boundary or the end of a cache entry cut it short. token_factor,
        token_margin: learnt replacements for the offer's. capacity, firm: as in the quote.
        """
        offer = self.offer
        if (rfq.capabilities or not self._plain) and not self._can_do(rfq.capabilities):
            return self._unsupported(rfq)
        sizes = self._sizes(rfq, token_factor or offer.token_factor, token_margin or offer.token_margin)
        if isinstance(sizes, Decline):
            return sizes
        input_tokens, covered, output, max_output = sizes
        rates, worst = self._rates(covered, reduction)
        lines = _lines(rates, input_tokens, output, cache)
        expected_nusd = 0
        for line in lines:
            expected_nusd += line.nusd
        ceiling_nusd = self.slack_nusd + rates.request_nusd  # each part is rounded up
        ceiling_nusd -= -covered * worst // TOKENS_PER_RATE
        ceiling_nusd -= -max_output * rates.output_nusd_per_mtok // TOKENS_PER_RATE
        discounts: tuple[Discount, ...] = ()
        if not (cache is NO_CACHE and reduction is None and self._list_steps is None):
            discounts = tuple(
                self._discounts(rates, expected_nusd, input_tokens, output, covered, cache, reduction)
            )
        return Quote(
            quote_id=self._next_id(),
            rfq_id=rfq.rfq_id,
            provider=offer.provider,
            model=offer.model,
            tier=offer.tier,
            firm=firm,
            rates=rates,
            lines=lines,
            expected_nusd=expected_nusd,
            ceiling_nusd=ceiling_nusd,
            input_tokens=covered,
            expected_output_tokens=output,
            max_output_tokens=max_output,
            latency_ms=self._latencies_ms.get(output) or self._latency_ms(output),
            ttft_ms=self.ttft_ms,
            valid_for_ms=self._valid_for_ms(ttl_ms, age_ms, cache),
            discounts=discounts,
            tags=offer.tags,
            capacity=capacity,
        )

    def _sizes(self, rfq: RFQ, factor: float, margin: float) -> tuple[int, int, int, int] | Decline:
        """Tokens in, expected and covered, and tokens out, expected and at most."""
        offer = self.offer
        counted = rfq.tokens_by_vocabulary.get(offer.vocabulary)
        if counted is None:
            input_tokens = math.ceil(rfq.input_tokens * factor)
            covered = max(math.ceil(rfq.input_tokens * margin), input_tokens)
        else:
            input_tokens = counted
            covered = counted + (counted + 49) // 50  # only the chat template is unknown
        asked, longest = rfq.max_output_tokens, offer.max_output_tokens
        room = offer.context_tokens - covered
        if room > longest:
            room = longest
        max_output = room if asked is None or asked > room else asked
        wanted = rfq.expected_output_of(offer.model) or DEFAULT_OUTPUT_TOKENS
        if max_output < 1 or (room < longest and max_output < min(wanted, asked or wanted)):
            detail = f"{covered} tokens in leave {max(room, 0)} of a context of {offer.context_tokens}"
            return Decline(offer.provider, offer.model, DeclineCode.TOO_LONG, detail)
        return input_tokens, covered, wanted if wanted < max_output else max_output, max_output

    def _valid_for_ms(self, ttl_ms: int, age_ms: int, cache: CacheHope) -> int:
        until_ms, left_ms = self.offer.valid_for_ms, cache.left_ms
        if until_ms is not None and until_ms - age_ms < ttl_ms:
            ttl_ms = until_ms - age_ms
        if left_ms is not None and left_ms < ttl_ms and cache.read_tokens:
            ttl_ms = left_ms
        return ttl_ms if ttl_ms > MIN_VALID_MS else MIN_VALID_MS

    def _can_do(self, capabilities: frozenset[str]) -> bool:
        return EXCLUSIVE & self.offer.tags <= capabilities <= self.offer.tags

    def _unsupported(self, rfq: RFQ) -> Decline:
        offer = self.offer
        missing = sorted(rfq.capabilities - offer.tags) or ["chat"]
        return Decline(
            offer.provider, offer.model, DeclineCode.UNSUPPORTED, f"cannot do {', '.join(missing)}"
        )

    def _rates(self, covered: int, reduction: Reduction | None) -> tuple[Rates, int]:
        """The rates of a request this long, and the dearest rate of any of its input tokens."""
        if self._one_step is not None and reduction is None:
            return self._one_step
        steps, chosen = self.offer.steps, 0
        for number in range(1, len(steps)):
            if covered < steps[number].from_input_tokens:
                break
            chosen = number
        rates, worst = steps[chosen].rates, self.worst_input_rates[chosen]
        if reduction is None:
            return rates, worst
        return _reduced(rates, reduction), _part(worst, reduction)

    def _discounts(
        self,
        rates: Rates,
        expected_nusd: int,
        input_tokens: int,
        output: int,
        covered: int,
        cache: CacheHope,
        reduction: Reduction | None,
    ) -> Iterator[Discount]:
        """What each step from the list price to ``expected_nusd`` saves; the savings add up exactly."""
        plain_nusd = expected_nusd
        if cache.read_tokens or cache.write_tokens or cache.rewrite_tokens:
            plain_nusd = _plain_nusd(rates, input_tokens, output)
            if plain_nusd > expected_nusd:
                yield Discount(DiscountKind.CACHE_HIT, plain_nusd - expected_nusd, cache.basis)
        if reduction is not None:
            full_nusd = _plain_nusd(self._rates(covered, None)[0], input_tokens, output)
            if full_nusd > plain_nusd:
                yield Discount(reduction.kind, full_nusd - plain_nusd, reduction.basis)
            plain_nusd = full_nusd
        if self._list_steps is not None:
            list_nusd = _plain_nusd(_rates_for(self._list_steps, covered), input_tokens, output)
            if list_nusd > plain_nusd:
                yield Discount(self._path, list_nusd - plain_nusd, _BASIS[self._path])


def quote_offer(
    rfq: RFQ, offer: Offer, *, ttl_ms: int, next_id: Callable[[], str], cache: CacheHope = NO_CACHE
) -> Quote | Decline:
    """One quote for one offer; keep a :class:`Quoter` where many are asked for."""
    return Quoter(offer, next_id).quote(rfq, ttl_ms=ttl_ms, cache=cache)


def quote_ids(prefix: str) -> Callable[[], str]:
    """A maker of quote ids ``q_PREFIX_1``, ``q_PREFIX_2``...; the prefix must be unique to one seller object."""
    count = 0

    def next_id() -> str:
        nonlocal count
        count += 1
        return f"q_{prefix}_{count:x}"

    return next_id


def _lines(rates: Rates, input_tokens: int, output: int, cache: CacheHope) -> tuple[PriceLine, ...]:
    """The expected bill: the mean over hit and miss of what is read, written and fresh."""
    if cache is NO_CACHE and input_tokens and not rates.request_nusd:
        return (
            _line(LineKind.INPUT, input_tokens, rates.input_nusd_per_mtok),
            _line(LineKind.OUTPUT, output, rates.output_nusd_per_mtok),
        )
    lines: list[PriceLine] = []
    fresh = input_tokens
    if cache.read_tokens or cache.write_tokens or cache.rewrite_tokens:
        read = min(int(cache.read_tokens * cache.hit), fresh)
        written = int(cache.write_tokens * (1 - cache.hit) + cache.rewrite_tokens * cache.hit)
        written = min(written, fresh - read)
        fresh -= read + written
        if read:
            lines.append(_line(LineKind.CACHE_READ, read, rates.cache_read_nusd_per_mtok))
        if written:
            lines.append(_line(LineKind.CACHE_WRITE, written, rates.cache_write_nusd_per_mtok))
    if fresh:
        lines.insert(0, _line(LineKind.INPUT, fresh, rates.input_nusd_per_mtok))
    lines.append(_line(LineKind.OUTPUT, output, rates.output_nusd_per_mtok))
    if rates.request_nusd:
        lines.append(PriceLine(LineKind.REQUEST, 1, rates.request_nusd, rates.request_nusd))
    return tuple(lines)


def _line(kind: LineKind, tokens: int, rate: int) -> PriceLine:
    product = tokens * rate
    nusd = _even(product) if product % TOKENS_PER_RATE else product // TOKENS_PER_RATE
    return PriceLine(kind, tokens, rate, nusd)


def _plain_nusd(rates: Rates, input_tokens: int, output: int) -> int:
    """The expected bill when nothing is cached."""
    return (
        _even(input_tokens * rates.input_nusd_per_mtok)
        + _even(output * rates.output_nusd_per_mtok)
        + rates.request_nusd
    )


def _even(product: int) -> int:
    whole, twice = product // TOKENS_PER_RATE, 2 * (product % TOKENS_PER_RATE)
    return whole + (twice > TOKENS_PER_RATE or (twice == TOKENS_PER_RATE and whole & 1))


def _ms(value: float) -> int:
    return max(1, round(value))


def _worst(steps: tuple[PriceStep, ...], writes: bool) -> Iterator[int]:
    """Per step, the dearest input rate at its length or any shorter: a request may turn out shorter than covered."""
    worst = 0
    for step in steps:
        rates = step.rates
        worst = max(worst, rates.input_nusd_per_mtok, rates.cache_read_nusd_per_mtok)
        if writes:
            worst = max(worst, rates.cache_write_nusd_per_mtok)
        yield worst


def _has_fractions(steps: tuple[PriceStep, ...]) -> bool:
    """Whether a token may cost a fraction of a nano-dollar: three input lines then round up by one in all."""
    return any(
        rate % TOKENS_PER_RATE
        for step in steps
        for rate in (
            step.rates.input_nusd_per_mtok,
            step.rates.cache_read_nusd_per_mtok,
            step.rates.cache_write_nusd_per_mtok,
        )
    )


def _rates_for(steps: tuple[PriceStep, ...], input_tokens: int) -> Rates:
    rates = steps[0].rates
    for step in steps:
        if input_tokens < step.from_input_tokens:
            break
        rates = step.rates
    return rates


def _part(rate: int, reduction: Reduction) -> int:
    return -(-rate * reduction.numerator // reduction.denominator)


def _reduced(rates: Rates, reduction: Reduction) -> Rates:
    return Rates(
        _part(rates.input_nusd_per_mtok, reduction),
        _part(rates.output_nusd_per_mtok, reduction),
        _part(rates.cache_read_nusd_per_mtok, reduction),
        _part(rates.cache_write_nusd_per_mtok, reduction),
        _part(rates.cache_write_1h_nusd_per_mtok, reduction),
        rates.request_nusd,
    )
