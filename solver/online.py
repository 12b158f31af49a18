"""Decide one request by prices, and find new prices from what is left: no OR-Tools, no SciPy.

The bid-price rule: of the columns that fit what is left take the one with the least ``c_j + sum_k lambda_k a_kj``;
refuse when even that is not below what serving is worth. K. Talluri, G. van Ryzin, "An analysis of bid-price
controls for network revenue management", Management Science 44 (1998); prices learnt from a sample of the demand:
N. Devanur, T. Hayes, "The adwords problem", EC 2009.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .checks import amounts, array, finite_number, instance, is_number, numbers, whole_number
from .problem import InvalidProblem, Limit, Problem, tolerance
from .smooth_dual import SmoothDual

__all__ = ["Prices", "Router", "prices_of", "reprice"]

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

        cost_row: int64[m], nano-dollars. usage_rows: finite float[K, m]. left: float[K], what each row can still take.
        allowed: bool[m], None = all. value: nano-dollars; a request whose every bid reaches it is refused.
        """
        try:
            if not len(cost_row):
                return -1
            bids = cost_row + self.lam @ usage_rows
            room = left + tolerance(left)
            fits = np.all((usage_rows <= room[:, None]) | (usage_rows <= 0), axis=0)
            if allowed is not None:
                fits &= allowed
            bids = np.where(fits, bids, np.inf)
            best = int(bids.argmin())
            if bids[best] < value:
                return best
            sure = bids[best] >= value
        except (TypeError, ValueError, IndexError, AttributeError):
            sure = False
        if not sure:
            _check_route(self, cost_row, usage_rows, left, allowed, value)
        return -1

    def route_many(self, problem: Problem, left: Floats | None = None) -> npt.NDArray[np.int32]:
        """int32[n]: the columns of all requests of a problem, one after another, each using up what it takes.

        left: float[K], None = the caps. A request with a value is refused when its bids reach it.
        """
        prices_of("prices", self, instance("problem", problem, Problem))
        room = np.array(problem.caps if left is None else numbers("left", left, problem.rows))
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


def _check_route(
    prices: Prices, cost_row: object, usage_rows: object, left: object, allowed: object, value: object
) -> None:
    """Says which argument of ``Prices.route`` was not a number or of another shape than the others."""
    lam = amounts("prices.lam", prices.lam, len(array("prices.lam", prices.lam, 1)))
    m = len(array("cost_row", cost_row, 1))
    numbers("cost_row", cost_row, m)
    usage = array("usage_rows", usage_rows, 2, len(lam))
    for k, row in enumerate(usage):
        numbers(f"usage_rows[{k}]", row, m)
    numbers("left", left, len(lam))
    if allowed is not None and array("allowed", allowed, 1, m).dtype != np.bool_:
        raise InvalidProblem(f"allowed: expected dtype bool, found {np.asarray(allowed).dtype}")
    if not is_number(value) or value != value:
        raise InvalidProblem(f"value: expected a number, found {value!r}")
    raise InvalidProblem("cost_row, usage_rows, left, allowed: expected arrays, found lists")


def prices_of(name: str, given: object, problem: Problem) -> Floats:
    """float64[K]: the prices of the rows, which must be finite and >= 0."""
    return amounts(f"{name}.lam", instance(name, given, Prices).lam, problem.rows)


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
        self.prices = instance("prices", prices, Prices)
        self.kinds = kinds = whole_number("kinds", kinds, 0)
        self.touches = _touches(touches, kinds, len(prices.lam))
        m = len(self.touches)
        rate = np.zeros((kinds + 1, m))
        for j, pairs in enumerate(self.touches):
            for row, kind in pairs:
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


def _touches(given: Any, kinds: int, rows: int) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Per column its (row, kind) pairs, each within what there is."""
    try:
        found = [[(operator.index(row), operator.index(kind)) for row, kind in pairs] for pairs in given]
    except (TypeError, ValueError) as wrong:
        raise InvalidProblem(
            f"touches: expected a list of (row, kind) pairs of whole numbers per column, {wrong}"
        ) from wrong
    for j, row, kind in ((j, *pair) for j, pairs in enumerate(found) for pair in pairs):
        if not (0 <= row < rows and -1 <= kind < kinds):
            raise InvalidProblem(
                f"touches[{j}]: expected a row from 0 to {rows - 1} and a kind from -1 to {kinds - 1},"
                f" found {(row, kind)}"
            )
    return tuple(tuple(pairs) for pairs in found)


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
    instance("expected", expected, Problem)
    count = amounts("count", count, expected.n)
    left = numbers("left", left, expected.rows)
    start = None if warm is None else prices_of("warm", warm, expected)
    unserved = _worth(expected, count) if unserved is None else finite_number("unserved", unserved, 0.0)
    weight = np.ones(expected.n) if expected.weight is None else expected.weight
    worth = unserved * weight if expected.value is None else expected.value.astype(np.float64)
    lam, heat = np.zeros(expected.rows), 0.0
    if count.any() and expected.m:
        dual = SmoothDual(expected, count, left, worth)
        lam[dual.active] = dual.solve(None if start is None else start[dual.active])
        heat = dual.heat
    names = tuple(expected.row_name(k) for k in range(expected.rows)) if warm is None else warm.names
    return Prices(names, lam, unserved if expected.value is None else 0.0, heat=heat)


def _worth(expected: Problem, count: Floats) -> float:
    dearest = np.max(expected.cost, axis=1, where=expected.allowed, initial=0)
    total = float(count.sum())
    return WORTH * max(float(count @ dearest) / total, 1.0) if total > 0 else WORTH
