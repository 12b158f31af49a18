"""Fit the predictor: latent basis, ridge in rotated outcomes, ridge on the grams, means per task, one calibration. Needs SciPy.

The outcome matrix is centred and rotated by the eigenvectors of its covariance; every rotated column gets its own
penalty by exact leave-one-out. The first column is the difficulty all models share and is easy to predict; the others
are the differences routing lives on and are shrunk much harder. Each model calibrated by itself would undo that
shrinkage, so only their common level is.

Where outcomes name tasks, the differences are drawn towards those of the task that the prompt looks like, by the share
that predicts rows left out best: much with few rows and many models, nothing where words alone say more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from negotiator.quality.estimate import FloatArray
from negotiator.quality.features import BUCKETS, Encoded, Single
from negotiator.quality.model import HAND_LIMIT, Basis, Head, Level, Model, gram_weights
from negotiator.quality.outcomes import Outcomes

__all__ = ["LEAST_PROMPTS", "fit_model"]

DIMS_MAX, DIMS_MIN, ROWS_PER_DIM = 96, 16, 8
LEAST_DOCUMENTS = 3
LEAST_PROMPTS = 300
"""With fewer labelled prompts differences between models are not learnt: routing on them loses to the best single."""
GRAM_SHARE, GRAM_STEPS, GRAM_PARTS = 0.35, 15, 3
GRAM_PENALTY, GRAM_LEVEL_PENALTY = 20.0, 8.0
"""Of differences between models, and of the level they share, which is easier to predict."""
TASK_ROWS_MIN, TASK_ANSWERS, TASKS_MAX = 30, 20.0, 64
UNKNOWN_LENGTH = 250.0
"""Tokens expected of a model none of whose answers' lengths were recorded; three times as many is its p95."""
LATENT_POWER, HAND_WEIGHT = 0.5, 0.5
PENALTIES = np.geomspace(3.0, 3e6, 25)
COMPLETION_ROUNDS = 8
_OVERSAMPLE, _POWER_STEPS = 16, 2


