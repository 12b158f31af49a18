"""Chooses the stages for a problem, keeps the deadline, and writes the plan with its proof."""

from __future__ import annotations

import numpy as np

from .core import integer, linear, part
from .greedy import fill
from .online import Prices
from .problem import InvalidProblem, Plan, Problem, StopReason, Termination
from .reasons import explain_unserved
from .rounding import Choice, candidates, margins, reoptimise
from .rows import Floats, Ints, Passes, Rows, compile_rows
from .search import Deadline, Search

__all__ = ["solve"]

OBJECTIVES = ("served_then_cost", "surplus")
WHOLE_PAIRS = 1500  # up to here one integer program sees every pair
LINEAR_PAIRS = 60_000  # up to here one linear program does
WORTH = 30.0  # V, in mean dearest costs: large enough that serving comes first


def solve(
    problem: Problem,
    gap: float = 1e-4,
    time_limit_s: float = 2.0,
    objective: str = "served_then_cost",
    warm: Prices | None = None,
    seed: int = 0,
    threads: int = 2,
) -> Plan:
    """The best assignment found within the time limit, with a proof of how far from best it can be.

    gap: stop once the proven relative gap is at most this. warm: prices of a similar problem to start from.
    Raises :class:`InvalidProblem` for arguments out of range.
    """
    if objective not in OBJECTIVES:
        raise InvalidProblem(f"objective: expected one of {', '.join(OBJECTIVES)}, found {objective!r}")
    if not (np.isfinite(time_limit_s) and time_limit_s > 0):
        raise InvalidProblem(f"time_limit_s: expected a number > 0, found {time_limit_s}")
    if not (np.isfinite(gap) and gap >= 0):
        raise InvalidProblem(f"gap: expected a number >= 0, found {gap}")
    surplus = objective == "surplus"
    if surplus and problem.value is None:
        raise InvalidProblem("value: expected int64[n] with objective 'surplus', found None")
    if warm is not None and len(warm.lam) != problem.rows:
        raise InvalidProblem(f"warm: expected {problem.rows} prices, one per row, found {len(warm.lam)}")
    deadline = Deadline(time_limit_s)
    passes = Passes(threads)
    try:
        rows = compile_rows(problem, passes, surplus)
        deadline.stage("compile")
        search = _start(rows, deadline, surplus, gap, seed)
        if not search.done:
            _stages(search, warm)
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
    search.lam = search.mu = np.zeros(rows.k)
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
    deadline.stage("greedy")
    return search


def _stages(search: Search, warm: Prices | None) -> None:
    rows, deadline = search.rows, search.deadline
    pairs = int(np.count_nonzero(rows.possible))
    if pairs <= WHOLE_PAIRS:
        _whole(search)
        deadline.stage("exact")
    if search.infeasible or not deadline.left or (search.done and not search.optimal):
        return
    start = _relaxed(search) if pairs <= LINEAR_PAIRS else _sampled(search, warm)
    deadline.stage("prices")
    if not search.infeasible and not search.done:
        _improve(search, start)
    deadline.stage("rounding")
    if not search.surplus and search.score[0] < rows.weight[rows.alive].sum() and deadline.left:
        _price_unserved(search)
        deadline.stage("proof")


def _whole(search: Search) -> None:
    """One integer program on all pairs: first the most served, then the least cost."""
    rows = search.rows
    i, j = (at.astype(np.int64) for at in np.nonzero(rows.possible))
    given = part(rows, i, j, rows.room)
    if search.surplus:
        found = integer(given, search.worth[i], search.deadline.left, "", "scip")
        if found.infeasible:
            search.infeasible = True
        elif found.x is not None:
            search.offer(_chosen(rows, i, j, found.x))
            search.optimal = found.optimal
        return
    most = part(rows, i, j, rows.room)
    most.cost = np.zeros(len(i))
    first = integer(most, rows.weight[i], search.deadline.left / 2, "", "scip")
    if first.x is None:
        search.infeasible = first.infeasible
        return
    search.offer(_chosen(rows, i, j, first.x))
    served = float(rows.weight[i[first.x]].sum())
    weight = rows.weight[i]
    second = integer(given, 0.0, search.deadline.left, "", "scip", (weight, served * (1 - 1e-9)))
    if second.x is not None:
        search.offer(_chosen(rows, i, j, second.x))
        search.optimal = first.optimal and second.optimal and search.score[0] >= served


def _chosen(rows: Rows, i: Ints, j: Ints, x: np.ndarray) -> Choice:  # type: ignore[type-arg]
    choice = np.full(rows.n, -1, np.int32)
    choice[i[x]] = j[x]
    return choice


def _relaxed(search: Search) -> Choice:
    """The linear program on all pairs; returns its integral part."""
    rows = search.rows
    i, j = (at.astype(np.int64) for at in np.nonzero(rows.possible))
    given = part(rows, i, j, rows.caps)
    solution = linear(given, search.worth[i], search.deadline.left * 0.7)
    if solution.infeasible:
        search.infeasible = True
        return search.choice
    _believe(search, solution.lam)
    if not search.surplus and search.deadline.left:
        given.cost = np.zeros(len(i))
        search.price_served(linear(given, rows.weight[i], search.deadline.left * 0.3).lam)
    return _chosen(rows, i, j, solution.x > 1 - 1e-6)


def _believe(search: Search, lam: Floats) -> None:
    """Prices of V: for the cost at once, for what can be served after division by V per weight."""
    search.price(lam)
    if not search.surplus and search.rows.n:
        per_weight = float(search.worth.sum() / search.rows.weight.sum())
        search.price_served(lam / per_weight)


