"""What the orders of a log would have cost elsewhere: four simple ways of routing, played on the quotes of the log.

Each serves the orders as they came, sees exactly what is left of every limit, and pays for answers as long as they
turned out. That flatters it: a real gateway finds out by being refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .money import format_usd
from .report import LoggedMarket
from .report_book import LogBook

__all__ = ["Way", "ways"]

Bools = npt.NDArray[np.bool_]
MOST: float = 0.95
"""A model is the best, or the cheapest, only if it can serve nearly as many orders as any."""


@dataclass(frozen=True, slots=True)
class Way:
    """How many orders a way of routing serves, for how much, at what mean estimated quality; None = it serves none.

    both: orders that it and we served. theirs_nusd, ours_nusd: what those cost this way, and what they cost us.
    """

    served: int
    cost_nusd: int
    quality: float | None
    both: int
    theirs_nusd: int
    ours_nusd: int

    def out(self) -> dict[str, Any]:
        """As plain values; saved: on the orders that both served, in dollars and as a share of what this way costs."""
        saved_nusd = self.theirs_nusd - self.ours_nusd
        return {
            "served": self.served,
            "cost_usd": format_usd(self.cost_nusd),
            "quality": self.quality,
            "served_by_both": self.both,
            "saved_usd": format_usd(saved_nusd) if self.both else None,
            "saved_share": round(saved_nusd / self.theirs_nusd, 4) if self.theirs_nusd else None,
        }


def ways(market: LoggedMarket) -> dict[str, Way]:
    """``negotiator`` as it was, then the four.

    cheapest_first: terms kept, the cheapest offer with room. always_best: everything to the one model with the best mean
    quality, other terms ignored. as_requested: the model the body names; where it leaves that open, the best.
    two_tier: the cheapest model first, and what it fails again on the best (expected cost and quality).
    An order that names a model was quoted that model alone: always_best and two_tier cannot serve it.
    """
    orders = [order for order in market.orders if len(order.quoted.offer)]
    book = LogBook(market, orders)
    rows = np.arange(len(orders))
    found = {"negotiator": _way(book, book.award >= 0, book.billed, book.quality[rows, book.award])}
    if not orders:
        return found
    standard = book.quoted & np.array([tier == "standard" for _, _, tier in book.offers])
    open_ = np.array([order.named is None for order in orders])
    best = _column(standard, open_, -book.quality, standard)
    cheap = _column(standard, open_, book.expected.astype(np.float64), standard)
    only_best = _only(standard, open_, best)
    named = standard & ~open_[:, None]
    return found | {
        "cheapest_first": _played(book, book.eligible),
        "always_best": _played(book, only_best),
        "as_requested": _played(book, only_best | named),
        "two_tier": _two_tier(book, _only(standard, open_, cheap), best),
    }


def _column(standard: Bools, open_: Bools, cost: npt.NDArray[np.float64], quoted: Bools) -> int:
    """The standard offer of least mean cost over the orders that leave the model open; -1 = there is none."""
    reach = standard[open_].sum(axis=0)
    if not reach.size or not reach.max(initial=0):
        return -1
    usable = reach >= MOST * reach.max()
    total = np.where(quoted[open_], cost[open_], 0.0).sum(axis=0)
    return int(np.where(usable, total / np.maximum(reach, 1), np.inf).argmin())


def _only(standard: Bools, open_: Bools, column: int) -> Bools:
    """Pairs of that offer, for orders that leave the model open."""
    mask = np.zeros_like(standard)
    if column >= 0:
        mask[open_, column] = standard[open_, column]
    return mask


def _choice(book: LogBook, allowed: Bools) -> npt.NDArray[np.int32]:
    from solver import Problem
    from solver.greedy import cheapest_first

    return cheapest_first(Problem(cost=book.expected, allowed=allowed, limits=book.limits()))


def _way(book: LogBook, served: Bools, cost: npt.NDArray[Any], quality: npt.NDArray[np.float64]) -> Way:
    both = served & (book.award >= 0)
    return Way(
        served=int(served.sum()),
        cost_nusd=round(float(cost[served].sum())),
        quality=round(float(quality[served].mean()), 4) if served.any() else None,
        both=int(both.sum()),
        theirs_nusd=round(float(cost[both].sum())),
        ours_nusd=int(book.billed[both].sum()),
    )


def _played(book: LogBook, allowed: Bools) -> Way:
    choice, rows = _choice(book, allowed), np.arange(len(book.orders))
    return _way(book, choice >= 0, book.realised[rows, choice], book.quality[rows, choice])


def _two_tier(book: LogBook, cheap: Bools, best: int) -> Way:
    """Cheap first; with the probability that its answer fails, the best one as well."""
    choice, rows = _choice(book, cheap), np.arange(len(book.orders))
    fails = 1.0 - book.quality[rows, choice]
    again = np.where(book.quoted[:, best] & (choice != best), fails, 0.0)
    cost = book.realised[rows, choice] + again * book.realised[:, best]
    quality = 1.0 - fails * np.where(again > 0, 1.0 - book.quality[:, best], 1.0)
    return _way(book, choice >= 0, cost, quality)
