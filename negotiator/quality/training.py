"""Train a predictor and judge it by cross-validation beside what needs none: the best and the cheapest single model.

Only prompts that a fold did not train on count, and the opponent is the single model that was best on the training
folds, not the one that turned out best.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from negotiator.quality.estimate import FloatArray, IntArray
from negotiator.quality.evaluate import Frontier, brier, calibration_error, frontier, singles
from negotiator.quality.fit import fit_model
from negotiator.quality.model import Model
from negotiator.quality.outcomes import Outcomes, folds

__all__ = [
    "USD_PER_THOUSAND",
    "CrossValidation",
    "Evaluation",
    "cross_validate",
    "expected_cost",
    "judge",
    "train",
]

FOLDS = 5
NUSD_PER_USD = 1e9
USD_PER_THOUSAND = 1_000 / NUSD_PER_USD
"""Nano-dollars of one call to dollars per 1,000 calls."""


@dataclass(frozen=True, slots=True, eq=False)
class CrossValidation:
    """Estimates of every prompt by a model that was not trained on it, prompts x models.

    mean, sd, usual (the mean of the training folds): float64. tokens: float64. cost: expected cost in dollars per 1,000
    prompts, None when costs are not recorded. fold: int64[n].
    """

    mean: FloatArray
    sd: FloatArray
    usual: FloatArray
    tokens: FloatArray
    cost: FloatArray | None
    fold: IntArray


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How a predictor did on prompts it had not seen. Costs are dollars per 1,000 prompts, None = not recorded.

    quality, cost: of the router at the cost of the best single model; best_*, cheapest_*: of single models chosen on the
    training folds. matching_cost: least cost at the best single model's quality, None = not reached. aiq, singles_aiq:
    mean height of the frontier between the cheapest and the best, router's and single models'. reasons: why it is not
    to be installed, empty = it is. complete: prompts with every model's outcome; only they show how choices did.
    """

    prompts: int
    complete: int
    models: int
    quality: float
    best_model: str
    best_quality: float
    best_cost: float | None
    cheapest_model: str
    cheapest_quality: float
    cheapest_cost: float | None
    matching_cost: float | None
    aiq: float | None
    singles_aiq: float | None
    brier: float
    usual_brier: float
    calibration_error: float
    points: tuple[tuple[float, float], ...]
    reasons: tuple[str, ...]

    @property
    def accepted(self) -> bool:
        """Whether it may be installed."""
        return not self.reasons


def train(
    outcomes: Outcomes, *, seed: int = 0, progress: Callable[[int, int], None] = lambda done, of: None
) -> tuple[Model, Evaluation]:
    """A predictor of all rows, and how its like did on rows held out. Look at ``accepted`` before installing it."""
    found = judge(outcomes, cross_validate(outcomes, seed=seed, progress=progress))
    notes = {"prompts": len(outcomes), "source": outcomes.name, "brier": found.brier, "seed": seed}
    return fit_model(outcomes, seed=seed, notes=notes), found


