"""The words between buyer and house, from order to settlement.

Order → candidates → assignment → reservation → settlement. Frozen: a record never changes, a later one
follows it. Money is integer nano-dollars, instants are integer milliseconds of the house's clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any, NamedTuple

from providers.records import record
from providers.terms import Decline, Quote, Target, Usage

from .errors import Reject

__all__ = [
    "Assignment",
    "Attempt",
    "Book",
    "Candidate",
    "Chunk",
    "Completion",
    "HoldState",
    "Loss",
    "Lost",
    "Miss",
    "Order",
    "QualityEstimate",
    "Replayed",
    "Reservation",
    "Settlement",
]


class Loss(IntEnum):
    """Why a quote was not chosen (L1 to L9)."""

    PRICIER = 1
    OVER_BUDGET = 2
    BELOW_QUALITY = 3
    TOO_SLOW = 4
    NO_CAPABILITY = 5
    LIMIT_BINDING = 6
    INDICATIVE = 7
    EXPIRED = 8
    EJECTED = 9


class Lost(NamedTuple):
    """Why a candidate that meets every term was not chosen.

    row: what was full, or why its seller is out. shadow_nusd: what its scarce room added to its bid.
    """

    loss: Loss
    row: str = ""
    shadow_nusd: int = 0


class HoldState(StrEnum):
    """Where a reservation stands. POSTED, VOIDED and EXPIRED are final; IN_DOUBT still counts as pending."""

    PENDING = "pending"
    IN_DOUBT = "in_doubt"
    POSTED = "posted"
    VOIDED = "voided"
    EXPIRED = "expired"


@record(frozen=True, slots=True, kw_only=True)
class Order:
    """A buyer's request with its terms resolved against profile and account.

    body: OpenAI chat shape. Fields named as terms mean what the terms mean; ``budget_nusd`` and ``value_nusd``
    None = no limit. named: the one model the body asks for, None = ``auto``. max_output_tokens: the body's own limit.
    require: tags asked for by the terms.
    input_tokens: a size to quote for where there is no text.
    keep_answer: the buyer made the id and may send it again, so the answer is kept for a day.
    digests: content hashes by field, compared when an order id comes again (budget and value left out).
    """

    order_id: str
    account: str
    body: Mapping[str, Any]
    named: str | None = None
    max_output_tokens: int | None = None
    input_tokens: int | None = None
    budget_nusd: int | None = None
    value_nusd: int | None = None
    min_quality: float = 0.0
    quality_margin: float = 0.0
    deadline_ms: int | None = None
    ttft_ms: int | None = None
    tiers: tuple[str, ...] = ("standard",)
    models: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    require: frozenset[str] = frozenset()
    session: str | None = None
    session_premium: float = 0.2
    task: str | None = None
    policy: str = "cheapest"
    rounds: int = 1
    stream: bool = False
    keep_answer: bool = False
    digests: Mapping[str, str] = field(default_factory=dict)

    @property
    def limit_nusd(self) -> int | None:
        """The most this order may be charged: the lower of budget and value, None = no limit."""
        budget_nusd, value_nusd = self.budget_nusd, self.value_nusd
        if budget_nusd is None or value_nusd is None:
            return value_nusd if budget_nusd is None else budget_nusd
        return min(budget_nusd, value_nusd)


@dataclass(frozen=True, slots=True)
class QualityEstimate:
    """What the house believes of one model on one prompt: P(acceptable), its spread, the evidence behind it.

    output_tokens, output_tokens_p95: how long the answer will be, reasoning included.
    """

    mean: float
    sd: float
    observations: int = 0
    output_tokens: int = 0
    output_tokens_p95: int = 0


@record(frozen=True, slots=True)
class Miss:
    """A term that a quote does not meet: what was asked and what was offered, in the term's own unit."""

    term: str
    asked: Any
    offered: Any
    loss: Loss


