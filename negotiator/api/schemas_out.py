"""What the server answers, as models: the source of the API's description, and what tests hold real answers to."""

from __future__ import annotations

from typing import Any, Literal

from .schemas_words import AttemptOut, Dollars, Exact, Instant, Open, QuoteOut, RejectOut, ServedOut

__all__ = [
    "AccountOut",
    "AccountsOut",
    "ChatOut",
    "EmbeddingsOut",
    "FeedbackOut",
    "HealthOut",
    "HistoryOut",
    "KeyMadeOut",
    "KeyOut",
    "KeysOut",
    "MarketOut",
    "MessageOut",
    "ModelEntry",
    "ModelsOut",
    "PlanOut",
    "RegretOut",
    "ReportOut",
    "ReservationOut",
    "ReservedOut",
    "ResponseOut",
    "SettlementOut",
    "WayOut",
]


class ChatOut(Open):
    """OpenAI's chat completion."""

    id: str
    object: str
    choices: list[dict[str, Any]]
    usage: dict[str, Any]
    negotiator: ServedOut


class EmbeddingsOut(Open):
    """OpenAI's embeddings."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    model: str
    usage: dict[str, Any]
    negotiator: ServedOut


class ResponseOut(Open):
    """OpenAI's response."""

    id: str
    object: Literal["response"]
    status: Literal["completed", "incomplete", "failed"]
    output: list[dict[str, Any]]
    usage: dict[str, Any]
    negotiator: ServedOut


class MessageOut(Open):
    """Anthropic's message."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    content: list[dict[str, Any]]
    stop_reason: str
    usage: dict[str, Any]
    negotiator: ServedOut


class ReservationOut(Exact):
    """A hold."""

    reservation_id: str
    order_id: str
    account: str
    hold_usd: Dollars
    expires_at: Instant
    state: Literal["pending", "in_doubt", "posted", "voided", "expired"]


class ReservedOut(Exact):
    """A hold for a call that the buyer makes itself."""

    reservation: ReservationOut
    quote: QuoteOut


class SettlementOut(Exact):
    """How a hold resolved; ``already``: it had before."""

    reservation_id: str
    order_id: str
    account: str
    state: Literal["pending", "in_doubt", "posted", "voided", "expired"]
    posted_usd: Dollars
    released_usd: Dollars
    house_usd: Dollars
    already: bool


class HistoryOut(Open):
    """State and history of an order."""

    order_id: str
    account: str
    state: str
    received_at: Instant
    rounds: list[dict[str, Any]]
    award: str | None
    runners_up: list[str]
    session: dict[str, Any] | None = None
    explored: bool = False
    attempts: list[AttemptOut]
    settlement: dict[str, Any] | None
    reject: RejectOut | None


class ModelEntry(Open):
    """One model of one seller."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    negotiator: dict[str, Any]


class ModelsOut(Exact):
    """OpenAI's list of models."""

    object: Literal["list"]
    data: list[ModelEntry]


class AccountOut(Exact):
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


class AccountsOut(Exact):
    """Accounts in reach."""

    accounts: list[AccountOut]


class KeyOut(Exact):
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


class KeysOut(Exact):
    """Keys in the caller's reach."""

    keys: list[KeyOut]


class FeedbackOut(Exact):
    """What was learnt from."""

    order_id: str
    provider: str
    model: str


class PlanOut(Exact):
    """A plan: its summary, and one line per request."""

    summary: dict[str, Any]
    lines: list[dict[str, Any]]


class MarketOut(Exact):
    """Every offer now, and what is left of every limit."""

    at: Instant
    offers: list[dict[str, Any]]
    limits: list[dict[str, Any]]


class WayOut(Exact):
    """What a way of routing serves of the same orders; saved_usd: against it, on the orders that both serve."""

    served: int
    cost_usd: Dollars
    quality: float | None
    served_by_both: int
    saved_usd: Dollars | None
    saved_share: float | None


class RegretOut(Exact):
    """What was paid above the optimum as it looked beforehand, by what was not known then; the parts sum to it."""

    orders: int
    paid_usd: Dollars
    optimum_beforehand_usd: Dollars
    regret_usd: Dollars
    parts_usd: dict[str, Dollars]
    gap: float
    could_serve: int


class ReportOut(Open):
    """Spend and savings. scope: ``log``, all processes that write it, or ``process``, this one since its start.

    saved_usd: against the dearest offer that met the terms. ways, regret: only from a log.
    """

    since: Instant
    until: Instant
    scope: Literal["log", "process"]
    orders: int
    spend_usd: Dollars
    saved_usd: Dollars
    ways: dict[str, WayOut] | None
    regret: RegretOut | None


class HealthOut(Open):
    """Whether it lives, or serves."""

    status: str
