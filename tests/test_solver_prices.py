"""Prices: the interior-point method against hand-made optima, and bounds that hold for any prices."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.instances import market
from solver import Limit, Problem
from solver.band import make_band
from solver.cascade import ALL_OPEN, all_options, first_base, relaxed, sift
from solver.interior import solve_band
from solver.passes import Passes
from solver.prices import best_unserved, cheapest, cost_bound, served_bound
from solver.rows import Rows, compile_rows


def compiled(problem: Problem) -> Rows:
    return compile_rows(problem, Passes(1))


def two_for_one() -> Rows:
    """Two requests want column 0 (cost 1), which takes one; column 1 costs 3 and 5."""
    return compiled(
        Problem(np.array([[1, 3], [1, 5]]), np.ones((2, 2), np.bool_), limits=[Limit("one", 1.0, models=[0])])
    )


def test_the_price_of_a_full_column_is_between_the_two_savings() -> None:
    """The request that saves 4 stays, the one that saves 2 goes: any price from 2 to 4 is optimal."""
    rows = two_for_one()
    found = solve_band(make_band(rows, all_options(rows, np.arange(2)), np.full(2, 100.0), rows.caps), 1e-9)
    assert found.converged
    assert 2.0 - 1e-6 <= found.lam[0] <= 4.0 + 1e-6
    least = cheapest(rows, found.lam)
    assert cost_bound(rows, found.lam, least, np.inf, 2.0) == pytest.approx(4.0, abs=1e-6)


@pytest.mark.parametrize("load", [0.5, 1.0, 2.0])
def test_relaxed_value_and_bound_agree(load: float) -> None:
    """Light load or overload: primal value and the bound recomputed from the prices meet."""
    rows = compiled(market(500, 8, load, seed=1))
    worth = np.full(rows.n, 30.0 * float(rows.problem.cost.max(axis=1).mean()))
    found, _, _ = relaxed(rows, worth, lambda: 60.0, 1e-7)
    least = cheapest(rows, found.lam)[rows.alive]
    bound = np.minimum(least, worth[rows.alive]).sum() - found.lam @ rows.caps
    assert found.converged
    assert found.value == pytest.approx(bound, rel=1e-5)


def test_a_round_of_sifting_reaches_the_relaxation_of_everything() -> None:
    """Starting from a fill at zero prices, a wide round finds the value of the program with all columns."""
    rows = compiled(market(500, 8, 0.9, seed=2))
    worth = np.full(rows.n, 30.0 * float(rows.problem.cost.max(axis=1).mean()))
    whole, _, _ = relaxed(rows, worth, lambda: 60.0, 1e-7)
    alive = np.flatnonzero(rows.alive)
    lam, loose = np.zeros(rows.k), np.zeros(rows.n, np.bool_)
    base = first_base(rows, lam, worth, alive, rows.caps, True)
    for wrong in (ALL_OPEN, 0.1, 0.1):
        found = sift(rows, lam, worth, alive, rows.caps, base, loose, wrong, 1e-7, left=lambda: 60.0)
        lam, loose = found.lam, found.loose
    assert found.value == pytest.approx(whole.value, rel=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_any_prices_give_a_bound_below_a_plan(seed: int) -> None:
    """Weak duality with random prices: below the cost of what a feasible plan serves, above how much it serves."""
    rows = two_for_one()
    lam = np.random.default_rng(seed).exponential(3.0, rows.k)
    least = cheapest(rows, lam)
    for served, cost in ((2.0, 4.0), (1.0, 1.0), (0.0, 0.0)):  # the optimum for each weight served
        nu = best_unserved(rows, least, served)
        assert cost_bound(rows, lam, least, nu, served) <= cost + 1e-9
    assert served_bound(rows, lam) >= 2.0
