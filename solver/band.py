"""A band: some requests, a few columns of each, as dense blocks for the interior-point steps.

Request i of the band has w options o with column J_oi, cost c_oi and usage; one of them is "unserved" (column m,
cost V_i), and slots left over are dead options that cost more. Everything else is fixed and its load taken off
the caps. Arrays are (w, b) per block of b requests, so that sums over options run along memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .rows import Floats, Ints, Rows

__all__ = ["Band", "Block", "make_band"]

BLOCK_OPTIONS = 1 << 15  # options per block: its arrays stay in the cache


@dataclass(slots=True, eq=False)
class Block:
    """b requests of a band: columns int64[w, b], cost float64[w, b], usage per family.

    weight: float64[b], how many requests each stands for. features: float64[w, b] per family without groups.
    grouped: (usage float64[w, b], row int64[b], K = none).
    """

    columns: Ints
    cost: Floats
    weight: Floats
    features: list[Floats]
    grouped: list[tuple[Floats, Ints]]

    @property
    def size(self) -> int:
        """b, the number of requests."""
        return int(self.columns.shape[1])


@dataclass(slots=True, eq=False)
class Band:
    """Blocks with what maps features to rows. K counts the active rows, plus one for "weight unserved <= cap".

    lift: float64[K, F (m + 2)], row k counts feature f of column j. scale: float64[K], the mean use of a row.
    """

    rows: Rows
    blocks: list[Block]
    worth: float  # mean V_i
    caps: Floats
    lift: Floats
    scale: Floats
    sizes: list[int]  # blocks of every entry of the options
    users: Floats  # float64[K], how many options use a row
    count: int  # F

    @property
    def k(self) -> int:
        """K."""
        return len(self.caps)

    def each(self, work: Callable[[Block], Any]) -> Iterator[Any]:
        """work(block) for every block on the threads of the run, results in order."""
        return self.rows.passes.map(work, self.blocks)

    def priced(self, block: Block, feature_price: Floats, row_price: Floats) -> Floats:
        """float64[w, b]: sum_k lam_k a_ko for every option. feature_price: lam @ lift; row_price: lam with a 0 appended."""
        m2 = self.rows.m + 2
        out = np.zeros(block.columns.shape)
        for f, u in enumerate(block.features):
            price = feature_price[f * m2 : (f + 1) * m2]
            if price.any():
                out += u * price.take(block.columns)
        for u, row in block.grouped:
            out += u * row_price.take(row)
        return out

    def used(self, block: Block, v: Floats) -> tuple[Floats, Floats]:
        """(float64[F (m + 2)], float64[K + 1]): sum_o u v by feature and column, and by grouped row."""
        m2 = self.rows.m + 2
        flat = block.columns.ravel()
        parts: list[Any] = [np.bincount(flat, (u * v).ravel(), minlength=m2) for u in block.features]
        features = np.concatenate([np.zeros(0), *parts])
        groups = np.zeros(self.k + 1)
        for u, row in block.grouped:
            groups += np.bincount(row, (u * v).sum(axis=0), minlength=self.k + 1)
        return features, groups

    def summed(self, parts: Iterator[tuple[Floats, Floats]]) -> tuple[Floats, Floats]:
        """The sum of :meth:`used` over blocks, in order."""
        features, groups = np.zeros(self.lift.shape[1]), np.zeros(self.k + 1)
        for feature, group in parts:
            features += feature
            groups += group
        return features, groups

    def total(self, parts: tuple[Floats, Floats]) -> Floats:
        """float64[K] from summed :meth:`used`."""
        features, groups = parts
        return self.lift @ features + groups[:-1]


def make_band(
    rows: Rows,
    options: list[tuple[Ints, npt.NDArray[Any]]],
    worth: Floats,
    caps: Floats,
    costs: bool = True,
    unserved_cap: float | None = None,
    keep: npt.NDArray[np.bool_] | None = None,
    weight: Floats | None = None,
) -> Band:
    """A band of requests with their options.

    options: (requests int64[r], columns int[w, r]) for every width w; column m = unserved, m + 1 = dead.
    worth: float64[n], V_i. caps: float64[K], what the fixed requests leave. costs: False makes all columns free
    (then V is the weight). unserved_cap: adds the row "weight unserved <= cap". keep: rows seen, others are not.
    weight: float64[n], how many requests each stands for; None = one.
    """
    m, k = rows.m, rows.k
    with_unserved = unserved_cap is not None
    all_caps = np.append(caps, unserved_cap) if with_unserved else caps  # type: ignore[arg-type]
    total = len(all_caps)
    seen = np.ones(k, bool) if keep is None else keep
    dense = [f for f in rows.families if f.group is None]
    scalar = next((f for f, family in enumerate(dense) if not isinstance(family.usage, np.ndarray)), None)
    own = with_unserved and scalar is None
    count = len(dense) + own
    lift = np.zeros((total, count * (m + 2)))
    for f, family in enumerate(dense):
        on = np.flatnonzero((family.slots >= 0) & seen[family.slots])
        lift[family.slots[on], f * (m + 2) : f * (m + 2) + m] = family.cover[on]
    slot = len(dense) if own else scalar
    if with_unserved:
        assert slot is not None
        lift[k, slot * (m + 2) + m] = 1.0
    unserved = (slot, own) if with_unserved else None
    blocks: list[Block] = []
    sizes: list[int] = []
    for requests, columns in options:
        before = len(blocks)
        step = max(256, BLOCK_OPTIONS // len(columns))
        for lo in range(0, len(requests), step):
            i = requests[lo : lo + step]
            block = _block(rows, i, columns[:, lo : lo + step], worth[i], costs, total, seen, unserved)
            if weight is not None:
                block.weight = weight[i]
            blocks.append(block)
        sizes.append(len(blocks) - before)
    size = sum(len(requests) for requests, _ in options)
    mean = sum(float(worth[requests].sum()) for requests, _ in options) / max(1, size)
    band = Band(rows, blocks, mean, all_caps, lift, np.ones(total), sizes, np.zeros(total), count)
    _set_scale(band)
    return band


def _block(
    rows: Rows,
    i: Ints,
    columns: npt.NDArray[Any],
    worth: Floats,
    costs: bool,
    total: int,
    seen: npt.NDArray[np.bool_],
    unserved: tuple[Any, bool] | None,
) -> Block:
    m = rows.m
    j = np.ascontiguousarray(columns, dtype=np.int64)
    real = j < m
    column = np.where(real, j, 0)
    cost = rows.problem.cost[i[None, :], column].astype(np.float64) if costs else np.zeros(j.shape)
    cost = np.where(real, cost, np.where(j == m, worth, 2.0 * worth + 1e-9))
    features, grouped = [], []
    for family in rows.families:
        u = family.usage
        if not isinstance(u, np.ndarray):
            use: Any = real.astype(np.float64)
        elif u.ndim == 1:
            use = real * u[i].astype(np.float64)
        else:
            use = np.where(real, u[i[None, :], column], 0).astype(np.float64)
        if family.inside is not None:
            use *= family.inside[i]
        if family.group is None:
            features.append(use)
            continue
        g = family.group[i]
        slot = np.append(family.slots, -1)[g]
        slot = np.where((slot >= 0) & seen[slot], slot, total)
        grouped.append((use * np.append(family.cover[0], [0.0, 0.0])[j], slot))
    if unserved is not None:
        at, own = unserved
        if own:
            features.append(np.zeros(j.shape))
        features[at] = np.where(j == m, rows.weight[i], features[at])
    return Block(j, cost, np.ones(len(i)), features, grouped)


def _set_scale(band: Band) -> None:
    """scale_k: mean |use| over the options that use row k."""
    m2 = band.rows.m + 2
    size, number = np.zeros(band.k), np.zeros(band.k)
    for block in band.blocks:
        flat = block.columns.ravel()
        for f, u in enumerate(block.features):
            part = band.lift[:, f * m2 : (f + 1) * m2]
            size += np.abs(part) @ np.bincount(flat, np.abs(u).ravel(), minlength=m2)
            number += (part != 0) @ np.bincount(flat, (u != 0).ravel(), minlength=m2)
        for u, row in block.grouped:
            size += np.bincount(row, np.abs(u).sum(axis=0), minlength=band.k + 1)[:-1]
            number += np.bincount(row, (u != 0).sum(axis=0), minlength=band.k + 1)[:-1]
    band.users[:] = number
    band.scale[:] = np.where(number > 0, np.maximum(size / np.maximum(number, 1), 1e-12), 1.0)
