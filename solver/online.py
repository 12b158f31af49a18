"""Decide one request by prices, and find new prices from what is left: no OR-Tools, no SciPy.

The bid-price rule: of the columns that fit what is left take the one with the least ``c_j + sum_k lambda_k a_kj``;
refuse when even that is not below what serving is worth. K. Talluri, G. van Ryzin, "An analysis of bid-price
controls for network revenue management", Management Science 44 (1998); prices learnt from a sample of the demand:
N. Devanur, T. Hayes, "The adwords problem", EC 2009.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .problem import InvalidProblem, Limit, Problem, tolerance
from .smooth_dual import SmoothDual

__all__ = ["Prices", "Router", "reprice"]

WORTH = 30.0  # what serving is worth where nobody says, in mean dearest costs: being served comes first
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Prices:
    """Shadow prices of the rows of a problem.

    names: one per row, in the row order of ``Problem``. lam: float64[K] >= 0, nano-dollars per unit of usage.
    unserved: float, nano-dollars per unit of weight that leaving a request unserved costs (the dual of
    "serve at least as much"; inf where nothing may be left out, 0 with objective "surplus"). count: float64[K] or
    None, nano-dollars per unit of weight served by a row's group (see ``Plan``); bids leave it out. heat: the
    temperature, as a share of a request's least bid, at which the softmin of the bids uses the rows as planned;
    whoever takes the least bid alone sends all requests that are at a tie to one side.
    """

    names: tuple[str, ...]
    lam: Floats
    unserved: float = math.inf
    count: Floats | None = None
    heat: float = 0.0

    def route(
        self,
        cost_row: npt.NDArray[np.integer],
        usage_rows: npt.NDArray[np.floating],
        left: Floats,
        *,
        allowed: npt.NDArray[np.bool_] | None = None,
        value: float = math.inf,
    ) -> int:
        """The column for one request, or -1 to refuse it.

        cost_row: int64[m], nano-dollars. usage_rows: float[K, m]. left: float[K], what each row can still take.
        allowed: bool[m], None = all. value: nano-dollars; a request whose every bid reaches it is refused.
        """
        if not len(cost_row):
            return -1
        bids = cost_row + self.lam @ usage_rows
        room = left + tolerance(left)
        fits = np.all((usage_rows <= room[:, None]) | (usage_rows <= 0), axis=0)
        if allowed is not None:
            fits &= allowed
        bids = np.where(fits, bids, np.inf)
        best = int(bids.argmin())
        return best if bids[best] < value else -1

    def route_many(self, problem: Problem, left: Floats | None = None) -> npt.NDArray[np.int32]:
        """int32[n]: the columns of all requests of a problem, one after another, each using up what it takes.

        left: float[K], None = the caps. A request with a value is refused when its bids reach it.
        """
        if len(self.lam) != problem.rows:
            raise InvalidProblem(f"prices: expected {problem.rows} rows, found {len(self.lam)}")
        room = np.array(problem.caps if left is None else left, dtype=np.float64)
        choice = np.full(problem.n, -1, dtype=np.int32)
        for i in range(problem.n):
            rows, usage = _touched(problem, i)
            few = Prices((), self.lam[rows])
            worth = math.inf if problem.value is None else float(problem.value[i])
            j = few.route(problem.cost[i], usage, room[rows], allowed=problem.allowed[i], value=worth)
            choice[i] = j
            if j >= 0:
                np.subtract.at(room, rows, usage[:, j])
        return choice


def _touched(problem: Problem, i: int) -> tuple[npt.NDArray[np.intp], Floats]:
    """Rows that cover request i, and float64[rows, m] its usage of them."""
    rows, usage = [], []
    for limit, first in zip(problem.limits, problem.first_row.tolist(), strict=False):
        group = 0 if limit.group is None else int(limit.group[i])
        if group < 0 or not _covers(limit, i):
            continue
        row = np.zeros(problem.m)
        columns = slice(None) if limit.models is None else np.asarray(limit.models)
        whole = limit.usage[i] if isinstance(limit.usage, np.ndarray) else limit.usage
        row[columns] = np.broadcast_to(whole, problem.m)[columns]
        rows.append(first + group)
        usage.append(row)
    return np.array(rows, dtype=np.intp), np.array(usage).reshape(-1, problem.m)


def _covers(limit: Limit, i: int) -> bool:
    if limit.requests is None:
        return True
    requests = np.asarray(limit.requests)  # sorted by Problem
    at = int(np.searchsorted(requests, i))
    return at < len(requests) and int(requests[at]) == i


class Router:
    """Prices compiled for one decision in microseconds, where a column touches few rows.

    touches: per column its (row, kind) pairs: the row uses ``amounts[kind]`` of the request, kind -1 counts 1.
    Rows that every column of a request touches by its cost (budgets of an account and its parents) are given per
    request. ``left`` is whatever sequence of floats the caller keeps; it is read, never written.
    """

    def __init__(self, prices: Prices, touches: Sequence[Sequence[tuple[int, int]]], kinds: int) -> None:
        self.prices = prices
        self.touches = tuple(tuple(pairs) for pairs in touches)
        self.kinds = kinds
        m = len(self.touches)
        rate = np.zeros((kinds + 1, m))
        for j, pairs in enumerate(self.touches):
            for row, kind in pairs:
                if not -1 <= kind < kinds:
                    raise InvalidProblem(
                        f"touches[{j}]: expected a kind from -1 to {kinds - 1}, found {kind}"
                    )
                rate[kind, j] += prices.lam[row]
        self._count = rate[-1].copy()
        self._rate = rate[:-1]
        self._lam = prices.lam.tolist()

    def choose(
        self,
        cost: Floats,
        amounts: Floats,
        left: Sequence[float],
        *,
        budgets: Sequence[int] = (),
        value: float = math.inf,
    ) -> int:
        """The column for one request, or -1 to refuse it.

        cost: float64[m] nano-dollars, inf where not allowed. amounts: float64[kinds, m]. budgets: rows that the
        cost counts against. value: nano-dollars.
        """
        if not self.touches:
            return -1
        bids = self._rate * amounts
        bids = bids.sum(axis=0)
        bids += self._count
        dearness = 1.0
        for row in budgets:
            dearness += self._lam[row]
        bids += cost if dearness == 1.0 else cost * dearness
        best = int(bids.argmin())
        if not bids[best] < value:
            return -1
        if self._fits(best, cost, amounts, left, budgets):
            return best
        for best in bids.argsort(kind="stable").tolist()[1:]:
            if not bids[best] < value:
                return -1
            if self._fits(best, cost, amounts, left, budgets):
                return int(best)
        return -1

    def _fits(
        self, j: int, cost: Floats, amounts: Floats, left: Sequence[float], budgets: Sequence[int]
    ) -> bool:
        for row, kind in self.touches[j]:
            if (1.0 if kind < 0 else amounts[kind, j]) > left[row]:
                return False
        return all(cost[j] <= left[row] for row in budgets)


def reprice(
    expected: Problem,
    count: Floats,
    left: Floats,
    *,
    warm: Prices | None = None,
    unserved: float | None = None,
) -> Prices:
    """New prices for the demand expected while what is left has to last.

    expected: classes of request, or sampled requests; 500 to 1,000 of them are enough. Its limits give the rows;
    its caps are not read. count: float64[n], how often each is expected. left: float64[K], what each row can
    take over the same time (inf = anything). warm: earlier prices of the same rows. unserved: nano-dollars per
    unit of weight that a refusal costs where requests have no value; None = 30 times the mean dearest cost,
    which puts being served first. Method: :mod:`solver.smooth_dual`. Raises :class:`InvalidProblem`.
    """
    count = np.asarray(count, dtype=np.float64)
    left = np.asarray(left, dtype=np.float64)
    if count.shape != (expected.n,) or not np.all(np.isfinite(count)) or np.any(count < 0):
        raise InvalidProblem(f"count: expected {expected.n} finite numbers >= 0, found another")
    if left.shape != (expected.rows,) or np.any(np.isnan(left)):
        raise InvalidProblem(f"left: expected {expected.rows} numbers, found shape {left.shape} or NaN")
    if warm is not None and len(warm.lam) != expected.rows:
        raise InvalidProblem(f"warm: expected {expected.rows} prices, found {len(warm.lam)}")
    if unserved is None:
        unserved = _worth(expected, count)
    weight = np.ones(expected.n) if expected.weight is None else expected.weight
    worth = unserved * weight if expected.value is None else expected.value.astype(np.float64)
    lam, heat = np.zeros(expected.rows), 0.0
    if count.any() and expected.m:
        dual = SmoothDual(expected, count, left, worth)
        lam[dual.active] = dual.solve(None if warm is None else warm.lam[dual.active])
        heat = dual.heat
    names = tuple(expected.row_name(k) for k in range(expected.rows)) if warm is None else warm.names
    return Prices(names, lam, unserved if expected.value is None else 0.0, heat=heat)


def _worth(expected: Problem, count: Floats) -> float:
    dearest = np.max(expected.cost, axis=1, where=expected.allowed, initial=0)
    total = float(count.sum())
    return WORTH * max(float(count @ dearest) / total, 1.0) if total > 0 else WORTH
