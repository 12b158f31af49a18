"""A replica that takes over may have lost what was acknowledged: the ledger stays closed until it is reconciled."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import valkey
from valkey_servers import one_sentinel, server

from negotiator.errors import InputInvalid, StoreError, StoreUnavailable
from negotiator.order import Reservation
from negotiator.store import Account, Balance, Hold, Period
from negotiator.store_open import open_store, reconcile_store
from negotiator.store_redis import RedisStore
from negotiator.store_redis_keys import Tree

T0 = 1_795_500_000_000


class Pair:
    """A primary and its replica, each with an archive URL."""

    def __init__(self, primary: valkey.Valkey, replica: valkey.Valkey, rows: Path) -> None:
        self.primary, self.replica = primary, replica
        ports = [client.connection_pool.connection_kwargs["port"] for client in (primary, replica)]
        self.urls = [f"redis://127.0.0.1:{port}/0?rows={rows}" for port in ports]
        self.rows = rows

    def promote(self) -> None:
        """The replica takes over with what it has."""
        self.replica.replicaof("no", "one")

    def until_promoted(self) -> None:
        """Wait until somebody made the replica a primary."""
        role = ""
        while role != "master":
            with suppress(valkey.ConnectionError):  # the sentinel cuts off all clients
                role = self.replica.info("replication")["role"]
            time.sleep(0.05)

    def in_step(self) -> None:
        """Wait until the replica has everything."""
        while self.primary.wait(1, 1_000) < 1:
            time.sleep(0.01)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """A replica that follows its primary."""
    quick = {"repl-diskless-sync-delay": "0"}
    with (
        server(config=quick) as one,
        server(config=quick) as two,
        valkey.Valkey(port=one.port) as primary,
        valkey.Valkey(port=two.port) as replica,
    ):
        replica.replicaof("127.0.0.1", one.port)
        while replica.info("replication")["master_link_status"] != "up":
            time.sleep(0.01)
        yield Pair(primary, replica, tmp_path / "rows")


async def opened(url: str, rows: Path) -> RedisStore:
    """A store."""
    return await RedisStore.open(url, rows=rows, rng=random.Random(1))


async def live(store: RedisStore, start: int, count: int) -> None:
    """Orders of every fate: posted, above the hold, voided, expired, lapsed, late, and some still open."""
    for number in range(start, start + count):
        now_ms = T0 + number * 1_000
        hold = Hold(
            reservation_id=f"r{number}", order_id=f"o{number}", account="team", hold_nusd=100, hold_ms=5_000
        )
        outcome = await store.reserve(hold, now_ms)
        assert isinstance(outcome, Reservation)
        rid, fate = outcome.reservation_id, number % 6
        if fate in (0, 1, 4):
            await store.begin(rid, now_ms, 10_000)
        if fate == 0:
            await store.post(rid, 70, now_ms)
        elif fate == 1:
            await store.post(rid, 100, now_ms, house_nusd=30)
        elif fate == 2:
            await store.void(rid, now_ms)
        elif fate == 3:
            await store.post(rid, 40, now_ms + 5_000)
        elif fate == 4:
            await store.relayed(rid, 55)
    await store.deposit("org", count, f"batch {start}", T0)
    await store.sweep(T0 + (start + count) * 1_000)


async def standing(store: RedisStore) -> list[Balance]:
    """All balances."""
    return [(await store.balances(name, T0))[0] for name in await store.accounts()]


async def test_a_server_that_took_over_is_closed_until_reconciled_and_then_stands_where_the_old_one_did(
    pair: Pair,
) -> None:
    """The replica misses forty orders; after reconciling, every balance, hold and order is as on the old primary."""
    store = await opened(pair.urls[0], pair.rows)
    await store.put_account(Account(account_id="org", budget_nusd=10**9))
    await live_on_team(store, 0)
    pair.in_step()
    pair.promote()
    await store.put_account(Account(account_id="late", parent="org", budget_nusd=5))
    await live(store, 40, 40)
    await store.sweep(T0 + 80_000)
    before, last = await standing(store), await store.find_reservation(f"r77.{Tree.of_root('org').tag}")
    await store.aclose()
    with pytest.raises(StoreUnavailable, match="accounts reconcile"):
        await open_store(pair.urls[1], clock=_Still())
    assert sum((await reconcile_store(pair.urls[1])).values()) > 100
    assert sum((await reconcile_store(pair.urls[1])).values()) == 0, "again changes nothing"
    store = await opened(pair.urls[1], pair.rows)
    assert await standing(store) == before
    assert await store.find_reservation(f"r77.{Tree.of_root('org').tag}") == last
    assert not await store.audit()
    await live(store, 80, 6)
    assert not await store.audit()
    await store.aclose()


async def live_on_team(store: RedisStore, start: int) -> None:
    """A daily team and its first forty orders."""
    await store.put_account(Account(account_id="team", parent="org", budget_nusd=10**8, period=Period.DAY))
    await live(store, start, 40)


async def test_books_that_do_not_fit_keep_the_ledger_closed(pair: Pair) -> None:
    """A balance that no row explains is named, and the server stays refused."""
    store = await opened(pair.urls[0], pair.rows)
    await store.put_account(Account(account_id="org", budget_nusd=10**9))
    await live_on_team(store, 0)
    pair.in_step()
    pair.promote()
    await store.aclose()
    pair.replica.hincrby(Tree.of_root("org").account("org"), "posted", -1)
    with pytest.raises(StoreError, match="'org'"):
        await reconcile_store(pair.urls[1])
    with pytest.raises(StoreUnavailable, match="accounts reconcile"):
        await opened(pair.urls[1], pair.rows)


@pytest.mark.slow
async def test_sentinels_promote_a_replica_and_the_ledger_waits_for_the_operator(
    pair: Pair, tmp_path: Path
) -> None:
    """The primary dies, a sentinel promotes the replica: the same store refuses until reconciled, and then goes on."""
    port = pair.primary.connection_pool.connection_kwargs["port"]
    with one_sentinel(tmp_path, port) as sentinel:
        url = f"{sentinel}?rows={pair.rows}"
        store = await opened(url, pair.rows)
        await store.put_account(Account(account_id="org", budget_nusd=10**9))
        await live_on_team(store, 0)
        before = await standing(store)
        await asyncio.sleep(1.5)  # the sentinel learns of the replica
        with suppress(valkey.ConnectionError):
            pair.primary.shutdown(nosave=True)
        pair.until_promoted()
        await refused_for_its_past(store)
        assert sum((await reconcile_store(url)).values()) == 0
        await until_answered(store)
        assert await standing(store) == before
        await live(store, 40, 6)
        assert not await store.audit()
        await store.aclose()


async def refused_for_its_past(store: RedisStore) -> None:
    """The store answers with the reason once it has found the new primary."""
    for _ in range(400):
        with pytest.raises(StoreUnavailable) as caught:
            await store.accounts()
        if "accounts reconcile" in str(caught.value):
            return
        await asyncio.sleep(0.05)
    pytest.fail("the new primary was never refused")


async def until_answered(store: RedisStore) -> None:
    """Wait until the store has reconnected."""
    for _ in range(400):
        try:
            await store.accounts()
        except StoreUnavailable:
            await asyncio.sleep(0.05)
        else:
            return
    pytest.fail("the store did not come back")


async def test_a_replica_is_not_a_ledger(pair: Pair) -> None:
    """A store opened on the replica itself is refused."""
    with pytest.raises(StoreUnavailable, match="expected a primary"):
        await opened(pair.urls[1], pair.rows)


async def test_only_a_shared_store_can_fail_over() -> None:
    """An embedded ledger has nothing to reconcile."""
    with pytest.raises(InputInvalid, match="expected a Redis store"):
        await reconcile_store("embedded://")


class _Still:
    """A clock that stands."""

    def now_ms(self) -> int:
        """Always the same."""
        return T0
