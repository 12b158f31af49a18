"""Money in Redis: one script per verb, on the keys of one account tree."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import orjson

from .errors import HoldResolved, StoreUnavailable
from .order import HoldState, Reservation, Settlement
from .store import Account, Balance, Hold, Note, OrderRecord, Shortfall
from .store_redis_accounts import AccountDirectory, run
from .store_redis_archive import StreamArchive, recount
from .store_redis_keys import Line, Tree, balance_of, order_of, reservation_of, settlement_of
from .store_redis_link import Link, Script
from .store_rows import check_amounts

__all__ = ["RedisLedger"]

MAX_PLACES: Final = 100_000
"""Open holds of this worker whose account and order are remembered to save a round trip."""

MAX_ORPHANS: Final = 10_000
"""Holds to void because nobody heard of them; beyond, they expire by themselves."""

RESERVE_TRIES: Final = 5
_FREE: Final = (HoldState.VOIDED, HoldState.EXPIRED)


class RedisLedger:
    """See :class:`negotiator.store.LedgerStore` for what the verbs answer."""

    immediate = False

    def __init__(self, link: Link, archive: StreamArchive) -> None:
        self._link = link
        self._archive = archive
        self._directory = AccountDirectory(link)
        self._money = Script("store_redis_rows.lua", "store_redis_money.lua")
        self._notes = Script("store_redis_rows.lua", "store_redis_accounts.lua")
        self._places: OrderedDict[str, tuple[str, str]] = OrderedDict()
        self._orphans: dict[str, None] = {}

    # accounts

    async def put_account(self, account: Account) -> None:
        """Create an account or change it."""
        await self._directory.put(account)

    async def balances(self, account_id: str, now_ms: int) -> tuple[Balance, ...]:
        """The account, then its ancestors."""
        return await self._directory.balances(account_id, now_ms)

    async def accounts(self) -> tuple[str, ...]:
        """All account ids, sorted."""
        return await self._directory.names()

    async def deposit(self, account_id: str, nusd: int, reference: str, now_ms: int) -> Balance:
        """Raise an account's budget, once per reference."""
        return await self._directory.deposit(account_id, nusd, reference, now_ms)

    # holds

    async def reserve(self, hold: Hold, now_ms: int) -> Reservation | OrderRecord | Shortfall:
        """Claim the order id and hold the money on account and ancestors, or change nothing."""
        check_amounts(hold=hold.hold_nusd)
        line = await self._directory.line(hold.account)
        if line is None:
            return Shortfall(account=hold.account, needed_nusd=hold.hold_nusd, balance=None)
        for _ in range(RESERVE_TRIES):
            outcome = await self._try_reserve(hold, line, now_ms)
            if outcome is not None:
                return outcome
        raise StoreUnavailable(f"order {hold.order_id!r} changed whenever it was looked at")

    async def _try_reserve(
        self, hold: Hold, line: Line, now_ms: int
    ) -> Reservation | OrderRecord | Shortfall | None:
        """One attempt; None = what had the order id is gone by now."""
        reservation_id = f"{hold.reservation_id}.{line.tree.tag}"
        answer = run(
            self._link,
            self._money,
            "reserve",
            line.money_keys(reservation_id, hold.order_id),
            reservation_id,
            hold.account,
            hold.order_id,
            hold.hold_nusd,
            now_ms + hold.hold_ms,
            orjson.dumps(dict(hold.digests)),
            "" if hold.in_doubt_ms is None else now_ms + hold.in_doubt_ms,
            now_ms=now_ms,
        )
        self._place(reservation_id, hold.account, hold.order_id)
        try:
            reply = await asyncio.shield(answer)
        except (asyncio.CancelledError, StoreUnavailable):
            self._orphan(reservation_id)  # it may hold or not; nobody will begin on it
            raise
        verdict = reply[0]
        if verdict == b"held":
            return reservation_of(reply[1:])
        self._places.pop(reservation_id, None)
        if verdict == b"short":
            account = line.accounts[int(reply[1])]
            balance = balance_of(account, reply[2:], now_ms)
            return Shortfall(account=account, needed_nusd=hold.hold_nusd, balance=balance)
        if verdict == b"taken":
            record = await self._peek(reply[1].decode(), now_ms)
            if record is None or HoldState(record[7].decode()) in _FREE:
                return None
            return order_of(record[2:])
        assert verdict == b"unknown", reply
        return Shortfall(account=hold.account, needed_nusd=hold.hold_nusd, balance=None)

    async def begin(self, reservation_id: str, now_ms: int, in_doubt_ms: int) -> None:
        """A call is about to reach a seller."""
        keys = await self._keys(reservation_id)
        reply = [b"resolved"]
        if keys is not None:
            reply = await run(self._link, self._money, "begin", keys, now_ms + in_doubt_ms, now_ms=now_ms)
        if reply[0] == b"resolved":
            raise HoldResolved(f"reservation {reservation_id} is no longer held")

    async def relayed(self, reservation_id: str, nusd: int) -> None:
        """At least so much is owed so far."""
        check_amounts(relayed=nusd)
        keys = await self._keys(reservation_id)
        if keys is not None:
            await run(self._link, self._money, "relayed", keys, nusd)

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
        check_amounts(posted=posted_nusd, house=house_nusd)
        return await self._resolve("post", reservation_id, now_ms, posted_nusd, house_nusd, *_parts(note))

    async def void(self, reservation_id: str, now_ms: int, *, note: Note | None = None) -> Settlement:
        """Release the whole hold and free the order id."""
        return await self._resolve("void", reservation_id, now_ms, *_parts(note))

    async def _resolve(self, verb: str, reservation_id: str, now_ms: int, *args: Any) -> Settlement:
        keys = await self._keys(reservation_id)
        reply = (
            [b"unknown"]
            if keys is None
            else await run(self._link, self._money, verb, keys, *args, now_ms=now_ms)
        )
        self._places.pop(reservation_id, None)
        if reply[0] == b"unknown":
            raise LookupError(f"expected a reservation of the last 24 hours, found {reservation_id!r}")
        if reply[0] == b"above":
            raise ValueError(f"expected posted <= {int(reply[1])}, found {args[0]}")
        return settlement_of(reply[2:], already=reply[0] == b"late", suspense_nusd=int(reply[1]))

    async def sweep(self, now_ms: int, limit: int = 1000) -> Sequence[Settlement]:
        """Resolve what is overdue and void what nobody will begin on."""
        for reservation_id in tuple(self._orphans):
            with suppress(LookupError):
                await self.void(reservation_id, now_ms)
            self._orphans.pop(reservation_id, None)
        trees = await self._directory.trees()
        due = await asyncio.gather(
            *(
                self._link.call(tree.due, "ZRANGEBYSCORE", tree.due, "-inf", now_ms, "LIMIT", 0, limit)
                for tree in trees
            )
        )
        overdue = [reservation_id.decode() for found in due for reservation_id in found][:limit]
        lapsed = await asyncio.gather(*(self._peek(reservation_id, now_ms) for reservation_id in overdue))
        return [
            settlement_of(record[2:], already=False, suspense_nusd=0)
            for record in lapsed
            if record is not None and record[0] == b"lapsed"
        ]

    # orders

    async def find_order(self, account: str, order_id: str) -> OrderRecord | None:
        """What became of an order id."""
        line = await self._directory.line(account)
        if line is None:
            return None
        key = line.tree.order(account, order_id)
        name = await self._link.call(key, "GET", key)
        record = None if name is None else await self._record(line.tree, name.decode().removeprefix("-"))
        return None if record is None else order_of(record)

    async def find_reservation(self, reservation_id: str) -> Reservation | None:
        """The hold with this id."""
        tree = Tree.of_reservation(reservation_id)
        record = None if tree is None else await self._record(tree, reservation_id)
        return None if record is None else reservation_of(record)

    async def annotate(self, account: str, order_id: str, note: Note, now_ms: int) -> None:
        """Write response or history beside an order."""
        line = await self._directory.line(account)
        if line is None:
            return
        key = line.tree.order(account, order_id)
        found = await self._link.call(key, "GET", key)
        unheld = f"~{account}/{order_id}"
        name = unheld if found is None else found.decode().removeprefix("-")
        args = (account, order_id, *_parts(note), unheld)
        await run(self._link, self._notes, "annotate", [line.tree.hold(name), key], *args, now_ms=now_ms)

    async def booked_nusd(self, reservation_id: str) -> int:
        """What was booked of a hold's bill so far, wherever."""
        tree = Tree.of_reservation(reservation_id)
        record = None if tree is None else await self._record(tree, reservation_id)
        return 0 if record is None else sum(map(int, record[7:10]))

    async def _record(self, tree: Tree, name: str) -> list[Any] | None:
        key = tree.hold(name)
        fields = (
            "rid",
            "account",
            "order",
            "hold",
            "until",
            "state",
            "digests",
            "posted",
            "house",
            "suspense",
        )
        record: list[Any] = await self._link.call(key, "HMGET", key, *fields, "response", "history")
        return None if record[0] is None else record

    # audit

    async def audit(self, *, archived: bool = False) -> Sequence[str]:
        """The first row, or account, of each tree that does not fit; ``archived``: from the very first row on."""
        faults = []
        for root, names in (await self._directory.members()).items():
            tree = Tree.of_root(root)
            rows = self._archive.files(tree).read() if archived else None
            faults.append(await recount(self._link, self._notes, tree, names, rows))
        return [fault for fault in faults if fault is not None]

    # parts

    def _place(self, reservation_id: str, account: str, order_id: str) -> None:
        self._places[reservation_id] = (account, order_id)
        if len(self._places) > MAX_PLACES:
            self._places.popitem(last=False)

    def _orphan(self, reservation_id: str) -> None:
        if len(self._orphans) < MAX_ORPHANS:
            self._orphans[reservation_id] = None

    async def _keys(self, reservation_id: str) -> list[str] | None:
        """The money script's keys for a hold, None = unknown."""
        account, order_id = self._places.get(reservation_id, ("", ""))
        if not account:
            tree = Tree.of_reservation(reservation_id)
            record = None if tree is None else await self._record(tree, reservation_id)
            if record is None:
                return None
            account, order_id = record[1].decode(), record[2].decode()
        line = await self._directory.line(account)
        assert line is not None, f"{account!r} holds money and is not in the directory"
        return line.money_keys(reservation_id, order_id)

    async def _peek(self, reservation_id: str, now_ms: int) -> list[Any] | None:
        """The hold, resolved first when its time is over; None = unknown."""
        keys = await self._keys(reservation_id)
        if keys is None:
            return None
        reply: list[Any] = await run(self._link, self._money, "peek", keys, now_ms=now_ms)
        return None if reply[0] == b"unknown" else reply


def _parts(note: Note | None) -> tuple[bytes, bytes]:
    return (b"", b"") if note is None else (note.response or b"", note.history or b"")
