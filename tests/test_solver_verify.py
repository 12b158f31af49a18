"""The verifier accepts what is proven and nothing else."""

from __future__ import annotations

import ast
import dataclasses
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from brute_force import plan_of

import solver
from benchmarks.instances import greedy, market
from solver.online import Prices
from solver.problem import Limit, Problem, Reason, StopReason, Termination
from solver.verify import verify

NAMES = ("A requests",)


@pytest.fixture
def problem() -> Problem:
    """Three requests, two columns, one request fits column 0. Best: request 0 there, 10 + 25 + 50 = 85."""
    return Problem(
        cost=np.array([[10, 30], [20, 25], [40, 50]]),
        allowed=np.ones((3, 2), dtype=bool),
        value=np.array([35, 35, 35]),
        limits=[Limit("A requests", 1, models=[0])],
    )


@pytest.fixture
def forbidding() -> Problem:
    """The same with request 2 filtered out everywhere and request 1 too large for the only column left to it."""
    return Problem(
        cost=np.array([[10, 30], [20, 25], [40, 50]]),
        allowed=np.array([[True, True], [True, False], [False, False]]),
        limits=[
            Limit("A requests", 1, models=[0]),
            Limit("A tokens", 5, models=[0], usage=np.array([4, 6, 4])),
        ],
    )


def test_a_proven_plan_is_accepted_with_its_proof_recomputed(problem: Problem) -> None:
    """At price 10 the bound is min(20, 30) + min(30, 25) + min(50, 50) - 10 = 85, the cost itself."""
    certificate = verify(problem, plan_of(problem, [0, 1, 1], lam=[10.0], unserved=float("inf")))
    assert certificate.ok, certificate.violations
    assert (certificate.cost, certificate.cost_bound, certificate.gap) == (85, 85.0, 0.0)
    assert (certificate.served, certificate.served_bound) == (3.0, 3)
    assert certificate.used.tolist() == [1.0]


def test_lost_requests_are_bounded_by_what_leaving_them_costs(problem: Problem) -> None:
    """With nu = 30: 30 x 2 + min(0, 20-30) + min(0, 25-30) + min(0, 50-30) - 10 = 35 = cost of requests 0, 1."""
    certificate = verify(problem, plan_of(problem, [0, 1, -1], lam=[10.0], unserved=30.0))
    assert certificate.ok, certificate.violations
    assert (certificate.cost_bound, certificate.gap) == (35.0, 0.0)


def test_surplus_is_bounded_from_above(problem: Problem) -> None:
    """Surplus 25 + 10 of 35; at price 15 the bound is 10 + 10 + 0 + 15 = 35."""
    certificate = verify(problem, plan_of(problem, [0, 1, -1], lam=[15.0], objective="surplus"))
    assert certificate.ok, certificate.violations
    assert certificate.gap == 0.0
    assert certificate.cost_bound == 35.0


def test_served_bound_is_proven_by_its_own_prices() -> None:
    """Three requests of weight 1, room for two: price 1 per request proves that two is all."""
    problem = Problem(np.ones((3, 1), int), np.ones((3, 1), bool), limits=[Limit("requests", 2)])
    certificate = verify(problem, plan_of(problem, [0, 0, -1], mu=[1.0], unserved=1.0))
    assert certificate.ok, certificate.violations
    assert certificate.served_bound == 2


def test_impossible_columns_add_nothing_to_the_bound(forbidding: Problem) -> None:
    """Request 1 does not fit alone and request 2 is filtered, so nobody owes their cost."""
    certificate = verify(forbidding, plan_of(forbidding, [0, -1, -1], unserved=float("inf")))
    assert certificate.ok, certificate.violations
    assert (certificate.cost_bound, certificate.served_bound) == (10.0, 1)


def test_a_weaker_statement_is_accepted(problem: Problem) -> None:
    """Stating a looser bound is no lie, as long as gap and termination say the same."""
    plan = plan_of(problem, [0, 1, 1], lam=[10.0], unserved=float("inf"))
    gap = 5 / 85
    loose = dataclasses.replace(
        plan, cost_bound=80.0, gap=gap, termination=Termination(StopReason.TIME_LIMIT, "", 80.0, gap)
    )
    assert verify(problem, loose).ok


