"""What a seller asks for its models now: integer rates per model, tier and input length, compiled into offers.

Rates come from the operator's configuration or from the vendor's list prices; a model without either is not
sellable. Offers are compiled once and again at the next instant at which a price changes (an hour, a date), so
composing a quote never computes a list price. Vendors' peculiarities are rows of ``vendor_terms.toml``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, time, timedelta
from typing import Final

from .base import ModelSettings
from .pricecard_genai import DAYS_AHEAD, PriceCard, find_card, package_version
from .quoting import P95
from .terms import ANY_PARAMETERS, Offer, Parameters, PriceStep, Rates, SpeedModel
from .vendor_terms import HoursRow, TierRow, VendorTerms, load_vendor_terms

__all__ = [
    "DEFAULT_SPEED",
    "EMBEDDINGS",
    "MAX_NUSD_PER_MTOK",
    "MIN_NUSD_PER_MTOK",
    "RateCard",
    "UnpricedModel",
    "check_rates",
]

DEFAULT_SPEED: Final = SpeedModel(ttft_ms_p50=700, ms_per_output_token_p50=12, sigma=0.45)
"""Where the latency of a model starts before any call was seen."""
DEFAULT_CONTEXT_TOKENS: Final = 32_768
EMBEDDINGS: Final = "embeddings"
"""The tag of offers that embed and cannot chat."""
MIN_NUSD_PER_MTOK: Final = 100_000
MAX_NUSD_PER_MTOK: Final = 5_000_000_000_000
"""Rates outside $0.0001 to $5,000 per million tokens are a wrong unit. Zero, given by the operator, is free."""


class UnpricedModel(ValueError):
    """A model to sell has no price; the message says which, and how to give one."""


def _promised(within_ms: int) -> SpeedModel:
    """The latency of a tier of which only the end is promised: as likely at any time until then, whatever the length.

    So its median is half of the promise and its p95 95 % of it, until it was seen to be otherwise.
    """
    return SpeedModel(within_ms / 2, 0.0, math.log(2 * 0.95) / P95)


def check_rates(rates: Rates, where: str) -> Rates:
    """The rates, or ValueError naming the one that cannot be US dollars per million tokens."""
    for entry in fields(rates):
        name, value = entry.name, getattr(rates, entry.name)
        low, high = (
            (MIN_NUSD_PER_MTOK, MAX_NUSD_PER_MTOK)
            if name.endswith("mtok")
            else (1, MAX_NUSD_PER_MTOK // 1000)
        )
        if value and not low <= value <= high:
            raise ValueError(
                f"{where}: expected {name} of 0 or {low} to {high} nano-dollars, found {value}: "
                "is the price per token instead of per million tokens, or the other way round?"
            )
    return rates


@dataclass(frozen=True, slots=True)
class _Priced:
    """Where one model's rates come from."""

    settings: ModelSettings
    card: PriceCard | None


@dataclass(frozen=True, slots=True)
class _Compiled:
    offers: tuple[Offer, ...]
    from_ms: int
    until_ms: int | None


