"""The words of the conversation between the house and its sellers.

RFQ → quotes and declines → ticket → deltas → fill. All are frozen: a message never changes after creation.
Prices and bills are in :mod:`providers.rates` and belong to these words. Time is integer milliseconds; intervals
travel, instants do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any, Final

from .rates import (
    NO_TOKENS,
    TOKENS_PER_RATE,
    LineKind,
    PriceLine,
    PriceStep,
    Rates,
    Usage,
    price_lines,
    price_nusd,
)
from .records import record

__all__ = [
    "ANY_PARAMETERS",
    "NO_TOKENS",
    "RFQ",
    "TIERS",
    "TOKENS_PER_RATE",
    "Answer",
    "CacheTerms",
    "CacheWrites",
    "Decline",
    "DeclineCode",
    "Delta",
    "Discount",
    "DiscountKind",
    "Fill",
    "LineKind",
    "Offer",
    "Parameters",
    "PrefixMark",
    "PriceLine",
    "PriceStep",
    "Quantiles",
    "Quote",
    "RateKind",
    "RateLimit",
    "Rates",
    "SpeedModel",
    "Target",
    "Ticket",
    "Usage",
    "price_lines",
    "price_nusd",
]

TIERS: Final = ("standard", "priority", "flex", "batch", "cached")
"""Service paths a seller may offer and a buyer may accept."""


class DeclineCode(IntEnum):
    """A seller's coded no (D1 to D9)."""

    NO_CAPACITY = 1
    UNSUPPORTED = 2
    TOO_LONG = 3
    DISABLED = 4
    RATE_LIMITED = 5
    AUTH = 6
    CONTENT = 7
    PRICE_STALE = 8
    TOO_LATE = 9


class DiscountKind(StrEnum):
    """Where a price below the list price comes from."""

    CACHE_HIT = "cache_hit"
    CACHED_ANSWER = "cached_answer"
    FAST_PATH = "fast_path"
    FLEX = "flex"
    BATCH = "batch"
    OFF_PEAK = "off_peak"
    IDLE = "idle"
    VOLUME = "volume"
    COUNTER = "counter"


class CacheWrites(StrEnum):
    """What writing a prompt into the cache costs: nothing, always the write rate, or that where it was asked for."""

    FREE = "free"
    CHARGED = "charged"
    MARKED = "marked"


class RateKind(StrEnum):
    """What a rate limit counts. ``CONCURRENCY`` counts calls in flight and has no period; ``ENQUEUED_*`` what waits at a
    batch endpoint, and their period is the one within which it is done. All other kinds leave the batch tier out."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    INPUT_TOKENS = "input_tokens"
    UNCACHED_INPUT_TOKENS = "uncached_input_tokens"
    OUTPUT_TOKENS = "output_tokens"
    CONCURRENCY = "concurrency"
    ENQUEUED_TOKENS = "enqueued_tokens"
    ENQUEUED_REQUESTS = "enqueued_requests"


@dataclass(frozen=True, slots=True)
class RateLimit:
    """A seller's limit as data: at most ``amount`` of ``kind`` in any ``per_ms``.

    models: the models that share it, None = all of the account's.
    """

    kind: RateKind
    amount: int
    per_ms: int = 60_000
    models: tuple[str, ...] | None = None


@record(frozen=True, slots=True)
class Quantiles:
    """Median and 95th percentile, milliseconds."""

    p50: int
    p95: int


@dataclass(frozen=True, slots=True)
class SpeedModel:
    """How long an offer takes: to the first token, then per output token; lognormal, p95 = p50 * exp(1.645 sigma)."""

    ttft_ms_p50: float
    ms_per_output_token_p50: float
    sigma: float = 0.35


@record(frozen=True, slots=True)
class Discount:
    """What a quote saves against the list price, and on what evidence."""

    kind: DiscountKind
    saves_nusd: int
    basis: str


@record(frozen=True, slots=True)
class PrefixMark:
    """A prefix of the prompt: its length, and a key that two prompts share only if they share the prefix."""

    tokens: int
    key: str


@dataclass(frozen=True, slots=True)
class Target:
    """What a second round asks a seller to meet: a price, a latency, or both."""

    nusd: int | None = None
    latency_ms: int | None = None


@record(frozen=True, slots=True, kw_only=True)
class RFQ:
    """What sellers see of an order. Never its budget.

    input_tokens: counted in the reference vocabulary; ``tokens_by_vocabulary`` has exact counts of others.
    max_output_tokens: what the buyer asked for, None = up to the seller. expected_output_tokens: the house's
    estimate of the mean, ``output_tokens_by_model`` where models differ. capabilities: what the body uses (``tools``, ``vision``, ``json_schema``, ...).
    models: names the buyer would take, None = any. prefix: marks in ascending length. answer_key: of an exact
    answer given before, None = the buyer did not opt in. parameters: names of the body's other parameters that ask
    for something (``seed``, ``logprobs``), so that a seller can decline what it cannot honour.
    """

    rfq_id: str
    input_tokens: int
    max_output_tokens: int | None = None
    expected_output_tokens: int = 0
    output_tokens_by_model: Mapping[str, int] = field(default_factory=dict)
    tokens_by_vocabulary: Mapping[str, int] = field(default_factory=dict)
    prefix: tuple[PrefixMark, ...] = ()
    capabilities: frozenset[str] = frozenset()
    tiers: tuple[str, ...] = ("standard",)
    models: frozenset[str] | None = None
    answer_within_ms: int = 250
    round: int = 1
    target: Target | None = None
    answer_key: str | None = None
    parameters: frozenset[str] = frozenset()

    def expected_output_of(self, model: str) -> int:
        """The house's estimate of the mean output of one model, or of any where it has none of its own."""
        return self.output_tokens_by_model.get(model, self.expected_output_tokens)

    def input_tokens_in(self, vocabulary: str) -> int:
        """Input tokens in a seller's vocabulary, or in the reference vocabulary where that was not counted."""
        return self.tokens_by_vocabulary.get(vocabulary, self.input_tokens)


