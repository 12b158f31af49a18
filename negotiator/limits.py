"""Sellers' rate limits as rows with names: what capacity counts, clearing prices and plans respect.

A row of kind ``concurrency`` counts calls in flight now; over a horizon it is busy time, so a call uses its latency
and the cap is slots times horizon. The interactive tiers share the rows of a seller; its batch tier has rows of its own,
which count what waits at its batch endpoint: over a horizon as often as the vendor promises to be done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from providers.batch import BATCH_TIER
from providers.records import record
from providers.terms import LineKind, Quote, RateKind, RateLimit

from .order import Candidate, Loss

__all__ = [
    "ENQUEUED",
    "HELD",
    "UNITS",
    "UNITS_PER_PRICE",
    "Full",
    "Lack",
    "LimitRow",
    "Load",
    "ShadowPrices",
    "cached_input",
    "expected_output",
    "limit_rows",
    "load_of",
    "per_unit_usd",
]

UNITS_PER_PRICE: Final = 1_000_000
"""A shadow price is for this many units of a row, as a rate is for a million tokens."""


ENQUEUED: Final = frozenset({RateKind.ENQUEUED_TOKENS, RateKind.ENQUEUED_REQUESTS})
"""The kinds of rows that a batch endpoint has."""

HELD: Final = ENQUEUED | {RateKind.CONCURRENCY}
"""Kinds that count a call until it has ended, not for a period."""


@record(frozen=True, slots=True)
class Load:
    """What one call takes of its seller's limits. cached_tokens: the part of input expected from a warm cache.
    batch: it goes to the batch endpoint."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    latency_ms: int = 0
    batch: bool = False

    def of(self, kind: RateKind) -> int:
        """How much of a row of this kind the call uses while it is in its window."""
        return UNITS[kind](self)

    def over_horizon(self, kind: RateKind) -> int:
        """The same counted over a horizon: calls in flight become busy milliseconds."""
        return self.latency_ms if kind is RateKind.CONCURRENCY else self.of(kind)


UNITS: Final[Mapping[RateKind, Callable[[Load], int]]] = {
    RateKind.REQUESTS: lambda load: 1,
    RateKind.TOKENS: lambda load: load.input_tokens + load.output_tokens,
    RateKind.INPUT_TOKENS: lambda load: load.input_tokens,
    RateKind.UNCACHED_INPUT_TOKENS: lambda load: load.input_tokens - load.cached_tokens,
    RateKind.OUTPUT_TOKENS: lambda load: load.output_tokens,
    RateKind.CONCURRENCY: lambda load: 1,
    RateKind.ENQUEUED_TOKENS: lambda load: load.input_tokens,
    RateKind.ENQUEUED_REQUESTS: lambda load: 1,
}
"""How much of a row of each kind a call uses; looked up once per row where every microsecond counts."""


@dataclass(frozen=True, slots=True)
class LimitRow:
    """One limit of one seller. name: ``provider:kind`` or ``provider/models:kind``; models None = all it sells."""

    name: str
    provider: str
    kind: RateKind
    amount: int
    per_ms: int
    models: frozenset[str] | None = None

    def covers(self, provider: str, model: str, *, batch: bool = False) -> bool:
        """Whether a call of this model counts against the row. ``batch``: it goes to the batch endpoint."""
        if batch != (self.kind in ENQUEUED):
            return False
        return provider == self.provider and (self.models is None or model in self.models)

    def cap_over(self, horizon_ms: int) -> int:
        """How much fits in ``horizon_ms``: whole periods refill, a queue is filled at once, concurrency gives busy ms."""
        if self.kind in ENQUEUED:
            return self.amount * max(horizon_ms, self.per_ms) // self.per_ms
        if self.kind is RateKind.CONCURRENCY:
            return self.amount * horizon_ms
        return self.amount * horizon_ms // self.per_ms


@dataclass(frozen=True, slots=True)
class Lack:
    """What keeps a call from a seller now: a row's name, or ``provider/model:ejected``, ``provider/model:backoff``,
    ``provider:retries``. loss: LIMIT_BINDING, or EJECTED where the seller is unwell."""

    row: str
    loss: Loss = Loss.LIMIT_BINDING


@dataclass(frozen=True, slots=True)
class Full:
    """No room was taken. retry_after_ms: when there may be some, None = never for a call of this size."""

    lack: Lack
    retry_after_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowPrices:
    """What one more unit of each row would save: integer nano-dollars per million units (busy ms for concurrency).

    Rows that are not named cost nothing. unserved_nusd: what leaving an order unserved costs where neither value
    nor budget says it, None = never refuse for that. epoch: the fencing token of the market maker that made them.
    heat: how far from the lowest bid an order may go, as a share of it: orders at a tie are spread as the prices
    expect (:class:`solver.online.Prices`).
    """

    made_ms: int
    nusd_per_million: Mapping[str, int]
    unserved_nusd: int | None = None
    epoch: int = 0
    heat: float = 0.0


def limit_rows(provider: str, limits: Sequence[RateLimit]) -> tuple[LimitRow, ...]:
    """A seller's limits as named rows, in its order; several of one kind are told apart by their period."""
    rows: list[LimitRow] = []
    for limit in limits:
        models = None if limit.models is None else frozenset(limit.models)
        label = provider if models is None else f"{provider}/{'+'.join(sorted(models))}"
        name = f"{label}:{limit.kind}"
        if any(row.name == name for row in rows):
            name = f"{name}/{limit.per_ms}ms"
        rows.append(LimitRow(name, provider, limit.kind, limit.amount, limit.per_ms, models))
    return tuple(rows)


def load_of(candidate: Candidate) -> Load:
    """What room a candidate's call takes: its output at the estimate's 95th percentile, corrected when it has ended."""
    known: Load | None = candidate.load
    if known is None:
        quote = candidate.quote
        output_tokens = candidate.estimate.output_tokens_p95 or quote.expected_output_tokens
        known = Load(
            quote.input_tokens,
            min(output_tokens, candidate.max_output_tokens),
            cached_input(quote),
            quote.latency_ms.p50,
            quote.tier == BATCH_TIER,
        )
        object.__setattr__(
            candidate, "load", known
        )  # worked out once: capacity is asked of it again and again
    return known


def expected_output(candidate: Candidate) -> int:
    """How long the answer will be on average, tokens: what the room it takes is priced by."""
    output_tokens = candidate.estimate.output_tokens or candidate.quote.expected_output_tokens
    return min(output_tokens, candidate.max_output_tokens)


def cached_input(quote: Quote) -> int:
    """The part of the input that is expected from a warm cache, tokens."""
    tokens = 0
    for line in quote.lines:
        if line.kind is LineKind.CACHE_READ:
            tokens += line.tokens
    return min(tokens, quote.input_tokens) if tokens else 0


def per_unit_usd(nusd_per_million: int) -> str:
    """A shadow price as US dollars per unit, decimal string."""
    return f"{Decimal(nusd_per_million).scaleb(-15).normalize():f}"
