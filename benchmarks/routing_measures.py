"""Tables of the routing benchmark: frontier, gap to the oracle, calibration, floors, the pair's curves, spread.

Costs are dollars per 1,000 prompts. "Best single" is the single model with the best mean over the file, in hindsight:
a harder opponent than the one known beforehand.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.routing_predictors import Router
from negotiator.quality.evaluate import (
    Frontier,
    brier,
    calibration_error,
    choose,
    frontier,
    hull,
    lambdas,
    reliability,
    singles,
)

__all__ = ["arena", "baselines", "calibration", "floors", "gaps", "pair", "scores", "spread"]

Floats = npt.NDArray[np.float64]
LAMBDAS = (0.0, 0.01, 0.03, 0.1, 0.2, 0.5, 1.0, 5.0)
SPREAD_LAMBDAS = (0.03, 0.1)
FLOORS = (0.5, 0.6, 0.7, 0.8, 0.9)
CHECK_RIGHT = 0.8


def arena(quality: float, cost: float) -> float:
    """RouterArena's score in per cent: accuracy first, cost on a logarithmic scale."""
    cheap = (np.log2(200) - np.log2(max(cost, 0.0044))) / (np.log2(200) - np.log2(0.0044))
    return float(100 * 1.1 * quality * cheap / (0.1 * quality + cheap)) if cheap > 0 else 0.0


def scores(line: Frontier, quality: Floats, cost: Floats) -> dict[str, float | None]:
    """cost@best as a share of the best single's cost, q@cost, AIQ, best arena score along the frontier."""
    alone = singles(quality, cost)
    best, low = alone.cost[alone.best], alone.cost[alone.cheapest]
    share = line.cost_at(alone.quality[alone.best]) / best
    return {
        "cost_at_best": None if np.isnan(share) else float(share),
        "quality_at_cost": line.quality_at(best),
        "aiq": line.aiq(low, best),
        "arena": max(arena(q, c) for q, c in zip(line.quality, line.cost, strict=True)),
    }


def baselines(quality: Floats, cost: Floats, length: npt.NDArray[np.int64], seed: int) -> dict[str, Frontier]:
    """Routers without estimates: single models, random, static length threshold, two-tier cascades, oracle."""
    alone = singles(quality, cost)
    best, rows = alone.best, np.arange(len(quality))
    draw = np.random.default_rng(seed)
    points: dict[str, list[tuple[float, float]]] = {"static threshold": [], "random pair": []}
    for share in np.linspace(0.0, 1.0, 41):
        hard = length > np.quantile(length, 1.0 - share) if share else np.zeros(len(length), dtype=bool)
        chance = draw.random(len(length)) < share
        for name, which in (("static threshold", hard), ("random pair", chance)):
            at = np.where(which, best, alone.cheapest)
            points[name].append((float(cost[rows, at].mean()), float(quality[rows, at].mean())))
    lines = {"single models": alone.frontier}
    for name, right in (("cascade, perfect check", 1.0), ("cascade, check right 80 %", CHECK_RIGHT)):
        agreed = draw.random(quality.shape) < right
        passed = np.where(agreed, quality > 0.5, quality <= 0.5)
        tiers = [
            (
                float((cost[:, j] + ~passed[:, j] * cost[:, best]).mean()),
                float(np.where(passed[:, j], quality[:, j], quality[:, best]).mean()),
            )
            for j in range(quality.shape[1])
            if j != best
        ]
        points[name] = [*tiers, (float(alone.cost[alone.cheapest]), float(alone.quality[alone.cheapest]))]
    lines |= {name: hull(*np.array(found, dtype=np.float64).T) for name, found in points.items()}
    lines["oracle"] = frontier(quality, cost, quality, cost)
    return lines


def gaps(router: Router, quality: Floats, cost: Floats) -> dict[str, float]:
    """Share of the oracle's gain over the best single model, per lambda, per cent."""
    rows, found = np.arange(len(quality)), {}
    for weight in LAMBDAS:
        utility = quality - weight * cost
        mine = utility[rows, choose(router.mean, router.cost, weight)].mean()
        single, oracle = utility.mean(axis=0).max(), utility.max(axis=1).mean()
        found[f"{weight:g}"] = _share(mine, single, oracle)
    return found


def _share(mine: float, single: float, oracle: float) -> float:
    """Of the oracle's gain over the best single model, per cent."""
    return float(100 * (mine - single) / max(oracle - single, 1e-12))