class RateCard:
    """One seller's offers by time.

    provider: the name in ``provider/model``. vendor: a row of the vendor terms. models: empty = those listed there.
    speeds: latency by model where it is known. Raises :class:`UnpricedModel` for a named model without a price, and
    ValueError where nothing is left to sell.
    """

    def __init__(
        self,
        provider: str,
        vendor: str,
        models: Sequence[ModelSettings] = (),
        *,
        tiers: Sequence[str] = ("standard",),
        tags: frozenset[str] = frozenset(),
        speeds: Mapping[str, SpeedModel] | None = None,
        terms: VendorTerms | None = None,
        parameters: Parameters = ANY_PARAMETERS,
    ) -> None:
        self._provider, self._vendor = provider, vendor
        self._terms = terms or load_vendor_terms()
        self._row = self._terms.vendor(vendor)
        self._tiers = tuple(tier for tier in tiers if tier != "cached")
        self._tags, self._parameters = tags, parameters
        self._speeds = dict(speeds or {})
        models = models or [ModelSettings(name=name) for name in self._terms.listed(vendor)]
        if not models:
            raise ValueError(
                f"{provider}: expected models to sell, found none, and none are listed for {vendor}"
            )
        self._models = tuple(self._priced(settings) for settings in models)
        self._compiled: _Compiled | None = None

    def offers(self, now_ms: int) -> tuple[Offer, ...]:
        """What is sold at ``now_ms``; ``valid_for_ms`` counts from then."""
        offers, age_ms = self.current(now_ms)
        if not age_ms:
            return offers
        return tuple(
            offer if offer.valid_for_ms is None else replace(offer, valid_for_ms=offer.valid_for_ms - age_ms)
            for offer in offers
        )

    def current(self, now_ms: int) -> tuple[tuple[Offer, ...], int]:
        """The offers as compiled, the same objects until a price changes, and how long ago that was."""
        compiled = self._at(now_ms)
        return compiled.offers, now_ms - compiled.from_ms

    def _at(self, now_ms: int) -> _Compiled:
        kept = self._compiled
        if kept is None or now_ms < kept.from_ms or (kept.until_ms is not None and now_ms >= kept.until_ms):
            kept = self._compiled = self._compile(now_ms)
        return kept

    def _priced(self, settings: ModelSettings) -> _Priced:
        if settings.rates is not None:
            check_rates(settings.rates, f"{self._provider}/{settings.name}")
            return _Priced(settings, None)
        card = find_card(self._row.card, settings.name) if self._row.card else None
        if card is None:
            raise self._unpriced(settings.name)
        return _Priced(settings, card)

    def _unpriced(self, model: str) -> UnpricedModel:
        return UnpricedModel(
            f"{self._provider}/{model}: expected a price per token in and out, found none for vendor "
            f"{self._vendor!r} in genai-prices {package_version()}; give input_usd_per_million and "
            "output_usd_per_million"
        )

    def _compile(self, now_ms: int) -> _Compiled:
        now = datetime.fromtimestamp(now_ms / 1000, UTC)
        offers: list[Offer] = []
        ends: list[int] = []
        for priced in self._models:
            boundary = self._boundary(priced, now)
            valid_for_ms = None if boundary is None else round(boundary.timestamp() * 1000) - now_ms
            if valid_for_ms is not None:
                ends.append(now_ms + valid_for_ms)
            try:
                offers += self._offers_of(priced, now, valid_for_ms)
            except ValueError:
                if self._compiled is None:
                    raise
                # A price that went wrong while we sell is not sold; the market goes on without it.
        return _Compiled(tuple(offers), now_ms, min(ends, default=None))

    def _offers_of(self, priced: _Priced, now: datetime, valid_for_ms: int | None) -> list[Offer]:
        if priced.card is not None and priced.card.steps(now, {}) is None:
            raise self._unpriced(priced.settings.name)
        offers = (self._offer(priced, tier, now, valid_for_ms) for tier in self._tiers)
        return [offer for offer in offers if offer is not None]

    def _offer(self, priced: _Priced, tier: str, now: datetime, valid_for_ms: int | None) -> Offer | None:
        name = priced.settings.name
        steps, list_steps = self._steps(priced, tier, now)
        if steps is None:
            return None
        for step in steps:
            check_rates(step.rates, f"{self._provider}/{name} in genai-prices {package_version()}")
        model = self._terms.model(self._vendor, name)
        tokens = self._terms.tokens(self._vendor, name)
        tags = self._tags | set(self._row.tags) | set(model.tags)
        if priced.card is not None and priced.card.is_embedding(now):
            tags = self._tags | {EMBEDDINGS}
        context = (
            priced.settings.context_tokens
            or model.context_tokens
            or (priced.card.context_tokens if priced.card else None)
            or DEFAULT_CONTEXT_TOKENS
        )
        return Offer(
            provider=self._provider,
            model=name,
            tier=tier,
            steps=steps,
            context_tokens=context,
            max_output_tokens=min(context, priced.settings.max_output_tokens or model.max_output_tokens),
            tags=frozenset(tags),
            speed=self._speed(name, tier),
            vocabulary=tokens.vocabulary,
            token_factor=tokens.factor,
            token_margin=tokens.margin,
            list_steps=list_steps if list_steps != steps else None,
            valid_for_ms=valid_for_ms,
            price_source=self._source(priced),
            cache=self._terms.cache(self._vendor, name),
            parameters=self._parameters,
        )

    def _steps(
        self, priced: _Priced, tier: str, now: datetime
    ) -> tuple[tuple[PriceStep, ...] | None, tuple[PriceStep, ...] | None]:
        """Rates of a tier now, and the standard tier's at the dearest hour; None = not sold in this tier."""
        name = priced.settings.name
        row = self._terms.tier(self._vendor, name, tier) if tier != "standard" else None
        if tier != "standard" and row is None:
            return None, None
        if priced.card is None:
            assert priced.settings.rates is not None, "a model without a card has rates"
            own = (PriceStep(0, priced.settings.rates),)
            return (own if row is None else _scaled(own, row)), own
        hours = self._terms.hours(self._vendor, name)
        at = _weekend(hours, now)
        listed = priced.card.steps(now if hours is None else _on(now, hours.peak_at), {})
        standard = priced.card.steps(at, {})
        if row is None or standard is None:
            return standard, listed
        if priced.card.has_context(at, row.context):
            return priced.card.steps(at, row.context), listed
        return _scaled(standard, row), listed

    def _boundary(self, priced: _Priced, now: datetime) -> datetime | None:
        """The next instant at which any tier of a model has other rates, None = none in sight."""
        card = priced.card
        if card is None:
            return None
        candidates = set(card.boundaries(now))
        if self._terms.hours(self._vendor, priced.settings.name) is not None:
            candidates |= {_on(now + timedelta(days), time()) for days in range(1, DAYS_AHEAD + 1)}
        before = [self._steps(priced, tier, now)[0] for tier in self._tiers]
        for at in sorted(at for at in candidates if at > now):
            if [self._steps(priced, tier, at)[0] for tier in self._tiers] != before:
                return at
        return None

    def _speed(self, name: str, tier: str) -> SpeedModel:
        speed = self._speeds.get(name, DEFAULT_SPEED)
        row = self._terms.tier(self._vendor, name, tier) if tier != "standard" else None
        if row is None:
            return speed
        if row.within_ms is not None:
            return _promised(row.within_ms)
        assert row.latency is not None, "a tier says one of the two"
        return SpeedModel(
            speed.ttft_ms_p50 * row.latency, speed.ms_per_output_token_p50 * row.latency, speed.sigma
        )

    def _source(self, priced: _Priced) -> str:
        if priced.card is None:
            return "configuration"
        prices = self._terms.prices
        released = f" ({prices.released})" if prices.version == package_version() else ""
        return f"genai-prices {package_version()}{released}: {priced.card.vendor}/{priced.card.model}"


def _scaled(steps: tuple[PriceStep, ...], row: TierRow) -> tuple[PriceStep, ...] | None:
    if row.rate is None:
        return None
    numerator, denominator = row.rate
    return tuple(
        PriceStep(step.from_input_tokens, step.rates.scaled(numerator, denominator)) for step in steps
    )


def _weekend(hours: HoursRow | None, now: datetime) -> datetime:
    """``now``, or the off-peak instant of a day on which there is no peak."""
    return now if hours is None or now.isoweekday() in hours.weekdays else _on(now, hours.off_peak_at)


def _on(day: datetime, at: time) -> datetime:
    return datetime.combine(day.date(), at, UTC)
