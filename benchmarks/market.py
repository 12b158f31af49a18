"""The market's own rooms in virtual time: what prices save against cheapest-first, how far from the optimum they stay.

Run ``python -m benchmarks.market`` (``--quick`` for a short one). Orders arrive at simulated sellers with real price
cards, in a Poisson stream or in bursts. Capacity, clearing, demand meter and market maker are those of the product;
sellers enforce their limits in sliding windows of their own, and every call they would have refused is counted. The
first minutes fill the windows; each of the following minutes is compared with its optimum in hindsight, which knows
all orders of the minute and all true lengths of answers and has whole windows to itself: no policy can do better.

Load 1 is ``FULL`` orders a minute, nine tenths of what all sellers can take together. Both policies see the same orders,
quotes and lengths of answers. Writes ``results/market.json``, ``market.md``, ``market.png``.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.market_http import measure_http, report_http
from benchmarks.market_report import plot, report
from negotiator.capacity import Capacity, Slot
from negotiator.clearing import Clearing
from negotiator.clearing_batch import BatchBook, BatchOffer, BatchPlan, clear_batch
from negotiator.events import discard
from negotiator.limits import LimitRow, Load, cached_input, limit_rows, load_of
from negotiator.market_maker import MarketMaker
from negotiator.market_maker_demand import DemandMeter
from negotiator.market_maker_forecast import Forecast
from negotiator.order import Assignment, Candidate, Order, QualityEstimate
from negotiator.policy import consider, rank
from negotiator.quality import load_priors
from providers.simulated import default_sellers
from providers.simulated.windows import Windows
from providers.terms import RFQ, Quote, RateKind, RateLimit, Usage

FULL = 2_900
MINUTE_MS = 60_000
WARM_MINUTES = 2
REPRICE_MS = 2_000
RESULTS = Path(__file__).parent / "results"
START_MS = 1_795_500_000_000


class HandClock:
    """The simulation's time."""

    def __init__(self) -> None:
        self.ms = START_MS

    def now_ms(self) -> int:
        return self.ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """How orders arrive and how wrong the forecast is."""

    load: float
    bursts: bool = False
    forecast: float = 1.0
    size: int = 1

    @property
    def title(self) -> str:
        told = f"load {self.load:g}"
        told += ", bursts" if self.bursts else ""
        told += f", {self.size} times the limits and orders" if self.size > 1 else ""
        return told + (f", forecast {100 * (self.forecast - 1):+.0f} %" if self.forecast != 1 else "")


SCENARIOS = (
    *(Scenario(load=load) for load in (0.5, 0.75, 1.0, 1.25, 1.5)),
    *(Scenario(load=load, bursts=True) for load in (0.75, 1.0)),
    *(Scenario(load=1.0, forecast=factor) for factor in (0.7, 1.3)),
    Scenario(load=1.0, size=4),
)


@dataclass(frozen=True, slots=True)
class Arrival:
    """An order with its eligible candidates, and how long each model's answer will really be."""

    at_ms: int
    order: Order
    ranked: tuple[Candidate, ...]
    output_tokens: dict[str, int]


@dataclass(frozen=True, slots=True)
class Stream:
    """All arrivals of one run, and the sellers' limits."""

    arrivals: list[Arrival]
    limits: dict[str, tuple[RateLimit, ...]]

    def minute(self, k: int) -> list[Arrival]:
        begin_ms = START_MS + k * MINUTE_MS
        return [a for a in self.arrivals if begin_ms <= a.at_ms < begin_ms + MINUTE_MS]


