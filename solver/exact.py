"""Small problems to proven optimality by SCIP, on the columns that the prices do not rule out.

With a plan of cost U and a bound L from prices, a column whose reduced cost exceeds the least of its request by
more than U - L is in no better plan (reduced-cost fixing), so the integer program has few columns left.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .core import integer, part
from .prices import cheapest
from .rows import NEVER, Floats, Ints, Rows
from .search import Search

__all__ = ["chosen", "columns_left", "prove"]

SURE_PAIRS = 1000  # beyond, it gets part of the time only
TOGETHER = 1e-9  # weights served that differ by less are the same


def prove(search: Search) -> None:
    """First the most that can be served, then the least cost of serving it; sets ``optimal`` or ``infeasible``."""
    rows = search.rows
    search.refresh()
    if search.surplus:
        i, j = _columns(search, -search.score[0] if search.found else np.inf)
        found = integer(part(rows, i, j, rows.room), search.worth[i], search.deadline.left, "", "scip")
        if found.infeasible and not search.found:
            search.infeasible = True
        elif found.x is not None:
            search.offer(chosen(rows, i, j, found.x))
            search.optimal = found.optimal
        else:
            search.optimal = found.infeasible
        return
    most = search.found and search.score[0] >= search.served_bound * (1 - TOGETHER)
    if not most:
        i, j = (at.astype(np.int64) for at in np.nonzero(rows.possible))
        given = part(rows, i, j, rows.room)
        given.cost[:] = 0.0
        first = integer(given, rows.weight[i], search.deadline.left * 0.6, "", "scip")
        if first.x is None:
            search.infeasible = first.infeasible and not search.found
            if not (first.infeasible and search.found):
                return
        else:
            search.offer(chosen(rows, i, j, first.x))
        most = first.optimal
    search.refresh()
    i, j = _columns(search, -search.score[1])
    weight = rows.weight[i]
    least = search.score[0] * (1 - TOGETHER)
    everybody = least >= float(rows.weight[rows.alive].sum()) * (1 - 2 * TOGETHER)
    served = None if everybody else (weight, least)
    given = part(rows, i, j, rows.room)
    if everybody and len(np.unique(i)) < int(rows.alive.sum()):  # somebody has no column left
        search.optimal = most
        return
    share = 1.0 if len(given.i) <= SURE_PAIRS else 0.4
    found = integer(given, 0.0, search.deadline.left * share, "", "scip", served, everybody)
    if found.x is not None:
        search.offer(chosen(rows, i, j, found.x))
    search.optimal = most and (found.optimal or found.infeasible)


def columns_left(search: Search) -> tuple[Ints, Ints]:
    """Pairs (i, j) that may be in a plan that serves as much and costs less."""
    search.refresh()
    return _columns(search, -search.score[1])


def _columns(search: Search, value: float) -> tuple[Ints, Ints]:
    """Pairs that may be in a plan better than ``value``; all of them where the prices prove nothing."""
    rows = search.rows
    if not np.isfinite(value) or not np.isfinite(search.bound):
        i, j = np.nonzero(rows.possible)
        return i.astype(np.int64), j.astype(np.int64)
    slack = value - search.bound
    slack += 1e-9 * abs(value) - 1.0  # a better plan is a whole nano-dollar better
    nu = np.full(rows.n, search.nu) * rows.weight if not search.surplus else search.worth
    least = cheapest(rows, search.lam)
    r = _reduced(rows, search.lam)
    keep = rows.possible & (r - np.minimum(least, nu)[:, None] <= slack)
    i, j = np.nonzero(keep)
    return i.astype(np.int64), j.astype(np.int64)


def _reduced(rows: Rows, lam: Floats) -> Floats:
    r = rows.reduced(lam, 0, rows.n, np.float64)
    return np.where(r < float(NEVER) / 2, r, np.inf)


def chosen(rows: Rows, i: Ints, j: Ints, x: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
    """The plan that serves the pairs (i[p], j[p]) with x[p]."""
    choice = np.full(rows.n, -1, np.int32)
    choice[i[x]] = j[x]
    return choice
