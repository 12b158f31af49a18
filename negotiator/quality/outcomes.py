"""Recorded outcomes to train from: one row per prompt, with what every model made of it.

Columns, in Parquet or in JSON lines: ``prompt`` (text) or ``features`` (what :func:`encode_features` made of it, so
that no text leaves the house), ``quality.MODEL`` in [0, 1] for at least two models and, where known,
``output_tokens.MODEL``, ``cost_usd.MODEL``, ``input_tokens``, ``task``. A missing outcome is null.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from negotiator.errors import InputInvalid
from negotiator.quality.estimate import FloatArray, IntArray
from negotiator.quality.features import BUCKETS, COUNT_MAX, HAND, Encoded, concatenated, encode, encode_all

__all__ = ["LEAST_ANSWERS", "Outcomes", "decode_features", "encode_features", "folds", "read_outcomes"]

NUSD_PER_USD = 1_000_000_000
LEAST_ROWS = 20
LEAST_ANSWERS = 20
"""A model with fewer recorded outcomes is left out: nothing can be learnt of it."""
FEATURES_VERSION = "n1"


@dataclass(frozen=True, slots=True, eq=False)
class Outcomes:
    """n prompts x m models.

    encoded: the prompts as hashed features. quality: float64[n, m] in [0, 1], NaN = not recorded. output_tokens:
    float64[n, m], NaN = not recorded. cost_nusd: int64[n, m], nano-dollars of that call, or None when any is missing.
    group: int64[n], equal for equal prompts. left_out: models of which too little is recorded, with their outcomes.
    """

    name: str
    models: tuple[str, ...]
    encoded: Encoded
    tasks: tuple[str, ...]
    quality: FloatArray
    output_tokens: FloatArray
    cost_nusd: IntArray | None
    input_tokens: IntArray
    group: IntArray
    left_out: tuple[tuple[str, int], ...] = ()

    def __len__(self) -> int:
        return len(self.group)

    def rows(self, which: npt.NDArray[Any]) -> Outcomes:
        """A part of it, by row numbers or a mask."""
        index = np.arange(len(self))[which]
        return Outcomes(
            self.name,
            self.models,
            self.encoded.rows(index),
            tuple(self.tasks[i] for i in index),
            self.quality[index],
            self.output_tokens[index],
            None if self.cost_nusd is None else self.cost_nusd[index],
            self.input_tokens[index],
            self.group[index],
            self.left_out,
        )


def folds(outcomes: Outcomes, count: int, seed: int) -> IntArray:
    """int64[n]: the fold of each row; equal prompts share one, so nothing tested was trained on."""
    groups = np.unique(outcomes.group)
    order = np.random.default_rng(seed).permutation(len(groups))
    return np.asarray((order % count)[np.searchsorted(groups, outcomes.group)], dtype=np.int64)


def encode_features(text: str) -> str:
    """The prompt as a short text without its words: version, then base64 of hashed buckets, counts, hand features."""
    one = encode([text])
    packed = (
        struct.pack("<I", len(one.buckets))
        + one.buckets.astype("<u4").tobytes()
        + one.counts.astype("<u2").tobytes()
        + one.hand[0].astype("<f4").tobytes()
    )
    return f"{FEATURES_VERSION}:{base64.b64encode(packed).decode()}"


def decode_features(text: str) -> Encoded:
    """What :func:`encode_features` wrote; raises InputInvalid when it is something else or of another version."""
    version, _, body = text.partition(":")
    if version != FEATURES_VERSION:
        raise InputInvalid(f"features: expected version {FEATURES_VERSION}, was {version[:20]!r}")
    try:
        packed = base64.b64decode(body, validate=True)
        (count,) = struct.unpack_from("<I", packed)
        if len(packed) != 4 + 6 * count + 4 * HAND:
            raise ValueError(f"expected {4 + 6 * count + 4 * HAND} bytes, found {len(packed)}")
    except (binascii.Error, struct.error, ValueError) as error:
        raise InputInvalid(f"features: {error}") from error
    buckets = np.frombuffer(packed, "<u4", count, 4).astype(np.int64)
    hand = np.frombuffer(packed, "<f4", HAND, 4 + 6 * count)
    if (count and buckets.max() >= BUCKETS) or (np.diff(buckets) <= 0).any() or not np.isfinite(hand).all():
        raise InputInvalid("features: expected rising bucket numbers and finite numbers")
    counts = np.clip(np.frombuffer(packed, "<u2", count, 4 + 4 * count), 1, COUNT_MAX)
    return Encoded(
        np.array([0, count]),
        buckets.astype(np.int32),
        counts.astype(np.int32),
        hand.astype(np.float32)[None, :],
    )


def read_outcomes(paths: Sequence[Path | str]) -> Outcomes:
    """One table from one or more files with the same models; raises InputInvalid with file and column or line.

    Models with fewer than ``LEAST_ANSWERS`` outcomes are left out, as are prompts that only they answered.
    """
    tables = [_columns(Path(path)) for path in paths]
    if not tables:
        raise InputInvalid("outcomes: expected at least one file")
    models = sorted(
        {name.removeprefix("quality.") for table in tables for name in table if name.startswith("quality.")}
    )
    if len(models) < 2:
        raise InputInvalid(
            f"{paths[0]}: expected quality.MODEL columns of at least two models, found {models or 'none'}"
        )
    for path, table in zip(paths, tables, strict=True):
        if not {"prompt", "features"} & table.keys():
            raise InputInvalid(f"{path}: expected a column prompt or features, found {', '.join(table)}")
    parts = [_outcomes(str(path), table, models) for path, table in zip(paths, tables, strict=True)]
    return _enough(parts[0] if len(parts) == 1 else _joined(parts))


def _columns(path: Path) -> Mapping[str, Sequence[Any]]:
    if not path.exists():
        raise InputInvalid(f"{path}: no such file")
    if path.suffix == ".parquet":
        try:
            import pyarrow.parquet as parquet
        except ImportError as error:
            raise InputInvalid(
                f"{path}: reading Parquet needs pyarrow; pip install 'negotiator[train]'"
            ) from error
        try:
            return dict(parquet.read_table(path).to_pydict())
        except (OSError, ValueError) as error:
            raise InputInvalid(f"{path}: not a Parquet file: {error}") from error
    rows = list(_lines(path))
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _lines(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise InputInvalid(f"{path}, line {number}: not JSON: {error}") from error
            if not isinstance(row, dict):
                raise InputInvalid(f"{path}, line {number}: expected an object, was {type(row).__name__}")
            yield row


def _outcomes(path: str, table: Mapping[str, Sequence[Any]], models: Sequence[str]) -> Outcomes:
    prompts, packed = table.get("prompt"), table.get("features")
    keys, encoded = _encoded(path, prompts, packed)
    n = len(keys)
    if n < LEAST_ROWS:
        raise InputInvalid(f"{path}: expected at least {LEAST_ROWS} prompts, found {n}")
    quality = _matrix(path, table, "quality", models, n)
    for model, column in zip(models, quality.T, strict=True):
        seen = column[~np.isnan(column)]
        if not len(seen):
            raise InputInvalid(f"{path}: quality.{model} has no recorded outcome")
        if seen.min() < 0.0 or seen.max() > 1.0:
            raise InputInvalid(
                f"{path}: quality.{model}: expected [0, 1], found {seen.min():g} to {seen.max():g}"
            )
    cost = _matrix(path, table, "cost_usd", models, n)
    return Outcomes(
        Path(path).stem,
        tuple(models),
        encoded,
        tuple(str(task or "") for task in table.get("task", [""] * n)),
        quality,
        _matrix(path, table, "output_tokens", models, n),
        None if np.isnan(cost).any() else np.rint(cost * NUSD_PER_USD).astype(np.int64),
        np.array([int(count or 0) for count in table.get("input_tokens", [0] * n)], dtype=np.int64),
        np.array([_digest(key) for key in keys], dtype=np.int64),
    )


def _encoded(
    path: str, prompts: Sequence[Any] | None, packed: Sequence[Any] | None
) -> tuple[list[str], Encoded]:
    """What makes a prompt the same as another, and all prompts encoded."""
    n = len(prompts if prompts is not None else packed or ())
    texts = [None if prompts is None else prompts[i] for i in range(n)]
    kept = [None if packed is None else packed[i] for i in range(n)]
    if all(isinstance(text, str) for text in texts):
        return [str(text).strip() for text in texts], encode_all([str(text) for text in texts])
    keys, parts = [], []
    for number, (text, one) in enumerate(zip(texts, kept, strict=True), start=1):
        if not isinstance(text, str) and not isinstance(one, str):
            raise InputInvalid(f"{path}, row {number}: expected a text in prompt or features")
        keys.append(text.strip() if isinstance(text, str) else str(one))
        parts.append(encode([text]) if isinstance(text, str) else decode_features(str(one)))
    return keys, concatenated(parts)


def _matrix(
    path: str, table: Mapping[str, Sequence[Any]], kind: str, models: Sequence[str], n: int
) -> FloatArray:
    columns = []
    for model in models:
        try:
            columns.append(np.array(table.get(f"{kind}.{model}", [None] * n), dtype=np.float64))
        except (TypeError, ValueError) as error:
            raise InputInvalid(f"{path}: {kind}.{model}: expected numbers or null: {error}") from error
    return np.array(columns, dtype=np.float64).T.copy()


def _enough(outcomes: Outcomes) -> Outcomes:
    seen = (~np.isnan(outcomes.quality)).sum(axis=0)
    kept = seen >= LEAST_ANSWERS
    if kept.all():
        return outcomes
    counts = list(zip(outcomes.models, seen.tolist(), strict=True))
    if kept.sum() < 2:
        found = ", ".join(f"{model}: {count}" for model, count in counts)
        raise InputInvalid(
            f"{outcomes.name}: expected at least two models with {LEAST_ANSWERS} recorded outcomes, found {found}"
        )
    cost = outcomes.cost_nusd
    part = replace(
        outcomes,
        models=tuple(model for model, count in counts if count >= LEAST_ANSWERS),
        quality=outcomes.quality[:, kept],
        output_tokens=outcomes.output_tokens[:, kept],
        cost_nusd=None if cost is None else cost[:, kept],
        left_out=tuple(pair for pair in counts if pair[1] < LEAST_ANSWERS),
    )
    return part.rows(np.flatnonzero((~np.isnan(part.quality)).any(axis=1)))


def _joined(parts: Sequence[Outcomes]) -> Outcomes:
    """Several files as one."""
    costs = [part.cost_nusd for part in parts if part.cost_nusd is not None]
    return Outcomes(
        "+".join(part.name for part in parts),
        parts[0].models,
        concatenated([part.encoded for part in parts]),
        tuple(task for part in parts for task in part.tasks),
        np.concatenate([part.quality for part in parts]),
        np.concatenate([part.output_tokens for part in parts]),
        np.concatenate(costs) if len(costs) == len(parts) else None,
        np.concatenate([part.input_tokens for part in parts]),
        np.concatenate([part.group for part in parts]),
    )


def _digest(key: str) -> int:
    return int.from_bytes(
        hashlib.blake2b(key.encode("utf-8", "replace"), digest_size=8).digest(), signed=True
    )
