"""What solve promises: known optima, every limit kind, guards, reasons, errors, determinism, the deadline."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from benchmarks.instances import data_path, gap_instance, gap_names, greedy, market
from solver import InvalidProblem, Limit, Problem, Reason, StopReason, solve, verify
from solver.problem import Plan

COST = np.array([[1, 5], [2, 3], [4, 4]], dtype=np.int64)
EVERY = np.ones((3, 2), dtype=np.bool_)


def solved(problem: Problem, **options: object) -> Plan:
    plan = solve(problem, **{"gap": 0.0, "time_limit_s": 20.0, **options})  # type: ignore[arg-type]
    certificate = verify(problem, plan)
    assert certificate.ok, certificate.violations
    return plan


def test_without_limits_everybody_gets_the_cheapest() -> None:
    """No limit binds: the cheapest columns are optimal and zero prices prove it."""
    plan = solved(Problem(COST, EVERY))
    assert plan.choice.tolist() == [0, 1 - 1, 0]
    assert (plan.cost, plan.gap, plan.termination.reason) == (7, 0.0, StopReason.OPTIMAL)


@pytest.mark.parametrize(
    ("limit", "served", "cost"),
    [
        (Limit("requests", 1.0, models=[0]), 3, 8),  # the one that saves most (4) keeps column 0
        (Limit("tokens", 4.0, models=[0], usage=np.array([4.0, 3.0, 1.0])), 3, 8),
        (Limit("pair usage", 2.0, usage=np.array([[2.0, 0], [2.0, 0], [2.0, 0]])), 3, 8),
        (Limit("some requests", 0.0, models=[0], requests=[0]), 3, 11),
        (Limit("total budget", 6.0, usage=COST), 2, 3),
        (Limit("tenants", np.array([1.0, 4.0]), usage=COST, group=np.array([0, 0, 1], np.int32)), 2, 5),
        (Limit("commitment", -2.0, models=[1], usage=-1.0), 3, 8),
        (Limit("mean quality", 0.0, usage=np.array([[0.5, -0.5]] * 3)), 3, 8),
        (Limit("no cap", np.inf), 3, 7),
        (Limit("nothing", 0.0), 0, 0),
        (Limit("no pair", 0.0, models=[]), 3, 7),
    ],
    ids=lambda value: value.name if isinstance(value, Limit) else None,
)
def test_every_kind_of_limit(limit: Limit, served: int, cost: int) -> None:
    """One limit at a time on three requests and two columns, the optimum worked out by hand."""
    plan = solved(Problem(COST, EVERY, limits=[limit]))
    assert (plan.served, plan.cost) == (served, cost)
    assert plan.termination.reason is StopReason.OPTIMAL


def test_surplus_never_serves_below_value() -> None:
    """A request that is worth less than its cheapest column stays out and is called priced out."""
    problem = Problem(COST, EVERY, value=np.array([10, 1, 6]), limits=[Limit("one", 1.0)])
    plan = solved(problem, objective="surplus")
    assert plan.choice.tolist() == [0, -1, -1]
    assert plan.reason.tolist() == [Reason.SERVED, Reason.PRICED_OUT, Reason.CAPACITY]
    assert plan.limit.tolist() == [-1, -1, 0]


def test_weights_come_before_cost() -> None:
    """With room for one, the request of weight 3 is served although it is the dearest."""
    plan = solved(Problem(COST, EVERY, weight=np.array([1.0, 1.0, 3.0]), limits=[Limit("one", 1.0)]))
    assert plan.choice[:2].tolist() == [-1, -1]
    assert plan.served == plan.served_bound == 3.0


def test_an_impossible_commitment_is_proven_infeasible() -> None:
    """Four requests are promised and three exist: no plan, and the limit is named as what cannot hold."""
    plan = solved(Problem(COST, EVERY, limits=[Limit("commitment", -4.0, usage=-1.0)]))
    assert plan.termination.reason is StopReason.INFEASIBLE
    assert plan.choice.tolist() == [-1, -1, -1]


def test_reasons_of_who_is_not_served() -> None:
    """No allowed column, a column too large for its cap alone, and a full limit are told apart."""
    allowed = EVERY.copy()
    allowed[0] = False
    tokens = np.array([1.0, 9.0, 1.0])
    plan = solved(
        Problem(COST, allowed, limits=[Limit("tokens", 5.0, usage=tokens), Limit("two", 0.0, models=[0, 1])])
    )
    assert plan.reason.tolist() == [Reason.NO_OPTION, Reason.NO_OPTION, Reason.NO_OPTION]
    full = solved(Problem(COST, EVERY, limits=[Limit("one", 1.0)]))
    assert sorted(full.reason.tolist()) == [Reason.SERVED, Reason.CAPACITY, Reason.CAPACITY]
    assert full.limit[full.choice < 0].tolist() == [0, 0]


@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 3), (3, 0)])
def test_nothing_to_do_is_an_empty_plan(n: int, m: int) -> None:
    """Empty batches and batches without columns give an optimal empty plan."""
    plan = solved(Problem(np.zeros((n, m), np.int64), np.zeros((n, m), np.bool_), limits=[Limit("l", 1.0)]))
    assert (plan.served, plan.cost, plan.choice.tolist()) == (0.0, 0, [-1] * n)


def test_all_pairs_filtered_out() -> None:
    """When every pair is filtered out nobody is served, for want of an option."""
    plan = solved(Problem(COST, ~EVERY, limits=[Limit("one", 1.0)]))
    assert plan.reason.tolist() == [Reason.NO_OPTION] * 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"objective": "fastest"}, "objective: expected one of"),
        ({"time_limit_s": 0.0}, "time_limit_s: expected a number > 0"),
        ({"time_limit_s": float("nan")}, "time_limit_s"),
        ({"gap": -1.0}, "gap: expected a number >= 0"),
        ({"objective": "surplus"}, "value: expected int64"),
    ],
)
def test_arguments_out_of_range_are_refused(options: dict[str, object], words: str) -> None:
    """Each bad argument gets one message that names it."""
    with pytest.raises(InvalidProblem, match=words):
        solve(Problem(COST, EVERY), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arrays", "limit", "words"),
    [
        ({"cost": [[1, 2], [3]]}, None, "cost: expected an array, found rows of different lengths"),
        ({"weight": np.array(["a"] * 3)}, None, "weight: expected float64, found dtype"),
        ({}, Limit("x", "many"), "cap: expected a number, found 'many'"),  # type: ignore[arg-type]
        ({}, Limit("x", 1.0, usage="a"), "usage: expected a number or an array"),  # type: ignore[arg-type]
        ({}, Limit("x", 1.0, usage=[1, 2, 3]), "usage: expected a number or an array"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_array_or_number_is_refused(
    arrays: dict[str, object], limit: Limit | None, words: str
) -> None:
    """Ragged rows, texts and lists where arrays belong get a message that names the field, not NumPy's own."""
    given = {"cost": COST, "allowed": EVERY, "limits": [] if limit is None else [limit], **arrays}
    with pytest.raises(InvalidProblem, match=words):
        Problem(**given)  # type: ignore[arg-type]


