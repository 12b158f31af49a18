"""What is kept of an order: its history as JSON, and its answer for when the same id comes again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from providers.terms import Usage

from .errors import Reject
from .order import Assignment, Attempt, Book, Candidate, Completion, Order, QualityEstimate, Settlement
from .wire_out import attempt_out, candidate_out, instant_out, loss_out, reject_out, settlement_out

__all__ = ["completion_from", "completion_kept", "history"]

MAX_QUOTES_KEPT = 100


def completion_kept(completion: Completion) -> bytes:
    """The answer as it is kept for a replay."""
    return orjson.dumps(completion, default=dict)


def completion_from(kept: bytes | Mapping[str, Any], *, replayed: bool) -> Completion:
    """A kept answer, marked as replayed or not."""
    values = dict(orjson.loads(kept) if isinstance(kept, bytes) else kept)
    values["usage"] = Usage(**values["usage"])
    values["quality"] = QualityEstimate(**values["quality"])
    values["attempts"] = tuple(Attempt(**attempt) for attempt in values["attempts"])
    values["replayed"] = replayed
    return Completion(**values)


def history(
    order: Order,
    *,
    state: str,
    received_ms: int,
    rounds: Sequence[Book] = (),
    assignment: Assignment | None = None,
    losses: Mapping[str, str] | None = None,
    attempts: Sequence[Attempt] = (),
    settlement: Settlement | None = None,
    reject: Reject | None = None,
) -> dict[str, Any]:
    """All that happened to an order, as plain values: rounds, quotes with why each lost, attempts, settlement."""
    return {
        "order_id": order.order_id,
        "account": order.account,
        "state": state,
        "received_at": instant_out(received_ms),
        "policy": order.policy,
        "task": order.task,
        "rounds": [_round(book, assignment, losses or {}) for book in rounds],
        "award": assignment.award.quote.quote_id if assignment is not None else None,
        "runners_up": [c.quote.quote_id for c in assignment.runners_up] if assignment is not None else [],
        "attempts": [attempt_out(attempt) for attempt in attempts],
        "settlement": settlement_out(settlement) if settlement is not None else None,
        "reject": reject_out(reject) if reject is not None else None,
    }


def _round(book: Book, assignment: Assignment | None, losses: Mapping[str, str]) -> dict[str, Any]:
    award = assignment.award.quote.quote_id if assignment is not None else None
    return {
        "rfq_id": book.rfq_id,
        "quotes": [
            {**candidate_out(c), "won": c.quote.quote_id == award, "loss": _loss(c, award, losses)}
            for c in book.candidates[:MAX_QUOTES_KEPT]
        ],
        "declines": [
            {
                "provider": d.provider,
                "model": d.model,
                "code": f"D{d.code.value} {d.code.name}",
                "detail": d.detail,
            }
            for d in book.declines[:MAX_QUOTES_KEPT]
        ],
    }


def _loss(candidate: Candidate, award: str | None, losses: Mapping[str, str]) -> str | None:
    if candidate.misses:
        return loss_out(candidate.misses[0].loss)
    if candidate.quote.quote_id == award:
        return None
    return losses.get(candidate.quote.quote_id, "L1 PRICIER")
