"""The solver against brute force on small problems of every limit kind, and relations that must hold on any."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from brute_force import all_totals, bounds, every_plan, holds, optimum, plan_of, possible, totals
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.instances import greedy, market
from solver import Limit, Plan, Prices, Problem, Reason, StopReason, solve, verify
from solver.evidence import gather

KINDS = (
    "requests",
    "tokens",
    "concurrency",
    "shared",
    "tenants",
    "total budget",
    "mean quality",
    "commitment",
    "some requests",
    "unlimited",
    "closed",
)
OBJECTIVES = ("served_then_cost", "surplus")
checked = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def limit_of(kind: str, rng: np.random.Generator, cost: Any) -> Limit:
    """One random limit of a kind, tight enough to matter about half of the time."""
    n, m = cost.shape
    some = np.flatnonzero(rng.random(m) < 0.6)
    tokens = rng.integers(1, 9, n).astype(np.float32)
    if kind == "requests":
        return Limit(kind, int(rng.integers(1, n + 1)), models=[int(rng.integers(m))])
    if kind == "tokens":
        return Limit(kind, float(rng.integers(4, 30)), models=[int(rng.integers(m))], usage=tokens)
    if kind == "concurrency":
        return Limit(kind, float(rng.uniform(1, 8)), models=some, usage=rng.uniform(0, 3, (n, m)))
    if kind == "shared":
        return Limit(kind, float(rng.integers(4, 40)), models=some, usage=tokens)
    if kind == "tenants":
        groups = int(rng.integers(1, 4))
        group = rng.integers(-1, groups, n).astype(np.int32)
        return Limit(kind, rng.uniform(5, 120, groups), usage=cost, group=group)
    if kind == "total budget":
        return Limit(kind, float(rng.integers(10, 60 * n)), usage=cost)
    if kind == "mean quality":
        return Limit(kind, 0.0, usage=np.round(0.5 - rng.random((n, m)), 2))
    if kind == "commitment":
        return Limit(kind, -float(rng.integers(1, 3)), models=some, usage=-1.0)
    if kind == "some requests":
        return Limit(kind, 1.0, requests=np.flatnonzero(rng.random(n) < 0.5), usage=rng.integers(0, 3, n))
    if kind == "closed":
        return Limit(kind, 0.0, models=[int(rng.integers(m))])
    return Limit(kind, math.inf, usage=tokens)


@st.composite
def problems(draw: st.DrawFn, n_most: int = 6, m_most: int = 4) -> Problem:
    """Up to six requests and four columns, up to five limits of any kinds."""
    n, m = draw(st.integers(1, n_most)), draw(st.integers(1, m_most))
    kinds = draw(st.lists(st.sampled_from(KINDS), max_size=5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    ties = draw(st.booleans())
    cost = rng.integers(1, 4, (n, m)) * 10 if ties else rng.integers(0, 100, (n, m))
    weight = [None, rng.integers(1, 4, n).astype(float), rng.uniform(0.5, 3, n)][draw(st.integers(0, 2))]
    return Problem(
        cost=cost,
        allowed=rng.random((n, m)) < 0.85,
        weight=weight,
        value=rng.integers(0, 120, n),
        limits=[limit_of(kind, rng, cost) for kind in kinds],
    )


def quick(problem: Problem, objective: str = "served_then_cost", **options: Any) -> Plan:
    """A solve with the smallest gap and time for small problems."""
    return solve(problem, gap=0.0, time_limit_s=5.0, objective=objective, threads=1, **options)


def attained(problem: Problem, plan: Plan) -> tuple[float, int]:
    """What brute force calls the value of a plan: (served, cost) or (surplus, 0)."""
    served, cost, worth = totals(problem, plan.choice)
    return (float(worth - cost), 0) if plan.objective == "surplus" else (round(served, 9), cost)


@pytest.mark.parametrize("objective", OBJECTIVES)
@checked
@given(problem=problems())
def test_a_plan_is_as_good_as_brute_force_or_says_less(problem: Problem, objective: str) -> None:
    """OPTIMAL equals enumeration, INFEASIBLE means no plan holds, bounds never pass the optimum, verify agrees."""
    plan = quick(problem, objective)
    certificate = verify(problem, plan)
    assert certificate.ok, certificate.violations
    best = optimum(problem, objective)
    if best is None:
        assert plan.termination.reason in (StopReason.INFEASIBLE, StopReason.TIME_LIMIT)
        assert not np.any(plan.choice >= 0)
        return
    assert plan.termination.reason is StopReason.OPTIMAL
    assert holds(problem, plan.choice)
    assert attained(problem, plan) == pytest.approx(best)
    assert plan.served_bound >= best[0] - 1e-6 or objective == "surplus"
    slack = 1e-6 * (1 + plan.cost)
    if objective == "surplus":
        worth = totals(problem, plan.choice)[2]
        assert worth - plan.cost_bound >= best[0] - slack
    else:
        assert plan.cost_bound <= best[1] + slack


@checked
@given(problem=problems(), seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([0.0, 0.1, 1.0, 30.0, 1e4]))
def test_any_prices_give_valid_bounds(problem: Problem, seed: int, scale: float) -> None:
    """Weak duality: whatever the prices >= 0, no plan that holds beats the bounds, and verify accepts them."""
    rng = np.random.default_rng(seed)
    plans = every_plan(problem)
    if not len(plans):
        return
    lam, mu = (scale * rng.exponential(size=problem.rows) * (rng.random(problem.rows) < 0.7) for _ in "lm")
    choice = plans[rng.integers(len(plans))]
    plan = plan_of(problem, choice, lam=lam, unserved=float(scale * rng.exponential() * 50), mu=mu)
    certificate = verify(problem, plan)
    assert certificate.ok, certificate.violations
    served, cost, _ = all_totals(problem, plans)
    assert served.max() <= certificate.served_bound + 1e-6
    as_many = cost[served >= plan.served - 1e-9]
    assert np.all(certificate.cost_bound <= as_many + 1e-6 * (1 + as_many))
    rich = plan_of(problem, np.full(problem.n, -1), lam=lam, objective="surplus")
    most = optimum(problem, "surplus")
    assert most is None or -bounds(problem, rich.choice, rich.prices, None, "surplus")[0] >= most[0] - 1e-6


@checked
@given(problem=problems(), seed=st.integers(0, 2**32 - 1))
def test_verify_accepts_exactly_what_brute_force_calls_feasible(problem: Problem, seed: int) -> None:
    """A random assignment is accepted if and only if every filter and row holds."""
    rng = np.random.default_rng(seed)
    choice = rng.integers(-1, problem.m, problem.n)
    plan = plan_of(problem, choice, stop=StopReason.GAP_MET)
    assert verify(problem, plan).ok == holds(problem, choice)


@checked
@given(problem=problems(), seed=st.integers(0, 2**32 - 1))
def test_the_evidence_is_what_the_definition_says(problem: Problem, seed: int) -> None:
    """Reduced costs and possible columns of the verifier equal loops over the definition."""
    lam = np.random.default_rng(seed).exponential(size=problem.rows)
    found = gather(problem, lam)
    assert np.array_equal(np.isfinite(found.cheapest), possible(problem).any(axis=1))
    plan = plan_of(problem, np.full(problem.n, -1), lam=lam, objective="surplus")
    value: Any = problem.value
    alive = np.isfinite(found.least)
    bound = np.maximum(0, value[alive] - found.least[alive]).sum() + found.priced
    assert -plan.cost_bound == pytest.approx(bound)


@pytest.mark.parametrize("objective", OBJECTIVES)
@checked
@given(problem=problems())
def test_never_worse_than_cheapest_first(problem: Problem, objective: str) -> None:
    """On the same objective, whenever the baseline's plan holds."""
    choice = greedy(problem)
    if objective == "surplus":
        dear = problem.cost[np.arange(problem.n), choice] > problem.value
        choice = np.where((choice >= 0) & ~dear, choice, -1)
    if not holds(problem, choice):
        return
    plan = quick(problem, objective)
    base = dataclasses.replace(plan, choice=choice)
    ours, theirs = attained(problem, plan), attained(problem, base)
    assert ours[0] >= theirs[0] - 1e-9
    assert ours[0] > theirs[0] + 1e-9 or ours[1] <= theirs[1]