def fit_model(outcomes: Outcomes, *, seed: int = 0, notes: dict[str, Any] | None = None) -> Model:
    """Everything from the rows given and from nothing else."""
    few = len(outcomes) < LEAST_PROMPTS
    grams = _grams(outcomes.encoded)
    dims = int(np.clip(len(outcomes) // ROWS_PER_DIM, DIMS_MIN, DIMS_MAX))
    directions, latent = _directions(grams.matrix, dims, seed)
    hand_mean = outcomes.encoded.hand.mean(axis=0)
    hand_scale = HAND_WEIGHT / np.maximum(outcomes.encoded.hand.std(axis=0), 1e-3)
    hand = np.clip((outcomes.encoded.hand - hand_mean) * hand_scale, -HAND_LIMIT, HAND_LIMIT)
    features = np.concatenate((latent, hand), axis=1).astype(np.float64)

    quality, ridge = _completed(features, outcomes.quality)
    mean = quality.mean(axis=0)
    words = _gram_words(grams.matrix, quality, ridge, seed)
    slope, offset = _logistic(words.level_left_out, quality.mean(axis=1))
    task = _nothing(ridge) if few else _task_word(features, outcomes.tasks, quality, ridge, words)
    kept = 0.0 if few else 1.0 - task.share
    weights = kept * GRAM_SHARE * words.apart + words.level
    length, *lengths = _length(features, outcomes.output_tokens)
    grid, step, unit = _quantised(np.concatenate((directions, weights), axis=1))
    return Model(
        outcomes.models,
        Basis(grams.idf, grams.row, step, unit, grid, hand_mean, hand_scale.astype(np.float32)),
        _head(ridge, int(np.argmax(mean)), kept * (1.0 - GRAM_SHARE), task),
        length,
        Level(
            mean,
            (~np.isnan(outcomes.quality)).sum(axis=0),
            np.array(slope),
            np.array(offset),
            *lengths,
        ),
        notes=notes,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Grams:
    """idf and row number per bucket, and the weighted grams as a sparse matrix over rows of buckets kept."""

    idf: Single
    row: npt.NDArray[np.int32]
    matrix: Any


def _grams(encoded: Encoded) -> _Grams:
    from scipy import sparse

    documents = np.bincount(encoded.buckets, minlength=BUCKETS)
    kept = documents >= LEAST_DOCUMENTS
    n = len(encoded)
    idf = np.where(kept, np.log((1.0 + n) / (1.0 + documents)) + 1.0, 0.0).astype(np.float32)
    row = np.where(kept, np.cumsum(kept) - 1, -1).astype(np.int32)
    at = row[encoded.buckets]
    used = at >= 0
    indptr = np.concatenate(([0], np.cumsum(used)))[encoded.indptr]
    weights = gram_weights(encoded, idf)[used]
    return _Grams(idf, row, sparse.csr_matrix((weights, at[used], indptr), shape=(n, int(kept.sum()))))


def _directions(matrix: Any, dims: int, seed: int) -> tuple[Single, Single]:
    """Latent directions of the grams (randomised SVD, Halko et al. 2011), scaled, and the prompts in them."""
    width = min(dims + _OVERSAMPLE, *matrix.shape)
    transposed = matrix.T.tocsr()
    start = np.random.default_rng(seed).standard_normal((matrix.shape[1], width), dtype=np.float32)
    sketch, _ = np.linalg.qr(matrix @ start)
    for _ in range(_POWER_STEPS):
        sketch, _ = np.linalg.qr(matrix @ (transposed @ sketch))
    image = transposed @ sketch
    squared, turn = np.linalg.eigh((image.T @ image).astype(np.float64))
    singular = np.sqrt(np.maximum(squared[::-1], 1e-12))[:dims]
    right = image @ (turn[:, ::-1][:, :dims] / singular).astype(np.float32)
    latent = matrix @ right
    scale = (singular / singular[0]) ** LATENT_POWER / np.maximum(latent.std(axis=0), 1e-6)
    return right * scale.astype(np.float32), latent * scale.astype(np.float32)


def _gram_ridge(matrix: Any, targets: FloatArray, penalty: Single) -> Single:
    """Ridge weights, columns of ``matrix`` x columns of ``targets``, by conjugate gradients on the dual."""
    goal = targets.astype(np.float32)
    transposed = matrix.T.tocsr()
    dual, residual = np.zeros_like(goal), goal.copy()
    step, squared = residual.copy(), (residual**2).sum(axis=0)
    for _ in range(GRAM_STEPS):
        image = matrix @ (transposed @ step) + penalty * step
        length = squared / np.maximum((step * image).sum(axis=0), 1e-12)
        dual += length * step
        residual -= length * image
        renewed = (residual**2).sum(axis=0)
        step = residual + renewed / np.maximum(squared, 1e-12) * step
        squared = renewed
    return np.asarray(transposed @ dual, dtype=np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class _Ridge:
    """Rotated ridge: weights[d, m] in the eigenbasis of X'X, leave-one-out predictions[n, m], and its spread."""

    centre: FloatArray
    axes: FloatArray
    intercept: FloatArray
    weights: FloatArray
    left_out: FloatArray
    gain: FloatArray
    rotation: FloatArray
    noise: FloatArray


def _ridge(features: FloatArray, outcomes: FloatArray) -> _Ridge:
    centre, intercept = features.mean(axis=0), outcomes.mean(axis=0)
    centred = features - centre
    strength, axes = np.linalg.eigh(centred.T @ centred)
    strength = np.maximum(strength, 0.0)
    turned = centred @ axes
    _, rotation = np.linalg.eigh(np.atleast_2d(np.cov(outcomes.T)))
    targets = (outcomes - intercept) @ rotation
    leverage = turned**2 @ (1.0 / (strength[:, None] + PENALTIES)) + 1.0 / len(features)
    leverage = np.minimum(leverage, 0.99)
    projected = turned.T @ targets
    left_out, weights, gain = np.empty_like(targets), np.empty_like(projected), np.empty_like(projected)
    noise = np.empty(targets.shape[1])
    for k in range(targets.shape[1]):
        solved = projected[:, [k]] / (strength[:, None] + PENALTIES)
        residual = (targets[:, [k]] - turned @ solved) / (1.0 - leverage)
        best = int(np.argmin((residual**2).mean(axis=0)))
        left_out[:, k] = targets[:, k] - residual[:, best]
        weights[:, k], gain[:, k] = solved[:, best], 1.0 / (strength + PENALTIES[best])
        noise[k] = (residual[:, best] ** 2).mean()
    back = rotation.T
    return _Ridge(centre, axes, intercept, weights @ back, left_out @ back + intercept, gain, rotation, noise)


@dataclass(frozen=True, slots=True, eq=False)
class _TaskWord:
    """What the task a prompt looks like says of each model: a share of all differences, linear in the features."""

    share: float
    weights: FloatArray
    offset: FloatArray


def _nothing(ridge: _Ridge) -> _TaskWord:
    return _TaskWord(0.0, np.zeros_like(ridge.weights), np.zeros_like(ridge.intercept))


def _head(ridge: _Ridge, best: int, apart: float, task: _TaskWord) -> Head:
    """The ridge as served; ``apart``: the share of the differences between models that is its own word."""
    rotation = ridge.rotation
    own, against = rotation**2 * ridge.noise, (rotation - rotation[best]) ** 2 * ridge.noise
    shared = ridge.weights.mean(axis=1, keepdims=True)
    weights = shared + apart * (ridge.weights - shared) + task.share * task.weights
    intercept = ridge.intercept + task.share * task.offset
    arrays = (ridge.centre, ridge.axes, intercept, weights, ridge.gain, own, against * (apart > 0.0))
    return Head(*(array.astype(np.float32) for array in arrays))


@dataclass(frozen=True, slots=True, eq=False)
class _GramWords:
    """Weights of the grams, columns of the matrix x models, and what they say of rows left out.

    apart: of the differences between models. level: what the ridge left over of the level all models share.
    """

    apart: Single
    level: Single
    apart_left_out: FloatArray
    level_left_out: FloatArray


def _gram_words(matrix: Any, quality: FloatArray, ridge: _Ridge, seed: int) -> _GramWords:
    """They share the differences between models with the ridge, and correct the level by what it left over."""
    level = ridge.left_out.mean(axis=1)
    targets = np.column_stack((_apart(quality), quality.mean(axis=1) - level))
    penalty = np.array([GRAM_PENALTY] * quality.shape[1] + [GRAM_LEVEL_PENALTY], dtype=np.float32)
    weights, left_out = _gram_ridge(matrix, targets, penalty), np.empty_like(targets)
    part = np.random.default_rng(seed).permutation(len(targets)) % GRAM_PARTS
    for k in range(GRAM_PARTS):
        others, here = np.flatnonzero(part != k), np.flatnonzero(part == k)
        left_out[here] = matrix[here] @ _gram_ridge(matrix[others], targets[others], penalty)
    return _GramWords(weights[:, :-1], weights[:, -1:], left_out[:, :-1], level + left_out[:, -1])


def _apart(values: FloatArray) -> FloatArray:
    """Differences between models beyond the usual ones: rows and columns with mean zero."""
    centred = values - values.mean(axis=0)
    return np.asarray(centred - centred.mean(axis=1, keepdims=True), dtype=np.float64)


def _task_word(
    features: FloatArray, tasks: Sequence[str], quality: FloatArray, ridge: _Ridge, words: _GramWords
) -> _TaskWord:
    """Differences per task, shrunk; which task it is, by a ridge; the share that errs least on rows left out."""
    names, number, count = np.unique(np.array(tasks), return_inverse=True, return_counts=True)
    order = np.argsort(-count, kind="stable")[:TASKS_MAX]
    kept = order[(count[order] >= TASK_ROWS_MIN) & (names[order] != "")]
    if len(kept) < 2:
        return _nothing(ridge)
    member = (number[:, None] == kept).astype(np.float64)
    target = _apart(quality)
    means = member.T @ target / (count[kept][:, None] + TASK_ANSWERS)
    recognised = _ridge(features, member)
    fine = (1.0 - GRAM_SHARE) * _apart(ridge.left_out) + GRAM_SHARE * words.apart_left_out
    turn = recognised.left_out @ means - fine
    share = float(np.clip(((target - fine) * turn).sum() / max((turn**2).sum(), 1e-12), 0.0, 1.0))
    return _TaskWord(share, recognised.weights @ means, recognised.intercept @ means)


def _logistic(predicted: FloatArray, outcome: FloatArray) -> tuple[float, float]:
    """Slope and offset of the logistic through predictions (Platt 1999; Newton, a light pull to the identity)."""
    slope, offset = 4.0, -2.0
    for _ in range(30):
        p = 1.0 / (1.0 + np.exp(-np.clip(slope * predicted + offset, -30.0, 30.0)))
        w = np.maximum(p * (1.0 - p), 1e-6)
        design = np.stack((predicted, np.ones_like(predicted)))
        gradient = design @ (outcome - p) - 0.1 * np.array([slope - 4.0, offset + 2.0])
        step = np.linalg.solve((design * w) @ design.T + 0.1 * np.eye(2), gradient)
        slope, offset = slope + step[0], offset + step[1]
        if np.abs(step).max() < 1e-8:
            break
    return float(slope), float(offset)


def _filled(values: FloatArray) -> FloatArray:
    """Unrecorded outcomes replaced by their model's mean: the row then says nothing about that model."""
    known = ~np.isnan(values)
    sums, counts = np.where(known, values, 0.0).sum(axis=0), known.sum(axis=0)
    # A model whose every answer is held out gets the mean of the others.
    mean = np.where(counts, sums / np.maximum(counts, 1), sums.sum() / max(int(counts.sum()), 1))
    return np.asarray(np.where(known, values, mean), dtype=np.float64)


def _completed(features: FloatArray, values: FloatArray) -> tuple[FloatArray, _Ridge]:
    """Outcomes with the unrecorded ones replaced by what the ridge expects of them, refined round by round."""
    unknown = np.isnan(values)
    filled = _filled(values)
    ridge = _ridge(features, filled)
    for _ in range(COMPLETION_ROUNDS if unknown.any() else 0):
        filled = np.where(unknown, np.clip(ridge.left_out, 0.0, 1.0), values)
        ridge = _ridge(features, filled)
    return filled, ridge


def _length(features: FloatArray, tokens: FloatArray) -> tuple[Head, FloatArray, FloatArray, FloatArray]:
    """Ridge on log(1 + tokens); per model: mean, smearing factor, log distance to the 95th percentile."""
    models = tokens.shape[1]
    known = ~np.isnan(tokens).all(axis=0)
    logs = np.full(tokens.shape, np.log1p(UNKNOWN_LENGTH))
    if known.any():
        logs[:, known] = _filled(np.log1p(tokens[:, known]))
    ridge = _ridge(features, logs)
    mean, factor, p95 = np.full(models, UNKNOWN_LENGTH), np.ones(models), np.full(models, np.log(3.0))
    for j in np.flatnonzero(known):
        seen = ~np.isnan(tokens[:, j])
        guess = ridge.left_out[seen, j]
        mean[j] = tokens[seen, j].mean()
        factor[j] = mean[j] / max(np.expm1(guess).mean(), 1e-9)
        p95[j] = np.quantile(logs[seen, j] - guess, 0.95)
    return _head(ridge, 0, 1.0, _nothing(ridge)), mean, factor, p95


def _quantised(numbers: Single) -> tuple[npt.NDArray[np.int8], Single, Single]:
    """int8 grid with a step per row and a unit per column, so that columns of other size keep their digits.

    A last row of zeros stands for the buckets that were too rare.
    """
    unit = np.maximum(np.sqrt((numbers**2).mean(axis=0)), 1e-12)
    scaled = numbers / unit
    step = np.maximum(np.abs(scaled).max(axis=1), 1e-9) / 127.0
    grid = np.rint(scaled / step[:, None]).astype(np.int8)
    grid, step = np.pad(grid, ((0, 1), (0, 0))), np.append(step, 0.0)
    return grid, step.astype(np.float32), unit.astype(np.float32)
