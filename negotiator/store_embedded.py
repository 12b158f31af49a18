"""The embedded store: one process tree, state in memory, a SQLite file as its log, no server and no threads.

Every verb decides at once. With a file, its answer waits for the commit of its turn of the event loop: all that was
decided in one turn is one transaction. When a commit fails, everything that waited for it fails with
StoreUnavailable and memory becomes again what the file says, so nothing was decided.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import orjson

from providers.clock import Clock

from .errors import StoreError, StoreUnavailable
from .order import Reservation, Settlement
from .store import Account, Balance, Hold, Lease, LeaseAsk, Note, OrderRecord, Shortfall, Unused
from .store_audit import Recount
from .store_embedded_book import Book
from .store_embedded_file import Durability, LedgerFile
from .store_embedded_orders import MemoryOrders
from .store_embedded_rates import MemoryRates
from .store_rows import Row

__all__ = ["EmbeddedStore"]

logger = logging.getLogger("negotiator.store")

DAY_MS: Final = 86_400_000
KEEP_ROWS_MS: Final = 7 * DAY_MS
"""How long rows stay in the file before they move to the archive beside it."""

TEND_LIMIT: Final = 1_000
"""Old orders forgotten per sweep."""

MAX_ROWS_IN_MEMORY: Final = 1_000
"""Rows a store without a file keeps before it recounts them and lets go."""


class EmbeddedStore:
    """See :class:`negotiator.store.Store` for what the verbs answer."""

    def __init__(
        self,
        path: Path | None = None,
        *,
        clock: Clock,
        durability: Durability = "process",
        keep_rows_ms: int = KEEP_ROWS_MS,
    ) -> None:
        """Open ``path`` (None: in memory). Raises StoreLocked or StoreError."""
        self._clock = clock
        self._rows: list[Row] = []
        self._waiting: list[asyncio.Future[None]] = []
        self._flush_on: asyncio.AbstractEventLoop | None = None
        self._fault = ""
        self._rates = MemoryRates()
        self._recount = Recount()
        self._shared: dict[str, tuple[bytes, int | None]] = {}
        self._orders = MemoryOrders()
        self._file: LedgerFile | None = None
        if path is None:
            self._book = Book(self._rows.append, self._orders)
            return
        self._file = LedgerFile(path, durability=durability, keep_ms=keep_rows_ms, now_ms=clock.now_ms())
        try:
            self._book = self._file.load(self._record)
        except StoreError:
            self._file.close()
            raise
        self._shared = {key: (value, None) for key, value in self._file.shared().items()}

    # money

    @property
    def immediate(self) -> bool:
        """Whether there is no file to wait for."""
        return self._file is None

    async def put_account(self, account: Account) -> None:
        """Create an account or change it."""
        self._revive()
        self._book.put_account(account)
        await self._committed()

    async def balances(self, account_id: str, now_ms: int) -> tuple[Balance, ...]:
        """The account, then its ancestors."""
        self._revive()
        return self._book.balances(account_id, now_ms)

    async def accounts(self) -> tuple[str, ...]:
        """All account ids, sorted."""
        self._revive()
        return self._book.accounts()

    async def deposit(self, account_id: str, nusd: int, reference: str, now_ms: int) -> Balance:
        """Raise an account's budget, once per reference."""
        self._revive()
        balance = self._book.deposit(account_id, nusd, reference, now_ms)
        await self._committed()
        return balance

    async def find_order(self, account: str, order_id: str) -> OrderRecord | None:
        """What became of an order id."""
        self._revive()
        entry = self._book.find_order(account, order_id)
        return None if entry is None else entry.order_record()

    async def find_reservation(self, reservation_id: str) -> Reservation | None:
        """The hold with this id."""
        self._revive()
        entry = self._book.find_reservation(reservation_id)
        return None if entry is None else entry.reservation()

    async def reserve(self, hold: Hold, now_ms: int) -> Reservation | OrderRecord | Shortfall:
        """Claim the order id and hold the money on account and ancestors, or change nothing."""
        self._revive()
        self._let_go()
        outcome = self._book.reserve(hold, now_ms)
        try:
            await self._committed()
        except asyncio.CancelledError:
            with suppress(LookupError, StoreUnavailable):
                if isinstance(outcome, Reservation) and not self._fault:
                    self._book.void(outcome.reservation_id, now_ms, None)
            raise
        return outcome

    async def begin(self, reservation_id: str, now_ms: int, in_doubt_ms: int) -> None:
        """A call is about to reach a seller."""
        self._revive()
        try:
            self._book.begin(reservation_id, now_ms, in_doubt_ms)
        finally:  # that a hold is over is said when it is written
            await self._committed()

    async def relayed(self, reservation_id: str, nusd: int) -> None:
        """At least so much is owed so far."""
        self._revive()
        self._book.relayed(reservation_id, nusd)
        await self._committed()

    async def post(
        self,
        reservation_id: str,
        posted_nusd: int,
        now_ms: int,
        *,
        house_nusd: int = 0,
        note: Note | None = None,
    ) -> Settlement:
        """Charge and release the rest."""
        self._revive()
        settlement = self._book.post(reservation_id, posted_nusd, now_ms, house_nusd, note)
        await self._committed()
        return settlement

    async def void(self, reservation_id: str, now_ms: int, *, note: Note | None = None) -> Settlement:
        """Release the whole hold and free the order id."""
        self._revive()
        settlement = self._book.void(reservation_id, now_ms, note)
        await self._committed()
        return settlement

    async def annotate(self, account: str, order_id: str, note: Note, now_ms: int) -> None:
        """Write response or history beside an order."""
        self._revive()
        self._book.annotate(account, order_id, note, now_ms)
        self._schedule()
        await self._committed()

    async def sweep(self, now_ms: int, limit: int = 1000) -> Sequence[Settlement]:
        """Resolve what is overdue, forget what is old."""
        self._revive()
        settlements = self._book.sweep(now_ms, limit)
        await self._committed()
        if self._file is None:
            self._orders.prune(now_ms - DAY_MS, TEND_LIMIT)
        else:
            self._flush()
            self._revive()
            self._file.tend(self._book, now_ms, now_ms - DAY_MS, TEND_LIMIT)
        self._let_go()
        over = [
            key for key, (_, until_ms) in self._shared.items() if until_ms is not None and until_ms <= now_ms
        ]
        for key in over:
            del self._shared[key]
        return settlements

    async def audit(self, *, archived: bool = False) -> Sequence[str]:
        """The first row that does not fit; ``archived``: from the very first row on, archive included."""
        self._revive()
        if self._file is None:
            self._let_go(0)
            fault = self._recount.compare(self._book.sums())
        else:
            self._flush()
            self._revive()
            fault = self._file.recount(self._book.sums(), archived=archived)
        return () if fault is None else (fault,)

    # rates and shared values

    async def lease(
        self, worker: str, asks: Sequence[LeaseAsk], lease_ms: int, now_ms: int
    ) -> Sequence[Lease]:
        """One lease per ask, in order."""
        return self._rates.lease(worker, asks, lease_ms, now_ms)

    async def give_back(self, worker: str, unused: Sequence[Unused], now_ms: int) -> None:
        """Return what was leased and not used."""
        self._rates.give_back(worker, unused, now_ms)

    async def correct(self, key: str, remaining: int, now_ms: int) -> None:
        """The vendor's word on what is left."""
        self._rates.correct(key, remaining, now_ms)

    async def publish(self, key: str, value: bytes, ttl_ms: int | None = None) -> None:
        """Set a value; one without ``ttl_ms`` outlives the process."""
        if self._file is not None and ttl_ms is None:
            self._file.put_shared(key, value)
        self._shared[key] = (value, None if ttl_ms is None else self._clock.now_ms() + ttl_ms)

    async def read(self, key: str) -> bytes | None:
        """The value, None = never set or expired."""
        value, until_ms = self._shared.get(key, (None, None))
        if until_ms is not None and until_ms <= self._clock.now_ms():
            del self._shared[key]
            return None
        return value

    async def put_entry(self, table: str, key: str, value: bytes | None) -> None:
        """Set or (None) remove an entry of a table."""
        name = f"{table}/{key}"
        if value is not None:
            await self.publish(name, value)
            return
        if self._file is not None:
            self._file.put_shared(name, None)
        self._shared.pop(name, None)

    async def entry(self, table: str, key: str) -> bytes | None:
        """One entry of a table."""
        return await self.read(f"{table}/{key}")

    async def entries(self, table: str) -> Mapping[str, bytes]:
        """All entries of a table."""
        start = f"{table}/"
        return {
            name.removeprefix(start): value
            for name, (value, _) in self._shared.items()
            if name.startswith(start)
        }

    async def lead(self, role: str, holder: str, ttl_ms: int, now_ms: int) -> int | None:
        """Become or stay the leader of a role."""
        key = f"~lead/{role}"
        value = await self.read(key)
        leader, token, until_ms = orjson.loads(value) if value is not None else ("", 0, 0)
        if leader != holder:
            if until_ms > now_ms:
                return None
            token += 1
        await self.publish(key, orjson.dumps([holder, token, now_ms + ttl_ms]))
        return int(token)

    # commits

    def _record(self, row: Row) -> None:
        self._rows.append(row)
        self._schedule()

    def _schedule(self) -> None:
        loop = asyncio.get_running_loop()
        if self._flush_on is not loop and self._file is not None:
            self._flush_on = loop
            loop.call_soon(self._flush)

    async def _committed(self) -> None:
        """Wait for the commit of this turn, if there will be one."""
        if self._flush_on is not None:
            waiter = self._flush_on.create_future()
            self._waiting.append(waiter)
            await waiter

    def _flush(self) -> None:
        """Commit what this turn decided and let its callers go on."""
        if self._file is None or self._flush_on is None:
            return
        self._flush_on = None
        rows, waiting, fault = self._rows[:], self._waiting[:], ""
        self._rows.clear()
        self._waiting.clear()
        try:
            self._file.commit(rows)
        except StoreUnavailable as error:
            self._fault = fault = str(error)
        except Exception as error:  # a bug: nobody waits for ever, nothing was decided
            logger.exception("the commit of a turn failed")
            self._fault = fault = f"{type(error).__name__}: {error}"
        for waiter in waiting:
            if not waiter.done():
                if fault:
                    waiter.set_exception(StoreUnavailable(fault))
                else:
                    waiter.set_result(None)

    def _revive(self) -> None:
        """After a failed commit: once the file takes writes again, become what it says."""
        if self._fault and self._file is not None:
            self._file.probe()
            self._book = self._file.load(self._record)
            self._fault = ""
        elif self._fault:
            raise StoreUnavailable(self._fault)

    def _let_go(self, keep: int = MAX_ROWS_IN_MEMORY) -> None:
        if self._file is None and len(self._rows) > keep:
            self._recount.feed(self._rows)
            self._rows.clear()

    def abandon(self) -> None:
        """Leave as a killed process would: what is not committed is lost, the lock goes."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._fault = "the store was abandoned"

    async def aclose(self) -> None:
        """Commit, write a checkpoint, give back file and lock."""
        if self._file is not None:
            self._flush()
            if not self._fault:
                with suppress(StoreUnavailable):
                    self._file.checkpoint(self._book, self._clock.now_ms())
            self._file.close()
            self._file = None
        self._fault = self._fault or "the store is closed"
