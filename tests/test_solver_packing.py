"""Generalised assignment: who it is for, ejection chains, bundles, the relaxation over bundles, and what becomes of it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from benchmarks.instances import data_path, gap_instance, gap_names
from solver import Limit, Problem, StopReason, solve, verify
from solver.assignment import Assignment, assignment
from solver.bundles import Bundles
from solver.diving import Diving
from solver.ejection import Ejection
from solver.passes import Passes
from solver.rows import compile_rows
from solver.search import Deadline, Search


def drawn(n: int, m: int, seed: int, tight: float = 0.8, hard: bool = True) -> Problem:
    """n jobs, m agents, capacity for a bit more than all; hard: dear where light, as in classic class D."""
    rng = np.random.default_rng(seed)
    use = rng.integers(1, 100, (n, m)).astype(np.float64)
    cost = rng.integers(-10, 11, (n, m)) + (111 - use if hard else 50)
    cost = cost.astype(np.int64)
    caps = np.floor(tight * use.sum(axis=0) / m)
    limits = [Limit(f"agent {j}", float(cap), models=[j], usage=use) for j, cap in enumerate(caps)]
    return Problem(cost, np.ones((n, m), np.bool_), limits=limits)


def begun(problem: Problem) -> Search:
    """A search that has no plan and no prices yet."""
    rows = compile_rows(problem, Passes(1))
    worth = np.full(problem.n, 1e4)
    search = Search(rows, Deadline(60.0), False, 0.0, 0, worth, np.full(problem.n, -1, np.int32))
    search.lam = search.mu = search.steer = np.zeros(rows.k)
    return search


def given(problem: Problem) -> Assignment:
    found = assignment(begun(problem))
    assert found is not None
    return found


def least_cost(problem: Assignment) -> float:
    """The least cost of any packing, by trying them all."""
    best = np.inf
    for packing in itertools.product(range(problem.m + 1), repeat=problem.n):
        x = np.array(packing)
        load = np.bincount(x, problem.use[np.arange(problem.n), x], minlength=problem.m + 1)
        if np.all(load <= problem.cap + 1e-9):
            best = min(best, float(problem.cost[np.arange(problem.n), x].sum()))
    return best


@pytest.mark.parametrize(
    "extra",
    [
        Limit("two columns", 1.0, models=[0, 1]),
        Limit("second of a column", 20.0, models=[0], usage=np.arange(8.0)),
        Limit("tenants", np.array([9.0]), usage=np.arange(8.0), group=np.zeros(8, np.int32)),
        Limit("some requests", 1.0, models=[2], requests=[0, 1, 2]),
        Limit("commitment", -1.0, models=[2], usage=-1.0),
    ],
    ids=lambda limit: limit.name,
)
def test_other_limits_make_it_another_problem(extra: Limit) -> None:
    """A limit of several columns, of groups or of some requests, or a second one of a column: no knapsack a column."""
    problem = drawn(8, 3, 1)
    assert assignment(begun(problem)) is not None
    assert assignment(begun(Problem(problem.cost, problem.allowed, limits=[*problem.limits, extra]))) is None


def test_columns_without_a_limit_and_staying_out_are_outside() -> None:
    """Column 1 has no limit: it is what ``outside`` stands for where it costs less than staying out is worth."""
    problem = Problem(
        np.array([[5, 30], [7, 20_000]]), np.ones((2, 2), np.bool_), limits=[Limit("one", 1.0, models=[0])]
    )
    found = given(problem)
    assert found.columns.tolist() == [0]
    assert found.cost.tolist() == [[5.0, 30.0], [7.0, 1e4]]
    assert found.outside.tolist() == [1, -1]
    packing = found.packing(np.array([1, 0]))
    assert packing.tolist() == [1, 0]
    assert found.choice(packing, 2).tolist() == [1, 0]
    assert found.choice(np.array([1, 1]), 2).tolist() == [1, -1]


@pytest.mark.parametrize("seed", range(6))
def test_chains_find_the_best_of_few(seed: int) -> None:
    """Six jobs, three agents: 500 steps from everybody outside reach what trying all finds, and say its cost."""
    problem = given(drawn(6, 3, seed, tight=1.1))
    packing, cost = Ejection(problem, 0).run(np.full(6, problem.m), 500, lambda: 1.0)
    assert packing is not None
    assert cost == pytest.approx(problem.cost[np.arange(6), packing].sum())
    assert cost == pytest.approx(least_cost(problem))


def test_chains_keep_within_capacity_or_find_nothing() -> None:
    """Whatever the start, a packing that is returned holds; without steps or time there is none."""
    problem = given(drawn(40, 5, 2))
    start = problem.cost[:, :5].argmin(axis=1)
    packing, _ = Ejection(problem, 3).run(start, 300, lambda: 1.0)
    assert packing is not None
    load = np.bincount(packing, problem.use[np.arange(40), packing], minlength=6)
    assert np.all(load <= problem.cap + 1e-6)
    assert Ejection(problem, 3).run(start, 0, lambda: 1.0) == (None, np.inf)
    assert Ejection(problem, 3).run(start, 300, lambda: 0.0) == (None, np.inf)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("seed", range(8))
def test_bundles_are_the_best_subsets(seed: int, whole: bool) -> None:
    """For random prices every bundle is worth what the best of all subsets is; use in parts of units is rounded up."""
    problem = drawn(9, 3, seed, tight=1.2)
    if not whole:
        use = np.asarray(problem.limits[0].usage) * 0.1
        limits = [Limit(x.name, x.cap * 0.1, x.models, usage=use) for x in problem.limits]
        problem = Problem(problem.cost, problem.allowed, limits=limits)
    bundles = Bundles(given(problem))
    rng = np.random.default_rng(seed)
    price = rng.uniform(0, 150, 9)
    allowed = bundles.fits & (rng.random((9, 3)) < 0.9)
    worth, inside = bundles.best(price, allowed)
    assert bundles.exact == whole
    value = np.where(allowed, price[:, None] - bundles.cost, -1e9)
    for j in range(3):
        subsets = np.array(list(itertools.product([0, 1], repeat=9)))
        fits = subsets @ bundles.use[:, j] <= bundles.cap[j]
        assert worth[j] == pytest.approx((subsets @ value[:, j])[fits].max())
        assert worth[j] == pytest.approx(value[inside[:, j], j].sum())
        assert bundles.use[inside[:, j], j].sum() <= bundles.cap[j]


@pytest.mark.parametrize("seed", range(6))
def test_the_relaxation_over_bundles_is_a_bound_and_a_dive_holds(seed: int) -> None:
    """No packing costs less than the root's bound, which is above that of the knapsacks' own relaxation; dives hold."""
    problem = given(drawn(7, 3, seed, tight=0.95))
    diving = Diving(problem, np.ones((7, 3), np.bool_), 1.0, 0)
    bound = diving.root(1e-3, lambda: 1.0)
    least = least_cost(problem)
    assert bound <= least + 1e-6
    assert bound >= problem.cost.min(axis=1).sum() - 1e-6
    for _ in range(3):
        packing = diving.dive(lambda: 1.0)
        load = np.bincount(packing, problem.use[np.arange(7), packing], minlength=4)
        assert np.all(load <= problem.cap + 1e-6)
        assert problem.cost[np.arange(7), packing].sum() >= least - 1e-6


@pytest.mark.parametrize("seed", [0])
def test_a_packed_plan_is_proven_by_the_data(seed: int) -> None:
    """Forty jobs on six agents: all served, proven optimal, and the same bytes on one thread and on two."""
    problem = drawn(40, 6, seed, tight=0.6, hard=False)
    plans = [solve(problem, gap=0.0, time_limit_s=60.0, threads=threads) for threads in (1, 2)]
    for plan in plans:
        certificate = verify(problem, plan)
        assert certificate.ok, certificate.violations
        assert "packing" in plan.termination.seconds
        assert plan.served == 40
        assert plan.termination.reason is StopReason.OPTIMAL
        assert plan.choice.tobytes() == plans[0].choice.tobytes()


def test_who_cannot_be_served_is_left_to_the_other_stages() -> None:
    """Capacity for two in three: the plan holds, serves as many as its bound says, and ends."""
    problem = drawn(60, 5, 1, tight=0.3)
    plan = solve(problem, gap=0.0, time_limit_s=3.0)
    certificate = verify(problem, plan)
    assert certificate.ok, certificate.violations
    assert 0 < plan.served < 60
    assert plan.served <= plan.served_bound


@pytest.mark.slow
@pytest.mark.parametrize(("name", "percent"), [("e20100", 1.5), ("d10100", 0.9), ("c201600", 0.3)])
def test_hard_classic_instances_are_packed_whole(name: str, percent: float) -> None:
    """All jobs of three hard instances are served, near the best known cost, however little of the machine is free."""
    data = data_path()
    if data is None or not (data / "gap").is_dir():
        pytest.skip("no generalised-assignment data: set NEGOTIATOR_DATA")
    best = {str(entry["name"]): float(str(entry["best_known_min"])) for entry in gap_names(data)}[name]
    problem = gap_instance(data, name)
    plan = solve(problem, gap=percent / 100, time_limit_s=30.0)
    assert verify(problem, plan).ok
    assert plan.served == problem.n
    assert plan.cost <= best * (1 + percent / 100)
