"""From prices to an assignment: fill by reduced cost, then re-optimise small neighbourhoods exactly.

A neighbourhood frees some requests, keeps a few columns of each, and solves what is left by CP-SAT under a
deterministic limit; its answer is kept only if it is better and every row was checked again. (Large
neighbourhood search: P. Shaw 1998; the choice by reduced cost follows the core concept of E. Balas, E. Zemel 1980.)
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .core import integer, part
from .defects import Defects
from .greedy import fill
from .rows import NEVER, Floats, Ints, Rows
from .search import Choice, Search

__all__ = ["candidates", "improve", "reoptimise"]

FEW = 450  # requests up to which the first integer program has them all
SMALLEST, LARGEST, FIRST_SIZE = (
    12,
    400,
    24.0,
)  # requests of a neighbourhood: it grows while it is solved to the end
PARALLEL = 2  # neighbourhoods at a time
WIDTH, EFFORT = 5, 0.15  # columns of each of its requests; deterministic seconds
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
    defects = Defects(search)
    if not len(defects.order):
        return
    start = np.where((base == search.rows.m) | loose, -1, base).astype(np.int32)
    _offer_repaired(search, start, defects)
    if not search.done:
        _together(search, start, defects, reserve, most)
    if search.found:
        _mend(search, defects, reserve, most)


def _together(search: Search, start: Choice, defects: Defects, reserve: float, most: int) -> None:
    """All fractions and some near ties in one integer program; more of these until a plan is found."""
    rows, order = search.rows, defects.order
    free = order[(start[order] < 0) & search.sought[order]]
    few = len(order) <= FEW
    if search.found and not few:
        return
    width = len(order) if few else 100
    left = rows.room - rows.load(start)
    while True:
        first = np.union1d(free[:300], order[:width])
        i, j = candidates(rows, search.steer, first, 5 if few else 6, start)
        seconds = (search.deadline.left - reserve) * 0.4
        effort = 2.0 if (few and most == STALE) or not search.found else (0.1 if few else 0.5)
        found, _ = reoptimise(rows, start, i, j, search.worth, left, seconds, effort)
        if found is not None:
            plan = start.copy()
            plan[first] = found
            search.offer(plan)
        if search.found or width >= len(order) or search.deadline.left - reserve < 0.05:
            return
        width *= 4  # rows that ask for something (a floor, a commitment) need more hands


def _mend(search: Search, defects: Defects, reserve: float, most: int) -> None:
    """Re-optimises neighbourhoods, one per thread at a time, which grow while they are solved to the end."""
    rows = search.rows
    rng = np.random.default_rng(search.seed)
    room = rows.room - rows.load(search.choice)
    stale, size = 0, FIRST_SIZE
    while not search.done and stale < most:
        left = search.deadline.left - reserve
        if left < 0.02:
            break
        chosen = defects.drawn(rng, room, int(size), PARALLEL)
        answers = list(rows.passes.map(lambda who: _neighbourhood(search, who, room, left), chosen))  # noqa: B023
        better = False
        for who, (columns, _) in zip(chosen, answers, strict=True):
            before = search.choice[who]
            if columns is not None and search.change(who, columns):
                room += _use(rows, who, before) - _use(rows, who, columns)
                better = True
        solved = all(proven for _, proven in answers)
        size = min(LARGEST, size * 1.1) if solved else max(SMALLEST, size * 0.85)
        stale = 0 if better else stale + 1


def _neighbourhood(search: Search, who: Ints, room: Floats, seconds: float) -> tuple[Choice | None, bool]:
    everybody = not search.surplus and bool(np.all(search.choice[who] >= 0))
    i, j = candidates(search.rows, search.steer, who, WIDTH, search.choice)
    return reoptimise(search.rows, search.choice, i, j, search.worth, room, seconds, EFFORT, everybody)


def _offer_repaired(search: Search, start: Choice, near: Defects) -> None:
    """The settled columns, then everybody else in turn at the least reduced cost that fits."""
    rows = search.rows
    left = rows.room - rows.load(start)
    free = near.order[start[near.order] < 0]
    repaired = start.copy()
    if np.all(left >= 0):
        for first in (near.least[free], -near.regret[free]):
            repaired = start.copy()
            fill(rows, repaired, free[np.lexsort((first, ~search.sought[free]))], left, search.steer)
            search.offer(repaired)
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
    left: Floats,
    seconds: float,
    effort: float,
    everybody: bool = False,
) -> tuple[Choice | None, bool]:
    """(best columns among (i[p], j[p]) of the requests in i, ascending; whether they are proven best).

    None if none was found that holds. The others stay as they are. left: float64[K], room less the load of ``choice``.
    worth: float64[n], V of each request; everybody: all of them must be served. effort: CP-SAT's deterministic seconds.
    """
    free, at = np.unique(i, return_inverse=True)
    room = left + rows.load(choice, free)
    found = integer(
        part(rows, i, j, room),
        0.0 if everybody else worth[i],
        seconds,
        f"num_workers:1 random_seed:0 max_deterministic_time:{effort}",
        everybody=everybody,
        hint=choice[i] == j,
    )
    if found.x is None:
        return None, False
    columns = np.full(len(free), -1, np.int32)
    columns[at[found.x]] = j[found.x]
    holds = bool(np.all(_use(rows, free, columns) <= np.maximum(room, 0.0)))
    return (columns if holds else None), found.optimal


def _use(rows: Rows, i: Ints, columns: Choice) -> Floats:
    """float64[K]: what the requests i use in these columns."""
    on = columns >= 0
    _, k, a = rows.pairs(i[on], columns[on].astype(np.int64))
    return np.asarray(np.bincount(k, a, minlength=rows.k), dtype=np.float64)
