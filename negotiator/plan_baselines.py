"""What others would pay for the same batch under the same limits: simple ways of routing, played on the same book.

Each is greedy in the order of the lines and sees exactly what is left of every limit, which flatters it: a real
gateway finds out by being refused.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .clearing_batch import BatchBook, problem_of
from .money import format_usd
from .plan_book import PlanBook

__all__ = ["Baseline", "baselines"]

Bools = npt.NDArray[np.bool_]
Money = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Baseline:
    """How many a way of routing serves, at what expected cost and mean quality; None = it cannot serve any."""

    served: int
    cost_nusd: int
    quality: float | None

    def out(self) -> dict[str, Any]:
        """As in the plan's summary."""
        return {"served": self.served, "cost_usd": format_usd(self.cost_nusd), "quality": self.quality}


def baselines(book: PlanBook, problem: BatchBook) -> dict[str, Baseline]:
    """The contract's four.

    cheapest_feasible: terms kept, cheapest offer that fits first. always_best: everything to the one model with the
    best mean quality, terms ignored. two_tier: a cheap model first, what it fails again on the best (expected cost
    and quality). as_requested: what the body names; where it leaves the model open, the best.
    """
    best = _model_of_best(book)
    only_best = book.able & best
    named = np.where(book.named.all(axis=1, keepdims=True), only_best, book.able & book.named)
    return {
        "cheapest_feasible": _greedy(book, problem, book.allowed, book.cost_nusd),
        "always_best": _greedy(book, problem, only_best, book.plain_nusd),
        "two_tier": _two_tier(book, problem, best),
        "as_requested": _greedy(book, problem, named, book.plain_nusd),
    }


def _model_of_best(book: PlanBook) -> Bools:
    """The columns of the model with the best mean quality that can serve nearly whatever any can."""
    usable = _usable(book)
    if not usable.any():
        return usable
    return _with_model_of(book, int(np.where(usable, book.quality.mean(axis=0), -1.0).argmax()))


def _usable(book: PlanBook) -> Bools:
    if not len(book):
        return np.zeros(len(book.sold.columns), dtype=bool)
    reach = book.able.sum(axis=0)
    return np.asarray((reach >= 0.95 * reach.max()) & (reach > 0))


def _with_model_of(book: PlanBook, column: int) -> Bools:
    """The columns, one per time slot, of the standard offer in this one."""
    sold = book.sold
    keys = [sold.offers[c.standard].key if c.standard >= 0 else None for c in sold.columns]
    return np.array([key is not None and key == keys[column] for key in keys])


def _greedy(book: PlanBook, problem: BatchBook, allowed: Bools, cost: Money) -> Baseline:
    choice = _cheapest_first(problem, allowed, cost)
    served = np.flatnonzero(choice >= 0)
    picked = choice[served]
    quality = book.quality[served, picked]
    return Baseline(
        served=len(served),
        cost_nusd=int(cost[served, picked].sum(dtype=np.int64)),
        quality=round(float(quality.mean(dtype=np.float64)), 4) if len(served) else None,
    )


def _two_tier(book: PlanBook, problem: BatchBook, best: Bools) -> Baseline:
    """Cheap first; with the probability that its answer fails, the best one as well, where there is room for it."""
    if not best.any():
        return Baseline(0, 0, None)
    usable = _usable(book)
    total = np.where(usable, book.plain_nusd.sum(axis=0, dtype=np.float64), np.inf)
    cheap, dear = int(total.argmin()), int(best.argmax())
    allowed = book.able & _with_model_of(book, cheap)
    both = _cheapest_first(problem, allowed, book.plain_nusd) >= 0
    fails = 1.0 - book.quality[:, cheap].astype(np.float64)
    again = np.where(both, fails * book.plain_nusd[:, dear], 0.0)
    cost = np.where(both, book.plain_nusd[:, cheap] + again, 0.0)
    quality = 1.0 - fails * (1.0 - book.quality[:, dear].astype(np.float64))
    served = int(both.sum())
    return Baseline(
        served, round(float(cost.sum())), round(float(quality[both].mean()), 4) if served else None
    )


def _cheapest_first(problem: BatchBook, allowed: Bools, cost: Money) -> npt.NDArray[np.int32]:
    from solver.greedy import cheapest_first

    plain = replace(problem, allowed=allowed, cost=cost, total_budget_nusd=None, min_mean_quality=None)
    return cheapest_first(problem_of(plain)[0])
