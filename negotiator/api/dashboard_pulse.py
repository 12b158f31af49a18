"""The market's pulse: the last half hour in steps of ten seconds, and what was refused with what would have done.

Durations are counted in buckets a tenth apart, so a quantile is right to 5 % however many orders there were.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ..errors import CounterOffer, RejectCode
from ..money import format_usd
from ..wire_out import counter_offer_out
from .dashboard_tape import Ended

__all__ = ["Pulse"]

STEP_MS: Final = 10_000
STEPS: Final = 180
MAX_ROWS: Final = 20_000
"""Steps of accounts kept; the oldest go first."""

MAX_REFUSALS: Final = 2_000
MAX_OFFERS: Final = 16
"""Sorts of counter-offers told apart of one account and reject."""

WIDTH: Final = math.log(1.1)
SHARES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99}

Sort = tuple[tuple[str, ...], str, str]


@dataclass(slots=True)
class _Step:
    """Counts of one step; answers and first_tokens: orders by bucket of duration."""

    served: int = 0
    refused: int = 0
    spend_nusd: int = 0
    saved_nusd: int = 0
    answers: Counter[int] = field(default_factory=Counter)
    first_tokens: Counter[int] = field(default_factory=Counter)

    def add(self, other: _Step) -> None:
        self.served += other.served
        self.refused += other.refused
        self.spend_nusd += other.spend_nusd
        self.saved_nusd += other.saved_nusd
        self.answers.update(other.answers)
        self.first_tokens.update(other.first_tokens)


@dataclass(slots=True)
class _Refusals:
    orders: int = 0
    offers: dict[Sort, tuple[int, CounterOffer]] = field(default_factory=dict)

    def note(self, offer: CounterOffer | None) -> None:
        self.orders += 1
        if offer is not None:
            self.merge({(tuple(sorted(offer.terms)), offer.provider, offer.model): (1, offer)})

    def merge(self, offers: Mapping[Sort, tuple[int, CounterOffer]]) -> None:
        for sort, (orders, latest) in offers.items():
            if sort in self.offers or len(self.offers) < MAX_OFFERS:
                self.offers[sort] = self.offers.get(sort, (0, latest))[0] + orders, latest


class Pulse:
    """Counts orders as they end; see :class:`negotiator.api.dashboard_tape.Tape`."""

    def __init__(self) -> None:
        self._steps: OrderedDict[tuple[int, str], _Step] = OrderedDict()
        self._refusals: OrderedDict[tuple[str, str], _Refusals] = OrderedDict()

    def note(self, ended: Ended) -> None:
        """Count one."""
        facts, account = ended.facts, ended.account
        step = _entry(self._steps, (ended.at_ms // STEP_MS, account), _Step, MAX_ROWS)
        step.spend_nusd += facts.get("posted_nusd", 0)
        if ended.served:
            step.served += 1
            step.saved_nusd += facts["saved_nusd"]
            if facts["latency_ms"]:
                step.answers[_bucket(facts["latency_ms"])] += 1
            if facts["ttft_ms"]:
                step.first_tokens[_bucket(facts["ttft_ms"])] += 1
        elif facts["reject"]:
            step.refused += 1
            refusals = _entry(self._refusals, (account, facts["reject"]), _Refusals, MAX_REFUSALS)
            offers = ended.reject.counter_offers if ended.reject is not None else ()
            refusals.note(offers[0] if offers else None)

    def accounts(self) -> Iterable[str]:
        """Accounts that are counted."""
        return dict.fromkeys([account for _, account in self._steps] + [name for name, _ in self._refusals])

    def window(self, now_ms: int, accounts: frozenset[str]) -> dict[str, Any]:
        """The last half hour of these accounts, step by step, and the quantiles over all of it."""
        last = now_ms // STEP_MS
        first = last - STEPS + 1
        steps = [_Step() for _ in range(STEPS)]
        for (number, account), step in self._steps.items():
            if first <= number <= last and account in accounts:
                steps[number - first].add(step)
        whole = _Step()
        for step in steps:
            whole.add(step)
        each = [_quantiles(step.answers) for step in steps]
        return {
            "step_ms": STEP_MS,
            "from_ms": first * STEP_MS,
            "served": [step.served for step in steps],
            "refused": [step.refused for step in steps],
            "spend_usd": [format_usd(step.spend_nusd) for step in steps],
            "saved_usd": [format_usd(step.saved_nusd) for step in steps],
            "latency_ms": {name: [one[name] if one else None for one in each] for name in SHARES},
            "whole": {"latency_ms": _quantiles(whole.answers), "ttft_ms": _quantiles(whole.first_tokens)},
        }

    def refusals(self, accounts: frozenset[str]) -> list[dict[str, Any]]:
        """What was refused since the start, the commonest first, each with the commonest counter-offer."""
        by_name: dict[str, _Refusals] = {}
        for (account, name), refusals in self._refusals.items():
            if account in accounts:
                sums = by_name.setdefault(name, _Refusals())
                sums.orders += refusals.orders
                sums.merge(refusals.offers)
        ranked = sorted(by_name.items(), key=lambda one: -one[1].orders)
        return [
            {
                "reject": name,
                "code": int(RejectCode[name]),
                "orders": refusals.orders,
                "counter_offer": _commonest(refusals),
            }
            for name, refusals in ranked
        ]


def _entry(rows: OrderedDict[Any, Any], key: Any, make: Callable[[], Any], most: int) -> Any:
    row = rows.get(key)
    if row is None:
        row = rows[key] = make()
        if len(rows) > most:
            rows.popitem(last=False)
    return row


def _commonest(refusals: _Refusals) -> dict[str, Any] | None:
    if not refusals.offers:
        return None
    orders, offer = max(refusals.offers.values(), key=lambda one: one[0])
    return {"orders": orders, **counter_offer_out(offer)}


def _bucket(ms: int) -> int:
    return round(math.log(ms) / WIDTH)


def _quantiles(buckets: Counter[int]) -> dict[str, int] | None:
    """The quantiles of what was counted, None = nothing was."""
    total, seen, found = sum(buckets.values()), 0, {}
    if not total:
        return None
    wanted = iter(SHARES.items())
    name, share = next(wanted)
    for bucket in sorted(buckets):
        seen += buckets[bucket]
        while seen >= share * total:
            found[name] = round(math.exp(bucket * WIDTH))
            name, share = next(wanted, ("", math.inf))
    return found
