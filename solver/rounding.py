"""From prices to an assignment: fill by reduced cost, then re-optimise small neighbourhoods exactly.

A neighbourhood frees some requests, keeps a few columns of each, and solves what is left by CP-SAT under a
deterministic limit; its answer is kept only if it is better and every row was checked again. (Large
neighbourhood search: P. Shaw 1998; the choice by reduced cost follows the core concept of E. Balas, E. Zemel 1980.)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from .core import integer, part
from .rows import NEVER, Floats, Ints, Rows

__all__ = ["Score", "candidates", "margins", "reoptimise"]

Choice = npt.NDArray[np.int32]
Score = Callable[[Choice], tuple[float, float]]  # larger is better, compared as a tuple


def candidates(
    rows: Rows, lam: Floats, i: Ints, width: int, current: Choice | None = None
) -> tuple[Ints, Ints]:
    """Pairs (i, j): the ``width`` columns of least reduced cost of each request, and its current one."""
    r = rows.reduced_at(i, lam)
    w = min(width, rows.m)
    best = (
        np.argpartition(r, w - 1, axis=1)[:, :w]
        if w < rows.m
        else np.broadcast_to(np.arange(rows.m), r.shape)
    )
    keep = np.zeros(r.shape, bool)
    np.put_along_axis(keep, best, True, axis=1)
    keep &= r < NEVER / 2
    if current is not None:
        on = np.flatnonzero(current[i] >= 0)
        keep[on, current[i[on]]] = True
    at, j = np.nonzero(keep)
    return i[at], j


def margins(rows: Rows, lam: Floats, worth: Floats) -> tuple[npt.NDArray[np.int32], Floats]:
    """(argmin column or -1 where serving is not worth it, how much worse the second best is), per request."""

    def work(lo: int, hi: int) -> tuple[npt.NDArray[np.int32], Floats]:
        r = np.concatenate([rows.reduced(lam, lo, hi), worth[lo:hi, None].astype(np.float32)], axis=1)
        best = r.argmin(axis=1)
        two = np.partition(r, 1, axis=1)[:, :2]
        return np.where(best == rows.m, -1, best).astype(np.int32), (two[:, 1] - two[:, 0]).astype(np.float64)

    parts = list(rows.passes.over(rows.n, rows.m, work))
    if not parts:
        return np.zeros(0, np.int32), np.zeros(0)
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def reoptimise(
    rows: Rows, choice: Choice, i: Ints, j: Ints, worth: Floats, seconds: float, effort: float
) -> Choice | None:
    """Best columns (i[p], j[p]) for the requests in i, the others fixed; None if none was found that holds.

    worth: float64[n], V of each request. effort: CP-SAT's deterministic seconds.
    """
    free = np.unique(i)
    fixed = choice.copy()
    fixed[free] = -1
    given = part(rows, i, j, rows.room - rows.load(fixed))
    found = integer(
        given,
        worth[i],
        seconds,
        f"num_workers:1 random_seed:0 max_deterministic_time:{effort}",
        hint=choice[i] == j,
    )
    if found.x is None:
        return None
    fixed[i[found.x]] = j[found.x]
    return fixed if rows.feasible(fixed) else None
