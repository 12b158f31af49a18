"""From prices to an assignment: fill by reduced cost, then re-optimise small neighbourhoods exactly.

A neighbourhood frees some requests, keeps a few columns of each, and solves what is left by CP-SAT under a
deterministic limit; its answer is kept only if it is better and every row was checked again. (Large
neighbourhood search: P. Shaw 1998; the choice by reduced cost follows the core concept of E. Balas, E. Zemel 1980.)
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .core import integer, part
from .greedy import fill
from .options import leads
from .rows import NEVER, Floats, Ints, Rows
from .search import Search

__all__ = ["Choice", "Near", "candidates", "improve", "reoptimise"]

Choice = npt.NDArray[np.int32]
FEW = 450  # requests up to which the first integer program has them all
SMALLEST, LARGEST = 16, 400  # requests of a neighbourhood: it grows while it is solved to the end
STALE = 150  # neighbourhoods without a better plan after which the search ends


def improve(
    search: Search,
    base: npt.NDArray[np.int32],
    loose: npt.NDArray[np.bool_],
    reserve: float,
    most: int = STALE,
) -> None:
    """Makes a plan of the relaxed columns ``base`` and re-optimises neighbourhoods until time or gap.

    ``loose`` columns are fractions: they are chosen anew, first by reduced cost, then exactly with near ties.
    reserve: seconds to leave on the clock. most: neighbourhoods without a better plan after which it ends.
    """
    rows = search.rows
    near = Near(search)
    if not len(near.order):
        return
    start = np.where((base == rows.m) | loose, -1, base).astype(np.int32)
    _offer_repaired(search, start, near)
    free = near.order[start[near.order] < 0]
    if search.done:
        return
    few = len(near.order) <= FEW
    width = len(near.order) if few else 100
    while True:
        first = np.union1d(free[:300], near.order[:width])
        i, j = candidates(rows, search.steer, first, 5 if few else 6, start)
        left = search.deadline.left - reserve
        effort = 2.0 if (few and most == STALE) or not search.found else 0.5
        search.offer(reoptimise(rows, start, i, j, search.worth, left * 0.4, effort)[0])
        if search.found or width >= len(near.order) or left < 0.05:
            break
        width *= 4  # rows that ask for something (a floor, a commitment) need more hands
    rng = np.random.default_rng(search.seed)
    stale, size, turn = 0, 50.0, 0
    while search.found and not search.done and stale < most:
        left = search.deadline.left - reserve
        if left < 0.02:
            break
        chosen = near.draw(rng, search, int(size), turn % 3)
        turn += 1
        answers = list(rows.passes.map(lambda who: _neighbourhood(search, who, left), chosen))  # noqa: B023
        better = False
        for who, (choice, _) in zip(chosen, answers, strict=True):
            if choice is not None:
                both = search.choice.copy()
                both[who] = choice[who]
                better = search.offer(both) or better
        solved = all(proven for _, proven in answers)
        size = min(LARGEST, size * 1.1) if solved else max(SMALLEST, size * 0.85)
        stale = 0 if better else stale + 1


def _neighbourhood(search: Search, who: Ints, seconds: float) -> tuple[Choice | None, bool]:
    everybody = not search.surplus and bool(np.all(search.choice[who] >= 0))
    i, j = candidates(search.rows, search.steer, who, 6, search.choice)
    return reoptimise(search.rows, search.choice, i, j, search.worth, seconds, 0.25, everybody)


class Near:
    """How far each served request is from its best reduced cost, and how close its second best is."""

    def __init__(self, search: Search) -> None:
        self.rows = search.rows
        given = leads(search.rows, search.steer, search.worth)
        regret = given.lead.astype(np.float64) * np.abs(given.least)
        alive = np.flatnonzero(search.rows.alive)
        self.order = alive[np.argsort(regret[alive], kind="stable")]
        self.least, self.best, self.regret = given.least, given.best, regret
        # requests whose second best costs this much more matter as much as one chosen so much above its best
        first = regret[self.order[: max(200, 4 * search.rows.k)]]
        self.unit = max(float(np.median(first)), 1e-9) if len(first) else 1.0

    def draw(self, rng: np.random.Generator, search: Search, size: int, kind: int) -> list[Ints]:
        """Two disjoint neighbourhoods of up to ``size`` requests, solved side by side.

        Some are unserved, some off their best column; the rest are near ties, or (every third time) sit on the
        columns one of those would like.
        """
        rows, choice = self.rows, search.choice
        pool = self.order[: min(len(self.order), max(2000, 20 * size))]
        chance = self.unit / (self.unit + self.regret[pool])
        off = np.flatnonzero(rows.alive & (choice != self.best) & (choice >= 0))
        unserved = np.flatnonzero(rows.alive & (choice < 0)) if not search.surplus else off[:0]
        picked = [rng.choice(group, min(len(group), size // 2), replace=False) for group in (unserved, off)]
        if kind == 2 and len(picked[0]) + len(picked[1]):
            seeds = np.concatenate(picked)[:4]
            wish = np.argsort(rows.reduced_at(seeds, search.steer), axis=1)[:, :2].ravel()
            pool = self.order[np.isin(choice[self.order], np.append(wish, choice[seeds]))][: 6 * size]
        elif kind == 1 and len(picked[0]) + len(picked[1]):
            pool = self._beside(rng, search, np.concatenate(picked)[0])[: 4 * size]
        if kind:
            chance = self.unit / (self.unit + self.regret[pool])
        if len(pool):
            picked.append(rng.choice(pool, min(len(pool), 2 * size), replace=False, p=chance / chance.sum()))
        everyone = np.concatenate(picked)
        everyone = everyone[np.sort(np.unique(everyone, return_index=True)[1])][: 2 * size]
        return [np.sort(everyone[part::2]) for part in (0, 1) if len(everyone) > part]

    def _beside(self, rng: np.random.Generator, search: Search, seed: int) -> Ints:
        """Who uses the row that charges the seed most on its best column, the nearest ties first."""
        rows, choice = self.rows, search.choice
        i = np.array([seed])
        _, k, a = rows.pairs(i, rows.reduced_at(i, search.steer).argmin(axis=1))
        if not len(k):
            return self.order
        row = k[np.argmax(search.steer[k] * a * rng.uniform(0.3, 1.0, len(k)))]
        served = self.order[: max(20_000, rows.n // 50)]
        served = served[choice[served] >= 0]
        p, k, _ = rows.pairs(served, choice[served].astype(np.int64))
        return np.asarray(served[p[k == row]])


def _offer_repaired(search: Search, start: Choice, near: Near) -> None:
    """The settled columns, then everybody else in turn at the least reduced cost that fits."""
    rows = search.rows
    left = rows.room - rows.load(start)
    free = near.order[start[near.order] < 0]
    repaired = start.copy()
    if np.all(left >= 0):
        free = free[np.argsort(near.least[free], kind="stable")]
        fill(rows, repaired, free, left, search.steer)
    else:
        repaired[:] = -1
        fill(
            rows,
            repaired,
            np.concatenate([near.order[start[near.order] >= 0], free]),
            rows.room,
            search.steer,
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
    rows: Rows,
    choice: Choice,
    i: Ints,
    j: Ints,
    worth: Floats,
    seconds: float,
    effort: float,
    everybody: bool = False,
) -> tuple[Choice | None, bool]:
    """Best columns (i[p], j[p]) for the requests in i, the others fixed, and whether they are proven best.

    None if none was found that holds.
    worth: float64[n], V of each request; everybody: all of them must be served. effort: CP-SAT's deterministic seconds.
    """
    free = np.unique(i)
    fixed = choice.copy()
    fixed[free] = -1
    given = part(rows, i, j, rows.room - rows.load(fixed))
    found = integer(
        given,
        0.0 if everybody else worth[i],
        seconds,
        f"num_workers:1 random_seed:0 max_deterministic_time:{effort}",
        everybody=everybody,
        hint=choice[i] == j,
    )
    if found.x is None:
        return None, False
    fixed[i[found.x]] = j[found.x]
    return (fixed if rows.feasible(fixed) else None), found.optimal
