"""How many requests of a group can be served at all: implied rows that tell whole requests from fractions.

A tenant whose budget holds 17.6 of its requests at their cheapest serves at most 17. Relaxed, it serves 17.6, and
the missing 0.6 reads as a lost request. The row "weight served of the group <= the most that fits" holds for every plan
and closes that gap (a Chvatal-Gomory cut of the group's row; V. Chvatal 1973). Its price kappa is added to every
column of the group's requests, so no dense pass knows of it: given the other prices, it is what keeps out the next
after the cheapest F. The prices are sought without the dearest requests of such groups, which no plan serves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .problem import tolerance
from .rows import Family, Floats, Ints, Rows

__all__ = ["Counts", "count_rows", "counted", "paid"]

WHOLE = 1e-6  # added before the weight that fits is rounded down
EPSILON = float(np.finfo(np.float64).eps)


@dataclass(slots=True, eq=False)
class Counts:
    """Groups of one family that cannot be served whole.

    row: int64[n], the active row of each request's group, -1 = in none of them. most: float64[K], the largest weight
    served of each row's group, inf where that is all of it.
    """

    row: Ints
    most: Floats

    def taken(self, weight: Floats, least: Floats) -> npt.NDArray[np.bool_]:
        """bool[n]: who is not among the dearest per weight that a group must leave out."""
        i = np.flatnonzero(self.row >= 0)
        row, w = self.row[i], weight[i]
        order = np.lexsort((least[i] / w, row))
        row, w = row[order], w[order]
        total = np.append(0.0, np.cumsum(w))
        before = total[np.searchsorted(row, np.arange(len(self.most)))]
        kept = np.ones(len(weight), bool)
        kept[i[order]] = total[1:] - before[row] <= self.most[row]
        return kept

    def full(self, weight: Floats, choice: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
        """bool[n]: requests of groups of which as much is served as can be."""
        on = (self.row >= 0) & (choice >= 0)
        served = np.bincount(self.row[on], weight[on], minlength=len(self.most))
        return (self.row >= 0) & (served >= self.most)[self.row]

    def kappa(self, weight: Floats, least: Floats, nu: float) -> Floats:
        """float64[K]: the prices that prove most when a unit of weight left out costs nu."""
        kept = np.flatnonzero(self.taken(weight, least) & (self.row >= 0))
        last = np.zeros(len(self.most))
        np.maximum.at(last, self.row[kept], least[kept] / weight[kept])
        return np.where(np.isfinite(self.most), np.maximum(0.0, nu - last), 0.0)


def counted(counts: list[Counts], kappa: Floats, weight: Floats) -> Floats:
    """float64[n]: what kappa adds to every column of a request."""
    added = np.zeros(len(weight))
    for each in counts:
        added += np.where(each.row >= 0, kappa[each.row] * weight, 0.0)
    return added


def paid(counts: list[Counts], kappa: Floats) -> float:
    """kappa.F."""
    return float(sum(kappa[own] @ each.most[own] for each in counts for own in [np.isfinite(each.most)]))


def count_rows(rows: Rows) -> tuple[list[Counts], npt.NDArray[np.bool_]]:
    """The groups that cannot be served whole, by family, and bool[n]: all but the requests these leave out.

    Nothing is said where a weight is not a whole number.
    """
    found: list[Counts] = []
    kept = np.ones(rows.n, bool)
    if not rows.n or np.any(rows.weight != np.floor(rows.weight)):
        return found, kept
    for family in rows.families:
        if family.group is None or family.gives:
            continue
        row = np.append(family.slots, -1)[family.group]
        row = np.where(rows.option if family.inside is None else rows.option & family.inside, row, -1)
        i = np.flatnonzero(row >= 0)
        use = _cheapest_use(rows, family)
        fits = _most(rows, row[i], use[i], rows.weight[i])
        short = fits < np.bincount(row[i], rows.weight[i], minlength=rows.k)
        if short.any():
            each = Counts(np.where((row >= 0) & short[row], row, -1), np.where(short, fits, np.inf))
            found.append(each)
            kept &= each.taken(rows.weight, use)
    return found, kept


def _most(rows: Rows, row: Ints, use: Floats, weight: Floats) -> Floats:
    """float64[K]: the largest weight of a group that fits its cap, every request at its least use, rounded down.

    Requests are taken by least use per weight, the first that does not fit in part: no choice of whole requests
    weighs more.
    """
    order = np.lexsort((use / weight, row))
    row, use, weight = row[order], use[order], weight[order]
    reach = np.append(0.0, np.cumsum(use))
    # sums in another order differ: more room only makes the row weaker
    room = rows.caps + 2 * tolerance(rows.caps) + 2 * EPSILON * len(row) * reach[-1]
    left = room[row] - (reach[:-1] - reach[np.searchsorted(row, np.arange(rows.k))][row])
    part = np.clip(np.where(use > 0, left / np.where(use > 0, use, 1.0), 1.0), 0.0, 1.0)
    return np.asarray(np.floor(np.bincount(row, weight * part, minlength=rows.k) + WHOLE))


def _cheapest_use(rows: Rows, family: Family) -> Floats:
    """float64[n]: the least use over the provable columns, inf where there is none."""

    def work(lo: int, hi: int) -> Any:
        usage = family.usage
        if isinstance(usage, np.ndarray):
            usage = usage[lo:hi, None] if usage.ndim == 1 else usage[lo:hi]
        return np.where(rows.provable[lo:hi], usage * family.cover[0], np.inf).min(axis=1, initial=np.inf)

    return np.concatenate([np.zeros(0), *rows.passes.over(rows.n, rows.m, work)])
