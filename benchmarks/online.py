"""One request at a time by prices, against cheapest-first and against the optimum in hindsight.

Run ``python -m benchmarks.online`` (``--quick`` for a short one). Requests arrive by a Poisson process; limits are
fixed 60 s windows, sliding windows, or token buckets. Every policy sees the same arrivals in the same run. The
market is synthetic (``benchmarks/instances.py``). Writes ``results/online.json``, ``online.md``, ``online.png``.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.instances import market
from solver import solve
from solver.online import Prices, Router, reprice
from solver.problem import Limit, Problem

WINDOW_S = 60.0
REPRICE_S = 2.0
SAMPLE = 800  # requests the prices are computed from
RECENT = 4000  # requests seen last, from which the sample is drawn
TRUST_S = 10.0  # how many seconds of arrivals the forecast is worth
BUCKET_S = 10.0  # a token bucket holds this much of its refill
FEW = 8  # sampled requests below which a tenant's budget gets no price
BLEND = 0.5  # share of the new prices in those used
RESULTS = Path(__file__).parent / "results"
Floats = npt.NDArray[np.float64]


def part(problem: Problem, index: npt.NDArray[np.intp], share: float) -> Problem:
    """The requests ``index`` of a market, with ``share`` of its caps."""
    arrays: dict[int, Any] = {}
    limits = []
    for limit in problem.limits:
        usage = limit.usage
        if isinstance(usage, np.ndarray):
            usage = arrays.setdefault(id(limit.usage), usage[index])
        group = None if limit.group is None else limit.group[index]
        cap: Any = np.floor(np.asarray(limit.cap) * share)
        limits.append(Limit(limit.name, cap, limit.models, None, usage, group))
    return Problem(problem.cost[index], problem.allowed[index], limits=limits)


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """Requests in order of arrival, compiled for the router.

    problem: the arrivals; its caps are those of one window. at: seconds. touches: rows per column by kind 0 =
    tokens, 1 = seconds of answering, -1 = count. budget: the row of each request's tenant.
    """

    problem: Problem
    at: Floats
    cost: Floats
    amounts: Floats
    touches: list[list[tuple[int, int]]]
    budget: list[int]


def compile_stream(problem: Problem, at: Floats) -> Stream:
    """Market limits as the router wants them."""
    touches: list[list[tuple[int, int]]] = [[] for _ in range(problem.m)]
    amounts = np.zeros((problem.n, 2, problem.m))
    budget = [-1] * problem.n
    for limit, first in zip(problem.limits, problem.first_row.tolist(), strict=False):
        if limit.group is not None:
            budget = (first + limit.group).tolist()
            continue
        kind = -1
        if isinstance(limit.usage, np.ndarray):
            kind = limit.usage.ndim - 1
            amounts[:, kind, :] = limit.usage if kind else limit.usage[:, None]
        for j in np.asarray(limit.models).tolist():
            touches[j].append((first, kind))
    cost = np.where(problem.allowed, problem.cost, np.inf)
    return Stream(problem, at, cost, amounts, touches, budget)


# -- windows -------------------------------------------------------------------------------------------------


class Fixed:
    """Caps that start anew every 60 s."""

    name = "fixed window"

    def __init__(self, caps: Floats) -> None:
        self.caps = caps.tolist()
        self.left = list(self.caps)
        self.number = 0

    def advance(self, now: float) -> None:
        if int(now / WINDOW_S) != self.number:
            self.number = int(now / WINDOW_S)
            self.left[:] = self.caps

    def take(self, now: float, use: Sequence[tuple[int, float]]) -> None:
        for row, amount in use:
            self.left[row] -= amount

    def outlook(self, now: float) -> tuple[Floats, float]:
        """(what each row can take, over how many seconds)."""
        return np.array(self.left), max(WINDOW_S - now % WINDOW_S, 0.5)


class Sliding(Fixed):
    """At most the cap within any 60 s."""

    name = "sliding window"

    def __init__(self, caps: Floats) -> None:
        super().__init__(caps)
        self.used: deque[tuple[float, Sequence[tuple[int, float]]]] = deque()

    def advance(self, now: float) -> None:
        while self.used and self.used[0][0] <= now - WINDOW_S:
            for row, amount in self.used.popleft()[1]:
                self.left[row] += amount

    def take(self, now: float, use: Sequence[tuple[int, float]]) -> None:
        super().take(now, use)
        self.used.append((now, use))

    def outlook(self, now: float) -> tuple[Floats, float]:
        """The tightest of the next 15, 30 and 60 s, as a rate over 60 s."""
        left = np.array(self.left)
        freed = np.zeros((4, len(left)))
        for at, use in self.used:
            slot = min(int((at + WINDOW_S - now) / 15.0), 3)
            for row, amount in use:
                freed[slot, row] += amount
        within = left + np.cumsum(freed, axis=0)
        return np.minimum.reduce([4 * within[0], 2 * within[1], within[3]]), WINDOW_S


class Bucket(Fixed):
    """Buckets that refill at cap / 60 s and hold 10 s of that, full at the start."""

    name = "token bucket"

    def __init__(self, caps: Floats) -> None:
        super().__init__(caps * (BUCKET_S / WINDOW_S))
        self.rate = (caps / WINDOW_S).tolist()
        self.then = 0.0

    def advance(self, now: float) -> None:
        passed = now - self.then
        if passed < 0.05:
            return
        self.then = now
        self.left[:] = [
            min(most, left + passed * rate)
            for most, left, rate in zip(self.caps, self.left, self.rate, strict=True)
        ]

    def outlook(self, now: float) -> tuple[Floats, float]:
        """The level and what refills within 20 s."""
        return np.array(self.left) + 20.0 * np.array(self.rate), 20.0


# -- policies ------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Tally:
    """What a policy did. decision_us: of each decision. reprice_ms: of each re-pricing."""

    served: int = 0
    cost: int = 0
    decision_us: list[float] = field(default_factory=list)
    reprice_ms: list[float] = field(default_factory=list)


class Pricing:
    """Prices from the forecast, the arrivals seen and what is left, renewed every ``every`` seconds."""

    def __init__(self, history: Problem, rate: float, seed: int, every: float = REPRICE_S) -> None:
        self.history, self.rate, self.every = history, rate, every
        self.rng = np.random.default_rng(seed)
        self.prices: Prices | None = None

    def renew(self, stream: Stream, seen: int, now: float, windows: Fixed) -> Prices:
        """The prices to use from now on; ``seen`` requests have arrived."""
        left, seconds = windows.outlook(now)
        since = max(0.0, now - 20.0)
        recent = seen - int(np.searchsorted(stream.at[:seen], since))
        rate = (self.rate * TRUST_S + recent) / (TRUST_S + now - since)
        expected = self._sample(stream.problem, seen)
        count = np.full(expected.n, rate * seconds / expected.n)
        for limit, first in zip(expected.limits, expected.first_row.tolist(), strict=False):
            if limit.group is not None:  # a few sampled requests cannot price a tenant's budget
                few = np.bincount(limit.group, minlength=limit.rows) < FEW
                left[first : first + limit.rows][few] = np.inf
        new = reprice(expected, count, left, warm=self.prices)
        if self.prices is not None:
            lam = BLEND * new.lam + (1 - BLEND) * self.prices.lam
            new = Prices(new.names, lam, new.unserved)
        self.prices = new
        return new

    def _sample(self, arrived: Problem, seen: int) -> Problem:
        """Requests drawn from those seen last, the history first."""
        own = min(seen, RECENT)
        take = int(round(SAMPLE * own / RECENT))
        mine = seen - own + self.rng.choice(own, take, replace=False) if take else np.zeros(0, np.intp)
        old = self.rng.choice(self.history.n, min(SAMPLE - take, self.history.n), replace=False)
        return joined(part(self.history, old, 1.0), part(arrived, mine.astype(np.intp), 1.0))


def joined(first: Problem, second: Problem) -> Problem:
    """The requests of two problems with the same limits."""
    arrays: dict[int, Any] = {}
    limits = []
    for a, b in zip(first.limits, second.limits, strict=True):
        usage: Any = a.usage
        if isinstance(usage, np.ndarray):
            usage = arrays.setdefault(id(usage), np.concatenate([usage, b.usage]))  # type: ignore[arg-type]
        group = None if a.group is None or b.group is None else np.concatenate([a.group, b.group])
        limits.append(Limit(a.name, a.cap, a.models, None, usage, group))
    cost = np.concatenate([first.cost, second.cost])
    return Problem(cost, np.concatenate([first.allowed, second.allowed]), limits=limits)


def run(stream: Stream, windows: Fixed, pricing: Pricing | None) -> Tally:
    """All arrivals, one decision each; without pricing by cheapest-first."""
    problem = stream.problem
    tally = Tally()
    prices = Prices((), np.zeros(problem.rows))
    due = 0.0 if pricing is not None else math.inf
    router = Router(prices, stream.touches, 2)
    clock = time.perf_counter
    for i, now in enumerate(stream.at.tolist()):
        windows.advance(now)
        if now >= due and pricing is not None:
            began = clock()
            prices = pricing.renew(stream, i, now, windows)
            router = Router(prices, stream.touches, 2)
            tally.reprice_ms.append(1e3 * (clock() - began))
            due = (math.floor(now / pricing.every) + 1) * pricing.every
        cost, amounts, budget = stream.cost[i], stream.amounts[i], stream.budget[i]
        began = clock()
        j = router.choose(cost, amounts, windows.left, budgets=(budget,), value=prices.unserved)
        tally.decision_us.append(1e6 * (clock() - began))
        if j >= 0:
            use = [(row, 1.0 if kind < 0 else float(amounts[kind, j])) for row, kind in stream.touches[j]]
            windows.take(now, [*use, (budget, float(cost[j]))])
            tally.served += 1
            tally.cost += int(problem.cost[i, j])
    return tally
