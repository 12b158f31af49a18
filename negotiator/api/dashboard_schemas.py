"""What the dashboard's own routes take and answer, as models."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from .schemas_words import CounterOfferOut, Dollars, Exact, Instant, Open

__all__ = [
    "CallerOut",
    "CommonestOut",
    "EndedOut",
    "LoserOut",
    "OrdersOut",
    "OrdersQuery",
    "RefusalOut",
    "SummaryOut",
    "TapeQuery",
    "TotalsOut",
]

Account = Annotated[str, Field(min_length=1, max_length=255)]


class OrdersQuery(BaseModel):
    """How many of the last orders, newest first; of one account, or of all in reach."""

    model_config = ConfigDict(extra="forbid", defer_build=True)

    limit: Annotated[int, Field(ge=1, le=500)] = 50
    account: Account | None = None


class TapeQuery(BaseModel):
    """events: names separated by commas."""

    model_config = ConfigDict(extra="forbid", defer_build=True)

    events: Annotated[str, Field(pattern=r"^(orders|summary|market)(,(orders|summary|market)){0,2}$")] = (
        "orders"
    )


class LoserOut(Exact):
    """A quote that was not chosen, and why."""

    provider: str
    model: str
    tier: str
    expected_usd: Dollars
    loss: str


class EndedOut(Exact):
    """An order that ended, in one line; its whole history is at ``/v1/orders/{order_id}``."""

    order_id: str
    account: str
    task: str | None
    at: Instant
    state: str
    provider: str | None
    model: str | None
    tier: str | None
    expected_usd: Dollars
    cost_usd: Dollars
    saved_usd: Dollars
    latency_ms: int
    ttft_ms: int
    attempts: int
    quotes: int
    losers: list[LoserOut]
    reject: str | None
    message: str | None
    counter_offer: CounterOfferOut | None


class OrdersOut(Exact):
    """The last orders that ended in this process."""

    orders: list[EndedOut]


class CallerOut(Exact):
    """Who reads, and what it may do here."""

    account: str
    everywhere: bool
    scopes: list[Literal["read", "use", "admin"]]


class CommonestOut(CounterOfferOut):
    """The commonest counter-offer of a refusal, with the latest's terms; orders: how many it was made to."""

    orders: int


class RefusalOut(Exact):
    """How often the market said this no."""

    reject: str
    code: int
    orders: int
    counter_offer: CommonestOut | None


class TotalsOut(Open):
    """Sums since an instant, also by account, model and cause."""

    since: Instant
    until: Instant
    orders: int
    spend_usd: Dollars
    saved_usd: Dollars


class SummaryOut(Exact):
    """Where this process stands. totals: since its start; window: the last half hour in steps. batches: whether they are sold here."""

    at: Instant
    caller: CallerOut
    workers: int
    simulated: bool
    batches: bool
    totals: TotalsOut
    window: dict[str, Any]
    refusals: list[RefusalOut]
