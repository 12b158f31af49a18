"""Column generation for generalised assignment, and dives: the relaxation over whole bundles, rounded one by one.

The master program chooses a bundle of requests for every column (Dantzig-Wolfe; M. Savelsbergh 1997)::

    min sum_q c_q z_q + sum_i c_i,outside y_i     sum_{q with i} z_q + y_i >= 1     sum_{q of j} z_q <= 1     z, y >= 0

Its prices u of the requests are held in a box around the best known ones (O. du Merle et al. 1999), which starts at the
prices of the limits: few rounds then suffice. A dive fixes the largest z, prices the rest again, and so on (R. Sadykov
et al. 2019, "Primal heuristics for branch and price: the assets of diving methods").
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from .assignment import Assignment, Packing
from .bundles import Bundles
from .rows import Floats, Ints

__all__ = ["Diving"]

ROUNDS, FEW = 300, 4  # of pricing, at the root and whenever a dive has fixed bundles
PARTS = 8  # a dive fixes so much of the open columns at a time
WIDER = 3.0  # a box that prices run into is so much wider next time
MIDDLE = 0.5  # prices are tried between the best known and the master's first
SURE, HALF, SMALL = 0.9, 0.3, 1e-6  # z of bundles fixed in any case, beside others, at all
LEAST_LUCK = 0.5  # later dives multiply z by a number drawn from here to 1
Flags = npt.NDArray[np.bool_]


class Diving:
    """The master program of an assignment: ``root`` solves its relaxation, ``dive`` makes a packing of it."""

    def __init__(self, given: Assignment, allowed: Flags, width: float, seed: int) -> None:
        """allowed: bool[n, m], pairs that a better packing may have. width: of the box of prices."""
        from ortools.linear_solver import pywraplp

        self.given, self.width = given, width
        self.bundles = Bundles(given)
        self.allowed = allowed & self.bundles.fits
        self.rng = np.random.default_rng(seed)
        self.price = given.reduced().min(axis=1)  # the centre of the box
        self.outside = given.cost[:, -1]
        self.solver: Any = pywraplp.Solver.CreateSolver("GLOP")
        most = self.solver.infinity()
        self.goal = self.solver.Objective()
        self.covered = [self.solver.Constraint(1.0, most) for _ in range(given.n)]
        self.chosen = [self.solver.Constraint(-most, 1.0) for _ in range(given.m)]
        self.dear = [self._slack(i, 1.0) for i in range(given.n)]  # price at most: the box's top or outside
        self.cheap = [self._slack(i, -1.0) for i in range(given.n)]  # price at least
        self.known: set[tuple[int, bytes]] = set()
        self.variables: list[Any] = []
        self.members: list[tuple[int, Ints]] = []
        self.dives, self.tolerance = 0, 0.0

    def _slack(self, i: int, sign: float) -> Any:
        variable = self.solver.NumVar(0.0, self.solver.infinity(), "")
        self.covered[i].SetCoefficient(variable, sign)
        return variable

    def add(self, packing: Packing) -> None:
        """The bundles of a packing become columns of the master program."""
        for j in range(self.given.m):
            self._add(j, np.flatnonzero(packing == j))

    def _add(self, j: int, who: Ints) -> bool:
        key = (j, who.tobytes())
        if key in self.known:
            return False
        self.known.add(key)
        variable = self.solver.NumVar(0.0, self.solver.infinity(), "")
        for i in who.tolist():
            self.covered[i].SetCoefficient(variable, 1.0)
        self.chosen[j].SetCoefficient(variable, 1.0)
        self.goal.SetCoefficient(variable, float(self.given.cost[who, j].sum()))
        self.variables.append(variable)
        self.members.append((j, who))
        return True

    def root(self, tolerance: float, left: Callable[[], float]) -> float:
        """Solves the relaxation; returns the bound it proves: no packing of allowed pairs costs less."""
        open_ = np.ones(self.given.m, np.bool_)
        self.price, bound, self.width = self._converge(
            self.price, self.width, self.allowed, open_, tolerance, ROUNDS, left
        )
        self.tolerance = tolerance
        return bound if self.bundles.exact else -np.inf

    def _converge(
        self,
        price: Floats,
        width: float,
        allowed: Flags,
        open_: Flags,
        tolerance: float,
        rounds: int,
        left: Callable[[], float],
    ) -> tuple[Floats, float, float]:
        """(best prices, their bound, width of their box) of the columns ``open_``; the master is left solved."""
        best = -np.inf
        self._box(price, width)
        for _ in range(rounds):
            self.solver.Solve()
            value = self.goal.Value()
            duals = np.array([row.dual_value() for row in self.covered])
            rent = np.array([row.dual_value() for row in self.chosen])
            pressed = self._pressed(price, width)
            moved, added, ahead = False, 0, price
            for share in (MIDDLE, 0.0):
                tried = share * ahead + (1.0 - share) * duals
                worth, inside = self.bundles.best(tried, allowed)
                bound = float(np.minimum(tried, self.outside).sum() - worth[open_].sum())
                if bound > best:
                    best, price, moved = bound, tried, True
                added += self._extend(inside, duals, rent, open_)
                if added:
                    break
            if left() <= 0:
                break
            if value - best < tolerance or not added:
                if not pressed:
                    break
                width *= WIDER
                moved = True
            if moved:
                self._box(price, width)
        self.solver.Solve()
        return price, best, width * (WIDER if self._pressed(price, width) else 1.0)

    def _extend(self, inside: Flags, duals: Floats, rent: Floats, open_: Flags) -> int:
        """Adds the bundles whose reduced cost is negative; returns how many."""
        cost = np.where(inside, self.bundles.cost - duals[:, None], 0.0).sum(axis=0) - rent
        small = 1e-9 * (1.0 + float(np.abs(duals).sum()))
        return sum(
            self._add(int(j), np.flatnonzero(inside[:, j])) for j in np.flatnonzero((cost < -small) & open_)
        )

    def _box(self, price: Floats, width: float) -> None:
        top = np.minimum(price + width, self.outside).tolist()
        bottom = np.maximum(price - width, 0.0).tolist()
        for i, (dear, cheap) in enumerate(zip(self.dear, self.cheap, strict=True)):
            self.goal.SetCoefficient(dear, top[i])
            self.goal.SetCoefficient(cheap, -bottom[i])

    def _pressed(self, price: Floats, width: float) -> bool:
        """Whether a price would leave the box if it could."""
        inner = np.flatnonzero(price + width < self.outside)
        dear = any(self.dear[i].solution_value() > 1e-6 for i in inner)
        low = np.flatnonzero(price > width)
        return dear or any(self.cheap[i].solution_value() > 1e-6 for i in low)

    def dive(self, left: Callable[[], float]) -> Packing:
        """Fixes bundles one after the other; requests that none has left are outside.

        The first dive fixes the largest, later ones those that are large and lucky.
        """
        given, first, self.dives = self.given, not self.dives, self.dives + 1
        packing = np.full(given.n, given.m, np.int64)
        open_, allowed = np.ones(given.m, np.bool_), self.allowed.copy()
        price, width, fixed = self.price, self.width, []
        self._box(price, self.width)
        self.solver.Solve()
        while open_.any() and left() > 0:
            share = np.array([variable.solution_value() for variable in self.variables])
            share[[not open_[j] for j, _ in self.members]] = 0.0
            picked = self._picked(share, open_, first)
            if not picked:
                break
            for q in picked:
                j, who = self.members[q]
                who = who[packing[who] == given.m]
                packing[who], open_[j] = j, False
                allowed[who] = False
                self.variables[q].SetLb(1.0)
                fixed.append(q)
            gone = packing < given.m
            if open_.any():
                price = np.where(gone, 0.0, price)
                price, _, width = self._converge(price, width, allowed, open_, self.tolerance, FEW, left)
        for q in fixed:
            self.variables[q].SetLb(0.0)
        return packing

    def _picked(self, share: Floats, open_: Flags, first: bool) -> list[int]:
        """The bundles to fix: the largest share of the open columns, and all that are nearly whole; disjoint."""
        drawn = share if first else share * self.rng.uniform(LEAST_LUCK, 1.0, len(share))
        most = max(1, int(open_.sum()) // PARTS)
        picked: list[int] = []
        columns, taken = set(), np.zeros(self.given.n, np.bool_)
        for q in np.argsort(-drawn, kind="stable").tolist():
            j, who = self.members[q]
            if share[q] < (HALF if picked else SMALL) or (len(picked) >= most and share[q] < SURE):
                break
            if j not in columns and not taken[who].any():
                picked.append(q)
                columns.add(j)
                taken[who] = True
        return picked
