"""What is known of vendors besides their prices: ``vendor_terms.toml``, checked row by row.

Of the rows of one table that fit a vendor and a model, the first holds. Every row says where it comes from.
"""

from __future__ import annotations

import datetime
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import lru_cache
from importlib.resources import files
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .terms import CacheTerms, CacheWrites, RateKind, RateLimit

__all__ = [
    "DEFAULT_MAX_OUTPUT_TOKENS",
    "HoursRow",
    "ModelRow",
    "PricesRow",
    "QueueRow",
    "TierRow",
    "TokensRow",
    "VendorRow",
    "VendorTerms",
    "VendorTermsInvalid",
    "load_vendor_terms",
    "parse_vendor_terms",
]

FILE: Final = "vendor_terms.toml"
DEFAULT_MAX_OUTPUT_TOKENS: Final = 16_384
"""The longest answer of a model whose own limit is not known."""

_ENQUEUED: Final = (RateKind.ENQUEUED_TOKENS, RateKind.ENQUEUED_REQUESTS)

Tokens = Annotated[int, Field(gt=0, le=100_000_000)]
Milliseconds = Annotated[int, Field(gt=0, le=7 * 24 * 3_600_000)]
Factor = Annotated[float, Field(gt=0, le=10_000, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1, max_length=100)]


class VendorTermsInvalid(ValueError):
    """A row of vendor terms is wrong; the message names file, row, field, what was expected and found."""


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    source: Annotated[str, Field(min_length=8)]
    checked: datetime.date


class _ModelRows(_Row):
    vendor: Name
    models: Annotated[list[Name], Field(min_length=1)]

    def fits(self, vendor: str, model: str) -> bool:
        """Whether this row speaks of ``model`` of ``vendor``."""
        return self.vendor in ("*", vendor) and any(fnmatchcase(model, glob) for glob in self.models)


class VendorRow(_Row):
    """One vendor. card: its name in the price package, None = prices by configuration only.

    cached_input_counts: whether tokens read from its cache use up its limits on input tokens.
    """

    name: Name
    card: Name | None = None
    cached_input_counts: bool
    tags: list[Name] = []


class TierRow(_ModelRows):
    """One service tier. context selects its prices in the card; rate is numerator and denominator without.

    How long it takes: ``latency`` times the standard tier, or at most the ``within_ms`` that the vendor promises.
    """

    tier: Literal["priority", "flex", "batch"]
    context: dict[str, str]
    rate: Annotated[list[Annotated[int, Field(gt=0)]], Field(min_length=2, max_length=2)] | None = None
    latency: Factor | None = None
    within_ms: Milliseconds | None = None
    limits: Factor

    @model_validator(mode="after")
    def _says_how_long(self) -> TierRow:
        if (self.latency is None) == (self.within_ms is None):
            raise ValueError("expected either latency or within_ms")
        return self


class QueueRow(_ModelRows):
    """What may wait at a vendor's batch endpoint: input tokens of each model, or requests of all models together."""

    tokens: Annotated[int, Field(gt=0)] | None = None
    requests: Annotated[int, Field(gt=0)] | None = None


class _CacheRow(_ModelRows):
    min_tokens: Tokens
    block_tokens: Tokens
    lifetime_ms: Milliseconds
    from_request: Annotated[int, Field(ge=2, le=10)] = 2
    writes: Literal["free", "charged", "marked"] = "free"
    hit_prior: Annotated[float, Field(gt=0, lt=1)]


class HoursRow(_ModelRows):
    """On which weekdays (1 = Monday) the card's peak hours hold; an instant in and one outside of them, UTC."""

    weekdays: Annotated[list[Annotated[int, Field(ge=1, le=7)]], Field(min_length=1)]
    peak_at: datetime.time
    off_peak_at: datetime.time


class TokensRow(_ModelRows):
    """The vocabulary of a model and what a count in the reference vocabulary is multiplied by without it."""

    vocabulary: Name
    factor: Factor
    margin: Factor


