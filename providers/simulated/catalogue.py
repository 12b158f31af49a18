"""The simulated market: sixteen real models of eight sellers at their real prices.

Prices, tiers, context and cache rules are those of the rate card. Latency, ability, hidden output and limits are
assumptions that keep the vendors' order of size; the self-hosted seller's prices are its operator's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ..base import ModelSettings, PricingSettings, ProviderSettings
from ..clock import Clock
from ..ratecard import RateCard
from ..terms import RateKind, RateLimit, Rates, SpeedModel
from ..vendor_terms import load_vendor_terms
from .answers import ModelTraits
from .batches import ENQUEUED
from .faults import Faults
from .seller import TRUE_HIT, SimulatedSeller

__all__ = ["SIMULATED", "default_sellers", "simulated_seller"]

DEFAULT_TRAITS: Final = ModelTraits(ability=0.6, ttft_ms=600, ms_per_token=12)
"""Of a model that is configured and not in the catalogue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """One simulated account: vendor terms, tiers, limits per minute, models; how often warm prefixes are read."""

    vendor: str
    tiers: tuple[str, ...] = ("standard",)
    limits: Mapping[RateKind, int]
    models: Mapping[str, ModelTraits]
    settings: tuple[ModelSettings, ...] = ()
    pricing: PricingSettings | None = None
    tags: frozenset[str] = frozenset()
    hit: float = TRUE_HIT

    @property
    def rate_limits(self) -> tuple[RateLimit, ...]:
        """The limits per minute as rate limits."""
        return tuple(RateLimit(kind, amount) for kind, amount in self.limits.items())

    @property
    def named(self) -> tuple[ModelSettings, ...]:
        """Its models as a configuration names them."""
        return self.settings or tuple(ModelSettings(name=model) for model in self.models)


SIMULATED: Final[Mapping[str, _Entry]] = {
    "openai": _Entry(
        vendor="openai",
        tiers=("standard", "priority", "flex", "batch"),
        limits={RateKind.REQUESTS: 500, RateKind.TOKENS: 500_000},
        models={
            "gpt-6.1-sol": ModelTraits(
                ability=2.3, ttft_ms=900, ms_per_token=9, reasoning_tokens=900, sigma=0.4
            ),
            "gpt-6-luna": ModelTraits(ability=1.3, ttft_ms=500, ms_per_token=5, reasoning_tokens=1000),
            "gpt-5-nano": ModelTraits(ability=0.5, ttft_ms=450, ms_per_token=6, reasoning_tokens=1000),
        },
    ),
    "anthropic": _Entry(
        vendor="anthropic",
        tiers=("standard", "priority", "batch"),
        limits={
            RateKind.REQUESTS: 400,
            RateKind.UNCACHED_INPUT_TOKENS: 400_000,
            RateKind.OUTPUT_TOKENS: 80_000,
        },
        models={
            "claude-opus-5-5": ModelTraits(
                ability=2.5, ttft_ms=1200, ms_per_token=16, sigma=0.4, reasoning_tokens=600, token_factor=1.52
            ),
            "claude-sonnet-5-5": ModelTraits(
                ability=2.0, ttft_ms=800, ms_per_token=11, reasoning_tokens=500, token_factor=1.52
            ),
            "claude-haiku-5-5": ModelTraits(ability=1.2, ttft_ms=450, ms_per_token=6, token_factor=1.52),
        },
    ),
    "google": _Entry(
        vendor="google",
        tiers=("standard", "priority", "flex", "batch"),
        limits={RateKind.REQUESTS: 300, RateKind.INPUT_TOKENS: 600_000},
        hit=0.6,
        models={
            "gemini-4-argon": ModelTraits(
                ability=2.3,
                ttft_ms=1400,
                ms_per_token=9,
                sigma=0.45,
                reasoning_tokens=2500,
                token_factor=1.12,
            ),
            "gemini-3.8-flash": ModelTraits(
                ability=1.5, ttft_ms=600, ms_per_token=5, reasoning_tokens=2500, token_factor=1.12
            ),
            "gemini-3.5-flash-lite": ModelTraits(
                ability=0.9, ttft_ms=350, ms_per_token=4, token_factor=1.12, reasoning_tokens=700
            ),
        },
    ),
    "deepseek": _Entry(
        vendor="deepseek",
        limits={RateKind.CONCURRENCY: 60},
        models={
            "deepseek-flash": ModelTraits(
                ability=1.2, ttft_ms=900, ms_per_token=14, sigma=0.5, reasoning_tokens=1200
            ),
            "deepseek-v4-pro": ModelTraits(
                ability=1.8, ttft_ms=1500, ms_per_token=22, sigma=0.55, reasoning_tokens=1800
            ),
        },
    ),
    "mistral": _Entry(
        vendor="mistral",
        tiers=("standard", "batch"),
        limits={RateKind.REQUESTS: 300, RateKind.TOKENS: 400_000},
        models={
            "mistral-large-4": ModelTraits(ability=1.5, ttft_ms=500, ms_per_token=10),
            "mistral-small-2603": ModelTraits(ability=0.6, ttft_ms=300, ms_per_token=5),
        },
    ),
    "x-ai": _Entry(
        vendor="x-ai",
        limits={RateKind.REQUESTS: 200, RateKind.TOKENS: 300_000},
        models={
            "grok-4.7": ModelTraits(
                ability=2.1, ttft_ms=900, ms_per_token=11, reasoning_tokens=900, token_factor=1.04
            ),
        },
    ),
    "groq": _Entry(
        vendor="groq",
        tiers=("standard", "flex"),
        limits={RateKind.REQUESTS: 100, RateKind.TOKENS: 120_000},
        models={
            "openai/gpt-oss-120b": ModelTraits(ability=0.9, ttft_ms=200, ms_per_token=2, reasoning_tokens=800)
        },
    ),
    "basement": _Entry(
        vendor="self-hosted",
        limits={RateKind.CONCURRENCY: 16},
        models={
            "qwen3.8-27b": ModelTraits(
                ability=0.8, ttft_ms=300, ms_per_token=10, sigma=0.3, reasoning_tokens=2000
            )
        },
        settings=(
            ModelSettings(
                name="qwen3.8-27b",
                rates=Rates(420_000_000, 3_000_000_000, 85_000_000, 420_000_000, 420_000_000),
                context_tokens=131_072,
            ),
        ),
        pricing=PricingSettings(reserve_share=0.3),
        tags=frozenset({"no_retention"}),
    ),
}
"""The sellers of :func:`default_sellers`, by name."""


