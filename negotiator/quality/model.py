"""The trained predictor: one memory-mapped file shared by all workers, NumPy alone.

An estimate is the mean of two ridge regressions, one on latent directions and hand-made features, one on the hashed
grams themselves. Only the level that all models share is calibrated (a logistic through it); differences between
models stay as shrunk as they were fitted, and each is lowered by ``GUARD_SDS`` of its own standard deviation against
the best single model, so that a lucky error does not win.

File: the line ``negotiator quality model 1``, a JSON line that names every array with type, shape and offset, then the
arrays, aligned to 64 bytes. What belongs to a bucket is stored in 8 bits per number, one scale per bucket.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from negotiator.errors import InputInvalid
from negotiator.quality.estimate import Estimate, FloatArray, IntArray
from negotiator.quality.features import BUCKETS, COUNT_MAX, Encoded, Single, encode
from negotiator.quality.priors import bare_name

__all__ = ["GUARD_SDS", "HAND_LIMIT", "Basis", "Head", "Level", "Model", "gram_weights", "load_model"]

MAGIC = b"negotiator quality model 1\n"
GUARD_SDS = 0.25
HAND_LIMIT = 2.0
"""Hand-made features are cut so many units from their mean; a unit is half a standard deviation's weight."""
_ALIGN = 64
_BATCH = 128
_LEAST, _MOST, _BEND = 0.01, 0.99, 0.04
_LOG_TF = (1.0 + np.log(np.maximum(np.arange(COUNT_MAX + 1), 1))).astype(np.float32)


