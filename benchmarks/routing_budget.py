"""Budgets per model over a stream of prompts: PORT's protocol, with duals fitted once as published and re-solved.

The total budget is what all prompts would cost on the cheapest model, split over models by mean quality / mean cost.
Arrivals in random order; an answer counts its quality, a prompt whose model has no budget left counts nothing.
Everything a rule knows is the estimates of the prompts it has seen and the budgets.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.routing_predictors import Router

__all__ = ["protocol"]

Floats = npt.NDArray[np.float64]
ORDERS = 5
FIRST_SHARE = 0.025
EVERY, RECENT = 200, 1_500
EARLY = (25, 50, 100)


def protocol(ours: Router, neighbours: Router, quality: Floats, cost: Floats) -> dict[str, Any]:
    """Performance (sum of realised quality, mean of the orders) of each rule on each estimate, and the upper bound."""
    weight = quality.mean(axis=0) / np.maximum(cost.mean(axis=0), 1e-12)
    budget = cost.sum(axis=0).min() * weight / weight.sum()
    bound = _bound(quality, cost, budget)
    found: dict[str, Any] = {"bound": bound, "rules": {}}
    for label, router in (("5 neighbours", neighbours), ("ours", ours)):
        for rule in (
            "greedy quality",
            "greedy cost",
            "PORT as published",
            "one-shot duals, next best",
            "re-solved duals",
        ):
            runs = [
                _run(
                    rule,
                    router,
                    quality,
                    cost,
                    budget,
                    np.random.default_rng(order).permutation(len(quality)),
                )
                for order in range(ORDERS)
            ]
            found["rules"][f"{rule}, {label}"] = {
                "performance": float(np.mean(runs)),
                "sd": float(np.std(runs)),
                "share_of_bound": float(np.mean(runs) / bound),
            }
    rules = found["rules"]
    again = rules["re-solved duals, ours"]["performance"]
    found["over_port_on_ours"] = again / rules["PORT as published, ours"]["performance"]
    found["over_port_on_neighbours"] = again / rules["PORT as published, 5 neighbours"]["performance"]
    return found


def _run(
    rule: str, router: Router, quality: Floats, cost: Floats, budget: Floats, order: npt.NDArray[np.int64]
) -> float:
    draw = np.random.default_rng(int(order[0]))
    left, total = budget.copy(), 0.0
    first = max(1, int(FIRST_SHARE * len(order)))
    prices: Floats | None = None
    due = {first} if rule != "re-solved duals" else {*EARLY, *range(EVERY, len(order), EVERY)}
    for step, i in enumerate(order):
        if step in due and not rule.startswith("greedy"):
            seen = order[max(0, step - RECENT) : step]
            ahead = len(order) - (step if rule == "re-solved duals" else 0)
            prices = _duals(router.mean[seen], router.cost[seen], left / ahead * len(seen), prices)
        j = _choose(rule, router.mean[i], router.cost[i], left, prices, draw)
        if j < 0 or cost[i, j] > left[j]:
            continue
        left[j] -= cost[i, j]
        total += quality[i, j]
    return float(total)


def _choose(
    rule: str, mean: Floats, cost: Floats, left: Floats, prices: Floats | None, draw: np.random.Generator
) -> int:
    fits = cost <= left
    if rule == "greedy quality":
        return int(np.where(fits, mean, -1.0).argmax()) if fits.any() else -1
    if rule == "greedy cost":
        return int(np.where(fits, cost, np.inf).argmin()) if fits.any() else -1
    if prices is None:
        return int(draw.integers(len(mean)))
    value = mean - prices * cost
    if rule == "PORT as published":
        return int(value.argmax())
    value = np.where(fits, value, -1.0)
    j = int(value.argmax())
    return j if value[j] > 0.0 else -1


def _duals(mean: Floats, cost: Floats, budget: Floats, start: Floats | None) -> Floats:
    """Prices per model that minimise prices . budget + sum of max(0, mean - prices * cost), smoothed."""
    from scipy import optimize

    scale = np.maximum(cost.mean(axis=0), 1e-12)
    x = np.ones(len(budget)) * 0.5 if start is None else start * scale

    def dual(x: Floats, heat: float) -> tuple[float, Floats]:
        value = (mean - cost * (x / scale)) / heat
        top = np.maximum(value.max(axis=1), 0.0)
        odds = np.exp(value - top[:, None])
        total = odds.sum(axis=1) + np.exp(-top)
        use = ((odds / total[:, None]) * cost).sum(axis=0)
        return float(x / scale @ budget + heat * (top + np.log(total)).sum()), (budget - use) / scale

    for heat in (0.05, 0.01) if start is None else (0.01,):
        x = optimize.minimize(
            dual,
            x,
            args=(heat,),
            jac=True,
            method="L-BFGS-B",
            bounds=[(0.0, None)] * len(x),
            options={"maxiter": 100},
        ).x
    return np.asarray(x / scale, dtype=np.float64)


def _bound(quality: Floats, cost: Floats, budget: Floats) -> float:
    """An upper bound of what any choice in hindsight could reach: the unsmoothed dual at the fitted prices."""
    prices = _duals(quality, cost, budget, None)
    return float(prices @ budget + np.maximum((quality - prices * cost).max(axis=1), 0.0).sum())
