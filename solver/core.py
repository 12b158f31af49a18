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

__all__ = ["IntegerSolution", "Part", "integer", "part"]


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


def part(rows: Rows, i: Ints, j: Ints, room: Floats) -> Part:
    """The part with the pairs (i[p], j[p]), which must be possible; i ascending."""
    p, k, a = rows.pairs(i, j)
    return Part(i, j, rows.problem.cost[i, j].astype(np.float64), p, k, a, room)


@dataclass(slots=True, eq=False)
class _Model:
    """Scaled rows lower <= M x <= upper: limits that can bind (``kept``, divided by ``scale``), requests, served."""

    matrix: Any
    lower: Floats
    upper: Floats
    kept: Ints
    scale: Floats
    hopeless: bool  # a row that no pair can help is broken


def _model(given: Part, served: tuple[Floats, float] | None, everybody: bool) -> _Model:
    """served: (weight per pair, s), the row sum w x >= s. everybody: each request takes exactly one of its pairs."""
    from scipy.sparse import csr_matrix

    count, k_all = len(given.i), len(given.room)
    plus = np.bincount(given.k, weights=np.maximum(given.a, 0), minlength=k_all)
    size = np.bincount(given.k, weights=np.abs(given.a), minlength=k_all)
    scale = np.maximum(size / np.maximum(np.bincount(given.k, minlength=k_all), 1), 1e-12)
    binds = plus > given.room
    kept = np.flatnonzero(binds)
    position = np.full(k_all, -1, np.int64)
    position[kept] = np.arange(len(kept))
    on = binds[given.k]
    _, index, sizes = np.unique(given.i, return_inverse=True, return_counts=True)
    several = (sizes > 1) | everybody
    slot = np.cumsum(several) - 1 + len(kept)
    many = several[index]
    r = [position[given.k[on]], slot[index[many]]]
    c = [given.p[on], np.flatnonzero(many)]
    v = [given.a[on] / scale[given.k[on]], np.ones(int(many.sum()))]
    rows = int(several.sum())
    upper = [given.room[kept] / scale[kept], np.ones(rows)]
    lower = [np.full(len(kept), -np.inf), np.full(rows, 1.0 if everybody else -np.inf)]
    total = len(kept) + rows
    if served is not None:
        weight, least = served
        r.append(np.full(count, total))
        c.append(np.arange(count))
        v.append(weight)
        lower.append(np.array([least]))
        upper.append(np.array([np.inf]))
        total += 1
    matrix = csr_matrix(
        (np.concatenate(v), (np.concatenate(r), np.concatenate(c))), shape=(total, count), dtype=np.float64
    )
    hopeless = bool(np.any(np.delete(given.room, kept) < 0))
    return _Model(matrix, np.concatenate(lower), np.concatenate(upper), kept, scale[kept], hopeless)


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
    everybody: bool = False,
    hint: npt.NDArray[np.bool_] | None = None,
) -> IntegerSolution:
    """The part as an integer program, value being V per pair.

    parameters: the backend's own text, e.g. its deterministic limit. served: (weight per pair, s) asks for
    sum w x >= s. everybody: every request of the part must be served.
    """
    from ortools.linear_solver.python import model_builder_helper as mbh

    count = len(given.i)
    if not count:
        good = bool(np.all(given.room >= 0)) and (served is None or served[1] <= 0)
        return IntegerSolution(np.zeros(0, bool) if good else None, good, not good)
    model = _model(given, served, everybody)
    if model.hopeless:
        return IntegerSolution(None, False, True)
    objective = given.cost - value
    unit = max(float(np.abs(objective).mean()), 1e-12)
    builder: Any = mbh.ModelBuilderHelper()
    builder.fill_model_from_sparse_data(
        np.zeros(count), np.ones(count), objective / unit, model.lower, model.upper, model.matrix
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
