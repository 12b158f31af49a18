"""The market maker killed and hung, as a process beside real workers: orders go on, and prices come back."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from fault_house import Buyer, buyer_at, config, model_server, until

from benchmarks.processes import Market, Shared, serving, shared_store

pytestmark = pytest.mark.slow

LAUNCHER = (str(Path(__file__).with_name("fault_points.py")),)
REPRICE_MS = 400
STALE_MS = 2_500
MADE = "negotiator_prices_made_timestamp_seconds"
"""When the prices in force were made; 0 = there are none, orders go by cost alone."""

DIED = "negotiator_market_maker_deaths_total"


@asynccontextmanager
async def market_of(tmp_path: Path, store: str, workers: int) -> AsyncIterator[tuple[Market, Buyer]]:
    """A market whose prices are stale after a few seconds, with prices of its first orders."""
    environment = {"FAULT_STALE_MS": str(STALE_MS)}
    async with model_server() as (_, url):
        with serving(
            tmp_path,
            config(url, reprice_ms=REPRICE_MS),
            store,
            workers=workers,
            command=LAUNCHER,
            environment=environment,
        ) as market:
            async with buyer_at(market) as buyer:
                await until(lambda: priced(buyer), "first prices")
                yield market, buyer


async def priced(buyer: Buyer) -> bool:
    """Buy, so that there is demand, and say whether there are prices."""
    await buyer.insist(len(buyer.outcomes))
    return await metric_above(buyer, MADE, 0)


async def metric_above(buyer: Buyer, name: str, value: float) -> bool:
    """Whether a metric has grown beyond a value."""
    return await buyer.metric(name) > value


async def buy_for(buyer: Buyer, first: int, seconds: float) -> None:
    """Two orders a second, every one of them served."""
    for number in range(round(2 * seconds)):
        assert await buyer.insist(first + number) == "served"
        await asyncio.sleep(0.3)


async def test_a_killed_market_maker_is_started_again_and_orders_never_wait(tmp_path: Path) -> None:
    """kill -9: every order meanwhile is served, another process takes its place and publishes prices."""
    async with market_of(tmp_path, f"embedded://{tmp_path / 'ledger.db'}", 1) as (market, buyer):
        (killed,) = market.makers()
        os.kill(killed, signal.SIGKILL)
        await buy_for(buyer, 100, 3)
        await until(lambda: bool(market.makers()) and market.makers() != [killed], "another market maker")
        before = time.time()
        await until(lambda: metric_above(buyer, MADE, before), "prices of the new one")
        assert await buyer.metric(DIED) == 1
    assert "market maker: ended with status -9" in market.said()


async def test_a_hung_market_maker_leaves_workers_to_cost_alone_until_it_is_replaced(tmp_path: Path) -> None:
    """SIGSTOP: first the last prices, then cost alone with a metric and a line in the log, then a new process."""
    async with market_of(tmp_path, f"embedded://{tmp_path / 'ledger.db'}", 1) as (market, buyer):
        (hung,) = market.makers()
        os.kill(hung, signal.SIGSTOP)
        await buy_for(buyer, 100, 2 * STALE_MS / 1000)
        assert await buyer.metric(MADE) == 0
        assert "orders go to the cheapest that fits" in market.said()
        await until(lambda: bool(market.makers()) and market.makers() != [hung], "another market maker")
        before = time.time()
        await until(lambda: metric_above(buyer, MADE, before), "prices of the new one")
        await buy_for(buyer, 200, 1)
        assert await buyer.metric(MADE) > 0
    assert "gave no prices within" in market.said()


def lead(shared: Shared) -> tuple[str, int]:
    """Who leads, and the token of its lead."""
    with shared.client() as client:
        found: dict[bytes, bytes] = client.hgetall("negotiator:lead:market_maker")
    return found[b"holder"].decode(), int(found[b"token"])


def prices(shared: Shared) -> dict[str, Any]:
    """The prices in the store."""
    with shared.client() as client:
        told: dict[str, Any] = orjson.loads(client.get("negotiator:shared:market:prices"))
    return told


async def leading(market: Market, shared: Shared) -> int:
    """The process id of the market maker that leads: it is the one whose standstill makes another lead."""
    for pid in market.makers():
        _, token = lead(shared)
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(6 * REPRICE_MS / 1000)
        found = lead(shared)[1] > token
        os.kill(pid, signal.SIGCONT)
        if found:
            (other,) = [each for each in market.makers() if each != pid]
            return other
    raise AssertionError("nobody leads")


async def grown(shared: Shared, token: int) -> bool:
    """Whether another leads, and has published."""
    return lead(shared)[1] > token and int(prices(shared)["epoch"]) > token


@asynccontextmanager
async def two_makers(tmp_path: Path) -> AsyncIterator[tuple[Shared, Market, Buyer, int]]:
    """Two workers on Valkey and their market makers; the process id of the one that leads."""
    with shared_store(tmp_path) as shared:
        async with market_of(tmp_path, shared.url, 2) as (market, buyer):
            await until(lambda: len(market.makers()) == 2, "two market makers")
            await asyncio.sleep(3)
            yield shared, market, buyer, await leading(market, shared)


async def test_a_standby_takes_over_from_a_leader_that_is_killed(tmp_path: Path) -> None:
    """Two workers on Valkey, kill -9 of the leading market maker: the other leads with a larger token and publishes."""
    async with two_makers(tmp_path) as (shared, market, buyer, leader):
        holder, token = lead(shared)
        os.kill(leader, signal.SIGKILL)
        await buy_for(buyer, 100, 2)
        await until(lambda: grown(shared, token), "prices of the other market maker")
        assert lead(shared)[0] != holder
        await until(lambda: len(market.makers()) == 2, "a standby again")


async def test_a_leader_that_hangs_and_comes_back_is_not_heard(tmp_path: Path) -> None:
    """SIGSTOP beyond its lease: another leads; when the first goes on, workers stay with the larger token."""
    async with two_makers(tmp_path) as (shared, _, buyer, leader):
        token = lead(shared)[1]
        os.kill(leader, signal.SIGSTOP)
        await until(lambda: grown(shared, token), "prices of the other market maker")
        newest = lead(shared)[1]
        os.kill(leader, signal.SIGCONT)
        await buy_for(buyer, 100, 2)
        assert lead(shared)[1] == newest
        assert await buyer.metric(MADE) > 0
        made_ms = prices(shared)["made_ms"]
        ahead: Callable[[], bool] = lambda: prices(shared)["made_ms"] > made_ms  # noqa: E731
        await until(ahead, "newer prices")
        assert prices(shared)["epoch"] == newest
