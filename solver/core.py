"""OR-Tools on a part of the problem: the linear relaxation by GLOP, integer programs by CP-SAT or SCIP.

A *part* is a list of pairs (i, j) of some free requests, everything else fixed::

    min sum_p (c_p - V_i(p)) x_p    sum_{p of i} x_p <= 1    sum_p a_kp x_p <= b_k - load_k(fixed)    0 <= x_p <= 1

V_i is what serving i is worth, so a request left out needs no column of its own; instead of V a row
"weight served >= s" may be asked for, whose dual is the price of leaving one unit of weight unserved.
Rows are scaled by their mean use and the objective by its mean size before a solver sees them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .rows import Floats, Ints, Rows

__all__ = ["LinearSolution", "Part", "integer", "linear", "part"]


@dataclass(slots=True, eq=False)
class Part:
    """Pairs (i, j) of free requests with cost, usage as triples (p, k, a) and the room left of every row."""

    i: Ints
    j: Ints
    cost: Floats  # float64[P]
    p: Ints
    k: Ints
    a: Floats
    room: Floats  # float64[K]


@dataclass(slots=True, eq=False)
class LinearSolution:
    """x: float64[P]; lam: float64[K] >= 0; nu: price of the row "served >= s" (0 without); optimal: GLOP says so.

    infeasible: GLOP proved that no x meets the rows.
    """

    x: Floats
    lam: Floats
    nu: float
    optimal: bool
    infeasible: bool


def part(rows: Rows, i: Ints, j: Ints, room: Floats) -> Part:
    """The part with the pairs (i[p], j[p]), which must be possible; i ascending."""
    p, k, a = rows.pairs(i, j)
    return Part(i, j, rows.problem.cost[i, j].astype(np.float64), p, k, a, room)


def _matrix(given: Part, extra: Floats | None, least: float) -> tuple[Any, Floats, Floats, Ints, int]:
    """Scaled rows as CSR with upper bounds: requests with two or more pairs, limits that can bind, "served >= s"."""
    from scipy.sparse import csr_matrix

    count = len(given.i)
    k_all = len(given.room)
    plus = np.bincount(given.k, weights=np.maximum(given.a, 0), minlength=k_all)
    binds = plus > given.room
    scale = np.maximum(
        np.bincount(given.k, weights=np.abs(given.a), minlength=k_all)
        / np.maximum(np.bincount(given.k, minlength=k_all), 1),
        1e-12,
    )
    kept = np.flatnonzero(binds)
    position = np.full(k_all, -1, np.int64)
    position[kept] = np.arange(len(kept))
    on = binds[given.k]
    _, index, sizes = np.unique(given.i, return_inverse=True, return_counts=True)
    several = sizes > 1
    slot = np.cumsum(several) - 1 + len(kept)
    many = several[index]
    r = [position[given.k[on]], slot[index[many]]]
    c = [given.p[on], np.flatnonzero(many)]
    v = [given.a[on] / scale[given.k[on]], np.ones(int(many.sum()))]
    upper = [given.room[kept] / scale[kept], np.ones(int(several.sum()))]
    total = len(kept) + int(several.sum())
    if extra is not None:
        r.append(np.full(count, total))
        c.append(np.arange(count))
        v.append(-extra)
        upper.append(np.array([-least]))
        total += 1
    matrix = csr_matrix(
        (np.concatenate(v), (np.concatenate(r), np.concatenate(c))), shape=(total, count), dtype=np.float64
    )
    return matrix, np.concatenate(upper), scale[kept], kept, total


def linear(
    given: Part, value: Floats | float, seconds: float, served: tuple[Floats, float] | None = None
) -> LinearSolution:
    """The linear relaxation by GLOP. value: V per pair. served: (weight per pair, s), a row sum w x >= s.

    Nothing but ``optimal`` is to be believed about a solve that ended at its limit: bounds are recomputed
    from ``lam`` elsewhere, and x is checked by whoever rounds it.
    """
    from ortools.linear_solver.python import model_builder_helper as mbh

    count, k_all = len(given.i), len(given.room)
    extra, least = served if served is not None else (None, 0.0)
    if not count:
        good = bool(np.all(given.room >= 0)) and least <= 0
        return LinearSolution(np.zeros(0), np.zeros(k_all), 0.0, good, not good)
    matrix, upper, scale, kept, total = _matrix(given, extra, least)
    objective = given.cost - value
    unit = max(float(np.abs(objective).mean()), 1e-12)
    if np.any(np.delete(given.room, kept) < 0):  # a row no pair can help
        return LinearSolution(np.zeros(count), np.zeros(k_all), 0.0, False, True)
    builder: Any = mbh.ModelBuilderHelper()
    builder.fill_model_from_sparse_data(
        np.zeros(count), np.ones(count), objective / unit, np.full(total, -np.inf), upper, matrix
    )
    solver = mbh.ModelSolverHelper("glop")
    solver.set_time_limit_in_seconds(max(seconds, 1e-3))
    solver.solve(builder)
    optimal = solver.status() == mbh.SolveStatus.OPTIMAL
    infeasible = solver.status() == mbh.SolveStatus.INFEASIBLE and seconds > 0
    if not solver.has_solution():
        return LinearSolution(np.zeros(count), np.zeros(k_all), 0.0, False, infeasible)
    dual = np.minimum(np.asarray(solver.dual_values()), 0.0)
    dual = np.where(np.isfinite(dual), -dual, 0.0)
    lam = np.zeros(k_all)
    lam[kept] = dual[: len(kept)] * unit / scale
    nu = float(dual[-1] * unit) if served is not None else 0.0
    x = np.clip(np.nan_to_num(np.asarray(solver.variable_values())), 0.0, 1.0)
    return LinearSolution(x, lam, nu, optimal, infeasible)


@dataclass(slots=True, eq=False)
class IntegerSolution:
    """x: bool[P] or None; optimal, infeasible: proven."""

    x: npt.NDArray[np.bool_] | None
    optimal: bool
    infeasible: bool


def integer(
    given: Part,
    value: Floats | float,
    seconds: float,
    parameters: str,
    backend: str = "sat",
    served: tuple[Floats, float] | None = None,
    hint: npt.NDArray[np.bool_] | None = None,
) -> IntegerSolution:
    """The part as an integer program. parameters: the backend's own text, e.g. its deterministic limit."""
    from ortools.linear_solver.python import model_builder_helper as mbh

    count = len(given.i)
    extra, least = served if served is not None else (None, 0.0)
    if not count:
        good = bool(np.all(given.room >= 0)) and least <= 0
        return IntegerSolution(np.zeros(0, bool) if good else None, good, not good)
    matrix, upper, _, kept, total = _matrix(given, extra, least)
    if np.any(np.delete(given.room, kept) < 0):
        return IntegerSolution(None, False, True)
    objective = given.cost - value
    unit = max(float(np.abs(objective).mean()), 1e-12)
    builder: Any = mbh.ModelBuilderHelper()
    builder.fill_model_from_sparse_data(
        np.zeros(count), np.ones(count), objective / unit, np.full(total, -np.inf), upper, matrix
    )
    for p in range(count):
        builder.set_var_integrality(p, True)
    if hint is not None:
        for p in range(count):
            builder.add_hint(p, float(hint[p]))
    solver = mbh.ModelSolverHelper(backend)
    if parameters:
        solver.set_solver_specific_parameters(parameters)
    solver.set_time_limit_in_seconds(max(seconds, 1e-3))
    solver.solve(builder)
    status = solver.status()
    if not solver.has_solution():
        return IntegerSolution(None, False, status == mbh.SolveStatus.INFEASIBLE)
    x = np.asarray(solver.variable_values()) > 0.5
    return IntegerSolution(x, status == mbh.SolveStatus.OPTIMAL, False)
