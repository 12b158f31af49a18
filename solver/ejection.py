"""Ejection chains for generalised assignment: who moves puts another out of his place, who moves on in turn.

Moves: one request to another column; two change places; and chains, where i takes the place of k, k that of q, and the
last goes wherever it costs least. Capacities may be exceeded at a price that rises while they are and falls while they
are not, and who moved stays put for some steps. (M. Yagiura, T. Ibaraki, F. Glover 2004, "An ejection chain approach
for the generalized assignment problem"; the prices start at those of the limits.)

With P_j(l) = alpha_j max(0, l - b_j), one matrix holds what every exchange costs in the column that k leaves to i::

    H[k, i] = c_{i, x_k} + P_{x_k}(load - a_k + a_i) - P_{x_k}(load)

so that exchanges are H + H^T and the best chain of any length is a row minimum of H plus a vector.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from .assignment import Assignment, Packing
from .rows import Floats, Ints

__all__ = ["Ejection"]

MOVABLE = 500  # requests that may move: those whose second best column costs least more
EVERY, UP, DOWN = 5, 1.1, 0.97  # steps between two changes of the prices of excess, and the changes
FIRST, LOWEST, HIGHEST = 1.5, 0.3, 30.0  # price of excess / price of the limit: at first, at least, at most
SHORTEST, LONGEST = 3, 12  # steps for which who moved stays put
NEVER = np.float32(1e9)  # of the mean cost
Matrix = npt.NDArray[np.float32]
Move = list[tuple[int, int]]  # (request, to column), all at once


class Ejection:
    """A search from packing to packing; who hardly could move stays where the first one has him."""

    def __init__(self, given: Assignment, seed: int) -> None:
        self.given = given
        self.rng = np.random.default_rng(seed)
        reduced = given.reduced()
        two = np.partition(reduced, 1, axis=1)[:, :2]
        self.at = np.sort(np.argsort(two[:, 1] - two[:, 0], kind="stable")[:MOVABLE])
        finite = np.where(np.isfinite(given.cost), given.cost, 0.0)
        self.unit = max(float(finite[:, : given.m].mean()), 1e-9)
        cost = np.where(np.isfinite(given.cost), given.cost / self.unit, NEVER)[self.at]
        self.cost: Matrix = np.ascontiguousarray(cost.T, dtype=np.float32)
        self.use: Matrix = np.ascontiguousarray(given.use[self.at].T, dtype=np.float32)
        price = np.append(given.price, 0.0) / self.unit
        least = 1.0 / max(float(given.use.mean()), 1e-9)  # where no limit has a price
        price[:-1] = np.maximum(price[:-1], 0.05 * (float(price.max()) or least))
        self.price: Matrix = price.astype(np.float32)

    def run(self, start: Packing, steps: int, left: Callable[[], float]) -> tuple[Packing | None, float]:
        """(best packing within every capacity, its cost), or (None, inf). left: seconds on the clock."""
        given, at = self.given, self.at
        others = np.setdiff1d(np.arange(given.n), at, assume_unique=True)
        taken = np.bincount(start[others], given.use[others, start[others]], minlength=given.m + 1)
        state = _State(self.cost, self.use, given.cap - taken, self.price, start[at])
        best, least, whole = None, np.inf, np.arange(given.n)
        stays = self.rng.integers(SHORTEST, LONGEST, steps)
        for step in range(steps):
            if left() <= 0:
                break
            if state.within and state.total < least - 1e-9:
                best, least = state.x.copy(), state.total
            state.release(step)
            state.move(state.best(), step, int(stays[step]))
            if step % EVERY == 0:
                state.reprice()
        if best is None:
            return None, np.inf
        packing = start.copy()
        packing[at] = best
        return packing, float(given.cost[whole, packing].sum())


class _State:
    """One packing x with the load of every column, the price of excess and what every exchange costs."""

    def __init__(self, cost: Matrix, use: Matrix, cap: Floats, price: Matrix, x: Packing) -> None:
        self.cost, self.use, self.base, self.x = cost, use, price, x.copy()
        self.n = cost.shape[1]
        self.all = np.arange(self.n)
        self.alpha = FIRST * price
        self.own_cost, self.own_use = cost[x, self.all], use[x, self.all]
        load = np.bincount(x, self.own_use, minlength=len(cap))
        self.over = (load - cap).astype(np.float32)  # load less capacity
        self.slack = (1e-5 * (1 + np.where(np.isfinite(cap), np.abs(cap), 0))).astype(np.float32)
        self.held = np.zeros(self.n, np.float32)
        self.until: dict[int, list[int]] = {}
        self.place = np.empty((self.n, self.n), np.float32)  # H above
        self.sum = np.empty_like(self.place)
        self._fill(self.all)

    @property
    def within(self) -> bool:
        """Whether every capacity holds (up to float32; the caller checks again)."""
        return bool(np.all(self.over <= self.slack))

    @property
    def total(self) -> float:
        """Cost of the packing, in units."""
        return float(self.own_cost.sum(dtype=np.float64))

    def _fill(self, k: Ints) -> None:
        j = self.x[k]
        price = self.use[j]
        price += (self.over[j] - self.own_use[k])[:, None]
        np.maximum(price, 0, out=price)
        price *= self.alpha[j][:, None]
        price += self.cost[j]
        price -= (self.alpha * np.maximum(self.over, 0))[j][:, None]
        price[self.x == j[:, None]] = NEVER
        self.place[k] = price

    def release(self, step: int) -> None:
        """Who has stayed put long enough may move again."""
        for i in self.until.pop(step, []):
            self.held[i] = 0

    def best(self) -> Move:
        """The best of the best single move, exchange and chains of two and three."""
        alpha, over, x, all_ = self.alpha, self.over, self.x, self.all
        paid = alpha * np.maximum(over, 0)
        shift = self.use + over[:, None]
        np.maximum(shift, 0, out=shift)
        shift *= alpha[:, None]
        shift += self.cost - paid[:, None]
        shift[x, all_] = NEVER
        lands = shift.min(axis=0)  # cheapest place without an exchange
        out = self.held - self.own_cost
        leaves = alpha[x] * np.maximum(over[x] - self.own_use, 0) - paid[x] + out  # what leaving empty saves
        moves = [[(i, int(shift[:, i].argmin()))] for i in [int((lands + leaves).argmin())]]
        np.add(self.place, out, out=self.sum)
        both = self.sum + self.sum.T
        k, i = divmod(int(both.argmin()), self.n)
        moves.append([(i, int(x[k])), (k, int(x[i]))])
        on = lands + out
        np.add(self.place, on[:, None], out=both)
        second = both.min(axis=0)  # i takes a place, who had it lands
        i = int((second + leaves).argmin())
        k = int(both[:, i].argmin())
        moves.append([(i, int(x[k])), (k, int(shift[:, k].argmin()))])
        third = self.place + (second + out)[:, None]
        i = int((third.min(axis=0) + leaves).argmin())
        k = int(third[:, i].argmin())
        q = int(both[:, k].argmin())
        if len({i, k, q}) == 3:
            moves.append([(i, int(x[k])), (k, int(x[q])), (q, int(shift[:, q].argmin()))])
        return min(moves, key=self._price)

    def _shift(self, move: Move) -> dict[int, float]:
        """How much the load of each column changes."""
        change: dict[int, float] = {}
        for i, j in move:
            old = int(self.x[i])
            change[old] = change.get(old, 0.0) - float(self.own_use[i])
            change[j] = change.get(j, 0.0) + float(self.use[j, i])
        return change

    def _price(self, move: Move) -> float:
        price = sum(float(self.cost[j, i] - self.own_cost[i] + self.held[i]) for i, j in move)
        for j, change in self._shift(move).items():
            over = float(self.over[j])
            price += float(self.alpha[j]) * (max(0.0, over + change) - max(0.0, over))
        return price

    def move(self, move: Move, step: int, stays: int) -> None:
        """Makes the move; who moved may move again after ``stays`` steps."""
        changed = self._shift(move)
        for j, change in changed.items():
            self.over[j] += change
        for i, j in move:
            self.x[i], self.own_cost[i], self.own_use[i] = j, self.cost[j, i], self.use[j, i]
            self.held[i] = NEVER
            self.until.setdefault(step + stays, []).append(i)
        self._fill(np.flatnonzero(np.isin(self.x, list(changed))))

    def reprice(self) -> None:
        """Dearer where there is excess, cheaper elsewhere."""
        full = self.over > self.slack
        alpha = self.alpha * np.where(full, np.float32(UP), np.float32(DOWN))
        self.alpha = np.clip(alpha, LOWEST * self.base, HIGHEST * self.base).astype(np.float32)
        self._fill(self.all)