def cross_validate(
    outcomes: Outcomes,
    *,
    count: int = FOLDS,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> CrossValidation:
    """Fit on all folds but one, estimate that one; equal prompts share a fold."""
    fold = folds(outcomes, count, seed)
    mean, sd, usual, tokens, cost = (np.zeros(outcomes.quality.shape) for _ in range(5))
    for k in range(count):
        rest, here = fold != k, fold == k
        model = fit_model(outcomes.rows(rest), seed=seed)
        tested = outcomes.rows(here)
        estimate = model.estimate_encoded(tested.encoded)
        mean[here], sd[here], tokens[here] = estimate.mean, estimate.sd, estimate.output_tokens
        usual[here] = model.level.mean
        if outcomes.cost_nusd is not None:
            cost[here] = expected_cost(outcomes.rows(rest), tested.input_tokens, estimate.output_tokens)
        progress(k + 1, count)
    return CrossValidation(mean, sd, usual, tokens, None if outcomes.cost_nusd is None else cost, fold)


def expected_cost(
    trained: Outcomes, input_tokens: IntArray, output_tokens: npt.NDArray[np.generic]
) -> FloatArray:
    """Dollars per 1,000 prompts from token counts, prompts x models, at the prices the trained rows were billed at."""
    assert trained.cost_nusd is not None
    cost = np.empty(output_tokens.shape)
    for j in range(output_tokens.shape[1]):
        known = ~np.isnan(trained.output_tokens[:, j])
        paid = trained.cost_nusd[:, j] * USD_PER_THOUSAND
        if not known.any():
            cost[:, j] = paid.mean()
            continue
        counts = np.stack((trained.input_tokens[known], trained.output_tokens[known, j]), axis=1)
        prices, *_ = np.linalg.lstsq(counts.astype(np.float64), paid[known], rcond=None)
        cost[:, j] = np.stack((input_tokens, output_tokens[:, j]), axis=1) @ prices
    return np.maximum(cost, 0.0)


def judge(outcomes: Outcomes, held_out: CrossValidation) -> Evaluation:
    """Compare choices by held-out estimates with single models, on the prompts where all outcomes are recorded."""
    full = ~np.isnan(outcomes.quality).any(axis=1)
    costed = outcomes.cost_nusd is not None and held_out.cost is not None
    quality = outcomes.quality[full]
    cost = np.zeros_like(quality)
    if outcomes.cost_nusd is not None:
        cost = np.asarray(outcomes.cost_nusd[full] * USD_PER_THOUSAND, dtype=np.float64)
    errors = brier(held_out.mean, outcomes.quality), brier(held_out.usual, outcomes.quality)
    rows = np.arange(len(quality))
    best = held_out.usual[full].argmax(axis=1)
    names = outcomes.models
    alone = singles(quality, cost) if len(quality) else None
    cheapest = alone.cheapest if alone else 0
    points: tuple[tuple[float, float], ...] = ()
    chosen = held_out.mean[full].argmax(axis=1)
    value = float(quality[rows, chosen].mean()) if len(quality) else 0.0
    reached: float | None = None
    heights: tuple[float | None, float | None] = (None, None)
    best_quality, best_cost = (
        float(table[rows, best].mean()) if len(rows) else 0.0 for table in (quality, cost)
    )
    if costed and alone is not None and held_out.cost is not None:
        line = frontier(held_out.mean[full], held_out.cost[full], quality, cost)
        points = tuple(zip(line.cost.tolist(), line.quality.tolist(), strict=True))
        value, reached, heights = _beside(line, alone.frontier, best_quality, best_cost, alone.cost[cheapest])
    return Evaluation(
        prompts=len(outcomes),
        complete=len(rows),
        models=len(names),
        quality=value,
        best_model=names[int(np.bincount(best).argmax())] if len(rows) else names[0],
        best_quality=best_quality,
        best_cost=best_cost if costed else None,
        cheapest_model=names[cheapest],
        cheapest_quality=float(quality[:, cheapest].mean()) if len(rows) else 0.0,
        cheapest_cost=float(cost[:, cheapest].mean()) if costed and len(rows) else None,
        matching_cost=reached,
        aiq=heights[0],
        singles_aiq=heights[1],
        brier=errors[0],
        usual_brier=errors[1],
        calibration_error=calibration_error(held_out.mean, outcomes.quality),
        points=points,
        reasons=_reasons(value, best_quality if len(rows) else None, heights, errors),
    )


def _beside(
    line: Frontier, alone: Frontier, best_quality: float, best_cost: float, least_cost: float
) -> tuple[float, float | None, tuple[float, float]]:
    """Quality at the best single's cost, cost at its quality, and both mean heights."""
    reached = line.cost_at(best_quality)
    heights = line.aiq(least_cost, best_cost), alone.aiq(least_cost, best_cost)
    return line.quality_at(best_cost), None if np.isnan(reached) else reached, heights


def _reasons(
    quality: float,
    best_quality: float | None,
    heights: tuple[float | None, float | None],
    errors: tuple[float, float],
) -> tuple[str, ...]:
    """Why a predictor is not to be installed."""
    reasons = []
    if best_quality is not None and quality < best_quality:
        reasons.append(
            f"on held-out prompts its choices reach quality {quality:.4f}, the best single model alone {best_quality:.4f}"
        )
    router, alone = heights
    if router is not None and alone is not None and router < alone:
        reasons.append(f"its frontier (AIQ {router:.4f}) lies below that of the single models ({alone:.4f})")
    if errors[0] > errors[1]:
        reasons.append(
            f"its estimates (Brier {errors[0]:.4f}) are worse than each model's mean quality ({errors[1]:.4f})"
        )
    return tuple(reasons)
