"""The linear relaxation of a whole problem: prices that prove a bound, and a column for almost everybody."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from .band import make_band
from .cascade import (
    CORE,
    CORE_REQUESTS,
    WHOLE_OPTIONS,
    Round,
    first,
    nearer,
    relaxed,
    sampled,
    sampled_once,
    sift,
)
from .interior import solve_band
from .options import all_options, leads, options_within
from .rows import Floats, Ints
from .search import Search

__all__ = ["relax", "relax_kept", "relax_most", "relax_served"]

ROUNDS = 12
FIRST = 1e-3  # gap of the first round on everything; the next ones have fewer options
NARROWEST, WIDEST = 0.003, 0.1  # leads of who chooses again in a later round
WIDER = 3.0  # such a lead / what the round before may have missed
WARM = 0.05  # what given prices may be wrong by
DEARER = 10.0  # V where only what can be served counts / V
WITHIN = 0.1  # requests that its prices may be wrong by
STEPS = (1.0, 0.3, 0.1, 0.03)


def relax(
    search: Search, warm: Floats | None, share: float
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """Prices the search and returns (column of every request, m = unserved; whose column is a fraction).

    warm: float64[K] prices of a similar problem. share: how much of the time left may be used.
    """
    rows = search.rows
    stop = search.deadline.left * (1 - share)

    def left() -> float:
        return search.deadline.left - stop

    tolerance = max(1e-7, min(1e-5, 0.05 * search.gap))
    alive = np.flatnonzero(rows.alive & search.sought)
    small = len(alive) * (rows.m + 1) <= WHOLE_OPTIONS
    if small:
        found = relaxed(rows, search.worth, alive, left, tolerance)
        search.believe(found.lam)
    else:
        if warm is not None:
            lam, wrong = warm, WARM
        else:
            lam, wrong = sampled(rows, search.worth, alive, search.seed, left)
        near, less = nearer(rows, lam, search.worth, alive, wrong, search.seed, left)
        found = first(rows, near, search.worth, alive, less, FIRST, left)
        if found.usable:
            lam = near
        elif near is not lam:
            found = first(rows, lam, search.worth, alive, wrong, FIRST, left)
        best = search.believe(lam)
        found = _rounds(search, alive, lam, best, found, tolerance, left)
    if not search.surplus:
        search.believe_served(search.steer, search.worth)
    return found.base, found.loose


def _rounds(
    search: Search,
    alive: Ints,
    lam: Floats,
    best: float,
    found: Round,
    tolerance: float,
    left: Callable[[], float],
) -> Round:
    """Rounds of sifting from prices lam, whose bound is ``best``, and a first round, until nothing is missed."""
    rows, worth = search.rows, search.worth
    wider, most = WIDER, best
    for _ in range(ROUNDS):
        moved, bound = _towards(search, lam, found.lam)
        if bound > best:
            lam, best = moved, max(best, search.believe(moved))
        most = max(most, best)
        miss = _miss(search, found, most)
        if left() <= 0 or miss <= 3 * tolerance:
            break
        wrong = min(WIDEST, max(NARROWEST, wider * miss))
        again = sift(rows, lam, worth, alive, found.base, found.loose, wrong, tolerance, left)
        gained = found.value - again.value
        # the prices choose the wrong requests: theirs may do better
        if gained < 1e-2 * miss * abs(found.value):
            wider, lam, best = 2.0 * wider, again.lam, -np.inf
        if gained >= 0 and again.usable:
            found = again
    return found


def _towards(search: Search, lam: Floats, new: Floats) -> tuple[Floats, float]:
    """(prices between lam and new, their bound): prices of a part of the columns may be far off on all of them.

    The bound is concave along the way, so it is tried all of the way and, where that is worse, nearer.
    """
    found = lam, -np.inf
    for share in STEPS:
        tried = lam + share * (new - lam)
        bound = _bound(search, tried)
        if bound <= found[1]:
            break
        found = tried, bound
    return found


def _bound(search: Search, lam: Floats) -> float:
    """Of V times what is not served plus cost, of the requests sought for; steers, so float32 will do."""
    rows = search.rows
    least = leads(rows, lam, search.worth).least[rows.alive & search.sought]
    return float(least.sum(dtype=np.float64)) - float(lam @ rows.caps)


def _miss(search: Search, found: Round, bound: float) -> float:
    """By what share of the cost the relaxation's value may be above the least."""
    rows = search.rows
    served = np.flatnonzero((found.base >= 0) & (found.base < rows.m))
    return (found.value - bound) / max(float(rows.problem.cost[served, found.base[served]].sum()), 1.0)


def relax_served(search: Search, share: float) -> None:
    """Prices of use alone: how much can be served at all (columns cost nothing, V is the weight); for what is small."""
    rows = search.rows
    stop = search.deadline.left * (1 - share)
    alive = np.flatnonzero(rows.alive)
    if len(alive) * (rows.m + 1) <= WHOLE_OPTIONS:
        whole = relaxed(rows, rows.weight, alive, lambda: search.deadline.left - stop, 1e-6, costs=False)
        search.price_served(whole.lam)


def relax_most(search: Search, share: float) -> None:
    """The same for what is large: prices of a sample at a larger V, by which costs matter less."""
    rows = search.rows
    stop = search.deadline.left * (1 - share)
    sought, worth = np.flatnonzero(rows.alive & search.sought), DEARER * search.worth
    if len(sought) * (rows.m + 1) > WHOLE_OPTIONS and search.score[0] < search.served_bound:
        tolerance = WITHIN * float(worth[sought].mean()) / max(-search.score[1], 1.0)
        lam = sampled_once(
            rows, worth, sought, search.seed, lambda: search.deadline.left - stop, min(tolerance, 1.0)
        )
        search.believe_served(lam, worth)


def relax_kept(search: Search, base: npt.NDArray[np.int32]) -> None:
    """Prices of "serve at least as much as the plan does": they prove more about its cost than those of V do.

    The row "weight unserved <= all - served" takes the place of V; its dual is nu.
    """
    rows = search.rows
    alive = np.flatnonzero(rows.alive)
    if not search.found or not len(alive):
        return
    search.refresh()
    spare = float(rows.weight[alive].sum()) - search.score[0]
    worth = np.zeros(rows.n)
    if len(alive) * (rows.m + 1) <= WHOLE_OPTIONS:
        options = all_options(rows, alive)
        room = rows.caps
    else:
        given = leads(rows, search.lam, search.nu * rows.weight)
        fewest = min(max(CORE * rows.k, CORE_REQUESTS), len(alive) - 1)
        near = min(0.03, float(np.partition(given.lead[alive], fewest)[fewest]))
        is_open = (given.lead <= near) | (given.best != np.where(search.choice < 0, rows.m, search.choice))
        is_open &= rows.alive
        fixed = np.where(is_open, -1, search.choice)
        idle = rows.alive & ~is_open & (search.choice < 0)
        spare -= float(rows.weight[idle].sum())
        room = rows.caps - rows.load(fixed)
        i = np.flatnonzero(is_open)
        options = options_within(rows, search.lam, search.nu * rows.weight, i, 0.1, search.choice)
    band = make_band(rows, options, worth, room, unserved_cap=spare)
    found = solve_band(band, 1e-6, left=lambda: search.deadline.left)
    search.price(found.lam[: rows.k])
