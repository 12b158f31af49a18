"""The shared store stopped, hung, slowed and failed over under two real workers: refused while away, right afterwards."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
import valkey
from fault_house import Buyer, buyer_at, config, model_server, until
from valkey_servers import one_sentinel, server

from benchmarks.processes import audit, serving, shared_store
from benchmarks.vendor import Vendor

pytestmark = pytest.mark.slow

AWAY = "LEDGER_UNAVAILABLE"
FAST_S = 8.0
"""A store's command waits twice 2 s at most, an order makes two before it is refused; nobody hangs."""


@asynccontextmanager
async def trading(tmp_path: Path, store: str) -> AsyncIterator[tuple[Buyer, Vendor]]:
    """Two workers, and a buyer who never stops buying; afterwards everything has settled and fits."""
    async with model_server() as (vendor, url):
        with serving(tmp_path, config(url), store, workers=2) as market:
            async with buyer_at(market) as buyer:
                going = asyncio.ensure_future(_keep_buying(buyer))
                await until(lambda: buyer.outcomes.count("served") >= 4, "first answers")
                yield buyer, vendor
                going.cancel()
                with suppress(asyncio.CancelledError):
                    await going
                assert set(buyer.outcomes) <= {"served", "cut", AWAY, "CAPACITY_EXHAUSTED", "IN_PROGRESS"}
                await until(lambda: settled(buyer), "no hold is left")
                posted_nusd = (await buyer.balance("team"))["posted"]
                assert buyer.told_nusd <= posted_nusd
                assert vendor.bill.nusd <= posted_nusd, "a call was made that nobody is charged for"
        assert not audit(store)


async def _keep_buying(buyer: Buyer) -> None:
    async with asyncio.TaskGroup() as calls:
        for number in itertools.count(1_000):
            calls.create_task(buyer.buy(number, stream=number % 2 == 0))
            await asyncio.sleep(0.3)


async def settled(buyer: Buyer) -> bool:
    """Whether the store answers and nothing is held."""
    status, _ = await buyer.get("/readyz")
    return status == 200 and await buyer.nothing_held()


async def refused_quickly(buyer: Buyer, number: int) -> None:
    """An order is refused with a code that says to come again, soon, and the server says that it is not ready."""
    begun_s = time.monotonic()
    assert await buyer.buy(number) == AWAY
    assert time.monotonic() - begun_s < FAST_S, "an order hung"
    assert (await buyer.get("/readyz"))[0] == 503
    assert (await buyer.get("/healthz"))[0] == 200


async def served_again(buyer: Buyer) -> None:
    """Both workers found the store again by themselves."""
    before = len(buyer.outcomes)
    await until(lambda: buyer.outcomes[before:].count("served") >= 6, "orders are served again")


async def test_a_store_that_is_stopped_and_started_again(tmp_path: Path) -> None:
    """Away for three seconds, and back without scripts and connections: no order is lost or charged twice."""
    with shared_store(tmp_path) as shared:
        async with trading(tmp_path, shared.url) as (buyer, _):
            shared.stop()
            await refused_quickly(buyer, 1)
            await asyncio.sleep(3)
            await refused_quickly(buyer, 2)
            shared.start()
            await served_again(buyer)


async def test_a_store_that_is_killed_and_started_again(tmp_path: Path) -> None:
    """kill -9 of the server: its append-only file has everything that was acknowledged."""
    with shared_store(tmp_path) as shared:
        async with trading(tmp_path, shared.url) as (buyer, _):
            os.kill(shared.pid, signal.SIGKILL)
            await refused_quickly(buyer, 1)
            shared.stop()
            shared.start()
            await served_again(buyer)


async def test_a_store_that_hangs(tmp_path: Path) -> None:
    """SIGSTOP for seven seconds, connections open: every order is answered with a code, and then life goes on."""
    with shared_store(tmp_path) as shared:
        async with trading(tmp_path, shared.url) as (buyer, _):
            os.kill(shared.pid, signal.SIGSTOP)
            try:
                await asyncio.sleep(3)
                await refused_quickly(buyer, 1)
                await asyncio.sleep(2)
            finally:
                os.kill(shared.pid, signal.SIGCONT)
            await served_again(buyer)


async def test_a_store_that_is_slow(tmp_path: Path) -> None:
    """Paused for a second again and again: orders take longer, and nothing else changes."""
    with shared_store(tmp_path) as shared:
        async with trading(tmp_path, shared.url) as (buyer, _):
            with shared.client() as client:
                for _ in range(3):
                    client.execute_command("CLIENT", "PAUSE", "1000", "ALL")
                    await asyncio.sleep(1.5)
            await served_again(buyer)


async def test_a_store_that_fails_over_stays_closed_until_it_is_reconciled(tmp_path: Path) -> None:
    """The primary dies, a sentinel promotes its replica: workers refuse every order until the operator reconciled."""
    quick = {"repl-diskless-sync-delay": "0", "appendonly": "yes"}
    with ExitStack() as stack:
        primary, replica = (stack.enter_context(server(config=quick)) for _ in range(2))
        client = stack.enter_context(valkey.Valkey(port=replica.port))
        client.replicaof("127.0.0.1", primary.port)
        await until(lambda: client.info("replication")["master_link_status"] == "up", "a replica in step")
        store = f"{stack.enter_context(one_sentinel(tmp_path, primary.port))}?rows={tmp_path / 'rows'}"
        await asyncio.sleep(1.5)  # the sentinel learns of the replica
        async with trading(tmp_path, store) as (buyer, _):
            with suppress(valkey.ConnectionError), valkey.Valkey(port=primary.port) as dying:
                dying.shutdown(nosave=True)
            await until(lambda: _promoted(client), "the replica is promoted")
            await until(lambda: _closed(buyer), "the ledger says why it is closed")
            await refused_quickly(buyer, 1)
            words = [sys.executable, "-m", "negotiator.cli", "accounts", "reconcile", "--store", store]
            done = await asyncio.to_thread(subprocess.run, words, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            await served_again(buyer)


def _promoted(client: valkey.Valkey) -> bool:
    with suppress(valkey.ConnectionError):  # the sentinel cuts off all clients
        return bool(client.info("replication")["role"] == "master")
    return False


async def _closed(buyer: Buyer) -> bool:
    _, told = await buyer.get("/readyz")
    return "accounts reconcile" in str(told)
