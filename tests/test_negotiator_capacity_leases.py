"""Limits shared by workers of one store: together they never exceed one, and none waits for the store per call."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any

import pytest

from negotiator.capacity import Capacity, Slot
from negotiator.capacity_leases import LEASE_MS, SPARE
from negotiator.errors import StoreUnavailable
from negotiator.events import Event, discard
from negotiator.limits import Full, Load
from negotiator.store import Lease, LeaseAsk, RateStore, Unused
from negotiator.store_embedded import EmbeddedStore
from providers.clock import LoopClock, run_virtual
from providers.dialect import Window as Report
from providers.terms import RateKind, RateLimit, Usage

PERIOD_MS = 10_000
CALL = Load(input_tokens=20, output_tokens=10)
LIMITS = {
    "a": [
        RateLimit(RateKind.REQUESTS, 100, PERIOD_MS),
        RateLimit(RateKind.INPUT_TOKENS, 1_800, PERIOD_MS),
        RateLimit(RateKind.CONCURRENCY, 7),
    ]
}


class Counted:
    """The embedded store's rates, counting round trips; away when told."""

    def __init__(self, store: RateStore) -> None:
        self._store = store
        self.trips = 0
        self.away = False

    async def lease(
        self, worker: str, asks: Sequence[LeaseAsk], lease_ms: int, now_ms: int
    ) -> Sequence[Lease]:
        self.trips += 1
        await asyncio.sleep(0.001)
        if self.away:
            raise StoreUnavailable("gone")
        return await self._store.lease(worker, asks, lease_ms, now_ms)

    async def give_back(self, worker: str, unused: Sequence[Unused], now_ms: int) -> None:
        await self._store.give_back(worker, unused, now_ms)

    async def correct(self, key: str, remaining: int, now_ms: int) -> None:
        await self._store.correct(key, remaining, now_ms)


class Fleet:
    """Workers on one store, in virtual time."""

    def __init__(self, workers: int, limits: Mapping[str, Sequence[RateLimit]] = LIMITS) -> None:
        self.clock = LoopClock()
        self.clock.now_ms()
        self.rates = Counted(EmbeddedStore(clock=self.clock))
        self.events: list[Event] = []
        self.workers = [
            Capacity(limits, self.clock, self.events.append, rates=self.rates, worker=str(k))
            for k in range(workers)
        ]
        self.taken: list[tuple[int, Load]] = []
        self.in_flight = self.most_in_flight = self.refused = 0

    async def call(self, worker: int, hold_s: float = 0.0, load: Load = CALL) -> bool:
        """One call: refills are waited for where it is refused, while they bring something."""
        capacity = self.workers[worker]
        slot = capacity.take("a", "m", load)
        more = True
        while more and isinstance(slot, Full):
            more = await capacity.refill()
            slot = capacity.take("a", "m", load)
        if isinstance(slot, Full):
            self.refused += 1
            return False
        self.taken.append((self.clock.now_ms(), load))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(hold_s)
        self.in_flight -= 1
        slot.settle(Usage(load.input_tokens, load.output_tokens))
        return True

    def most(self, kind: RateKind) -> int:
        """The largest use of a row in any period."""
        return max(
            sum(load.of(kind) for at, load in self.taken if start <= at < start + PERIOD_MS)
            for start, _ in self.taken
        )


async def kept(fleet: Fleet, work: Coroutine[Any, Any, None]) -> None:
    """Run ``work`` while every worker renews its leases."""
    keepers = [asyncio.ensure_future(worker.keep_leased()) for worker in fleet.workers]
    await work
    for keeper in keepers:
        keeper.cancel()
        with suppress(asyncio.CancelledError):
            await keeper


