"""The best bundle of every column at prices of the requests: all knapsacks by one dynamic program.

    max sum_i (u_i - c_ij) x_i     sum_i a_ij x_i <= b_j     x_i in {0, 1}          for every column j

Whatever the fractional knapsack's price per unit of use decides for sure is settled first (E. Balas, E. Zemel 1980),
so that the program over whole units of use sees the few requests in doubt.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .assignment import Assignment
from .rows import Floats, Ints

__all__ = ["Bundles"]

MOST_UNITS = 20_000  # units of the largest capacity
UNITS = 1_000  # of every capacity, where use is no whole number
Flags = npt.NDArray[np.bool_]


class Bundles:
    """Knapsacks of an assignment in whole units; exact where use is whole, else use is rounded up to UNITS parts."""

    def __init__(self, given: Assignment) -> None:
        m = given.m
        use, cap = given.use[:, :m], given.cap[:m]
        whole = bool(np.all(use == np.floor(use))) and float(cap.max(initial=0)) <= MOST_UNITS
        if whole:
            self.use, self.cap = use.astype(np.int64), np.floor(cap).astype(np.int64)
        else:
            unit = np.maximum(cap, 1e-12) / UNITS
            self.use = np.ceil(np.minimum(use / unit, 2.0 * UNITS) * (1 - 1e-12)).astype(np.int64)
            self.cap = np.full(m, UNITS)
        self.exact = whole
        self.cost = given.cost[:, :m]
        self.fits: Flags = np.isfinite(self.cost) & (self.use <= self.cap)

    def best(self, price: Floats, allowed: Flags) -> tuple[Floats, Flags]:
        """(float64[m], the value of the best bundle of every column; bool[n, m], who is in it).

        price: float64[n], u. allowed: bool[n, m], who may be in which.
        """
        value = np.where(allowed, price[:, None] - self.cost, -1.0)
        inside, doubt = self._settled(value)
        room = self.cap - np.where(inside, self.use, 0).sum(axis=0)
        total = np.where(inside, value, 0.0).sum(axis=0)
        order = np.argsort(~doubt, axis=0, kind="stable")[: int(doubt.sum(axis=0).max(initial=0))]
        more, chosen = _program(
            np.take_along_axis(np.where(doubt, value, -1.0), order, axis=0),
            np.take_along_axis(np.where(doubt, self.use, 0), order, axis=0),
            room,
        )
        t, j = np.nonzero(chosen)
        inside[order[t, j], j] = True
        return total + more, inside

    def _settled(self, value: Floats) -> tuple[Flags, Flags]:
        """Who is in the best bundle for sure, and who may be."""
        n, m = value.shape
        column = np.arange(m)
        good = value > 0
        rate = np.divide(value, self.use, out=np.full(value.shape, np.inf), where=self.use > 0)
        rate[~good] = -1.0
        order = np.argsort(-rate, axis=0, kind="stable")
        worth = np.take_along_axis(np.where(good, value, 0.0), order, axis=0)
        use = np.take_along_axis(np.where(good, self.use, 0), order, axis=0)
        filled = np.cumsum(use, axis=0)
        stop = (filled <= self.cap).sum(axis=0)  # the first that does not fit
        before = np.vstack([np.zeros((1, m), np.int64), filled])[stop, column]
        least = np.vstack([np.zeros((1, m)), np.cumsum(worth, axis=0)])[stop, column]
        rate = np.take_along_axis(rate, order, axis=0)[np.minimum(stop, n - 1), column]
        rate = np.where(stop < n, np.maximum(rate, 0.0), 0.0)
        room = self.cap - before
        later = (use <= room) & (np.arange(n)[:, None] >= stop)
        gap = rate * room - np.where(later, worth, 0.0).max(axis=0, initial=0.0)
        gap += 1e-9 * (1 + np.abs(least))
        excess = value - rate * self.use
        inside = good & (excess > gap)
        return inside, good & ~inside & (excess >= -gap)


def _program(value: Floats, use: Ints, room: Ints) -> tuple[Floats, Flags]:
    """Knapsacks side by side: value, use: [t, m], room: [m]. Returns the best values and bool[t, m], who is in."""
    count, m = value.shape
    column = np.arange(m)
    pad, units = int(use.max(initial=0)), int(room.max(initial=0))
    # best[j, pad + w]: the most that w units of column j are worth; less than none is never
    table = np.full((m, pad + units + 1), -np.inf)
    best = table[:, pad:]
    best[:] = 0.0
    flat: Any = table.reshape(-1)
    start = (column * table.shape[1] + pad)[:, None] + np.arange(units + 1)
    taken = np.zeros((count, m, units + 1), np.bool_)
    for t in range(count):
        other = flat[start - use[t][:, None]]
        other += value[t][:, None]
        np.greater(other, best, out=taken[t])
        np.maximum(other, best, out=best)
    chosen = np.zeros((count, m), np.bool_)
    w = room.copy()
    for t in range(count - 1, -1, -1):
        chosen[t] = taken[t, column, w]
        w -= np.where(chosen[t], use[t], 0)
    return best[column, room], chosen
