"""What is kept of an order: its history, small enough to write with every order, and its answer for a replay.

Quotes are kept as rows of plain numbers and only become words and dollars when somebody reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from providers.terms import DeclineCode, Usage

from .errors import Reject
from .money import format_usd
from .order import Assignment, Attempt, Book, Candidate, Completion, Loss, Lost, Order, QualityEstimate
from .record_rounds import bargained
from .wire_out import attempt_out, instant_out, loss_out, reject_out

__all__ = ["completion_from", "completion_kept", "history_kept", "history_out"]

MAX_ROWS: Final = 100
"""Quotes, and declines, kept of each round."""


def completion_kept(completion: Completion) -> dict[str, Any]:
    """The answer as it is kept for a replay."""
    return {"completion": completion}


def completion_from(kept: Mapping[str, Any], *, replayed: bool) -> Completion:
    """A kept answer, marked as replayed or not."""
    values = dict(kept["completion"])
    values["usage"] = Usage(**values["usage"])
    values["quality"] = QualityEstimate(**values["quality"])
    values["attempts"] = tuple(Attempt(**attempt) for attempt in values["attempts"])
    values["replayed"] = replayed
    return Completion(**values)


def history_kept(
    order: Order,
    *,
    state: str,
    received_ms: int,
    rounds: Sequence[Book] = (),
    assignment: Assignment | None = None,
    attempts: Sequence[Attempt] = (),
    billed_nusd: int = 0,
    house_nusd: int = 0,
    reject: Reject | None = None,
    explain: Callable[[Candidate], Lost] | None = None,
    explored: bool = False,
) -> dict[str, Any]:
    """The history of an order: each round's quotes with why they lost, the award, attempts, what was billed.

    explain: why a candidate that met every term lost, where there was no assignment. explored: the award was chosen
    to learn more of it. What sellers said in their own
    words is left out: it may repeat the prompt.
    """
    award = assignment.award.quote.quote_id if assignment is not None else ""
    why = explain if assignment is None else assignment.explain
    return {
        "order_id": order.order_id,
        "account": order.account,
        "state": state,
        "received_ms": received_ms,
        "policy": order.policy,
        "task": order.task,
        "min_quality": order.min_quality,
        "rounds": [
            [
                book.rfq_id,
                [_row(candidate, award, why) for candidate in book.candidates[:MAX_ROWS]],
                [[d.provider, d.model, int(d.code), d.detail] for d in book.declines[:MAX_ROWS]],
                [[name, target.nusd, target.latency_ms] for name, target in book.targets.items()],
            ]
            for book in rounds
        ],
        "award": award,
        "session": assignment.session if assignment is not None else None,
        "explored": explored,
        "runners_up": [c.quote.quote_id for c in assignment.runners_up] if assignment is not None else [],
        "hold_nusd": assignment.hold_nusd if assignment is not None else 0,
        "attempts": [replace(one, detail="") if one.detail else one for one in attempts],
        "billed_nusd": billed_nusd,
        "house_nusd": house_nusd,
        "reject": reject_out(reject) if reject is not None else None,
    }


def history_out(values: Mapping[str, Any]) -> dict[str, Any]:
    """A kept history as buyers read it."""
    award = values["award"]
    return {
        "order_id": values["order_id"],
        "account": values["account"],
        "state": values["state"],
        "received_at": instant_out(values["received_ms"]),
        "policy": values["policy"],
        "task": values["task"],
        "rounds": [
            _round_out(one[0], one[1], one[2], award) | bargained(values["rounds"][:number], one)
            for number, one in enumerate(values["rounds"])
        ],
        "award": award or None,
        "session": _session_out(values.get("session")),
        "explored": values.get("explored", False),
        "runners_up": values["runners_up"],
        "attempts": [attempt_out(a if isinstance(a, Attempt) else Attempt(**a)) for a in values["attempts"]],
        "settlement": {
            "hold_usd": format_usd(values["hold_nusd"]),
            "posted_usd": format_usd(values["billed_nusd"]),
            "released_usd": format_usd(values["hold_nusd"] - values["billed_nusd"]),
            "house_usd": format_usd(values["house_nusd"]),
        }
        if award
        else None,
        "reject": values["reject"],
    }


def _session_out(kept: Sequence[Any] | None) -> dict[str, Any] | None:
    """What became of the session's own offer: ``new``, ``gone``, ``full``, ``best``, ``within`` or ``above`` the premium."""
    return None if kept is None else {"offer": kept[0], "cost_usd": format_usd(kept[1])}


def _row(candidate: Candidate, award: str, why: Callable[[Candidate], Lost] | None) -> list[Any]:
    """Thirteen plain values of a quote; two more, its shadow price and what was full, where there are any."""
    quote, shadow_nusd, full = candidate.quote, 0, ""
    loss = 0
    if candidate.misses:
        loss = int(candidate.misses[0].loss)
    elif why is not None:
        lost, full, shadow_nusd = why(candidate)
        loss = 0 if quote.quote_id == award else int(lost)
    elif quote.quote_id != award:
        loss = int(Loss.PRICIER)
    row = [
        quote.quote_id,
        quote.provider,
        quote.model,
        quote.tier,
        candidate.expected_nusd,
        candidate.ceiling_nusd,
        quote.latency_ms.p95,
        round(candidate.estimate.mean, 4),
        loss,
        [[d.kind, d.saves_nusd, d.basis] for d in quote.discounts],
        quote.input_tokens,
        quote.expected_output_tokens,
        quote.latency_ms.p50,
    ]
    return [*row, shadow_nusd, full] if shadow_nusd or full else row


def _round_out(rfq_id: str, quotes: list[list[Any]], declines: list[list[Any]], award: str) -> dict[str, Any]:
    return {
        "rfq_id": rfq_id,
        "quotes": [_quote_out(row, award) for row in quotes],
        "declines": [
            {
                "provider": provider,
                "model": model,
                "code": f"D{code} {DeclineCode(code).name}",
                "detail": detail,
            }
            for provider, model, code, detail in declines
        ],
    }


def _quote_out(row: list[Any], award: str) -> dict[str, Any]:
    quote_id, provider, model, tier, expected, ceiling, p95, quality, loss, discounts = row[:10]
    return {
        "quote_id": quote_id,
        "provider": provider,
        "model": model,
        "tier": tier,
        "expected_usd": format_usd(expected),
        "ceiling_usd": format_usd(ceiling),
        "latency_ms_p95": p95,
        "quality": quality,
        "discounts": [
            {"kind": kind, "saves_usd": format_usd(saves), "basis": basis} for kind, saves, basis in discounts
        ],
        "won": quote_id == award,
        "loss": loss_out(Loss(loss)) if loss else None,
        "shadow_usd": format_usd(row[13]) if len(row) > 13 else "0",
        "limit": row[14] or None if len(row) > 14 else None,
    }