def test_exhaustive_search_may_claim_more_in_termination_only(problem: Problem) -> None:
    """OPTIMAL with bound = cost and gap 0 stands beside a plan.gap that prices prove."""
    plan = plan_of(problem, [0, 1, 1], unserved=float("inf"))
    done = dataclasses.replace(plan, termination=Termination(StopReason.OPTIMAL, "search", 85.0, 0.0))
    assert plan.gap > 0.1
    assert verify(problem, done).ok
    early = dataclasses.replace(plan, termination=Termination(StopReason.GAP_MET, "search", 85.0, 0.0))
    assert "termination" in verify(problem, early).violations[0]
    assert not verify(problem, done, gap=0.1).ok


TAMPERED = {
    "a column outside": ("choice", np.array([0, 2, 1], np.int32), "choice"),
    "a full column": ("choice", np.array([0, 0, 1], np.int32), "A requests"),
    "a choice of another length": ("choice", np.array([0, 1], np.int32), "choice"),
    "fractions as choice": ("choice", np.array([0.0, 1.0, 1.0]), "choice"),
    "more served": ("served", 3.5, "served"),
    "NaN served": ("served", float("nan"), "served"),
    "less cost": ("cost", 84, "cost"),
    "a higher bound": ("cost_bound", 85.001, "cost_bound"),
    "a NaN bound": ("cost_bound", float("nan"), "cost_bound"),
    "a lower gap": ("gap", -0.01, "gap"),
    "a gap apart from its bound": ("gap", 0.5, "gap"),
    "a NaN gap": ("gap", float("nan"), "gap"),
    "a lower served bound": ("served_bound", 2, "served_bound"),
    "a NaN served bound": ("served_bound", float("nan"), "served_bound"),
    "a negative price": ("prices", Prices(NAMES, np.array([-1.0]), 9e9), "prices"),
    "a NaN price": ("prices", Prices(NAMES, np.array([np.nan]), 9e9), "prices"),
    "an infinite price": ("prices", Prices(NAMES, np.array([np.inf]), 9e9), "prices"),
    "a price too many": ("prices", Prices(NAMES, np.zeros(2), 9e9), "prices"),
    "prices that prove less": ("prices", Prices(NAMES, np.array([5.0])), "cost_bound"),
    "a negative nu": ("prices", Prices(NAMES, np.array([10.0]), -1.0), "unserved"),
    "a NaN nu": ("prices", Prices(NAMES, np.array([10.0]), float("nan")), "unserved"),
    "served prices of another length": ("served_prices", Prices((), np.zeros(0)), "served_prices"),
    "a reason of the unserved": ("reason", np.array([0, 0, 2], np.uint8), "SERVED"),
    "no option where there is one": ("reason", np.array([0, 0, 1], np.uint8), "NO_OPTION"),
    "priced out without surplus": ("reason", np.array([0, 0, 3], np.uint8), "PRICED_OUT"),
    "an unknown reason": ("reason", np.array([0, 0, 9], np.uint8), "reason"),
    "a limit that is no row": ("limit", np.array([-1, -1, 1], np.int32), "limit"),
    "another objective": ("objective", "least_effort", "objective"),
    "a smaller gap at the end": (
        "termination",
        Termination(StopReason.GAP_MET, "", 85.0, -0.1),
        "termination",
    ),
    "infeasible with a plan": (
        "termination",
        Termination(StopReason.INFEASIBLE, "", 85.0, 0.0),
        "INFEASIBLE",
    ),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_a_tampered_plan_is_rejected(problem: Problem, what: str) -> None:
    """One changed field is enough, and the violation names it."""
    field, value, word = TAMPERED[what]
    plan = plan_of(problem, [0, 1, 1], lam=[10.0], unserved=float("inf"))
    certificate = verify(problem, dataclasses.replace(plan, **{field: value}))
    assert not certificate.ok
    assert any(word in violation for violation in certificate.violations), certificate.violations


def test_a_filtered_pair_is_rejected(forbidding: Problem) -> None:
    """A request served by a column its filters forbid is named."""
    plan = plan_of(forbidding, [0, -1, -1], unserved=float("inf"))
    choice = np.array([0, -1, 1], np.int32)
    reason = np.array([0, 1, 0], np.uint8)
    certificate = verify(
        forbidding, dataclasses.replace(plan, choice=choice, reason=reason, served=2.0, cost=60)
    )
    assert "request 2 is served by a column its filters forbid" in certificate.violations


def test_infinite_nu_is_rejected_where_a_request_could_have_been_served(problem: Problem) -> None:
    """Then the first bound would be that of plans that serve more."""
    plan = plan_of(problem, [0, 1, -1], lam=[10.0], unserved=30.0)
    cheat = dataclasses.replace(plan, prices=Prices(NAMES, np.array([10.0])))
    assert any("unserved" in violation for violation in verify(problem, cheat).violations)


@pytest.mark.parametrize("scale", [1e14, 1e18, 1e200, 1e308])
def test_huge_prices_cannot_hide_behind_rounding(scale: float) -> None:
    """Two rows that cancel exactly at absurd prices leave nothing that float64 can vouch for."""
    problem = Problem(
        cost=np.full((4, 2), 100),
        allowed=np.ones((4, 2), dtype=bool),
        limits=[Limit("up", 0.1, usage=np.full(4, 0.1)), Limit("down", 0.0, usage=np.full(4, -0.1))],
    )
    plan = plan_of(problem, [0, -1, -1, -1], lam=[scale, scale], unserved=1e3)
    stated = dataclasses.replace(
        plan, cost_bound=100.0, gap=0.0, termination=Termination(StopReason.GAP_MET, "", 100.0, 0.0)
    )
    assert not verify(problem, stated).ok


def test_surplus_never_pays_more_than_a_request_is_worth(problem: Problem) -> None:
    """Request 2 is worth 35 and costs at least 40."""
    plan = plan_of(problem, [0, 1, 1], objective="surplus")
    assert any("above its value" in violation for violation in verify(problem, plan).violations)


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [
        ("prices", Prices(NAMES, np.array([15.0]), 3.0), "unserved"),
        ("prices", Prices(NAMES, np.array([25.0]), 0.0), "gap"),
        ("served_prices", Prices(NAMES, np.array([0.0])), "served_prices"),
        ("cost_bound", 35.5, "cost_bound"),
        ("served_bound", 2.0, "served_bound"),
        ("reason", np.array([0, 0, 2], np.uint8), "PRICED_OUT"),
        ("gap", -0.1, "gap"),
    ],
)
def test_a_tampered_surplus_is_rejected(problem: Problem, field: str, value: object, word: str) -> None:
    """The other objective is watched as closely."""
    plan = dataclasses.replace(
        plan_of(problem, [0, 1, -1], lam=[15.0], objective="surplus"), **{field: value}
    )
    assert any(word in violation for violation in verify(problem, plan).violations)