@pytest.mark.parametrize("seed", range(4))
def test_workers_together_never_exceed_a_limit_and_use_most_of_it(seed: int) -> None:
    """Three workers under uneven load at three times the limits: no period, no instant holds more, little is idle."""

    async def scene() -> None:
        fleet, rng = Fleet(3), random.Random(seed)

        async def buyers() -> None:
            calls = []
            while fleet.clock.now_ms() - start_ms < 60_000:
                busy = fleet.clock.now_ms() // 5_000 % 3  # the load wanders from worker to worker
                worker = busy if rng.random() < 0.8 else rng.randrange(3)
                load = Load(rng.randrange(10, 30), 10)
                calls.append(asyncio.ensure_future(fleet.call(worker, rng.uniform(0.05, 0.3), load)))
                await asyncio.sleep(rng.expovariate(1 / 0.033))
            await asyncio.gather(*calls)

        start_ms = fleet.clock.now_ms()
        await kept(fleet, buyers())
        assert fleet.most(RateKind.REQUESTS) <= 100
        assert fleet.most(RateKind.INPUT_TOKENS) <= 1_800
        assert fleet.most_in_flight <= 7
        used = sum(load.input_tokens for _, load in fleet.taken)
        assert used >= 0.8 * 6 * 1_800
        assert fleet.refused > 500

    run_virtual(scene())


def test_calls_that_come_by_chance_find_room_that_is_there() -> None:
    """Four workers, calls at random instants at half of a limit: nearly none is turned away for want of a lease."""

    async def scene() -> None:
        fleet, rng = Fleet(4, {"a": [RateLimit(RateKind.REQUESTS, 200, 60_000)]}), random.Random(3)
        asked = found = 0

        async def buyers() -> None:
            nonlocal asked, found
            while len(fleet.taken) < 150:
                await asyncio.sleep(rng.expovariate(100 / 60))
                worker = rng.randrange(4)
                asked += 1
                found += fleet.workers[worker].lacks("a", "m", CALL) is None
                assert await fleet.call(worker)

        await kept(fleet, buyers())
        assert found >= 0.9 * asked

    run_virtual(scene())


@pytest.mark.parametrize("seed", range(3))
def test_a_window_of_a_second_is_used_too(seed: int) -> None:
    """Two workers at twice a limit per second, calls that end shorter than they said: most of it is used, never more."""

    async def scene() -> None:
        rng, period_ms = random.Random(seed), 1_000
        limits = {"a": [RateLimit(RateKind.OUTPUT_TOKENS, 2_000, period_ms)]}
        fleet = Fleet(2, limits)
        used: list[tuple[int, int]] = []

        async def call(worker: int) -> None:
            slot = fleet.workers[worker].take("a", "m", Load(1, 20))
            if isinstance(slot, Full):
                return
            at_ms, tokens = fleet.clock.now_ms(), rng.choice([4, 20])
            await asyncio.sleep(rng.uniform(0.01, 0.3))
            used.append((at_ms, tokens))
            slot.settle(Usage(1, tokens))

        async def buyers() -> None:
            calls = []
            while fleet.clock.now_ms() - start_ms < 20_000:
                worker = rng.randrange(2)
                if fleet.workers[worker].lacks("a", "m", Load(1, 20)):
                    fleet.workers[worker].retry_after_ms("a", "m", Load(1, 20))  # asks for more
                calls.append(asyncio.ensure_future(call(worker)))
                await asyncio.sleep(rng.expovariate(340))
            await asyncio.gather(*calls)

        start_ms = fleet.clock.now_ms()
        await kept(fleet, buyers())
        used.sort()
        most, first, total = 0, 0, 0
        for at_ms, tokens in used:
            total += tokens
            while used[first][0] <= at_ms - period_ms:
                total -= used[first][1]
                first += 1
            most = max(most, total)
        assert most <= 2_000
        assert sum(tokens for _, tokens in used) / 20 >= 0.7 * 2_000

    run_virtual(scene())


def test_the_hot_path_needs_no_round_trip() -> None:
    """A steady worker makes a few round trips a second, however many calls it lets through."""

    async def scene() -> None:
        fleet = Fleet(1, {"a": [RateLimit(RateKind.REQUESTS, 100_000, PERIOD_MS)]})

        async def steady() -> None:
            for _ in range(5_000):
                assert await fleet.call(0)
                await asyncio.sleep(0.002)

        await kept(fleet, steady())
        assert fleet.rates.trips < 60  # ten seconds

    run_virtual(scene())


