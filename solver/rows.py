"""A problem compiled for fast passes: which pairs are possible, which rows can bind, usage by family.

Rows that share a usage array are one *family*, so that a pass costs one multiplication per array and not
one per row. For a family with usage u and 0/1 cover matrix C (rows of the family x columns)::

    sum_k lambda_k a_kij = u_ij (lambda C)_j          load_k = sum_j C_kj sum_{i: choice_i = j} u_ij

and for a family with groups lambda is indexed by the group of i. Rows that no assignment can break
(infinite caps, caps above the largest possible use) are *inactive*: their price is 0 and no pass reads them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .passes import Passes
from .problem import Limit, Problem, tolerance

if TYPE_CHECKING:
    from .spread import Spread

__all__ = ["NEVER", "Family", "Floats", "Ints", "Rows", "compile_rows"]

# The price of a pair that is not possible: finite, so that a zero price times it is 0 and not NaN.
NEVER = np.float32(1e30)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(slots=True, eq=False)
class Family:
    """Rows with one usage array u and one set of requests.

    usage: 1.0, array[n] or array[n, m]. is_cost: the usage is the cost itself. inside: bool[n] or None = all.
    group: int32[n] or None. slots: the active row of each family row, or of each group (-1 = inactive).
    cover: float64[R, m], how often row r counts column j (R = 1 with groups).
    """

    usage: Any
    is_cost: bool
    inside: npt.NDArray[np.bool_] | None
    group: npt.NDArray[np.int32] | None
    slots: Ints
    cover: Floats
    gives: bool  # some usage is negative
    by_column: tuple[Ints, Ints, Floats]  # start of column j in (slot, coefficient); length m + 1

    def values(self, i: Any, j: Any) -> Any:
        """float64: the usage of pairs (i, j), coefficients left out."""
        if not isinstance(self.usage, np.ndarray):
            return np.ones(len(i))
        return (
            self.usage[i].astype(np.float64) if self.usage.ndim == 1 else self.usage[i, j].astype(np.float64)
        )


@dataclass(slots=True, eq=False)
class Rows:
    """A compiled problem. K counts active rows only; ``active`` maps them to rows of the problem."""

    problem: Problem
    passes: Passes
    possible: npt.NDArray[np.bool_]  # bool[n, m]
    cost: npt.NDArray[np.float32]  # float32[n, m], NEVER where not possible
    weight: Floats  # float64[n]
    alive: npt.NDArray[np.bool_]  # bool[n]: has a possible column
    provable: npt.NDArray[
        np.bool_
    ]  # bool[n, m]: allowed and fits alone, whatever it costs; bounds range over these
    option: npt.NDArray[np.bool_]  # bool[n]: has a provable column
    active: Ints  # int64[K]
    caps: Floats  # float64[K]
    families: list[Family]
    spread: Spread | None = None  # who makes the dense passes elsewhere; None = they are made here

    @property
    def n(self) -> int:
        """Number of requests."""
        return self.problem.n

    @property
    def m(self) -> int:
        """Number of columns."""
        return self.problem.m

    @property
    def k(self) -> int:
        """Number of active rows."""
        return len(self.caps)

    @property
    def room(self) -> Floats:
        """float64[K]: caps with half the tolerance, so that sums in another order still hold."""
        return self.caps + 0.5 * tolerance(self.caps)

    def reduced(self, lam: Floats, lo: int, hi: int, dtype: Any = np.float32, costs: bool = True) -> Any:
        """dtype[hi - lo, m]: r_ij = c_ij + sum_k lam_k a_kij (without c if not ``costs``), NEVER elsewhere.

        float32 ranges over the possible pairs and steers; float64 ranges over the provable ones and proves.
        """
        return self.reduced_at(slice(lo, hi), lam, dtype, costs)

    def reduced_at(self, at: Any, lam: Floats, dtype: Any = np.float32, costs: bool = True) -> Any:
        """The same for the requests ``at``, a slice or an index array."""
        possible = self.provable[at] if dtype == np.float64 else self.possible[at]
        if not costs:
            r: Any = np.zeros(possible.shape, dtype)
        elif dtype == np.float32:
            r = self.cost[at].copy() if isinstance(at, slice) else self.cost[at]
        else:
            r = self.problem.cost[at].astype(np.float64)
        for family in self.families:
            self._add_family(r, family, lam, at)
        if dtype != np.float32 or not costs:
            np.copyto(r, NEVER, where=~possible)
        return r

    def _add_family(self, r: Any, family: Family, lam: Floats, at: Any) -> None:
        dtype = r.dtype
        by_slot = np.append(np.where(family.slots >= 0, lam[family.slots], 0.0), 0.0)
        if not by_slot.any():
            return
        row: Any = None
        if family.group is None:
            price = (by_slot[:-1] @ family.cover).astype(dtype)
        else:
            price = family.cover[0].astype(dtype)
            row = by_slot[family.group[at]].astype(dtype)
        if family.inside is not None:
            row = family.inside[at].astype(dtype) if row is None else row * family.inside[at]
        usage = family.usage
        if not isinstance(usage, np.ndarray):
            r += price if row is None else row[:, None] * price
            return
        if usage.ndim == 1:
            u = usage[at].astype(dtype)
            r += (u if row is None else u * row)[:, None] * price
            return
        steering = family.is_cost and dtype == np.float32
        u = self.cost[at] if steering else usage[at].astype(dtype, copy=False)
        term = u * price
        if row is not None:
            term *= row[:, None]
        r += term

    def pairs(self, i: Ints, j: Ints) -> tuple[Ints, Ints, Floats]:
        """Usage of pairs (i[p], j[p]) as triples (p, active row, usage), zeros left out."""
        parts = []
        for family in self.families:
            keep = np.arange(len(i)) if family.inside is None else np.flatnonzero(family.inside[i])
            fi, fj = i[keep], j[keep]
            u = family.values(fi, fj)
            if family.group is None:
                start, slot, coefficient = family.by_column
                count = start[fj + 1] - start[fj]
                p = np.repeat(np.arange(len(keep)), count)
                ends = np.cumsum(count)
                at = np.arange(len(p)) - np.repeat(ends - count, count) + np.repeat(start[fj], count)
                k, a = slot[at], u[p] * coefficient[at]
            else:
                g = family.group[fi]
                p = np.flatnonzero((g >= 0) & (family.cover[0][fj] != 0))
                k = family.slots[g[p]]
                a = u[p] * family.cover[0][fj[p]]
            ok = (k >= 0) & (a != 0)
            parts.append((keep[p[ok]], k[ok], a[ok]))
        if not parts:
            return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
        p, k, a = (np.concatenate([part[t] for part in parts]) for t in range(3))
        return p, k, a

    def load(
        self,
        choice: npt.NDArray[np.integer[Any]],
        among: Ints | None = None,
        times: Floats | None = None,
    ) -> Floats:
        """float64[K]: use of every active row by an assignment (of the requests ``among`` only).

        times: float64[n], how many requests each stands for; None = one.
        """
        i = np.flatnonzero(choice >= 0) if among is None else among[choice[among] >= 0]
        total = np.zeros(self.k)
        j = choice[i].astype(np.int64)
        for family in self.families:
            keep = slice(None) if family.inside is None else family.inside[i]
            fi, fj = i[keep], j[keep]
            u = family.values(fi, fj)
            if times is not None:
                u = u * times[fi]
            if family.group is None:
                rows: Any = family.cover @ np.bincount(fj, weights=u, minlength=self.m)
            else:
                g = family.group[fi]
                u = u * family.cover[0][fj]
                rows = np.bincount(g[g >= 0], weights=u[g >= 0], minlength=len(family.slots))
            on: Any = family.slots >= 0
            total[family.slots[on]] += rows[on]
        return total

    def feasible(self, choice: npt.NDArray[np.integer[Any]]) -> bool:
        """Whether every active row holds."""
        return bool(np.all(self.load(choice) <= self.room))

    def value(self, choice: npt.NDArray[np.integer[Any]]) -> tuple[float, int]:
        """(weight served, cost in nano-dollars) of an assignment."""
        i = np.flatnonzero(choice >= 0)
        return float(self.weight[i].sum()), int(self.problem.cost[i, choice[i]].sum())


def compile_rows(problem: Problem, passes: Passes, surplus: bool = False) -> Rows:
    """Compile: single-fit filter, families, activity. With ``surplus`` pairs above their value go too."""
    n, m = problem.n, problem.m
    possible = problem.allowed.copy()
    members = _members(problem)
    for usage, inside, limits in members:
        _drop_too_large(problem, possible, usage, inside, limits)
    provable = possible
    if surplus and problem.value is not None:
        possible = possible & (problem.cost <= problem.value[:, None])
    families: list[Family] = []
    active: list[int] = []
    caps: list[Floats] = []
    for usage, inside, limits in members:
        family, rows = _family(problem, possible, usage, inside, limits, len(active), passes)
        if len(rows):
            families.append(family)
            active.extend(rows.tolist())
            caps.append(problem.caps[rows])
    cost = np.empty((n, m), np.float32)

    def fill(lo: int, hi: int) -> None:
        cost[lo:hi] = problem.cost[lo:hi]
        np.copyto(cost[lo:hi], NEVER, where=~possible[lo:hi])

    list(passes.over(n, m, fill))
    weight = np.ones(n) if problem.weight is None else problem.weight
    return Rows(
        problem,
        passes,
        possible,
        cost,
        weight,
        np.asarray(possible.any(axis=1)),
        provable,
        np.asarray(provable.any(axis=1)),
        np.array(active, dtype=np.int64),
        np.concatenate(caps) if caps else np.zeros(0),
        families,
    )


Members = list[tuple[Any, "npt.NDArray[np.bool_] | None", list[tuple[int, Limit]]]]


def _members(problem: Problem) -> Members:
    """Limits by (usage array, requests, group): one entry per family, in order of first appearance."""
    found: dict[Any, Any] = {}
    for k, limit in enumerate(problem.limits):
        requests = None if limit.requests is None else np.asarray(limit.requests)
        usage = id(limit.usage) if isinstance(limit.usage, np.ndarray) else None
        key = (usage, None if requests is None else requests.tobytes(), None if limit.group is None else k)
        if key not in found:
            inside = None
            if requests is not None:
                inside = np.zeros(problem.n, bool)
                inside[requests] = True
            found[key] = (limit.usage if usage is not None else 1.0, inside, [])
        found[key][2].append((k, limit))
    return list(found.values())


def _cover(limit: Limit, m: int) -> Floats:
    cover = np.zeros(m)
    cover[slice(None) if limit.models is None else np.asarray(limit.models)] = 1.0
    return cover if isinstance(limit.usage, np.ndarray) else cover * limit.usage


def _drop_too_large(
    problem: Problem,
    possible: npt.NDArray[np.bool_],
    usage: Any,
    inside: npt.NDArray[np.bool_] | None,
    limits: list[tuple[int, Limit]],
) -> None:
    """possible &= the pair alone fits every row of the family whose usage is nowhere negative."""
    n, m = possible.shape
    for k, limit in limits:
        cover = _cover(limit, m)
        columns = np.flatnonzero(cover)
        rows = slice(int(problem.first_row[k]), int(problem.first_row[k + 1]))
        most = problem.caps[rows] + tolerance(problem.caps[rows])
        if not len(columns) or not n:
            continue
        if not isinstance(usage, np.ndarray):
            value: Any = np.full(1, cover[columns[0]])
        elif usage.ndim == 1:
            value = usage
        else:
            value = usage[:, columns] if len(columns) < m else usage
        low, high = value.min(), value.max()
        if low >= 0 and high <= most.min(initial=np.inf):
            continue
        spread = value if value.ndim == 2 else np.broadcast_to(value.reshape(-1, 1), (n, len(columns)))
        on = problem.allowed[:, columns]
        if inside is not None:
            on = on & inside[:, None]
        g = np.zeros(n, np.int64) if limit.group is None else limit.group.astype(np.int64)
        if limit.group is not None:
            on = on & (g >= 0)[:, None]
        if low < 0:
            negative = ((spread < 0) & on).any(axis=1)
            mixed = np.zeros(len(most), bool)
            mixed[g[negative]] = True
            most = np.where(mixed, np.inf, most)
        drop = on & (spread > most[g][:, None])
        if drop.any():
            possible[:, columns] &= ~drop


def _family(
    problem: Problem,
    possible: npt.NDArray[np.bool_],
    usage: Any,
    inside: npt.NDArray[np.bool_] | None,
    limits: list[tuple[int, Limit]],
    first: int,
    passes: Passes,
) -> tuple[Family, Ints]:
    """The family with its active rows numbered from ``first``, and those rows' numbers in the problem."""
    m = possible.shape[1]
    cover = np.array([_cover(limit, m) for _, limit in limits])
    group = limits[0][1].group
    if group is None:
        rows = np.array([problem.first_row[k] for k, _ in limits], dtype=np.int64)
    else:
        rows = np.arange(problem.first_row[limits[0][0]], problem.first_row[limits[0][0] + 1])
    high = _most_use(possible, usage, inside, group, cover, len(rows), passes)
    caps = problem.caps[rows]
    binds = np.isfinite(caps) & (high > caps)
    slots = np.where(binds, first + np.cumsum(binds) - 1, -1)
    start, slot, coefficient = np.zeros(m + 1, np.int64), np.zeros(0, np.int64), np.zeros(0)
    if group is None:
        columns, members = np.nonzero((cover != 0).T & binds[None, :])
        start[1:] = np.cumsum(np.bincount(columns, minlength=m))
        slot, coefficient = slots[members], cover[members, columns]
    is_cost = usage is problem.cost
    lowest = float(usage.min(initial=0)) if isinstance(usage, np.ndarray) else float(cover.min(initial=0))
    family = Family(usage, is_cost, inside, group, slots, cover, lowest < 0, (start, slot, coefficient))
    return family, rows[binds]


