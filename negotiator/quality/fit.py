"""Fit the predictor: latent semantic basis, ridge in rotated outcomes, calibration. Needs SciPy.

The outcome matrix is centred and rotated by the eigenvectors of its covariance; every rotated column gets its own
penalty by exact leave-one-out. The first column is the difficulty all models share and is easy to predict; the others
are the differences routing lives on and are shrunk much harder. Platt scaling on the leave-one-out predictions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from negotiator.quality.estimate import FloatArray
from negotiator.quality.features import BUCKETS, Encoded, encode
from negotiator.quality.model import Basis, Head, Model, block_weights
from negotiator.quality.outcomes import Outcomes

__all__ = ["encode_all", "fit_basis", "fit_model"]

DIMS_MAX, DIMS_MIN, ROWS_PER_DIM = 256, 16, 8
LENGTH_DIMS = 64
LEAST_DOCUMENTS = 3
PENALTIES = np.geomspace(3.0, 3e6, 25)
_OVERSAMPLE, _POWER_STEPS = 16, 2
_BATCH = 256

Matrix = npt.NDArray[np.float32]


def encode_all(texts: tuple[str, ...]) -> list[Encoded]:
    """All texts, encoded in batches."""
    return [encode(texts[start : start + _BATCH]) for start in range(0, len(texts), _BATCH)]


def _counts(
    parts: list[Encoded],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Matrix, Matrix]:
    """indptr, buckets, counts and hand features of all parts together."""
    sizes = np.concatenate([np.diff(part.indptr) for part in parts])
    buckets = np.concatenate([part.buckets for part in parts])
    counts = np.concatenate([part.counts for part in parts])
    return (
        np.concatenate(([0], np.cumsum(sizes))),
        buckets,
        counts,
        np.concatenate([part.hand for part in parts]),
    )


def fit_basis(parts: list[Encoded], dims: int, seed: int) -> Basis:
    """Latent semantic directions of the hashed grams (randomised SVD, Halko et al. 2011), and scales of all features."""
    from scipy import sparse

    indptr, buckets, counts, hand = _counts(parts)
    n = len(indptr) - 1
    documents = np.bincount(buckets, minlength=BUCKETS)
    kept = documents >= LEAST_DOCUMENTS
    idf = np.where(kept, np.log((1.0 + n) / (1.0 + documents)) + 1.0, 0.0).astype(np.float32)
    values = block_weights(indptr, buckets, counts, idf)
    row_of = np.where(kept, np.cumsum(kept) - 1, -1).astype(np.int32)
    used = row_of[buckets] >= 0
    rows = np.repeat(np.arange(n), np.diff(indptr))[used]
    matrix = sparse.csr_matrix((values[used], (rows, row_of[buckets[used]])), shape=(n, int(kept.sum())))
    right, singular = _svd(matrix, dims, seed)
    latent = matrix @ right
    scale = (singular / singular[0]) ** 0.25 / np.maximum(latent.std(axis=0), 1e-6)
    right *= scale.astype(np.float32)
    step = np.maximum(np.abs(right).max(axis=1), 1e-9) / 127.0
    return Basis(
        idf=idf,
        row=row_of,
        step=step.astype(np.float32),
        directions=np.rint(right / step[:, None]).astype(np.int8),
        hand_mean=hand.mean(axis=0),
        hand_scale=1.0 / np.maximum(hand.std(axis=0), 1e-3),
    )


def _svd(matrix: Any, dims: int, seed: int) -> tuple[Matrix, FloatArray]:
    """Right singular vectors (columns) and singular values, the largest ``dims``."""
    dims = min(dims, *matrix.shape)
    width = min(dims + _OVERSAMPLE, *matrix.shape)
    start = np.random.default_rng(seed).standard_normal((matrix.shape[1], width), dtype=np.float32)
    transposed = matrix.T.tocsr()
    sketch, _ = np.linalg.qr(matrix @ start)
    for _ in range(_POWER_STEPS):
        other, _ = np.linalg.qr(transposed @ sketch)
        sketch, _ = np.linalg.qr(matrix @ other)
    _, singular, right = np.linalg.svd((transposed @ sketch).T, full_matrices=False)
    return np.ascontiguousarray(right[:dims].T, dtype=np.float32), singular[:dims].astype(np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class _Ridge:
    """Rotated ridge: weights[d, m] in the eigenbasis of X'X, leave-one-out predictions[n, m], and its spread."""

    centre: FloatArray
    axes: FloatArray
    intercept: FloatArray
    weights: FloatArray
    left_out: FloatArray
    gain: FloatArray
    variance: FloatArray


