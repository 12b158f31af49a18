"""Prices for expected demand: the dual of the assignment, smoothed, maximised by projected Newton steps.

Each class of request i comes n_i times and is worth V_i; a dummy column of cost V_i stands for not being
served. With r_ij = c_ij + sum_k lambda_k a_kij and temperatures m_i = tau r_i* (r_i* = min(V_i, min_j r_ij))::

    F(lambda) = - sum_i n_i m_i ln(exp(-V_i / m_i) + sum_j exp(-r_ij / m_i)) - sum_k lambda_k b_k
    gradient  = sum_i n_i sum_j p_ij a_ij - b                                     p_ij the softmin weights
    - Hessian = sum_i n_i / m_i (sum_j p_ij a_ij a_ij' - (sum_j p_ij a_ij)(...)')

F is concave and tends to the dual of the linear relaxation as tau falls. Smoothing spreads near ties over their
columns, which for a sample of the demand is a virtue. Projection on lambda >= 0: D. Bertsekas, "Projected Newton
methods for optimization problems with simple constraints", SIAM J. Control and Optimization 20 (1982).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .problem import Problem

__all__ = ["SmoothDual"]

Floats = npt.NDArray[np.float64]

COLD = (0.3, 0.1, 0.03, 0.01)  # temperatures tau, relative to a request's least reduced cost
WARM = (0.03, 0.01)
COLDEST = 1e-4
STEPS = 12  # Newton steps per temperature
ROUGH, FINE = 0.05, 5e-3  # a level ends when every row is this close to its cap, as a share of it
RIDGE = 1e-6
SMALL_PRODUCT = 1 << 18  # multiplications of one product
SMALL_SYSTEM = 32
TILE = 64
SURE = 0.9999
NEAR = 0.2  # rows with price 0 and more room than this share of their cap sit a step out


@dataclass(slots=True, eq=False)
class _Family:
    """Rows with one usage array. usage: float64[n, m] (zero outside ``requests``) or [n, 1].

    cover: float64[R, m] of its active rows at ``slots``. With groups: cover float64[1, m], slot of each request
    (-1 = none active), order: requests sorted by slot, starts: where each slot begins. Without: slot is None.
    """

    usage: Floats
    cover: Floats
    slots: npt.NDArray[np.intp]
    slot: npt.NDArray[np.intp] | None = None
    order: Any = None
    starts: Any = None

    def among(self, requests: npt.NDArray[np.intp]) -> _Family:
        """The family of these requests only; groups none of them is in have no slot any more."""
        if self.slot is None:
            return _Family(self.usage[requests], self.cover, self.slots)
        slot = self.slot[requests]
        order = np.argsort(slot, kind="stable")
        order = order[slot[order] >= 0]
        slots, starts = np.unique(slot[order], return_index=True)
        return _Family(self.usage[requests], self.cover, slots, slot, order, starts)


class SmoothDual:
    """The expected demand compiled once; :meth:`solve` finds prices for it."""

    def __init__(self, problem: Problem, count: Floats, left: Floats, worth: Floats) -> None:
        """count: float[n] expected number of each request. left: float[K]. worth: float[n], V_i."""
        keep = np.flatnonzero(count > 0)
        self.count, self.worth = count[keep], worth[keep]
        self.cost = problem.cost[keep].astype(np.float64)
        self.possible = problem.allowed[keep] & (self.cost <= self.worth[:, None])
        members = self._members(problem, keep)
        for usage, cover, rows, group in members:
            self._drop_too_large(usage, cover, left[rows], group)
        self.active, self.families = self._activate(members, left)
        self.caps = left[self.active]
        self.usual, self.most = self._scales()
        self.heat = 0.0  # tau of the prices found: at it the softmin weights use every row as planned

    # -- compile ---------------------------------------------------------------------------------------------

    def _members(self, problem: Problem, keep: npt.NDArray[np.intp]) -> list[Any]:
        """(usage, cover, rows, group) per distinct usage array, requests and group."""
        found: dict[Any, list[Any]] = {}
        for number, (limit, first) in enumerate(
            zip(problem.limits, problem.first_row.tolist(), strict=False)
        ):
            array = isinstance(limit.usage, np.ndarray)
            lone = limit.group is not None or limit.requests is not None
            key = (id(limit.usage) if array else None, number if lone else None)
            cover = np.zeros(problem.m)
            cover[slice(None) if limit.models is None else np.asarray(limit.models)] = 1.0
            if not isinstance(limit.usage, np.ndarray):
                cover *= limit.usage
            if key not in found:
                usage = np.ones((len(keep), 1))
                if isinstance(limit.usage, np.ndarray):
                    usage = limit.usage[keep].astype(np.float64).reshape(len(keep), -1)
                if limit.requests is not None:
                    usage = usage * np.isin(keep, limit.requests)[:, None]
                group = None if limit.group is None else limit.group[keep].astype(np.intp)
                found[key] = [usage, [], [], group]
            found[key][1].append(cover)
            found[key][2].extend(range(first, first + limit.rows))
        return [(u, np.array(c), np.array(r, dtype=np.intp), g) for u, c, r, g in found.values()]

    def _drop_too_large(self, usage: Floats, cover: Floats, left: Floats, group: Any) -> None:
        """A pair that does not fit what is left is never used."""
        if np.any(usage < 0) or np.any(cover < 0):
            return
        if group is not None:
            room = np.where(group >= 0, left[group], np.inf) if len(left) else np.full(len(group), np.inf)
            self.possible &= usage * cover[0] <= room[:, None]
            return
        with np.errstate(divide="ignore", invalid="ignore"):
            room = np.where(cover > 0, left[:, None] / cover, np.inf).min(axis=0, initial=np.inf)
        self.possible &= usage <= room

    def _activate(self, members: list[Any], left: Floats) -> tuple[npt.NDArray[np.intp], list[_Family]]:
        """Rows the expected demand could fill, and the families cut down to them."""
        active: list[int] = []
        families = []
        for usage, cover, rows, group in members:
            use = np.maximum(usage * self.possible, 0) * self.count[:, None]
            if group is None:
                binding = np.maximum(cover, 0) @ use.sum(axis=0) > left[rows]
                binding |= left[rows] < 0
            else:
                inside = group >= 0
                most = (use * cover[0]).max(axis=1, initial=0)[inside]
                binding = np.bincount(group[inside], weights=most, minlength=len(rows)) > left[rows]
            binding &= np.isfinite(left[rows])
            number = np.flatnonzero(binding)
            if not number.size:
                continue
            slots = len(active) + np.arange(number.size)
            active += rows[number].tolist()
            if group is None:
                families.append(_Family(usage, cover[number], slots))
                continue
            slot_of = np.full(len(rows) + 1, -1, dtype=np.intp)
            slot_of[number] = slots
            slot = slot_of[group]
            order = np.argsort(slot, kind="stable")
            order = order[slot[order] >= 0]
            starts = np.searchsorted(slot[order], slots)
            families.append(_Family(usage, cover, slots, slot, order, starts))
        return np.array(active, dtype=np.intp), families

    def _scales(self) -> tuple[Floats, Floats]:
        """Per active row: a price at which it matters, and one above which it keeps out all that uses it."""
        lowest, usual = np.full(len(self.active), np.inf), np.ones(len(self.active))
        price = np.where(self.possible, self.cost, np.inf).min(axis=1, initial=np.inf)
        price = float(np.mean(price[np.isfinite(price)])) if np.isfinite(price).any() else 1.0
        for family in self.families:
            used = np.where(self.possible & (family.usage > 0), family.usage, np.nan)
            with np.errstate(divide="ignore", invalid="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)
                if family.slot is None:
                    cover = np.where(family.cover > 0, family.cover, np.nan)
                    least = np.nanmin(cover * np.nanmin(used, axis=0), axis=1)
                    mean = np.nanmean(cover * np.nanmean(used, axis=0), axis=1)
                else:
                    row = np.nanmin(np.where(family.cover[0] > 0, used * family.cover[0], np.nan), axis=1)
                    least = np.fmin.reduceat(row[family.order], family.starts)
                    mean = least
            lowest[family.slots], usual[family.slots] = least, mean
        most = 2 * float(self.worth.max(initial=0)) / np.where(lowest > 0, lowest, np.inf)
        usual = np.where(usual > 0, max(price, 1e-9) / np.where(usual > 0, usual, 1), 1.0)
        return usual, np.where(most > 0, most, np.inf)

    # -- evaluate --------------------------------------------------------------------------------------------

    def reduced(self, lam: Floats) -> Floats:
        """float64[n, m]: cost plus priced usage, inf where the pair is not possible."""
        r = self.cost.copy()
        for family in self.families:
            own = lam[family.slots]
            if not own.any():
                continue
            if family.slot is None:
                r += family.usage * (own @ family.cover)
            else:
                rate = np.where(family.slot >= 0, lam[family.slot], 0.0)
                r += family.usage * family.cover[0] * rate[:, None]
        r[~self.possible] = np.inf
        return r

    def _evaluate(self, lam: Floats, heat: Floats) -> tuple[float, Floats]:
        """(F, softmin weights p[n, m])."""
        r = self.reduced(lam)
        least = np.minimum(r.min(axis=1, initial=np.inf), self.worth)
        p = np.exp((least[:, None] - r) / heat[:, None])
        total = p.sum(axis=1) + np.exp((least - self.worth) / heat)
        p /= total[:, None]
        value = float(self.count @ (least - heat * np.log(total)) - lam @ self.caps)
        return value, p

    def _use(self, p: Floats) -> Floats:
        """float64[n, K active]: the expected use of every row by one request of each class."""
        use = np.zeros((len(p), len(self.active)))
        for family in self.families:
            amount = p * family.usage
            if family.slot is None:
                use[:, family.slots] += _times(amount, family.cover.T)
            else:
                own: Any = family.order
                use[own, family.slot[own]] += amount[own] @ family.cover[0]
        return use

    def _curvature(self, p: Floats, use: Floats, heat: Floats, near: npt.NDArray[np.intp]) -> Floats:
        """Minus the Hessian of F on the rows ``near``."""
        # A request that is sure of its column adds nothing: most of them, once the temperature is low.
        surest = np.maximum(p.max(axis=1), 1 - p.sum(axis=1))
        mixed = np.flatnonzero(surest < SURE)
        weight = (self.count / heat)[mixed]
        h = -_gram(use[np.ix_(mixed, near)] * np.sqrt(weight)[:, None])
        at = np.full(len(self.active), -1, dtype=np.intp)
        at[near] = np.arange(len(near))
        weighted = p[mixed] * weight[:, None]
        families = [family.among(mixed) for family in self.families]
        for first, left in enumerate(families):
            rows = at[left.slots]
            for right in families[first:]:
                columns = at[right.slots]
                index = np.ix_(rows[rows >= 0], columns[columns >= 0])
                if not index[0].size or not index[1].size:
                    continue
                block = _block(left, right, weighted * left.usage, right.usage)
                block = block[np.ix_(rows >= 0, columns >= 0)]
                h[index] += block
                if right is not left:
                    h[index[1].T, index[0].T] += block.T
        return h

    # -- solve -----------------------------------------------------------------------------------------------

    def solve(self, start: Floats | None, coldest: float = 0.01) -> Floats:
        """float64[K active] >= 0: prices. start: of the active rows, None = from nothing."""
        if not len(self.active) or not len(self.count):
            return np.zeros(len(self.active))
        lam = np.zeros(len(self.active)) if start is None else np.minimum(np.maximum(start, 0), self.most)
        for tau in COLD if start is None else WARM:
            lam = self._level(lam, tau, ROUGH)
        # Under overload prices are of the size of V: cool on until ties are told apart at the size of a cost.
        cheapest = np.where(self.possible, self.cost, np.inf).min(axis=1, initial=np.inf)
        cheapest = cheapest[np.isfinite(cheapest)]
        tau = min(WARM)
        while len(cheapest) and tau > COLDEST:
            least = np.minimum(self.reduced(lam).min(axis=1), self.worth)
            if tau * np.median(least) <= coldest * max(float(np.median(cheapest)), 1e-12):
                break
            tau /= 3
            lam = self._level(lam, tau, ROUGH)
        self.heat = tau
        return self._level(lam, tau, FINE)

    def _level(self, lam: Floats, tau: float, residual: float) -> Floats:
        least = np.minimum(self.reduced(lam).min(axis=1, initial=np.inf), self.worth)
        heat = tau * np.maximum(least, 1e-3 * max(float(least.mean()), 1e-9))
        scale = np.maximum(np.abs(self.caps), 1e-9)
        value, p = self._evaluate(lam, heat)
        for _ in range(STEPS):
            use = self._use(p)
            gradient = self.count @ use - self.caps
            off = np.where((lam > 0) | (gradient > 0), np.abs(gradient), 0.0) / scale
            if off.max(initial=0) <= residual:
                break
            near = np.flatnonzero((lam > 0) | (gradient > -NEAR * scale))
            h = self._curvature(p, use, heat, near)
            # Where ties are far the curvature vanishes: no price grows more than a few times in one step.
            damping = np.abs(gradient[near]) / (4 * np.maximum(lam[near], self.usual[near]))
            moved = None
            for _ in range(4):
                step = np.zeros_like(lam)
                step[near] = _bounded_step(h + np.diag(damping), gradient[near], lam[near])
                moved = self._search(lam, step, gradient, heat, value)
                if moved is not None:
                    break
                damping *= 10
            if moved is None:
                break
            lam, value, p = moved
        return lam

    def _search(
        self, lam: Floats, step: Floats, gradient: Floats, heat: Floats, value: float
    ) -> tuple[Floats, float, Floats] | None:
        """Backtrack along the projected step until F rises enough; None where it does not."""
        length = 1.0
        for _ in range(4):
            new = np.minimum(np.maximum(lam + length * step, 0.0), self.most)
            found, p = self._evaluate(new, heat)
            if found >= value + 1e-4 * float(gradient @ (new - lam)):
                return new, found, p
            length *= 0.4
        return None


def _blocks(rows: Floats, work: int) -> tuple[Floats, Floats]:
    """Blocks so small that BLAS does not wake its threads, whose waking costs more than the product."""
    n, k = rows.shape
    block = max(1, SMALL_PRODUCT // max(1, work))
    whole = n // block * block
    return rows[:whole].reshape(-1, block, k), rows[whole:]


def _gram(rows: Floats) -> Floats:
    """rows.T @ rows, tile by tile."""
    k = rows.shape[1]
    h = np.empty((k, k))
    for at in range(0, k, TILE):
        left = rows[:, at : at + TILE]
        parts, rest = _blocks(np.ascontiguousarray(left), TILE * TILE)
        for to in range(at, k, TILE):
            others, other_rest = _blocks(np.ascontiguousarray(rows[:, to : to + TILE]), TILE * TILE)
            tile = np.matmul(parts.transpose(0, 2, 1), others).sum(axis=0) + rest.T @ other_rest
            h[at : at + TILE, to : to + TILE] = tile
            h[to : to + TILE, at : at + TILE] = tile.T
    return h


def _times(rows: Floats, other: Floats) -> Floats:
    """rows @ other."""
    parts, rest = _blocks(rows, other.size)
    return np.concatenate([np.matmul(parts, other).reshape(-1, other.shape[1]), rest @ other])


def _solve(h: Floats, g: Floats) -> Floats:
    """h^-1 g for a positive definite h, by block elimination for the same reason."""
    if len(h) <= SMALL_SYSTEM:
        return np.asarray(np.linalg.solve(h, g), dtype=np.float64)
    a, b = h[:SMALL_SYSTEM, :SMALL_SYSTEM], h[:SMALL_SYSTEM, SMALL_SYSTEM:]
    both = np.linalg.solve(a, np.column_stack([b, g[:SMALL_SYSTEM]]))
    rest = _solve(h[SMALL_SYSTEM:, SMALL_SYSTEM:] - b.T @ both[:, :-1], g[SMALL_SYSTEM:] - b.T @ both[:, -1])
    return np.concatenate([both[:, -1] - both[:, :-1] @ rest, rest])


def _bounded_step(h: Floats, gradient: Floats, lam: Floats) -> Floats:
    """The step that maximises gradient.d - d'hd/2 over lam + d >= 0, by a few changes of the active set."""
    size = np.sqrt(np.maximum(np.diag(h), 1e-30))
    h = h / np.outer(size, size)
    h[np.diag_indices_from(h)] += RIDGE
    g, start = gradient / size, lam * size
    step = -start
    free = (lam > 0) | (gradient > 0)
    for _ in range(10):
        step = -start
        fixed = ~free
        inside = h[np.ix_(free, free)]
        step[free] = _solve(inside, g[free] - h[np.ix_(free, fixed)] @ step[fixed])
        below = free & (start + step < 0)
        wanted = fixed & (g - h @ step > 1e-9 * np.abs(g).max())
        if not below.any() and not wanted.any():
            break
        free = (free & ~below) | wanted
    return np.maximum(step, -start) / size


def _block(left: _Family, right: _Family, amount: Floats, usage: Floats) -> Floats:
    """sum over pairs of amount x usage times both covers: float64[rows of left, rows of right]."""
    if left.slot is None and right.slot is None:
        return np.asarray((left.cover * np.einsum("ij,ij->j", amount, usage)) @ right.cover.T)
    if left.slot is None:
        return _block(right, left, amount, usage).T
    if right.slot is None:
        product = amount[left.order] * usage[left.order] * left.cover[0]
        return np.asarray(np.add.reduceat(product, left.starts, axis=0) @ right.cover.T)
    total = np.einsum("ij,ij,j->i", amount, usage, left.cover[0] * right.cover[0])
    block = np.zeros((len(left.slots), len(right.slots)))
    both = np.flatnonzero((left.slot >= 0) & (right.slot >= 0))
    index = np.searchsorted(left.slots, left.slot[both]), np.searchsorted(right.slots, right.slot[both])
    np.add.at(block, index, total[both])
    return block