@record(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A quote with the house's judgement.

    max_output_tokens, ceiling_nusd: the quote's, or less where the budget allows only a shorter answer.
    valid_until_ms: stamped on arrival by the house's clock. misses: empty = eligible. load: kept by
    :func:`negotiator.limits.load_of`.
    """

    quote: Quote
    estimate: QualityEstimate
    expected_nusd: int
    ceiling_nusd: int
    max_output_tokens: int
    valid_until_ms: int
    misses: tuple[Miss, ...] = ()
    load: Any = field(default=None, init=False, repr=False, compare=False)

    @property
    def eligible(self) -> bool:
        """Whether it meets every term."""
        return not self.misses


@record(frozen=True, slots=True, kw_only=True)
class Book:
    """What asking the sellers came to for one order.

    candidates: the eligible ones first, best first by the order's policy, then the others by expected price.
    best: the first eligible one, None with ``reject`` saying why. targets: what this round asked of which seller, empty
    in the first.
    """

    rfq_id: str
    candidates: tuple[Candidate, ...]
    declines: tuple[Decline, ...] = ()
    reject: Reject | None = None
    targets: Mapping[str, Target] = field(default_factory=dict)

    @property
    def eligible(self) -> tuple[Candidate, ...]:
        """Those that meet every term, best first."""
        for number, candidate in enumerate(self.candidates):
            if candidate.misses:
                return self.candidates[:number]
        return self.candidates

    @property
    def best(self) -> Candidate | None:
        """The best eligible candidate by the order's policy, before scarcity is priced."""
        return self.candidates[0] if self.candidates and self.candidates[0].eligible else None


@record(frozen=True, slots=True, kw_only=True)
class Assignment:
    """The house's choice: the award, then who follows when it fails, and what to hold for them together.

    explain: why any other candidate lost, by the prices and the room of that moment; None = all were pricier.
    session: what became of the offer that the order's session had (``affinity.Kept.reason``) and what keeping it costs
    above the best, nano-dollars; None = no session.
    """

    award: Candidate
    runners_up: tuple[Candidate, ...] = ()
    hold_nusd: int
    plan_id: str | None = None
    explain: Callable[[Candidate], Lost] | None = field(default=None, compare=False, repr=False)
    session: tuple[str, int] | None = None

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Award and runners-up in the order they are tried."""
        return (self.award, *self.runners_up)


@record(frozen=True, slots=True, kw_only=True)
class Reservation:
    """A hold on an account and all its ancestors. It resolves exactly once."""

    reservation_id: str
    order_id: str
    account: str
    hold_nusd: int
    expires_ms: int
    state: HoldState = HoldState.PENDING


@dataclass(frozen=True, slots=True)
class Replayed:
    """The order id came before with the same content: this is what was answered then."""

    response: Mapping[str, Any]


@record(frozen=True, slots=True, kw_only=True)
class Settlement:
    """How a reservation resolved: what was charged, what went back, what the house bore above the hold.

    already: it had resolved before, as ``state`` says; suspense_nusd: what was billed too late. state IN_DOUBT: the
    store does not answer; the ledger tells it again later.
    """

    reservation_id: str
    order_id: str
    account: str
    state: HoldState
    posted_nusd: int
    released_nusd: int
    house_nusd: int = 0
    suspense_nusd: int = 0
    already: bool = False


@record(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One call to one seller: what it cost and how it ended (``ok`` or the error's name)."""

    number: int
    provider: str
    model: str
    tier: str
    quote_id: str
    outcome: str
    billed_nusd: int = 0
    latency_ms: int = 0
    detail: str = ""


@record(frozen=True, slots=True, kw_only=True)
class Completion:
    """A served order: the answer, who gave it, what it cost against what was quoted.

    message: OpenAI assistant message. cost_nusd: charged to the account, all attempts included.
    saved_nusd: against the dearest eligible quote's expected price, never negative.
    """

    order_id: str
    quote_id: str
    provider: str
    model: str
    tier: str
    message: Mapping[str, Any]
    finish_reason: str
    usage: Usage
    expected_nusd: int
    ceiling_nusd: int
    cost_nusd: int
    saved_nusd: int
    quality: QualityEstimate
    latency_ms: int
    ttft_ms: int
    attempts: tuple[Attempt, ...] = ()
    replayed: bool = False
    complete: bool = True


@record(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A piece of a streamed answer. The last one carries the ``completion``, with cost and attempts.

    delta: OpenAI chat delta. raw: the seller's own bytes where they can be relayed as they are.
    """

    delta: Mapping[str, Any] = field(default_factory=dict)
    finish_reason: str | None = None
    completion: Completion | None = None
    raw: bytes | None = None

    @property
    def text(self) -> str:
        """The piece of the answer's text, empty where it has none."""
        return self.delta.get("content") or ""