def test_prices_of_another_problem_are_refused() -> None:
    """Warm prices must have one price per row."""
    warm = solve(Problem(COST, EVERY, limits=[Limit("one", 1.0)])).prices
    with pytest.raises(InvalidProblem, match=r"warm\.lam: expected 0 finite numbers >= 0, found shape"):
        solve(Problem(COST, EVERY), warm=warm)


@pytest.mark.parametrize("load", [0.5, 1.0, 2.0])
def test_never_worse_than_cheapest_first(load: float) -> None:
    """However short the time, the plan serves more than cheapest-first or the same at no more cost."""
    problem = market(400, 8, load, seed=3)
    plan = solve(problem, time_limit_s=0.05)
    assert verify(problem, plan).ok
    simple = greedy(problem, block=1)
    took = simple >= 0
    cost = int(problem.cost[took, simple[took]].sum())
    assert (plan.served, -plan.cost) >= (float(took.sum()), -cost)


def test_the_deadline_leaves_a_feasible_plan() -> None:
    """A time limit far too short for the batch still gives a plan that holds, and says why it stopped."""
    problem = market(4000, 12, 1.5, seed=2)
    plan = solve(problem, gap=0.0, time_limit_s=0.02)
    assert verify(problem, plan).ok
    assert plan.termination.reason is StopReason.TIME_LIMIT


