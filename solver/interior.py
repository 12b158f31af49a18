"""Dual prices of a band by a primal-dual interior-point method, requests eliminated.

    min sum_i sum_o c_oi x_oi + W sum_k e_k    sum_o x_oi = 1    sum a_koi x_oi + s_k - e_k = b_k    x, s, e >= 0

with dual y_i, 0 <= lam_k <= W and z_oi = c_oi + sum_k lam_k a_koi - y_i >= 0. e makes every band feasible. One step
solves a dense system in lam only (K x K): with D = x / z and d_i = sum_o D_oi,

    (sum_i A_i (diag D_i - D_i D_i' / d_i) A_i' + diag(s / lam + e / (W - lam))) dlam = rhs.

Products follow omega_i mu instead of mu (omega_i: the size of r_i when the run starts), so every request is blurred
relative to its own cost; without it overload, where prices dwarf costs, needs three times the steps.
Method: S. Mehrotra 1992 (predictor, corrector), J. Gondzio 1996 (centrality correctors), F. Colombo and
J. Gondzio 2008; the centring weight is capped at 0.1 and both step lengths are one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .band import Band, Block
from .rows import Floats, Ints
from .schur import schur

__all__ = ["InteriorPoint", "solve_band"]

CENTRING = 0.1
CORRECTORS = 3
START = 1.0  # mu at the start of a cold run, relative to omega
LEAST_MU = 1e-13
PATIENCE = 4  # short steps in a row after which a warm run is given up
HIGH = 0.1  # prices at the start of a cold run, in V per mean use: from above, overload is reached too


@dataclass(slots=True, eq=False)
class InteriorPoint:
    """lam: float64[K]; value: of the relaxed band, V for who is not served; fractions: per entry of the options, the largest option of each request and its x; gap: relative; converged: gap and residual met."""

    lam: Floats
    value: float
    fractions: list[tuple[Ints, Floats]]
    gap: float
    steps: int
    converged: bool


@dataclass(slots=True, eq=False)
class _State:
    """Iterates of one block, all (w, b) but y, omega (b)."""

    block: Block
    cost: Floats
    omega: Floats
    x: Floats
    z: Floats
    y: Floats
    target: Floats  # rc, the right-hand side of the complementarity rows
    d: Floats
    dd: Floats
    dx: Floats
    dz: Floats
    dy: Floats


def solve_band(
    band: Band,
    tolerance: float,
    most_steps: int = 100,
    lam: Floats | None = None,
    start: float = START,
    left: Any = None,
) -> InteriorPoint:
    """Prices of the band to a relative gap (of the cost of what is served) of ``tolerance``.

    lam: prices to start from, with ``start`` saying how far they are trusted (mu / omega). left: () -> seconds left.
    """
    run = _Run(band, lam, start)
    short = 0
    before = left() if left is not None else 0.0
    for step in range(most_steps):
        run.measure()
        if run.gap <= tolerance and run.residual <= 1e-4:
            return run.result(step, True)
        if not run.mu > LEAST_MU:  # nothing left to gain, or not a number
            return run.result(step, run.gap <= 100 * tolerance)
        if left is not None:
            now = left()
            if now <= 1.2 * (before - now):  # no time for another step like the last one
                return run.result(step, False)
            before = now
        if not run.factor():
            return run.result(step, False)
        length = run.advance()
        short = short + 1 if length < 0.1 else 0
        if length < 1e-6 or (lam is not None and short >= PATIENCE):
            break
    run.measure()
    return run.result(step + 1, run.gap <= tolerance and run.residual <= 1e-4)


class _Run:
    def __init__(self, band: Band, lam: Floats | None, start: float) -> None:
        self.band, self.k = band, band.k
        size = max(1, sum(block.size for block in band.blocks))
        mean = sum(float(block.cost[block.columns < band.rows.m].sum()) for block in band.blocks)
        count = max(1, sum(int((block.columns < band.rows.m).sum()) for block in band.blocks))
        self.unit = max(mean / count, band.worth * 1e-3, 1e-12)
        self.b = band.caps / band.scale
        worth = band.worth / self.unit
        self.elastic = 20.0 * max(1.0, worth)
        self.lam = np.full(self.k, min(30.0, max(0.3, HIGH * worth)))
        if lam is not None:
            self.lam = np.where(band.users > 0, lam * band.scale / self.unit, 0.0)
        self.lam = np.clip(self.lam, 0.0, 0.5 * self.elastic)
        self.states: list[_State] = []
        used = self._begin(start)
        weight = sum(float(state.omega.sum()) for state in self.states) / size
        slack = np.maximum(self.b - used, 0.1 * np.maximum(np.abs(self.b), 1.0))
        self.lam = np.minimum(np.maximum(self.lam, start * weight / slack), 0.5 * self.elastic)
        used = self._begin(start)  # again, with prices that keep every product near its target
        self.weight = max(sum(float(state.omega.sum()) for state in self.states) / size, 1e-12)
        self.s = np.maximum(self.b - used, 0.1 * np.maximum(np.abs(self.b), 1.0))
        self.options = sum(float(state.omega.sum()) * len(state.x) for state in self.states)
        self.t = self.elastic - self.lam
        self.e = start * self.weight / self.t
        self.best_bound, self.best_lam = -np.inf, self.lam
        self.gap = self.residual = np.inf

    def _begin(self, start: float) -> Floats:
        """Iterates of every block at the current prices; returns the use of every row."""
        priced = self._prices(self.lam)
        self.states = []
        used: Any = None
        for state, part in self.band.each(lambda block: self._start(block, priced, start)):
            self.states.append(state)
            used = part if used is None else (used[0] + part[0], used[1] + part[1])
        return self._total(used)

    def _prices(self, lam: Floats) -> tuple[Floats, Floats]:
        scaled = lam / self.band.scale
        return scaled @ self.band.lift, np.append(scaled, 0.0)

    def _total(self, used: Any) -> Floats:
        return np.zeros(self.k) if used is None else self.band.total(used) / self.band.scale

    def _start(self, block: Block, priced: tuple[Floats, Floats], start: float) -> tuple[_State, Any]:
        cost = block.cost / self.unit
        r = cost + self.band.priced(block, *priced)
        least = r.min(axis=0)
        omega = np.maximum(least, 1e-3)
        y = least - start * omega
        z = r - y
        x = 1.0 / z
        x /= x.sum(axis=0)
        empty = np.zeros(0)
        state = _State(block, cost, omega, x, z, y, empty, empty, empty, empty, empty, empty)
        return state, self.band.used(block, x)

    def measure(self) -> None:
        """mu, residuals, gap; also the Schur complement and the predictor's right-hand side, in one pass."""
        parts = list(self.band.rows.passes.map(self._measure, self.states))
        k = self.k
        self.schur = np.zeros((k, k))
        self.rhs: Any = np.zeros(k)
        xz = primal = dual = served = 0.0
        used: Any = None
        rhs: Any = None
        feature = None
        cross: Any = np.zeros((k, self.band.lift.shape[1]))
        for part in parts:
            xz, primal, dual, served = xz + part[0], primal + part[1], dual + part[2], served + part[3]
            used = part[4] if used is None else (used[0] + part[4][0], used[1] + part[4][1])
            rhs = part[5] if rhs is None else (rhs[0] + part[5][0], rhs[1] + part[5][1])
            feature = part[6] if feature is None else feature + part[6]
            for at, block_cross in part[7]:
                cross[at] += block_cross
            for (row_a, row_b), value in part[8]:
                np.add.at(self.schur, (row_a, row_b), value)
        if feature is not None:
            lift = self.band.lift
            self.schur += lift @ feature @ lift.T
            mixed = cross @ lift.T
            self.schur += mixed + mixed.T
            self.schur /= self.band.scale[:, None] * self.band.scale[None, :]
        self.used = self._total(used)
        self.total_rhs = self._total(rhs)
        self.miss = self.b - self.used - self.s + self.e
        self.xz = xz + float(self.s @ self.lam) + float(self.e @ self.t)
        self.mu = self.xz / (self.options + 2 * self.weight * k)
        self.residual = float((np.abs(self.miss) / (1 + np.abs(self.b))).max(initial=0.0))
        bound = dual - float(self.lam @ self.b)
        primal += self.elastic * float(self.e.sum())
        self.primal = primal
        if bound > self.best_bound:
            self.best_bound, self.best_lam = bound, self.lam.copy()
        self.gap = (primal - self.best_bound) / max(served, 1e-12)

    def _measure(self, state: _State) -> Any:
        block, band = state.block, self.band
        xz = state.x * state.z
        state.dd = state.x / state.z
        state.d = state.dd.sum(axis=0)
        value = state.cost * state.x
        served = float(value[block.columns < band.rows.m].sum())
        dual = float((state.y + state.z.min(axis=0)).sum())
        state.target = -xz
        # rc / z = -x, so the row residual 1 - sum x and the predictor's -sum rc/z make 1 together
        push = state.dd / state.d - state.x
        feature, cross, pairs = schur(band, block, state.dd, state.d)
        return (
            float(xz.sum()),
            float(value.sum()),
            dual,
            served,
            band.used(block, state.x),
            band.used(block, push),
            feature,
            cross,
            pairs,
        )

    def factor(self) -> bool:
        """Cholesky of the Schur complement; False if it is not positive definite even when shifted."""
        from scipy.linalg import lapack

        diagonal = np.arange(self.k)
        self.schur[diagonal, diagonal] += self.s / self.lam + self.e / self.t
        shift = 1e-12
        for _ in range(6):
            shifted = self.schur.copy()
            shifted[diagonal, diagonal] *= 1 + shift
            shifted[diagonal, diagonal] += 1e-14
            self.cholesky, info = lapack.dpotrf(shifted, lower=1)
            if info == 0:
                return True
            shift *= 100
        return False

    def _direction(
        self, total: Floats, rcs: Floats, rce: Floats
    ) -> tuple[Floats, Floats, Floats, float, Any]:
        """(dlam, ds, de, largest relative decrease, sums of the products) for the targets held by the blocks."""
        from scipy.linalg import lapack

        rhs = total + rcs / self.lam - rce / self.t - self.miss
        dlam, _ = lapack.dpotrs(self.cholesky, rhs, lower=1)
        priced = self._prices(dlam)
        parts = list(
            self.band.rows.passes.map(lambda state: self._block_direction(state, priced), self.states)
        )
        ds = (rcs - self.s * dlam) / self.lam
        de = (rce + self.e * dlam) / self.t
        worst = max([part[0] for part in parts], default=0.0)
        own = [-ds / self.s, -dlam / self.lam, -de / self.e, dlam / self.t]
        worst = max(worst, *(float(ratio.max(initial=0.0)) for ratio in own))
        first = sum(part[1] for part in parts) + float(
            self.s @ dlam + self.lam @ ds + self.t @ de - self.e @ dlam
        )
        second = sum(part[2] for part in parts) + float(ds @ dlam - de @ dlam)
        return dlam, ds, de, worst, (first, second)

    def _block_direction(self, state: _State, priced: tuple[Floats, Floats]) -> tuple[float, float, float]:
        push = self.band.priced(state.block, *priced)
        rz = state.target / state.z
        state.dy = (1.0 - state.x.sum(axis=0) - rz.sum(axis=0) + (state.dd * push).sum(axis=0)) / state.d
        push -= state.dy
        state.dz = push
        state.dx = rz - state.dd * push
        low = min(float((state.dx / state.x).min(initial=0.0)), float((state.dz / state.z).min(initial=0.0)))
        first = float((state.x * state.dz).sum() + (state.z * state.dx).sum())
        return -low, first, float((state.dx * state.dz).sum())

    def _aim(self, change: Any) -> Floats:
        """Sets new targets in every block and returns A(rz + D (rp - sum rz) / d), scaled."""

        def work(state: _State) -> Any:
            change(state)
            rz = state.target / state.z
            push = rz + state.dd * ((1.0 - state.x.sum(axis=0) - rz.sum(axis=0)) / state.d)
            return self.band.used(state.block, push)

        used: Any = None
        for part in self.band.rows.passes.map(work, self.states):
            used = part if used is None else (used[0] + part[0], used[1] + part[1])
        return self._total(used)

    def advance(self) -> float:
        """One predictor-corrector step; returns its length."""
        dlam, ds, de, worst, (first, second) = self._direction(
            self.total_rhs, -self.s * self.lam, -self.e * self.t
        )
        length = 1.0 / max(1.0, worst)
        after = self.xz + length * first + length * length * second
        sigma = min(CENTRING, max((max(after, 0.0) / self.xz) ** 3, 1e-4))
        goal = sigma * self.mu

        def correct(state: _State) -> None:
            state.target = goal * state.omega - state.x * state.z - state.dx * state.dz

        total = self._aim(correct)
        rcs = goal * self.weight - self.s * self.lam - ds * dlam
        rce = goal * self.weight - self.e * self.t + de * dlam
        dlam, ds, de, worst, _ = self._direction(total, rcs, rce)
        length = 1.0 / max(1.0, worst)
        for _ in range(CORRECTORS):
            if length > 0.9:
                break
            kept = (dlam, ds, de, length, [(s.dx, s.dz, s.dy, s.target) for s in self.states])
            reach = min(1.0, 1.4 * length + 0.15)
            total = self._aim(lambda state: self._centre(state, goal, reach))  # noqa: B023
            rcs = rcs + _towards((self.s + reach * ds) * (self.lam + reach * dlam), goal * self.weight)
            rce = rce + _towards((self.e + reach * de) * (self.t - reach * dlam), goal * self.weight)
            dlam, ds, de, worst, _ = self._direction(total, rcs, rce)
            longer = 1.0 / max(1.0, worst)
            if longer < length + 0.01:
                dlam, ds, de, length, blocks = kept
                for state, (dx, dz, dy, target) in zip(self.states, blocks, strict=True):
                    state.dx, state.dz, state.dy, state.target = dx, dz, dy, target
                break
            length = longer
        step = length if length == 1.0 else 0.98 * length
        list(self.band.rows.passes.map(lambda state: _move(state, step), self.states))
        self.lam = self.lam + step * dlam
        self.t = self.elastic - self.lam
        self.s = self.s + step * ds
        self.e = self.e + step * de
        return step

    def _centre(self, state: _State, goal: float, reach: float) -> None:
        product = (state.x + reach * state.dx) * (state.z + reach * state.dz)
        state.target = state.target + _towards(product, goal * state.omega)

    def result(self, steps: int, converged: bool) -> InteriorPoint:
        """What was reached, in the units of the problem."""
        fractions = []
        at = 0
        for size in self.band.sizes:
            states = self.states[at : at + size]
            at += size
            top = np.concatenate([state.x.argmax(axis=0) for state in states])
            fractions.append((top, np.concatenate([state.x.max(axis=0) for state in states])))
        return InteriorPoint(
            self.best_lam * self.unit / self.band.scale,
            self.primal * self.unit,
            fractions,
            self.gap,
            steps,
            converged,
        )


def _towards(product: Floats, goal: Any) -> Floats:
    """What moves products that would fall outside [0.1, 10] goal back to its edge, never by more than 10 goal."""
    low, high = 0.1 * goal, 10.0 * goal
    return np.where(
        product < low, low - product, np.where(product > high, np.maximum(high - product, -high), 0.0)
    )


def _move(state: _State, step: float) -> None:
    state.x = state.x + step * state.dx
    state.z = state.z + step * state.dz
    state.y = state.y + step * state.dy