def _most_use(
    possible: npt.NDArray[np.bool_],
    usage: Any,
    inside: npt.NDArray[np.bool_] | None,
    group: npt.NDArray[np.int32] | None,
    cover: Floats,
    rows: int,
    passes: Passes,
) -> Floats:
    """float64[rows]: an upper bound of the use of each row by any assignment."""
    n, m = possible.shape
    sign = np.sign(cover)

    def work(lo: int, hi: int) -> tuple[Any, Any]:
        on = possible[lo:hi] if inside is None else possible[lo:hi] & inside[lo:hi, None]
        if not isinstance(usage, np.ndarray):
            u: Any = on.astype(np.float64)
        else:
            u = (usage[lo:hi, None] if usage.ndim == 1 else usage[lo:hi]) * on
        if group is None:
            return np.maximum(u, 0).sum(axis=0, dtype=np.float64), np.maximum(-u, 0).sum(
                axis=0, dtype=np.float64
            )
        best = np.maximum((u * cover[0]).max(axis=1, initial=0), 0)
        g = group[lo:hi]
        return np.bincount(g[g >= 0], weights=best[g >= 0], minlength=rows), 0.0

    plus: Any = 0.0
    minus: Any = 0.0
    for up, down in passes.over(n, m, work):
        plus, minus = plus + up, minus + down
    if group is not None:
        return np.asarray(plus) + np.zeros(rows)
    plus, minus = plus + np.zeros(m), minus + np.zeros(m)
    # an upper bound must not be lost to rounding: sums of n terms agree to n machine epsilons
    return np.asarray((cover * (sign > 0)) @ plus + (-cover * (sign < 0)) @ minus) * (1 + 1e-9)
