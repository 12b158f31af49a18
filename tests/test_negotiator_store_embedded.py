"""The embedded store as a file: killed, locked, full, tampered with, and kept small."""

from __future__ import annotations

import asyncio
import resource
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from negotiator import store_archive, store_embedded_file, store_embedded_orders
from negotiator.errors import InputInvalid, StoreError, StoreLocked, StoreUnavailable
from negotiator.order import Reservation
from negotiator.store import Account, Hold, LeaseAsk, Note
from negotiator.store_archive import RowArchive
from negotiator.store_embedded import EmbeddedStore
from negotiator.store_open import open_store
from negotiator.store_rows import Row
from providers.clock import LoopClock, SystemClock, run_virtual

T0 = 1_795_500_000_000
DAY = 86_400_000


def hold(number: int, nusd: int = 10) -> Hold:
    """Hold number so-and-so on ``team``."""
    return Hold(
        reservation_id=f"r{number}", order_id=f"o{number}", account="team", hold_nusd=nusd, hold_ms=60_000
    )


async def furnished(path: Path | None, budget_nusd: int = 10**9, **options: int) -> EmbeddedStore:
    """A store with ``org`` and its ``team``."""
    store = EmbeddedStore(path, clock=LoopClock(), **options)
    await store.put_account(Account(account_id="org", budget_nusd=budget_nusd))
    await store.put_account(Account(account_id="team", parent="org"))
    return store


async def serve(store: EmbeddedStore, number: int, now_ms: int = T0, note: Note | None = None) -> None:
    """An order's whole life: 10 held, 7 posted."""
    outcome = await store.reserve(hold(number), now_ms)
    assert isinstance(outcome, Reservation)
    await store.begin(outcome.reservation_id, now_ms, 1_000)
    await store.post(outcome.reservation_id, 7, now_ms, note=note)


# Crashes

CHILD = textwrap.dedent(
    """
    import asyncio, sys
    from pathlib import Path
    from negotiator.store import Account, Hold
    from negotiator.store_embedded import EmbeddedStore
    from providers.clock import SystemClock

    async def main():
        store = EmbeddedStore(Path(sys.argv[1]), clock=SystemClock())
        await store.put_account(Account(account_id="team", budget_nusd=10**9))
        async def order(number):
            hold = Hold(reservation_id=f"r{number}", order_id=f"o{number}", account="team", hold_nusd=10, hold_ms=60_000)
            await store.reserve(hold, 1_795_500_000_000)
            print("held", number, flush=True)
            if number % 3:
                await store.post(f"r{number}", 7, 1_795_500_000_000)
                print("posted", number, flush=True)
        for start in range(0, 10**6, 8):
            await asyncio.gather(*(order(start + step) for step in range(8)))

    asyncio.run(main())
    """
)


def report_of_a_killed_process(path: Path) -> list[list[str]]:
    """What a process said that it had done, until it was killed in the middle of it."""
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, text=True)
    with child:
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(400)]
        child.send_signal(signal.SIGKILL)
        lines += child.stdout.read().splitlines(keepends=True)
    assert child.returncode == -signal.SIGKILL
    return [line.split() for line in lines if line.endswith("\n")]


async def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """A process is killed in the middle of its work: every hold and settlement it had reported is in the file."""
    path = tmp_path / "ledger.db"
    told = report_of_a_killed_process(path)
    store = EmbeddedStore(path, clock=SystemClock())
    for word, number in told:
        found = await store.find_reservation(f"r{number}")
        assert found is not None, number
        if word == "posted":
            assert found.state == "posted"
    assert not await store.audit()
    balance = (await store.balances("team", T0))[0]
    posted = sum(word == "posted" for word, _ in told)
    assert balance.posted_nusd >= 7 * posted > 0
    swept = await store.sweep(T0 + 60_000)
    assert {settlement.state.value for settlement in swept} == {"expired"}
    assert (await store.balances("team", T0))[0].pending_nusd == 0
    await store.aclose()


async def test_a_crash_between_two_commits_forgets_only_what_was_not_answered(tmp_path: Path) -> None:
    """What a turn decided is not in the file before its commit, and after it all of it is."""
    path = tmp_path / "ledger.db"
    store = await furnished(path)
    asking = [asyncio.ensure_future(store.reserve(hold(number), T0)) for number in range(5)]
    await asyncio.sleep(0)
    store.abandon()
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    store = EmbeddedStore(path, clock=LoopClock())
    assert (await store.balances("team", T0))[0].pending_nusd == 0
    await asyncio.gather(*(store.reserve(hold(number), T0) for number in range(5)))
    store.abandon()
    store = EmbeddedStore(path, clock=LoopClock())
    assert (await store.balances("team", T0))[0].pending_nusd == 50
    await store.aclose()


