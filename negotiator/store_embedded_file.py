"""The embedded store's file: SQLite in WAL mode as the log of rows, the orders of 24 hours, and checkpoints.

A commit without ``fsync`` survives the death of the process; ``durability="power"`` also survives a power cut.
Rows older than ``keep_ms`` move to append-only files in ``<path>.rows/``, so the file does not grow for ever.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Literal

import orjson

from .errors import StoreError, StoreUnavailable
from .order import HoldState
from .store_archive import RowArchive
from .store_audit import Recount, Sums
from .store_embedded_book import Book
from .store_embedded_entry import Entry
from .store_embedded_lock import FileLock
from .store_rows import Row

__all__ = ["Durability", "LedgerFile"]

Durability = Literal["process", "power"]

CHECKPOINT_ROWS: Final = 50_000
"""Rows between two checkpoints: what a start has to replay at most."""

ARCHIVE_ROWS: Final = 1_000
"""Rows moved to the archive per sweep: some milliseconds."""

_UPGRADES: Final = (
    """
    CREATE TABLE rows (
        seq INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, kind TEXT NOT NULL, account TEXT NOT NULL,
        reservation_id TEXT NOT NULL, nusd INTEGER NOT NULL, posted_nusd INTEGER NOT NULL,
        pending_nusd INTEGER NOT NULL, until_ms INTEGER NOT NULL, reference TEXT NOT NULL, detail TEXT NOT NULL
    ) STRICT;
    CREATE TABLE orders (
        id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, reservation_id TEXT NOT NULL,
        account TEXT NOT NULL, order_id TEXT NOT NULL, hold_nusd INTEGER NOT NULL, until_ms INTEGER NOT NULL,
        digests TEXT NOT NULL, state TEXT NOT NULL, relayed_nusd INTEGER NOT NULL, posted_nusd INTEGER NOT NULL,
        house_nusd INTEGER NOT NULL, suspense_nusd INTEGER NOT NULL, changed_ms INTEGER NOT NULL,
        response BLOB, history BLOB
    ) STRICT;
    CREATE INDEX orders_by_order ON orders (account, order_id);
    CREATE TABLE checkpoints (seq INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, body BLOB NOT NULL) STRICT;
    CREATE TABLE shared (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
    """,
)
"""Statements that lift a file from each schema version to the next."""

_INSERT_ROW: Final = "INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_FIELDS: Final = (
    "reservation_id, account, order_id, hold_nusd, until_ms, digests, state, relayed_nusd, posted_nusd,"
    " house_nusd, suspense_nusd, changed_ms, response, history"
)
_PUT_ORDER: Final = (
    f"INSERT INTO orders (key, {_FIELDS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (key) DO UPDATE SET until_ms = excluded.until_ms, state = excluded.state,"
    " relayed_nusd = excluded.relayed_nusd, posted_nusd = excluded.posted_nusd, house_nusd = excluded.house_nusd,"
    " suspense_nusd = excluded.suspense_nusd, changed_ms = excluded.changed_ms, response = excluded.response,"
    " history = excluded.history"
)
_ORDER_BY_ID: Final = (
    f"SELECT {_FIELDS} FROM orders WHERE account = ? AND order_id = ? ORDER BY id DESC LIMIT 1"
)
_ORDER_BY_KEY: Final = f"SELECT {_FIELDS} FROM orders WHERE key = ?"


class LedgerFile:
    """One open file; also the :class:`~.store_embedded_entry.OrderIndex` of its orders."""

    def __init__(self, path: Path, *, durability: Durability, keep_ms: int, now_ms: int) -> None:
        """Lock, open and upgrade. Raises StoreLocked, or StoreError for a file that is not a store."""
        self.path = path
        self._keep_ms = keep_ms
        self._put_orders: dict[str, Entry] = {}
        self._put_newest: dict[tuple[str, str], Entry] = {}
        self._rows_since = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{path}: expected a place to write, found: {error.strerror}") from None
        self._lock = FileLock(path.with_name(f"{path.name}.lock"), now_ms)
        self._archive = RowArchive(path.with_name(f"{path.name}.rows"))
        self._db = sqlite3.connect(path, isolation_level=None, cached_statements=64, timeout=1.0)
        try:
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version > len(_UPGRADES):
                raise StoreError(f"schema {version}; this version reads up to {len(_UPGRADES)}")
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute(f"PRAGMA synchronous = {'FULL' if durability == 'power' else 'NORMAL'}")
            self._db.execute("PRAGMA wal_autocheckpoint = 4000")
            for number, statements in enumerate(_UPGRADES[version:], start=version + 1):
                self._db.executescript(f"BEGIN; {statements} PRAGMA user_version = {number}; COMMIT;")
        except (sqlite3.Error, StoreError) as error:
            self.close()
            raise StoreError(f"{path}: expected a store of this program, found: {error}") from None

    # start and end

    def load(self, record: Callable[[Row], None]) -> Book:
        """The book as of the last commit; raises StoreError when a row is missing."""
        book = Book(record, self)
        checkpoint = self._checkpoint("SELECT body FROM checkpoints ORDER BY seq DESC LIMIT 1")
        if checkpoint is not None:
            book.restore(checkpoint)
        before = book.seq
        try:
            book.replay(self._rows(before))
        except StoreError as error:
            raise StoreError(f"{self.path}: {error}; restore the file from a backup") from None
        self._rows_since = book.seq - before
        for entry in book.open_entries():
            noted = self.by_reservation(entry.reservation_id)
            if noted is not None:
                entry.response, entry.history = noted.response, noted.history
        return book

    def close(self) -> None:
        """Give back file and lock."""
        self._db.close()
        self._lock.release()

    # commits

    def commit(self, rows: Sequence[Row]) -> None:
        """Make rows and changed orders durable together; raises StoreUnavailable with nothing written."""
        orders = [(key, *_values(entry)) for key, entry in self._put_orders.items()]
        try:
            with self._transaction():
                self._db.executemany(_INSERT_ROW, rows)
                if orders:
                    self._db.executemany(_PUT_ORDER, orders)
            self._rows_since += len(rows)
            for entry in self._put_orders.values():
                entry.kept = True
        finally:
            self._put_orders.clear()
            self._put_newest.clear()

    def probe(self) -> None:
        """Write something; raises StoreUnavailable while the file takes no writes."""
        with self._transaction():
            self._db.execute(f"PRAGMA user_version = {len(_UPGRADES)}")

    def tend(self, book: Book, now_ms: int, orders_before_ms: int, limit: int) -> None:
        """Housekeeping in small steps: old orders, a checkpoint when due, old rows to the archive."""
        with self._transaction():
            oldest = self._db.execute(
                "SELECT id, changed_ms FROM orders ORDER BY id LIMIT ?", (limit,)
            ).fetchall()
            old = [id_ for id_, changed_ms in oldest if changed_ms < orders_before_ms]
            self._db.executemany("DELETE FROM orders WHERE id = ?", [(id_,) for id_ in old])
        if self._rows_since >= CHECKPOINT_ROWS:
            self.checkpoint(book, now_ms)
        self._trim(now_ms)

    def checkpoint(self, book: Book, now_ms: int) -> None:
        """Write where the book stands; a start replays from here. One per day is kept, besides the newest."""
        day = now_ms // 86_400_000
        with self._transaction():
            newest = self._db.execute(
                "SELECT seq, at_ms FROM checkpoints ORDER BY seq DESC LIMIT 2"
            ).fetchall()
            if len(newest) == 2 and all(at_ms // 86_400_000 == day for _, at_ms in newest):
                self._db.execute("DELETE FROM checkpoints WHERE seq = ?", (newest[0][0],))
            self._db.execute(
                "INSERT OR REPLACE INTO checkpoints VALUES (?, ?, ?)",
                (book.seq, now_ms, orjson.dumps(book.snapshot())),
            )
        self._rows_since = 0

    def _trim(self, now_ms: int) -> None:
        """Move some rows before the newest checkpoint that is older than ``keep_ms`` to the archive."""
        found = self._db.execute(
            "SELECT max(seq) FROM checkpoints WHERE at_ms < ?", (now_ms - self._keep_ms,)
        ).fetchone()[0]
        if found is None:
            return
        rows = list(self._rows(0, found, ARCHIVE_ROWS))
        with self._transaction():
            if rows:
                self._archive.append(rows)
                self._db.execute("DELETE FROM rows WHERE seq <= ?", (rows[-1].seq,))
            else:
                self._db.execute("DELETE FROM checkpoints WHERE seq < ?", (found,))

    # orders

    def get(self, account: str, order_id: str) -> Entry | None:
        """The newest entry of an order id."""
        entry = self._put_newest.get((account, order_id)) or self._entry(_ORDER_BY_ID, (account, order_id))
        return None if entry is None else self._put_orders.get(entry.key, entry)

    def by_reservation(self, reservation_id: str) -> Entry | None:
        """The entry of a hold."""
        entry = self._put_orders.get(reservation_id) or self._entry(_ORDER_BY_KEY, (reservation_id,))
        return entry if entry is not None and entry.reservation_id == reservation_id else None

    def put(self, entry: Entry) -> None:
        """Keep an entry, or what changed in it, with the next commit."""
        self._put_orders[entry.key] = entry
        if not entry.kept:
            self._put_newest[entry.account, entry.order_id] = entry

    def _entry(self, query: str, values: tuple[str, ...]) -> Entry | None:
        try:
            found = self._db.execute(query, values).fetchone()
        except sqlite3.Error as error:
            raise StoreUnavailable(f"{self.path}: {error}") from None
        if found is None:
            return None
        fields: list[Any] = list(found)
        fields[6] = HoldState(fields[6])
        entry = Entry(*fields)
        entry.kept = True
        return entry

    # shared values

    def shared(self) -> dict[str, bytes]:
        """The values that outlive the process."""
        return dict(self._db.execute("SELECT key, value FROM shared"))

    def put_shared(self, key: str, value: bytes | None) -> None:
        """Keep one, or (None) remove it, at once; raises StoreUnavailable."""
        with self._transaction():
            if value is None:
                self._db.execute("DELETE FROM shared WHERE key = ?", (key,))
            else:
                self._db.execute("INSERT OR REPLACE INTO shared VALUES (?, ?)", (key, value))

    # audit

    def recount(self, sums: Mapping[str, Sums], *, archived: bool) -> str | None:
        """Recount from the oldest checkpoint here, or with ``archived`` from the very first row."""
        first = self._db.execute("SELECT min(seq) FROM rows").fetchone()[0]
        base = None
        if not archived and first != 1:
            base = self._checkpoint(
                "SELECT body FROM checkpoints WHERE seq >= ? ORDER BY seq LIMIT 1", (first or 0) - 1
            )
        recount = Recount(base)
        if base is None:
            recount.feed(row for row in self._archive.read() if first is None or row.seq < first)
        recount.feed(self._rows(recount.seq))
        return recount.compare(sums)

    # parts

    def _rows(self, after: int, until: int = 2**62, limit: int = -1) -> Iterator[Row]:
        found = self._db.execute(
            "SELECT * FROM rows WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?", (after, until, limit)
        )
        return (Row(*values) for values in found)

    def _checkpoint(self, query: str, *values: int) -> dict[str, Any] | None:
        found = self._db.execute(query, values).fetchone()
        body: dict[str, Any] | None = None if found is None else orjson.loads(found[0])
        return body

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            with suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise StoreUnavailable(f"{self.path}: {error}") from None


def _values(entry: Entry) -> tuple[object, ...]:
    return (
        entry.reservation_id,
        entry.account,
        entry.order_id,
        entry.hold_nusd,
        entry.until_ms,
        entry.digests,
        entry.state,
        entry.relayed_nusd,
        entry.posted_nusd,
        entry.house_nusd,
        entry.suspense_nusd,
        entry.changed_ms,
        entry.response,
        entry.history,
    )
