"""Sellers' rate limits as rows with names: what capacity counts, clearing prices and plans respect.

A row of kind ``concurrency`` counts calls in flight now; over a horizon it is busy time, so a call uses its latency
and the cap is slots times horizon.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from providers.terms import RateKind, RateLimit

__all__ = ["LimitRow", "Load", "limit_rows"]


@dataclass(frozen=True, slots=True)
class Load:
    """What one call takes of its seller's limits. cached_tokens: the part of input expected from a warm cache."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    latency_ms: int = 0

    def of(self, kind: RateKind) -> int:
        """How much of a row of this kind the call uses while it is in its window."""
        if kind is RateKind.REQUESTS or kind is RateKind.CONCURRENCY:
            return 1
        if kind is RateKind.TOKENS:
            return self.input_tokens + self.output_tokens
        if kind is RateKind.INPUT_TOKENS:
            return self.input_tokens
        if kind is RateKind.UNCACHED_INPUT_TOKENS:
            return self.input_tokens - self.cached_tokens
        assert kind is RateKind.OUTPUT_TOKENS, kind
        return self.output_tokens

    def over_horizon(self, kind: RateKind) -> int:
        """The same counted over a horizon: calls in flight become busy milliseconds."""
        return self.latency_ms if kind is RateKind.CONCURRENCY else self.of(kind)


@dataclass(frozen=True, slots=True)
class LimitRow:
    """One limit of one seller. name: ``provider:kind`` or ``provider/models:kind``; models None = all it sells."""

    name: str
    provider: str
    kind: RateKind
    amount: int
    per_ms: int
    models: frozenset[str] | None = None

    def covers(self, provider: str, model: str) -> bool:
        """Whether a call of this model counts against the row."""
        return provider == self.provider and (self.models is None or model in self.models)

    def cap_over(self, horizon_ms: int) -> int:
        """How much fits in ``horizon_ms``: whole periods refill, concurrency gives busy milliseconds."""
        if self.kind is RateKind.CONCURRENCY:
            return self.amount * horizon_ms
        return self.amount * horizon_ms // self.per_ms


def limit_rows(provider: str, limits: Sequence[RateLimit]) -> tuple[LimitRow, ...]:
    """A seller's limits as named rows, in its order."""
    rows = []
    for limit in limits:
        models = None if limit.models is None else frozenset(limit.models)
        label = provider if models is None else f"{provider}/{'+'.join(sorted(models))}"
        rows.append(
            LimitRow(f"{label}:{limit.kind}", provider, limit.kind, limit.amount, limit.per_ms, models)
        )
    return tuple(rows)
