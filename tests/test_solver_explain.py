"""A plan explained: what each limit costs, and why each request was left out."""

from __future__ import annotations

import dataclasses
from decimal import Decimal

import numpy as np
import pytest
from brute_force import plan_of

from benchmarks.instances import market
from solver import solve
from solver.explain import explain
from solver.problem import InvalidProblem, Limit, Problem, Reason


@pytest.fixture
def problem() -> Problem:
    """Request 0 and 1 want column 0 (one fits), 2 is filtered out, 3 needs nine tokens where five fit."""
    return Problem(
        cost=np.array([[10, 30], [20, 90], [40, 50], [60, 70]]) * 1000,
        allowed=np.array([[True, True], [True, False], [False, False], [True, False]]),
        limits=[
            Limit("A requests", 1, models=[0]),
            Limit("A tokens", 5, models=[0], usage=np.array([1, 1, 1, 9])),
            Limit("team", np.array([1e6, np.inf]), usage=1.0, group=np.array([0, 0, 1, -1], np.int32)),
        ],
    )


def test_limits_show_use_cap_and_price_in_dollars(problem: Problem) -> None:
    """Price 20,000 nano-dollars a request: $0.00002; a tenth of a cap of one saves a tenth of that."""
    plan = plan_of(problem, [1, 0, -1, -1], lam=[20_000.0, 0, 0, 7.0], unserved=float("inf"))
    first, tokens, team, other = explain(problem, plan).limits
    assert (first.name, first.used, first.cap) == ("A requests", 1.0, 1.0)
    assert (first.shadow_price_usd, first.more_saves_usd) == ("0.00002", "0.000002")
    assert (tokens.name, tokens.used, tokens.shadow_price_usd, tokens.more_saves_usd) == (
        "A tokens",
        1.0,
        "0",
        "0",
    )
    assert (team.name, team.used) == ("team[0]", 2.0)
    assert (other.cap, other.shadow_price_usd, other.more_saves_usd) == (float("inf"), "0", "0")


def test_each_unserved_request_hears_why(problem: Problem) -> None:
    """A full limit with its price, a filter that left nothing, and a size that fits nowhere."""
    plan = plan_of(problem, [0, -1, -1, -1], lam=[20_000.0, 0, 0, 0], unserved=50_000.0)
    limit = np.array([-1, 0, -1, -1], np.int32)
    full, filtered, large = explain(problem, dataclasses.replace(plan, limit=limit)).unserved
    assert (full.request, full.reason, full.column, full.limit) == (1, Reason.CAPACITY, 0, "A requests")
    assert "$0.00002 a unit" in full.detail
    assert (filtered.request, filtered.detail) == (2, "no column passes its filters")
    assert (large.request, large.limit) == (3, "A tokens")
    assert large.detail == "fits no limit on its own: needs 9 of A tokens, which has 5"


def test_surplus_says_what_a_request_is_worth_and_what_it_costs() -> None:
    """Worth 5, costs 9 at least."""
    problem = Problem(np.array([[9, 12]]), np.ones((1, 2), bool), value=np.array([5]))
    (unserved,) = explain(problem, plan_of(problem, [-1], objective="surplus")).unserved
    assert (unserved.reason, unserved.column) == (Reason.PRICED_OUT, 0)
    assert unserved.detail == "worth $0.000000005, the least cost is $0.000000009"


def test_more_room_saves_about_what_the_price_says() -> None:
    """Ten requests save 1 .. 10 by a column for five: the sixth saves 5, one more unit is priced 5 to 6."""
    savings = np.arange(1, 11) * 1_000_000
    cost = np.stack([np.zeros(10, int), savings], axis=1)
    problem = Problem(cost, np.ones((10, 2), bool), limits=[Limit("cheap", 5, models=[0])])
    plan = solve(problem, gap=0.0, time_limit_s=5.0)
    wider = solve(
        dataclasses.replace(problem, limits=[Limit("cheap", 6, models=[0])]), gap=0.0, time_limit_s=5.0
    )
    price = Decimal(explain(problem, plan).limits[0].shadow_price_usd) * 10**9
    assert wider.cost == plan.cost - 5_000_000
    assert 5_000_000 <= price <= 6_000_000


def test_a_market_is_explained_and_long_lists_are_cut() -> None:
    """Priced rows come first when rows are many; unserved requests are cut at the number asked for."""
    problem = market(120, 6, 2.0, 4)
    plan = solve(problem, gap=0.05, time_limit_s=1.0)
    whole = explain(problem, plan)
    out = np.flatnonzero(plan.choice < 0)
    assert [u.request for u in whole.unserved] == out.tolist()
    assert all(u.detail for u in whole.unserved)
    assert len(whole.limits) == problem.rows
    priced = {u.row for u in whole.limits if u.shadow_price_usd != "0"}
    some = explain(problem, plan, most_limits=max(1, len(priced)), most_unserved=2)
    assert priced <= {u.row for u in some.limits} or not priced
    assert len(some.unserved) == min(2, len(out))


def test_another_problem_is_refused(problem: Problem) -> None:
    """A plan of four requests does not explain a problem of one."""
    plan = plan_of(problem, [0, -1, -1, -1])
    with pytest.raises(InvalidProblem, match=r"choice: expected 1 integers, found shape \(4,\)"):
        explain(Problem(np.ones((1, 1), int), np.ones((1, 1), bool)), plan)