def _sampled(search: Search, warm: Prices | None) -> Choice:
    """Prices of a sample, then linear programs over the near ties of all requests."""
    rows = search.rows
    if warm is not None:
        lam = np.maximum(warm.lam[rows.active], 0.0)
    else:
        rng = np.random.default_rng(search.seed)
        alive = np.flatnonzero(rows.alive)
        size = min(len(alive), LINEAR_PAIRS // max(1, rows.m))
        sample = np.sort(rng.choice(alive, size, replace=False))
        at, j = np.nonzero(rows.possible[sample])
        i = sample[at]
        room = np.where(rows.caps > 0, rows.caps * size / len(alive), rows.caps)
        lam = linear(part(rows, i, j, room), search.worth[i], search.deadline.left * 0.3).lam
    _believe(search, lam)
    choice = search.choice
    for _ in range(3):
        if search.deadline.left <= 0 or search.done:
            break
        best, margin = margins(rows, lam, search.worth)
        near = np.sort(np.argsort(margin, kind="stable")[: max(3000, 8 * rows.k)])
        near = near[rows.alive[near]]
        fixed = best.copy()
        fixed[near] = -1
        room = rows.caps - rows.load(fixed)
        i, j = candidates(rows, lam, near, 6)
        solution = linear(part(rows, i, j, room), search.worth[i], search.deadline.left * 0.4)
        if not solution.optimal:
            break
        lam = solution.lam
        _believe(search, lam)
        fixed[i[solution.x > 1 - 1e-6]] = j[solution.x > 1 - 1e-6]
        choice = fixed
    return choice


def _improve(search: Search, start: Choice) -> None:
    """Repair the relaxed choice into a plan, then re-optimise neighbourhoods until time or gap."""
    rows, deadline = search.rows, search.deadline
    lam = search.lam
    _, margin = margins(rows, lam, search.worth)
    alive = np.flatnonzero(rows.alive)
    free = alive[start[alive] < 0]
    if rows.feasible(start) or search.found:
        order = np.concatenate([alive[start[alive] >= 0], free])
        repaired = start.copy()
        left = rows.room - rows.load(repaired)
        if np.all(left >= 0):
            fill(rows, repaired, free, left, lam)
        else:
            repaired = np.full(rows.n, -1, np.int32)
            fill(rows, repaired, order, rows.room, lam)
        search.offer(repaired)
    near = alive[np.argsort(margin[alive], kind="stable")[:150]]
    nearest = np.union1d(free[:200], near)
    i, j = candidates(rows, lam, nearest, 6, start)
    search.offer(reoptimise(rows, start, i, j, search.worth, deadline.left * 0.5, 1.0))
    rng = np.random.default_rng(search.seed)
    chance = 1.0 / (1e-3 + margin[alive] / max(float(np.median(margin[alive])), 1e-9))
    chance /= chance.sum()
    stale = 0
    while search.found and not search.done and deadline.left > 0.02 and stale < 60:
        unserved = alive[search.choice[alive] < 0]
        drawn = rng.choice(alive, min(len(alive), 90), replace=False, p=chance)
        i, j = candidates(rows, lam, np.union1d(unserved[:30], drawn), 6, search.choice)
        better = reoptimise(rows, search.choice, i, j, search.worth, deadline.left, 0.2)
        stale = 0 if search.offer(better) else stale + 1


def _price_unserved(search: Search) -> None:
    """Some weight stays unserved: prices for "serve at least as much" prove more than those of V."""
    rows = search.rows
    if np.count_nonzero(rows.possible) > LINEAR_PAIRS:
        return
    i, j = (at.astype(np.int64) for at in np.nonzero(rows.possible))
    given = part(rows, i, j, rows.caps)
    weight = rows.weight[i]
    search.price(linear(given, 0.0, search.deadline.left, (weight, search.score[0])).lam)


def _plan(search: Search, objective: str) -> Plan:
    """The plan with its certificate in the rows of the problem."""
    rows, problem = search.rows, search.rows.problem
    names = tuple(problem.row_name(row) for row in range(problem.rows))
    if search.bound == -np.inf:
        search.price(search.lam)
    choice = search.choice if search.found else np.full(rows.n, -1, np.int32)
    served, cost = rows.value(choice)
    prices = Prices(names, _spread(rows, search.lam), search.nu)
    served_prices = None
    if search.surplus:
        value = problem.value
        assert value is not None
        bound = float(value[choice >= 0].sum()) + search.bound
        gap = 0.0 if search.bound >= 0 else (cost - bound) / -search.bound
    else:
        bound = max(0.0, search.bound)
        gap = max(0.0, (cost - bound) / cost) if cost else 0.0
        served_prices = Prices(names, _spread(rows, search.mu), 0.0)
    exact = search.optimal or (gap == 0.0 and (search.surplus or served >= search.served_bound))
    if search.infeasible:
        reason, words = StopReason.INFEASIBLE, "rows with a negative cap cannot hold"
    elif exact and search.found:
        reason, words = StopReason.OPTIMAL, "no plan is better"
    elif search.found and search.done:
        reason, words = StopReason.GAP_MET, f"gap {gap:.3g} is at most {search.gap:.3g}"
    else:
        reason, words = StopReason.TIME_LIMIT, "time limit"
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


def _spread(rows: Rows, lam: Floats) -> Floats:
    """Prices of active rows as prices of all rows of the problem."""
    full = np.zeros(rows.problem.rows)
    full[rows.active] = lam
    return full
