"""The state of one run: the deadline, the best plan so far and the best prices so far."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from . import prices
from .counts import Counts, counted, paid
from .rows import Floats, Ints, Rows

Choice = npt.NDArray[np.int32]

__all__ = ["Choice", "Deadline", "Search"]

SHUT = 0.2  # share of V that a row's price alone comes to where it decides who is served
KNOWN = 4  # price vectors kept: which proves most depends on how much is served


class Deadline:
    """Wall-clock time left, and how long each stage took."""

    def __init__(self, seconds: float) -> None:
        self._start = self._mark = time.monotonic()
        self._seconds = seconds
        self.stages: dict[str, float] = {}

    def reserve(self, seconds: float) -> None:
        """Keeps time back, at most a third of all, for writing the plan."""
        self._seconds -= min(seconds, self._seconds / 3)

    @property
    def left(self) -> float:
        """Seconds left, never below 0."""
        return max(0.0, self._start + self._seconds - time.monotonic())

    def stage(self, name: str) -> None:
        """Books the time since the last call under a name."""
        now = time.monotonic()
        self.stages[name] = self.stages.get(name, 0.0) + now - self._mark
        self._mark = now


@dataclass(slots=True, eq=False)
class Search:
    """Best plan and best prices of a run; both only ever improve.

    worth: float64[n], V_i: a constant times the weight (served_then_cost) or the value (surplus).
    """

    rows: Rows
    deadline: Deadline
    surplus: bool
    gap: float
    seed: int
    worth: Floats
    choice: Choice
    found: bool = False
    score: tuple[float, float] = (-np.inf, -np.inf)
    lam: Floats = field(default_factory=lambda: np.zeros(0))
    kappa: Floats = field(default_factory=lambda: np.zeros(0))
    steer: Floats = field(default_factory=lambda: np.zeros(0))  # the last prices of V, to choose columns by
    known: list[tuple[Floats, Floats]] = field(default_factory=list)
    counts: list[Counts] = field(default_factory=list)
    sought: npt.NDArray[np.bool_] = field(
        default_factory=lambda: np.zeros(0, bool)
    )  # not left out by a group
    stale: bool = True
    nu: float = float("inf")
    bound: float = -np.inf
    mu: Floats = field(default_factory=lambda: np.zeros(0))
    mu_count: Floats = field(default_factory=lambda: np.zeros(0))
    served_bound: float = np.inf
    optimal: bool = False
    infeasible: bool = False

    def offer(self, choice: Choice | None) -> bool:
        """Takes a plan if every row holds and it is better; says whether it did."""
        if choice is None or not self.rows.feasible(choice):
            return False
        score = self.score_of(choice)
        if self.found and score <= self.score:
            return False
        self._take(choice.copy(), score)
        return True

    def _take(self, choice: Choice, score: tuple[float, float]) -> None:
        self.stale |= score[0] != self.score[0]  # the bound held for another weight served
        self.choice, self.score, self.found = choice, score, True

    def change(self, who: Ints, columns: Choice) -> bool:
        """Takes other columns for the requests ``who`` if that makes a better plan; says whether it did."""
        old = self.choice[who]
        before, after = (self._worth_of(who, j) for j in (old, columns))
        if after <= before:
            return False
        plan = self.choice.copy()
        plan[who] = columns
        if not self.rows.feasible(plan):
            return False
        self._take(plan, (self.score[0] + after[0] - before[0], self.score[1] + after[1] - before[1]))
        return True

    def _worth_of(self, i: Ints, j: Choice) -> tuple[float, float]:
        """(weight served, -cost), or (surplus, 0), of the requests i in the columns j."""
        i, j = i[j >= 0], j[j >= 0]
        cost = int(self.rows.problem.cost[i, j].sum())
        if not self.surplus:
            return float(self.rows.weight[i].sum()), -float(cost)
        return float(int(self.rows.problem.value[i].sum()) - cost), 0.0  # type: ignore[index]

    def score_of(self, choice: Choice) -> tuple[float, float]:
        """(weight served, -cost), or (surplus, 0): larger is better."""
        served, cost = self.rows.value(choice)
        if not self.surplus:
            return served, -float(cost)
        on = choice >= 0
        return float(int(self.rows.problem.value[on].sum()) - cost), 0.0  # type: ignore[index]

    def price(self, lam: Floats) -> Floats:
        """Takes prices if they prove more for the plan at hand; returns the least reduced costs at them."""
        lam = np.maximum(lam, 0.0)
        least = prices.cheapest(self.rows, lam)
        self.known = [*self.known[-KNOWN + 1 :], (lam, least)]
        self.stale = True
        return least

    def refresh(self) -> None:
        """The prices that prove most for the weight served now."""
        if not self.stale:
            return
        self.stale, self.bound = False, -np.inf
        for lam, least in self.known:
            for kappa, nu, bound in self._bounds(lam, least):
                if bound > self.bound:
                    self.lam, self.kappa, self.nu, self.bound = lam, kappa, nu, bound

    def believe(self, lam: Floats) -> float:
        """Takes prices of V, for the cost; :meth:`believe_served` for what can be served.

        Returns the bound of V times what is not served plus cost, of the requests sought for.
        """
        rows = self.rows
        least = self.price(lam)
        self.steer = np.maximum(lam, 0.0)
        on = rows.option & self.sought
        return float(np.minimum(least[on], self.worth[on]).sum()) - float(lam @ rows.caps)

    def believe_served(self, lam: Floats, worth: Floats) -> None:
        """Prices of the V ``worth``, for what can be served: divided by V per weight, with and without small ones."""
        least = prices.cheapest(self.rows, lam)
        shut, any_out = self._shutting(lam, worth, least)
        if any_out:
            mu = lam / float(worth.sum() / self.rows.weight.sum())
            self.price_served(mu)
            self.price_served(np.where(shut, mu, 0.0))

    def _shutting(self, lam: Floats, worth: Floats, least: Floats) -> tuple[npt.NDArray[np.bool_], bool]:
        """bool[K]: rows that make a good part of what serving requests would cost that are not worth it; any such?

        The others tell costs apart, not who is served; without them the bound of what can be served is often better.
        """
        out = np.flatnonzero(self.sought & self.rows.option & (least > worth))
        best = self.rows.reduced_at(out, lam).argmin(axis=1)
        p, k, a = self.rows.pairs(out, best)
        shut = np.zeros(self.rows.k, bool)
        shut[k[lam[k] * a >= SHUT * worth[out[p]]]] = True
        return shut, len(out) > 0

    def _bounds(self, lam: Floats, least: Floats) -> Iterator[tuple[Floats, float, float]]:
        """(kappa, nu, bound) at prices lam, for one or two prices nu of what is left out."""
        rows, weight = self.rows, self.rows.weight
        whole, kappa = float(lam @ rows.caps), np.zeros(rows.k)
        if self.surplus:
            value = rows.problem.value
            assert value is not None
            yield kappa, 0.0, -prices.surplus_bound(rows, whole, least, value)
            return
        served = max(self.score[0], 0.0)
        nu = prices.best_unserved(rows, least, served)
        if not self.counts or np.isinf(nu):
            yield kappa, nu, prices.cost_bound(rows, whole, least, nu, served)
            return
        nu = max(nu, float((self.worth / weight).max()))
        for _ in range(2):
            kappa = sum((each.kappa(weight, least, nu) for each in self.counts), np.zeros(rows.k))
            dearer = least + counted(self.counts, kappa, weight)
            nu = prices.best_unserved(rows, dearer, served)
            yield kappa, nu, prices.cost_bound(rows, whole + paid(self.counts, kappa), dearer, nu, served)

    def price_served(self, mu: Floats) -> None:
        """Takes prices of use alone (units of weight) if they prove that less can be served.

        Groups that cannot be served whole are counted instead where that proves more.
        """
        mu, count = np.maximum(mu, 0.0), np.zeros(self.rows.k)
        use = prices.cheapest(self.rows, mu, costs=False)
        for each in self.counts:
            on = each.row >= 0
            kept = np.maximum(0.0, self.rows.weight - use)[on]
            better = each.most < np.bincount(each.row[on], kept, minlength=self.rows.k) + mu * self.rows.caps
            mu, count = np.where(better, 0.0, mu), np.where(better, 1.0, count)
        if count.any():
            use = prices.cheapest(self.rows, mu, costs=False) + counted(self.counts, count, self.rows.weight)
        bound = prices.served_bound(self.rows, float(mu @ self.rows.caps) + paid(self.counts, count), use)
        if bound < self.served_bound:
            self.mu, self.mu_count, self.served_bound = mu, count, bound

    @property
    def proven_gap(self) -> float:
        """Gap of cost, or of surplus, inf before there is a plan and a bound."""
        self.refresh()
        if not self.found or self.bound == -np.inf:
            return float("inf")
        if self.surplus:
            most = -self.bound
            return 0.0 if most <= 0 else max(0.0, (most - self.score[0]) / most)
        cost = -self.score[1]
        return 0.0 if cost <= 0 else max(0.0, (cost - max(self.bound, 0.0)) / cost)

    @property
    def done(self) -> bool:
        """The gap asked for is proven, for what is served and for what it costs."""
        if self.optimal or self.infeasible:
            return True
        full = self.surplus or self.score[0] >= self.served_bound * (1 - min(self.gap, 1e-9))
        return full and self.proven_gap <= self.gap
