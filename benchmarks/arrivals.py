"""Arrivals and limits in time: what the online benchmark is run on.

Windows count use as vendors do: fixed 60 s windows, sliding windows, token buckets. A scenario says which, at what
load, with what pattern of arrivals and how good a forecast. Everything is drawn from ``benchmarks.instances``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.instances import market
from solver.problem import Limit, Problem

__all__ = [
    "BUCKET_S",
    "WINDOW_S",
    "Bucket",
    "Fixed",
    "Scenario",
    "Sliding",
    "Stream",
    "draw",
    "joined",
    "part",
    "scenarios",
]

WINDOW_S = 60.0
BUCKET_S = 10.0  # a token bucket holds this much of its refill
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


# -- scenarios -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scenario:
    """windows: the kind of limit. seconds: length of the run. pattern: of arrivals. forecast: times the true rate."""

    windows: type[Fixed]
    load: float
    seconds: float = WINDOW_S
    pattern: str = "poisson"
    forecast: float = 1.0

    @property
    def title(self) -> str:
        """What is unusual about it."""
        extra = [] if self.pattern == "poisson" else [self.pattern]
        if self.forecast != 1.0:
            extra.append(f"forecast {100 * (self.forecast - 1):+.0f} %")
        return ", ".join([self.windows.name, *extra])


def scenarios(quick: bool) -> list[Scenario]:
    """Every load on fixed windows; then other windows, patterns and forecasts at the loads with a target."""
    if quick:
        return [Scenario(Fixed, 0.75), Scenario(Sliding, 1.0), Scenario(Fixed, 1.5)]
    found = [Scenario(Fixed, load) for load in (0.75, 1.0, 1.25, 1.5, 2.0)]
    found += [Scenario(kind, load, 120.0) for kind in (Sliding, Bucket) for load in (1.0, 1.5)]
    found += [Scenario(Fixed, 1.0, forecast=forecast) for forecast in (0.7, 1.3)]
    found += [Scenario(Fixed, 1.0, pattern=pattern) for pattern in ("bursts", "demand shift")]
    found += [Scenario(Sliding, 1.0, 120.0, pattern) for pattern in ("bursts", "demand shift")]
    return found


def arrivals(rng: np.random.Generator, scenario: Scenario, per_window: int) -> Floats:
    """Times of a Poisson process; bursts are 2.5 times the rate for 10 s, twice a minute."""
    count = int(rng.poisson(per_window * scenario.seconds / WINDOW_S))
    at = rng.uniform(0, scenario.seconds, count)
    if scenario.pattern == "bursts":
        inside = rng.random(count) < 5 / 6
        window = np.floor(at / WINDOW_S) * WINDOW_S
        begin = rng.choice([10.0, 40.0], count)
        calm = rng.choice([0.0, 20.0, 30.0, 50.0], count)
        at = window + np.where(inside, begin, calm) + rng.uniform(0, 10, count)
    return np.sort(at)


def draw(scenario: Scenario, per_window: int, m: int, seed: int) -> tuple[Problem, Stream]:
    """(requests of an earlier window, the arrivals), both of one market."""
    rng = np.random.default_rng([seed, 7])
    at = arrivals(rng, scenario, per_window)
    whole = 1 + 2 * round(scenario.seconds / WINDOW_S)
    pool = market(whole * per_window, m, scenario.load, seed)
    fresh = np.arange(per_window, pool.n)
    chosen = fresh[: len(at)]
    if scenario.pattern == "demand shift":  # in the second half large requests come more often
        late = at > scenario.seconds / 2
        size = np.sqrt(np.asarray(pool.limits[1].usage, dtype=np.float64)[fresh])
        chosen = rng.choice(fresh, len(at), replace=False)
        chosen[late] = rng.choice(fresh, int(late.sum()), replace=False, p=size / size.sum())
    history = part(pool, np.arange(per_window), 1 / whole)
    return history, compile_stream(part(pool, chosen, 1 / whole), at)