def test_surplus_needs_values() -> None:
    """A problem without values has no surplus."""
    problem = Problem(np.ones((1, 1), int), np.ones((1, 1), bool))
    plan = dataclasses.replace(plan_of(problem, [0], unserved=0.0), objective="surplus")
    assert any("values" in violation for violation in verify(problem, plan).violations)


def test_no_plan_is_an_answer_only_where_serving_nobody_breaks_a_row(problem: Problem) -> None:
    """A commitment of two on a column for one: nothing is served, and INFEASIBLE says why."""
    commitment = Limit("A commitment", -2, models=[0], usage=-1)
    bound = Problem(problem.cost, problem.allowed, limits=[*problem.limits, commitment])
    nothing = plan_of(bound, [-1, -1, -1], stop=StopReason.INFEASIBLE)
    assert verify(bound, nothing).ok
    assert verify(bound, plan_of(bound, [-1, -1, -1], stop=StopReason.TIME_LIMIT)).ok
    met = verify(bound, plan_of(bound, [-1, -1, -1], stop=StopReason.GAP_MET))
    assert any("A commitment" in violation for violation in met.violations)
    assert not verify(bound, plan_of(bound, [0, 1, 1], lam=[0, 0], stop=StopReason.TIME_LIMIT)).ok
    free = verify(problem, plan_of(problem, [-1, -1, -1], stop=StopReason.INFEASIBLE))
    assert any("INFEASIBLE" in violation for violation in free.violations)