def rebuilt(problem: Problem, rows: Any, columns: Any, cost_factor: int = 1) -> Problem:
    """The same problem with its requests and columns in another order, costs times a whole number."""
    where_row, where_column = np.argsort(rows), np.argsort(columns)
    limits = []
    for limit in problem.limits:
        u: Any = limit.usage
        if isinstance(u, np.ndarray):
            u = u[rows] if u.ndim == 1 else u[np.ix_(rows, columns)]
        models = None if limit.models is None else where_column[np.asarray(limit.models)]
        requests = None if limit.requests is None else where_row[np.asarray(limit.requests)]
        group = None if limit.group is None else limit.group[rows]
        limits.append(Limit(limit.name, limit.cap, models, requests, u, group))
    pairs = np.ix_(rows, columns)
    return Problem(
        problem.cost[pairs] * cost_factor,
        problem.allowed[pairs],
        None if problem.weight is None else problem.weight[rows],
        None if problem.value is None else problem.value[rows] * cost_factor,
        limits,
    )


@pytest.mark.parametrize("objective", OBJECTIVES)
@checked
@given(problem=problems(), seed=st.integers(0, 2**32 - 1))
def test_order_and_currency_do_not_matter(problem: Problem, objective: str, seed: int) -> None:
    """Permuted requests and columns give the same value; costs and values times 7 give it times 7."""
    rng = np.random.default_rng(seed)
    plain = quick(problem, objective)
    if plain.termination.reason is not StopReason.OPTIMAL:
        return
    value = attained(problem, plain)
    mixed = rebuilt(problem, rng.permutation(problem.n), rng.permutation(problem.m))
    assert attained(mixed, quick(mixed, objective)) == pytest.approx(value)
    dearer = rebuilt(problem, np.arange(problem.n), np.arange(problem.m), 7)
    scaled = attained(dearer, quick(dearer, objective))
    assert scaled == pytest.approx((value[0] * 7, 0) if objective == "surplus" else (value[0], value[1] * 7))


