"""What whole requests of a group can be served at all, as a row that no plan breaks."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks.instances import market
from solver import Limit, Problem, solve, verify
from solver.counts import count_rows
from solver.evidence import gather
from solver.passes import Passes
from solver.relax import relax, relax_most
from solver.rows import compile_rows
from solver.search import Deadline
from solver.solve import _start


def grouped(
    use: list[int],
    caps: list[float],
    group: list[int],
    weight: npt.NDArray[np.float64] | None = None,
) -> Problem:
    """One column whose use is the cost; a cap per group."""
    cost = np.array(use, np.int64)[:, None]
    limit = Limit("budget", np.array(caps, float), usage=cost, group=np.array(group, np.int32))
    return Problem(cost, np.ones(cost.shape, np.bool_), weight=weight, limits=[limit])


def test_half_a_request_is_not_served() -> None:
    """A budget of 25 holds two and a half requests of 10: two are all that can be, and that is proven."""
    problem = grouped([10, 10, 10, 5], [25.0, 9.0], [0, 0, 0, 1])
    (counts,), kept = count_rows(compile_rows(problem, Passes(1)))
    assert counts.most[np.isfinite(counts.most)].tolist() == [2.0]
    assert counts.row.tolist() == [0, 0, 0, -1]
    assert kept.sum() == 3
    plan = solve(problem, gap=0.0)
    assert (plan.served, plan.served_bound, plan.cost) == (3.0, 3.0, 25)
    assert verify(problem, plan).ok


@pytest.mark.parametrize("seed", range(8))
def test_no_choice_within_the_cap_weighs_more(seed: int) -> None:
    """Against every subset: whole weights, some zero uses, and the verifier's own count agrees."""
    rng = np.random.default_rng(seed)
    use, weight = rng.integers(0, 20, 8), rng.integers(1, 4, 8).astype(float)
    cap = float(rng.integers(10, 60))
    problem = grouped(use.tolist(), [cap], [0] * 8, weight)
    best = max(
        float(weight[list(which)].sum())
        for size in range(9)
        for which in itertools.combinations(range(8), size)
        if use[list(which)].sum() <= cap
    )
    possible = compile_rows(problem, Passes(1))
    found, kept = count_rows(possible)
    if not found:
        assert best <= weight[possible.option].sum()
        return
    most = float(found[0].most[0])
    assert best <= most < weight[possible.option].sum()
    assert weight[kept & possible.option].sum() <= most
    seen = gather(problem, np.array([0.0, 1.0]))  # a price of 1 per unit of weight served
    assert seen.priced == most


def test_fractional_weights_are_not_counted() -> None:
    """Nothing is rounded where weights are not whole, whatever prices a plan states."""
    problem = grouped([10, 10, 10], [25.0], [0, 0, 0], np.array([1.0, 1.0, 1.5]))
    assert count_rows(compile_rows(problem, Passes(1)))[0] == []
    plan = solve(problem)
    assert verify(problem, plan).ok
    assert gather(problem, np.append(plan.prices.lam, 7.0)).priced == gather(problem, plan.prices.lam).priced


def test_groups_that_fit_are_not_rows() -> None:
    """Nothing is said of a budget that holds all of its group at their cheapest."""
    problem = grouped([10, 10], [20.0], [0, 0])
    assert count_rows(compile_rows(problem, Passes(1)))[0] == []


def test_a_market_whose_tenants_cannot_be_served_whole_is_proven() -> None:
    """Budgets a tenth as large: fractions alone would leave the bound above what is served; nothing is overstated."""
    problem = market(1500, 4, 0.5, seed=3)
    budget = problem.limits[-1]
    limits = [*problem.limits[:-1], dataclasses.replace(budget, cap=np.ceil(0.15 * np.asarray(budget.cap)))]
    problem = dataclasses.replace(problem, limits=limits)
    plan = solve(problem, gap=1e-3, time_limit_s=3.0)
    assert plan.prices.count is not None
    assert np.any(plan.prices.count > 0)
    assert verify(problem, plan).ok, verify(problem, plan).violations
    assert plan.served >= plan.served_bound - 2
    inflated = dataclasses.replace(plan, served_bound=plan.served_bound - 1)
    assert not verify(problem, inflated).ok


@pytest.mark.slow
def test_a_larger_v_proves_more_of_what_can_be_served() -> None:
    """Under overload, prices of a sample at ten times V lower the bound of what is served, never below a plan."""
    rows = compile_rows(market(6500, 9, 2.0, seed=1), Passes(1))
    search = _start(rows, Deadline(60.0), False, 1e-3, 0)
    relax(search, None, 0.2)
    before = search.served_bound
    relax_most(search, 0.9)
    assert search.score[0] <= search.served_bound < before
