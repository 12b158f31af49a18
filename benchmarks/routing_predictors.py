"""Held-out estimates of every router in the comparison, all on the same folds; a fold's data never meets its own test.

Each gives P(acceptable) per prompt and model and expected cost; who differs only in quality shares our expected cost,
so that the comparison is about the prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from negotiator.quality.features import BUCKETS, Encoded
from negotiator.quality.fit import fit_model
from negotiator.quality.model import Model
from negotiator.quality.outcomes import Outcomes, folds
from negotiator.quality.training import USD_PER_THOUSAND, expected_cost

__all__ = ["HeldOut", "Router", "held_out"]

Floats = npt.NDArray[np.float64]
NEIGHBOURS, FEW_NEIGHBOURS, SHRINK, CLUSTERS = 80, 5, 20.0, 48


@dataclass(frozen=True, slots=True, eq=False)
class Router:
    """Estimates, prompts x models: mean quality and cost in dollars per 1,000 prompts."""

    mean: Floats
    cost: Floats


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """All routers by name; sd of ours; the mean quality of the training folds; fold numbers; one fold's model."""

    routers: dict[str, Router]
    sd: Floats
    usual: Floats
    fold: npt.NDArray[np.int64]
    model: Model


def held_out(
    outcomes: Outcomes, *, count: int = 5, seed: int = 0, say: Callable[[str], None] = lambda text: None
) -> HeldOut:
    """Fit everything on all folds but one, in turn."""
    assert outcomes.cost_nusd is not None
    fold = folds(outcomes, count, seed)
    shape = outcomes.quality.shape
    made: dict[str, Router] = {}
    sd, usual = np.zeros(shape), np.zeros(shape)
    for k in range(count):
        rest, here = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        trained, tested = outcomes.rows(rest), outcomes.rows(here)
        model = fit_model(trained, seed=seed)
        estimate = model.estimate_encoded(tested.encoded)
        cost = expected_cost(trained, tested.input_tokens, estimate.output_tokens)
        sd[here], usual[here] = estimate.sd, trained.quality.mean(axis=0)
        found = {"negotiator": (estimate.mean, cost), "mean quality": (usual[here], cost)}
        found |= _others(trained, tested, model, cost, seed)
        for name, (mean, paid) in found.items():
            router = made.setdefault(name, Router(np.zeros(shape), np.zeros(shape)))
            router.mean[here], router.cost[here] = mean, paid
        say(f"{outcomes.name}: fold {k + 1} of {count}")
    return HeldOut(made, sd, usual, fold, model)


def _others(
    trained: Outcomes, tested: Outcomes, model: Model, cost: Floats, seed: int
) -> dict[str, tuple[Floats, Floats]]:
    paid = trained.cost_nusd * USD_PER_THOUSAND if trained.cost_nusd is not None else None
    assert paid is not None
    dims = len(model.features(tested.encoded.rows(np.arange(1)))[0][0]) - trained.encoded.hand.shape[1]
    old, new = (_unit(model.features(part.encoded)[0][:, :dims]) for part in (trained, tested))
    near = _neighbours(old, new, NEIGHBOURS)
    average = trained.quality.mean(axis=0)
    neighbour = (trained.quality[near].sum(axis=1) + SHRINK * average) / (NEIGHBOURS + SHRINK)
    few = near[:, :FEW_NEIGHBOURS]
    clustered = _clusters(old, new, trained.quality, paid, seed)
    return {
        "TF-IDF logistic": (_logistic(trained, tested), cost),
        "kNN": (neighbour, cost),
        "5 neighbours": (trained.quality[few].mean(axis=1), paid[few].mean(axis=1)),
        "clusters": clustered,
    }


def _unit(features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(norms, 1e-9), dtype=np.float32)


