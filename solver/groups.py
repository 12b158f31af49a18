"""Prices of groups (tenants' budgets) one by one: every request is in one group, so all are bisected at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .options import leads
from .rows import Family, Floats, Ints, Rows

__all__ = ["settle_groups"]

TURNS = 12  # bisections, on the log scale
OVER, UNDER = 1.01, 0.97  # use / cap outside of which a group's price is sought anew
CHEAPEST = 1e-9  # lowest price / highest
SLICE = 1 << 16  # requests whose uses are looked at at a time


def settle_groups(
    rows: Rows,
    lam: Floats,
    worth: Floats,
    i: Ints,
    times: Floats | None = None,
    enough: int | None = None,
) -> Floats:
    """lam with the price of every group that is overspent, or dear and not spent, set so that its cap is just met.

    Every request takes its best column; the other rows' prices stay as they are. times: float64[n], how many
    requests each of i stands for. enough: about how many requests of a group are asked then, each for others like it;
    None = all.
    """
    lam = lam.copy()
    for family in rows.families:
        if family.group is None:
            continue
        slot = np.append(family.slots, -1)[family.group[i]]
        own = family.slots[family.slots >= 0]
        load = _load(rows, lam, worth, i[slot >= 0], times)
        over, under = np.zeros(rows.k, bool), np.zeros(rows.k, bool)
        over[own] = load[own] > rows.caps[own] * OVER
        under[own] = (load[own] < rows.caps[own] * UNDER) & (lam[own] > 0)
        members = i[(over | under)[slot] & (slot >= 0)]
        if not len(members):
            continue
        slot = np.append(family.slots, -1)[family.group[members]]
        if enough is not None:
            on, times = _thinned(slot, members, rows.n, enough)
            slot, members = slot[on], members[on]
        use = _most_use(rows, family, members)
        least = np.full(rows.k, np.inf)
        np.minimum.at(least, slot[use > 0], use[use > 0])
        most = 2.0 * float(worth[members].max()) / np.maximum(least, 1e-12)
        high = np.where(over, np.maximum(lam, most), lam)
        low = np.where(under, CHEAPEST * most, np.where(over, np.maximum(lam, CHEAPEST * most), lam))
        for _ in range(TURNS):
            middle = np.where(over | under, np.sqrt(low * high), lam)
            fits = _load(rows, middle, worth, members, times) <= rows.caps
            high = np.where((over | under) & fits, middle, high)
            low = np.where((over | under) & ~fits, middle, low)
        lam = np.where(over | under, high, lam)
    return lam


def _thinned(row: Ints, i: Ints, n: int, enough: int) -> tuple[npt.NDArray[np.bool_], Floats]:
    """(bool[len(i)]: about ``enough`` requests of every row at equal steps; float64[n]: how many each stands for)."""
    size = np.bincount(row)
    by = np.argsort(row, kind="stable")
    place = np.empty(len(i), np.int64)
    place[by] = np.arange(len(i)) - np.searchsorted(row[by], row[by])
    on = place % np.maximum(1, size // enough)[row] == 0
    times = np.zeros(n)
    times[i[on]] = (size / np.maximum(np.bincount(row[on], minlength=len(size)), 1))[row[on]]
    return on, times


def _load(rows: Rows, lam: Floats, worth: Floats, i: Ints, times: Floats | None) -> Floats:
    given = leads(rows, lam, worth, at=i)
    choice: npt.NDArray[np.int32] = np.full(rows.n, -1, np.int32)
    choice[i] = np.where(given.best < rows.m, given.best, -1)
    return rows.load(choice, i, times)


def _most_use(rows: Rows, family: Family, i: Ints) -> Floats:
    """float64[len(i)]: the largest |usage| of a family over the possible columns of each request."""
    if not isinstance(family.usage, np.ndarray):
        return np.full(len(i), float(np.abs(family.cover).max()))
    if family.usage.ndim == 1:
        return np.abs(family.usage[i].astype(np.float64))
    most = [
        np.where(rows.possible[at], np.abs(family.usage[at]), 0).max(axis=1).astype(np.float64)
        for at in (i[lo : lo + SLICE] for lo in range(0, len(i), SLICE))
    ]
    return np.concatenate([np.zeros(0), *most])