async def test_what_one_turn_decides_is_one_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """200 orders side by side take three commits: all holds, all begins, all posts."""
    store = await furnished(tmp_path / "ledger.db")
    commits, commit = [], store_embedded_file.LedgerFile.commit

    def counted(file: store_embedded_file.LedgerFile, rows: list[Row]) -> None:
        commits.append(len(rows))
        commit(file, rows)

    monkeypatch.setattr(store_embedded_file.LedgerFile, "commit", counted)
    await asyncio.gather(*(serve(store, number) for number in range(200)))
    assert commits == [200, 200, 200]
    await store.aclose()


@pytest.mark.parametrize(("durability", "synchronous"), [("process", 1), ("power", 2)])
async def test_power_durability_waits_for_the_disk(tmp_path: Path, durability: str, synchronous: int) -> None:
    """``power`` makes SQLite sync its log with every commit (FULL), ``process`` leaves that to the kernel."""
    store = EmbeddedStore(tmp_path / "ledger.db", clock=LoopClock(), durability=durability)  # type: ignore[arg-type]
    assert store._file is not None
    assert store._file._db.execute("PRAGMA synchronous").fetchone() == (synchronous,)
    await store.aclose()


def test_a_file_works_in_virtual_time(tmp_path: Path) -> None:
    """A simulated day of orders on a real file passes at once, expiry included."""

    async def day() -> int:
        clock = LoopClock()
        store = EmbeddedStore(tmp_path / "ledger.db", clock=clock)
        await store.put_account(Account(account_id="team", budget_nusd=100))
        expired = 0
        for number in range(24):
            assert isinstance(await store.reserve(hold(number, 100), clock.now_ms()), Reservation)
            await asyncio.sleep(3_600)
            expired += len(await store.sweep(clock.now_ms()))
        await store.aclose()
        return expired

    assert run_virtual(day()) == 24


# The lock

HOLDER = textwrap.dedent(
    """
    import asyncio, sys
    from pathlib import Path
    from negotiator.store_embedded import EmbeddedStore
    from providers.clock import SystemClock

    async def main():
        store = EmbeddedStore(Path(sys.argv[1]), clock=SystemClock())
        print("open", flush=True)
        sys.stdin.readline()

    asyncio.run(main())
    """
)