def _neighbours(
    old: npt.NDArray[np.float32], new: npt.NDArray[np.float32], count: int
) -> npt.NDArray[np.int64]:
    """The nearest by cosine, nearest first."""
    parts = []
    for start in range(0, len(new), 512):
        likeness = new[start : start + 512] @ old.T
        top = np.argpartition(-likeness, count, axis=1)[:, :count]
        order = np.argsort(-np.take_along_axis(likeness, top, axis=1), axis=1)
        parts.append(np.take_along_axis(top, order, axis=1))
    return np.concatenate(parts)


def _clusters(
    old: npt.NDArray[np.float32], new: npt.NDArray[np.float32], quality: Floats, cost: Floats, seed: int
) -> tuple[Floats, Floats]:
    """k-means, then each model's mean quality and cost per cluster (the idea of Avengers-Pro)."""
    draw = np.random.default_rng(seed)
    count = min(CLUSTERS, len(old) // 20)
    centres = old[draw.choice(len(old), count, replace=False)]
    for _ in range(15):
        member = (old @ centres.T).argmax(axis=1)
        sums = np.stack(
            [np.bincount(member, old[:, d], minlength=count) for d in range(old.shape[1])], axis=1
        )
        centres = _unit(np.where(sums.any(axis=1, keepdims=True), sums, centres).astype(np.float32))
    member, mine = (old @ centres.T).argmax(axis=1), (new @ centres.T).argmax(axis=1)
    size = np.bincount(member, minlength=count)[:, None]
    tables = []
    for values in (quality, cost):
        total = np.stack(
            [np.bincount(member, values[:, j], minlength=count) for j in range(values.shape[1])], axis=1
        )
        tables.append((total + values.mean(axis=0)) / (size + 1.0))
    return tables[0][mine], tables[1][mine]


def _logistic(trained: Outcomes, tested: Outcomes) -> Floats:
    """Hashed word 1-2-gram TF-IDF and one logistic regression per model (penalty 1, run to convergence)."""
    from scipy import optimize

    half = BUCKETS // 2
    kept, idf = _word_idf(trained.encoded)
    old, new = (_words(part.encoded, kept, idf) for part in (trained, tested))
    transposed = old.T.tocsr()
    mean = np.empty((len(tested), len(trained.models)))
    assert len(kept) == half
    for j, target in enumerate(trained.quality.T):

        def loss(weights: Floats, target: Floats = target) -> tuple[float, Floats]:
            linear = old @ weights[:-1] + weights[-1]
            value = np.logaddexp(0.0, linear).sum() - target @ linear + 0.5 * weights[:-1] @ weights[:-1]
            error = 1.0 / (1.0 + np.exp(-linear)) - target
            return float(value), np.append(transposed @ error + weights[:-1], error.sum())

        start = np.zeros(old.shape[1] + 1)
        found = optimize.minimize(
            loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 200, "ftol": 1e-7}
        )
        mean[:, j] = 1.0 / (1.0 + np.exp(-(new @ found.x[:-1] + found.x[-1])))
    return mean


def _word_idf(encoded: Encoded) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    half = BUCKETS // 2
    words = encoded.buckets[encoded.buckets >= half] - half
    documents = np.bincount(words, minlength=half)
    kept = np.where(documents >= 2, np.cumsum(documents >= 2) - 1, -1)
    return kept, np.log((1.0 + len(encoded)) / (1.0 + documents)) + 1.0


def _words(encoded: Encoded, kept: npt.NDArray[np.int64], idf: npt.NDArray[np.float64]):  # type: ignore[no-untyped-def]
    from scipy import sparse

    half = BUCKETS // 2
    row = np.repeat(np.arange(len(encoded)), np.diff(encoded.indptr))
    word = encoded.buckets >= half
    bucket, row = encoded.buckets[word] - half, row[word]
    used = kept[bucket] >= 0
    bucket, row, count = bucket[used], row[used], encoded.counts[word][used]
    value = (1.0 + np.log(count)) * idf[bucket]
    norm = np.sqrt(np.bincount(row, value**2, minlength=len(encoded)))
    value = value / np.maximum(norm, 1e-9)[row]
    return sparse.csr_matrix((value, (row, kept[bucket])), shape=(len(encoded), int(kept.max()) + 1))
