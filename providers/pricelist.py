"""A list-price seller's counter: every quote composed now, from price card, cache belief and what was learnt.

Vendors and simulated sellers alike own one. It answers RFQs, bargains in a second round, and learns from each call
how many tokens a prompt really has and how often a warm prefix is really read.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from .base import QUOTE_TTL_MS
from .clock import Clock
from .latency import at_speed
from .prefix_cache import NO_CACHE, CacheHope, CacheScore, PrefixCache
from .quoting import Quoter, Reduction, quote_ids
from .ratecard import RateCard
from .records import record
from .terms import (
    RFQ,
    TOKENS_PER_RATE,
    Answer,
    Decline,
    DeclineCode,
    DiscountKind,
    Offer,
    Quote,
    SpeedModel,
    Target,
    Ticket,
    Usage,
)
from .tokens import REPLY_TOKENS, VOCABULARIES

__all__ = ["Call", "PriceList", "Standing"]

LEARNT_FROM: Final = 20
"""Calls seen before a learnt token count replaces the assumed one."""
LEARNING: Final = 0.05
MIN_TOKENS_LEARNT: Final = 50
"""Shorter prompts say more about chat templates than about vocabularies."""
LOWEST_RATIO: Final = 0.3
HIGHEST_RATIO: Final = 4.0
"""Beyond these a usage is a seller's mistake and no vocabulary."""
OUTPUT_SLACK: Final = 2
"""In bargaining an answer's bound never falls below this many times its expected length."""
FASTER: Final = "priority"
CHEAPER: Final = "flex"
"""The tier a second round is shown, unasked, where it meets a target of latency or of price."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a seller stands toward one offer now.

    reduction: of its rates without being asked; reserve: the lowest it goes in a second round. capacity: calls it
    can take, None = unknown. firm False = indicative only. decline: does not sell it now, and why. quick: how fast it is
    just now, where that is known, for a second round that asks for time.
    """

    reduction: Reduction | None = None
    reserve: Reduction | None = None
    capacity: int | None = None
    firm: bool = True
    decline: tuple[DeclineCode, str] | None = None
    quick: SpeedModel | None = None


OPEN: Final = Standing()

Ask = Callable[[RFQ, Reduction | None], Quote | Decline]
"""Quotes an offer, once more and with another reduction."""


@record(frozen=True, slots=True)
class Call:
    """A call that began: what the cache was believed to do, and which prefixes it asks to be stored."""

    ticket: Ticket
    offer: Offer | None
    hope: CacheHope
    breakpoints: tuple[int, ...]


@dataclass(slots=True)
class _Ratio:
    """The seller's tokens per reference token, learnt from usage: mean and mean absolute deviation."""

    mean: float
    spread: float = 0.0
    calls: int = 0


