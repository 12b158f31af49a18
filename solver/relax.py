"""The linear relaxation of a whole problem: prices that prove a bound, and a column for almost everybody."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .band import make_band
from .cascade import (
    WHOLE_OPTIONS,
    all_options,
    first_base,
    first_width,
    leads,
    options_within,
    relaxed,
    sampled,
    settle_groups,
    sift,
)
from .interior import solve_band
from .rows import Floats
from .search import Search

__all__ = ["relax", "relax_kept", "relax_served"]

ROUNDS = 6
FIRST = 1e-3  # gap of the first round on everything; the next ones have fewer options


def relax(
    search: Search, warm: Floats | None, share: float
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """Prices the search and returns (column of every request, m = unserved; whose column is a fraction).

    warm: float64[K] prices of a similar problem. share: how much of the time left may be used.
    """
    rows, worth = search.rows, search.worth
    stop = search.deadline.left * (1 - share)

    def left() -> float:
        return search.deadline.left - stop

    tolerance = max(1e-7, min(1e-5, 0.05 * search.gap))
    alive = np.flatnonzero(rows.alive)
    if len(alive) * (rows.m + 1) <= WHOLE_OPTIONS:
        whole, base, loose = relaxed(rows, worth, left, tolerance)
        search.believe(whole.lam)
        return base, loose
    if warm is not None:
        lam, wrong = warm, 0.05
    else:
        lam, wrong = sampled(rows, worth, search.seed, left)
    lam = settle_groups(rows, lam, worth, alive, rows.caps)
    base = first_base(rows, lam, worth, alive, rows.caps, True)
    loose = np.zeros(rows.n, bool)
    best, close = -np.inf, warm is not None
    wrong = first_width(rows, base, alive, wrong)
    for turn in range(ROUNDS):
        if turn and left() <= 0:
            break
        found = sift(
            rows,
            lam,
            worth,
            alive,
            rows.caps,
            base,
            loose,
            wrong,
            tolerance if turn else FIRST,
            left=left,
            close=close,
        )
        lam, loose, close = found.lam, found.loose, found.converged
        bound = search.believe(lam)
        served = base[alive] < rows.m
        cost = float(rows.problem.cost[alive[served], base[alive[served]]].sum())
        miss = (found.value - bound) / max(cost, 1.0)
        if miss <= 3 * tolerance:
            break
        wrong = max(min(wrong, 0.1) / 3, 0.005) if bound > best else min(3 * wrong, 0.3)
        best = max(best, bound)
    return base, loose


def relax_served(search: Search, base: npt.NDArray[np.int32], share: float) -> None:
    """Prices of use alone: how much can be served at all (columns cost nothing, V is the weight)."""
    rows = search.rows
    stop = search.deadline.left * (1 - share)

    def left() -> float:
        return search.deadline.left - stop

    alive = np.flatnonzero(rows.alive)
    weight = rows.weight
    if len(alive) * (rows.m + 1) <= WHOLE_OPTIONS:
        search.price_served(relaxed(rows, weight, left, 1e-6, costs=False)[0].lam)
        return
    lam = search.mu
    base = base.copy()
    loose = np.zeros(rows.n, bool)
    wrong = 0.05
    for _ in range(3):
        if left() <= 0:
            return
        before = search.served_bound
        found = sift(
            rows, lam, weight, alive, rows.caps, base, loose, wrong, 1e-6, costs=False, left=left, close=True
        )
        lam, loose = found.lam, found.loose
        search.price_served(lam)
        if before - search.served_bound < 1e-5 * before:
            return
        wrong /= 3


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
        is_open = (given.lead <= 0.03) | (given.best != np.where(search.choice < 0, rows.m, search.choice))
        is_open &= rows.alive
        fixed = np.where(is_open, -1, search.choice)
        idle = rows.alive & ~is_open & (search.choice < 0)
        spare -= float(rows.weight[idle].sum())
        room = rows.caps - rows.load(fixed)
        i = np.flatnonzero(is_open)
        present = np.where(search.choice < 0, rows.m, search.choice).astype(np.int32)
        options = options_within(rows, search.lam, search.nu * rows.weight, i, np.full(len(i), 0.1), present)
    band = make_band(rows, options, worth, room, unserved_cap=spare)
    found = solve_band(band, 1e-6, left=lambda: search.deadline.left)
    search.price(found.lam[: rows.k])
