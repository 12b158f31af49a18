"""What a plan's limits cost and why each request was left out, in words and dollars.

Shadow prices are those of the linear relaxation at the plan's own prices: for one more unit of a limit the bound
moves by its price, so a tenth more of it saves *about* a tenth of cap times price until another row takes over.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from .checks import InvalidProblem, instance, whole_number
from .problem import Limit, Plan, Problem, Reason
from .shapes import misshapen

__all__ = ["Explanation", "LimitUse", "Unserved", "explain"]

NUSD_PER_USD = 10**9
MORE = 0.1
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LimitUse:
    """One row: what it was used for and what it costs.

    row: its number. used, cap: in the limit's units. shadow_price_usd: dollars per unit, a decimal string.
    more_saves_usd: the linear relaxation's estimate of what 10 % more of the cap would save, a decimal string;
    "0" where the row does not bind. served_price: where the plan could not serve everybody, the requests
    (weight) that one more unit would let in, by the prices that prove ``served_bound``.
    """

    row: int
    name: str
    used: float
    cap: float
    shadow_price_usd: str
    more_saves_usd: str
    served_price: float


@dataclass(frozen=True, slots=True)
class Unserved:
    """Why one request was left out.

    reason: as in the plan. column: the best column it could have had, -1 = none. limit: the row that kept it
    out, "" = none. detail: the reason in words.
    """

    request: int
    reason: Reason
    column: int
    limit: str
    detail: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """limits: rows in order, or only those with a price when there are many. unserved: in order of request."""

    limits: tuple[LimitUse, ...]
    unserved: tuple[Unserved, ...]


def explain(
    problem: Problem, plan: Plan, *, most_limits: int = 1000, most_unserved: int = 10_000
) -> Explanation:
    """Every limit and every unserved request of a plan.

    With more than ``most_limits`` rows those with a price come first, then the fullest; with more than
    ``most_unserved`` unserved requests the first ones are explained. Raises :class:`InvalidProblem` when the plan
    is not one of this problem.
    """
    if wrong := misshapen(instance("problem", problem, Problem), plan):
        raise InvalidProblem("; ".join(wrong))
    most_limits = whole_number("most_limits", most_limits, 0)
    most_unserved = whole_number("most_unserved", most_unserved, 0)
    used = _used(problem, plan)
    rows = np.arange(problem.rows)
    if len(rows) > most_limits:
        with np.errstate(divide="ignore", invalid="ignore"):
            full = np.where(problem.caps > 0, used / problem.caps, 0.0)
        rows = np.sort(np.lexsort((-full, plan.prices.lam <= 0))[:most_limits])
    limits = tuple(_limit_use(problem, plan, used, int(row)) for row in rows)
    out = np.flatnonzero(plan.choice < 0)[:most_unserved]
    return Explanation(limits, tuple(_unserved(problem, plan, int(i)) for i in out))


def _used(problem: Problem, plan: Plan) -> Floats:
    """float64[K]: use of every row by the plan."""
    used = np.zeros(problem.rows)
    for limit, first in zip(problem.limits, problem.first_row.tolist(), strict=False):
        inside = plan.choice >= 0
        if limit.models is not None:
            inside &= np.isin(plan.choice, limit.models)
        if limit.requests is not None:
            inside &= np.isin(np.arange(problem.n), limit.requests)
        if limit.group is not None:
            inside &= limit.group >= 0
        i = np.flatnonzero(inside)
        group = np.zeros(i.size, np.intp) if limit.group is None else limit.group[i].astype(np.intp)
        amount = _usage(limit, i, plan.choice[i])
        used[first : first + limit.rows] = np.bincount(group, weights=amount, minlength=limit.rows)[
            : limit.rows
        ]
    return used


def _usage(limit: Limit, i: Any, j: Any) -> Floats:
    if not isinstance(limit.usage, np.ndarray):
        return np.full(np.broadcast(i, j).shape, float(limit.usage))
    if limit.usage.ndim == 1:
        return np.broadcast_to(limit.usage[i], np.broadcast(i, j).shape).astype(np.float64)
    return np.asarray(limit.usage[i, j], dtype=np.float64)


def _limit_use(problem: Problem, plan: Plan, used: Floats, row: int) -> LimitUse:
    cap = float(problem.caps[row])
    finite = bool(np.isfinite(cap))
    price = float(plan.prices.lam[row]) if finite else 0.0
    served = plan.served_prices
    return LimitUse(
        row=row,
        name=problem.row_name(row),
        used=float(used[row]),
        cap=cap,
        shadow_price_usd=_usd(price),
        more_saves_usd=_usd(MORE * abs(cap) * price) if finite else "0",
        served_price=0.0 if served is None or not finite else float(served.lam[row]),
    )


def _usd(nusd: float) -> str:
    """Dollars as a plain decimal string of at most six significant digits."""
    if nusd == 0:
        return "0"
    return format(Decimal(f"{nusd:.6g}") / NUSD_PER_USD, "f").rstrip("0").rstrip(".") or "0"


def _unserved(problem: Problem, plan: Plan, i: int) -> Unserved:
    reason = Reason(int(plan.reason[i]))
    allowed = np.flatnonzero(problem.allowed[i])
    if not allowed.size:
        return Unserved(i, reason, -1, "", "no column passes its filters")
    if reason is Reason.NO_OPTION:
        return _too_large(problem, i, allowed)
    bids = _bids(problem, plan, i)
    best = int(allowed[bids[allowed].argmin()])
    row = int(plan.limit[i])
    name = problem.row_name(row) if row >= 0 else ""
    if reason is Reason.PRICED_OUT and problem.value is not None:
        cheapest = int(allowed[problem.cost[i, allowed].argmin()])
        words = f"worth ${_usd(float(problem.value[i]))}, the least cost is ${_usd(float(problem.cost[i, cheapest]))}"
        return Unserved(i, reason, cheapest, name, words)
    words = f"{name} is full" if name else "no combination of its columns with those of others was found"
    if row >= 0 and plan.prices.lam[row] > 0:
        words = (
            f"{name} went to requests that save more per unit (${_usd(float(plan.prices.lam[row]))} a unit)"
        )
    return Unserved(i, reason, best, name, words)


def _rows_of(problem: Problem, i: int) -> list[tuple[int, Floats, npt.NDArray[np.intp]]]:
    """(row, usage of its columns by request i, those columns) of every row that covers the request."""
    found = []
    for limit, first in zip(problem.limits, problem.first_row.tolist(), strict=False):
        group = 0 if limit.group is None else int(limit.group[i])
        if group < 0 or (limit.requests is not None and not np.any(np.asarray(limit.requests) == i)):
            continue
        columns = np.arange(problem.m) if limit.models is None else np.asarray(limit.models, dtype=np.intp)
        found.append((first + group, _usage(limit, i, columns), columns))
    return found


def _bids(problem: Problem, plan: Plan, i: int) -> Floats:
    """float64[m]: cost plus priced usage."""
    bids: Floats = problem.cost[i].astype(np.float64)
    for row, amount, columns in _rows_of(problem, i):
        if np.isfinite(problem.caps[row]):
            bids[columns] += plan.prices.lam[row] * amount
    return bids


def _too_large(problem: Problem, i: int, allowed: npt.NDArray[np.intp]) -> Unserved:
    """Which row the cheapest allowed column breaks on its own, and by how much."""
    best = int(allowed[problem.cost[i, allowed].argmin()])
    worst, name, words = 0.0, "", "fits no limit on its own"
    for row, amount, columns in _rows_of(problem, i):
        at = np.flatnonzero(columns == best)
        if not at.size:
            continue
        need, cap = float(amount[at[0]]), float(problem.caps[row])
        if need - cap > worst:
            worst, name = need - cap, problem.row_name(row)
            words = f"fits no limit on its own: needs {need:.6g} of {name}, which has {cap:.6g}"
    return Unserved(i, Reason.NO_OPTION, best, name, words)
