"""Prices: the interior-point method against hand-made optima, and bounds that hold for any prices."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.instances import market
from solver import Limit, Problem
from solver.band import make_band
from solver.cascade import first, nearer, relaxed, sampled, sift
from solver.groups import settle_groups
from solver.interior import solve_band
from solver.options import all_options, leads
from solver.passes import Passes
from solver.prices import best_unserved, cheapest, cost_bound, served_bound
from solver.rows import Rows, compile_rows
from solver.sampling import drawn, seen


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
    assert cost_bound(rows, float(found.lam @ rows.caps), least, np.inf, 2.0) == pytest.approx(4.0, abs=1e-6)


@pytest.mark.parametrize("load", [0.5, 1.0, 2.0])
def test_relaxed_value_and_bound_agree(load: float) -> None:
    """Light load or overload: primal value and the bound recomputed from the prices meet."""
    rows = compiled(market(500, 8, load, seed=1))
    worth = np.full(rows.n, 30.0 * float(rows.problem.cost.max(axis=1).mean()))
    found = relaxed(rows, worth, np.flatnonzero(rows.alive), lambda: 60.0, 1e-7)
    least = cheapest(rows, found.lam)[rows.alive]
    bound = np.minimum(least, worth[rows.alive]).sum() - found.lam @ rows.caps
    assert found.converged
    assert found.value == pytest.approx(bound, rel=1e-5)


@pytest.mark.parametrize("load", [0.9, 1.5])
def test_rounds_of_sifting_reach_the_relaxation_of_everything(load: float) -> None:
    """A sample, a first round at its prices and some more find the value of the program with all columns."""
    rows = compiled(market(2000, 8, load, seed=2))
    worth = np.full(rows.n, 30.0 * float(rows.problem.cost.max(axis=1).mean()))
    whole = relaxed(rows, worth, np.flatnonzero(rows.alive), lambda: 60.0, 1e-7)
    alive = np.flatnonzero(rows.alive)
    lam, wrong = sampled(rows, worth, np.flatnonzero(rows.alive), 0, lambda: 60.0)
    found = first(rows, lam, worth, alive, wrong, 1e-3, lambda: 60.0)
    for _ in range(6):
        found = sift(rows, found.lam, worth, alive, found.base, found.loose, 0.1, 1e-7, lambda: 60.0)
    assert found.value == pytest.approx(whole.value, rel=1e-5)
    assert np.count_nonzero(found.loose) < rows.k


def test_a_sample_stands_for_the_whole() -> None:
    """Weights add up to about all requests in every group, large requests and small groups come as they are."""
    rows = compiled(market(20_000, 6, 0.9, seed=3))
    i, weight = drawn(rows, np.flatnonzero(rows.alive), 2000, seed=0)
    assert np.all(np.diff(i) > 0)
    assert np.all(weight >= 1.0)
    tenant = rows.problem.limits[-1].group
    assert tenant is not None
    count = np.bincount(tenant[rows.alive])
    told = np.bincount(tenant[i], weight, minlength=len(count))
    assert np.abs(told - count).max() <= 0.15 * count.max()
    need = np.where(rows.possible[i], rows.problem.cost[i], 2**53).min(axis=1)
    assert weight[np.argmax(need)] == 1.0
    assert seen(rows, i, weight).sum() >= rows.k - 10


@pytest.mark.parametrize(("served", "price"), [(0.0, 1.0), (1.0, 1.0), (1.5, 3.0), (2.0, 3.0), (2.9, 5.0)])
def test_the_price_of_who_is_left_out_is_that_of_the_last_who_is_served(served: float, price: float) -> None:
    """Equal weights and one that is not quite equal, which are told apart in the code, name the same price."""
    ones = compiled(Problem(np.array([[5], [1], [3]]), np.ones((3, 1), np.bool_)))
    near = compiled(
        Problem(np.array([[5], [1], [3]]), np.ones((3, 1), np.bool_), weight=np.array([1.0, 1.0, 1.0 + 1e-9]))
    )
    least = np.array([5.0, 1.0, 3.0])
    assert best_unserved(ones, least, served) == price
    assert best_unserved(near, least, served) == pytest.approx(price, rel=1e-6)


def test_the_price_of_an_overspent_group_makes_its_cap_just_hold() -> None:
    """Two requests of a tenant cost 3 each on the good column, 2 on the other, and 5 are there: one must move."""
    tenant = Limit("tenant", np.array([5.0]), usage=np.array([[3, 2], [3, 2]]), group=np.zeros(2, np.int32))
    rows = compiled(Problem(np.array([[1, 9], [1, 7]]), np.ones((2, 2), np.bool_), limits=[tenant]))
    lam = settle_groups(rows, np.zeros(rows.k), np.full(2, 100.0), np.arange(2))
    assert 6.0 - 0.1 <= lam[0] <= 8.0 + 0.1
    assert leads(rows, lam, np.full(2, 100.0)).best.tolist() == [0, 1]


def test_a_crowded_group_is_priced_by_some_of_its_requests() -> None:
    """Half of 600 requests must leave the good column for what costs them 1 to 600 more: every tenth says so too."""
    n = 600
    tenant = Limit("tenant", np.array([2.5 * n]), usage=np.full((n, 2), [3, 2]), group=np.zeros(n, np.int32))
    cost = np.stack([np.ones(n), 1 + np.random.default_rng(0).permutation(n) + 1], axis=1).astype(np.int64)
    rows = compiled(Problem(cost, np.ones((n, 2), np.bool_), limits=[tenant]))
    for enough in (None, n // 10):
        lam = settle_groups(rows, np.zeros(rows.k), np.full(n, 1e5), np.arange(n), enough=enough)
        assert 0.7 * n / 2 <= lam[0] <= 1.3 * n / 2


def test_prices_come_nearer_by_a_draw_of_who_would_choose_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """4,000 of those near a tie of 20,000 prove more than prices 10 % off; few near ties are not drawn from."""
    rows = compiled(market(20_000, 6, 0.9, seed=3))
    worth, alive = np.full(rows.n, 30.0 * rows.problem.cost.max(axis=1).mean()), np.flatnonzero(rows.alive)
    lam = sampled(rows, worth, alive, 0, lambda: 60.0)[0] * np.random.default_rng(0).uniform(0.9, 1.1, rows.k)
    wrong = 0.1
    assert nearer(rows, lam, worth, alive, wrong, 0, lambda: 60.0)[1] == wrong
    monkeypatch.setattr("solver.cascade.DRAWN_OF", 4_000)
    monkeypatch.setattr("solver.cascade.DRAWN", 4_000)
    closer, less_wrong = nearer(rows, lam, worth, alive, wrong, 0, lambda: 60.0)
    before, after = (
        np.minimum(cheapest(rows, each), worth)[alive].sum() - each @ rows.caps for each in (lam, closer)
    )
    assert after > before
    assert less_wrong < wrong


@pytest.mark.parametrize("seed", range(5))
def test_any_prices_give_a_bound_below_a_plan(seed: int) -> None:
    """Weak duality with random prices: below the cost of what a feasible plan serves, above how much it serves."""
    rows = two_for_one()
    lam = np.random.default_rng(seed).exponential(3.0, rows.k)
    least = cheapest(rows, lam)
    for served, cost in ((2.0, 4.0), (1.0, 1.0), (0.0, 0.0)):  # the optimum for each weight served
        nu = best_unserved(rows, least, served)
        assert cost_bound(rows, float(lam @ rows.caps), least, nu, served) <= cost + 1e-9
    assert served_bound(rows, float(lam @ rows.caps), cheapest(rows, lam, costs=False)) >= 2.0
