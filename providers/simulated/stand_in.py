"""Stand-ins: sellers at the real price cards of a configuration whose answers are only as long as they are told.

For playing recorded traffic again: nothing is called, no limit is enforced here (the house counts them), nothing fails.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Sequence
from random import Random
from typing import Final

from ..base import PricingSettings, ProviderSettings
from ..clock import Clock
from ..idle_pricing import idle_standing
from ..presets import preset
from ..pricelist import PriceList, Standing
from ..ratecard import RateCard
from ..terms import RFQ, Answer, Delta, LineKind, Offer, RateKind, RateLimit, SpeedModel, Ticket, Usage
from ..vendor_terms import load_vendor_terms
from .answers import prompt_of
from .catalogue import SIMULATED

__all__ = ["Length", "StandIn", "stand_in"]

Length = Callable[[str, str], int]
"""How many tokens the model's answer to a prompt has: prompt, model."""

_INPUT: Final = frozenset({LineKind.INPUT, LineKind.CACHE_READ, LineKind.CACHE_WRITE})


class StandIn:
    """A :class:`providers.base.Provider` that answers nothing, as long as ``length`` says.

    An answer takes the time its model usually takes, times luck that depends on seed, prompt and model alone.
    """

    def __init__(
        self,
        name: str,
        card: RateCard,
        clock: Clock,
        *,
        length: Length,
        limits: Sequence[RateLimit] = (),
        pricing: PricingSettings | None = None,
        quote_ttl_ms: int = 30_000,
        seed: int = 0,
    ) -> None:
        self.name, self._length, self._pricing, self._seed = name, length, pricing, seed
        self.limits: Sequence[RateLimit] = tuple(limits)
        self._prices = PriceList(card, clock, id_prefix=name, quote_ttl_ms=quote_ttl_ms)
        slots = [limit.amount for limit in limits if limit.kind is RateKind.CONCURRENCY]
        self._slots = min(slots, default=1)
        self._running = 0

    def offers(self) -> Sequence[Offer]:
        """What it sells now."""
        return self._prices.offers()

    def quote(self, rfq: RFQ) -> Answer:
        """Quotes and declines, at once."""
        return self._prices.answer(rfq, self._standing)

    def _standing(self, offer: Offer, rfq: RFQ) -> Standing:
        if self._pricing is None:
            return Standing()
        return idle_standing(min(1.0, self._running / self._slots), self._pricing, rfq)

    async def execute(self, ticket: Ticket) -> AsyncGenerator[Delta]:
        """An empty answer that counts as long as it is said to be; cut at what the ticket covers."""
        quote, prompt = ticket.quote, prompt_of(ticket.body)
        wanted = max(1, self._length(prompt, quote.model))
        tokens = min(wanted, ticket.max_output_tokens)
        speed = next(
            (o.speed for o in self.offers() if (o.model, o.tier) == (quote.model, quote.tier)), SLOWEST
        )
        luck = math.exp(speed.sigma * Random(f"{self._seed}/{prompt}/{quote.model}").gauss(0, 1))
        self._running += 1
        try:
            await asyncio.sleep((speed.ttft_ms_p50 + speed.ms_per_output_token_p50 * tokens) * luck / 1000)
        finally:
            self._running -= 1
        input_tokens = sum(line.tokens for line in quote.lines if line.kind in _INPUT)
        yield Delta(
            delta={"role": "assistant", "content": "."},
            finish_reason="length" if wanted > tokens else "stop",
            usage=Usage(input_tokens, tokens),
        )

    async def aclose(self) -> None:
        """Nothing is held."""


SLOWEST: Final = SpeedModel(1_000, 20)
"""Of an offer that is not sold any more when its quote is taken."""


def stand_in(settings: ProviderSettings, clock: Clock, length: Length, seed: int = 0) -> StandIn:
    """The stand-in of a configured seller. Raises ValueError for a kind that prices each request elsewhere."""
    known = SIMULATED.get(settings.label) if settings.kind == "simulated" else None
    vendor = (
        known.vendor
        if known
        else "self-hosted"
        if settings.kind == "simulated"
        else preset(settings.kind).vendor
    )
    models = settings.models or (known.settings if known else ())
    if known is not None and not models:
        models = known.named
    traits = known.models if known else {}
    tiers = known.tiers if known and settings.tiers == ("standard",) else settings.tiers
    card = RateCard(
        settings.label,
        vendor,
        models,
        tiers=tiers,
        tags=settings.tags | (known.tags if known else frozenset()),
        speeds={name: SpeedModel(one.ttft_ms, one.ms_per_token, one.sigma) for name, one in traits.items()},
    )
    limits = settings.limits or (known.rate_limits if known else ())
    return StandIn(
        settings.label,
        card,
        clock,
        length=length,
        limits=load_vendor_terms().limits(vendor, limits),
        pricing=settings.pricing or (known.pricing if known else None),
        quote_ttl_ms=settings.quote_ttl_ms,
        seed=seed,
    )
