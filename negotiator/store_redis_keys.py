"""The names of keys in Redis, and how its records become the house's words. docs/stores.md has the table."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from .order import HoldState, Reservation, Settlement
from .store import HOUSE, SUSPENSE, Account, Balance, OrderRecord, Period
from .store_rows import Row, period_key, period_start_ms

__all__ = [
    "BALANCE_FIELDS",
    "LINES",
    "PREFIX",
    "RECONCILED",
    "TREES",
    "Line",
    "Tree",
    "balance_of",
    "order_of",
    "reservation_of",
    "row_of",
    "settlement_of",
]

PREFIX: Final = "negotiator"
LINES: Final = f"{PREFIX}:{{accounts}}:lines"
"""Hash: account → itself and its ancestors, JSON."""

TREES: Final = f"{PREFIX}:{{accounts}}:trees"
"""Set: the root account of every tree."""

RECONCILED: Final = f"{PREFIX}:{{accounts}}:reconciled"
"""Set: replication ids of primaries whose past was reconciled."""

BALANCE_FIELDS: Final = ("parent", "budget", "period", "default", "start", "posted", "pending", "deposits")


class Tree:
    """The keys of one account tree: they share a hash tag, so one script may use them together in a cluster."""

    def __init__(self, tag: str) -> None:
        self.tag = tag
        self._base = f"{PREFIX}:{{{tag}}}"
        self.due = f"{self._base}:due"
        self.rows = f"{self._base}:rows"
        self.seq = f"{self._base}:seq"
        self.base = f"{self._base}:base"
        self.house = self.account(HOUSE)
        self.suspense = self.account(SUSPENSE)

    @classmethod
    def of_root(cls, root: str) -> Tree:
        """The tree of a root account."""
        return cls(hashlib.blake2s(root.encode(), digest_size=6).hexdigest())

    @classmethod
    def of_reservation(cls, reservation_id: str) -> Tree | None:
        """The tree a reservation id names after its last dot, None = no id of this store."""
        tag = reservation_id.rpartition(".")[2]
        return cls(tag) if len(tag) == 12 and set(tag) <= set("0123456789abcdef") else None

    def account(self, account_id: str) -> str:
        """Hash: terms and sums of an account."""
        return f"{self._base}:account:{account_id}"

    def hold(self, reservation_id: str) -> str:
        """Hash: a hold, open or resolved, and what is kept beside it."""
        return f"{self._base}:hold:{reservation_id}"

    def order(self, account_id: str, order_id: str) -> str:
        """String: the reservation of an order id; after a dash when the id is free again."""
        return f"{self._base}:order:{len(account_id)}:{account_id}:{order_id}"

    def references(self, account_id: str) -> str:
        """Hash: deposits by reference."""
        return f"{self._base}:references:{account_id}"


@dataclass(frozen=True, slots=True)
class Line:
    """An account and its ancestors, and their tree."""

    accounts: tuple[str, ...]
    tree: Tree

    @classmethod
    def of(cls, accounts: Sequence[str]) -> Line:
        """The line from an account to its root."""
        return cls(tuple(accounts), Tree.of_root(accounts[-1]))

    def account_keys(self) -> list[str]:
        """The account hashes, leaf first."""
        return [self.tree.account(account) for account in self.accounts]

    def money_keys(self, reservation_id: str, order_id: str) -> list[str]:
        """The keys of the money script."""
        tree = self.tree
        fixed = [
            tree.hold(reservation_id),
            tree.order(self.accounts[0], order_id),
            tree.due,
            tree.rows,
            tree.seq,
        ]
        return [*fixed, tree.house, tree.suspense, *self.account_keys()]


def _number(value: bytes | None) -> int | None:
    return int(value) if value else None


def balance_of(account_id: str, fields: Sequence[Any], now_ms: int) -> Balance | None:
    """An account's balance from its BALANCE_FIELDS, None = it does not exist."""
    if fields[0] is None:
        return None
    parent, budget, period_name, default, start, posted, pending, deposits = fields
    period = Period(period_name.decode())
    start_ms = max(int(start), period_start_ms(period, now_ms))
    rolled = start_ms > int(start)
    return Balance(
        account=Account(
            account_id=account_id,
            parent=parent.decode() or None,
            budget_nusd=_number(budget),
            period=period,
            default_budget_nusd=_number(default),
        ),
        posted_nusd=0 if rolled else int(posted),
        pending_nusd=int(pending),
        deposits_nusd=0 if rolled else int(deposits),
        period_key=period_key(period, start_ms),
    )


def reservation_of(record: Sequence[Any]) -> Reservation:
    """A hold as the money script records it."""
    reservation_id, account, order_id, hold, until, state = record[:6]
    return Reservation(
        reservation_id=reservation_id.decode(),
        order_id=order_id.decode(),
        account=account.decode(),
        hold_nusd=int(hold),
        expires_ms=int(until),
        state=HoldState(state.decode()),
    )


def order_of(record: Sequence[Any]) -> OrderRecord:
    """The order id's record of the same."""
    return OrderRecord(
        order_id=record[2].decode(),
        account=record[1].decode(),
        reservation_id=record[0].decode(),
        state=HoldState(record[5].decode()),
        digests=orjson.loads(record[6]),
        response=record[10],
        history=record[11],
    )


def settlement_of(record: Sequence[Any], *, already: bool, suspense_nusd: int) -> Settlement:
    """How the hold of the same resolved."""
    posted_nusd = int(record[7])
    return Settlement(
        reservation_id=record[0].decode(),
        order_id=record[2].decode(),
        account=record[1].decode(),
        state=HoldState(record[5].decode()),
        posted_nusd=posted_nusd,
        released_nusd=int(record[3]) - posted_nusd,
        house_nusd=int(record[8]),
        suspense_nusd=suspense_nusd,
        already=already,
    )


def row_of(entry: Sequence[Any]) -> Row:
    """A row from its entry in the stream."""
    identity, flat = entry
    values = dict(zip(flat[::2], flat[1::2], strict=True))
    return Row(
        seq=int(identity.partition(b"-")[0]),
        at_ms=int(values[b"at_ms"]),
        kind=values[b"kind"].decode(),
        account=values[b"account"].decode(),
        reservation_id=values[b"reservation_id"].decode(),
        nusd=int(values[b"nusd"]),
        posted_nusd=int(values[b"posted_nusd"]),
        pending_nusd=int(values[b"pending_nusd"]),
        until_ms=int(values[b"until_ms"]),
        reference=values[b"reference"].decode(),
        detail=values[b"detail"].decode(),
    )