@contextmanager
def holding_process(path: Path) -> Iterator[int]:
    """A process that holds the file until it is killed; gives its pid."""
    words = [sys.executable, "-c", HOLDER, str(path), "my server"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        yield holder.pid
        holder.kill()


async def test_a_second_process_is_refused_and_told_who_holds_the_file(tmp_path: Path) -> None:
    """The refusal names the holder's pid, command and since when; when the holder dies the file is free."""
    path = tmp_path / "ledger.db"
    with (
        holding_process(path) as holder,
        pytest.raises(StoreLocked, match=rf"process {holder} \(.*'my server'\) since 20..-..-.. .*--store"),
    ):
        await open_store(f"embedded://{path}", clock=SystemClock())
    store = await open_store(f"embedded://{path}", clock=SystemClock())
    await store.aclose()


async def test_a_closed_store_decides_nothing(tmp_path: Path) -> None:
    """After aclose every verb says that the store is closed."""
    store = await furnished(tmp_path / "ledger.db")
    await store.aclose()
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.reserve(hold(1), T0)


# Faults of the disk


@contextmanager
def full_disk(limit_bytes: int) -> Iterator[None]:
    """No file of this process may grow beyond a size: writes fail as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_full_disk_decides_nothing_and_the_store_comes_back(tmp_path: Path) -> None:
    """While the disk is full every verb fails and no money moves; with room again, work goes on where it was."""
    path = tmp_path / "ledger.db"
    store = await furnished(path)
    for number in range(50):
        await serve(store, number)
    await store.reserve(hold(50), T0)
    before = await store.balances("team", T0)
    with full_disk((path.parent / "ledger.db-wal").stat().st_size):
        outcomes = await asyncio.gather(
            *(store.reserve(hold(number), T0) for number in range(100, 300)),
            store.post("r50", 7, T0),
            return_exceptions=True,
        )
        assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}
        with pytest.raises(StoreUnavailable):
            await store.reserve(hold(400), T0)
    assert await store.balances("team", T0) == before
    settled = await store.post("r50", 7, T0)
    assert not settled.already
    await serve(store, 100)
    assert not await store.audit()
    store.abandon()
    store = EmbeddedStore(path, clock=LoopClock())
    assert (await store.balances("team", T0))[0].posted_nusd == 7 * 52
    await store.aclose()


async def test_a_bug_in_a_commit_leaves_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a commit raises, its callers hear of it, nothing was decided, and the next verb works."""
    store = await furnished(tmp_path / "ledger.db")
    with monkeypatch.context() as patched:
        patched.setattr(store_embedded_file, "_INSERT_ROW", "INSERT INTO rows VALUES (?)")
        with pytest.raises(StoreUnavailable):
            await asyncio.wait_for(store.reserve(hold(1), T0), 5)
    with monkeypatch.context() as patched:
        patched.setattr(store_embedded_file.LedgerFile, "commit", lambda file, rows: 1 / 0)
        with pytest.raises(StoreUnavailable, match="ZeroDivisionError"):
            await asyncio.wait_for(store.reserve(hold(1), T0), 5)
    assert (await store.balances("team", T0))[0].pending_nusd == 0
    await serve(store, 1)
    assert not await store.audit()
    await store.aclose()


async def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    """Text, a newer schema and an impossible place are each one clear message, and the lock is free again."""
    text = tmp_path / "notes.db"
    text.write_text("dear diary, " * 100)
    newer = tmp_path / "newer.db"
    with sqlite3.connect(newer) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    for path, message in ((text, "not a database"), (newer, "schema 99")):
        for _ in range(2):
            with pytest.raises(StoreError, match=message):
                EmbeddedStore(path, clock=LoopClock())
    with pytest.raises(StoreError, match="place to write"):
        EmbeddedStore(text / "ledger.db", clock=LoopClock())
    with pytest.raises(InputInvalid, match="embedded:///path"):
        await open_store("embedded://ledger.db", clock=LoopClock())


# The audit


async def spent(path: Path) -> None:
    """A file with ten settled orders, closed as by a crash."""
    store = await furnished(path)
    for number in range(10):
        await serve(store, number)
    store.abandon()


@pytest.mark.parametrize(
    ("tamper", "named"),
    [
        ("UPDATE rows SET nusd = 6 WHERE kind = 'post' AND reservation_id = 'r4'", "row 17 (post on 'team')"),
        ("UPDATE rows SET posted_nusd = 999 WHERE seq = 5", "row 5 (post on 'team')"),
        (
            "UPDATE rows SET reservation_id = 'r3' WHERE kind = 'post' AND reservation_id = 'r4'",
            "resolved before",
        ),
        (
            "UPDATE rows SET reservation_id = 'r3' WHERE kind = 'hold' AND reservation_id = 'r2'",
            "not held here",
        ),
        (
            "UPDATE rows SET kind = 'void' WHERE kind = 'post' AND reservation_id = 'r9'",
            "row 32 (void on 'team')",
        ),
        ("UPDATE rows SET nusd = 11 WHERE kind = 'post' AND reservation_id = 'r0'", "a hold of 10"),
        ("UPDATE rows SET detail = replace(detail, 'org', 'gro') WHERE seq = 2", "row 2 (account on 'team')"),
    ],
)
async def test_the_audit_names_the_first_row_that_does_not_fit(
    tmp_path: Path, tamper: str, named: str
) -> None:
    """Somebody changes one row in a running store's file; the recount says which."""
    store = await furnished(tmp_path / "ledger.db")
    for number in range(10):
        await serve(store, number)
    assert store._file is not None
    store._file._db.execute(tamper)
    (fault,) = await store.audit()
    assert named in fault
    await store.aclose()


async def test_a_missing_row_stops_the_start(tmp_path: Path) -> None:
    """A file from which a row was deleted is not opened as if nothing had happened."""
    path = tmp_path / "ledger.db"
    await spent(path)
    with sqlite3.connect(path) as database:
        database.execute("DELETE FROM rows WHERE seq = 7")
    database.close()
    with pytest.raises(StoreError, match="row 7"):
        EmbeddedStore(path, clock=LoopClock())


async def test_a_balance_that_no_row_explains_is_named(tmp_path: Path) -> None:
    """A checkpoint whose sums were changed starts a store whose books do not fit the rows."""
    path = tmp_path / "ledger.db"
    store = await furnished(path)
    await serve(store, 1)
    await store.aclose()
    with sqlite3.connect(path) as database:
        body = database.execute("SELECT body FROM checkpoints").fetchone()[0]
        database.execute("UPDATE checkpoints SET body = ?", (body.replace(b",7,0,0,7,", b",1,0,0,1,"),))
    database.close()
    store = EmbeddedStore(path, clock=LoopClock())
    (fault,) = await store.audit()
    assert fault.startswith("account 'team': the rows give Sums(posted_nusd=7")
    await store.aclose()


# Growth


async def test_old_rows_move_to_the_archive_and_the_file_stays_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty days of orders keep three days of rows in the file; archive and file together still add up."""
    monkeypatch.setattr(store_embedded_file, "CHECKPOINT_ROWS", 40)
    monkeypatch.setattr(store_embedded_file, "ARCHIVE_ROWS", 100)
    monkeypatch.setattr(store_archive, "MAX_FILE_BYTES", 20_000)
    path = tmp_path / "ledger.db"
    store = await furnished(path, keep_rows_ms=2 * DAY)
    for day in range(20):
        for number in range(30):
            await serve(store, day * 30 + number, T0 + day * DAY, Note(response=b"x" * 100))
        await store.sweep(T0 + day * DAY)
        await store.sweep(T0 + day * DAY + 1)
    assert not await store.audit()
    assert not await store.audit(archived=True)
    assert await store.find_order("team", "o0") is None, "its 24 hours are over"
    await store.aclose()
    archived = list(RowArchive(tmp_path / "ledger.db.rows").read())
    with sqlite3.connect(path) as database:
        kept = [row[0] for row in database.execute("SELECT seq FROM rows ORDER BY seq")]
        orders = database.execute("SELECT count(*) FROM orders").fetchone()[0]
        checkpoints = database.execute("SELECT count(*) FROM checkpoints").fetchone()[0]
    database.close()
    assert [row.seq for row in archived] + kept == list(range(1, 2 + 20 * 90 + 1))
    assert len(kept) <= 4 * 90
    assert orders <= 60
    assert checkpoints <= 5
    assert len(list((tmp_path / "ledger.db.rows").iterdir())) > 1
    store = EmbeddedStore(path, clock=LoopClock())
    assert (await store.balances("org", T0))[0].posted_nusd == 7 * 600
    assert not await store.audit(archived=True)
    await store.aclose()


def row(seq: int) -> Row:
    """Some row."""
    return Row(seq, T0, "void", "team", f"r{seq}", 0, 0, 0, 0, "", "")


def test_an_archive_survives_a_crash_while_it_writes(tmp_path: Path) -> None:
    """A last line cut in half is dropped and written again; rows that come twice count once."""
    archive = RowArchive(tmp_path)
    archive.append([row(1), row(2), row(3)])
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-20])
    again = RowArchive(tmp_path)
    assert again.last_seq == 2
    again.append([row(2), row(3), row(4)])
    assert [each.seq for each in RowArchive(tmp_path).read()] == [1, 2, 3, 4]


async def test_memory_keeps_a_bounded_amount_of_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a file the oldest answers are dropped first; their order ids stay taken."""
    monkeypatch.setattr(store_embedded_orders, "MAX_NOTE_BYTES", 1_000)
    store = await furnished(None)
    for number in range(20):
        await serve(store, number, note=Note(response=b"x" * 100))
    found = [await store.find_order("team", f"o{number}") for number in range(20)]
    assert [record is not None and record.response is not None for record in found] == [False] * 10 + [
        True
    ] * 10


async def test_memory_keeps_a_bounded_number_of_ids_that_the_house_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Beyond it the oldest are forgotten; ids that buyers made stay taken for their day, and the sums are right."""
    monkeypatch.setattr(store_embedded_orders, "MAX_OWN_ORDERS", 2)
    store = await furnished(None)
    for number in range(6):
        digests = {"messages": "aa"} if number < 2 else {}
        hold = Hold(
            reservation_id=f"r{number}",
            order_id=f"o{number}",
            account="team",
            hold_nusd=10,
            hold_ms=60_000,
            digests=digests,
        )
        await store.reserve(hold, T0)
        await store.post(f"r{number}", 7, T0)
    found = [await store.find_order("team", f"o{number}") for number in range(6)]
    assert [record is not None for record in found] == [True, True, False, False, True, True]
    assert not await store.audit()


async def test_memory_forgets_orders_after_a_day() -> None:
    """What resolved 24 hours ago is unknown, its id is free, and what is open stays."""
    store = await furnished(None)
    await serve(store, 1)
    await store.annotate("team", "refused", Note(history=b"x"), T0)
    await store.sweep(T0 + DAY + 1)
    assert await store.find_order("team", "o1") is None
    assert await store.find_order("team", "refused") is None
    with pytest.raises(LookupError):
        await store.post("r1", 7, T0 + DAY + 1)
    assert not await store.audit()


async def test_a_value_without_a_lifetime_outlives_the_process(tmp_path: Path) -> None:
    """Learnt state and leadership tokens are in the file, prices with a lifetime are not, leases start anew."""
    store = await furnished(tmp_path / "ledger.db")
    await store.publish("learnt", b"1")
    await store.publish("prices", b"2", ttl_ms=60_000)
    assert await store.lead("maker", "a", 1_000, T0) == 1
    await store.lease("w", [LeaseAsk(key="a:requests", amount=5, per_ms=1_000, want=5)], 1_000, T0)
    store.abandon()
    store = EmbeddedStore(tmp_path / "ledger.db", clock=LoopClock())
    assert (await store.read("learnt"), await store.read("prices")) == (b"1", None)
    assert await store.lead("maker", "b", 1_000, T0 + 2_000) == 2
    await store.aclose()
