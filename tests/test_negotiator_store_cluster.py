"""The shared store on a cluster: trees in one slot each, slots that move under it, processes that hammer it."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import valkey
from ledger_hammer import hammered
from valkey_servers import cluster_url, empty

from negotiator.errors import StoreUnavailable
from negotiator.order import Reservation
from negotiator.store import Account, Hold, LeaseAsk, Note, Shortfall
from negotiator.store_redis import RedisStore
from negotiator.store_redis_keys import Tree

T0 = 1_795_500_000_000
pytestmark = pytest.mark.slow


class Nodes:
    """The nodes of a cluster beside the store."""

    def __init__(self, url: str) -> None:
        ports = [int(port) for port in re.findall(r":(\d+)", url)]
        self.clients = [valkey.Valkey(port=port) for port in ports]
        self.ids = [client.execute_command("CLUSTER", "MYID").decode() for client in self.clients]

    def owner(self, slot: int) -> int:
        """Which node has a slot: the one that does not send others away."""
        for number, client in enumerate(self.clients):
            try:
                client.execute_command("CLUSTER", "COUNTKEYSINSLOT", slot)
                client.get(self.key_in(slot))
            except valkey.exceptions.ResponseError:
                continue
            return number
        raise AssertionError(f"nobody has slot {slot}")

    def key_in(self, slot: int) -> str:
        """A key of this slot that nobody uses."""
        return next(key for key in map("x{}".format, range(10**6)) if self.slot(key) == slot)

    def slot(self, key: str) -> int:
        """The slot of a key."""
        return int(self.clients[0].execute_command("CLUSTER", "KEYSLOT", key))

    def begin_move(self, slot: int) -> tuple[int, int]:
        """Announce that a slot moves to the next node; gives from and to."""
        source = self.owner(slot)
        target = (source + 1) % len(self.clients)
        self.clients[target].execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", self.ids[source])
        self.clients[source].execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", self.ids[target])
        return source, target

    def move_keys(self, slot: int, source: int, target: int) -> None:
        """Move what is in the slot."""
        port = self.clients[target].connection_pool.connection_kwargs["port"]
        keys = self.clients[source].execute_command("CLUSTER", "GETKEYSINSLOT", slot, 10_000)
        if keys:
            self.clients[source].execute_command("MIGRATE", "127.0.0.1", port, "", 0, 5_000, "KEYS", *keys)

    def end_move(self, slot: int, target: int) -> None:
        """The slot has moved."""
        for client in (self.clients[target], *self.clients):
            client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", self.ids[target])

    def close(self) -> None:
        """Close all clients."""
        for client in self.clients:
            client.close()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A cluster of three."""
    with cluster_url() as url:
        yield url


@pytest.fixture
def nodes(url: str) -> Iterator[Nodes]:
    """Its nodes, emptied."""
    empty(url)
    nodes = Nodes(url)
    yield nodes
    nodes.close()


@pytest.fixture
async def store(url: str, nodes: Nodes, tmp_path: Path) -> AsyncIterator[RedisStore]:
    """A store with ``team`` in ``org``."""
    store = await RedisStore.open(url, rows=tmp_path, rng=random.Random(1))
    await store.put_account(Account(account_id="org", budget_nusd=10_000))
    await store.put_account(Account(account_id="team", parent="org"))
    yield store
    await store.aclose()


def hold(number: int, nusd: int = 10) -> Hold:
    """Hold number so-and-so."""
    return Hold(
        reservation_id=f"r{number}", order_id=f"o{number}", account="team", hold_nusd=nusd, hold_ms=60_000
    )


async def serve(store: RedisStore, number: int) -> None:
    """An order's whole life: 10 held, 7 posted."""
    outcome = await store.reserve(hold(number), T0)
    assert isinstance(outcome, Reservation)
    await store.begin(outcome.reservation_id, T0, 1_000)
    await store.post(outcome.reservation_id, 7, T0, note=Note(response=b"x"))


async def test_a_tree_and_a_sellers_windows_share_a_slot_each(store: RedisStore, nodes: Nodes) -> None:
    """All keys of a tree are in one slot, all windows of a seller in another."""
    await serve(store, 1)
    await store.reserve(hold(2), T0)
    asks = [LeaseAsk(key=key, amount=5, per_ms=1_000, want=1) for key in ("acme:requests", "acme/m:tokens")]
    await store.lease("w", asks, 1_000, T0)
    keys = [key.decode() for client in nodes.clients for key in client.scan_iter(count=1_000)]
    tag = Tree.of_root("org").tag
    slots = {nodes.slot(key) for key in keys if tag in key}
    assert len(slots) == 1
    assert sum(tag in key for key in keys) >= 8
    assert len({nodes.slot(key) for key in keys if "rates:acme" in key}) == 1


async def test_a_slot_that_moved_is_followed(store: RedisStore, nodes: Nodes) -> None:
    """The ledger's slot goes to another node between two orders: the next order finds it there."""
    await serve(store, 1)
    slot = nodes.slot(Tree.of_root("org").seq)
    source, target = nodes.begin_move(slot)
    nodes.move_keys(slot, source, target)
    nodes.end_move(slot, target)
    await asyncio.gather(*(serve(store, number) for number in range(2, 40)))
    assert (await store.balances("org", T0))[0].posted_nusd == 7 * 39
    assert not await store.audit()


async def test_while_a_slot_moves_the_ledger_is_read_and_not_written(store: RedisStore, nodes: Nodes) -> None:
    """The keys have moved and the slot is not handed over: balances are found, new holds fail closed until it is."""
    await serve(store, 1)
    slot = nodes.slot(Tree.of_root("org").seq)
    source, target = nodes.begin_move(slot)
    nodes.move_keys(slot, source, target)
    assert (await store.balances("org", T0))[0].posted_nusd == 7
    with pytest.raises(StoreUnavailable, match="TryAgain"):
        await store.reserve(hold(2), T0)
    nodes.end_move(slot, target)
    await serve(store, 2)
    await store.sweep(T0)
    balance = (await store.balances("org", T0))[0]
    assert (balance.posted_nusd, balance.pending_nusd) == (14, 0)
    assert not await store.audit()


async def test_two_processes_on_one_account_never_overspend_and_leak_nothing(
    store: RedisStore, url: str, tmp_path: Path
) -> None:
    """Two processes hammer one account of 10,000 on the cluster: exact, nothing pending, no false refusal."""
    reports = await asyncio.to_thread(hammered, url, tmp_path)
    spent = sum(report["posted"] for report in reports)
    balance = (await store.balances("org", T0))[0]
    assert (balance.posted_nusd, balance.pending_nusd) == (spent, 0)
    assert spent <= 10_000
    assert sum(report["refused"] for report in reports) > 0
    if spent < 10_000:
        assert isinstance(await store.reserve(hold(1, 10_000 - spent), T0), Reservation)
    assert isinstance(await store.reserve(hold(2, 10_001 - spent), T0), Shortfall)
    assert not await store.audit()
