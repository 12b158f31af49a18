"""One request at a time by prices, against cheapest-first and against the optimum in hindsight.

Run ``python -m benchmarks.online`` (``--quick`` for a short one). Every policy sees the same arrivals in the same
run; the market is synthetic. Writes ``results/online.json``, ``online.md``, ``online.png``.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.arrivals import (
    BUCKET_S,
    WINDOW_S,
    Bucket,
    Fixed,
    Scenario,
    Stream,
    draw,
    joined,
    part,
    scenarios,
)
from benchmarks.online_report import plot, report
from solver import solve
from solver.evidence import gather
from solver.online import Prices, Router, reprice
from solver.problem import Limit, Problem

__all__ = ["Pricing", "Tally", "main", "measure", "run"]

REPRICE_S = 2.0
SAMPLE = 1000  # requests the prices are computed from
RECENT = 4000  # requests seen last, from which the sample is drawn
TRUST_S = 10.0  # how many seconds of arrivals the forecast is worth
FEW = 4  # sampled requests below which a tenant's budget gets no price
WORTH = 3.0  # being served is worth a request's dearest offer and this many mean dearest offers
BLEND = 0.6  # share of the new prices in those used
Floats = npt.NDArray[np.float64]
RESULTS = Path(__file__).parent / "results"


# -- policies ------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Tally:
    """What a policy did. taken: requests served. decision_us, reprice_ms: of each decision, each re-pricing."""

    taken: list[int] = field(default_factory=list)
    cost: int = 0
    decision_us: list[float] = field(default_factory=list)
    reprice_ms: list[float] = field(default_factory=list)


class Pricing:
    """Prices from the forecast, the arrivals seen and what is left, renewed every ``every`` seconds."""

    def __init__(self, history: Problem, rate: float, seed: int, every: float = REPRICE_S) -> None:
        self.history, self.rate, self.every = history, rate, every
        self.rng = np.random.default_rng(seed)
        self.prices: Prices | None = None
        self.mean = float(np.max(history.cost, axis=1, where=history.allowed, initial=0).mean())

    def renew(self, stream: Stream, seen: int, now: float, windows: Fixed) -> Prices:
        """The prices to use from now on; ``seen`` requests have arrived."""
        left, seconds = windows.outlook(now)
        since = max(0.0, now - 20.0)
        recent = seen - int(np.searchsorted(stream.at[:seen], since))
        rate = (self.rate * TRUST_S + recent) / (TRUST_S + now - since)
        expected = self._sample(stream.problem, seen)
        count = np.full(expected.n, rate * seconds / expected.n)
        self._level(expected, stream.problem, seen, left)
        expected = replace(expected, value=self.value(expected).astype(np.int64))
        new = reprice(expected, count, left, warm=self.prices)
        if self.prices is not None:
            lam = BLEND * new.lam + (1 - BLEND) * self.prices.lam
            new = Prices(new.names, lam, new.unserved)
        self.prices = new
        return new

    def _level(self, expected: Problem, arrived: Problem, seen: int, left: Floats) -> None:
        """What is left of each tenant's budget, in proportion to how much of its demand the sample has.

        A tenant is in the sample a few times only; in all that was seen last it is so more often. Where even the
        sample has too few, its budget gets no price.
        """
        own = min(seen, RECENT)
        for at, first in enumerate(expected.first_row.tolist()[:-1]):
            limit, old, new = expected.limits[at], self.history.limits[at], arrived.limits[at]
            if limit.group is None or old.group is None or new.group is None:
                continue
            latest = slice(seen - own, seen)
            past = _need(self.history, old.group, slice(None), limit.rows) / self.history.n
            present = _need(arrived, new.group, latest, limit.rows) / max(own, 1)
            demand = (own * present + (RECENT - own) * past) / RECENT
            sampled = _need(expected, limit.group, slice(None), limit.rows) / expected.n
            share = np.where(demand > 0, sampled / np.maximum(demand, 1e-9), 1.0)
            few = np.bincount(limit.group, minlength=limit.rows) < FEW
            rows = slice(first, first + limit.rows)
            left[rows] = np.where(few, np.inf, left[rows] * np.clip(share, 0.2, 5.0))

    def value(self, problem: Problem) -> Floats:
        """What serving each request may cost at most, with what it displaces: float64[n] nano-dollars."""
        dearest = np.max(problem.cost, axis=1, where=problem.allowed, initial=0)
        return np.asarray(dearest + WORTH * self.mean)

    def _sample(self, arrived: Problem, seen: int) -> Problem:
        """Requests drawn from those seen last, the history first."""
        own = min(seen, RECENT)
        take = round(SAMPLE * own / RECENT)
        mine = seen - own + self.rng.choice(own, take, replace=False) if take else np.zeros(0, np.intp)
        old = self.rng.choice(self.history.n, min(SAMPLE - take, self.history.n), replace=False)
        return joined(part(self.history, old, 1.0), part(arrived, mine.astype(np.intp), 1.0))


def _need(problem: Problem, group: npt.NDArray[np.int32], which: slice, rows: int) -> Floats:
    """float64[rows]: the least that the requests of each group can cost."""
    cost = np.min(problem.cost[which], axis=1, where=problem.allowed[which], initial=2**53).astype(np.float64)
    cost[cost >= 2**53] = 0.0
    return np.bincount(group[which], weights=cost, minlength=rows)


def run(stream: Stream, windows: Fixed, pricing: Pricing | None) -> Tally:
    """All arrivals, one decision each; without pricing by cheapest-first."""
    problem = stream.problem
    tally = Tally()
    prices = Prices((), np.zeros(problem.rows))
    due = 0.0 if pricing is not None else math.inf
    router = Router(prices, stream.touches, 2)
    value = [math.inf] * problem.n if pricing is None else pricing.value(problem).tolist()
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
        j = router.choose(cost, amounts, windows.left, budgets=(budget,), value=value[i])
        tally.decision_us.append(1e6 * (clock() - began))
        if j >= 0:
            use = [(row, 1.0 if kind < 0 else float(amounts[kind, j])) for row, kind in stream.touches[j]]
            windows.take(now, [*use, (budget, float(cost[j]))])
            tally.taken.append(i)
            tally.cost += int(problem.cost[i, j])
    return tally


# -- hindsight -----------------------------------------------------------------------------------------------


def hindsight(stream: Stream, scenario: Scenario, time_limit_s: float) -> dict[str, float]:
    """The optimum that knows every arrival, window by window: what it serves and costs, and bounds of both.

    For sliding windows and buckets this relaxes the limits to their total per minute, so the ratios to it are
    harsher than the truth. The bounds hold whatever the solver found.
    """
    total = dict.fromkeys(("served", "cost", "served_bound", "cost_bound"), 0.0)
    for block in blocks(stream, scenario, np.arange(stream.problem.n)):
        warm = reprice(block, np.ones(block.n), block.caps)
        plan = solve(block, gap=1e-3, time_limit_s=time_limit_s, warm=warm)
        most = math.floor(min(plan.served_bound, served_bound(block)) + 1e-6)
        least = cost_bound(block, warm, most)
        total["served"] += plan.served
        total["cost"] += plan.cost
        total["served_bound"] += most
        total["cost_bound"] += max(least, plan.cost_bound) if plan.served >= most else least
    return total


def blocks(stream: Stream, scenario: Scenario, taken: npt.NDArray[np.intp]) -> Iterator[Problem]:
    """The requests ``taken`` minute by minute, each with what the limits allow in it."""
    for number in range(round(scenario.seconds / WINDOW_S)):
        block = part(stream.problem, taken[np.floor(stream.at[taken] / WINDOW_S) == number], 1.0)
        if scenario.windows is Bucket and number == 0:
            limits = [
                Limit(x.name, np.asarray(x.cap) * (1 + BUCKET_S / WINDOW_S), x.models, None, x.usage, x.group)
                for x in block.limits
            ]
            block = Problem(block.cost, block.allowed, limits=limits)
        yield block


def least_cost(stream: Stream, scenario: Scenario, taken: list[int]) -> float:
    """A bound from below of what serving exactly the same requests costs, by prices."""
    total = 0.0
    for block in blocks(stream, scenario, np.array(taken, dtype=np.intp)):
        prices = reprice(block, np.ones(block.n), block.caps)
        found = gather(block, prices.lam)
        total += max(0.0, float(found.least.sum()) - found.priced)
    return total


def cost_bound(block: Problem, prices: Prices, served: float) -> float:
    """Weak duality, as in ``solver.problem.Plan``: no plan that serves as many costs less.

    Tried with several prices of not being served: the best of them is where ``served`` becomes dear.
    """
    best = 0.0
    dearest = prices.unserved
    for share in (1.0, 0.3, 0.1):
        nu = share * dearest
        if share < 1.0:
            prices = reprice(block, np.ones(block.n), block.caps, warm=prices, unserved=nu)
        found = gather(block, prices.lam)
        least = found.least[np.isfinite(found.cheapest)]
        best = max(best, served * nu + float(np.minimum(0, least - nu).sum()) - found.priced)
    return best


def served_bound(block: Problem) -> float:
    """No plan serves more: the same with next to nothing but being served of value."""
    prices = reprice(block, np.ones(block.n), block.caps, unserved=1e3 * float(block.cost.max(initial=1)))
    found = gather(block, prices.lam, prices.lam / prices.unserved)
    weighed = found.weighed[np.isfinite(found.cheapest)]
    return min(float(len(weighed)), float(np.maximum(0, 1 - weighed).sum()) + found.weighed_priced)


def measure(scenario: Scenario, per_window: int, m: int, seed: int, time_limit_s: float) -> dict[str, Any]:
    """One seed of one scenario, every policy on the same arrivals."""
    history, stream = draw(scenario, per_window, m, seed)
    best = hindsight(stream, scenario, time_limit_s)
    rate = per_window / WINDOW_S * scenario.forecast
    caps = stream.problem.caps
    tallies = {
        "cheapest-first": run(stream, scenario.windows(caps), None),
        "prices, never renewed": run(stream, scenario.windows(caps), Pricing(history, rate, seed, math.inf)),
        "prices": run(stream, scenario.windows(caps), Pricing(history, rate, seed)),
    }
    row: dict[str, Any] = {
        "scenario": scenario.title,
        "load": scenario.load,
        "seed": seed,
        "arrivals": stream.problem.n,
        "hindsight": best,
        "policies": {},
    }
    per_served = best["cost_bound"] / max(best["served_bound"], 1)
    for name, tally in tallies.items():
        row["policies"][name] = {
            "served": len(tally.taken),
            "cost_nusd": tally.cost,
            "served_ratio": len(tally.taken) / max(best["served_bound"], 1),
            "cost_ratio": tally.cost / max(len(tally.taken), 1) / per_served if per_served else math.nan,
            "same_served_ratio": tally.cost / max(least_cost(stream, scenario, tally.taken), 1.0),
            "decision_us_p50": float(np.quantile(tally.decision_us, 0.5)),
            "decision_us_p99": float(np.quantile(tally.decision_us, 0.99)),
            "reprice_ms_p50": float(np.median(tally.reprice_ms)) if tally.reprice_ms else None,
            "reprice_ms_p95": float(np.quantile(tally.reprice_ms, 0.95)) if tally.reprice_ms else None,
        }
    return row


def decisions(m: int, seed: int = 1) -> dict[str, float]:
    """Microseconds of one decision among ``m`` offers at full load, prices renewed as in a run."""
    history, stream = draw(Scenario(Fixed, 1.0), 2000, m, seed)
    tally = run(stream, Fixed(stream.problem.caps), Pricing(history, 2000 / WINDOW_S, seed, 20.0))
    return {f"p{q}": float(np.quantile(tally.decision_us, q / 100)) for q in (50, 99)}


def repricings(seeds: Sequence[int]) -> list[dict[str, float]]:
    """Milliseconds to price 10,000 expected requests over 20 offers: from nothing, and two seconds later."""
    found = []
    for load in (0.5, 1.0, 1.5, 2.0):
        times: dict[str, list[float]] = {"cold": [], "warm": [], "warm_cpu": []}
        for seed in seeds:
            history, stream = draw(Scenario(Fixed, load), 10_000, 20, seed)
            pricing = Pricing(history, 10_000 / WINDOW_S, seed)
            windows = Fixed(stream.problem.caps)
            for turn in range(6):
                now = REPRICE_S * turn
                began, busy = time.perf_counter(), time.process_time()
                pricing.renew(stream, int(np.searchsorted(stream.at, now)), now, windows)
                times["warm" if turn else "cold"].append(1e3 * (time.perf_counter() - began))
                if turn:
                    times["warm_cpu"].append(1e3 * (time.process_time() - busy))
        row = {"load": load}
        row |= {f"{name}_ms_p50": statistics.median(values) for name, values in times.items()}
        row |= {f"{name}_ms_max": max(values) for name, values in times.items()}
        found.append(row)
    return found


def main() -> None:
    """Run everything and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--requests", type=int, default=5000, help="expected per minute")
    parser.add_argument("--offers", type=int, default=20)
    parser.add_argument("--time-limit", type=float, default=10.0, help="seconds per hindsight solve")
    parser.add_argument("--quick", action="store_true", help="three scenarios, one seed")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    seeds = given.seeds[:1] if given.quick else given.seeds
    runs = []
    for scenario in scenarios(given.quick):
        for seed in seeds:
            runs.append(measure(scenario, given.requests, given.offers, seed, given.time_limit))
            best = runs[-1]["policies"]["prices"]
            print(
                f"{scenario.title}, load {scenario.load:g}, seed {seed}: cost {best['cost_ratio']:.3f},"
                f" served {best['served_ratio']:.3f}, same {best['same_served_ratio']:.3f}",
                flush=True,
            )
    found = {
        "seeds": seeds,
        "per_window": given.requests,
        "offers": given.offers,
        "sample": SAMPLE,
        "reprice_s": REPRICE_S,
        "runs": runs,
        "decision_us": {m: decisions(m) for m in (20, 100)},
        "reprice": repricings(seeds),
    }
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "online.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (given.out / "online.md").write_text(report(found), encoding="utf-8")
    plot(runs, given.out / "online.png")


if __name__ == "__main__":
    main()
