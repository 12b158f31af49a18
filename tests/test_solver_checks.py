"""Whatever comes in instead of what is documented: one message that names the field, what was expected and found."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from solver import (
    InvalidProblem,
    Limit,
    Plan,
    Prices,
    Problem,
    Reason,
    StopReason,
    Termination,
    solve,
    verify,
)
from solver.explain import explain
from solver.online import Router, reprice

NAN, INF = math.nan, math.inf
COST = np.array([[1, 5], [2, 3], [4, 4]])
EVERY = np.ones((3, 2), bool)


def problem_with(**fields: Any) -> Problem:
    return Problem(**{"cost": COST, "allowed": EVERY, **fields})


def limit_with(cap: Any = 1.0, **fields: Any) -> Problem:
    return problem_with(limits=[Limit("rpm", cap, **fields)])


@pytest.fixture(scope="module")
def problem() -> Problem:
    """Three requests, two columns, room for one."""
    return problem_with(limits=[Limit("rpm", 1.0)])


@pytest.fixture(scope="module")
def plan(problem: Problem) -> Plan:
    return solve(problem)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (None, "cost: expected 2 dimension"),
        ({"a": 1}, "cost: expected 2 dimension"),
        (COST[0], r"cost: expected 2 dimension\(s\), found shape \(2,\)"),
        (COST.astype(object), "cost: expected int64 nano-dollars, found dtype object"),
        (COST.astype(str), "cost: expected int64 nano-dollars, found dtype <U"),
        (COST * 1j, "cost: expected int64 nano-dollars, found dtype complex"),
        (EVERY, "cost: expected int64 nano-dollars, found dtype bool"),
        (COST * NAN, "cost: expected whole nano-dollars, found NaN"),
        (COST * INF, "cost: expected whole nano-dollars, found NaN, infinity"),
        (COST + 0.5, "cost: expected whole nano-dollars"),
        (-COST, "cost: expected >= 0 where allowed, found -5"),
        (COST + 2**53, "cost: expected at most 2\\*\\*53 nano-dollars, found 9007"),
    ],
)
def test_costs_that_are_none(given: Any, words: str) -> None:
    """Wrong dtype, shape, sign, size, or no number."""
    with pytest.raises(InvalidProblem, match=words):
        problem_with(cost=given)


def test_costs_of_forbidden_pairs_are_never_read() -> None:
    """NaN, a negative and a huge cost where no pair is allowed change nothing."""
    allowed = np.array([[True, False], [True, False], [True, False]])
    odd = np.array([[1.0, NAN], [2.0, -7.0], [4.0, 1e300]])
    plan = solve(problem_with(cost=odd, allowed=allowed), gap=0.0)
    assert (plan.cost, plan.choice.tolist()) == (7, [0, 0, 0])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"allowed": EVERY.astype(int)}, "allowed: expected dtype bool, found int64"),
        ({"allowed": EVERY[:2]}, r"allowed: expected shape \(3, 2\) as cost has, found \(2, 2\)"),
        ({"weight": [1.0]}, "weight: expected length 3, found 1"),
        ({"weight": [1.0, 0.0, 1.0]}, "weight: expected numbers > 0"),
        ({"weight": [1.0, NAN, 1.0]}, "weight: expected numbers > 0"),
        ({"weight": [1.0, 1e300, 1.0]}, "weight: expected numbers > 0, at most 2\\*\\*53"),
        ({"weight": "heavy"}, "weight: expected 1 dimension"),
        ({"value": [1.5, 2.0, 3.0]}, "value: expected int64 nano-dollars, found dtype float64"),
        ({"value": [-1, 2, 3]}, "value: expected 0 .. 2\\*\\*53 nano-dollars"),
        ({"limits": None}, "limits: expected a list of Limit, found NoneType"),
        ({"limits": 5}, "limits: expected a list of Limit, found int"),
        ({"limits": Limit("rpm", 1)}, "limits: expected a list of Limit, found Limit"),
        ({"limits": {"rpm": 1}}, r"limits\[0\]: expected a Limit, found str"),
        ({"limits": [Limit("rpm", 1), None]}, r"limits\[1\]: expected a Limit, found NoneType"),
        ({"limits": [("rpm", 1)]}, r"limits\[0\]: expected a Limit, found tuple"),
        ({"limits": [Limit(5, 1)]}, r"limits\[0\] 5: name: expected a text, found int"),  # type: ignore[arg-type]
    ],
)
def test_fields_of_a_problem_that_are_none(fields: dict[str, Any], words: str) -> None:
    """Each field by its name, a limit by its place."""
    with pytest.raises(InvalidProblem, match=words):
        problem_with(**fields)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"cap": None}, "cap: expected a number, found None"),
        ({"cap": "1"}, "cap: expected a number, found '1'"),
        ({"cap": True}, "cap: expected a number, found True"),
        ({"cap": NAN}, "cap: expected numbers, found NaN"),
        ({"cap": -INF}, "cap: expected numbers, found NaN or -inf"),
        ({"cap": 10**400}, "cap: expected a number, found 1000"),
        ({"cap": [1.0, 2.0]}, r"cap: expected one number without group, found shape \(2,\)"),
        ({"cap": 1.0, "group": [0, 0, 0]}, r"cap: expected one number per group, found shape \(\)"),
        ({"cap": [NAN], "group": [0, 0, 0]}, "cap: expected numbers, found NaN"),
        ({"cap": [1.0], "group": 0}, "group: expected 1 dimension"),
        ({"cap": [1.0], "group": [0, 0]}, "group: expected length 3, found 2"),
        ({"cap": [1.0], "group": [0, 0, 1]}, "group: expected -1 .. 0"),
        ({"cap": [1.0], "group": [0.0, 0.0, 0.0]}, "group: expected integers, found dtype float64"),
        ({"models": 0}, r"models: expected a list of indices, found shape \(\)"),
        ({"models": "ab"}, "models: expected a list of indices"),
        ({"models": [2]}, "models: expected 0 .. 1, found 2 .. 2"),
        ({"models": [-1]}, "models: expected 0 .. 1, found -1"),
        ({"models": [True, False]}, "models: expected a list of indices, found .* dtype bool"),
        ({"models": [[1], [0, 1]]}, "models: expected a list of indices, found lists of different lengths"),
        ({"requests": [3]}, "requests: expected 0 .. 2, found 3 .. 3"),
        ({"usage": None}, "usage: expected a number or an array, found None"),
        ({"usage": "1"}, "usage: expected a number or an array, found '1'"),
        ({"usage": 10**400}, "usage: expected a finite number"),
        ({"usage": NAN}, "usage: expected a finite number, found nan"),
        ({"usage": np.ones(2)}, r"usage: expected shape \(3,\) or \(3, 2\), found \(2,\)"),
        ({"usage": np.array([1.0, INF, 1.0])}, "usage: expected finite numbers, found NaN or infinity"),
        ({"usage": np.array([1, 2, None])}, "usage: expected real numbers, found dtype object"),
    ],
)
def test_fields_of_a_limit_that_are_none(fields: dict[str, Any], words: str) -> None:
    """The message says which limit, by place and name, and which field of it."""
    with pytest.raises(InvalidProblem, match=r"limits\[0\] 'rpm': " + words):
        limit_with(**fields)


@pytest.mark.parametrize("argument", ["time_limit_s", "gap"])
@pytest.mark.parametrize("given", [None, "2", NAN, INF, -1, 1j, True, np.ones(2), 10**400])
def test_a_time_or_gap_that_is_no_number(problem: Problem, argument: str, given: Any) -> None:
    """Both must be finite numbers, not below 0."""
    with pytest.raises(InvalidProblem, match=f"{argument}: expected a number >=? ?0, found"):
        solve(problem, **{argument: given})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seed": None}, "seed: expected a whole number >= 0, found None"),
        ({"seed": -1}, "seed: expected a whole number >= 0, found -1"),
        ({"seed": 1.5}, "seed: expected a whole number >= 0, found 1.5"),
        ({"threads": 0}, "threads: expected a whole number >= 1, found 0"),
        ({"threads": "2"}, "threads: expected a whole number >= 1, found '2'"),
        ({"objective": ["surplus"]}, "objective: expected one of served_then_cost, surplus, found"),
        ({"warm": np.ones(1)}, "warm: expected a Prices, found ndarray"),
        ({"warm": Prices(("rpm",), np.array([NAN]))}, "warm.lam: expected 1 finite numbers >= 0, found NaN"),
        ({"warm": Prices(("rpm",), np.array([-1.0]))}, "warm.lam: expected 1 finite numbers >= 0"),
        ({"warm": Prices((), np.zeros(0))}, r"warm.lam: expected 1 .* found shape \(0,\)"),
        ({"warm": Prices(("rpm",), None)}, r"warm.lam: expected 1 dimension"),  # type: ignore[arg-type]
    ],
)
def test_options_that_are_none(problem: Problem, options: dict[str, Any], words: str) -> None:
    """Every option of ``solve`` is checked before anything is done."""
    with pytest.raises(InvalidProblem, match=words):
        solve(problem, **options)


@pytest.mark.parametrize("given", [None, 3, COST])
def test_what_is_no_problem_is_refused_everywhere(plan: Plan, given: Any) -> None:
    """solve, verify, explain, reprice and route_many say what they were given instead."""
    words = f"expected a Problem, found {type(given).__name__}"
    for call in (
        lambda: solve(given),
        lambda: verify(given, plan),
        lambda: explain(given, plan),
        lambda: reprice(given, np.ones(3), np.ones(1)),
        lambda: plan.prices.route_many(given),
    ):
        with pytest.raises(InvalidProblem, match=words):
            call()


FIELDS = [field.name for field in dataclasses.fields(Plan)]


@pytest.mark.parametrize("field", [f for f in FIELDS if f != "served_prices"])
@pytest.mark.parametrize("given", [None, "x", object(), np.zeros(2), np.array([9, 9, 9])], ids=repr)
def test_a_plan_that_is_none_is_a_violation(problem: Problem, plan: Plan, field: str, given: Any) -> None:
    """``verify`` raises for no plan: whatever stands in a field, it says which; ``explain`` refuses it."""
    broken = dataclasses.replace(plan, **{field: given})
    certificate = verify(problem, broken)
    assert not certificate.ok
    assert any(field in words for words in certificate.violations)
    with pytest.raises(InvalidProblem, match=field):
        explain(problem, broken)


def test_what_is_no_plan_or_no_served_prices(problem: Problem, plan: Plan) -> None:
    """None instead of a plan, and a text instead of prices."""
    assert verify(problem, None).violations == ("plan: expected a Plan, found NoneType",)  # type: ignore[arg-type]
    broken = dataclasses.replace(plan, served_prices="x")  # type: ignore[arg-type]
    assert verify(problem, broken).violations[0].startswith("served_prices: expected 1 finite numbers")
    with pytest.raises(InvalidProblem, match="gap: expected a number >= 0, found 'x'"):
        verify(problem, plan, gap="x")  # type: ignore[arg-type]
    with pytest.raises(InvalidProblem, match="most_limits: expected a whole number >= 0, found -1"):
        explain(problem, plan, most_limits=-1)


@pytest.mark.parametrize(
    ("place", "given", "words"),
    [
        (0, None, "cost_row: expected 1 dimension"),
        (0, "x", "cost_row: expected 1 dimension"),
        (0, np.array([None, None]), "cost_row: expected 2 numbers, found dtype object"),
        (0, np.ones(5), r"usage_rows\[0\]: expected 5 numbers, found shape \(2,\)"),
        (0, np.array([1.0, NAN]), "cost_row: expected 2 numbers, found NaN"),
        (1, None, "usage_rows: expected 2 dimension"),
        (1, np.ones((3, 2)), "usage_rows: expected length 1, found 3"),
        (1, [[1.0, 1.0]], "expected arrays, found lists"),
        (2, None, "left: expected 1 dimension"),
        (2, "x", "left: expected 1 dimension"),
        (3, np.array([1, 0]), "allowed: expected dtype bool, found int64"),
        (4, "x", "value: expected a number, found 'x'"),
        (4, NAN, "value: expected a number, found nan"),
    ],
)
def test_one_request_with_arguments_that_are_none(place: int, given: Any, words: str) -> None:
    """``Prices.route`` says which array is not one, instead of what NumPy makes of it."""
    cost, usage, left, allowed, value = (
        given if k == place else fine
        for k, fine in enumerate((COST[0], np.ones((1, 2)), np.ones(1), None, INF))
    )
    with pytest.raises(InvalidProblem, match=words):
        Prices(("rpm",), np.zeros(1)).route(cost, usage, left, allowed=allowed, value=value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"count": "x"}, "count: expected 1 dimension"),
        ({"count": [1, 1, INF]}, "count: expected 3 finite numbers >= 0"),
        ({"left": ["x"]}, "left: expected 1 numbers, found dtype <U1"),
        ({"unserved": NAN}, "unserved: expected a number >= 0, found nan"),
        ({"unserved": -1.0}, "unserved: expected a number >= 0, found -1.0"),
        ({"warm": "x"}, "warm: expected a Prices, found str"),
    ],
)
def test_new_prices_from_what_is_no_demand(problem: Problem, arguments: dict[str, Any], words: str) -> None:
    """Every argument of ``reprice`` by its name."""
    with pytest.raises(InvalidProblem, match=words):
        reprice(problem, **{"count": np.ones(3), "left": np.ones(1), **arguments})


@pytest.mark.parametrize(
    ("touches", "kinds", "words"),
    [
        (None, 1, "touches: expected a list of .* pairs"),
        ("ab", 1, "touches: expected a list of .* pairs"),
        ([[(0.5, 0)]], 1, "touches: expected a list of .* pairs"),
        ([[(5, 0)]], 1, r"touches\[0\]: expected a row from 0 to 0 .* found \(5, 0\)"),
        ([[(-1, 0)]], 1, r"touches\[0\]: expected a row from 0 to 0 .* found \(-1, 0\)"),
        ([[(0, 0)]], -1, "kinds: expected a whole number >= 0, found -1"),
    ],
)
def test_a_router_of_rows_that_do_not_exist(touches: Any, kinds: Any, words: str) -> None:
    """Rows and kinds are checked once, when the prices are compiled."""
    with pytest.raises(InvalidProblem, match=words):
        Router(Prices(("rpm",), np.zeros(1)), touches, kinds)


@pytest.mark.parametrize("objective", ["served_then_cost", "surplus"])
@pytest.mark.parametrize(
    "limits",
    [
        [Limit("closed", 0.0)],
        [Limit("nobody", 0.0, models=[]), Limit("none", 0.0, requests=[]), Limit("all", 0.0)],
        [Limit("no groups", np.zeros(0), group=np.full(40, -1, np.int32)), Limit("all", 0.0)],
        [Limit("closed each", np.zeros(40), group=np.arange(40, dtype=np.int32))],
        [Limit("tiny", 1e-300, usage=np.full(40, 1e-3))],
        [Limit("huge", 1.0, usage=np.full((40, 3), 1e308))],
        [Limit("tenant", np.zeros(1_000_000), group=np.arange(40, dtype=np.int32) * 25_000)],
    ],
    ids=lambda limits: limits[0].name,
)
def test_limits_that_leave_no_room_give_an_empty_plan(limits: list[Limit], objective: str) -> None:
    """Zero caps, rows of no pair, no groups, a million groups, usage far beyond the cap: proven, with reasons."""
    n = 40
    cost = np.arange(3 * n).reshape(n, 3) + 1
    problem = Problem(cost, np.ones((n, 3), bool), value=np.full(n, 10**6), limits=limits)
    plan = solve(problem, gap=0.0, time_limit_s=20.0, objective=objective)
    certificate = verify(problem, plan)
    assert certificate.ok, certificate.violations
    assert (plan.served, plan.cost, set(plan.choice.tolist())) == (0.0, 0, {-1})
    assert plan.termination.reason is StopReason.OPTIMAL
    assert set(plan.reason.tolist()) <= {Reason.NO_OPTION, Reason.CAPACITY}
    assert plan.termination == Termination(
        plan.termination.reason, plan.termination.limit, plan.cost_bound, 0.0
    )


def test_caps_and_costs_at_the_edge_of_what_is_allowed() -> None:
    """The largest float as a cap and 2**53 nano-dollars a request: totals stay exact, everybody is served."""
    cost = np.full((50, 2), 2**53)
    limits = [Limit("most", np.finfo(float).max, usage=cost), Limit("one each", 25.0, models=[0])]
    problem = Problem(cost, np.ones((50, 2), bool), limits=limits)
    plan = solve(problem, gap=0.0, time_limit_s=20.0)
    certificate = verify(problem, plan)
    assert certificate.ok, certificate.violations
    assert (plan.served, plan.cost) == (50.0, 50 * 2**53)
