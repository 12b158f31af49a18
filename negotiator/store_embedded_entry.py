"""What the embedded store keeps in memory: an order's hold as it stands, and an account with its sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson

from .order import HoldState, Reservation, Settlement
from .store import Account, Balance, Note, OrderRecord
from .store_rows import NEVER_MS, account_from, account_text, period_key, period_start_ms, rolls_at_ms

__all__ = ["Entry", "Node", "OrderIndex"]


@dataclass(slots=True)
class Entry:
    """An order's hold as it stands; changes until it resolves. digests: JSON. kept: an index has it."""

    reservation_id: str
    account: str
    order_id: str
    hold_nusd: int
    until_ms: int
    digests: str
    state: HoldState = HoldState.PENDING
    relayed_nusd: int = 0
    posted_nusd: int = 0
    house_nusd: int = 0
    suspense_nusd: int = 0
    changed_ms: int = 0
    response: bytes | None = None
    history: bytes | None = None
    kept: bool = False

    @property
    def key(self) -> str:
        """What an index knows it by: the reservation, or the order of one that never got any."""
        return self.reservation_id or f"~{self.account}/{self.order_id}"

    def save(self) -> list[Any]:
        """An open entry as JSON values."""
        return [
            self.reservation_id,
            self.account,
            self.order_id,
            self.hold_nusd,
            self.until_ms,
            self.digests,
            self.state,
            self.relayed_nusd,
        ]

    @classmethod
    def load(cls, saved: Sequence[Any]) -> Entry:
        """What :meth:`save` wrote."""
        reservation_id, account, order_id, hold_nusd, until_ms, digests, state, relayed_nusd = saved
        return cls(
            reservation_id, account, order_id, hold_nusd, until_ms, digests, HoldState(state), relayed_nusd
        )

    def reservation(self) -> Reservation:
        """The hold as buyers of this module know it."""
        return Reservation(
            reservation_id=self.reservation_id,
            order_id=self.order_id,
            account=self.account,
            hold_nusd=self.hold_nusd,
            expires_ms=self.until_ms,
            state=self.state,
        )

    def order_record(self) -> OrderRecord:
        """The order id's record."""
        return OrderRecord(
            order_id=self.order_id,
            account=self.account,
            reservation_id=self.reservation_id,
            state=self.state,
            digests=orjson.loads(self.digests),
            response=self.response,
            history=self.history,
        )

    def settlement(self, *, already: bool, suspense_nusd: int = 0) -> Settlement:
        """How the hold resolved; suspense_nusd: what this call added there."""
        return Settlement(
            reservation_id=self.reservation_id,
            order_id=self.order_id,
            account=self.account,
            state=self.state,
            posted_nusd=self.posted_nusd,
            released_nusd=self.hold_nusd - self.posted_nusd,
            house_nusd=self.house_nusd,
            suspense_nusd=suspense_nusd,
            already=already,
        )

    def add(self, note: Note | None) -> None:
        """Take what a note brings."""
        if note is not None:
            self.response = note.response if note.response is not None else self.response
            self.history = note.history if note.history is not None else self.history


class OrderIndex(Protocol):
    """Orders of the last 24 hours that are not open, one entry per hold."""

    def get(self, account: str, order_id: str) -> Entry | None:
        """The newest entry of an order id."""

    def by_reservation(self, reservation_id: str) -> Entry | None:
        """The entry of a hold."""

    def put(self, entry: Entry) -> None:
        """Keep an entry, or what changed in it."""


@dataclass(slots=True, eq=False)
class Node:
    """An account with its sums. line: itself and its ancestors. spent_nusd: posted on itself, ever."""

    account: Account
    line: tuple[Node, ...] = ()
    posted_nusd: int = 0
    pending_nusd: int = 0
    deposits_nusd: int = 0
    spent_nusd: int = 0
    rolls_at_ms: int = NEVER_MS
    references: dict[str, int] = field(default_factory=dict)

    def roll(self, at_ms: int) -> None:
        """Start the period that contains ``at_ms``: nothing posted; open holds go with it."""
        self.posted_nusd = 0
        self.deposits_nusd = 0
        self.rolls_at_ms = rolls_at_ms(self.account.period, at_ms)

    def save(self) -> list[Any]:
        """The account and its sums as JSON values."""
        return [
            account_text(self.account),
            self.posted_nusd,
            self.pending_nusd,
            self.deposits_nusd,
            self.spent_nusd,
            self.rolls_at_ms,
            self.references,
        ]

    @classmethod
    def load(cls, account_id: str, saved: Sequence[Any]) -> Node:
        """What :meth:`save` wrote; ``line`` is left to the caller."""
        terms, *sums, references = saved
        posted_nusd, pending_nusd, deposits_nusd, spent_nusd, rolls = sums
        return cls(
            account_from(account_id, terms),
            (),
            posted_nusd,
            pending_nusd,
            deposits_nusd,
            spent_nusd,
            rolls,
            dict(references),
        )

    def balance(self, now_ms: int) -> Balance:
        """How it stands now, without rolling it."""
        period = self.account.period
        rolled = now_ms >= self.rolls_at_ms
        start_ms = period_start_ms(period, now_ms if rolled else self.rolls_at_ms - 1)
        return Balance(
            account=self.account,
            posted_nusd=0 if rolled else self.posted_nusd,
            pending_nusd=self.pending_nusd,
            deposits_nusd=0 if rolled else self.deposits_nusd,
            period_key=period_key(period, start_ms),
        )
