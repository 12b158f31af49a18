"""Sellers at vendors' HTTP APIs, made from settings and the vendor's row of ``presets.toml``."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping
from typing import Final

from .anthropic import Anthropic
from .base import PricingSettings, ProviderSettings
from .batch_anthropic import AnthropicBatches
from .batch_dialect import BatchDialect
from .batch_gemini import GeminiBatches
from .batch_http import HttpBatches
from .batch_openai import MistralBatches, OpenAIBatches
from .clock import Clock
from .dialect import Dialect
from .gemini import Gemini
from .http_client import HttpClient
from .http_plain import open_client
from .http_reply import HttpPoster
from .idle_pricing import QuietTimes, idle_standing
from .keys import KeyRing, keys_from_environment
from .load_meter import DEFAULT_SLOTS, LoadMeter
from .openai_compat import OpenAICompat
from .presets import Preset, preset
from .pricelist import PriceList, Standing
from .ratecard import EMBEDDINGS, RateCard
from .terms import RFQ, Offer, RateKind
from .vendor import VendorSeller
from .vendor_terms import load_vendor_terms

__all__ = ["http_seller"]


def http_seller(
    settings: ProviderSettings,
    clock: Clock,
    environment: Mapping[str, str] | None = None,
    connect: Callable[[str], HttpPoster] = open_client,
) -> VendorSeller:
    """The seller of one account. ``settings.kind`` names a preset of ``presets.toml``.

    Keys are read from ``environment`` (None: the process's) when the first quote asks for one. Raises ValueError
    for settings that cannot work, such as a missing base URL. ``connect`` opens the client for a base URL.
    """
    row = preset(settings.kind)
    base_url = settings.base_url or row.base_url
    if base_url is None:
        raise ValueError(
            f"{settings.label}: expected a base_url, found none, and {row.name} has no usual one"
        )
    names = settings.api_key_env or ((row.key_env,) if row.key_env else ())
    dialect = _dialect(row)
    sold = dialect.tiers | ({"batch"} if row.batches else set())
    if unsold := sorted(set(settings.tiers) - sold - {"cached"}):
        raise ValueError(
            f"{settings.label}: tiers: expected some of {', '.join(sorted(sold))}, which a call to "
            f"{row.name} can ask for, found {unsold[0]!r}"
        )
    known = os.environ if environment is None else environment
    keys = KeyRing(lambda: keys_from_environment(names, known, settings.label), clock)
    card = RateCard(
        settings.label,
        row.vendor,
        settings.models,
        tiers=settings.tiers,
        tags=settings.tags | (dialect.tags - {EMBEDDINGS} if row.vendor == "self-hosted" else frozenset()),
        parameters=dialect.parameters,
    )
    # Several workers sell for one account: their quotes must not share a name.
    prefix = f"{settings.label}_{secrets.token_hex(4)}"
    prices = PriceList(card, clock, id_prefix=prefix, quote_ttl_ms=settings.quote_ttl_ms)
    batched = [offer.model for offer in card.offers(clock.now_ms()) if offer.tier == "batch"]
    limits = load_vendor_terms().limits(row.vendor, settings.limits, batch_models=batched)
    standing, quiet = None, None
    if settings.pricing is not None:
        standing, quiet = _idle(settings, settings.pricing, row, keys, clock)
    client, batches = connect(base_url), None
    if "batch" in settings.tiers:
        batches = HttpBatches(settings.label, _BATCHES[row.batches](dialect), HttpClient(base_url), keys)
    return VendorSeller(
        settings.label,
        dialect,
        client,
        keys,
        prices,
        limits=limits,
        standing=standing,
        quiet=quiet,
        batches=batches,
    )


def _idle(
    settings: ProviderSettings, pricing: PricingSettings, row: Preset, keys: KeyRing, clock: Clock
) -> tuple[Callable[[Offer, RFQ], Standing], QuietTimes]:
    """The standing of a seller that prices its own idle capacity; a vendor's bill cannot be lowered so."""
    if row.vendor != "self-hosted":
        raise ValueError(
            f"{settings.label}: expected pricing only for one's own servers, found it for {row.vendor}"
        )
    slots = [limit.amount for limit in settings.limits if limit.kind is RateKind.CONCURRENCY]
    meter = LoadMeter(
        pricing.metrics_url,
        clock.now_ms,
        slots=min(slots, default=DEFAULT_SLOTS),
        own_calls=lambda: sum(key.in_flight for key in keys.keys),
    )
    quiet = QuietTimes(meter.busy)

    def standing(offer: Offer, rfq: RFQ) -> Standing:
        quick = None if rfq.target is None else quiet.speed(offer.model, offer.tier)
        return idle_standing(meter.busy(), pricing, rfq, quick=quick)

    return standing, quiet


_BATCHES: Final[Mapping[str, Callable[[Dialect], BatchDialect]]] = {
    "anthropic": AnthropicBatches,
    "gemini": GeminiBatches,
    "mistral": MistralBatches,
    "openai": OpenAIBatches,
}


def _dialect(row: Preset) -> Dialect:
    if row.dialect == "anthropic":
        return Anthropic()
    return Gemini() if row.dialect == "gemini" else OpenAICompat(row)