@pytest.mark.parametrize("objective", OBJECTIVES)
@checked
@given(problem=problems())
def test_more_room_never_hurts(problem: Problem, objective: str) -> None:
    """A slack row changes nothing; a raised cap, a row taken away or a column added never makes the plan worse."""
    plain = quick(problem, objective)
    if plain.termination.reason is not StopReason.OPTIMAL:
        return

    def key(changed: Problem) -> tuple[float, float]:
        served, cost = attained(changed, quick(changed, objective))
        return served, -cost

    base = key(problem)
    slack = Limit("slack", float(problem.n + 1))
    assert key(dataclasses.replace(problem, limits=[*problem.limits, slack])) == pytest.approx(base)
    if problem.limits:
        first, *others = problem.limits
        raised = dataclasses.replace(first, cap=first.cap + 1)
        for limits in ([raised, *others], others):
            more = key(dataclasses.replace(problem, limits=limits))
            assert more >= (base[0] - 1e-6, base[1] - 1e-6)
    if not any(limit.models is None or isinstance(limit.usage, np.ndarray) for limit in problem.limits):
        column = np.full((problem.n, 1), 50)
        wider = Problem(
            np.hstack([problem.cost, column]),
            np.hstack([problem.allowed, column > 0]),
            problem.weight,
            problem.value,
            problem.limits,
        )
        assert key(wider) >= (base[0] - 1e-6, base[1] - 1e-6)


@checked
@given(problem=problems())
def test_units_of_a_row_do_not_matter(problem: Problem) -> None:
    """Usage and cap of every row in another unit: the same plan value."""
    plain = quick(problem)
    if plain.termination.reason is not StopReason.OPTIMAL:
        return
    scaled = [
        dataclasses.replace(limit, cap=limit.cap * 1024.0, usage=np.asarray(limit.usage, float) * 1024.0)
        if isinstance(limit.usage, np.ndarray)
        else dataclasses.replace(limit, cap=limit.cap * 1024.0, usage=limit.usage * 1024.0)
        for limit in problem.limits
    ]
    changed = dataclasses.replace(problem, limits=scaled)
    assert attained(changed, quick(changed)) == pytest.approx(attained(problem, plain))


@checked
@given(problem=problems())
def test_reasons_tell_the_truth(problem: Problem) -> None:
    """NO_OPTION means no possible column; CAPACITY names a row that the request's possible columns touch."""
    plan = quick(problem)
    if plan.termination.reason is StopReason.INFEASIBLE:
        return
    option = possible(problem).any(axis=1)
    for i in range(problem.n):
        assert (plan.reason[i] == Reason.SERVED) == (plan.choice[i] >= 0)
        if plan.choice[i] < 0:
            assert (plan.reason[i] == Reason.NO_OPTION) == (not option[i])
            assert -1 <= plan.limit[i] < problem.rows


@pytest.mark.parametrize(("n", "m", "load"), [(120, 6, 0.9), (300, 10, 2.0)])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_prices_are_zero_where_a_row_has_room(n: int, m: int, load: float, objective: str) -> None:
    """Complementary slackness, up to the gap: price times what is left of a row is part of cost - cost_bound."""
    problem = market(n, m, load, 5)
    problem = dataclasses.replace(problem, value=(problem.cost.mean(axis=1)).astype(np.int64))
    plan = solve(problem, gap=1e-2, time_limit_s=1.5, objective=objective)
    certificate = verify(problem, plan)
    assert certificate.ok, certificate.violations
    finite = np.isfinite(problem.caps)
    room = np.where(finite, problem.caps - certificate.used, 0.0)
    unused = float(np.sum(np.where(finite, plan.prices.lam, 0.0) * room))
    assert unused <= plan.cost - plan.cost_bound + 1e-6 * (1 + plan.cost)


def test_the_same_seed_gives_the_same_bytes() -> None:
    """Twice the same call, and one thread or two: the same plan and prices, when it ends before its limit."""
    problem = market(150, 8, 0.7, 3)
    first, second = (solve(problem, gap=0.02, time_limit_s=30.0, seed=3, threads=t) for t in (1, 2))
    again = solve(problem, gap=0.02, time_limit_s=30.0, seed=3, threads=1)
    assert first.termination.reason is not StopReason.TIME_LIMIT
    for other in (second, again):
        assert np.array_equal(first.choice, other.choice)
        assert np.array_equal(first.prices.lam, other.prices.lam)
        assert (first.cost_bound, first.gap) == (other.cost_bound, other.gap)


def test_prices_of_one_solve_warm_the_next() -> None:
    """Warm prices change the way, never the certificate."""
    problem = market(150, 8, 0.7, 3)
    cold = solve(problem, gap=0.02, time_limit_s=10.0)
    warm = solve(problem, gap=0.02, time_limit_s=10.0, warm=Prices(cold.prices.names, cold.prices.lam))
    certificate = verify(problem, warm)
    assert certificate.ok, certificate.violations
    assert warm.served == cold.served
    assert warm.gap <= 0.02
