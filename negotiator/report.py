"""What a market's orders cost, what they would have cost elsewhere, and the regret against hindsight, part by part.

The recorded book is solved again with full knowledge. What was believed is replaced by what turned out, one thing at
a time and in this order: prices (expected by billed), quality (estimates by what feedback said), capacity (limits less
the time sellers were out), and last the online decision itself by the optimum. Each part is the change in cost that
its replacement makes, so the parts sum to the regret: what was paid less the optimum as it looked beforehand.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from providers.terms import RateKind

from .errors import InputInvalid
from .limits import LimitRow, Load
from .money import format_usd

if TYPE_CHECKING:
    from solver import Limit

__all__ = ["Hindsight", "LoggedMarket", "hindsight", "read_market", "summary"]

PARTS: Final = ("prices", "quality", "capacity", "decisions")
FEEDBACK_WORTH: Final = 5.0
"""Judgements that weigh as much as the estimate made beforehand."""

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Offer = tuple[str, str, str]


@dataclass(slots=True)
class LoggedMarket:
    """Served orders of a log as lists; ``ejected``: (provider, model, from_ms, until_ms)."""

    limits: list[LimitRow] = field(default_factory=list)
    orders: list[dict[str, Any]] = field(default_factory=list)
    refused: list[dict[str, Any]] = field(default_factory=list)
    scores: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    ejected: list[tuple[str, str, int, int]] = field(default_factory=list)


def read_market(lines: Iterable[Mapping[str, Any]], since_ms: int = 0) -> LoggedMarket:
    """The market behind the lines of an order log."""
    market = LoggedMarket()
    for line in lines:
        if line["type"] == "market":
            market.limits = [_limit_row(row) for row in line["limits"]]
        elif line["type"] == "judged":
            market.scores.setdefault((line["provider"], line["model"]), []).append(float(line["score"]))
        elif line["type"] == "ejected":
            until_ms = line["at_ms"] + line["ejection_ms"]
            market.ejected.append((line["provider"], line["model"], line["at_ms"], until_ms))
        elif line["type"] == "order" and line["received_ms"] >= since_ms:
            served = line["state"] in ("SETTLED", "PARTIAL") and line["award"]
            (market.orders if served else market.refused).append(dict(line))
    return market


@dataclass(frozen=True, slots=True, kw_only=True)
class Hindsight:
    """Costs of the served orders, nano-dollars.

    beforehand: the optimum as believed beforehand. paid: what was posted. parts: by name, they sum to paid less
    beforehand. greedy: cheapest-first over the same offers and limits. gap: of the last optimum, proven.
    """

    orders: int
    beforehand_nusd: int
    paid_nusd: int
    parts_nusd: Mapping[str, int]
    greedy_nusd: int
    greedy_served: int
    gap: float

    @property
    def regret_nusd(self) -> int:
        """What was paid above the optimum as it looked beforehand."""
        return self.paid_nusd - self.beforehand_nusd


def hindsight(market: LoggedMarket, *, time_limit_s: float = 20.0, seed: int = 0) -> Hindsight:
    """Solve the recorded book with more and more of what turned out. Raises InputInvalid without served orders."""
    from solver import Problem, solve
    from solver.greedy import cheapest_first

    if not market.orders:
        raise InputInvalid("order log: expected at least one served order, found none")
    book = _Book(market)
    steps = [
        (book.expected, book.eligible, book.caps_whole()),
        (book.realised, book.eligible, book.caps_whole()),
        (book.realised, book.good_enough(), book.caps_whole()),
        (book.realised, book.good_enough() & book.in_service(), book.caps_whole()),
    ]
    costs, gap = [], 0.0
    for cost, allowed, limits in steps:
        problem = Problem(cost=cost, allowed=allowed, limits=limits)
        plan = solve(problem, time_limit_s=time_limit_s / len(steps), seed=seed)
        costs.append(plan.cost + book.unserved_nusd(plan.choice, cost))
        gap = plan.gap
    costs.append(book.paid_nusd)
    first = Problem(cost=book.expected, allowed=book.eligible, limits=steps[0][2])
    choice = cheapest_first(first)
    return Hindsight(
        orders=len(market.orders),
        beforehand_nusd=costs[0],
        paid_nusd=costs[-1],
        parts_nusd={name: costs[k + 1] - costs[k] for k, name in enumerate(PARTS)},
        greedy_nusd=int(book.expected[choice >= 0, choice[choice >= 0]].sum()),
        greedy_served=int(np.count_nonzero(choice >= 0)),
        gap=gap,
    )


def summary(market: LoggedMarket, found: Hindsight | None) -> dict[str, Any]:
    """Spend by account, model, task; refusals by code; regret by part; as plain values."""
    orders = market.orders
    return {
        "orders": len(orders),
        "refused": len(market.refused),
        "spent_usd": format_usd(sum(order["billed_nusd"] for order in orders)),
        "house_usd": format_usd(sum(order["house_nusd"] for order in orders)),
        "by_account": _totals(orders, lambda order: order["account"]),
        "by_model": _totals(orders, lambda order: "/".join(_award(order)[1:3])),
        "by_task": _totals(orders, lambda order: order["task"] or "-"),
        "rejects": _counts([(order["reject"] or {}).get("name", "-") for order in market.refused]),
        "regret": None if found is None else _regret_out(found),
    }


def _regret_out(found: Hindsight) -> dict[str, Any]:
    return {
        "paid_usd": format_usd(found.paid_nusd),
        "optimum_beforehand_usd": format_usd(found.beforehand_nusd),
        "regret_usd": format_usd(found.regret_nusd),
        "parts_usd": {name: format_usd(nusd) for name, nusd in found.parts_nusd.items()},
        "cheapest_first": {"served": found.greedy_served, "cost_usd": format_usd(found.greedy_nusd)},
        "gap": found.gap,
    }


class _Book:
    """Orders x offers, as believed and as it turned out."""

    def __init__(self, market: LoggedMarket) -> None:
        rows = [[row for row in order["rounds"][-1][1] if row[8] in (0, 1)] for order in market.orders]
        self._market = market
        self.offers: list[Offer] = sorted({tuple(row[1:4]) for quotes in rows for row in quotes})
        number = {offer: j for j, offer in enumerate(self.offers)}
        shape = (len(rows), len(self.offers))
        self.expected, self.realised = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        self.eligible, self.quality = np.zeros(shape, bool), np.zeros(shape)
        self._loads: dict[RateKind, Floats] = {kind: np.zeros(shape) for kind in RateKind}
        self._award = np.zeros(len(rows), np.int64)
        for i, (order, quotes) in enumerate(zip(market.orders, rows, strict=True)):
            award = _award(order)
            self._award[i] = number[tuple(award[1:4])]
            ratio = order["billed_nusd"] / max(1, award[4])
            for row in quotes:
                self._put(i, number[tuple(row[1:4])], row, ratio)
            self.realised[i, self._award[i]] = order["billed_nusd"]
        self.paid_nusd = sum(order["billed_nusd"] for order in market.orders)

    def _put(self, i: int, j: int, row: Sequence[Any], ratio: float) -> None:
        """One quote: what it was expected to cost, and with the length that the answer turned out to have."""
        self.eligible[i, j] = True
        self.expected[i, j] = row[4]
        self.realised[i, j] = min(round(row[4] * ratio), row[5])
        self.quality[i, j] = row[7]
        load = Load(row[10], row[11], latency_ms=row[12])
        for kind, usage in self._loads.items():
            usage[i, j] = load.over_horizon(kind)

    def caps_whole(self) -> list[Limit]:
        """Sellers' limits over the whole time of the log: a relaxation, so the optimum is a bound from below."""
        from solver import Limit

        received = [order["received_ms"] for order in self._market.orders]
        span_ms = max(received) - min(received) + 60_000
        limits = []
        for row in self._market.limits:
            columns = [j for j, (provider, model, _) in enumerate(self.offers) if row.covers(provider, model)]
            if columns:
                limits.append(
                    Limit(row.name, row.cap_over(span_ms), models=columns, usage=self._loads[row.kind])
                )
        return limits

    def good_enough(self) -> npt.NDArray[np.bool_]:
        """Pairs that meet the floor when the estimate is moved by what feedback said of the model."""
        quality = self.quality.copy()
        for j, (provider, model, _) in enumerate(self.offers):
            scores = self._market.scores.get((provider, model), [])
            weight = len(scores) / (len(scores) + FEEDBACK_WORTH)
            if scores:
                quality[:, j] = (1 - weight) * quality[:, j] + weight * float(np.mean(scores))
        floor = np.array([order.get("min_quality", 0.0) for order in self._market.orders])
        kept = self.eligible & (quality >= floor[:, None])
        return self._with_award(kept)

    def in_service(self) -> npt.NDArray[np.bool_]:
        """Pairs whose seller was not out when the order came."""
        mask = np.ones_like(self.eligible)
        received = np.array([order["received_ms"] for order in self._market.orders])
        for provider, model, from_ms, until_ms in self._market.ejected:
            for j, offer in enumerate(self.offers):
                if offer[:2] == (provider, model):
                    mask[(received >= from_ms) & (received < until_ms), j] = False
        return self._with_award(mask)

    def _with_award(self, mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """What was really done was possible."""
        mask[np.arange(len(self._award)), self._award] = True
        return mask

    def unserved_nusd(self, choice: npt.NDArray[np.int32], cost: Ints) -> int:
        """What the award costs of orders that the plan leaves out: they were served, so they must be paid."""
        left = np.flatnonzero(choice < 0)
        return int(cost[left, self._award[left]].sum())


def _award(order: Mapping[str, Any]) -> Sequence[Any]:
    """The quote that delivered: the last attempt's that was not refused, else the award."""
    quotes = {row[0]: row for row in order["rounds"][-1][1]}
    done = [attempt for attempt in order["attempts"] if attempt["billed_nusd"]]
    found = quotes.get(done[-1]["quote_id"]) if done else None
    row: Sequence[Any] = found if found is not None else quotes[order["award"]]
    return row


def _limit_row(row: Mapping[str, Any]) -> LimitRow:
    models = None if row["models"] is None else frozenset(row["models"])
    return LimitRow(row["name"], row["provider"], RateKind(row["kind"]), row["amount"], row["per_ms"], models)


def _totals(orders: Sequence[Mapping[str, Any]], key: Any) -> dict[str, dict[str, Any]]:
    sums: dict[str, list[int]] = {}
    for order in orders:
        total = sums.setdefault(key(order), [0, 0])
        total[0] += 1
        total[1] += order["billed_nusd"]
    ranked = sorted(sums.items(), key=lambda item: -item[1][1])
    return {name: {"orders": count, "spent_usd": format_usd(nusd)} for name, (count, nusd) in ranked}


def _counts(names: Sequence[str]) -> dict[str, int]:
    return {name: names.count(name) for name in sorted(set(names))}
