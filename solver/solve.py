"""Chooses the stages for a problem, keeps the deadline, and writes the plan with its proof."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .assignment import assignment
from .blas import one_blas_thread
from .checks import finite_number, instance, whole_number
from .counts import count_rows
from .exact import prove
from .greedy import fill
from .online import Prices, prices_of
from .packing import pack
from .passes import Passes
from .problem import InvalidProblem, Plan, Problem, StopReason, Termination
from .reasons import explain_unserved
from .relax import relax, relax_kept, relax_most, relax_served
from .rounding import improve
from .rows import Floats, Rows, compile_rows
from .search import Deadline, Search
from .spread import Spread

__all__ = ["solve"]

OBJECTIVES = ("served_then_cost", "surplus")
WHOLE_PAIRS = 3000  # up to here the optimum is sought and proven by exhaustive search
AT_ONCE = 200  # up to here nothing is quicker than that
EXACT_AFTER = 2  # neighbourhoods without a better plan before it starts
PRICE_SHARE = 0.8  # of the time left, for the prices
PROOF_SHARE = 0.35  # of the time left, kept back for the proof when somebody stays unserved
MOST_SHARE = 0.95  # of that, for how much can be served
WORTH = 30.0  # V, in mean dearest costs: large enough that serving comes first


def solve(
    problem: Problem,
    gap: float = 1e-4,
    time_limit_s: float = 2.0,
    objective: str = "served_then_cost",
    warm: Prices | None = None,
    seed: int = 0,
    threads: int = 2,
    spread: Callable[[Rows], Spread] | None = None,
) -> Plan:
    """The best assignment found within the time limit, with a proof of how far from best it can be.

    gap: stop once the proven relative gap is at most this. warm: prices of a similar problem to start from.
    spread: sends parts of the requests elsewhere, where the dense passes are then made; the plan is the same.
    Raises :class:`InvalidProblem` for arguments out of range.
    """
    instance("problem", problem, Problem)
    if not isinstance(objective, str) or objective not in OBJECTIVES:
        raise InvalidProblem(f"objective: expected one of {', '.join(OBJECTIVES)}, found {objective!r}")
    gap = finite_number("gap", gap, 0.0)
    deadline = Deadline(finite_number("time_limit_s", time_limit_s, 0.0, above=True))
    seed, threads = whole_number("seed", seed, 0), whole_number("threads", threads, 1)
    surplus = objective == "surplus"
    if surplus and problem.value is None:
        raise InvalidProblem("value: expected int64[n] with objective 'surplus', found None")
    start = None if warm is None else prices_of("warm", warm, problem)
    passes = Passes(threads)
    try:
        with one_blas_thread(), np.errstate(all="ignore"):
            rows = compile_rows(problem, passes, surplus)
            rows.spread = None if spread is None else spread(rows)
            deadline.stage("compile")
            deadline.reserve(deadline.stages["compile"])  # the plan and its proof read the same arrays again
            search = _start(rows, deadline, surplus, gap, seed)
            if not search.done:
                _stages(search, None if start is None else start[rows.active])
            plan = _plan(search, objective)
    finally:
        passes.close()
    return plan


def _start(rows: Rows, deadline: Deadline, surplus: bool, gap: float, seed: int) -> Search:
    """Cheapest-first, the bound at zero prices, and rows that can never hold."""
    problem = rows.problem
    if surplus:
        worth = problem.value.astype(np.float64)  # type: ignore[union-attr]
    else:
        dearest = np.max(problem.cost, axis=1, where=rows.possible, initial=0)[rows.alive]
        mean = float(dearest.mean()) if len(dearest) else 1.0
        worth = WORTH * max(mean, 1.0) * rows.weight / rows.weight.mean() if rows.n else np.zeros(0)
    search = Search(rows, deadline, surplus, gap, seed, worth, np.full(rows.n, -1, np.int32))
    search.lam = search.mu = search.steer = search.kappa = search.mu_count = np.zeros(rows.k)
    search.counts, search.sought = ([], np.ones(rows.n, bool)) if surplus else count_rows(rows)
    search.served_bound = float(rows.weight[rows.option].sum())
    inactive = np.setdiff1d(np.arange(problem.rows), rows.active, assume_unique=True)
    if np.any(problem.caps[inactive] < 0):
        search.infeasible = True
        return search
    search.offer(search.choice)
    greedy = search.choice.copy()
    fill(rows, greedy, np.flatnonzero(rows.alive), rows.room)
    search.offer(greedy)
    search.price(np.zeros(rows.k))
    if search.counts:
        search.price_served(np.zeros(rows.k))
    deadline.stage("greedy")
    return search


def _stages(search: Search, given: Floats | None) -> None:
    """Exact when small; else prices, then rounding, then a sharper proof where somebody stays unserved."""
    rows, deadline = search.rows, search.deadline
    base, loose = relax(search, given, PRICE_SHARE)
    deadline.stage("prices")
    unsure = not search.surplus and bool(np.any(base[rows.alive] == rows.m))
    if unsure and deadline.left:
        relax_served(search, PRICE_SHARE / 2)
        deadline.stage("served")
    pairs = np.count_nonzero(rows.possible)
    knapsacks = (
        assignment(search) if pairs > AT_ONCE and not (search.surplus or unsure or search.done) else None
    )
    if knapsacks is not None:
        pack(search, knapsacks, knapsacks.packing(np.where(base < rows.m, base, -1)))
        deadline.stage("packing")
    if pairs <= WHOLE_PAIRS and deadline.left and not search.optimal:
        if not search.done:
            improve(search, base, loose, 0.0, EXACT_AFTER)
        prove(search)
        deadline.stage("exact")
    if not search.infeasible and not search.optimal and not search.done and deadline.left:
        reserve = PROOF_SHARE * deadline.left if unsure or not search.found else 0.0
        improve(search, base, loose, reserve)
        deadline.stage("rounding")
    if not search.found and not search.infeasible and deadline.left:
        prove(search)
        deadline.stage("exact")
    if unsure and deadline.left and search.found and not search.done:
        relax_most(search, MOST_SHARE)
        relax_kept(search, base)
        deadline.stage("proof")


def _plan(search: Search, objective: str) -> Plan:
    """The plan with its certificate in the rows of the problem."""
    rows, problem = search.rows, search.rows.problem
    names = _names(problem)
    search.refresh()
    choice = search.choice if search.found else np.full(rows.n, -1, np.int32)
    served, cost = rows.value(choice)
    prices = Prices(names, _spread(rows, search.lam), search.nu, _spread(rows, search.kappa))
    served_prices = None
    if search.surplus:
        value = problem.value
        assert value is not None
        bound = float(value[choice >= 0].sum()) + search.bound
        gap = 0.0 if search.bound >= 0 else (cost - bound) / -search.bound
    else:
        bound = max(0.0, search.bound)
        gap = max(0.0, (cost - bound) / cost) if cost else 0.0
        served_prices = Prices(names, _spread(rows, search.mu), 0.0, _spread(rows, search.mu_count))
    whole = gap == 0.0 or cost - bound < 1.0  # costs are whole nano-dollars
    exact = search.optimal or (whole and (search.surplus or served >= search.served_bound))
    if search.infeasible:
        reason, words = StopReason.INFEASIBLE, "rows with a negative cap cannot hold"
    elif exact and search.found:
        reason, words = StopReason.OPTIMAL, "no plan is better"
    elif search.found and search.done:
        reason, words = StopReason.GAP_MET, f"gap {gap:.3g} is at most {search.gap:.3g}"
    else:
        reason, words = (
            StopReason.TIME_LIMIT,
            "time limit" if search.deadline.left < 0.05 else "nothing better was found",
        )
    reasons, limit = explain_unserved(rows, choice, search.lam, rows.option)
    done = reason is StopReason.OPTIMAL
    search.deadline.stage("plan")
    termination = Termination(
        reason, words, float(cost) if done else bound, 0.0 if done else gap, search.deadline.stages
    )
    return Plan(
        choice,
        reasons,
        limit,
        served,
        cost,
        search.served_bound,
        bound,
        gap,
        prices,
        termination,
        objective,
        served_prices,
    )


def _names(problem: Problem) -> tuple[str, ...]:
    """``Problem.row_name`` of every row, a limit at a time: there may be a million groups."""
    names: list[str] = []
    for limit in problem.limits:
        names += [limit.name] if limit.group is None else [f"{limit.name}[{g}]" for g in range(limit.rows)]
    return tuple(names)


def _spread(rows: Rows, lam: Floats) -> Floats:
    """Prices of active rows as prices of all rows of the problem."""
    full = np.zeros(rows.problem.rows)
    full[rows.active] = lam
    return full
