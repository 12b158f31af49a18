"""What a small problem's definition says, by loops and enumeration: the oracle of the solver's tests."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from solver.online import Prices
from solver.problem import Plan, Problem, Reason, StopReason, Termination, tolerance


def usage(problem: Problem) -> Any:
    """float64[K, n, m]: usage of every row by every pair, 0 where the row does not cover it."""
    a = np.zeros((problem.rows, problem.n, problem.m))
    for limit, first in zip(problem.limits, problem.first_row, strict=False):
        for i in range(problem.n) if limit.requests is None else limit.requests:
            for j in range(problem.m) if limit.models is None else limit.models:
                group = 0 if limit.group is None else int(limit.group[i])
                if group >= 0:
                    u = np.asarray(limit.usage)
                    a[first + group, i, j] = u if u.ndim == 0 else u[i] if u.ndim == 1 else u[i, j]
    return a


def possible(problem: Problem) -> Any:
    """bool[n, m]: allowed, and alone within every row whose usage is nowhere negative on an allowed pair."""
    a = usage(problem)
    most = problem.caps + tolerance(problem.caps)
    never_negative = [not np.any(row[problem.allowed] < 0) for row in a]
    out = problem.allowed.copy()
    for k, row in enumerate(a):
        if never_negative[k]:
            out &= ~((row > most[k]) & (row != 0))
    return out


def holds(problem: Problem, choice: Any) -> bool:
    """Whether an assignment meets every filter and row."""
    took = [(i, int(j)) for i, j in enumerate(choice) if j >= 0]
    if any(not problem.allowed[i, j] for i, j in took):
        return False
    a = usage(problem)
    used = np.array([math.fsum(row[i, j] for i, j in took) for row in a])
    return bool(np.all(used <= problem.caps + tolerance(problem.caps)))


def every_plan(problem: Problem) -> Any:
    """int[P, n]: all assignments that hold."""
    options = [[-1, *np.flatnonzero(row).tolist()] for row in problem.allowed]
    plans = np.array(list(itertools.product(*options)), dtype=np.int32).reshape(-1, problem.n)
    padded = np.concatenate([usage(problem), np.zeros((problem.rows, problem.n, 1))], axis=2)
    used = sum((padded[:, i, plans[:, i]] for i in range(problem.n)), np.zeros((problem.rows, len(plans))))
    most = problem.caps + tolerance(problem.caps)
    return plans[np.all(used <= most[:, None], axis=0)]


def totals(problem: Problem, choice: Any) -> tuple[float, int, int]:
    """(weight served, cost, value) of an assignment."""
    took = [(i, int(j)) for i, j in enumerate(choice) if j >= 0]
    weight = np.ones(problem.n) if problem.weight is None else problem.weight
    value = np.zeros(problem.n, dtype=np.int64) if problem.value is None else problem.value
    return (
        math.fsum(weight[i] for i, _ in took),
        sum(int(problem.cost[i, j]) for i, j in took),
        sum(int(value[i]) for i, _ in took),
    )


def all_totals(problem: Problem, plans: Any) -> tuple[Any, Any, Any]:
    """(weight served, cost, value) of many assignments, float64 or int64[P]."""
    weight = np.ones(problem.n) if problem.weight is None else problem.weight
    value = np.zeros(problem.n, dtype=np.int64) if problem.value is None else problem.value
    padded = np.concatenate([problem.cost, np.zeros((problem.n, 1), dtype=np.int64)], axis=1)
    took = plans >= 0
    return took @ weight, padded[np.arange(problem.n), plans].sum(axis=1), took @ value


def optimum(problem: Problem, objective: str = "served_then_cost") -> tuple[float, int] | None:
    """(served, cost) of the best plan, (surplus, 0) with objective "surplus"; None where no plan holds."""
    plans = every_plan(problem)
    if objective == "surplus":
        dear = np.concatenate([problem.cost > problem.value[:, None], np.zeros((problem.n, 1), bool)], axis=1)
        plans = plans[~dear[np.arange(problem.n), plans].any(axis=1)]
    if not len(plans):
        return None
    served, cost, worth = all_totals(problem, plans)
    if objective == "surplus":
        return float((worth - cost).max()), 0
    most = served.max()
    return round(float(most), 9), int(cost[served >= most - 1e-9].min())


def bounds(
    problem: Problem, choice: Any, prices: Prices, served_prices: Prices | None, objective: str
) -> tuple[float, float]:
    """(cost_bound, served_bound) as the docstring of Plan writes them, term by term."""
    a, p = usage(problem), possible(problem)
    finite = np.isfinite(problem.caps)
    lam = np.where(finite, prices.lam, 0.0)
    caps = np.where(finite, problem.caps, 0.0)
    weight = np.ones(problem.n) if problem.weight is None else problem.weight
    alive = [i for i in range(problem.n) if p[i].any()]
    r = problem.cost + np.einsum("k,kij->ij", lam, a)
    least = {i: min(r[i, j] for j in range(problem.m) if p[i, j]) for i in alive}
    served, _, worth = totals(problem, choice)
    heavy = math.fsum(weight[i] for i in alive)
    if objective == "surplus":
        value = problem.value
        bound = math.fsum(max(0.0, value[i] - least[i]) for i in alive) + lam @ caps
        return worth - bound, heavy
    nu = prices.unserved
    if math.isinf(nu):
        cost_bound = math.fsum(least.values()) - lam @ caps
    else:
        gains = math.fsum(min(0.0, least[i] - nu * weight[i]) for i in alive)
        cost_bound = nu * served + gains - lam @ caps
    served_bound = heavy
    if served_prices is not None:
        mu = np.where(finite, served_prices.lam, 0.0)
        s = np.einsum("k,kij->ij", mu, a)
        kept = [weight[i] - min(s[i, j] for j in range(problem.m) if p[i, j]) for i in alive]
        served_bound = min(heavy, math.fsum(max(0.0, x) for x in kept) + mu @ caps)
    if np.all(weight == np.floor(weight)):
        served_bound = math.floor(served_bound + 1e-6)
    return max(0.0, cost_bound), served_bound


def plan_of(
    problem: Problem,
    choice: Any,
    lam: Any = None,
    unserved: float = 0.0,
    mu: Any = None,
    objective: str = "served_then_cost",
    stop: StopReason = StopReason.TIME_LIMIT,
) -> Plan:
    """An honest plan: what it states is what the prices prove."""
    names = tuple(problem.row_name(k) for k in range(problem.rows))
    choice = np.asarray(choice, dtype=np.int32)
    prices = Prices(names, np.zeros(problem.rows) if lam is None else np.asarray(lam, float), unserved)
    served_prices = None if mu is None else Prices(names, np.asarray(mu, float))
    p = possible(problem)
    reason = np.full(problem.n, Reason.CAPACITY, dtype=np.uint8)
    reason[~p.any(axis=1)] = Reason.NO_OPTION
    if objective == "surplus":
        cheapest = np.where(p, problem.cost, np.iinfo(np.int64).max).min(axis=1, initial=2**62)
        reason[p.any(axis=1) & (cheapest > problem.value)] = Reason.PRICED_OUT
    reason[choice >= 0] = Reason.SERVED
    served, cost, worth = totals(problem, choice)
    cost_bound, served_bound = bounds(problem, choice, prices, served_prices, objective)
    whole = worth - cost_bound if objective == "surplus" else cost
    gap = (cost - cost_bound) / whole if whole > 0 else 0.0
    return Plan(
        choice=choice,
        reason=reason,
        limit=np.full(problem.n, -1, dtype=np.int32),
        served=served,
        cost=cost,
        served_bound=served_bound,
        cost_bound=cost_bound,
        gap=gap,
        prices=prices,
        termination=Termination(stop, "by hand", cost_bound, gap),
        objective=objective,
        served_prices=served_prices,
    )
