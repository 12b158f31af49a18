"""Is a plan what it says it is? Limits, filters, totals, bounds and gap recomputed from the data alone.

The certificate is the one :class:`solver.problem.Plan` defines. NumPy only; nothing of the solving modules is
used, so a fault there cannot hide here. Memory beyond the problem is a few chunks of about a million pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .checks import finite_number, instance
from .evidence import EPSILON, gather
from .problem import Plan, Problem, Reason, StopReason, tolerance
from .shapes import misshapen

__all__ = ["Certificate", "verify"]

RELATIVE = 1e-9  # two float64 evaluations of one bound agree to this share of the cost
WHOLE = 1e-6  # added before served_bound is rounded down
NAMED = 5  # violations of one kind named before the rest is counted
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Certificate:
    """What the data prove about a plan.

    ok: nothing is violated. violations: what is broken or misstated, in words. served, cost, used: recomputed
    weight, nano-dollars and float64[K] use of every row. served_bound, cost_bound, gap: recomputed from the
    plan's prices as :class:`solver.problem.Plan` says, whatever the plan states.
    """

    ok: bool
    violations: tuple[str, ...]
    served: float
    cost: int
    used: Floats
    served_bound: float
    cost_bound: float
    gap: float


def verify(problem: Problem, plan: Plan, *, gap: float | None = None) -> Certificate:
    """Whether ``plan`` meets every limit and filter and states nothing better than its prices prove.

    gap: also demand that the prices prove at most this gap. Never raises for a wrong plan: what is wrong is in
    ``violations``; :class:`InvalidProblem` is raised where ``problem`` is none. A stated bound may be weaker than the
    proven one, never stronger. An ``OPTIMAL`` found by exhaustive search may claim gap 0 in ``termination``;
    ``plan.gap`` must be what the prices prove.
    """
    instance("problem", problem, Problem)
    gap = None if gap is None else finite_number("gap", gap, 0.0)
    wrong = misshapen(problem, plan)
    if wrong:
        return Certificate(False, tuple(wrong), 0.0, 0, np.zeros(problem.rows), 0.0, 0.0, math.inf)
    took = np.flatnonzero(plan.choice >= 0)
    columns = plan.choice[took].astype(np.intp)
    cost = _exact_sum(problem.cost[took, columns])
    served = float(took.size if problem.weight is None else problem.weight[took].sum())
    used = _use(problem, took, columns)
    found = _Proof(problem, plan, took)
    wrong += _broken_filters(problem, plan, took, columns)
    wrong += _broken_rows(problem, plan, used)
    wrong += _misstated_totals(plan, served, cost)
    surplus = plan.objective == "surplus"
    worth = _exact_sum(problem.value[took]) if surplus and problem.value is not None else 0
    cost_bound, proven = found.surplus_gap(worth, cost) if surplus else found.cost_gap(cost)
    served_bound, least = found.served_bound()
    wrong += _misstated_bounds(plan, cost, worth, cost_bound, proven, served_bound, least)
    wrong += _misstated_end(problem, plan)
    wrong += found.wrong
    if gap is not None and not proven <= gap + RELATIVE:
        wrong.append(f"gap: expected at most {gap:g}, the prices prove {proven:g}")
    return Certificate(not wrong, tuple(wrong), served, cost, used, served_bound, cost_bound, proven)


# -- what needs no prices ------------------------------------------------------------------------------------


def _exact_sum(values: npt.NDArray[np.int64]) -> int:
    """The sum as a Python integer: amounts to 2**53 times millions of requests overflow 64 bits."""
    return (int((values >> 26).sum()) << 26) + int((values & ((1 << 26) - 1)).sum())


def _use(problem: Problem, took: npt.NDArray[np.intp], columns: npt.NDArray[np.intp]) -> Floats:
    """float64[K]: what the assignment uses of every row."""
    used = np.zeros(problem.rows)
    for limit, first in zip(problem.limits, problem.first_row, strict=False):
        covered = np.ones(took.size, dtype=np.bool_)
        if limit.models is not None:
            member = np.zeros(problem.m, dtype=np.bool_)
            member[np.asarray(limit.models)] = True
            covered = member[columns]
        if limit.requests is not None:
            covered &= np.isin(took, limit.requests)
        group = np.zeros(took.size, np.intp) if limit.group is None else limit.group[took].astype(np.intp)
        covered &= group >= 0
        i, j = took[covered], columns[covered]
        usage = limit.usage
        if not isinstance(usage, np.ndarray):
            amount: Any = np.full(i.size, float(usage))
        else:
            amount = usage[i] if usage.ndim == 1 else usage[i, j]
        rows = np.bincount(group[covered], weights=amount, minlength=limit.rows)
        used[first : first + limit.rows] += rows[: limit.rows]
    return used


def _broken_filters(
    problem: Problem, plan: Plan, took: npt.NDArray[np.intp], columns: npt.NDArray[np.intp]
) -> list[str]:
    wrong = _named(
        "request {} is served by a column its filters forbid", took[~problem.allowed[took, columns]]
    )
    if plan.objective == "surplus" and problem.value is not None:
        dear = took[problem.cost[took, columns] > problem.value[took]]
        wrong += _named("request {} is served at a cost above its value", dear)
    return wrong


def _no_plan(problem: Problem, plan: Plan) -> bool:
    """Whether the plan says that no plan was found, which leaves rows with a negative cap violated."""
    gave_up = plan.termination.reason in (StopReason.INFEASIBLE, StopReason.TIME_LIMIT)
    return gave_up and not np.any(plan.choice >= 0)


def _broken_rows(problem: Problem, plan: Plan, used: Floats) -> list[str]:
    over = used > problem.caps + tolerance(problem.caps)
    if _no_plan(problem, plan):
        over &= problem.caps >= 0
    rows = np.flatnonzero(over)
    wrong = [
        f"{problem.row_name(row)}: expected at most {problem.caps[row]:.15g}, used {used[row]:.15g}"
        for row in rows[:NAMED].tolist()
    ]
    return wrong + ([f"and {rows.size - NAMED} more rows"] if rows.size > NAMED else [])


def _misstated_totals(plan: Plan, served: float, cost: int) -> list[str]:
    wrong = []
    if not abs(plan.served - served) <= RELATIVE * (1 + served):
        wrong.append(f"served: expected {served:.15g}, found {plan.served:.15g}")
    if plan.cost != cost:
        wrong.append(f"cost: expected {cost}, found {plan.cost}")
    return wrong


def _misstated_bounds(
    plan: Plan, cost: int, worth: int, cost_bound: float, gap: float, served_bound: float, least: float
) -> list[str]:
    """Stated bounds and gap that are better than what is proven, or that disagree with one another."""
    wrong = []
    slack = RELATIVE * (1 + cost + worth)
    if not plan.cost_bound <= cost_bound + slack:
        wrong.append(f"cost_bound: the prices prove {cost_bound:.15g}, found {plan.cost_bound:.15g}")
    if not plan.served_bound >= least:
        wrong.append(f"served_bound: the prices prove {served_bound:.15g}, found {plan.served_bound:.15g}")
    whole = float(cost) if plan.objective != "surplus" else worth - plan.cost_bound
    share = slack / whole if whole > 0 else 0.0
    stated = (cost - plan.cost_bound) / whole if whole > 0 else 0.0
    if not abs(plan.gap - stated) <= share + RELATIVE:
        wrong.append(f"gap: cost and cost_bound say {stated:.12g}, found {plan.gap:.12g}")
    if not plan.gap >= gap - share - RELATIVE:
        wrong.append(f"gap: the prices prove {gap:.12g}, found {plan.gap:.12g}")
    return wrong


def _misstated_end(problem: Problem, plan: Plan) -> list[str]:
    """A termination that claims more than the plan, or an infeasibility where the empty plan would do."""
    end = plan.termination
    as_plan = end.bound == plan.cost_bound and end.gap == plan.gap
    searched = end.reason is StopReason.OPTIMAL and end.bound == plan.cost and end.gap == 0
    wrong = []
    if not (as_plan or searched):
        wrong.append(
            f"termination: expected bound {plan.cost_bound!r} and gap {plan.gap!r} as the plan has,"
            f" found {end.bound!r} and {end.gap!r}"
        )
    if end.reason is StopReason.INFEASIBLE:
        if np.any(plan.choice >= 0):
            wrong.append("termination: expected no request served where INFEASIBLE")
        elif not np.any(problem.caps < -tolerance(problem.caps)):
            wrong.append("termination: INFEASIBLE, yet serving nobody meets every row")
    return wrong


def _named(words: str, which: npt.NDArray[np.intp]) -> list[str]:
    wrong = [words.format(i) for i in which[:NAMED].tolist()]
    return wrong + ([f"and {which.size - NAMED} more like it"] if which.size > NAMED else [])


# -- what the prices prove -----------------------------------------------------------------------------------


class _Proof:
    """Bounds and gap at the plan's prices, and what they say of its reasons (``wrong``)."""

    def __init__(self, problem: Problem, plan: Plan, took: npt.NDArray[np.intp]) -> None:
        self.problem, self.plan = problem, plan
        served = plan.served_prices
        self.evidence = gather(problem, _all(plan.prices), None if served is None else _all(served))
        self.alive = np.isfinite(self.evidence.cheapest)
        self.least = self.evidence.least[self.alive]
        self.weight = np.ones(problem.n) if problem.weight is None else problem.weight
        self.wrong = self._reasons(took)

    def cost_gap(self, cost: int) -> tuple[float, float]:
        """(cost_bound, gap). With min(0, r - nu w) + nu w = min(r, nu w) the large terms cancel first."""
        nu = float(self.plan.prices.unserved)
        least, weight = self.least, self.weight[self.alive]
        left_out = float(weight[self.plan.choice[self.alive] < 0].sum())
        if left_out and math.isinf(nu):
            self.wrong.append("prices.unserved: infinite, yet a request with a possible column is not served")
        with np.errstate(over="ignore", invalid="ignore"):
            best = least if math.isinf(nu) else np.minimum(least, nu * weight)
            owed = nu * left_out if left_out else 0.0
            value = _sum(best) - owed - self.evidence.priced
            bound = self._proven(value, float(np.abs(best).sum()) + owed, RELATIVE * (1 + cost))
        bound = max(0.0, bound)
        return bound, (cost - bound) / cost if cost else 0.0

    def surplus_gap(self, worth: int, cost: int) -> tuple[float, float]:
        """(cost_bound, gap) of objective "surplus"."""
        if self.plan.prices.unserved != 0:
            self.wrong.append("prices.unserved: expected 0 with objective surplus")
        value: Any = self.problem.value
        with np.errstate(over="ignore", invalid="ignore"):
            margin = np.maximum(0.0, value[self.alive] - self.least)
            total = _sum(margin) + self.evidence.priced
            bound = -self._proven(-total, float(margin.sum()), RELATIVE * (1 + worth))
        if math.isinf(bound):  # nothing proven: what every request is worth is a bound too
            bound = float(_exact_sum(value[self.alive]))
        gap = (bound - (worth - cost)) / bound if bound > 0 else 0.0
        return worth - bound, gap

    def served_bound(self) -> tuple[float, float]:
        """(served_bound, the least that may be stated for it)."""
        weight = self.weight[self.alive]
        total = _sum(weight)
        bound = total
        whole = bool(np.all(self.weight == np.floor(self.weight)))
        slack = WHOLE / 2 if whole else RELATIVE * (1 + total)
        if self.plan.served_prices is not None:
            with np.errstate(over="ignore", invalid="ignore"):
                value = _sum(np.maximum(0.0, weight - self.evidence.weighed[self.alive]))
                value += self.evidence.weighed_priced
            value += max(0.0, self.evidence.weighed_noise + 8 * EPSILON * total - slack)
            bound = min(total, value) if math.isfinite(value) else total
        if whole:
            return math.floor(bound + WHOLE), math.floor(bound + WHOLE - slack)
        return bound, bound - slack

    def _proven(self, value: float, size: float, slack: float) -> float:
        """The bound less what rounding may have added to it, where that is more than ``slack``."""
        noise = self.evidence.noise + 8 * EPSILON * size
        proven = value - max(0.0, noise - slack)
        return proven if math.isfinite(proven) else -math.inf

    def _reasons(self, took: npt.NDArray[np.intp]) -> list[str]:
        reason = np.asarray(self.plan.reason)
        served = np.zeros(self.problem.n, dtype=np.bool_)
        served[took] = True
        dear = np.zeros(self.problem.n, dtype=np.bool_)
        if self.plan.objective == "surplus" and self.problem.value is not None:
            dear = ~served & self.alive & (self.evidence.cheapest > self.problem.value)
        wrong = []
        for stated, expected, words in (
            (Reason.SERVED, served, "if and only if it has a column"),
            (Reason.NO_OPTION, ~served & ~self.alive, "if and only if no column is possible"),
            (Reason.PRICED_OUT, dear, "if and only if (surplus) all columns cost more than its value"),
        ):
            differs = np.flatnonzero(expected != (reason == stated))
            wrong += _named(f"reason of request {{}}: expected {stated.name} {words}", differs)
        return wrong


def _all(prices: Any) -> Floats:
    """Prices of rows, then of what their groups serve."""
    whole = prices.count is None or not np.any(prices.count)
    return np.asarray(prices.lam if whole else np.append(prices.lam, prices.count))


def _sum(values: Floats) -> float:
    """Sums of chunks added exactly: the error does not grow with n."""
    parts = [float(values[low : low + 4096].sum()) for low in range(0, len(values), 4096)]
    return math.fsum(parts) if all(map(math.isfinite, parts)) else float(values.sum())