def calibration(mean: Floats, quality: Floats) -> dict[str, Any]:
    """Brier, expected calibration error (mean over models), and the points of the reliability plot."""
    estimate, outcome, count = reliability(mean, quality)
    points = [[float(e), float(o), int(c)] for e, o, c in zip(estimate, outcome, count, strict=True)]
    return {"brier": brier(mean, quality), "ece": calibration_error(mean, quality), "reliability": points}


def floors(router: Router, quality: Floats, cost: Floats) -> list[dict[str, float]]:
    """Per floor: the cheapest model by expected cost whose estimate meets it, else refused; what was realised."""
    rows, found = np.arange(len(quality)), []
    for floor in FLOORS:
        meets = router.mean >= floor
        served = meets.any(axis=1)
        at = np.where(meets, router.cost, np.inf).argmin(axis=1)
        got = quality[rows, at][served]
        found.append(
            {
                "floor": floor,
                "served": float(served.mean()),
                "realised": float(got.mean()) if len(got) else float("nan"),
                "standard_error": float(got.std() / np.sqrt(len(got))) if len(got) else float("nan"),
                "cost": float(cost[rows, at][served].mean()) if len(got) else float("nan"),
            }
        )
    return found


def pair(router: Router, quality: Floats, cost: Floats) -> dict[str, float]:
    """RouteLLM's APGR and CPT for two models: strong calls handed out by expected gain."""
    strong = int(quality.mean(axis=0).argmax())
    weak = 1 - strong
    order = np.argsort(-(router.mean[:, strong] - router.mean[:, weak]), kind="stable")
    gain = np.concatenate(([0.0], np.cumsum((quality[:, strong] - quality[:, weak])[order])))
    share = np.linspace(0.0, 1.0, len(gain))
    recovered = gain / gain[-1]
    at = np.linspace(0.0, 1.0, 11)
    return {
        "apgr": float(np.trapezoid(np.interp(at, share, recovered), at)),
        "cpt50": float(100 * share[np.argmax(recovered >= 0.5)]),
        "cpt80": float(100 * share[np.argmax(recovered >= 0.8)]),
    }


def spread(
    mine: Router, other: Router, quality: Floats, cost: Floats, *, draws: int = 300, seed: int = 0
) -> dict[str, float]:
    """Paired bootstrap over prompts: AIQ of mine, and minus the other's; cost@best and gaps of mine. Means and sd."""
    draw, rows = np.random.default_rng(seed), np.arange(len(quality))
    utilities = [quality - weight * cost for weight in SPREAD_LAMBDAS]
    taken = [
        values[rows, choose(mine.mean, mine.cost, w)]
        for values, w in zip(utilities, SPREAD_LAMBDAS, strict=True)
    ]
    tables = []
    for router in (mine, other):
        chosen = [choose(router.mean, router.cost, w) for w in lambdas(router.cost)]
        tables.append([np.stack([values[rows, at] for at in chosen], axis=1) for values in (cost, quality)])
    found = []
    for _ in range(draws):
        weight = np.bincount(draw.integers(len(rows), size=len(rows)), minlength=len(rows)) / len(rows)
        alone_quality, alone_cost = weight @ quality, weight @ cost
        best, low = int(alone_quality.argmax()), float(alone_cost.min())
        lines = [hull(weight @ paid, weight @ got) for paid, got in tables]
        aiq = [line.aiq(low, alone_cost[best]) for line in lines]
        share = lines[0].cost_at(alone_quality[best]) / alone_cost[best]
        gap = [
            _share(float(weight @ got), float((weight @ values).max()), float(weight @ values.max(axis=1)))
            for got, values in zip(taken, utilities, strict=True)
        ]
        found.append(
            (
                aiq[0],
                aiq[0] - aiq[1],
                lines[0].quality_at(alone_cost[best]) - alone_quality[best],
                share,
                *gap,
            )
        )
    mean, sd = np.nanmean(found, axis=0), np.nanstd(found, axis=0)
    names = ["aiq", "aiq_gain", "quality_gain_over_best", "cost_at_best"]
    names += [f"gap_{weight:g}" for weight in SPREAD_LAMBDAS]
    return {
        f"{name}_{kind}": float(v)
        for kind, values in (("mean", mean), ("sd", sd))
        for name, v in zip(names, values, strict=True)
    }
