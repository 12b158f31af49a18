"""The words of answers, as models: quotes, rejects, attempts, and the errors that carry them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "AttemptOut",
    "BookOut",
    "CounterOfferOut",
    "DeclineOut",
    "DiscountOut",
    "Dollars",
    "ErrorOut",
    "Exact",
    "Fault",
    "Instant",
    "LineOut",
    "MessageErrorOut",
    "MissOut",
    "Open",
    "QualityOut",
    "QuantilesOut",
    "QuoteOut",
    "RejectOut",
    "ServedOut",
]

Dollars = Annotated[str, Field(pattern=r"^-?\d+(\.\d{1,9})?$", description="US dollars, exact")]
Instant = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class Exact(BaseModel):
    """An answer with these fields and no others."""

    model_config = ConfigDict(extra="forbid", defer_build=True)


class Open(BaseModel):
    """An answer in another API's shape: it may have more fields."""

    model_config = ConfigDict(extra="allow", defer_build=True)


class CounterOfferOut(Exact):
    """The nearest order that would be served now: what to change, and what it would cost."""

    terms: dict[str, Any]
    quote_id: str
    provider: str
    model: str
    expected_usd: Dollars
    ceiling_usd: Dollars
    valid_until: Instant


class RejectOut(Exact):
    """The market's no."""

    code: int
    name: str
    message: str
    facts: dict[str, Any]
    counter_offers: list[CounterOfferOut]
    retry_after_ms: int | None


class Fault(Exact):
    """What was refused, and why."""

    message: str
    type: str
    param: str | None
    code: str
    reject: RejectOut | None


class ErrorOut(Exact):
    """Every error but those of ``/v1/messages``."""

    error: Fault


class MessageErrorOut(Exact):
    """An error in Anthropic's shape."""

    type: Literal["error"]
    error: Fault
    request_id: str


class LineOut(Exact):
    """A price line."""

    kind: Literal["input", "cache_read", "cache_write", "output", "request"]
    tokens: int
    usd_per_million: Dollars
    usd: Dollars


class DiscountOut(Exact):
    """What is saved against the list price, and on what evidence."""

    kind: str
    saves_usd: Dollars
    basis: str


class QuantilesOut(Exact):
    """Milliseconds."""

    p50: int
    p95: int


class QualityOut(Exact):
    """The probability that the answer is acceptable, as the house estimates it."""

    mean: float
    sd: float
    observations: int


class MissOut(Exact):
    """A term the quote does not meet."""

    term: str
    asked: Any
    offered: Any
    loss: str


class QuoteOut(Exact):
    """A seller's offer with the house's judgement."""

    quote_id: str
    provider: str
    model: str
    tier: str
    firm: bool
    expected_usd: Dollars
    ceiling_usd: Dollars
    max_output_tokens: int
    input_tokens: int
    expected_output_tokens: int
    rates: dict[str, Dollars]
    lines: list[LineOut]
    discounts: list[DiscountOut]
    latency_ms: QuantilesOut
    ttft_ms: QuantilesOut
    quality: QualityOut
    eligible: bool
    misses: list[MissOut]
    tags: list[str]
    capacity: int | None
    valid_for_ms: int
    valid_until: Instant


class DeclineOut(Exact):
    """A seller's no."""

    provider: str
    model: str
    code: str
    name: str
    detail: str


class BookOut(Exact):
    """All quotes, ranked; ``best`` is a quote_id, or null with ``reject`` saying why."""

    rfq_id: str
    quotes: list[QuoteOut]
    declines: list[DeclineOut]
    best: str | None
    reject: RejectOut | None


class AttemptOut(Exact):
    """One call to one seller."""

    number: int
    provider: str
    model: str
    tier: str
    quote_id: str
    outcome: str
    billed_usd: Dollars
    latency_ms: int
    detail: str


class ServedOut(Exact):
    """How an order was served, and what it cost."""

    order_id: str
    quote_id: str
    provider: str
    model: str
    tier: str
    expected_usd: Dollars
    ceiling_usd: Dollars
    cost_usd: Dollars
    saved_usd: Dollars
    quality: float
    quality_sd: float
    latency_ms: int
    ttft_ms: int
    attempts: list[AttemptOut]
    replayed: bool
    complete: bool
