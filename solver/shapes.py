"""Can a plan be read as a plan of a problem at all: arrays, prices, numbers and objective of the right kind."""

from __future__ import annotations

from typing import Any

import numpy as np

from .checks import is_number
from .problem import Plan, Problem, Reason, Termination

__all__ = ["misshapen"]

NUMBERS = ("served", "cost", "served_bound", "cost_bound", "gap")


def misshapen(problem: Problem, plan: object) -> list[str]:
    """In words, what keeps the plan from being read; empty where nothing does."""
    if not isinstance(plan, Plan):
        return [f"plan: expected a Plan, found {type(plan).__name__}"]
    wrong = _assignment(problem, plan)
    for name in NUMBERS:
        if not is_number(getattr(plan, name)):
            wrong.append(f"{name}: expected a number, found {getattr(plan, name)!r}")
    end: object = plan.termination
    if not isinstance(end, Termination):
        wrong.append(f"termination: expected a Termination, found {type(end).__name__}")
    if not isinstance(plan.objective, str) or plan.objective not in ("served_then_cost", "surplus"):
        wrong.append(f"objective: expected served_then_cost or surplus, found {plan.objective!r}")
    elif plan.objective == "surplus" and problem.value is None:
        wrong.append("objective: expected a problem with values for surplus, found none")
    elif plan.objective == "surplus" and plan.served_prices is not None:
        wrong.append("served_prices: expected None with objective surplus")
    wrong += _prices("prices", plan.prices, problem.rows)
    return wrong + (
        [] if plan.served_prices is None else _prices("served_prices", plan.served_prices, problem.rows)
    )


def _assignment(problem: Problem, plan: Plan) -> list[str]:
    n, m, k = problem.n, problem.m, problem.rows
    wrong = []
    for name, low, high in (("choice", -1, m - 1), ("reason", 0, len(Reason) - 1), ("limit", -1, k - 1)):
        array = getattr(plan, name)
        if not isinstance(array, np.ndarray):
            wrong.append(f"{name}: expected an array of {n} integers, found {type(array).__name__}")
        elif array.shape != (n,) or array.dtype.kind not in "iu":
            wrong.append(f"{name}: expected {n} integers, found shape {array.shape}, dtype {array.dtype}")
        elif n and (array.min() < low or array.max() > high):
            wrong.append(f"{name}: expected {low} .. {high}, found {array.min()} .. {array.max()}")
    return wrong


def _prices(name: str, prices: Any, k: int) -> list[str]:
    lam = getattr(prices, "lam", None)
    count = getattr(prices, "count", None)
    for found in (lam,) if count is None else (lam, count):
        if not isinstance(found, np.ndarray) or found.dtype.kind not in "iuf":
            return [f"{name}: expected {k} finite numbers >= 0, found {type(found).__name__}"]
        if found.shape != (k,) or not np.all((found >= 0) & (found < np.inf)):
            return [f"{name}: expected {k} finite numbers >= 0, found shape {found.shape} or another"]
    unserved = getattr(prices, "unserved", None)
    return (
        []
        if is_number(unserved) and unserved >= 0
        else [f"{name}.unserved: expected >= 0, found {unserved!r}"]
    )
