"""List prices of real models, out of the genai-prices package, as integer rates.

The only module that knows that package, and it imports it on first use: its data takes a third of a second to load.
No network: the prices are those of the installed release. A price here is US dollars per million tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from .terms import PriceStep, Rates

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, TieredPrices

__all__ = ["DAYS_AHEAD", "PriceCard", "find_card", "package_version", "priced_models"]

NUSD_PER_USD: Final = 1_000_000_000
DAYS_AHEAD: Final = 4
"""How far daily hours are looked ahead: a weekend and the days around it."""


class PriceCard:
    """One model's list prices, by time and service context."""

    def __init__(self, vendor: str, info: ModelInfo) -> None:
        self.vendor = vendor
        self._info = info

    @property
    def model(self) -> str:
        """The model's name in the package, to which other spellings were resolved."""
        return self._info.id

    @property
    def context_tokens(self) -> int | None:
        """The longest input the package knows of."""
        return self._info.context_window

    def steps(self, at: datetime, context: Mapping[str, str]) -> tuple[PriceStep, ...] | None:
        """Rates by input length at a time in a context; None = no price per text token, in and out.

        An embedding model has no price out: its output rate is zero, which :meth:`is_embedding` tells apart.
        """
        price = self._info.get_prices(at, dict(context) or None)
        steps = tuple(_steps(price))
        if not steps or any(not step.rates.input_nusd_per_mtok for step in steps):
            return None
        if not self.is_embedding(at) and any(not step.rates.output_nusd_per_mtok for step in steps):
            return None
        return steps

    def is_embedding(self, at: datetime) -> bool:
        """Whether only its input has a price and its name says that it embeds."""
        price = self._info.get_prices(at)
        return price.output_mtok is None and "embed" in self._info.id

    def has_context(self, at: datetime, context: Mapping[str, str]) -> bool:
        """Whether the package has prices of their own for this service context."""
        return any(
            set(variant.when.items()) <= set(context.items())
            and (variant.constraint is None or variant.constraint.active(at))
            and any(value is not None for value in variant.prices.__dict__.values())
            for variant in self._info.price_variants or ()
        )

    def boundaries(self, after: datetime) -> Iterator[datetime]:
        """Instants after ``after`` at which a condition of some price may change, in no order."""
        conditions = [variant.constraint for variant in self._info.price_variants or ()]
        if isinstance(self._info.prices, list):
            conditions += [price.constraint for price in self._info.prices]
        for condition in conditions:
            start_date: date | None = getattr(condition, "start_date", None)
            if start_date is not None:
                yield datetime.combine(start_date, time(), UTC)
            for name in ("start_time", "end_time"):
                daily: time | None = getattr(condition, name, None)
                if daily is not None:
                    utc = daily if daily.tzinfo else daily.replace(tzinfo=UTC)
                    for days in range(-1, DAYS_AHEAD + 1):
                        yield datetime.combine(after.date() + timedelta(days), utc).astimezone(UTC)


def _steps(price: ModelPrice) -> Iterator[PriceStep]:
    """One step per input length at which any class of tokens changes its price."""
    keys = ("input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok", "cache_write_1h_mtok")
    if price.input_mtok is None:
        return
    starts = {0}
    for key in keys:
        value = getattr(price, key)
        starts |= {tier.start + 1 for tier in getattr(value, "tiers", ())}
    for start in sorted(starts):
        classes = {key: _rate(getattr(price, key), start) for key in keys}
        fresh = classes["input_mtok"]
        assert fresh is not None, "an input price was found above"
        write = fresh if classes["cache_write_mtok"] is None else classes["cache_write_mtok"]
        long_write = classes["cache_write_1h_mtok"]
        reasoning = _rate(price.output_reasoning_mtok, start) or 0
        yield PriceStep(
            start,
            Rates(
                input_nusd_per_mtok=fresh,
                output_nusd_per_mtok=max(classes["output_mtok"] or 0, reasoning),
                cache_read_nusd_per_mtok=fresh
                if classes["cache_read_mtok"] is None
                else classes["cache_read_mtok"],
                cache_write_nusd_per_mtok=write,
                cache_write_1h_nusd_per_mtok=write if long_write is None else long_write,
                request_nusd=_request_nusd(price),
            ),
        )


def _rate(price: Decimal | TieredPrices | None, input_tokens: int) -> int | None:
    """Nano-dollars per million tokens of a request this long; a fraction of a nano-dollar is rounded up."""
    if price is None:
        return None
    if isinstance(price, Decimal):
        usd = price
    else:
        usd = price.base
        for tier in price.tiers:
            if input_tokens > tier.start:
                usd = tier.price
    return int((usd * NUSD_PER_USD).to_integral_value(ROUND_CEILING))


def _request_nusd(price: ModelPrice) -> int:
    value = price.requests_kcount
    if not isinstance(value, Decimal):
        return 0
    return int((value * NUSD_PER_USD / 1000).to_integral_value(ROUND_CEILING))


@lru_cache(maxsize=4096)
def find_card(vendor: str, model: str) -> PriceCard | None:
    """The card of a model as its vendor's API spells it; None = unknown there."""
    from genai_prices.data_snapshot import get_snapshot

    providers = get_snapshot().providers
    provider = next((provider for provider in providers if provider.id == vendor), None)
    if provider is None:
        return None
    info = provider.find_model(model, all_providers=providers)
    return PriceCard(vendor, info) if info is not None else None


def priced_models(vendor: str) -> tuple[str, ...]:
    """All models of a vendor that the package knows, by its own names."""
    from genai_prices.data_snapshot import get_snapshot

    return tuple(
        info.id for provider in get_snapshot().providers if provider.id == vendor for info in provider.models
    )


@lru_cache(maxsize=1)
def package_version() -> str:
    """The installed release of genai-prices."""
    return version("genai-prices")
