"""What leaves the house, as plain values: quotes, rejects, answers and settlements in the shapes buyers are promised.

Money becomes decimal strings of US dollars here and nowhere else. Nothing is computed, only said.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from providers.terms import PriceLine, Quantiles, Rates, Usage

from .errors import CounterOffer, Reject
from .money import format_usd
from .order import Attempt, Book, Candidate, Completion, Loss, Miss, Reservation, Settlement

__all__ = [
    "attempt_out",
    "book_out",
    "candidate_out",
    "chat_completion_out",
    "completion_out",
    "counter_offer_out",
    "embeddings_out",
    "instant_out",
    "loss_out",
    "rates_out",
    "reject_out",
    "reservation_out",
    "settlement_out",
    "usage_out",
]


def instant_out(at_ms: int) -> str:
    """An instant as RFC 3339 UTC with milliseconds."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def reject_out(reject: Reject) -> dict[str, Any]:
    """``Reject`` of the contract."""
    return {
        "code": int(reject.code),
        "name": reject.code.name,
        "message": reject.message,
        "facts": dict(reject.facts),
        "counter_offers": [counter_offer_out(offer) for offer in reject.counter_offers],
        "retry_after_ms": reject.retry_after_ms,
    }


def counter_offer_out(offer: CounterOffer) -> dict[str, Any]:
    """A counter-offer: the terms to change, and what it would then cost."""
    return {
        "terms": dict(offer.terms),
        "quote_id": offer.quote_id,
        "provider": offer.provider,
        "model": offer.model,
        "expected_usd": format_usd(offer.expected_nusd),
        "ceiling_usd": format_usd(offer.ceiling_nusd),
        "valid_until": instant_out(offer.valid_until_ms),
    }


def candidate_out(candidate: Candidate) -> dict[str, Any]:
    """``Quote`` of the contract, with the house's judgement."""
    quote, estimate = candidate.quote, candidate.estimate
    return {
        "quote_id": quote.quote_id,
        "provider": quote.provider,
        "model": quote.model,
        "tier": quote.tier,
        "firm": quote.firm,
        "expected_usd": format_usd(candidate.expected_nusd),
        "ceiling_usd": format_usd(candidate.ceiling_nusd),
        "max_output_tokens": candidate.max_output_tokens,
        "input_tokens": quote.input_tokens,
        "expected_output_tokens": quote.expected_output_tokens,
        "rates": rates_out(quote.rates),
        "lines": [_line_out(line) for line in quote.lines],
        "discounts": [
            {
                "kind": discount.kind.value,
                "saves_usd": format_usd(discount.saves_nusd),
                "basis": discount.basis,
            }
            for discount in quote.discounts
        ],
        "latency_ms": _quantiles_out(quote.latency_ms),
        "ttft_ms": _quantiles_out(quote.ttft_ms),
        "quality": {
            "mean": round(estimate.mean, 4),
            "sd": round(estimate.sd, 4),
            "observations": estimate.observations,
        },
        "eligible": candidate.eligible,
        "misses": [_miss_out(miss) for miss in candidate.misses],
        "tags": sorted(quote.tags),
        "capacity": quote.capacity,
        "valid_for_ms": quote.valid_for_ms,
        "valid_until": instant_out(candidate.valid_until_ms),
    }


def rates_out(rates: Rates) -> dict[str, str]:
    """What the token classes cost, US dollars per million tokens, and the call itself."""
    return {
        "input_usd_per_million": format_usd(rates.input_nusd_per_mtok),
        "cache_read_usd_per_million": format_usd(rates.cache_read_nusd_per_mtok),
        "cache_write_usd_per_million": format_usd(rates.cache_write_nusd_per_mtok),
        "cache_write_1h_usd_per_million": format_usd(rates.cache_write_1h_nusd_per_mtok),
        "output_usd_per_million": format_usd(rates.output_nusd_per_mtok),
        "request_usd": format_usd(rates.request_nusd),
    }


def book_out(book: Book) -> dict[str, Any]:
    """Answer of ``POST /v1/quotes``."""
    return {
        "rfq_id": book.rfq_id,
        "quotes": [candidate_out(candidate) for candidate in book.candidates],
        "declines": [
            {
                "provider": d.provider,
                "model": d.model,
                "code": f"D{d.code.value}",
                "name": d.code.name,
                "detail": d.detail,
            }
            for d in book.declines
        ],
        "best": book.best.quote.quote_id if book.best is not None else None,
        "reject": reject_out(book.reject) if book.reject is not None else None,
    }


