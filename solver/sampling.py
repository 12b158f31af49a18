"""Samples of a large batch: every kind of request with its weight, so that caps need no scaling.

Requests are sorted by group and then by their cheapest cost and taken at equal steps of the sum of their chances
(systematic sampling: W. Cochran, "Sampling Techniques", 1977, chapters 8, 9A). Large requests have a larger chance,
and groups that are few requests are taken whole.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .rows import NEVER, Family, Floats, Ints, Rows

__all__ = ["drawn", "seen"]

FEWEST = 20  # requests of a group that are taken at least
SURE = 10  # requests of a row that tell something about its price
LARGEST = 3  # caps below this many times the largest weighted use say nothing
CROWD = 8  # groups are strata while there are fewer than 1 / CROWD of the sample


def drawn(rows: Rows, alive: Ints, size: int, seed: int) -> tuple[Ints, Floats]:
    """(requests ascending, how many each stands for); about ``size`` of the requests ``alive``."""
    group = np.zeros(len(alive), np.int64)
    for family in rows.families:
        if family.group is not None and 1 < np.count_nonzero(family.slots >= 0) <= size / CROWD:
            group = np.append(family.slots, -1)[family.group[alive]] + 1
            break
    need = _cheapest(rows)[alive]
    order = np.lexsort((need, group))
    group, need = group[order], need[order].astype(np.float64)
    count = np.bincount(group)
    mean = np.bincount(group, need) / np.maximum(count, 1)
    rate = np.minimum(1.0, np.maximum(size / len(alive), FEWEST / np.maximum(count, 1)))[group]
    rate = np.minimum(1.0, rate * 0.5 * (1.0 + need / np.maximum(mean[group], 1e-12)))
    reach = np.cumsum(rate)
    before = reach - rate
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    shift = np.random.default_rng(seed).random(len(starts)) - before[starts]
    shift = np.repeat(shift, np.diff(starts, append=len(group)))
    taken = np.flatnonzero(np.floor(reach + shift) > np.floor(before + shift))
    i, weight = alive[order[taken]], 1.0 / rate[taken]
    ascending = np.argsort(i)
    return i[ascending], weight[ascending]


def _cheapest(rows: Rows) -> npt.NDArray[np.float32]:
    least = np.empty(rows.n, np.float32)

    def work(lo: int, hi: int) -> None:
        rows.cost[lo:hi].min(axis=1, out=least[lo:hi])

    list(rows.passes.over(rows.n, rows.m, work))
    return least


def seen(rows: Rows, i: Ints, weight: Floats) -> npt.NDArray[np.bool_]:
    """bool[K]: rows that the sample says enough about; the others are left out while it is solved."""
    keep = np.ones(rows.k, bool)
    for family in rows.families:
        if family.group is None and family.inside is None:
            continue
        row = np.zeros(len(i), np.int64) if family.group is None else family.group[i]
        on = row >= 0 if family.inside is None else (row >= 0) & family.inside[i]
        size = 1 if family.group is None else len(family.slots)
        number = np.bincount(row[on], minlength=size)
        largest, heaviest = np.zeros(size), np.zeros(size)
        np.maximum.at(largest, row[on], weight[on] * _need(rows, family, i[on]))
        np.maximum.at(heaviest, row[on], weight[on])
        slots = np.maximum(family.slots, 0)
        enough = (number >= SURE) & (np.abs(rows.caps[slots]) >= LARGEST * largest)
        told: Any = np.broadcast_to((heaviest <= 1.0) | enough, slots.shape)
        keep[family.slots[family.slots >= 0]] = told[family.slots >= 0]
    return keep


def _need(rows: Rows, family: Family, i: Ints) -> Floats:
    """float64[len(i)]: the least |usage| of a family over the possible columns of each request."""
    if not isinstance(family.usage, np.ndarray):
        return np.full(len(i), float(np.abs(family.cover).min()))
    if family.usage.ndim == 1:
        return np.abs(family.usage[i].astype(np.float64))
    least = np.where(rows.possible[i], np.abs(family.usage[i]), NEVER).min(axis=1)
    return np.asarray(least, dtype=np.float64)
