"""What only a house far away is asked for: the models it sells, and a plan it made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from .money import parse_usd
from .order import QualityEstimate

__all__ = ["PlanResult", "SoldModel", "TierRates"]


@dataclass(frozen=True, slots=True)
class TierRates:
    """List of prices of a model in one tier, nano-dollars per million tokens."""

    input_nusd_per_mtok: int
    cache_read_nusd_per_mtok: int
    output_nusd_per_mtok: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SoldModel:
    """A model that a house sells now. key: ``provider/model``; tiers: by name, at today's rates."""

    key: str
    provider: str
    model: str
    context_tokens: int
    max_output_tokens: int
    capabilities: frozenset[str]
    tiers: Mapping[str, TierRates]
    quality: QualityEstimate

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Self:
        """From an entry of ``GET /v1/models``."""
        ours = entry["negotiator"]
        return cls(
            key=entry["id"],
            provider=ours["provider"],
            model=ours["model"],
            context_tokens=ours["context_tokens"],
            max_output_tokens=ours["max_output_tokens"],
            capabilities=frozenset(ours["capabilities"]),
            tiers={
                name: TierRates(
                    parse_usd(rates["input_usd_per_million"]),
                    parse_usd(rates["cache_read_usd_per_million"]),
                    parse_usd(rates["output_usd_per_million"]),
                )
                for name, rates in ours["tiers"].items()
            },
            quality=QualityEstimate(
                ours["quality"]["mean"], ours["quality"]["sd"], ours["quality"]["observations"]
            ),
        )


@dataclass(frozen=True, slots=True)
class PlanResult:
    """A plan, read as the market's own: :meth:`summary` and :meth:`rows`."""

    _summary: Mapping[str, Any]
    _rows: tuple[Mapping[str, Any], ...] = field(repr=False)

    def summary(self) -> dict[str, Any]:
        """How many are served at what cost, the bounds that prove it, limits and baselines."""
        return dict(self._summary)

    def rows(self) -> Iterator[dict[str, Any]]:
        """One row per request, in the order of the lines."""
        return map(dict, self._rows)