def attempt_out(attempt: Attempt) -> dict[str, Any]:
    """One call to one seller."""
    return {
        "number": attempt.number,
        "provider": attempt.provider,
        "model": attempt.model,
        "tier": attempt.tier,
        "quote_id": attempt.quote_id,
        "outcome": attempt.outcome,
        "billed_usd": format_usd(attempt.billed_nusd),
        "latency_ms": attempt.latency_ms,
        "detail": attempt.detail,
    }


def reservation_out(reservation: Reservation) -> dict[str, Any]:
    """A hold."""
    return {
        "reservation_id": reservation.reservation_id,
        "order_id": reservation.order_id,
        "account": reservation.account,
        "hold_usd": format_usd(reservation.hold_nusd),
        "expires_at": instant_out(reservation.expires_ms),
        "state": reservation.state.value,
    }


def settlement_out(settlement: Settlement) -> dict[str, Any]:
    """How a hold resolved."""
    return {
        "reservation_id": settlement.reservation_id,
        "order_id": settlement.order_id,
        "account": settlement.account,
        "state": settlement.state.value,
        "posted_usd": format_usd(settlement.posted_nusd),
        "released_usd": format_usd(settlement.released_nusd),
        "house_usd": format_usd(settlement.house_nusd),
        "already": settlement.already,
    }


def usage_out(usage: Usage) -> dict[str, Any]:
    """OpenAI's usage object, with what was estimated marked."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cache_read_tokens,
            "cache_write_tokens": usage.cache_write_tokens + usage.cache_write_1h_tokens,
        },
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "estimated": usage.estimated,
    }


def completion_out(completion: Completion) -> dict[str, Any]:
    """The ``negotiator`` object of an answer."""
    return {
        "order_id": completion.order_id,
        "quote_id": completion.quote_id,
        "provider": completion.provider,
        "model": completion.model,
        "tier": completion.tier,
        "expected_usd": format_usd(completion.expected_nusd),
        "ceiling_usd": format_usd(completion.ceiling_nusd),
        "cost_usd": format_usd(completion.cost_nusd),
        "saved_usd": format_usd(completion.saved_nusd),
        "quality": round(completion.quality.mean, 4),
        "quality_sd": round(completion.quality.sd, 4),
        "latency_ms": completion.latency_ms,
        "ttft_ms": completion.ttft_ms,
        "attempts": [attempt_out(attempt) for attempt in completion.attempts],
        "replayed": completion.replayed,
        "complete": completion.complete,
    }


def chat_completion_out(completion: Completion, created_s: int) -> dict[str, Any]:
    """OpenAI's ``chat.completion`` with the ``negotiator`` object."""
    return {
        "id": f"chatcmpl-{completion.order_id}",
        "object": "chat.completion",
        "created": created_s,
        "model": f"{completion.provider}/{completion.model}",
        "choices": [
            {
                "index": 0,
                "message": dict(completion.message),
                "finish_reason": completion.finish_reason,
                "logprobs": None,
            }
        ],
        "usage": usage_out(completion.usage),
        "negotiator": completion_out(completion),
    }


def embeddings_out(completion: Completion) -> dict[str, Any]:
    """OpenAI's list of embeddings with the ``negotiator`` object."""
    tokens = completion.usage.input_tokens
    return {
        "object": "list",
        "data": completion.message["data"],
        "model": f"{completion.provider}/{completion.model}",
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "negotiator": completion_out(completion),
    }


def _line_out(line: PriceLine) -> dict[str, Any]:
    return {
        "kind": line.kind.value,
        "tokens": line.tokens,
        "usd_per_million": format_usd(line.nusd_per_mtok),
        "usd": format_usd(line.nusd),
    }


def _quantiles_out(quantiles: Quantiles) -> dict[str, int]:
    return {"p50": quantiles.p50, "p95": quantiles.p95}


def _miss_out(miss: Miss) -> Mapping[str, Any]:
    return {
        "term": miss.term,
        "asked": _plain(miss.asked),
        "offered": _plain(miss.offered),
        "loss": loss_out(miss.loss),
    }


def loss_out(loss: Loss) -> str:
    """A loss as buyers read it: ``L2 OVER_BUDGET``."""
    return f"L{loss.value} {loss.name}"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (tuple, frozenset, set)) else value
