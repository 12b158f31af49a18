"""Sellers at vendors' HTTP APIs, made from settings and the vendor's row of ``presets.toml``."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping

from .anthropic import Anthropic
from .base import ProviderSettings
from .clock import Clock
from .dialect import Dialect
from .gemini import Gemini
from .http_client import HttpClient
from .keys import KeyRing, keys_from_environment
from .openai_compat import OpenAICompat
from .presets import Preset, preset
from .pricelist import PriceList
from .ratecard import EMBEDDINGS, RateCard
from .vendor import VendorSeller
from .vendor_terms import load_vendor_terms

__all__ = ["http_seller"]


def http_seller(
    settings: ProviderSettings, clock: Clock, environment: Mapping[str, str] | None = None
) -> VendorSeller:
    """The seller of one account. ``settings.kind`` names a preset of ``presets.toml``.

    Keys are read from ``environment`` (None: the process's) when the first quote asks for one. Raises ValueError
    for settings that cannot work, such as a missing base URL.
    """
    row = preset(settings.kind)
    base_url = settings.base_url or row.base_url
    if base_url is None:
        raise ValueError(
            f"{settings.label}: expected a base_url, found none, and {row.name} has no usual one"
        )
    names = settings.api_key_env or ((row.key_env,) if row.key_env else ())
    dialect = _dialect(row)
    known = os.environ if environment is None else environment
    keys = KeyRing(lambda: keys_from_environment(names, known, settings.label), clock)
    card = RateCard(
        settings.label,
        row.vendor,
        settings.models,
        tiers=settings.tiers,
        tags=settings.tags | (dialect.tags - {EMBEDDINGS} if row.vendor == "self-hosted" else frozenset()),
    )
    # Several workers sell for one account: their quotes must not share a name.
    prices = PriceList(
        card,
        clock,
        id_prefix=f"{settings.label}_{secrets.token_hex(4)}",
        quote_ttl_ms=settings.quote_ttl_ms,
    )
    limits = load_vendor_terms().limits(row.vendor, settings.limits)
    return VendorSeller(settings.label, dialect, HttpClient(base_url), keys, prices, limits=limits)


def _dialect(row: Preset) -> Dialect:
    if row.dialect == "anthropic":
        return Anthropic()
    return Gemini() if row.dialect == "gemini" else OpenAICompat(row)
