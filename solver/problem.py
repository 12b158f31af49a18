"""The words of the conversation between house and solver: problem, limit, plan, termination.

Symbols used throughout the package::

    i in 0..n-1   requests              j in 0..m-1   columns (options: an offer, a tier, a time slot)
    c_ij          cost, integer nano-dollars           a_kij         usage of row k by the pair (i, j)
    w_i           weight of serving i (default 1)      v_i           value of serving i, nano-dollars
    b_k           cap of row k                         lambda_k >= 0 price of row k, nano-dollars per unit
    x_ij in {0,1} i is served by j; sum_j x_ij <= 1

A :class:`Limit` is one row, ``sum_ij a_kij x_ij <= b_k``, or one row per group. Usage may be negative,
so ">=" (a commitment, a mean-quality floor) is a row too. This module imports no OR-Tools.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .checks import InvalidProblem, array, instance, is_finite, is_number

if TYPE_CHECKING:
    from .online import Prices

__all__ = [
    "ABSOLUTE_TOLERANCE",
    "FEASIBILITY_TOLERANCE",
    "InvalidProblem",
    "Limit",
    "Plan",
    "Problem",
    "Reason",
    "StopReason",
    "Termination",
    "tolerance",
]

MAX_COST_NUSD = 2**53  # the dense passes and the bound run in float64: larger integers would be rounded
MAX_WEIGHT = 2.0**53
# A row holds if used <= cap + FEASIBILITY_TOLERANCE * |cap| + ABSOLUTE_TOLERANCE: sums in another order still agree.
FEASIBILITY_TOLERANCE = 1e-9
ABSOLUTE_TOLERANCE = 1e-6
BOUNDLESS = 1e300  # caps from here on get no share of themselves more: the sum would overflow


class Reason(IntEnum):
    """Why a request is served or not (dtype uint8 in ``Plan.reason``)."""

    SERVED = 0
    NO_OPTION = 1  # every pair is filtered out, or fits no limit on its own
    CAPACITY = 2  # a limit is full; ``Plan.limit`` names the row
    PRICED_OUT = 3  # objective "surplus": every option costs more than serving is worth


class StopReason(StrEnum):
    """Why the solver stopped."""

    OPTIMAL = "OPTIMAL"  # proven: no other plan is better
    GAP_MET = "GAP_MET"  # the proven gap is at most the gap asked for
    TIME_LIMIT = "TIME_LIMIT"  # the time limit, or every stage has done what it can
    INFEASIBLE = "INFEASIBLE"  # proven: no plan meets the rows with a negative cap (commitments, floors)


@dataclass(frozen=True, slots=True)
class Termination:
    """Why the solver stopped, and with what proof.

    reason: see :class:`StopReason`. limit: what was reached, in words. bound, gap: the best proven by any
    means. They equal ``Plan.cost_bound`` and ``Plan.gap`` unless exhaustive search proved more than prices
    can (``OPTIMAL``: bound = cost, gap = 0). seconds: wall clock of each stage by name.
    """

    reason: StopReason
    limit: str
    bound: float
    gap: float
    seconds: dict[str, float] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True, eq=False)
class Limit:
    """One row, or one per group: sum of ``usage`` over the pairs it covers is at most ``cap``.

    name: shown in reports. cap: float, or float[g] with ``group``. models: columns covered, None = all.
    requests: rows covered, None = all. usage: a number, array[n] or array[n, m]; limits that share an
    array object share its memory. group: int32[n], the group of each request, -1 = in none.
    """

    name: str
    cap: float | npt.NDArray[np.float64]
    models: npt.NDArray[np.integer[Any]] | Sequence[int] | None = None
    requests: npt.NDArray[np.integer[Any]] | Sequence[int] | None = None
    usage: float | npt.NDArray[Any] = 1.0
    group: npt.NDArray[np.int32] | None = None

    @property
    def rows(self) -> int:
        """Number of rows this limit stands for: 1, or the number of groups."""
        return 1 if self.group is None else len(np.atleast_1d(np.asarray(self.cap)))


@dataclass(frozen=True, eq=False)
class Problem:
    """Which requests can be served by which columns, at what cost, under which limits.

    cost: int64[n, m] nano-dollars, >= 0 (entries with ``allowed`` False are never read).
    allowed: bool[n, m], the per-pair terms. weight: float[n] > 0, None = 1 each. value: int64[n] nano-dollars.
    limits: rows. Raises :class:`InvalidProblem` naming the field, what was expected and what was found.
    """

    cost: npt.NDArray[np.int64]
    allowed: npt.NDArray[np.bool_]
    weight: npt.NDArray[np.float64] | None = None
    value: npt.NDArray[np.int64] | None = None
    limits: Sequence[Limit] = ()

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        cost = array("cost", self.cost, 2)
        if cost.dtype.kind not in "iuf":
            raise InvalidProblem(f"cost: expected int64 nano-dollars, found dtype {cost.dtype}")
        allowed = array("allowed", self.allowed, 2)
        if allowed.dtype != np.bool_:
            raise InvalidProblem(f"allowed: expected dtype bool, found {allowed.dtype}")
        if allowed.shape != cost.shape:
            raise InvalidProblem(f"allowed: expected shape {cost.shape} as cost has, found {allowed.shape}")
        if cost.dtype.kind == "f":
            cost = np.where(allowed, cost, 0.0)
            if not np.all(np.isfinite(cost)) or np.any(cost != np.floor(cost)):
                raise InvalidProblem("cost: expected whole nano-dollars, found NaN, infinity or a fraction")
        if cost.size and (low := cost.min(where=allowed, initial=0)) < 0:
            raise InvalidProblem(f"cost: expected >= 0 where allowed, found {low}")
        if cost.size and (high := cost.max(where=allowed, initial=0)) > MAX_COST_NUSD:
            raise InvalidProblem(f"cost: expected at most 2**53 nano-dollars, found {high}")
        set_(self, "cost", cost.astype(np.int64, copy=False))
        set_(self, "allowed", allowed)
        n, m = cost.shape
        if self.weight is not None:
            weight = array("weight", self.weight, 1, n)
            if weight.dtype.kind not in "fiu":
                raise InvalidProblem(f"weight: expected float64, found dtype {weight.dtype}")
            weight = weight.astype(np.float64, copy=False)
            if not np.all((weight > 0) & (weight <= MAX_WEIGHT)):
                raise InvalidProblem("weight: expected numbers > 0, at most 2**53, found another")
            set_(self, "weight", weight)
        if self.value is not None:
            value = array("value", self.value, 1, n)
            if value.dtype.kind not in "iu":
                raise InvalidProblem(f"value: expected int64 nano-dollars, found dtype {value.dtype}")
            if value.size and (int(value.min()) < 0 or int(value.max()) > MAX_COST_NUSD):
                raise InvalidProblem("value: expected 0 .. 2**53 nano-dollars, found another")
            set_(self, "value", value.astype(np.int64, copy=False))
        try:
            limits = tuple(self.limits)
        except TypeError as wrong:
            raise InvalidProblem(
                f"limits: expected a list of Limit, found {type(self.limits).__name__}"
            ) from wrong
        set_(self, "limits", tuple(_checked(limit, k, n, m) for k, limit in enumerate(limits)))

    @property
    def n(self) -> int:
        """Number of requests."""
        return int(self.cost.shape[0])

    @property
    def m(self) -> int:
        """Number of columns."""
        return int(self.cost.shape[1])

    @cached_property
    def first_row(self) -> npt.NDArray[np.int64]:
        """int64[len(limits) + 1]: limit k stands for rows ``first_row[k] : first_row[k + 1]``."""
        return np.concatenate([[0], np.cumsum([limit.rows for limit in self.limits])]).astype(np.int64)

    @property
    def rows(self) -> int:
        """K, the number of rows of all limits, groups counted singly."""
        return int(self.first_row[-1])

    @cached_property
    def caps(self) -> npt.NDArray[np.float64]:
        """float64[K]: the cap of every row, in row order."""
        if not self.limits:
            return np.zeros(0)
        return np.concatenate(
            [np.atleast_1d(np.asarray(limit.cap, dtype=np.float64)) for limit in self.limits]
        )

    def row_name(self, row: int) -> str:
        """The name of one row: its limit's, with the group's number where it has groups."""
        k = int(np.searchsorted(self.first_row, row, side="right")) - 1
        limit = self.limits[k]
        return limit.name if limit.group is None else f"{limit.name}[{row - int(self.first_row[k])}]"


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """An assignment with its proof.

    choice: int32[n], the column of each request or -1. reason: uint8[n], a :class:`Reason`.
    limit: int32[n], the row that kept an unserved request out, or -1. served: sum of the weights served.
    cost: nano-dollars of the served. served_bound: no plan serves more. cost_bound: no plan that serves at
    least as much costs less. gap: (cost - cost_bound) / cost, 0 when cost is 0.
    prices, served_prices: what proves the two bounds (None: zero prices).

    **The certificate.** Let P_i be the *possible* columns of i: allowed, and on no row whose usage is nowhere
    negative on an allowed pair does the pair alone break the cap (a_kij > cap_k + tolerance, see
    :func:`tolerance`). Let r_ij = c_ij + sum_k lambda_k a_kij, nu = ``prices.unserved`` >= 0, mu =
    ``served_prices.lam``; a row of infinite cap has price 0 and adds nothing. Requests with empty P_i add 0.
    By weak duality, for any prices >= 0::

        cost_bound   = nu served + sum_i min(0, min_{j in P_i} r_ij - nu w_i) - sum_k lambda_k b_k
        served_bound = sum_i max(0, w_i - min_{j in P_i} sum_k mu_k a_kij) + sum_k mu_k b_k

    **Whole requests.** Where all w_i are whole, at most F_k of weight can be served of the group of row k (usage
    nowhere negative): requests are taken by least a_kij / w_i over P_i until the cap is reached, the last in part,
    and the sum is rounded down (after adding 1e-6). So "weight served of the group <= F_k" is a row of its own: its
    prices ``prices.count`` and ``served_prices.count`` stand in the sums above as lambda_k and mu_k do, with usage
    w_i and cap F_k.

    cost_bound is raised to 0 where negative. With nu = inf the plan serves every request with a possible
    column, and the first is sum_i min_j r_ij - lambda b. served_bound is at most the weight of the requests
    with a possible column, and is rounded down (after adding 1e-6) when every weight is a whole number.

    **Objective "surplus"** maximises sum_i (v_i - c_ij) and never serves a pair with c_ij > v_i. Its bound is
    ``surplus_bound = sum_i max(0, max_{j in P_i} v_i - r_ij) + sum_k lambda_k b_k``; cost_bound = value served
    - surplus_bound (it may be negative), gap = (surplus_bound - surplus) / surplus_bound, 0 when the
    bound is 0; prices.unserved is 0, served_prices None and served_bound the weight with a possible column.

    **No plan.** If rows with a negative cap (commitments, quality floors) cannot hold, choice is -1 everywhere,
    those rows stay violated, and termination says INFEASIBLE (proven) or TIME_LIMIT (none was found).
    """

    choice: npt.NDArray[np.int32]
    reason: npt.NDArray[np.uint8]
    limit: npt.NDArray[np.int32]
    served: float
    cost: int
    served_bound: float
    cost_bound: float
    gap: float
    prices: Prices
    termination: Termination
    objective: str = "served_then_cost"
    served_prices: Prices | None = None


def tolerance(caps: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """How far above its cap the float64 usage of a row may be and still hold: |cap| 1e-9 + 1e-6."""
    size = np.abs(caps)
    size = np.where(size < BOUNDLESS, size, 0.0)
    return size * FEASIBILITY_TOLERANCE + ABSOLUTE_TOLERANCE


def _checked(limit: Limit, k: int, n: int, m: int) -> Limit:
    """The limit with its arrays checked and index arrays as intp; usage arrays are kept, never copied."""
    name = instance(f"limits[{k}]", limit, Limit).name
    where = f"limits[{k}] {name!r}"
    if not isinstance(name, str):
        raise InvalidProblem(f"{where}: name: expected a text, found {type(name).__name__}")
    caps, group = _caps(where, limit.cap), limit.group
    if group is None and caps.ndim:
        raise InvalidProblem(f"{where}: cap: expected one number without group, found shape {caps.shape}")
    if group is not None:
        group = array(f"{where}: group", group, 1, n)
        if group.dtype.kind not in "iu":
            raise InvalidProblem(f"{where}: group: expected integers, found dtype {group.dtype}")
        if caps.ndim != 1:
            raise InvalidProblem(f"{where}: cap: expected one number per group, found shape {caps.shape}")
        if group.size and (int(group.min()) < -1 or int(group.max()) >= len(caps)):
            raise InvalidProblem(f"{where}: group: expected -1 .. {len(caps) - 1}, found another")
        group = group.astype(np.int32, copy=False)
    usage = limit.usage
    if isinstance(usage, np.ndarray) and usage.ndim:
        if usage.shape not in ((n,), (n, m)):
            raise InvalidProblem(f"{where}: usage: expected shape ({n},) or ({n}, {m}), found {usage.shape}")
        if usage.dtype.kind not in "fiub":
            raise InvalidProblem(f"{where}: usage: expected real numbers, found dtype {usage.dtype}")
        if usage.dtype.kind == "f" and not np.all(np.isfinite(usage)):
            raise InvalidProblem(f"{where}: usage: expected finite numbers, found NaN or infinity")
    else:
        usage = usage.item() if isinstance(usage, np.ndarray) else usage
        if not is_number(usage):
            raise InvalidProblem(f"{where}: usage: expected a number or an array, found {usage!r}")
        if not is_finite(usage):
            raise InvalidProblem(f"{where}: usage: expected a finite number, found {usage}")
        usage = float(usage)
    models = _indices(f"{where}: models", limit.models, m)
    requests = _indices(f"{where}: requests", limit.requests, n)
    cap: Any = caps if group is not None else float(caps)
    return Limit(name, cap, models, requests, usage, group)


def _caps(where: str, given: object) -> npt.NDArray[np.float64]:
    """The caps as float64, inf = no limit."""
    found = np.asarray(given)
    if found.dtype.kind not in "iuf" and found.size:
        raise InvalidProblem(f"{where}: cap: expected a number, found {given!r}")
    caps = found.astype(np.float64)
    if np.any(np.isnan(caps) | (caps == -np.inf)):
        raise InvalidProblem(f"{where}: cap: expected numbers, found NaN or -inf")
    return caps


def _indices(where: str, given: object, size: int) -> npt.NDArray[np.intp] | None:
    if given is None:
        return None
    try:
        index = np.asarray(given)
    except ValueError as wrong:
        raise InvalidProblem(
            f"{where}: expected a list of indices, found lists of different lengths"
        ) from wrong
    if index.ndim == 1 and index.size == 0:
        return np.zeros(0, dtype=np.intp)
    if index.ndim != 1 or index.dtype.kind not in "iu":
        raise InvalidProblem(
            f"{where}: expected a list of indices, found shape {index.shape}, dtype {index.dtype}"
        )
    if int(index.min()) < 0 or int(index.max()) >= size:
        raise InvalidProblem(
            f"{where}: expected 0 .. {size - 1}, found {int(index.min())} .. {int(index.max())}"
        )
    return np.unique(index).astype(np.intp)