@dataclass(frozen=True, slots=True)
class CacheTerms:
    """How a seller's prompt cache works.

    Prefixes below ``min_tokens`` are never cached; what is cached is whole blocks of ``block_tokens``.
    from_request: the request from which a shared prefix can hit (2 = the next one). hit_prior: how often a warm
    prefix is really read, before any was seen to be.
    """

    min_tokens: int
    block_tokens: int
    lifetime_ms: int
    from_request: int = 2
    writes: CacheWrites = CacheWrites.FREE
    hit_prior: float = 0.7


@dataclass(frozen=True, slots=True)
class Parameters:
    """What a seller does with the body's other parameters: it honours all but ``refused`` or, given ``only``, none but those."""

    refused: frozenset[str] = frozenset()
    only: frozenset[str] | None = None

    def refuses(self, asked: frozenset[str]) -> str | None:
        """The first of these names that it cannot honour whatever the value, None = it can honour all."""
        return min(asked & self.refused if self.only is None else asked - self.only, default=None)


ANY_PARAMETERS: Final = Parameters()
"""Nothing is known to be refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a seller sells now, before any request: one model in one tier.

    steps: rates by input length, ascending, the first from 0. list_steps: the standard tier's undiscounted
    rates where they differ. vocabulary: of its tokens. token_factor and token_margin: what a count made in another
    vocabulary is multiplied by, to expect and to be sure. tags: capabilities and properties (``tools``, ``vision``,
    ``region:eu``, ``no_retention``). valid_for_ms: until the next price boundary, None = none known.
    price_source: where the rates come from. cache: None = no prompt cache. parameters: which of the body's it honours.
    """

    provider: str
    model: str
    tier: str
    steps: tuple[PriceStep, ...]
    context_tokens: int
    max_output_tokens: int
    tags: frozenset[str]
    speed: SpeedModel
    vocabulary: str = "o200k"
    token_factor: float = 1.0
    token_margin: float = 1.0
    list_steps: tuple[PriceStep, ...] | None = None
    valid_for_ms: int | None = None
    price_source: str = ""
    cache: CacheTerms | None = None
    parameters: Parameters = ANY_PARAMETERS

    @property
    def key(self) -> str:
        """``provider/model`` as buyers write it."""
        return f"{self.provider}/{self.model}"

    def rates_for(self, input_tokens: int) -> Rates:
        """The rates of a request with this many input tokens."""
        rates = self.steps[0].rates
        for step in self.steps:
            if input_tokens < step.from_input_tokens:
                break
            rates = step.rates
        return rates