def gram_weights(encoded: Encoded, idf: Single) -> Single:
    """(1 + log tf) * idf, with the gram half and the word half of every text at norm one."""
    weights = _LOG_TF.take(encoded.counts) * idf.take(encoded.buckets)
    ends = encoded.indptr.tolist()
    for start, end in itertools.pairwise(ends):
        middle = start + int(encoded.buckets[start:end].searchsorted(BUCKETS // 2))
        for half in (weights[start:middle], weights[middle:end]):
            half *= 1.0 / max(float(half.dot(half)) ** 0.5, 1e-9)
    return weights


@dataclass(frozen=True, slots=True, eq=False)
class Basis:
    """Hashed grams and hand features to dense columns.

    idf: float32[BUCKETS], 0 = too rare. row: int32[BUCKETS], row of ``grid``; -1 = the last, which is zero. step: float32[rows], unit:
    float32[columns]: step * grid * unit are the numbers that ``grid``, int8[rows, columns], stands for: latent
    directions first, then what a gram says of each model. hand_mean, hand_scale: float32[HAND].
    """

    idf: Single
    row: npt.NDArray[np.int32]
    step: Single
    unit: Single
    grid: npt.NDArray[np.int8]
    hand_mean: Single
    hand_scale: Single

    def project(self, encoded: Encoded) -> tuple[Single, Single]:
        """float32[n, columns] of the grid, and float32[n, HAND], standardised."""
        rows = self.row.take(encoded.buckets)
        weights = gram_weights(encoded, self.idf) * self.step.take(rows)
        sums = np.empty((len(encoded), self.grid.shape[1]), dtype=np.float32)
        ends = encoded.indptr.tolist()
        for i, (start, end) in enumerate(itertools.pairwise(ends)):
            grid = self.grid.take(rows[start:end], axis=0).astype(np.float32)
            np.matmul(weights[start:end], grid, out=sums[i])
        sums *= self.unit
        hand = (encoded.hand - self.hand_mean) * self.hand_scale
        return sums, np.clip(hand, -HAND_LIMIT, HAND_LIMIT)


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """Ridge for m models in the eigenbasis of X'X: ``axes`` d x d, ``weights`` d x m, ``intercept`` m.

    gain: d x m, 1 / (eigenvalue + penalty) per rotated outcome. own, against: m x m, what each rotated outcome's
    noise adds to each model's variance, and to that of its difference from the best single model.
    """

    centre: Single
    axes: Single
    intercept: Single
    weights: Single
    gain: Single
    own: Single
    against: Single

    def turn(self, features: Single) -> Single:
        """n x d, in the eigenbasis."""
        return np.asarray((features - self.centre) @ self.axes, dtype=np.float32)

    def predict(self, turned: Single) -> Single:
        """Linear prediction, n x m."""
        return np.asarray(turned @ self.weights + self.intercept, dtype=np.float32)

    def spread(self, turned: Single) -> tuple[Single, Single]:
        """Standard deviation of the prediction and of its difference from the best single model, n x m."""
        noise = turned**2 @ self.gain
        return np.sqrt(noise @ self.own.T), np.sqrt(noise @ self.against.T)


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """What is known beside the regressions, one number per model unless said otherwise.

    mean: recorded mean quality. observations: recorded answers. slope, offset: logistic through the level all models share, one number each. length_mean: mean
    recorded length in tokens. length_factor: that over the mean of expm1(predicted log). length_p95: log distance to the 95th percentile.
    """

    mean: FloatArray
    observations: IntArray
    slope: FloatArray
    offset: FloatArray
    length_mean: FloatArray
    length_factor: FloatArray
    length_p95: FloatArray


class Model:
    """Estimates of quality and length for the models it was trained on."""

    def __init__(
        self,
        models: Sequence[str],
        basis: Basis,
        head: Head,
        length: Head,
        level: Level,
        *,
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        self.models = tuple(models)
        self.notes = dict(notes or {})
        self.level = level
        self._basis, self._head, self._length = basis, head, length
        self._column = {bare_name(model): number for number, model in enumerate(self.models)}

    def column(self, model: str) -> int:
        """Its number of a model, -1 = not trained on."""
        return self._column.get(bare_name(model), -1)

    def usual(self, column: int) -> tuple[float, float, int]:
        """Mean recorded quality and length of a model, and how many answers: for a prompt nobody shows."""
        level = self.level
        return float(level.mean[column]), float(level.length_mean[column]), int(level.observations[column])

    def estimate_prompt(self, prompt: str, models: Sequence[str]) -> Estimate:
        """Arrays over ``models``; one it was not trained on raises InputInvalid (the room has priors for those)."""
        columns = [self.column(model) for model in models]
        if -1 in columns:
            unknown = models[columns.index(-1)]
            raise InputInvalid(f"quality model: not trained on {unknown}, only on {', '.join(self.models)}")
        many = self.estimate_texts([prompt])
        index = np.array(columns)
        return Estimate(*(getattr(many, name)[0].take(index) for name in Estimate.__slots__))

    def estimate_texts(self, texts: Sequence[str]) -> Estimate:
        """Prompts x all models, computed in batches."""
        batches = [
            self.estimate_encoded(encode(texts[start : start + _BATCH]))
            for start in range(0, max(len(texts), 1), _BATCH)
        ]
        if len(batches) == 1:
            return batches[0]
        return Estimate(*(np.concatenate([getattr(b, n) for b in batches]) for n in Estimate.__slots__))

    def estimate_encoded(self, encoded: Encoded) -> Estimate:
        """The same from hashed features, without the text."""
        features, grams = self.features(encoded)
        mean, sd = self._quality(features, grams)
        tokens, p95 = self._lengths(features)
        seen: IntArray = np.broadcast_to(self.level.observations, mean.shape)
        return Estimate(mean, sd, tokens, p95, seen)

    def features(self, encoded: Encoded) -> tuple[Single, Single]:
        """Latent columns then hand-made ones, float32[n, d]; and what the grams say per model, float32[n, m]."""
        sums, hand = self._basis.project(encoded)
        dims = sums.shape[1] - len(self.models)
        return np.concatenate((sums[:, :dims], hand), axis=1), sums[:, dims:]

    def _quality(self, features: Single, grams: Single) -> tuple[FloatArray, FloatArray]:
        turned = self._head.turn(features)
        mean = (self._head.predict(turned) + grams).astype(np.float64)
        sd, against = self._head.spread(turned)
        shared = mean.mean(axis=1, keepdims=True)
        mean += 1.0 / (1.0 + np.exp(-(self.level.slope * shared + self.level.offset))) - shared
        mean -= GUARD_SDS * against
        return _inside(mean), sd.astype(np.float64)

    def _lengths(self, features: Single) -> tuple[IntArray, IntArray]:
        logs = self._length.predict(self._length.turn(features)).astype(np.float64)
        np.clip(logs, 0.0, 14.0, out=logs)
        tokens = np.maximum(np.rint(np.expm1(logs) * self.level.length_factor), 1.0)
        p95 = np.maximum(np.ceil(np.expm1(logs + self.level.length_p95)), tokens)
        return tokens.astype(np.int64), p95.astype(np.int64)

    def save(self, path: Path | str) -> int:
        """Write the file, whole or not at all; its size in bytes."""
        header: dict[str, Any] = {"models": self.models, "notes": self.notes, "arrays": {}}
        offset, blocks = 0, []
        for name, array in self._arrays().items():
            data = np.ascontiguousarray(array).tobytes()
            header["arrays"][name] = [array.dtype.str, array.shape, offset]
            padding = -len(data) % _ALIGN
            blocks.append(data + b"\0" * padding)
            offset += len(data) + padding
        head = MAGIC + json.dumps(header).encode() + b"\n"
        head = head[:-1] + b" " * (-len(head) % _ALIGN) + b"\n"
        path = Path(path)
        partial = path.with_name(path.name + ".part")
        partial.write_bytes(head + b"".join(blocks))
        partial.replace(path)
        return len(head) + offset

    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        parts: dict[str, Basis | Head | Level] = {
            "basis": self._basis,
            "head": self._head,
            "length": self._length,
            "level": self.level,
        }
        return {
            f"{name}.{key}": np.asarray(getattr(part, key))
            for name, part in parts.items()
            for key in part.__slots__
        }


def _inside(mean: FloatArray) -> FloatArray:
    """Bent into (0.01, 0.99) near the ends, so that no two models tie that were apart."""
    high = np.maximum(mean - (_MOST - _BEND), 0.0)
    low = np.maximum((_LEAST + _BEND) - mean, 0.0)
    return mean - high + low + _BEND * (np.exp(-low / _BEND) - np.exp(-high / _BEND))


def load_model(path: Path | str) -> Model:
    """Map a file that :meth:`Model.save` wrote; raises InputInvalid when it is none."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            if file.readline(len(MAGIC)) != MAGIC:
                raise ValueError(f"expected it to begin with {MAGIC.decode().strip()!r}")
            header = json.loads(file.readline())
            start = file.tell()
        arrays = {
            name: np.memmap(path, dtype, "r", start + offset, tuple(shape)).view(np.ndarray)
            for name, (dtype, shape, offset) in header["arrays"].items()
        }
        return Model(
            header["models"],
            Basis(**_of(arrays, "basis")),
            Head(**_of(arrays, "head")),
            Head(**_of(arrays, "length")),
            Level(**_of(arrays, "level")),
            notes=header["notes"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputInvalid(f"{path}: not a quality model: {error}") from error


def _of(arrays: Mapping[str, npt.NDArray[Any]], part: str) -> dict[str, npt.NDArray[Any]]:
    return {name.partition(".")[2]: array for name, array in arrays.items() if name.startswith(f"{part}.")}
