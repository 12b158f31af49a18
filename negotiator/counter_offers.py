"""The nearest terms that would be served: for a refused order, at most three single changes, each with its price."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from .errors import CounterOffer
from .money import parse_usd
from .order import Candidate, Miss, Order
from .policy import consider

__all__ = ["MAX_COUNTER_OFFERS", "counter_offers", "with_terms"]

MAX_COUNTER_OFFERS: Final = 3

_NOT_OFFERED: Final = frozenset({"firm"})
"""Misses that no change of terms mends."""


def counter_offers(order: Order, candidates: Sequence[Candidate], now_ms: int) -> tuple[CounterOffer, ...]:
    """For each single term, the smallest change that an offer would serve; nearest first.

    When every offer misses several terms, the one that needs the fewest and smallest changes is offered.
    """
    nearest: dict[tuple[str, ...], tuple[float, Candidate]] = {}
    for candidate in candidates:
        terms = tuple(sorted(miss.term for miss in candidate.misses))
        if not terms or _NOT_OFFERED & set(terms):
            continue
        distance = sum(_distance(miss) for miss in candidate.misses)
        best = nearest.get(terms)
        if best is None or (distance, candidate.expected_nusd) < (best[0], best[1].expected_nusd):
            nearest[terms] = (distance, candidate)
    if not nearest:
        return ()
    fewest = min(len(terms) for terms in nearest)
    ranked = sorted((distance, terms) for terms, (distance, _) in nearest.items() if len(terms) == fewest)
    most = MAX_COUNTER_OFFERS if fewest == 1 else 1
    offers = (_offer(order, nearest[terms][1], now_ms) for _, terms in ranked)
    return tuple(offer for offer in offers if offer is not None)[:most]


def with_terms(order: Order, changes: dict[str, Any]) -> Order:
    """The order under changed terms, as a buyer who takes a counter-offer would send it."""
    fields: dict[str, Any] = {}
    for term, value in changes.items():
        if term == "budget_usd":
            fields["budget_nusd"] = parse_usd(value)
            if order.value_nusd == order.budget_nusd:
                fields["value_nusd"] = parse_usd(value)
        elif term == "value_usd":
            fields["value_nusd"] = parse_usd(value)
        elif term == "require":
            fields["require"] = frozenset(value)
        else:
            fields[term] = tuple(value) if isinstance(value, (list, tuple)) else value
    return replace(order, **fields)


def _offer(order: Order, candidate: Candidate, now_ms: int) -> CounterOffer | None:
    changes = {
        miss.term: list(miss.offered) if isinstance(miss.offered, tuple) else miss.offered
        for miss in candidate.misses
    }
    served = consider(with_terms(order, changes), candidate.quote, candidate.estimate, now_ms=now_ms)
    if not served.eligible:
        return None
    return CounterOffer(
        terms=changes,
        quote_id=served.quote.quote_id,
        provider=served.quote.provider,
        model=served.quote.model,
        expected_nusd=served.expected_nusd,
        ceiling_nusd=served.ceiling_nusd,
        valid_until_ms=served.valid_until_ms,
    )


def _distance(miss: Miss) -> float:
    """How far asked and offered are apart: relative for numbers, one for a list that must change."""
    if miss.term in ("budget_usd", "value_usd"):
        asked, offered = parse_usd(miss.asked), parse_usd(miss.offered)
        return (offered - asked) / max(offered, 1)
    if isinstance(miss.asked, (int, float)) and not isinstance(miss.asked, bool):
        asked_number, offered_number = float(miss.asked), float(miss.offered)
        return abs(asked_number - offered_number) / max(abs(asked_number), abs(offered_number), 1e-9)
    return 1.0