@record(frozen=True, slots=True, kw_only=True)
class Quote:
    """A seller's offer for one RFQ: rates, expected and ceiling price, discounts, latency, how long it holds.

    lines are after discounts and sum to ``expected_nusd``. ``input_tokens`` is the count the ceiling covers,
    in the seller's vocabulary, margin included. ``firm`` False = information only. ``capacity``: calls the
    seller says it can take now, None = unknown.
    """

    quote_id: str
    rfq_id: str
    provider: str
    model: str
    tier: str
    firm: bool
    rates: Rates
    lines: tuple[PriceLine, ...]
    expected_nusd: int
    ceiling_nusd: int
    input_tokens: int
    expected_output_tokens: int
    max_output_tokens: int
    latency_ms: Quantiles
    ttft_ms: Quantiles
    valid_for_ms: int
    discounts: tuple[Discount, ...] = ()
    tags: frozenset[str] = frozenset()
    capacity: int | None = None

    def ceiling_with(self, output_tokens: int) -> int:
        """The ceiling for an answer of at most ``output_tokens``, nano-dollars."""
        rate = self.rates.output_nusd_per_mtok
        longest, shorter = (
            -(-tokens * rate // TOKENS_PER_RATE) for tokens in (self.max_output_tokens, output_tokens)
        )
        return self.ceiling_nusd - longest + shorter

    def affordable_output(self, limit_nusd: int) -> int:
        """The longest answer whose ceiling fits ``limit_nusd``; -1 when the input alone does not."""
        left_nusd = limit_nusd - self.ceiling_with(0)
        if left_nusd < 0:
            return -1
        rate = self.rates.output_nusd_per_mtok
        tokens = left_nusd * TOKENS_PER_RATE // rate if rate else self.max_output_tokens
        return min(tokens, self.max_output_tokens)

    @property
    def key(self) -> str:
        """``provider/model`` as buyers write it."""
        return f"{self.provider}/{self.model}"


@record(frozen=True, slots=True)
class Decline:
    """A seller's no, for one model or (``model`` empty) for all it sells."""

    provider: str
    model: str
    code: DeclineCode
    detail: str = ""


Answer = tuple["Quote | Decline", ...]
"""What a seller answers to an RFQ: a quote or a decline for each of its offers."""


@record(frozen=True, slots=True, kw_only=True)
class Ticket:
    """The right to call a seller once: a live reservation and the quote it pays for.

    body: the request in OpenAI chat shape. deadline_ms: time left, None = none. max_output_tokens: what
    the reservation covers, never above the quote's. answer_key: the RFQ's.
    """

    reservation_id: str
    order_id: str
    quote: Quote
    body: Mapping[str, Any]
    max_output_tokens: int
    deadline_ms: int | None = None
    stream: bool = False
    prefix: tuple[PrefixMark, ...] = ()
    answer_key: str | None = None


@record(frozen=True, slots=True, kw_only=True)
class Delta:
    """A piece of an answer as it arrives. ``delta`` is an OpenAI chat delta (role, content, tool_calls).

    The last one carries ``finish_reason`` and, where the seller tells, ``usage`` and ``billed_nusd`` (its own bill).
    ``raw``: the seller's bytes, for relays that need no translation: streamed, one whole SSE event with its blank
    line; buffered, the JSON body of the whole answer. None where there is nothing to relay as it is.
    """

    delta: Mapping[str, Any] = field(default_factory=dict)
    finish_reason: str | None = None
    usage: Usage | None = None
    billed_nusd: int | None = None
    raw: bytes | None = None


@record(frozen=True, slots=True, kw_only=True)
class Fill:
    """What was delivered for a ticket.

    message: the whole answer in OpenAI chat shape. usage: the seller's, or counted (``estimated``).
    billed_nusd: the seller's own bill where it sends one. complete: False when the stream was cut.
    """

    ticket: Ticket
    message: Mapping[str, Any]
    finish_reason: str
    usage: Usage
    billed_nusd: int | None
    ttft_ms: int
    latency_ms: int
    complete: bool = True
