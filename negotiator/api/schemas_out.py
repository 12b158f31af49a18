"""What the server answers, as models: the source of the API's description, and what tests hold real answers to."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "AccountOut",
    "AccountsOut",
    "BookOut",
    "ChatOut",
    "EmbeddingsOut",
    "ErrorOut",
    "FeedbackOut",
    "HealthOut",
    "HistoryOut",
    "KeyMadeOut",
    "KeyOut",
    "KeysOut",
    "MarketOut",
    "MessageErrorOut",
    "MessageOut",
    "ModelsOut",
    "PlanOut",
    "ReportOut",
    "ReservedOut",
    "ResponseOut",
    "SettlementOut",
]

Dollars = Annotated[str, Field(pattern=r"^-?\d+(\.\d{1,9})?$", description="US dollars, exact")]
Instant = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class _Exact(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class CounterOfferOut(_Exact):
    """The nearest order that would be served now: what to change, and what it would cost."""

    terms: dict[str, Any]
    quote_id: str
    provider: str
    model: str
    expected_usd: Dollars
    ceiling_usd: Dollars
    valid_until: Instant


class RejectOut(_Exact):
    """The market's no."""

    code: int
    name: str
    message: str
    facts: dict[str, Any]
    counter_offers: list[CounterOfferOut]
    retry_after_ms: int | None


class Fault(_Exact):
    """What was refused, and why."""

    message: str
    type: str
    param: str | None
    code: str
    reject: RejectOut | None


class ErrorOut(_Exact):
    """Every error but those of ``/v1/messages``."""

    error: Fault


class MessageErrorOut(_Exact):
    """An error in Anthropic's shape."""

    type: Literal["error"]
    error: Fault
    request_id: str


class LineOut(_Exact):
    """A price line."""

    kind: Literal["input", "cache_read", "cache_write", "output", "request"]
    tokens: int
    usd_per_million: Dollars
    usd: Dollars


class DiscountOut(_Exact):
    """What is saved against the list price, and on what evidence."""

    kind: str
    saves_usd: Dollars
    basis: str


class QuantilesOut(_Exact):
    """Milliseconds."""

    p50: int
    p95: int


class QualityOut(_Exact):
    """The probability that the answer is acceptable, as the house estimates it."""

    mean: float
    sd: float
    observations: int


class MissOut(_Exact):
    """A term the quote does not meet."""

    term: str
    asked: Any
    offered: Any
    loss: str


class QuoteOut(_Exact):
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


class DeclineOut(_Exact):
    """A seller's no."""

    provider: str
    model: str
    code: str
    name: str
    detail: str


class BookOut(_Exact):
    """All quotes, ranked; ``best`` is a quote_id, or null with ``reject`` saying why."""

    rfq_id: str
    quotes: list[QuoteOut]
    declines: list[DeclineOut]
    best: str | None
    reject: RejectOut | None


class AttemptOut(_Exact):
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


class ServedOut(_Exact):
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


class ChatOut(_Open):
    """OpenAI's chat completion."""

    id: str
    object: str
    choices: list[dict[str, Any]]
    usage: dict[str, Any]
    negotiator: ServedOut


class EmbeddingsOut(_Open):
    """OpenAI's embeddings."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    model: str
    usage: dict[str, Any]
    negotiator: ServedOut


class ResponseOut(_Open):
    """OpenAI's response."""

    id: str
    object: Literal["response"]
    status: Literal["completed", "incomplete", "failed"]
    output: list[dict[str, Any]]
    usage: dict[str, Any]
    negotiator: ServedOut


class MessageOut(_Open):
    """Anthropic's message."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    content: list[dict[str, Any]]
    stop_reason: str
    usage: dict[str, Any]
    negotiator: ServedOut


class ReservationOut(_Exact):
    """A hold."""

    reservation_id: str
    order_id: str
    account: str
    hold_usd: Dollars
    expires_at: Instant
    state: Literal["pending", "in_doubt", "posted", "voided", "expired"]


class ReservedOut(_Exact):
    """A hold for a call that the buyer makes itself."""

    reservation: ReservationOut
    quote: QuoteOut


class SettlementOut(_Exact):
    """How a hold resolved; ``already``: it had before."""

    reservation_id: str
    order_id: str
    account: str
    state: Literal["pending", "in_doubt", "posted", "voided", "expired"]
    posted_usd: Dollars
    released_usd: Dollars
    house_usd: Dollars
    already: bool


class HistoryOut(_Open):
    """State and history of an order."""

    order_id: str
    account: str
    state: str
    received_at: Instant
    rounds: list[dict[str, Any]]
    award: str | None
    runners_up: list[str]
    attempts: list[AttemptOut]
    settlement: dict[str, Any] | None
    reject: RejectOut | None


class ModelEntry(_Open):
    """One model of one seller."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    negotiator: dict[str, Any]


class ModelsOut(_Exact):
    """OpenAI's list of models."""

    object: Literal["list"]
    data: list[ModelEntry]


class AccountOut(_Exact):
    """An account and where it stands in its period."""

    account: str
    parent: str | None
    budget_usd: Dollars | None
    period: Literal["total", "day", "month"]
    period_key: str
    default_budget_usd: Dollars | None
    deposits_usd: Dollars
    posted_usd: Dollars
    pending_usd: Dollars
    available_usd: Dollars | None


class AccountsOut(_Exact):
    """Accounts in reach."""

    accounts: list[AccountOut]


class KeyOut(_Exact):
    """A key without its secret."""

    key_id: str
    account: str
    scopes: list[str]
    reach: str
    expires_ms: int | None
    rpm: int | None
    concurrency: int | None
    profile: str | None
    label: str
    last_four: str
    created_ms: int
    created_by: str


class KeyMadeOut(KeyOut):
    """A new key; ``key`` is shown this once."""

    key: str


class KeysOut(_Exact):
    """Keys in the caller's reach."""

    keys: list[KeyOut]


class FeedbackOut(_Exact):
    """What was learnt from."""

    order_id: str
    provider: str
    model: str


class PlanOut(_Exact):
    """A plan: its summary, and one line per request."""

    summary: dict[str, Any]
    lines: list[dict[str, Any]]


class MarketOut(_Exact):
    """Every offer now, and what is left of every limit."""

    at: Instant
    offers: list[dict[str, Any]]
    limits: list[dict[str, Any]]


class ReportOut(_Open):
    """Spend and savings."""

    since: Instant
    until: Instant
    orders: int
    spend_usd: Dollars
    saved_usd: Dollars


class HealthOut(_Open):
    """Whether it lives, or serves."""

    status: str
