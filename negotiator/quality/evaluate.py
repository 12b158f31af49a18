"""How well estimates choose: frontier of cost and quality, what lies between single models and the oracle, calibration.

A router picks argmax(mean - lambda * expected cost) for many lambda; its realised points and their concave hull are its
frontier. AIQ is the mean height of the hull between the costs of the cheapest and the best single model (Hu et al.,
"RouterBench", 2024). Costs are US dollars per 1,000 prompts, in reports only: no money moves on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from negotiator.quality.estimate import FloatArray, IntArray

__all__ = [
    "Frontier",
    "Singles",
    "brier",
    "calibration_error",
    "choose",
    "frontier",
    "hull",
    "lambdas",
    "reliability",
    "singles",
]

LAMBDA_STEPS = 120


@dataclass(frozen=True, slots=True, eq=False)
class Frontier:
    """Concave and non-decreasing: points by rising cost, float64[k] each."""

    cost: FloatArray
    quality: FloatArray

    def quality_at(self, cost: float) -> float:
        """The best mean quality for a mean cost; the lowest point's below it."""
        return float(np.interp(cost, self.cost, self.quality))

    def cost_at(self, quality: float) -> float:
        """The least mean cost of a mean quality; NaN when it is never reached."""
        if quality > self.quality[-1]:
            return float("nan")
        return float(np.interp(quality, self.quality, self.cost))

    def aiq(self, low: float, high: float) -> float:
        """Mean height between two costs."""
        grid = np.unique(np.clip(np.concatenate((self.cost, [low, high])), low, high))
        return float(np.trapezoid(np.interp(grid, self.cost, self.quality), grid) / max(high - low, 1e-12))


@dataclass(frozen=True, slots=True, eq=False)
class Singles:
    """What every model alone gets: mean quality and mean cost per model; which is best and which cheapest."""

    quality: FloatArray
    cost: FloatArray
    best: int
    cheapest: int

    @property
    def frontier(self) -> Frontier:
        """The hull of the single models: mixing two of them at random reaches every point of it."""
        return hull(self.cost, self.quality)


def singles(quality: FloatArray, cost: FloatArray) -> Singles:
    """Of outcomes, prompts x models."""
    means, costs = quality.mean(axis=0), cost.mean(axis=0)
    return Singles(means, costs, int(np.argmax(means)), int(np.argmin(costs)))


def choose(mean: FloatArray, cost: FloatArray, weight: float) -> IntArray:
    """int64[n]: the model of each prompt; ``weight`` (lambda) is what a dollar per 1,000 prompts is worth in quality."""
    return np.asarray(np.argmax(mean - weight * cost, axis=1), dtype=np.int64)


def lambdas(cost: FloatArray) -> FloatArray:
    """Zero and a geometric grid wide enough to go from the best model to the cheapest one."""
    scale = float(np.maximum(cost.mean(axis=0), 1e-9).min()), float(cost.mean(axis=0).max())
    return np.concatenate(([0.0], np.geomspace(1e-3 / scale[1], 3e1 / scale[0], LAMBDA_STEPS)))


def frontier(
    mean: FloatArray,
    expected_cost: FloatArray,
    quality: FloatArray,
    cost: FloatArray,
    weights: Sequence[float] | FloatArray | None = None,
) -> Frontier:
    """Choices by ``mean`` and ``expected_cost``, judged by ``quality`` and ``cost``; all prompts x models."""
    rows = np.arange(len(mean))
    points = []
    for weight in lambdas(expected_cost) if weights is None else weights:
        chosen = choose(mean, expected_cost, float(weight))
        points.append((cost[rows, chosen].mean(), quality[rows, chosen].mean()))
    x, y = np.array(points).T
    return hull(x, y)


def hull(cost: FloatArray, quality: FloatArray) -> Frontier:
    """The upper concave hull of points, from the cheapest to the best."""
    order = np.lexsort((-quality, cost))
    kept: list[tuple[float, float]] = []
    for x, y in zip(cost[order], quality[order], strict=True):
        if kept and y <= kept[-1][1]:
            continue
        while len(kept) > 1:
            (x0, y0), (x1, y1) = kept[-2:]
            if (y1 - y0) * (x - x0) > (y - y0) * (x1 - x0):
                break
            kept.pop()
        if len(kept) == 1 and x <= kept[0][0]:
            kept.pop()
        kept.append((float(x), float(y)))
    points = np.array(kept, dtype=np.float64)
    return Frontier(points[:, 0].copy(), points[:, 1].copy())


def brier(mean: FloatArray, quality: FloatArray) -> float:
    """Mean squared error of a probability; outcomes that were not recorded are left out."""
    return float(np.nanmean((mean - quality) ** 2))


def reliability(
    mean: FloatArray, quality: FloatArray, bins: int = 10
) -> tuple[FloatArray, FloatArray, npt.NDArray[np.int64]]:
    """Per bin of equal width: mean estimate, mean outcome, how many; empty bins are left out."""
    seen = ~np.isnan(quality)
    p, y = mean[seen], quality[seen]
    which = np.minimum((p * bins).astype(np.int64), bins - 1)
    count = np.bincount(which, minlength=bins)
    kept = count > 0
    total = np.maximum(count, 1)
    estimate = np.bincount(which, p, minlength=bins) / total
    outcome = np.bincount(which, y, minlength=bins) / total
    return estimate[kept], outcome[kept], count[kept]


def calibration_error(mean: FloatArray, quality: FloatArray) -> float:
    """Expected calibration error of one model's estimates, ten bins; for a matrix the mean over its columns."""
    if mean.ndim == 2:
        return float(np.mean([calibration_error(mean[:, j], quality[:, j]) for j in range(mean.shape[1])]))
    estimate, outcome, count = reliability(mean, quality)
    return float((np.abs(estimate - outcome) * count).sum() / count.sum())