class ModelRow(_ModelRows):
    """Limits and abilities of models. listed: sold when the configuration names no models."""

    listed: bool = False
    context_tokens: Tokens | None = None
    max_output_tokens: Tokens = DEFAULT_MAX_OUTPUT_TOKENS
    concurrency: Tokens | None = None
    tags: list[Name] = []


class PricesRow(BaseModel):
    """The release of the price package that these terms were written against."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    package: Name
    version: Name
    released: datetime.date


R = TypeVar("R", bound=_ModelRows)


class VendorTerms:
    """All rows, asked by vendor and model."""

    def __init__(
        self,
        prices: PricesRow,
        vendors: tuple[VendorRow, ...],
        tiers: tuple[TierRow, ...],
        queues: tuple[QueueRow, ...],
        caches: tuple[_CacheRow, ...],
        hours: tuple[HoursRow, ...],
        tokens: tuple[TokensRow, ...],
        models: tuple[ModelRow, ...],
    ) -> None:
        self.prices = prices
        self._vendors = {row.name: row for row in vendors}
        self._tiers, self._queues, self._caches, self._hours, self._tokens, self._models = (
            tiers,
            queues,
            caches,
            hours,
            tokens,
            models,
        )

    @property
    def vendors(self) -> tuple[str, ...]:
        """The names of all vendors."""
        return tuple(self._vendors)

    def vendor(self, name: str) -> VendorRow:
        """The row of one vendor; raises KeyError naming the known ones."""
        try:
            return self._vendors[name]
        except KeyError:
            known = ", ".join(sorted(self._vendors))
            raise KeyError(f"vendor: expected one of {known}, found {name!r}") from None

    def limits(
        self, vendor: str, limits: Sequence[RateLimit], *, batch_models: Sequence[str] = ()
    ) -> tuple[RateLimit, ...]:
        """An account's limits as its vendor counts: on uncached input where cached tokens are free of them.

        batch_models: those sold in the batch tier. What may wait at its endpoint is the least that the vendor publishes
        for a paying account, unless ``limits`` say it.
        """
        queued: dict[RateKind, RateLimit] = {limit.kind: limit for limit in limits if limit.kind in _ENQUEUED}
        shared = [limit for limit in limits if limit.kind not in _ENQUEUED]
        if not self.vendor(vendor).cached_input_counts:
            shared = [
                replace(limit, kind=RateKind.UNCACHED_INPUT_TOKENS)
                if limit.kind is RateKind.INPUT_TOKENS
                else limit
                for limit in shared
            ]
        return (*shared, *self._queue(vendor, batch_models, queued))

    def _queue(
        self, vendor: str, models: Sequence[str], given: Mapping[RateKind, RateLimit]
    ) -> Iterator[RateLimit]:
        """Tokens are counted by model, requests over all of them; both for as long as a batch may take."""
        rows = {model: _first(self._queues, vendor, model) for model in models}
        terms = {model: self.tier(vendor, model, "batch") for model in models}
        within_ms = max((row.within_ms or 0 for row in terms.values() if row is not None), default=0)
        if not within_ms:
            return
        tokens, requests = (given.get(kind) for kind in _ENQUEUED)
        for model, row in rows.items():
            amount = tokens.amount if tokens is not None else row.tokens if row is not None else None
            if amount is not None:
                yield RateLimit(RateKind.ENQUEUED_TOKENS, amount, within_ms, (model,))
        published = [row.requests for row in rows.values() if row is not None and row.requests is not None]
        if requests is not None or published:
            amount = requests.amount if requests is not None else min(published)
            yield RateLimit(RateKind.ENQUEUED_REQUESTS, amount, within_ms)

    def tier(self, vendor: str, model: str, tier: str) -> TierRow | None:
        """How a model is sold in a tier, None = not known to be."""
        return next((row for row in self._tiers if row.tier == tier and row.fits(vendor, model)), None)

    def cache(self, vendor: str, model: str) -> CacheTerms | None:
        """How the prompt cache behind a model works, None = none known."""
        row = _first(self._caches, vendor, model)
        if row is None:
            return None
        writes = CacheWrites(row.writes)
        return CacheTerms(
            row.min_tokens, row.block_tokens, row.lifetime_ms, row.from_request, writes, row.hit_prior
        )

    def hours(self, vendor: str, model: str) -> HoursRow | None:
        """When a model's peak prices hold, None = at any hour the card says."""
        return _first(self._hours, vendor, model)

    def tokens(self, vendor: str, model: str) -> TokensRow:
        """How to count a model's tokens."""
        row = _first(self._tokens, vendor, model)
        assert row is not None, "the last row fits every model"
        return row

    def model(self, vendor: str, model: str) -> ModelRow:
        """A model's limits and abilities."""
        row = _first(self._models, vendor, model)
        assert row is not None, "the last row fits every model"
        return row

    def listed(self, vendor: str) -> tuple[str, ...]:
        """The models sold when a configuration names none."""
        return tuple(
            model for row in self._models if row.listed and row.vendor == vendor for model in row.models
        )


