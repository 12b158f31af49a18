"""What comes back from a house, as the words it was said with: the inverse of :mod:`negotiator.wire_out`.

Dollars become integer nano-dollars, instants milliseconds. What the wire does not tell keeps its neutral value: the
length estimates behind a quality, and a quote's own ceiling where the budget allows only a lower one. Raises
KeyError, TypeError or ValueError for what no house says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from providers.terms import (
    Decline,
    DeclineCode,
    Discount,
    DiscountKind,
    LineKind,
    PriceLine,
    Quantiles,
    Quote,
    Rates,
    Usage,
)

from .errors import CounterOffer, Reject, RejectCode
from .money import parse_usd
from .order import (
    Attempt,
    Book,
    Candidate,
    Completion,
    HoldState,
    Loss,
    Miss,
    QualityEstimate,
    Reservation,
    Settlement,
)
from .store import Account, Balance, Period

__all__ = [
    "attempt_in",
    "balance_in",
    "book_in",
    "candidate_in",
    "chat_completion_in",
    "completion_in",
    "counter_offer_in",
    "instant_in",
    "reject_in",
    "reservation_in",
    "settlement_in",
    "usage_in",
]

Values = Mapping[str, Any]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)


def instant_in(text: str) -> int:
    """Milliseconds since 1970 of an RFC 3339 instant."""
    return (datetime.fromisoformat(text) - _EPOCH) // _MILLISECOND


def reject_in(values: Values) -> Reject:
    """``Reject`` of the contract."""
    return Reject(
        code=RejectCode(values["code"]),
        message=values["message"],
        facts=dict(values["facts"]),
        counter_offers=tuple(map(counter_offer_in, values["counter_offers"])),
        retry_after_ms=values["retry_after_ms"],
    )


def counter_offer_in(values: Values) -> CounterOffer:
    """A counter-offer: the terms to change, and what it would then cost."""
    return CounterOffer(
        terms=dict(values["terms"]),
        quote_id=values["quote_id"],
        provider=values["provider"],
        model=values["model"],
        expected_nusd=parse_usd(values["expected_usd"]),
        ceiling_nusd=parse_usd(values["ceiling_usd"]),
        valid_until_ms=instant_in(values["valid_until"]),
    )


def candidate_in(values: Values, rfq_id: str = "") -> Candidate:
    """``Quote`` of the contract, with the house's judgement."""
    lines = tuple(map(_line_in, values["lines"]))
    quality = values["quality"]
    quote = Quote(
        quote_id=values["quote_id"],
        rfq_id=rfq_id,
        provider=values["provider"],
        model=values["model"],
        tier=values["tier"],
        firm=values["firm"],
        rates=_rates_in(values["rates"]),
        lines=lines,
        expected_nusd=sum(line.nusd for line in lines),
        ceiling_nusd=parse_usd(values["ceiling_usd"]),
        input_tokens=values["input_tokens"],
        expected_output_tokens=values["expected_output_tokens"],
        max_output_tokens=values["max_output_tokens"],
        latency_ms=_quantiles_in(values["latency_ms"]),
        ttft_ms=_quantiles_in(values["ttft_ms"]),
        valid_for_ms=values["valid_for_ms"],
        discounts=tuple(
            Discount(DiscountKind(one["kind"]), parse_usd(one["saves_usd"]), one["basis"])
            for one in values["discounts"]
        ),
        tags=frozenset(values["tags"]),
        capacity=values["capacity"],
    )
    return Candidate(
        quote=quote,
        estimate=QualityEstimate(quality["mean"], quality["sd"], quality["observations"]),
        expected_nusd=parse_usd(values["expected_usd"]),
        ceiling_nusd=quote.ceiling_nusd,
        max_output_tokens=quote.max_output_tokens,
        valid_until_ms=instant_in(values["valid_until"]),
        misses=tuple(map(_miss_in, values["misses"])),
    )


def book_in(values: Values) -> Book:
    """Answer of ``POST /v1/quotes``."""
    rfq_id, reject = values["rfq_id"], values["reject"]
    return Book(
        rfq_id=rfq_id,
        candidates=tuple(candidate_in(one, rfq_id) for one in values["quotes"]),
        declines=tuple(
            Decline(one["provider"], one["model"], DeclineCode(int(one["code"][1:])), one["detail"])
            for one in values["declines"]
        ),
        reject=None if reject is None else reject_in(reject),
    )


def attempt_in(values: Values) -> Attempt:
    """One call to one seller."""
    return Attempt(
        number=values["number"],
        provider=values["provider"],
        model=values["model"],
        tier=values["tier"],
        quote_id=values["quote_id"],
        outcome=values["outcome"],
        billed_nusd=parse_usd(values["billed_usd"]),
        latency_ms=values["latency_ms"],
        detail=values["detail"],
    )