@pytest.mark.parametrize(("n", "m", "load"), [(40, 4, 0.8), (1500, 10, 0.2)])
def test_the_same_bytes_twice_and_on_one_thread(n: int, m: int, load: float) -> None:
    """A run that ends before its limit depends on the seed alone, not on the clock or the threads."""
    problem = market(n, m, load, seed=4)
    plans = [solve(problem, gap=0.05, time_limit_s=60.0, seed=7, threads=threads) for threads in (2, 2, 1)]
    for plan in plans:
        assert plan.termination.limit != "time limit"
        assert plan.choice.tobytes() == plans[0].choice.tobytes()
        assert plan.prices.lam.tobytes() == plans[0].prices.lam.tobytes()


def test_a_market_of_every_limit_kind_is_solved_to_the_optimum() -> None:
    """Rates, concurrency, accounts, tenants, a quality floor, a total budget and commitments at once."""
    problem = market(60, 4, 0.8, seed=5, mean_quality=0.6, total_budget=1.0, commitments=1)
    plan = solved(problem)
    assert plan.termination.reason is StopReason.OPTIMAL
    assert plan.served >= np.count_nonzero(greedy(problem) >= 0)


def test_warm_prices_are_accepted_and_change_nothing_proven() -> None:
    """A warm run proves its own gap."""
    problem = market(3500, 20, 0.3, seed=6)
    cold = solve(problem, gap=0.01, time_limit_s=30.0)
    warm = solve(problem, gap=0.01, time_limit_s=30.0, warm=cold.prices)
    assert verify(problem, warm).ok
    assert warm.gap <= 0.01


def test_a_million_tenants_end() -> None:
    """One limit with a million groups: the plan holds and the run ends."""
    n = 3000
    rng = np.random.default_rng(0)
    tenants = Limit("tenant", np.ones(1_000_000), group=rng.integers(0, 1_000_000, n).astype(np.int32))
    problem = Problem(
        rng.integers(1, 99, (n, 3)), np.ones((n, 3), np.bool_), limits=[tenants, Limit("all", 2000.0)]
    )
    plan = solve(problem, time_limit_s=2.0)
    assert verify(problem, plan).ok
    assert plan.served == 2000.0


@pytest.mark.parametrize("name", ["gap1-1", "gap2-0", "gap5-1"])
def test_known_optima_of_the_classic_instances(name: str) -> None:
    """Generalised assignment, every job served: the published optimum is found and proven."""
    data = data_path()
    if data is None or not (data / "gap").is_dir():
        pytest.skip("no generalised-assignment data: set NEGOTIATOR_DATA")
    known = {str(entry["name"]): entry for entry in gap_names(data)}
    plan = solved(gap_instance(data, name), time_limit_s=60.0)
    assert plan.cost == known[name]["best_known_min"]
    assert plan.termination.reason is StopReason.OPTIMAL


def test_importing_the_package_loads_no_solver() -> None:
    """A worker that imports ``solver`` for prices pays neither for OR-Tools nor for SciPy."""
    code = "import solver, sys; print([m for m in sys.modules if m.split('.')[0] in ('ortools', 'scipy')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
