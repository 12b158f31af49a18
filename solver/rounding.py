"""From prices to an assignment: fill by reduced cost, then re-optimise small neighbourhoods exactly.

A neighbourhood frees some requests, keeps a few columns of each, and solves what is left by CP-SAT under a
deterministic limit; its answer is kept only if it is better and every row was checked again. (Large
neighbourhood search: P. Shaw 1998; the choice by reduced cost follows the core concept of E. Balas, E. Zemel 1980.)
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .cascade import leads
from .core import integer, part
from .greedy import fill
from .rows import NEVER, Floats, Ints, Rows
from .search import Search

__all__ = ["Choice", "Near", "candidates", "improve", "reoptimise"]

Choice = npt.NDArray[np.int32]
STALE = 60  # neighbourhoods without a better plan after which the search ends


def improve(
    search: Search,
    base: npt.NDArray[np.int32],
    loose: npt.NDArray[np.bool_],
    reserve: float,
    stale_most: int = STALE,
) -> None:
    """Makes a plan of the relaxed columns ``base`` and re-optimises neighbourhoods until time or gap.

    ``loose`` columns are fractions: they are chosen anew, first by reduced cost, then exactly with near ties.
    reserve: seconds to leave on the clock.
    """
    rows = search.rows
    near = Near(search)
    if not len(near.order):
        return
    start = np.where((base == rows.m) | loose, -1, base).astype(np.int32)
    _offer_repaired(search, start, near)
    free = near.order[start[near.order] < 0]
    rng = np.random.default_rng(search.seed)
    effort, stale, size = 0.5, 0, 120
    first = np.union1d(free[:200], near.order[:80])
    i, j = candidates(rows, search.lam, first, 6, start)
    left = search.deadline.left - reserve
    search.offer(reoptimise(rows, start, i, j, search.worth, left * 0.5, effort))
    while search.found and not search.done and stale < stale_most:
        left = search.deadline.left - reserve
        if left < 0.02:
            break
        chosen = near.draw(rng, search, size)
        i, j = candidates(rows, search.lam, chosen, 6, search.choice)
        better = reoptimise(rows, search.choice, i, j, search.worth, left, 0.25)
        stale = 0 if search.offer(better) else stale + 1


class Near:
    """How far each served request is from its best reduced cost, and how close its second best is."""

    def __init__(self, search: Search) -> None:
        self.rows = search.rows
        given = leads(search.rows, search.lam, search.worth)
        regret = given.lead.astype(np.float64) * np.abs(given.least)
        alive = np.flatnonzero(search.rows.alive)
        self.order = alive[np.argsort(regret[alive], kind="stable")]
        self.least, self.best, self.regret = given.least, given.best, regret
        # requests whose second best costs this much more matter as much as one chosen so much above its best
        first = regret[self.order[: max(200, 4 * search.rows.k)]]
        self.unit = max(float(np.median(first)), 1e-9) if len(first) else 1.0

    def draw(self, rng: np.random.Generator, search: Search, size: int) -> Ints:
        """Requests of the next neighbourhood: some unserved, those off their best column, near ties; at random."""
        pool = self.order[: min(len(self.order), max(2000, 20 * size))]
        chance = self.unit / (self.unit + self.regret[pool])
        off = np.flatnonzero(self.rows.alive & (search.choice != self.best) & (search.choice >= 0))
        unserved = np.flatnonzero(self.rows.alive & (search.choice < 0))
        picked = [rng.choice(pool, min(len(pool), size // 2), replace=False, p=chance / chance.sum())]
        if len(off):
            picked.append(rng.choice(off, min(len(off), size // 2), replace=False))
        if len(unserved) and not search.surplus:
            picked.append(rng.choice(unserved, min(len(unserved), size // 4), replace=False))
        return np.unique(np.concatenate(picked))


def _offer_repaired(search: Search, start: Choice, near: Near) -> None:
    """The settled columns, then everybody else in turn at the least reduced cost that fits."""
    rows = search.rows
    left = rows.room - rows.load(start)
    free = near.order[start[near.order] < 0]
    repaired = start.copy()
    if np.all(left >= 0):
        free = free[np.argsort(near.least[free], kind="stable")]
        fill(rows, repaired, free, left, search.lam)
    else:
        repaired[:] = -1
        fill(
            rows, repaired, np.concatenate([near.order[start[near.order] >= 0], free]), rows.room, search.lam
        )
    search.offer(repaired)


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
