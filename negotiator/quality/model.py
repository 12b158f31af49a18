"""The trained predictor: one memory-mapped file shared by all workers, NumPy alone.

File: the line ``negotiator quality model 1``, a JSON line that names every array with type, shape and offset, then the
arrays, aligned to 64 bytes. The basis is stored in 8 bits per number, one scale per row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from negotiator.errors import InputInvalid
from negotiator.quality.estimate import Estimate, FloatArray, IntArray
from negotiator.quality.features import BUCKETS, Encoded, encode
from negotiator.quality.priors import bare_name

__all__ = ["Basis", "Head", "Model", "block_weights", "load_model"]

MAGIC = b"negotiator quality model 1\n"
_ALIGN = 64
_CLIP = 4.0
_BATCH = 128
_LEAST, _MOST = 0.01, 0.99

Single = npt.NDArray[np.float32]


def block_weights(
    indptr: npt.NDArray[np.int64],
    buckets: npt.NDArray[np.int64],
    counts: Single,
    idf: Single,
) -> Single:
    """(1 + log tf) * idf, with the gram half and the word half of every text at norm one."""
    weights = (1.0 + np.log(counts)) * idf[buckets]
    half = np.repeat(np.arange(len(indptr) - 1) * 2, np.diff(indptr)) + (buckets >= BUCKETS // 2)
    norms = np.sqrt(np.bincount(half, weights.astype(np.float64) ** 2, minlength=2 * (len(indptr) - 1)))
    return np.asarray(weights / np.maximum(norms, 1e-9)[half], dtype=np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Basis:
    """Hashed grams and hand features to dense columns.

    idf: float32[BUCKETS], 0 = too rare. row: int32[BUCKETS], row of ``directions`` or -1. step: float32[rows].
    directions: int8[rows, dims]. hand_mean, hand_scale: float32[HAND].
    """

    idf: Single
    row: npt.NDArray[np.int32]
    step: Single
    directions: npt.NDArray[np.int8]
    hand_mean: Single
    hand_scale: Single

    @property
    def dims(self) -> int:
        """How many latent directions there are."""
        return int(self.directions.shape[1])

    def project(self, encoded: Encoded) -> Single:
        """float32[n, dims + HAND]: latent columns, then standardised hand features."""
        weights = block_weights(encoded.indptr, encoded.buckets, encoded.counts, self.idf)
        rows = self.row[encoded.buckets]
        out = np.empty((len(encoded), self.dims + len(self.hand_mean)), dtype=np.float32)
        for i in range(len(encoded)):
            part = slice(encoded.indptr[i], encoded.indptr[i + 1])
            used = rows[part]
            kept = used >= 0
            used = used[kept]
            out[i, : self.dims] = (weights[part][kept] * self.step[used]) @ self.directions[used].astype(
                np.float32
            )
        hand = (encoded.hand - self.hand_mean) * self.hand_scale
        np.clip(hand, -_CLIP, _CLIP, out=out[:, self.dims :])
        return out


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """Ridge for m models in the eigenbasis of X'X: ``axes`` d x d, ``weights`` d x m.

    gain: d x m, 1 / (eigenvalue + penalty) per rotated outcome. variance: m x m, what each rotated outcome's
    noise contributes to each model. slope, offset: Platt scaling per model.
    """

    centre: Single
    axes: Single
    intercept: Single
    weights: Single
    gain: Single
    variance: Single
    slope: Single
    offset: Single

    def predict(self, features: Single, columns: npt.NDArray[np.int64]) -> tuple[Single, Single]:
        """Linear prediction and its turned features: n x columns, n x d."""
        turned = (features - self.centre) @ self.axes
        return np.asarray(turned @ self.weights[:, columns] + self.intercept[columns], np.float32), turned

    def sd(self, turned: Single, columns: npt.NDArray[np.int64]) -> Single:
        """Standard deviation of the linear prediction."""
        return np.asarray(
            np.sqrt((turned**2 @ self.gain) @ self.variance[columns].T),
            dtype=np.float32,
        )


class Model:
    """Estimates of quality and length for the models it was trained on."""

    def __init__(
        self,
        models: Sequence[str],
        basis: Basis,
        head: Head,
        length: Head,
        length_factor: npt.ArrayLike,
        length_p95: npt.ArrayLike,
        observations: npt.ArrayLike,
        mean: npt.ArrayLike,
        *,
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        self.models = tuple(models)
        self.notes = dict(notes or {})
        self._basis, self._head, self._length = basis, head, length
        self._factor = np.asarray(length_factor, dtype=np.float64)
        self._p95 = np.asarray(length_p95, dtype=np.float64)
        self.observations = np.asarray(observations, dtype=np.int64)
        self.mean = np.asarray(mean, dtype=np.float64)
        used = len(length.centre) - len(basis.hand_mean)
        self._length_columns = np.r_[0:used, basis.dims : basis.dims + len(basis.hand_mean)]
        self._column = {bare_name(model): number for number, model in enumerate(self.models)}

    def column(self, model: str) -> int:
        """Its number of a model, -1 = not trained on."""
        return self._column.get(bare_name(model), -1)

    def estimate_prompt(self, prompt: str, models: Sequence[str]) -> Estimate:
        """Arrays over ``models``; one it was not trained on raises InputInvalid (the room has priors for those)."""
        columns = [self.column(model) for model in models]
        if -1 in columns:
            unknown = models[columns.index(-1)]
            raise InputInvalid(f"quality model: not trained on {unknown}, only on {', '.join(self.models)}")
        many = self.estimate_texts([prompt], columns)
        return Estimate(*(getattr(many, field.name)[0] for field in fields(Estimate)))

    def estimate_texts(self, texts: Sequence[str], columns: Sequence[int]) -> Estimate:
        """Prompts x columns, computed in batches."""
        batches = [
            self.estimate_encoded(encode(texts[start : start + _BATCH]), columns)
            for start in range(0, max(len(texts), 1), _BATCH)
        ]
        if len(batches) == 1:
            return batches[0]
        return Estimate(*(np.concatenate([getattr(b, f.name) for b in batches]) for f in fields(Estimate)))

    def estimate_encoded(self, encoded: Encoded, columns: Sequence[int]) -> Estimate:
        """The same from hashed features, without the text."""
        which = np.asarray(columns, dtype=np.int64)
        features = self._basis.project(encoded)
        linear, turned = self._head.predict(features, which)
        slope = self._head.slope[which]
        mean = 1.0 / (1.0 + np.exp(-(linear.astype(np.float64) * slope + self._head.offset[which])))
        sd = self._head.sd(turned, which) * np.abs(slope) * mean * (1.0 - mean)
        tokens, p95 = self._lengths(features, which)
        observations: IntArray = np.broadcast_to(self.observations[which], mean.shape)
        return Estimate(
            np.clip(mean, _LEAST, _MOST),
            sd.astype(np.float64),
            tokens,
            p95,
            observations,
        )

    def _lengths(self, features: Single, which: npt.NDArray[np.int64]) -> tuple[IntArray, IntArray]:
        logs, _ = self._length.predict(features[:, self._length_columns], which)
        level: FloatArray = np.clip(logs.astype(np.float64), 0.0, 14.0)
        tokens = np.maximum(np.rint(np.expm1(level) * self._factor[which]), 1.0)
        p95 = np.maximum(np.ceil(np.expm1(level + self._p95[which])), tokens)
        return tokens.astype(np.int64), p95.astype(np.int64)

    def save(self, path: Path | str) -> int:
        """Write the file, whole or not at all; its size in bytes."""
        arrays = {
            **{f"basis.{f.name}": getattr(self._basis, f.name) for f in fields(Basis)},
            **{f"head.{f.name}": getattr(self._head, f.name) for f in fields(Head)},
            **{f"length.{f.name}": getattr(self._length, f.name) for f in fields(Head)},
            "factor": self._factor, "p95": self._p95, "observations": self.observations, "mean": self.mean,
        }  # fmt: skip
        header: dict[str, Any] = {
            "models": self.models,
            "notes": self.notes,
            "arrays": {},
        }
        offset, blocks = 0, []
        for name, array in arrays.items():
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
            name: np.memmap(path, dtype=dtype, mode="r", offset=start + offset, shape=tuple(shape)).view(
                np.ndarray
            )
            for name, (dtype, shape, offset) in header["arrays"].items()
        }
        basis = Basis(**{f.name: arrays[f"basis.{f.name}"] for f in fields(Basis)})
        head = Head(**{f.name: arrays[f"head.{f.name}"] for f in fields(Head)})
        length = Head(**{f.name: arrays[f"length.{f.name}"] for f in fields(Head)})
        rest = [arrays[name] for name in ("factor", "p95", "observations", "mean")]
        return Model(header["models"], basis, head, length, *rest, notes=header["notes"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputInvalid(f"{path}: not a quality model: {error}") from error