class PriceList:
    """Quotes for everything on a rate card. ``id_prefix`` must be unique to this object."""

    def __init__(
        self, card: RateCard, clock: Clock, *, id_prefix: str, quote_ttl_ms: int = QUOTE_TTL_MS
    ) -> None:
        self._card, self._clock, self._ttl_ms = card, clock, quote_ttl_ms
        self._next_id = quote_ids(id_prefix)
        self._cache = PrefixCache()
        self._ratios: dict[str, _Ratio] = {}
        self._speeds: dict[tuple[str, str], SpeedModel] = {}
        self._compiled: tuple[Offer, ...] | None = None
        self._quoters: tuple[Quoter, ...] = ()
        self._by_tier: dict[tuple[str, str], Offer] = {}
        self._current(clock.now_ms())  # a model without a price is refused now, not at the first request

    def offers(self) -> tuple[Offer, ...]:
        """What is sold now, with what was learnt of tokens and latency."""
        return self.offers_at(self._clock.now_ms())

    def offers_at(self, at_ms: int) -> tuple[Offer, ...]:
        """What is sold at an instant, with what was learnt by now; ``valid_for_ms`` counts from then."""
        return tuple(self._learnt(offer) for offer in self._card.offers(at_ms))

    def answer(
        self, rfq: RFQ, standing: Callable[[Offer, RFQ], Standing] = lambda offer, rfq: OPEN
    ) -> Answer:
        """A quote or a decline for each offer that the RFQ asks for.

        A second round also hears of the faster (cheaper) tier of what it asked, where that meets its target: the buyer
        has not accepted the tier, so it can only become a counter-offer.
        """
        now_ms = self._clock.now_ms()
        quoters, age_ms = self._current(now_ms)
        answer: list[Quote | Decline] = []
        for quoter in quoters:
            offer = quoter.offer
            unasked = offer.tier not in rfq.tiers
            if (unasked and not _toward(rfq.target, offer.tier)) or not _asked_for(rfq, offer):
                continue
            at = standing(offer, rfq)
            if at.decline is not None:
                given: Quote | Decline = Decline(offer.provider, offer.model, *at.decline)
            else:
                given = self._quote(quoter, rfq, at, now_ms, age_ms)
            if not unasked or (isinstance(given, Quote) and _meets(given, rfq.target)):
                answer.append(given)
        return tuple(answer)

    def began(self, ticket: Ticket) -> Call:
        """Note what is believed of a call before it is made; ``breakpoints`` index ``ticket.prefix``."""
        quote, now_ms = ticket.quote, self._clock.now_ms()
        self._current(now_ms)
        offer = self._by_tier.get((quote.model, quote.tier))
        if offer is None or not ticket.prefix:
            return Call(ticket, offer, NO_CACHE, ())
        counted = ticket.prefix[-1].tokens + REPLY_TOKENS
        scale = self._scale(offer)
        hope = self._cache.hope(
            offer.model,
            offer.cache,
            ticket.prefix,
            now_ms,
            input_tokens=int(counted * scale),
            scale=scale,
        )
        return Call(
            ticket, offer, hope, self._cache.breakpoints(offer.model, offer.cache, ticket.prefix, now_ms)
        )

    def ended(self, call: Call, usage: Usage) -> None:
        """Learn from the usage of a call that was served."""
        offer, prefix = call.offer, call.ticket.prefix
        if offer is None or not prefix:
            return
        marked = None if offer.cache is None or offer.cache.writes != "marked" else call.breakpoints
        self._cache.observe(offer.model, offer.cache, call.hope, usage)
        self._cache.sent(offer.model, offer.cache, prefix, self._clock.now_ms(), stored=marked)
        counted = prefix[-1].tokens + REPLY_TOKENS
        seen = usage.input_tokens / counted
        if usage.estimated or counted < MIN_TOKENS_LEARNT or not LOWEST_RATIO < seen < HIGHEST_RATIO:
            return
        if offer.vocabulary not in VOCABULARIES:
            ratio = self._ratios.setdefault(offer.model, _Ratio(offer.token_factor))
            ratio.calls += 1
            step = max(LEARNING, 1 / ratio.calls)
            ratio.spread += step * (abs(seen - ratio.mean) - ratio.spread)
            ratio.mean += step * (seen - ratio.mean)

    def observed(self, model: str, tier: str, speed: SpeedModel) -> None:
        """Quote this latency for an offer from now on."""
        self._speeds[model, tier] = speed
        for quoter in self._quoters:
            if (quoter.offer.model, quoter.offer.tier) == (model, tier):
                quoter.set_speed(speed)

    def cache_scores(self) -> dict[str, CacheScore]:
        """How good the beliefs about the prompt cache were, by model."""
        return self._cache.scores()

    def _quote(self, quoter: Quoter, rfq: RFQ, at: Standing, now_ms: int, age_ms: int) -> Quote | Decline:
        offer = quoter.offer
        hope, (factor, margin) = NO_CACHE, self._factors(offer)
        if rfq.prefix and offer.cache is not None:
            own = rfq.tokens_by_vocabulary.get(offer.vocabulary)
            scale = factor if own is None else own / max(1, rfq.input_tokens)
            hope = self._cache.hope(
                offer.model,
                offer.cache,
                rfq.prefix,
                now_ms,
                input_tokens=int(rfq.input_tokens * scale),
                scale=scale,
            )

        def ask(rfq: RFQ, reduction: Reduction | None) -> Quote | Decline:
            return quoter.quote(
                rfq,
                ttl_ms=self._ttl_ms,
                age_ms=age_ms,
                cache=hope,
                reduction=reduction,
                token_factor=factor,
                token_margin=margin,
                capacity=at.capacity,
                firm=at.firm,
            )

        quote = ask(rfq, at.reduction)
        if isinstance(quote, Decline) or rfq.target is None:
            return quote
        return _toward_target(rfq, rfq.target, quote, quoter, at, ask)

    def _current(self, now_ms: int) -> tuple[tuple[Quoter, ...], int]:
        offers, age_ms = self._card.current(now_ms)
        if offers is not self._compiled:
            self._compiled = offers
            self._quoters = tuple(Quoter(offer, self._next_id) for offer in offers)
            self._by_tier = {(offer.model, offer.tier): offer for offer in reversed(offers)}
            for (model, tier), speed in self._speeds.items():
                self.observed(model, tier, speed)
        return self._quoters, age_ms

    def _factors(self, offer: Offer) -> tuple[float, float]:
        ratio = self._ratios.get(offer.model)
        if ratio is None or ratio.calls < LEARNT_FROM:
            return offer.token_factor, offer.token_margin
        return ratio.mean, max(ratio.mean * 1.05, ratio.mean + 4 * ratio.spread)

    def _scale(self, offer: Offer) -> float:
        return 1.0 if offer.vocabulary in VOCABULARIES else self._factors(offer)[0]

    def _learnt(self, offer: Offer) -> Offer:
        factor, margin = self._factors(offer)
        speed = self._speeds.get((offer.model, offer.tier), offer.speed)
        if (factor, margin, speed) == (offer.token_factor, offer.token_margin, offer.speed):
            return offer
        return replace(offer, token_factor=factor, token_margin=margin, speed=speed)


