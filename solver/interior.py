"""Dual prices of a band by a primal-dual interior-point method, requests eliminated.

    min sum_i sum_o c_oi x_oi + W sum_k e_k    sum_o x_oi = w_i    sum a_koi x_oi + s_k - e_k = b_k    x, s, e >= 0

with dual y_i, 0 <= lam_k <= W and z_oi = c_oi + sum_k lam_k a_koi - y_i >= 0. e makes every band feasible; w_i is how
many requests i stands for. One step solves a dense system in lam only (K x K): with D = x / z and d_i = sum_o D_oi,

    (sum_i A_i (diag D_i - D_i D_i' / d_i) A_i' + diag(s / lam + e / (W - lam))) dlam = rhs.

Products follow omega_i mu instead of mu (omega_i: the size of w_i r_i when the run starts), so every request is
blurred relative to its own cost. A run starts from centred points at balanced prices (:mod:`solver.central`), and
while the gap is large the few requests that would block a step are centred again on their own instead.
Method: S. Mehrotra 1992 (predictor, corrector), J. Gondzio 1996 (centrality correctors), F. Colombo and
J. Gondzio 2008; the centring weight is capped at 0.1 and both step lengths are one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .band import Band
from .central import BLUR, TURNS, State, balanced
from .rows import Floats, Ints
from .schur import schur

__all__ = ["InteriorPoint", "balanced_prices", "solve_band"]

CENTRING, LEAST_CENTRING = 0.1, 1e-2
CORRECTORS = 3
START = 0.1  # mu at the start, relative to omega
ROUGH_PRICE = 0.3  # prices before they are balanced, in mean costs per mean use
LEAST_MU = 1e-13
MOST_STEPS = 100
BLOCKING = 0.005  # share of the requests that may be centred again instead of shortening a step
SETTLED = 0.03  # gap below which none are: the rows would not close
HARM = 0.05  # residual that such requests may not cause


@dataclass(slots=True, eq=False)
class InteriorPoint:
    """Prices and the relaxed choice of a band.

    lam: float64[K]. value: of the relaxed band, V for who is not served. fractions: per entry of the options, the
    largest option of each request and its share. gap: relative to the cost of what is served. residual: of the rows,
    relative. converged: gap and residual met.
    """

    lam: Floats
    value: float
    fractions: list[tuple[Ints, Floats]]
    gap: float
    residual: float
    steps: int
    converged: bool


def solve_band(
    band: Band,
    tolerance: float,
    lam: Floats | None = None,
    start: float = START,
    turns: int = TURNS,
    patience: int = MOST_STEPS,
    left: Any = None,
) -> InteriorPoint:
    """Prices of the band to a relative gap (of the cost of what is served) of ``tolerance``.

    lam: prices to start from; start: mu / omega there; turns: rounds of balancing before. patience: short steps in a
    row after which the run is given up. left: () -> seconds left.
    """
    run = _Run(band, lam, start, turns)
    short = 0
    before = left() if left is not None else 0.0
    for step in range(MOST_STEPS):
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
        if length < 1e-6 or short >= patience:
            break
    run.measure()
    return run.result(step + 1, run.gap <= tolerance and run.residual <= 1e-4)


def balanced_prices(band: Band) -> Floats:
    """float64[K]: prices at which no row is asked for much more than its cap, and none has a price for nothing."""
    run = _Run.__new__(_Run)
    run.scale(band, None, TURNS, BLUR)
    return run.lam * run.unit / band.scale


@dataclass(slots=True)
class _Step:
    """Directions of the rows' variables, the longest step, and what products change by: length first + length^2 second."""

    dlam: Floats
    ds: Floats
    de: Floats
    length: float
    first: float
    second: float


