"""Who leads at given prices, and which columns a request may choose among: options of a band."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .rows import NEVER, Floats, Ints, Rows

__all__ = ["Leads", "Options", "all_options", "leads", "options_within"]

WIDEST = 10  # columns per request
WIDTHS = (1, 2, 3, 4, 6, 8, 10, 14, 20, 30)  # requests with about as many columns share a block
PAIRS = 1 << 19

# (requests int64[r], columns int[w, r]) for every width w; column m = unserved, m + 1 = none
Options = list[tuple[Ints, npt.NDArray[Any]]]


@dataclass(slots=True, eq=False)
class Leads:
    """Per request: best column (m = unserved), its reduced cost, and by what share of it the second is dearer."""

    best: npt.NDArray[np.int32]
    least: npt.NDArray[np.float32]
    lead: npt.NDArray[np.float32]


def leads(rows: Rows, lam: Floats, worth: Floats, costs: bool = True, at: Ints | None = None) -> Leads:
    """The leads of the requests ``at`` (all of them with None) at prices lam."""
    n = rows.n if at is None else len(at)
    if rows.spread is not None and 2 * n > rows.n:
        parts = rows.spread.leads(lam, worth, costs)
        best, least, lead = (np.concatenate([part[k] for part in parts]) for k in range(3))
        return Leads(best, least, lead) if at is None else Leads(best[at], least[at], lead[at])
    best, least, lead = np.empty(n, np.int32), np.empty(n, np.float32), np.empty(n, np.float32)

    def work(lo: int, hi: int) -> None:
        here: Any = slice(lo, hi) if at is None else at[lo:hi]
        r = rows.reduced_at(here, lam, costs=costs)
        own = worth[here].astype(np.float32)
        j = r.argmin(axis=1)
        line = np.arange(hi - lo)
        first = r[line, j]
        r[line, j] = np.inf
        second = r.min(axis=1)
        out = first > own
        second = np.where(out, first, np.minimum(second, own))
        first = np.where(out, own, first)
        best[lo:hi] = np.where(out, rows.m, j)
        least[lo:hi] = first
        lead[lo:hi] = (second - first) / np.maximum(np.abs(first), 1e-9)

    list(rows.passes.over(n, rows.m, work))
    return Leads(best, least, lead)


def all_options(rows: Rows, i: Ints) -> Options:
    """Every possible column of the requests i, and unserved."""
    j = np.where(rows.possible[i].T, np.arange(rows.m)[:, None], rows.m + 1)
    return [(i, np.concatenate([j, np.full((1, len(i)), rows.m)]))] if len(i) else []


def options_within(
    rows: Rows,
    lam: Floats,
    worth: Floats,
    i: Ints,
    reach: float,
    base: npt.NDArray[np.int32] | None = None,
    costs: bool = True,
    widest: int = WIDEST,
) -> Options:
    """Columns with r <= (1 + reach) min r, at most ``widest``, the base column and unserved, grouped by how many.

    base: int32[n], a column every request keeps whatever its r; -1 and m = none.
    """
    step = max(1, PAIRS // rows.m)
    sizes = [w for w in WIDTHS if w < widest] + [widest]

    def work(lo: int) -> list[tuple[int, Ints, Any]]:
        at = i[lo : lo + step]
        r = rows.reduced_at(at, lam, costs=costs)
        least = np.minimum(r.min(axis=1), worth[at])
        near = r <= (least + np.abs(least) * reach * 1.0001 + 1e-9)[:, None]
        near &= r < NEVER / 2
        if base is not None:
            on = np.flatnonzero((base[at] >= 0) & (base[at] < rows.m))
            near[on, base[at[on]]] = True
            r[on, base[at[on]]] = -1.0
        count = np.clip(near.sum(axis=1), 1, widest)
        r = np.where(near, r, np.inf)
        parts = []
        for below, size in zip([0, *sizes], sizes, strict=False):
            mine = np.flatnonzero((count > below) & (count <= size))
            if not len(mine):
                continue
            part = r[mine]
            if size < rows.m:
                j = np.argpartition(part, size - 1, axis=1)[:, :size]
            else:
                j = np.broadcast_to(np.arange(rows.m), part.shape)
            j = np.where(np.isfinite(np.take_along_axis(part, j, axis=1)), j, rows.m + 1)
            parts.append((size, at[mine], np.concatenate([j.T, np.full((1, len(mine)), rows.m)])))
        return parts

    groups: dict[int, list[tuple[Ints, Any]]] = {}
    for parts in rows.passes.map(work, list(range(0, len(i), step))):
        for size, who, j in parts:
            groups.setdefault(size, []).append((who, j))
    return [
        (np.concatenate([g[0] for g in group]), np.concatenate([g[1] for g in group], axis=1))
        for _, group in sorted(groups.items())
    ]
