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
from .plan_fold import fold

__all__ = ["Baseline", "baselines"]

Bools = npt.NDArray[np.bool_]


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
    standard = np.array([offer.tier == "standard" for offer in book.offers])
    best = _column_of_best(book, standard)
    only_best = book.able & _only(book, [best])
    named = np.where(book.named.all(axis=1, keepdims=True), only_best, book.able & book.named & standard)
    return {
        "cheapest_feasible": _greedy(book, problem, book.allowed),
        "always_best": _greedy(book, problem, only_best),
        "two_tier": _two_tier(book, problem, standard, best),
        "as_requested": _greedy(book, problem, named),
    }


def _column_of_best(book: PlanBook, standard: Bools) -> int:
    """The standard offer with the best mean quality that can serve nearly whatever any offer can; -1 = none."""
    if not len(book) or not standard.any():
        return -1
    reach = book.able.sum(axis=0)
    usable = standard & (reach >= 0.95 * reach.max())
    quality = np.where(usable, book.quality.mean(axis=0), -1.0)
    return int(quality.argmax())


def _only(book: PlanBook, columns: list[int]) -> Bools:
    mask = np.zeros(len(book.offers), dtype=bool)
    mask[[j for j in columns if j >= 0]] = True
    return mask


def _greedy(book: PlanBook, problem: BatchBook, allowed: Bools) -> Baseline:
    choice = _cheapest_first(problem, allowed)
    served = np.flatnonzero(choice >= 0)
    picked = choice[served]
    quality = book.quality[served, picked]
    return Baseline(
        served=len(served),
        cost_nusd=int(book.cost_nusd[served, picked].sum()),
        quality=round(float(quality.mean()), 4) if len(served) else None,
    )


def _two_tier(book: PlanBook, problem: BatchBook, standard: Bools, best: int) -> Baseline:
    """Cheap first; with the probability that its answer fails, the best one as well, where there is room for it."""
    if best < 0:
        return Baseline(0, 0, None)
    cheap = _column_of_cheapest(book, standard)
    first = _cheapest_first(problem, book.able & _only(book, [cheap]))
    both = first >= 0
    fails = 1.0 - book.quality[:, cheap].astype(np.float64)
    again = np.where(both, fails * book.cost_nusd[:, best], 0.0)
    cost = np.where(both, book.cost_nusd[:, cheap] + again, 0.0)
    quality = 1.0 - fails * (1.0 - book.quality[:, best].astype(np.float64))
    served = int(both.sum())
    return Baseline(
        served, round(float(cost.sum())), round(float(quality[both].mean()), 4) if served else None
    )


def _column_of_cheapest(book: PlanBook, standard: Bools) -> int:
    reach = book.able.sum(axis=0)
    usable = standard & (reach >= 0.95 * reach.max())
    cost = np.where(usable, book.cost_nusd.sum(axis=0, dtype=np.float64), np.inf)
    return int(cost.argmin())


def _cheapest_first(problem: BatchBook, allowed: Bools) -> npt.NDArray[np.int32]:
    from solver.greedy import cheapest_first

    plain = replace(problem, allowed=allowed, total_budget_nusd=None, min_mean_quality=None)
    folded = fold(plain)
    return folded.unfold(cheapest_first(problem_of(folded.book)[0]))
