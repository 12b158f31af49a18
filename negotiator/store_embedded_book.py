"""Money in memory: accounts, open holds and what resolves them. Pure: no clock, no I/O, no await.

Every verb decides and changes state in one step and hands the row of what it did to ``record``. :meth:`Book.replay`
applies rows again after a restart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import orjson

from .errors import HoldResolved, StoreError
from .order import HoldState, Reservation, Settlement
from .store import (
    DEFAULT_ACCOUNT,
    HOUSE,
    SUSPENSE,
    Account,
    Balance,
    Hold,
    Note,
    OrderRecord,
    Shortfall,
)
from .store_audit import Sums
from .store_embedded_accounts import AccountTrees
from .store_embedded_entry import Entry, Node, OrderIndex
from .store_rows import Row, RowKind, account_from, account_text, check_amounts

__all__ = ["Book"]


class Book:
    """All accounts and open holds of one embedded store."""

    def __init__(self, record: Callable[[Row], None], orders: OrderIndex) -> None:
        self._record = record
        self._orders = orders
        self.seq = 0
        self._accounts = AccountTrees()
        self._open: dict[str, Entry] = {}
        self._open_orders: dict[tuple[str, str], Entry] = {}

    # accounts

    def put_account(self, account: Account) -> None:
        """Create or change an account; raises InputInvalid."""
        if account.parent == DEFAULT_ACCOUNT:
            self._find(DEFAULT_ACCOUNT)
        self._accounts.check(account)
        self._accounts.define(account)
        self._write(0, RowKind.ACCOUNT, self._accounts[account.account_id], detail=account_text(account))

    def _find(self, account_id: str) -> Node | None:
        """The account; the default one is made, without a limit, when it is first needed."""
        node = self._accounts.get(account_id)
        if node is None and account_id == DEFAULT_ACCOUNT:
            self.put_account(Account(account_id=account_id))
            node = self._accounts[account_id]
        return node

    def accounts(self) -> tuple[str, ...]:
        """All account ids, sorted."""
        return self._accounts.names()

    def balances(self, account_id: str, now_ms: int) -> tuple[Balance, ...]:
        """The account and its ancestors; empty = unknown."""
        return self._accounts.balances(account_id, now_ms)

    def deposit(self, account_id: str, nusd: int, reference: str, now_ms: int) -> Balance:
        """Raise the budget of an account that has one, once per reference; raises InputInvalid."""
        self._find(account_id)
        if self._accounts.check_deposit(account_id, nusd, reference, now_ms):
            self._accounts.deposit(account_id, nusd, reference, now_ms)
            node = self._accounts[account_id]
            self._write(now_ms, RowKind.DEPOSIT, node, nusd=nusd, reference=reference)
        return self._accounts[account_id].balance(now_ms)

    # holds

    def reserve(self, hold: Hold, now_ms: int) -> Reservation | OrderRecord | Shortfall:
        """Claim the order id and hold the money, or change nothing."""
        check_amounts(hold=hold.hold_nusd)
        node = self._find(hold.account)
        if node is None:
            return Shortfall(account=hold.account, needed_nusd=hold.hold_nusd, balance=None)
        entry = self._open_orders.get((hold.account, hold.order_id))
        if entry is not None:
            if entry.reservation_id == hold.reservation_id:
                return entry.reservation()
            if entry.until_ms > now_ms:
                return entry.order_record()
            self._lapse(entry, now_ms)
        entry = self._orders.get(hold.account, hold.order_id)
        if entry is not None and entry.state is HoldState.POSTED:
            return entry.order_record()
        short = self._accounts.shortfall(node, hold.hold_nusd, now_ms)
        if short is not None:
            return short
        entry = Entry(
            reservation_id=hold.reservation_id,
            account=hold.account,
            order_id=hold.order_id,
            hold_nusd=hold.hold_nusd,
            until_ms=now_ms + hold.hold_ms,
            digests=orjson.dumps(dict(hold.digests)).decode() if hold.digests else "{}",
        )
        self._place(node, entry, now_ms)
        self._write(
            now_ms,
            RowKind.HOLD,
            node,
            entry,
            nusd=hold.hold_nusd,
            reference=hold.order_id,
            detail=entry.digests,
        )
        if hold.in_doubt_ms is not None:
            self._begin(entry, now_ms, hold.in_doubt_ms)
        return entry.reservation()

    def begin(self, reservation_id: str, now_ms: int, in_doubt_ms: int) -> None:
        """The hold is in doubt from here; raises HoldResolved."""
        entry = self._live(reservation_id, now_ms)
        if entry is None:
            raise HoldResolved(f"reservation {reservation_id} is no longer held")
        self._begin(entry, now_ms, in_doubt_ms)

    def _begin(self, entry: Entry, now_ms: int, in_doubt_ms: int) -> None:
        entry.state = HoldState.IN_DOUBT
        entry.until_ms = max(entry.until_ms, now_ms + in_doubt_ms)
        self._write(now_ms, RowKind.BEGIN, self._accounts[entry.account], entry)

    def relayed(self, reservation_id: str, nusd: int) -> None:
        """At least so much is owed so far."""
        check_amounts(relayed=nusd)
        entry = self._open.get(reservation_id)
        if entry is not None and nusd > entry.relayed_nusd:
            entry.relayed_nusd = nusd
            self._write(0, RowKind.RELAYED, self._accounts[entry.account], entry, nusd=nusd)

    def post(
        self, reservation_id: str, posted_nusd: int, now_ms: int, house_nusd: int, note: Note | None
    ) -> Settlement:
        """Charge, release the rest; a late bill goes to suspense. Raises LookupError for an unknown hold."""
        check_amounts(posted=posted_nusd, house=house_nusd)
        entry = self._live(reservation_id, now_ms)
        if entry is None:
            return self._late(reservation_id, posted_nusd + house_nusd, now_ms, note)
        if posted_nusd > entry.hold_nusd:
            raise ValueError(f"expected posted <= {entry.hold_nusd}, found {posted_nusd}")
        entry.add(note)
        self._resolve(entry, HoldState.POSTED, posted_nusd, now_ms)
        if house_nusd:
            entry.house_nusd = house_nusd
            self._book(HOUSE, RowKind.HOUSE, entry, house_nusd, now_ms)
        return entry.settlement(already=False)

    def void(self, reservation_id: str, now_ms: int, note: Note | None) -> Settlement:
        """Release the hold and its order id. Raises LookupError for an unknown hold."""
        entry = self._live(reservation_id, now_ms)
        if entry is None:
            return self._late(reservation_id, 0, now_ms, note)
        entry.add(note)
        self._resolve(entry, HoldState.VOIDED, 0, now_ms)
        return entry.settlement(already=False)

    def sweep(self, now_ms: int, limit: int) -> list[Settlement]:
        """Resolve what is overdue."""
        due = [entry for entry in self._open.values() if entry.until_ms <= now_ms][:limit]
        for entry in due:
            self._lapse(entry, now_ms)
        return [entry.settlement(already=False) for entry in due]

    # orders

    def find_order(self, account: str, order_id: str) -> Entry | None:
        """The entry of an order id, open or not."""
        return self._open_orders.get((account, order_id)) or self._orders.get(account, order_id)

    def find_reservation(self, reservation_id: str) -> Entry | None:
        """The entry of a hold, open or not."""
        return self._open.get(reservation_id) or self._orders.by_reservation(reservation_id)

    def annotate(self, account: str, order_id: str, note: Note, now_ms: int) -> None:
        """Write beside an order, also one that never had a hold."""
        entry = self.find_order(account, order_id)
        if entry is None:
            entry = Entry("", account, order_id, 0, 0, "{}", HoldState.VOIDED, changed_ms=now_ms)
        entry.add(note)
        self._orders.put(entry)

    # recovery and audit

    def sums(self) -> dict[str, Sums]:
        """How every account stands."""
        return self._accounts.sums()

    def open_entries(self) -> tuple[Entry, ...]:
        """All unresolved holds."""
        return tuple(self._open.values())

    def snapshot(self) -> dict[str, Any]:
        """All there is to restore, as JSON values."""
        return {
            "seq": self.seq,
            "accounts": self._accounts.save(),
            "holds": [entry.save() for entry in self._open.values()],
        }

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Become what :meth:`snapshot` described."""
        self.seq = snapshot["seq"]
        self._accounts.load(snapshot["accounts"])
        for saved in snapshot["holds"]:
            self._keep(Entry.load(saved))

    def replay(self, rows: Iterable[Row]) -> None:
        """Apply rows that were recorded before; raises StoreError when one is missing."""
        record, self._record = self._record, lambda row: None
        for row in rows:
            if row.seq != self.seq + 1:
                raise StoreError(f"row {self.seq + 1} is missing")
            self._apply(row)
            self.seq = row.seq
        self._record = record

    def _apply(self, row: Row) -> None:
        if row.kind == RowKind.ACCOUNT:
            self._accounts.define(account_from(row.account, row.detail))
            return
        node = self._accounts[row.account]
        if row.kind == RowKind.DEPOSIT:
            self._accounts.deposit(row.account, row.nusd, row.reference, row.at_ms)
        elif row.kind == RowKind.HOLD:
            entry = Entry(row.reservation_id, row.account, row.reference, row.nusd, row.until_ms, row.detail)
            self._place(node, entry, row.at_ms)
        elif row.kind in (RowKind.HOUSE, RowKind.SUSPENSE):
            self._accounts.draw(node, row.nusd, 0, row.at_ms)
        elif row.kind == RowKind.BEGIN:
            entry = self._open[row.reservation_id]
            entry.state, entry.until_ms = HoldState.IN_DOUBT, row.until_ms
        elif row.kind == RowKind.RELAYED:
            self._open[row.reservation_id].relayed_nusd = row.nusd
        else:
            posted_nusd = row.nusd if row.kind == RowKind.POST else 0
            self._release(self._open[row.reservation_id], posted_nusd, row.at_ms)

    # moves: the same at first and in replay

    def _place(self, node: Node, entry: Entry, at_ms: int) -> None:
        self._accounts.draw(node, 0, entry.hold_nusd, at_ms)
        self._keep(entry)

    def _keep(self, entry: Entry) -> None:
        self._open[entry.reservation_id] = entry
        self._open_orders[entry.account, entry.order_id] = entry

    def _release(self, entry: Entry, posted_nusd: int, at_ms: int) -> None:
        self._accounts.draw(self._accounts[entry.account], posted_nusd, -entry.hold_nusd, at_ms)
        del self._open[entry.reservation_id]
        del self._open_orders[entry.account, entry.order_id]

    # decisions

    def _live(self, reservation_id: str, now_ms: int) -> Entry | None:
        """The open entry, None = resolved, and if its time is over, now."""
        entry = self._open.get(reservation_id)
        if entry is not None and entry.until_ms <= now_ms:
            self._lapse(entry, now_ms)
            return None
        return entry

    def _lapse(self, entry: Entry, now_ms: int) -> None:
        if entry.state is HoldState.PENDING:
            self._resolve(entry, HoldState.EXPIRED, 0, now_ms)
        else:
            owed_nusd = min(entry.relayed_nusd, entry.hold_nusd) or entry.hold_nusd
            self._resolve(entry, HoldState.POSTED, owed_nusd, now_ms)

    def _resolve(self, entry: Entry, state: HoldState, posted_nusd: int, now_ms: int) -> None:
        entry.state, entry.posted_nusd, entry.changed_ms = state, posted_nusd, now_ms
        self._release(entry, posted_nusd, now_ms)
        self._orders.put(entry)
        self._write(now_ms, _RESOLVES[state], self._accounts[entry.account], entry, nusd=posted_nusd)

    def _late(self, reservation_id: str, billed_nusd: int, now_ms: int, note: Note | None) -> Settlement:
        entry = self._orders.by_reservation(reservation_id)
        if entry is None:
            raise LookupError(f"expected a reservation of the last 24 hours, found {reservation_id!r}")
        unbooked_nusd = billed_nusd - entry.posted_nusd - entry.house_nusd - entry.suspense_nusd
        if entry.response is None:
            entry.add(note)
        if unbooked_nusd > 0:
            entry.suspense_nusd += unbooked_nusd
            self._book(SUSPENSE, RowKind.SUSPENSE, entry, unbooked_nusd, now_ms)
        self._orders.put(entry)
        return entry.settlement(already=True, suspense_nusd=max(0, unbooked_nusd))

    def _book(self, account_id: str, kind: RowKind, entry: Entry, nusd: int, now_ms: int) -> None:
        node = self._accounts[account_id]
        self._accounts.draw(node, nusd, 0, now_ms)
        self._write(now_ms, kind, node, entry, nusd=nusd)

    def _write(
        self,
        at_ms: int,
        kind: RowKind,
        node: Node,
        entry: Entry | None = None,
        *,
        nusd: int = 0,
        reference: str = "",
        detail: str = "",
    ) -> None:
        self.seq += 1
        rid, until_ms = ("", 0) if entry is None else (entry.reservation_id, entry.until_ms)
        self._record(
            Row(
                self.seq,
                at_ms,
                kind,
                node.account.account_id,
                rid,
                nusd,
                node.posted_nusd,
                node.pending_nusd,
                until_ms,
                reference,
                detail,
            )
        )


_RESOLVES: Final = {
    HoldState.POSTED: RowKind.POST,
    HoldState.VOIDED: RowKind.VOID,
    HoldState.EXPIRED: RowKind.EXPIRE,
}