def _toward(target: Target | None, tier: str) -> bool:
    """Whether a tier is one that leads toward a target."""
    if target is None:
        return False
    return (tier == FASTER and target.latency_ms is not None) or (tier == CHEAPER and target.nusd is not None)


def _meets(quote: Quote, target: Target | None) -> bool:
    """Whether a quote is all that a second round asks."""
    if target is None:
        return True
    in_time = target.latency_ms is None or quote.latency_ms.p95 <= target.latency_ms
    return in_time and (target.nusd is None or quote.ceiling_nusd <= target.nusd)


def _asked_for(rfq: RFQ, offer: Offer) -> bool:
    return rfq.models is None or offer.model in rfq.models or offer.key in rfq.models


def _toward_target(
    rfq: RFQ, target: Target, quote: Quote, quoter: Quoter, at: Standing, ask: Ask
) -> Quote | Decline:
    """What a second round gets: sooner where it is quicker just now, or where nobody knows how long the answer is to be."""
    given: Quote | Decline = quote
    quick: SpeedModel | None = None
    if target.latency_ms is not None and quote.latency_ms.p95 > target.latency_ms:
        if at.quick is not None and at_speed(quote, at.quick).latency_ms.p95 <= target.latency_ms:
            quick = at.quick
        elif rfq.max_output_tokens is None and not rfq.expected_output_of(quote.model):
            tokens = quoter.longest_within(target.latency_ms)
            if tokens:
                rfq = replace(rfq, max_output_tokens=min(tokens, quote.max_output_tokens))
                given = ask(rfq, at.reduction)
    if isinstance(given, Quote) and target.nusd is not None and given.ceiling_nusd > target.nusd:
        given = _bargain(rfq, given, target.nusd, at, ask)
    return at_speed(given, quick) if quick is not None and isinstance(given, Quote) else given


def _bargain(
    rfq: RFQ,
    quote: Quote,
    target_nusd: int,
    at: Standing,
    ask: Ask,
) -> Quote | Decline:
    """The nearest that a seller goes toward a ceiling of ``target_nusd``: its price first, then a shorter answer.

    The mildest reduction that reaches the target, never below the reserve. The bound on the answer is lowered only
    where the buyer gave none. Where the target cannot be reached the first quote stands.
    """
    best = quote
    if at.reserve is not None:
        lowest = ask(rfq, at.reserve)
        if isinstance(lowest, Quote):
            best = lowest
            if lowest.ceiling_nusd <= target_nusd:
                full = ask(rfq, None)
                assert isinstance(full, Quote), "the same offer was quoted with a reduction"
                part = math.floor(1000 * target_nusd / full.ceiling_nusd)
                toward = Reduction(DiscountKind.COUNTER, part, 1000, "second round: toward the target")
                mild = ask(rfq, toward)
                if isinstance(mild, Quote) and lowest.ceiling_nusd <= mild.ceiling_nusd <= target_nusd:
                    return mild
                return lowest
    if rfq.max_output_tokens is not None:
        return quote
    output_rate = best.rates.output_nusd_per_mtok
    output_nusd = -(-best.max_output_tokens * output_rate // TOKENS_PER_RATE)
    left_nusd = target_nusd - (best.ceiling_nusd - output_nusd)
    tokens = left_nusd * TOKENS_PER_RATE // output_rate if output_rate else 0
    if tokens < OUTPUT_SLACK * best.expected_output_tokens:
        return quote
    return ask(replace(rfq, max_output_tokens=tokens), at.reserve or at.reduction)
