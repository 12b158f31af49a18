"""Why each request is not served: which filter or limit, as codes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .problem import Reason
from .rows import Floats, Ints, Rows

__all__ = ["explain_unserved"]

BLOCK = 50_000


def explain_unserved(
    rows: Rows, choice: npt.NDArray[np.int32], lam: Floats, option: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """(reason, limit) per request. option: bool[n], has a pair that is allowed and fits alone.

    CAPACITY names the row with the largest price times usage on the request's best option; where all
    prices are zero, the row that has least left there.
    """
    reason = np.full(rows.n, Reason.SERVED, np.uint8)
    limit = np.full(rows.n, -1, np.int32)
    out = choice < 0
    reason[out & ~option] = Reason.NO_OPTION
    reason[out & option & ~rows.alive] = Reason.PRICED_OUT
    kept_out = np.flatnonzero(out & rows.alive)
    left = rows.caps - rows.load(choice)
    for lo in range(0, len(kept_out), BLOCK):
        i = kept_out[lo : lo + BLOCK]
        reason[i] = Reason.CAPACITY
        limit[i] = _dearest_row(rows, i, lam, left)
    return reason, limit


def _dearest_row(rows: Rows, i: Ints, lam: Floats, left: Floats) -> npt.NDArray[np.int32]:
    best = rows.reduced_at(i, lam).argmin(axis=1)
    p, k, a = rows.pairs(i, best)
    found = np.full(len(i), -1, np.int32)
    for measure in (a - left[k], lam[k] * a):  # the later one wins where it is positive
        order = np.lexsort((-k, measure, p))
        last = np.flatnonzero(np.diff(p[order], append=-1))
        use = order[last][measure[order[last]] > 0]
        found[p[use]] = rows.active[k[use]]
    return found