def draw(scenario: Scenario, minutes: int, seed: int) -> Stream:
    """Orders with sizes, floors, deadlines and tiers; bursts: 10 s at 2.2 times the rate, 30 s at 0.6 times."""
    rng, clock = random.Random(f"{seed}/{scenario.load}/{scenario.bursts}"), HandClock()
    sellers = default_sellers(clock, seed=seed, limits_scale=scenario.size)
    priors, per_ms = load_priors(), FULL * scenario.load * scenario.size / MINUTE_MS
    arrivals: list[Arrival] = []
    at_ms = 0.0
    while True:
        pace = (2.2 if at_ms // 10_000 % 4 == 0 else 0.6) if scenario.bursts else 1.0
        at_ms += rng.expovariate(pace * per_ms)
        if at_ms >= minutes * MINUTE_MS:
            break
        clock.ms = START_MS + int(at_ms)
        number = str(len(arrivals))
        tiers = ("standard", "flex") if rng.random() < 0.2 else ("standard",)
        order = Order(
            order_id=number,
            account="default",
            body={},
            min_quality=0.1 + 0.8 * rng.betavariate(2, 3.5),
            deadline_ms=int(1_000 * rng.lognormvariate(3.0, 0.8)) if rng.random() < 0.5 else None,
            tiers=tiers,
        )
        rfq = RFQ(
            rfq_id=number,
            input_tokens=min(60_000, max(16, int(rng.lognormvariate(6.4, 0.9)))),
            expected_output_tokens=min(4_000, max(8, int(rng.lognormvariate(5.3, 0.7)))),
            tiers=tiers,
        )
        quotes = [quote for seller in sellers for quote in seller.quote(rfq) if isinstance(quote, Quote)]
        candidates, lengths = [], {}
        ease = rng.gauss(0, 0.05)
        for quote in quotes:
            mean = min(0.99, max(0.05, priors.of(quote.model).mean + ease + rng.gauss(0, 0.06)))
            expected = quote.expected_output_tokens
            estimate = QualityEstimate(mean, 0.1, 0, expected, int(1.7 * expected))
            candidates.append(consider(order, quote, estimate, now_ms=clock.ms))
            lengths[quote.key] = max(1, int(expected * rng.lognormvariate(-0.045, 0.3)))
        ranked = rank(order, candidates)
        if ranked:
            arrivals.append(Arrival(clock.ms, order, tuple(ranked), lengths))
    return Stream(arrivals, {seller.name: tuple(seller.limits) for seller in sellers})


def hindsight(arrivals: Sequence[Arrival], stream: Stream, time_limit_s: float) -> BatchPlan:
    """The best that could have been done with one minute's orders."""
    keys = sorted(
        {(c.quote.provider, c.quote.model, c.quote.tier) for arrival in arrivals for c in arrival.ranked}
    )
    column = {key: j for j, key in enumerate(keys)}
    shape = (len(arrivals), len(keys))
    cost = np.zeros(shape, dtype=np.int64)
    allowed = np.zeros(shape, dtype=np.bool_)
    loads = np.zeros((4, *shape))
    for i, arrival in enumerate(arrivals):
        for c in arrival.ranked:
            quote = c.quote
            j = column[quote.provider, quote.model, quote.tier]
            cost[i, j], allowed[i, j] = c.expected_nusd, True
            length = arrival.output_tokens[quote.key]
            loads[:, i, j] = (quote.input_tokens, cached_input(quote), length, quote.latency_ms.p50)
    book = BatchBook(
        offers=[BatchOffer(*key) for key in keys],
        cost=cost,
        allowed=allowed,
        input_tokens=loads[0],
        cached_tokens=loads[1],
        output_tokens=loads[2],
        latency_ms=loads[3],
        rows=[row for name, limits in stream.limits.items() for row in limit_rows(name, limits)],
        horizon_ms=MINUTE_MS,
    )
    return clear_batch(book, time_limit_s=time_limit_s, gap=1e-3)


@dataclass(slots=True)
class Run:
    """What a policy did: (at, cost or None) per order, calls the sellers would have refused, times taken."""

    served: list[tuple[int, int | None]]
    refused_by_sellers: int
    decision_s: list[float]
    reprice_s: list[float]


class WrongForecast(Forecast):
    """Expects ``factor`` times what has come lately."""

    def __init__(self, rows: Sequence[LimitRow], factor: float) -> None:
        super().__init__(rows)
        self._factor = factor

    def per_ms(self) -> float:
        return self._factor * super().per_ms()


class Trial:
    """One policy on one stream."""

    def __init__(self, stream: Stream, *, priced: bool, forecast: float = 1.0) -> None:
        self._stream = stream
        self._clock = HandClock()
        self._capacity = Capacity(stream.limits, self._clock, discard)
        self._clearing = Clearing(self._capacity.rows, self._clock, discard)
        rows = self._capacity.rows
        self._maker = MarketMaker(rows, forecast=WrongForecast(rows, forecast)) if priced else None
        self._meter = DemandMeter()
        self._sellers = {name: Windows(limits) for name, limits in stream.limits.items()}
        self._calls: list[tuple[int, int, Slot, Usage, str, str]] = []
        self.run = Run([], 0, [], [])

    def play(self) -> Run:
        """All arrivals in order, prices every ``REPRICE_MS``."""
        next_ms = START_MS + REPRICE_MS
        self._meter.report(START_MS, {})
        for arrival in self._stream.arrivals:
            while next_ms <= arrival.at_ms:
                self._advance(next_ms)
                self._reprice()
                next_ms += REPRICE_MS
            self._advance(arrival.at_ms)
            self._serve(arrival)
        return self.run

    def _advance(self, to_ms: int) -> None:
        while self._calls and self._calls[0][0] <= to_ms:
            self._clock.ms, _, slot, usage, provider, model = heapq.heappop(self._calls)
            slot.settle(usage)
            self._sellers[provider].leave(model)
        self._clock.ms = to_ms

    def _reprice(self) -> None:
        if self._maker is None:
            return
        now_ms = self._clock.ms
        self._maker.observe(self._meter.report(now_ms, self._capacity.taken()))
        begun_s = time.perf_counter()
        prices = self._maker.reprice(now_ms)
        self.run.reprice_s.append(time.perf_counter() - begun_s)
        if prices is not None:
            self._clearing.publish(prices)

    def _serve(self, arrival: Arrival) -> None:
        now_ms = arrival.at_ms
        begun_s = time.perf_counter()
        choice = self._clearing.choose(arrival.order, arrival.ranked, self._capacity)
        self.run.decision_s.append(time.perf_counter() - begun_s)
        if self._maker is not None:
            self._meter.note(arrival.order, arrival.ranked)
        if not isinstance(choice, Assignment):
            self.run.served.append((now_ms, None))
            return
        quote = choice.award.quote
        slot = self._capacity.take(quote.provider, quote.model, load_of(choice.award))
        assert isinstance(slot, Slot)
        length = arrival.output_tokens[quote.key]
        cached = cached_input(quote)
        load = Load(quote.input_tokens, length, cached)
        uses = {kind: load.of(kind) for kind in RateKind}
        if self._sellers[quote.provider].enter(quote.model, uses, now_ms):
            self.run.refused_by_sellers += 1
        self.run.served.append((now_ms, choice.award.expected_nusd))
        usage = Usage(quote.input_tokens, length, cached)
        end_ms = now_ms + quote.latency_ms.p50
        heapq.heappush(self._calls, (end_ms, len(self.run.served), slot, usage, quote.provider, quote.model))


def measure(scenario: Scenario, minutes: int, seed: int, time_limit_s: float) -> dict[str, Any]:
    """Both policies and the hindsight optimum of every measured minute."""
    minutes = max(WARM_MINUTES + 1, minutes // scenario.size)
    stream = draw(scenario, minutes, seed)
    measured = range(WARM_MINUTES, minutes)
    best = [hindsight(stream.minute(k), stream, time_limit_s) for k in measured]
    begin_ms = START_MS + WARM_MINUTES * MINUTE_MS
    orders = sum(len(stream.minute(k)) for k in measured)
    served = sum(plan.served for plan in best)
    optimum_nusd = sum(plan.cost_nusd for plan in best)
    found: dict[str, Any] = {
        "scenario": scenario.title,
        "load": scenario.load,
        "seed": seed,
        "orders": orders,
        "offers": statistics.fmean(len(arrival.ranked) for arrival in stream.arrivals),
        "hindsight": {
            "served": served / orders,
            "usd_per_1000": optimum_nusd / served / 1e6,
            "gap": max(plan.gap for plan in best),
        },
    }
    for name, priced in (("cheapest first", False), ("prices", True)):
        run = Trial(stream, priced=priced, forecast=scenario.forecast).play()
        nusd = [cost for at_ms, cost in run.served if at_ms >= begin_ms and cost is not None]
        found[name] = {
            "served": len(nusd) / orders,
            "served_ratio": len(nusd) / served,
            "cost_ratio": math.fsum(nusd) / len(nusd) / (optimum_nusd / served),
            "refused_by_sellers": run.refused_by_sellers,
            "decision_us": _quantiles([1e6 * s for s in run.decision_s]),
            "reprice_ms": _quantiles([1e3 * s for s in run.reprice_s]) if run.reprice_s else None,
        }
    return found


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {f"p{q}": round(ordered[len(ordered) * q // 100], 1) for q in (50, 99)}


def over_http(out: Path, minutes: int, seed: int) -> None:
    """The market over HTTP, three to four minutes for each load."""
    found = measure_http((0.75, 1.0, 1.25, 1.5), minutes, seed)
    out.mkdir(parents=True, exist_ok=True)
    (out / "market_http.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (out / "market_http.md").write_text(report_http(found, minutes), encoding="utf-8")


def main() -> None:
    """Run everything and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--minutes", type=int, default=5, help="simulated, the first two to warm up")
    parser.add_argument("--time-limit", type=float, default=15.0, help="seconds per hindsight solve")
    parser.add_argument("--quick", action="store_true", help="two scenarios, one seed")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument(
        "--http", action="store_true", help="two workers and real windows over HTTP, in real time"
    )
    given = parser.parse_args()
    if given.http:
        return over_http(given.out, 1 if given.quick else 2, given.seeds[0])
    seeds = given.seeds[:1] if given.quick else given.seeds
    scenarios = SCENARIOS[1:3] if given.quick else SCENARIOS
    found: dict[str, Any] = {
        "seeds": seeds,
        "minutes": given.minutes,
        "warm_minutes": WARM_MINUTES,
        "reprice_ms": REPRICE_MS,
        "runs": [],
    }
    given.out.mkdir(parents=True, exist_ok=True)
    for scenario in scenarios:
        for seed in seeds:
            run = measure(scenario, given.minutes, seed, given.time_limit)
            found["runs"].append(run)
            print(
                f"{run['scenario']}, seed {seed}: hindsight serves {run['hindsight']['served']:.3f}"
                f" (gap {run['hindsight']['gap']:.1e}); prices cost {run['prices']['cost_ratio']:.3f}, served"
                f" {run['prices']['served_ratio']:.3f}; cheapest first {run['cheapest first']['cost_ratio']:.3f},"
                f" {run['cheapest first']['served_ratio']:.3f}",
                flush=True,
            )
            (given.out / "market.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (given.out / "market.md").write_text(report(found), encoding="utf-8")
    plot(found, given.out / "market.png")


if __name__ == "__main__":
    main()
