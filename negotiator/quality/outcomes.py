"""Recorded outcomes to train from: one row per prompt, with what every model made of it.

Columns, in Parquet or in JSON lines: ``prompt`` (text), ``quality.MODEL`` in [0, 1] for at least two models and, where
known, ``output_tokens.MODEL``, ``cost_usd.MODEL``, ``input_tokens``, ``task``. A missing outcome is null.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from negotiator.errors import InputInvalid
from negotiator.quality.estimate import FloatArray, IntArray

__all__ = ["Outcomes", "folds", "read_outcomes"]

NUSD_PER_USD = 1_000_000_000
LEAST_ROWS = 20


@dataclass(frozen=True, slots=True, eq=False)
class Outcomes:
    """n prompts x m models.

    quality: float64[n, m] in [0, 1], NaN = not recorded. output_tokens: float64[n, m], NaN = not recorded.
    cost_nusd: int64[n, m], nano-dollars of that call, or None. group: int64[n], equal for equal texts.
    """

    name: str
    models: tuple[str, ...]
    texts: tuple[str, ...]
    tasks: tuple[str, ...]
    quality: FloatArray
    output_tokens: FloatArray
    cost_nusd: IntArray | None
    input_tokens: IntArray
    group: IntArray

    def __len__(self) -> int:
        return len(self.texts)

    def rows(self, which: npt.NDArray[Any]) -> Outcomes:
        """A part of it, by row numbers or a mask."""
        index = np.arange(len(self))[which]
        return Outcomes(
            self.name,
            self.models,
            tuple(self.texts[i] for i in index),
            tuple(self.tasks[i] for i in index),
            self.quality[index],
            self.output_tokens[index],
            None if self.cost_nusd is None else self.cost_nusd[index],
            self.input_tokens[index],
            self.group[index],
        )


def folds(outcomes: Outcomes, count: int, seed: int) -> IntArray:
    """int64[n]: the fold of each row; equal texts share one, so nothing tested was trained on."""
    groups = np.unique(outcomes.group)
    order = np.random.default_rng(seed).permutation(len(groups))
    return np.asarray((order % count)[np.searchsorted(groups, outcomes.group)], dtype=np.int64)


def read_outcomes(paths: Sequence[Path | str]) -> Outcomes:
    """One table from one or more files with the same models; raises InputInvalid with file and column or line."""
    tables = [_columns(Path(path)) for path in paths]
    if not tables:
        raise InputInvalid("outcomes: expected at least one file")
    models = sorted(name.removeprefix("quality.") for name in tables[0] if name.startswith("quality."))
    if len(models) < 2:
        raise InputInvalid(
            f"{paths[0]}: expected quality.MODEL columns of at least two models, found {models or 'none'}"
        )
    for path, table in zip(paths, tables, strict=True):
        missing = {"prompt", *(f"quality.{model}" for model in models)} - table.keys()
        if missing:
            raise InputInvalid(f"{path}: column {min(missing)} is missing")
    merged = {name: [value for table in tables for value in table.get(name, ())] for name in tables[0]}
    return _outcomes("+".join(Path(path).stem for path in paths), merged, models)


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
        return dict(parquet.read_table(path).to_pydict())
    rows = list(_lines(path))
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _lines(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open(encoding="utf-8") as file:
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


def _outcomes(name: str, table: Mapping[str, Sequence[Any]], models: Sequence[str]) -> Outcomes:
    texts = tuple(str(text) for text in table["prompt"])
    if len(texts) < LEAST_ROWS:
        raise InputInvalid(f"{name}: expected at least {LEAST_ROWS} prompts, found {len(texts)}")
    quality = _matrix(table, "quality", models, len(texts))
    if np.nanmin(quality) < 0.0 or np.nanmax(quality) > 1.0:
        raise InputInvalid(
            f"{name}: expected quality in [0, 1], found {np.nanmin(quality)} to {np.nanmax(quality)}"
        )
    cost = _matrix(table, "cost_usd", models, len(texts))
    groups: dict[str, int] = {}
    return Outcomes(
        name,
        tuple(models),
        texts,
        tuple(str(task or "") for task in table.get("task", [""] * len(texts))),
        quality,
        _matrix(table, "output_tokens", models, len(texts)),
        None if np.isnan(cost).any() else np.rint(cost * NUSD_PER_USD).astype(np.int64),
        np.array(
            [int(count or 0) for count in table.get("input_tokens", [0] * len(texts))],
            dtype=np.int64,
        ),
        np.array(
            [groups.setdefault(text.strip(), len(groups)) for text in texts],
            dtype=np.int64,
        ),
    )


def _matrix(table: Mapping[str, Sequence[Any]], kind: str, models: Sequence[str], n: int) -> FloatArray:
    empty = [None] * n
    return np.array([table.get(f"{kind}.{model}", empty) for model in models], dtype=np.float64).T.copy()
