"""What a further round of negotiation asked of whom, and what it changed: read off the rows of two rounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .money import format_usd

__all__ = ["bargained"]


def bargained(earlier: Sequence[list[Any]], one: list[Any]) -> dict[str, Any]:
    """Targets and changes of a round as buyers read them; nothing for the first. Rows are :mod:`negotiator.record`'s."""
    if not earlier:
        return {}
    asked = one[3] if len(one) > 3 else ()  # records of before targets were kept
    targets = [
        {
            "provider": name,
            "ceiling_usd": None if nusd is None else format_usd(nusd),
            "latency_ms_p95": late_ms,
        }
        for name, nusd, late_ms in asked
    ]
    return {"targets": targets, "changed": _changed(earlier[-1][1], one[1])}


def _changed(before: list[list[Any]], after: list[list[Any]]) -> list[dict[str, Any]]:
    """The offers with another quote than a round ago: each term that moved, before and now (before None = not quoted)."""
    known = {tuple(row[1:4]): _terms_of(row) for row in before}
    changed = []
    for row in after:
        terms = _terms_of(row)
        were = known.get(tuple(row[1:4]), dict.fromkeys(terms))
        moved = {term: [were[term], now] for term, now in terms.items() if were[term] != now}
        if moved:
            provider, model, tier = row[1:4]
            changed.append({"provider": provider, "model": model, "tier": tier, **moved})
    return changed


def _terms_of(row: list[Any]) -> dict[str, Any]:
    """What of a quote's row may be bargained about."""
    return {"expected_usd": format_usd(row[4]), "ceiling_usd": format_usd(row[5]), "latency_ms_p95": row[6]}