def _ridge(features: FloatArray, outcomes: FloatArray) -> _Ridge:
    centre, intercept = features.mean(axis=0), outcomes.mean(axis=0)
    centred = features - centre
    strength, axes = np.linalg.eigh(centred.T @ centred)
    strength = np.maximum(strength, 0.0)
    turned = centred @ axes
    _, rotation = np.linalg.eigh(np.cov(outcomes.T))
    targets = (outcomes - intercept) @ rotation
    leverage = turned**2 @ (1.0 / (strength[:, None] + PENALTIES)) + 1.0 / len(features)
    leverage = np.minimum(leverage, 0.99)
    projected = turned.T @ targets
    left_out, weights, gain = (
        np.empty_like(targets),
        np.empty_like(projected),
        np.empty_like(projected),
    )
    noise = np.empty(targets.shape[1])
    for k in range(targets.shape[1]):
        solved = projected[:, [k]] / (strength[:, None] + PENALTIES)
        residual = (targets[:, [k]] - turned @ solved) / (1.0 - leverage)
        best = int(np.argmin((residual**2).mean(axis=0)))
        left_out[:, k] = targets[:, k] - residual[:, best]
        weights[:, k], gain[:, k] = solved[:, best], 1.0 / (strength + PENALTIES[best])
        noise[k] = (residual[:, best] ** 2).mean()
    return _Ridge(
        centre,
        axes,
        intercept,
        weights @ rotation.T,
        left_out @ rotation.T + intercept,
        gain,
        rotation**2 * noise,
    )


def _platt(predicted: FloatArray, outcome: FloatArray) -> tuple[float, float]:
    """Slope and offset of the logistic through predictions (Newton, with a light pull to the identity)."""
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
    return np.where(np.isnan(values), np.nanmean(values, axis=0), values)


def fit_model(
    outcomes: Outcomes,
    *,
    seed: int,
    parts: list[Encoded] | None = None,
    dims: int | None = None,
) -> Model:
    """Everything from the rows given and from nothing else."""
    parts = encode_all(outcomes.texts) if parts is None else parts
    dims = dims or int(np.clip(len(outcomes) // ROWS_PER_DIM, DIMS_MIN, DIMS_MAX))
    basis = fit_basis(parts, dims, seed)
    features = np.concatenate([basis.project(part) for part in parts]).astype(np.float64)
    quality = _filled(outcomes.quality)
    ridge = _ridge(features, quality)
    pairs = [_platt(ridge.left_out[:, j], quality[:, j]) for j in range(quality.shape[1])]
    slope, offset = np.array(pairs).T
    head = _head(ridge, slope, offset)
    length, factor, p95 = _length(features, basis.dims, outcomes)
    recorded = (~np.isnan(outcomes.quality)).sum(axis=0)
    return Model(
        outcomes.models,
        basis,
        head,
        length,
        factor,
        p95,
        recorded,
        quality.mean(axis=0),
    )


def _head(ridge: _Ridge, slope: FloatArray, offset: FloatArray) -> Head:
    single = np.float32
    return Head(
        centre=ridge.centre.astype(single),
        axes=ridge.axes.astype(single),
        intercept=ridge.intercept.astype(single),
        weights=ridge.weights.astype(single),
        gain=ridge.gain.astype(single),
        variance=ridge.variance.astype(single),
        slope=slope.astype(single),
        offset=offset.astype(single),
    )


def _length(features: FloatArray, dims: int, outcomes: Outcomes) -> tuple[Head, FloatArray, FloatArray]:
    """Ridge on log(1 + tokens); smearing factor per model; log distance to the 95th percentile per model."""
    tokens = outcomes.output_tokens
    models = tokens.shape[1]
    known = ~np.isnan(tokens).all(axis=0)
    logs = np.zeros_like(tokens)
    if known.any():
        logs[:, known] = _filled(np.log1p(tokens[:, known]))
    used = np.concatenate((features[:, : min(dims, LENGTH_DIMS)], features[:, dims:]), axis=1)
    ridge = _ridge(used, logs)
    factor, p95 = np.ones(models), np.zeros(models)
    for j in np.flatnonzero(known):
        seen = ~np.isnan(tokens[:, j])
        guess = ridge.left_out[seen, j]
        factor[j] = tokens[seen, j].mean() / max(np.expm1(guess).mean(), 1e-9)
        p95[j] = np.quantile(logs[seen, j] - guess, 0.95)
    return _head(ridge, np.ones(models), np.zeros(models)), factor, p95