def default_sellers(
    clock: Clock, *, seed: int = 0, limits_scale: float = 1.0, faults: Mapping[str, Faults] | None = None
) -> tuple[SimulatedSeller, ...]:
    """All simulated sellers. limits_scale: factor on their rate limits; faults: a script by seller name."""
    return tuple(
        _seller(name, entry, clock, seed=seed, limits_scale=limits_scale, faults=(faults or {}).get(name))
        for name, entry in SIMULATED.items()
    )


def simulated_seller(settings: ProviderSettings, clock: Clock) -> SimulatedSeller:
    """One simulated seller from a configuration: ``name`` picks the catalogue's, models or limits given replace its.

    A name that the catalogue does not have needs models with prices.
    """
    known = SIMULATED.get(settings.label)
    if known is None and not settings.models:
        raise ValueError(
            f"{settings.label}: expected one of {', '.join(SIMULATED)}, or models with prices; found neither"
        )
    models = settings.models or (known.settings if known else ())
    traits = dict(known.models) if known else {}
    if models:
        traits = {model.name: traits.get(model.name, DEFAULT_TRAITS) for model in models}
    entry = _Entry(
        vendor=known.vendor if known else "self-hosted",
        tiers=settings.tiers if settings.tiers != ("standard",) or known is None else known.tiers,
        limits={} if settings.limits or known is None else known.limits,
        models=traits,
        settings=models,
        pricing=settings.pricing or (known.pricing if known else None),
        tags=settings.tags | (known.tags if known else frozenset()),
        hit=known.hit if known else TRUE_HIT,
    )
    return _seller(
        settings.label,
        entry,
        clock,
        seed=settings.seed,
        limits=settings.limits,
        quote_ttl_ms=settings.quote_ttl_ms,
    )


def _seller(
    name: str,
    entry: _Entry,
    clock: Clock,
    *,
    seed: int,
    limits_scale: float = 1.0,
    limits: Sequence[RateLimit] = (),
    faults: Faults | None = None,
    quote_ttl_ms: int = 30_000,
) -> SimulatedSeller:
    limits = limits or tuple(
        RateLimit(kind, max(1, round(amount * limits_scale))) for kind, amount in entry.limits.items()
    )
    card = RateCard(
        name,
        entry.vendor,
        entry.named,
        tiers=entry.tiers,
        tags=entry.tags,
        speeds={
            model: SpeedModel(traits.ttft_ms, traits.ms_per_token, traits.sigma)
            for model, traits in entry.models.items()
        },
    )
    batched = [offer.model for offer in card.offers(clock.now_ms()) if offer.tier == "batch"]
    return SimulatedSeller(
        name,
        card,
        entry.models,
        clock,
        seed=seed,
        limits=load_vendor_terms().limits(entry.vendor, limits, batch_models=batched),
        tier_limits=_tier_limits(entry, [limit for limit in limits if limit.kind not in ENQUEUED]),
        pricing=entry.pricing,
        hit=entry.hit,
        faults=faults,
        quote_ttl_ms=quote_ttl_ms,
    )


def _tier_limits(entry: _Entry, limits: Sequence[RateLimit]) -> dict[str, tuple[RateLimit, ...]]:
    """Tiers with a pool of their own: batch always, others where the vendor's factor is not one."""
    pools: dict[str, tuple[RateLimit, ...]] = {}
    for tier in entry.tiers:
        row = load_vendor_terms().tier(entry.vendor, next(iter(entry.models)), tier)
        if row is not None and (tier == "batch" or row.limits != 1):
            pools[tier] = tuple(
                RateLimit(limit.kind, round(limit.amount * row.limits), limit.per_ms, limit.models)
                for limit in limits
            )
    return pools
