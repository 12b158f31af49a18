"""Generalised assignment: a problem in which every limit holds for one column, and no column has two.

Each column is then a knapsack of its own, which the ejection chains and the bundles of :mod:`solver.ejection` and
:mod:`solver.bundles` make use of. Columns without a limit, and staying unserved, need no knapsack: the cheapest of
them is one more column, *outside*, with room for all::

    min sum_ij c_ij x_ij     sum_j x_ij = 1     sum_i a_ij x_ij <= b_j     j = 0 .. m-1, outside = m
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .rows import Floats, Ints, Rows
from .search import Choice, Search

__all__ = ["Assignment", "Packing", "assignment"]

MOST_REQUESTS = 3_000  # chains compare every request with every other
Packing = npt.NDArray[np.int64]  # the column of every request, m = outside


@dataclass(slots=True, eq=False)
class Assignment:
    """who: the n requests it is about. columns: the problem's number of each of the m columns with a limit.

    cost: float64[n, m + 1], inf where not possible. use: float64[n, m + 1]. cap: float64[m + 1]. outside: int32[n],
    the problem's column that ``outside`` stands for, -1 = unserved (at its worth). price: float64[m], of the limits.
    """

    who: Ints
    columns: Ints
    cost: Floats
    use: Floats
    cap: Floats
    outside: Choice
    price: Floats

    @property
    def n(self) -> int:
        """Number of requests."""
        return len(self.who)

    @property
    def m(self) -> int:
        """Number of columns with a limit; also the number of ``outside``."""
        return len(self.columns)

    def reduced(self) -> Floats:
        """float64[n, m + 1]: cost and use at the prices of the limits."""
        return np.asarray(self.cost + self.use * np.append(self.price, 0.0))

    def packing(self, choice: npt.NDArray[np.integer[Any]]) -> Packing:
        """The packing of a plan of the problem; whoever is in a column without a limit is outside."""
        number = np.full(int(max(self.columns.max(), choice.max(initial=0))) + 2, self.m)
        number[self.columns] = np.arange(self.m)
        return np.asarray(number[choice[self.who]], dtype=np.int64)

    def choice(self, packing: Packing, n: int) -> Choice:
        """The plan of the problem's n requests for a packing."""
        choice = np.full(n, -1, np.int32)
        chosen = np.append(self.columns, -1).astype(np.int32)[packing]
        choice[self.who] = np.where(packing == self.m, self.outside, chosen)
        return choice


def assignment(search: Search) -> Assignment | None:
    """The problem of a search as generalised assignment at its last prices, None if it is no such problem."""
    rows = search.rows
    who = np.flatnonzero(rows.alive)
    if not (rows.k and 0 < len(who) <= MOST_REQUESTS):
        return None
    owner = _owners(rows)
    if owner is None:
        return None
    columns = np.flatnonzero(owner >= 0)
    free = np.flatnonzero(owner < 0)
    cost = np.where(rows.possible[who], rows.problem.cost[who], np.inf)
    best = cost[:, free].min(axis=1, initial=np.inf)
    outside = np.where(best < search.worth[who], free[cost[:, free].argmin(axis=1)] if len(free) else -1, -1)
    use = np.zeros((len(who), len(columns) + 1))
    for at, j in enumerate(columns):
        p, k, a = rows.pairs(who, np.full(len(who), j))
        use[p[k == owner[j]], at] = a[k == owner[j]]
    return Assignment(
        who,
        columns,
        np.hstack([cost[:, columns], np.minimum(best, search.worth[who])[:, None]]),
        use,
        np.append(rows.room[owner[columns]], np.inf),
        outside.astype(np.int32),
        search.steer[owner[columns]],
    )


def _owners(rows: Rows) -> Ints | None:
    """int64[m]: the one active row of every column, -1 = none; None where a row or a column has several."""
    owner = np.full(rows.m, -1, np.int64)
    for family in rows.families:
        on = np.flatnonzero(family.slots >= 0)
        if family.group is not None or family.inside is not None or family.gives:
            return None
        row, column = np.nonzero(family.cover[on])
        if np.any(np.bincount(row) > 1) or np.any(np.bincount(column) > 1) or np.any(owner[column] >= 0):
            return None
        owner[column] = family.slots[on[row]]
    return owner