def test_a_lone_call_after_a_quiet_time_waits_one_round_trip() -> None:
    """Nothing is leased at first; one refill brings what the call needs, and idle workers hold nothing."""

    async def scene() -> None:
        fleet = Fleet(2, {"a": [RateLimit(RateKind.REQUESTS, 1, 100)]})
        assert isinstance(fleet.workers[0].take("a", "m", CALL), Full)
        assert await fleet.call(0)
        assert fleet.rates.trips == 1
        await asyncio.sleep(5)
        assert await fleet.call(1)

    run_virtual(scene())


@pytest.mark.parametrize("gap_s", [0.0, 0.0002, 0.001])
def test_calls_that_come_at_once_after_a_quiet_time_wait_for_leases(gap_s: float) -> None:
    """Twenty at two workers that hold nothing: none is refused while the store has room, and rounds are few."""
    load = Load(input_tokens=1_000, output_tokens=10)
    limits = {
        "a": [
            RateLimit(RateKind.REQUESTS, 600, 60_000),
            RateLimit(RateKind.INPUT_TOKENS, 60_000, 60_000),
        ]
    }

    async def main() -> None:
        fleet = Fleet(2, limits)

        async def call(k: int) -> bool:
            await asyncio.sleep(k * gap_s)
            return await fleet.call(k % 2, hold_s=1.0, load=load)

        assert all(await asyncio.gather(*[call(k) for k in range(20)]))
        assert fleet.rates.trips <= 8

    run_virtual(main())


def test_what_a_dead_worker_held_comes_back() -> None:
    """A worker that stops renewing loses its slots at the end of its lease."""

    async def scene() -> None:
        fleet = Fleet(2, {"a": [RateLimit(RateKind.CONCURRENCY, 3)]})
        dying = fleet.workers[0]
        while isinstance(dying.take("a", "m", CALL), Full):
            await dying.refill()
        while isinstance(dying.take("a", "m", CALL), Slot) or fleet.rates.trips < 6:
            await dying.refill()  # these calls never end: their worker dies
        assert not await fleet.call(1)
        await asyncio.sleep(LEASE_MS / 1000)
        assert await fleet.call(1)

    run_virtual(scene())


def test_a_store_that_is_away_lets_no_call_through_and_is_told_once() -> None:
    """Without leases nothing is let through; when the store is back, calls go on."""

    async def scene() -> None:
        fleet = Fleet(1)
        fleet.rates.away = True
        assert [await fleet.call(0) for _ in range(3)] == [False] * 3
        assert [event.name for event in fleet.events] == ["capacity.leases_lost"]
        fleet.rates.away = False
        assert await fleet.call(0)

    run_virtual(scene())


def test_what_the_vendor_says_reaches_all_workers() -> None:
    """One worker hears from the vendor that 5 of 100 requests are left: all get no more, beside what was leased before."""

    async def scene() -> None:
        fleet = Fleet(2, {"a": [RateLimit(RateKind.REQUESTS, 100, PERIOD_MS)]})
        assert await fleet.call(0)
        fleet.workers[0].correct("a", "m", [Report(RateKind.REQUESTS, 100, 5, None, PERIOD_MS)])
        await fleet.workers[0].refill()
        served = [await fleet.call(k % 2) for k in range(20)]
        assert served.count(True) <= 5 + 100 // SPARE, "and what the other had to spare"

    run_virtual(scene())


def test_leases_are_given_back_on_leaving() -> None:
    """A worker that ends in order leaves its unused room to the others at once."""

    async def scene() -> None:
        fleet = Fleet(2, {"a": [RateLimit(RateKind.REQUESTS, 10, 3_600_000)]})
        keeper = asyncio.ensure_future(fleet.workers[0].keep_leased())
        assert all([await fleet.call(0) for _ in range(3)])
        await asyncio.sleep(0.6)  # now it holds some for the calls that may come
        keeper.cancel()
        with suppress(asyncio.CancelledError):
            await keeper
        assert [await fleet.call(1) for _ in range(8)] == [True] * 7 + [False]

    run_virtual(scene())


def test_without_a_shared_store_there_is_nothing_to_refill() -> None:
    """A process with the limits to itself counts alone; refilling and keeping return at once."""

    async def scene() -> None:
        capacity = Capacity(LIMITS, LoopClock(), discard)
        assert not await capacity.refill()
        await capacity.keep_leased()
        assert isinstance(capacity.take("a", "m", CALL), Slot)

    run_virtual(scene())