def reservation_in(values: Values) -> Reservation:
    """A hold."""
    return Reservation(
        reservation_id=values["reservation_id"],
        order_id=values["order_id"],
        account=values["account"],
        hold_nusd=parse_usd(values["hold_usd"]),
        expires_ms=instant_in(values["expires_at"]),
        state=HoldState(values["state"]),
    )


def settlement_in(values: Values) -> Settlement:
    """How a hold resolved."""
    return Settlement(
        reservation_id=values["reservation_id"],
        order_id=values["order_id"],
        account=values["account"],
        state=HoldState(values["state"]),
        posted_nusd=parse_usd(values["posted_usd"]),
        released_nusd=parse_usd(values["released_usd"]),
        house_nusd=parse_usd(values["house_usd"]),
        already=values["already"],
    )


def usage_in(values: Values) -> Usage:
    """OpenAI's usage object; sellers leave parts out or null. Longer cache lifetimes are not told apart."""
    prompt = values.get("prompt_tokens_details") or {}
    output = values.get("completion_tokens_details") or {}
    return Usage(
        values.get("prompt_tokens") or 0,
        values.get("completion_tokens") or 0,
        prompt.get("cached_tokens") or 0,
        prompt.get("cache_write_tokens") or 0,
        reasoning_tokens=output.get("reasoning_tokens") or 0,
        estimated=bool(values.get("estimated")),
    )


def chat_completion_in(values: Values) -> Completion:
    """OpenAI's ``chat.completion`` with the ``negotiator`` object."""
    return completion_in(values["negotiator"], values["choices"][0], values["usage"])


def completion_in(bill: Values, choice: Values, usage: Values) -> Completion:
    """A served order: its ``negotiator`` object, what was said and why it ended, and OpenAI's usage object."""
    return Completion(
        order_id=bill["order_id"],
        quote_id=bill["quote_id"],
        provider=bill["provider"],
        model=bill["model"],
        tier=bill["tier"],
        message=dict(choice["message"]),
        finish_reason=choice["finish_reason"],
        usage=usage_in(usage),
        expected_nusd=parse_usd(bill["expected_usd"]),
        ceiling_nusd=parse_usd(bill["ceiling_usd"]),
        cost_nusd=parse_usd(bill["cost_usd"]),
        saved_nusd=parse_usd(bill["saved_usd"]),
        quality=QualityEstimate(bill["quality"], bill["quality_sd"]),
        latency_ms=bill["latency_ms"],
        ttft_ms=bill["ttft_ms"],
        attempts=tuple(map(attempt_in, bill["attempts"])),
        replayed=bill["replayed"],
        complete=bill["complete"],
    )


def balance_in(values: Values) -> Balance:
    """An account and where it stands."""
    return Balance(
        account=Account(
            account_id=values["account"],
            parent=values["parent"],
            budget_nusd=_some_nusd(values["budget_usd"]),
            period=Period(values["period"]),
            default_budget_nusd=_some_nusd(values["default_budget_usd"]),
        ),
        posted_nusd=parse_usd(values["posted_usd"]),
        pending_nusd=parse_usd(values["pending_usd"]),
        deposits_nusd=parse_usd(values["deposits_usd"]),
        period_key=values["period_key"],
    )


def _rates_in(values: Values) -> Rates:
    return Rates(
        input_nusd_per_mtok=parse_usd(values["input_usd_per_million"]),
        output_nusd_per_mtok=parse_usd(values["output_usd_per_million"]),
        cache_read_nusd_per_mtok=parse_usd(values["cache_read_usd_per_million"]),
        cache_write_nusd_per_mtok=parse_usd(values["cache_write_usd_per_million"]),
        cache_write_1h_nusd_per_mtok=parse_usd(values["cache_write_1h_usd_per_million"]),
        request_nusd=parse_usd(values["request_usd"]),
    )


def _line_in(values: Values) -> PriceLine:
    return PriceLine(
        LineKind(values["kind"]),
        values["tokens"],
        parse_usd(values["usd_per_million"]),
        parse_usd(values["usd"]),
    )


def _quantiles_in(values: Values) -> Quantiles:
    return Quantiles(values["p50"], values["p95"])


def _miss_in(values: Values) -> Miss:
    loss = Loss[values["loss"].partition(" ")[2]]
    return Miss(values["term"], _frozen(values["asked"]), _frozen(values["offered"]), loss)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _some_nusd(text: str | None) -> int | None:
    return None if text is None else parse_usd(text)