class _Run:
    def scale(self, band: Band, lam: Floats | None, turns: int, blur: float) -> Any:
        self.band, self.k = band, band.k
        size = max(1, sum(block.size for block in band.blocks))
        mean = sum(float(block.cost[block.columns < band.rows.m].sum()) for block in band.blocks)
        count = max(1, sum(int((block.columns < band.rows.m).sum()) for block in band.blocks))
        self.unit = max(mean / count, band.worth * 1e-3, 1e-12)
        self.b = band.caps / band.scale
        self.elastic = 20.0 * max(1.0, band.worth / self.unit)
        costs = [block.cost / self.unit for block in band.blocks]
        first = np.full(self.k, ROUGH_PRICE) if lam is None else lam * band.scale / self.unit
        self.lam = np.where(band.users > 0, np.clip(first, 0.0, 0.5 * self.elastic), 0.0)
        self.lam = np.minimum(balanced(band, costs, self.lam, self.b, turns, blur), 0.5 * self.elastic)
        return costs, size

    def __init__(self, band: Band, lam: Floats | None, start: float, turns: int) -> None:
        costs, size = self.scale(band, lam, turns, BLUR if lam is None else start)
        used = self._begin(costs, start)
        self.weight = max(sum(float(state.omega.sum()) for state in self.states) / size, 1e-12)
        mu = start * self.weight
        slack = np.maximum(self.b - used, 0.1 * np.maximum(np.maximum(self.b, used), 1.0))
        self.lam = np.minimum(np.maximum(self.lam, mu / slack), 0.5 * self.elastic)
        used = self._begin(costs, start)  # again, with prices that keep every product near its target
        self.s = np.maximum(self.b - used, mu / self.lam)
        self.options = sum(float(state.omega.sum()) * len(state.x) for state in self.states)
        self.t = self.elastic - self.lam
        self.e = mu / self.t
        self.best_bound, self.best_lam = -np.inf, self.lam
        self.gap = self.apart = self.residual = np.inf
        self.whole = False

    def _begin(self, costs: list[Floats], start: float) -> Floats:
        """Iterates of every block at the current prices; returns the use of every row."""
        priced = self._prices(self.lam)

        def work(at: int) -> Any:
            block = self.band.blocks[at]
            state = State.at(block, costs[at], self.band.priced(block, *priced), start)
            return state, self.band.used(block, state.x)

        both = list(self.band.rows.passes.map(work, list(range(len(costs)))))
        self.states = [state for state, _ in both]
        return self._total(self.band.summed(part for _, part in both))

    def _prices(self, lam: Floats) -> tuple[Floats, Floats]:
        scaled = lam / self.band.scale
        return scaled @ self.band.lift, np.append(scaled, 0.0)

    def _total(self, used: tuple[Floats, Floats]) -> Floats:
        return self.band.total(used) / self.band.scale

    def measure(self) -> None:
        """mu, residuals, gap; also the Schur complement and the predictor's right-hand side, in one pass."""
        parts = list(self.band.rows.passes.map(self._measure, self.states))
        k = self.k
        self.schur = np.zeros((k, k))
        self.rhs: Any = np.zeros(k)
        xz = primal = dual = served = 0.0
        feature = None
        cross: Any = np.zeros((k, self.band.lift.shape[1]))
        for part in parts:
            xz, primal, dual, served = xz + part[0], primal + part[1], dual + part[2], served + part[3]
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
        self.used = self._total(self.band.summed(part[4] for part in parts))
        self.total_rhs = self._total(self.band.summed(part[5] for part in parts))
        self.miss = self.b - self.used - self.s + self.e
        self.xz = xz + float(self.s @ self.lam) + float(self.e @ self.t)
        self.mu = self.xz / (self.options + 2 * self.weight * k)
        before = self.residual
        self.residual = float((np.abs(self.miss) / (1 + np.abs(self.b))).max(initial=0.0))
        bound = dual - float(self.lam @ self.b)
        # rows that do not close yet are paid for at their prices, so the value is never too low
        primal += self.elastic * float(self.e.sum()) + float(self.lam @ np.abs(self.miss))
        if bound > self.best_bound:
            self.best_bound, self.best_lam = bound, self.lam.copy()
        self.apart = (primal - self.best_bound) / max(served, 1e-12)
        # rows that do not close yet are paid for at their prices, so the value is never too low
        self.primal = primal + float(self.lam @ np.abs(self.miss))
        self.gap = (self.primal - self.best_bound) / max(served, 1e-12)
        # centred again on their own, requests leave rows unclosed: that must stop where it does harm, and in the end
        self.whole = (
            self.whole or self.apart < SETTLED or (self.residual > 1.5 * before and self.residual > HARM)
        )

    def _measure(self, state: State) -> Any:
        block, band = state.block, self.band
        xz = state.x * state.z
        state.dd = state.x / state.z
        state.d = state.dd.sum(axis=0)
        value = state.cost * state.x
        served = float(value[block.columns < band.rows.m].sum())
        dual = float(block.weight @ (state.y + state.z.min(axis=0)))
        state.target = -xz
        # rc / z = -x, so the row residual w - sum x and the predictor's -sum rc/z make w together
        push = state.dd * (block.weight / state.d) - state.x
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

    def _direction(self, total: Floats, rcs: Floats, rce: Floats) -> _Step:
        """The step for the targets held by the blocks."""
        from scipy.linalg import lapack

        rhs = total + rcs / self.lam - rce / self.t - self.miss
        dlam, _ = lapack.dpotrs(self.cholesky, rhs, lower=1)
        priced = self._prices(dlam)
        parts = list(
            self.band.rows.passes.map(lambda state: self._block_direction(state, priced), self.states)
        )
        ds = (rcs - self.s * dlam) / self.lam
        de = (rce + self.e * dlam) / self.t
        own = [-ds / self.s, -dlam / self.lam, -de / self.e, dlam / self.t]
        worst = max(self._worst(), *(float(ratio.max(initial=0.0)) for ratio in own))
        first = sum(part[0] for part in parts) + float(
            self.s @ dlam + self.lam @ ds + self.t @ de - self.e @ dlam
        )
        second = sum(part[1] for part in parts) + float(ds @ dlam - de @ dlam)
        return _Step(dlam, ds, de, 1.0 / max(1.0, worst), first, second)

    def _worst(self) -> float:
        """By how many times its room the request moves that is to block the step."""
        ratios = [state.ratio for state in self.states]
        if self.whole:
            return max((float(ratio.max(initial=0.0)) for ratio in ratios), default=0.0)
        every = np.concatenate([np.zeros(1), *ratios])
        at = int(len(every) * (1 - BLOCKING))
        return float(np.partition(every, at)[at])

    def _block_direction(self, state: State, priced: tuple[Floats, Floats]) -> tuple[float, float]:
        push = self.band.priced(state.block, *priced)
        rz = state.target / state.z
        missing = state.block.weight - state.x.sum(axis=0)
        state.dy = (missing - rz.sum(axis=0) + (state.dd * push).sum(axis=0)) / state.d
        push -= state.dy
        state.dz = push
        state.dx = rz - state.dd * push
        state.ratio = -np.minimum((state.dx / state.x).min(axis=0), (state.dz / state.z).min(axis=0))
        first = float(np.vdot(state.x, state.dz) + np.vdot(state.z, state.dx))
        return first, float(np.vdot(state.dx, state.dz))

    def _aim(self, change: Callable[[State], None]) -> Floats:
        """Sets new targets in every block and returns A(rz + D (rp - sum rz) / d), scaled."""

        def work(state: State) -> Any:
            change(state)
            rz = state.target / state.z
            missing = state.block.weight - state.x.sum(axis=0)
            push = rz + state.dd * ((missing - rz.sum(axis=0)) / state.d)
            return self.band.used(state.block, push)

        return self._total(self.band.summed(self.band.rows.passes.map(work, self.states)))

    def advance(self) -> float:
        """One predictor-corrector step; returns its length."""
        step = self._direction(self.total_rhs, -self.s * self.lam, -self.e * self.t)
        after = self.xz + step.length * step.first + step.length**2 * step.second
        sigma = min(CENTRING, max((max(after, 0.0) / self.xz) ** 3, LEAST_CENTRING))
        goal = sigma * self.mu
        rough = self.mu if not self.whole else np.inf

        def correct(state: State) -> None:
            second = np.clip(state.dx * state.dz, -rough * state.omega, rough * state.omega)
            state.target = goal * state.omega - state.x * state.z - second

        total = self._aim(correct)
        rcs = goal * self.weight - self.s * self.lam - step.ds * step.dlam
        rce = goal * self.weight - self.e * self.t + step.de * step.dlam
        step = self._direction(total, rcs, rce)
        for _ in range(CORRECTORS):
            if step.length > 0.9:
                break
            kept = [(s.dx, s.dz, s.dy, s.ratio, s.target) for s in self.states]
            reach = min(1.0, 1.4 * step.length + 0.15)
            total = self._aim(lambda state: self._centre(state, goal, reach))  # noqa: B023
            rcs = rcs + _towards(
                (self.s + reach * step.ds) * (self.lam + reach * step.dlam), goal * self.weight
            )
            rce = rce + _towards(
                (self.e + reach * step.de) * (self.t - reach * step.dlam), goal * self.weight
            )
            longer = self._direction(total, rcs, rce)
            if longer.length < step.length + 0.01:
                for state, before in zip(self.states, kept, strict=True):
                    state.dx, state.dz, state.dy, state.ratio, state.target = before
                break
            step = longer
        length = step.length if step.length == 1.0 else 0.98 * step.length
        centred = (1.0 - length) * self.mu + length * goal
        list(self.band.rows.passes.map(lambda state: _move(state, length, centred), self.states))
        self.lam = self.lam + length * step.dlam
        self.t = self.elastic - self.lam
        self.s = self.s + length * step.ds
        self.e = self.e + length * step.de
        return length

    def _centre(self, state: State, goal: float, reach: float) -> None:
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
            share = [state.x.max(axis=0) / state.block.weight for state in states]
            fractions.append((top, np.concatenate(share)))
        return InteriorPoint(
            self.best_lam * self.unit / self.band.scale,
            self.primal * self.unit,
            fractions,
            self.gap,
            self.residual,
            steps,
            converged,
        )


def _towards(product: Floats, goal: Any) -> Floats:
    """What moves products that would fall outside [0.1, 10] goal back to its edge, never by more than 10 goal."""
    low, high = 0.1 * goal, 10.0 * goal
    return np.where(
        product < low, low - product, np.where(product > high, np.maximum(high - product, -high), 0.0)
    )


def _move(state: State, length: float, centred: float) -> None:
    state.x = state.x + length * state.dx
    state.z = state.z + length * state.dz
    state.y = state.y + length * state.dy
    state.recentre(centred, length)