def _first(rows: tuple[R, ...], vendor: str, model: str) -> R | None:
    return next((row for row in rows if row.fits(vendor, model)), None)


_TABLES: Final[dict[str, type[_Row]]] = {
    "vendor": VendorRow,
    "tier": TierRow,
    "queue": QueueRow,
    "cache": _CacheRow,
    "hours": HoursRow,
    "tokens": TokensRow,
    "model": ModelRow,
}


def parse_vendor_terms(text: str, where: str = FILE) -> VendorTerms:
    """The terms in a TOML text; raises :class:`VendorTermsInvalid` naming row, field, expected and found."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise VendorTermsInvalid(f"{where}: expected TOML, found: {error}") from None
    unknown = sorted(values.keys() - _TABLES.keys() - {"prices"})
    if unknown:
        known = ", ".join(_TABLES)
        raise VendorTermsInvalid(
            f"{where}: expected only prices and the tables {known}; found {unknown[0]!r}"
        )
    prices = _row(PricesRow, values.get("prices", {}), f"{where}: [prices]")
    tables: dict[str, tuple[Any, ...]] = {}
    for name, kind in _TABLES.items():
        rows = values.get(name, [])
        if not isinstance(rows, list):
            raise VendorTermsInvalid(f"{where}: expected [[{name}]] rows, found one [{name}]")
        tables[name] = tuple(
            _row(kind, row, f"{where}: [[{name}]] row {number}") for number, row in enumerate(rows, start=1)
        )
    _check_whole(where, tables)
    return VendorTerms(
        prices,
        tables["vendor"],
        tables["tier"],
        tables["queue"],
        tables["cache"],
        tables["hours"],
        tables["tokens"],
        tables["model"],
    )


def _check_whole(where: str, tables: dict[str, tuple[Any, ...]]) -> None:
    names = [row.name for row in tables["vendor"]]
    for name in ("tier", "queue", "cache", "hours", "tokens", "model"):
        for number, row in enumerate(tables[name], start=1):
            if row.vendor not in (*names, "*"):
                raise VendorTermsInvalid(
                    f"{where}: [[{name}]] row {number}, vendor: expected a [[vendor]] name, found {row.vendor!r}"
                )
    for number, row in enumerate(tables["tokens"], start=1):
        if row.margin < row.factor:
            raise VendorTermsInvalid(
                f"{where}: [[tokens]] row {number}, margin: expected at least factor {row.factor}, found {row.margin}"
            )
    for name in ("tokens", "model"):
        if not any(row.fits("any vendor", "any model") for row in tables[name]):
            raise VendorTermsInvalid(f'{where}: [[{name}]]: expected a last row for vendor "*", models ["*"]')


P = TypeVar("P", bound=BaseModel)


def _row(kind: type[P], values: Any, where: str) -> P:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        reason = first["msg"][:1].lower() + first["msg"][1:]
        named = values.get("vendor") or values.get("name") if isinstance(values, dict) else None
        row = f"{where} ({named})" if named else where
        raise VendorTermsInvalid(f"{row}, {field}: {reason}, found {first['input']!r}") from None


@lru_cache(maxsize=1)
def load_vendor_terms() -> VendorTerms:
    """The terms that ship with this package."""
    return parse_vendor_terms(files(__package__).joinpath(FILE).read_text(encoding="utf-8"))
