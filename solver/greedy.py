"""Fill in order of arrival: each request takes the cheapest column that still fits every row.

With zero prices this is the cheapest-first rule every plan is measured against; with prices it repairs an
assignment. Requests are handled in chunks: a chunk is accepted up to the first request that would break a
row, so the result is exactly that of the sequential rule. (Where a pair may give room back, as under a quality
floor, chunks of a large batch see that room one chunk later; up to 2,000 requests go one by one.)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .passes import Passes
from .problem import Problem
from .rows import NEVER, Floats, Ints, Rows, compile_rows

__all__ = ["cheapest_first", "fill", "fitting"]

SMALLEST, LARGEST = 32, 8192  # requests per chunk


def cheapest_first(problem: Problem) -> npt.NDArray[np.int32]:
    """int32[n]: each request in turn takes its cheapest column that still fits every row, -1 = none does."""
    rows = compile_rows(problem, Passes(1))
    choice = np.full(rows.n, -1, np.int32)
    fill(rows, choice, np.flatnonzero(rows.alive), rows.room)
    return choice


def fitting(rows: Rows, i: Ints, left: Floats) -> npt.NDArray[np.bool_]:
    """bool[len(i), m]: which possible pairs of the requests i fit in what is left of every row.

    A pair that uses nothing of a row, or gives some back, is never kept out by it.
    """
    fits = rows.possible[i]
    room = np.maximum(left, 0.0)
    for family in rows.families:
        usage = family.usage
        u: Any = 1.0
        if isinstance(usage, np.ndarray):
            u = usage[i, None] if usage.ndim == 1 else usage[i]
        ok: Any
        outside = None if family.inside is None else ~family.inside[i, None]
        if family.group is not None:
            most = np.append(np.where(family.slots >= 0, room[family.slots], np.inf), np.inf)[family.group[i]]
            ok = u * family.cover <= most[:, None]
        else:
            on = np.flatnonzero(family.slots >= 0)
            if not len(on):
                continue
            if isinstance(usage, np.ndarray):
                tight = np.where(family.cover[on] != 0, room[family.slots[on]][:, None], np.inf).min(axis=0)
                ok = u <= tight
            else:
                ok = np.asarray((family.cover[on] <= room[family.slots[on]][:, None]).all(axis=0))[None, :]
        fits &= ok if outside is None else ok | outside
    return fits


def fill(
    rows: Rows, choice: npt.NDArray[np.int32], order: Ints, left: Floats, lam: Floats | None = None
) -> Floats:
    """Serve the requests ``order`` one after the other into ``choice`` (changed in place); returns what is left.

    Each takes the fitting column of least r_ij (ties: the lowest number). left: float64[K], caps less load.
    """
    left = left.copy()
    at = 0
    one_by_one = len(order) <= 2000 and any(family.gives for family in rows.families)
    size = 1 if one_by_one else 256
    while at < len(order):
        i = order[at : at + size]
        fits = fitting(rows, i, left)
        price = rows.problem.cost[i].astype(np.float64) if lam is None else rows.reduced_at(i, lam)
        best = np.where(fits, price, NEVER * 2).argmin(axis=1)
        serve = np.flatnonzero(fits[np.arange(len(i)), best])
        p, k, a = rows.pairs(i[serve], best[serve])
        stop = _first_break(p, k, a, left, len(serve))
        taken = serve[:stop]
        choice[i[taken]] = best[taken]
        inside = p < stop
        left -= np.bincount(k[inside], weights=a[inside], minlength=rows.k)
        done = len(i) if stop == len(serve) else int(serve[stop])
        at += done
        if not one_by_one:
            size = min(LARGEST, size * 2) if done == len(i) else max(SMALLEST, min(LARGEST, 2 * done))
    return left


def _first_break(p: Ints, k: Ints, a: Floats, left: Floats, count: int) -> int:
    """How many of the pairs 0..count-1, in order, fit before one uses more than is left of a row."""
    by = np.lexsort((p, k))
    kk, aa, pp = k[by], a[by], p[by]
    total = np.cumsum(aa)
    begins = np.flatnonzero(np.diff(kk, prepend=-1))
    if not len(begins):
        return count
    before = np.repeat(total[begins] - aa[begins], np.diff(np.append(begins, len(kk))))
    breaks = (total - before > left[kk]) & (aa > 0)
    return int(pp[breaks].min()) if breaks.any() else count