def test_empty_batches_are_proven_too() -> None:
    """No requests, or no columns, or limits without rows: the empty plan, bounds 0."""
    for n, m in ((0, 3), (3, 0), (0, 0)):
        problem = Problem(
            np.zeros((n, m), int),
            np.zeros((n, m), bool),
            limits=[Limit("all", 1), Limit("no groups", np.zeros(0), group=np.full(n, -1, np.int32))],
        )
        certificate = verify(problem, plan_of(problem, np.full(n, -1)))
        assert certificate.ok, certificate.violations
        assert (certificate.served_bound, certificate.cost_bound) == (0, 0.0)


def test_costs_beyond_64_bits_are_summed_exactly() -> None:
    """Two thousand requests of 2**53 nano-dollars: 2**64 overflows an int64."""
    problem = Problem(np.full((2048, 1), 2**53), np.ones((2048, 1), bool))
    certificate = verify(problem, plan_of(problem, np.zeros(2048), unserved=float("inf")))
    assert certificate.ok, certificate.violations
    assert certificate.cost == 2**64


def test_memory_is_bounded_and_a_million_groups_are_fine() -> None:
    """Beyond the problem and arrays of n and K, the verifier holds a few chunks."""
    n = 200_000
    rng = np.random.default_rng(1)
    tenants = rng.integers(0, 1_000_000, n).astype(np.int32)
    cost = rng.integers(1, 1000, (n, 10))
    problem = Problem(
        cost,
        rng.random((n, 10)) < 0.9,
        limits=[
            Limit("tenant", np.full(1_000_000, 900.0), usage=cost, group=tenants),
            Limit("half", n / 4, models=[0, 1]),
        ],
    )
    choice = greedy(problem)
    took = choice >= 0
    reason = np.where(took, Reason.SERVED, Reason.CAPACITY).astype(np.uint8)
    none = ~(problem.allowed & (cost <= 900)).any(axis=1)
    reason[none] = Reason.NO_OPTION
    plan = plan_of(Problem(np.zeros((0, 10), int), np.zeros((0, 10), bool)), [])
    paid = int(cost[took, choice[took]].sum())
    plan = dataclasses.replace(
        plan,
        choice=choice,
        reason=reason,
        limit=np.full(n, -1, np.int32),
        served=float(took.sum()),
        cost=paid,
        served_bound=float((~none).sum()),
        gap=1.0,
        prices=Prices((), np.zeros(problem.rows), 0.0),
        termination=Termination(StopReason.TIME_LIMIT, "", 0.0, 1.0),
    )
    plain = n * 10 * 8 + 3 * problem.rows * 8  # one float64 array of the pairs, a few of the rows
    tracemalloc.start()
    certificate = verify(problem, plan)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert certificate.ok, certificate.violations
    assert peak < 2 * plain


def test_greedy_on_a_market_holds_every_row() -> None:
    """The verifier and the baseline agree about every kind of limit at once."""
    problem = market(400, 8, 1.2, 3, mean_quality=0.5, total_budget=0.5)
    certificate = verify(problem, plan_of(problem, greedy(problem), lam=np.ones(problem.rows), unserved=1e6))
    assert certificate.ok, certificate.violations


def test_the_verifier_imports_nothing_of_the_solver() -> None:
    """Only the words of a problem, the checks of arguments and the verifier's own evidence."""
    for name in ("verify.py", "evidence.py", "shapes.py", "checks.py"):
        tree = ast.parse((Path(solver.__file__).parent / name).read_text(encoding="utf-8"))
        own = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level}
        assert own <= {"problem", "evidence", "shapes", "checks"}
