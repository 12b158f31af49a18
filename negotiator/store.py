"""What the house asks of its store: money, orders and shared rates, as verbs that each backend makes atomic.

Accounts form trees. A hold draws on its account and on all ancestors in one step, together with the claim of its
order id. Rows never change: resolving a hold adds a row. Expiry is judged when a verb runs, by the ``now_ms`` it is
given, and swept later. Every verb raises :class:`negotiator.errors.StoreUnavailable` when nothing was decided.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from providers.records import record

from .order import HoldState, Reservation, Settlement

__all__ = [
    "DEFAULT_ACCOUNT",
    "HOUSE",
    "MAX_DEPTH",
    "SUSPENSE",
    "Account",
    "Balance",
    "Hold",
    "Lease",
    "LeaseAsk",
    "LedgerStore",
    "Note",
    "OrderRecord",
    "Period",
    "RateStore",
    "SharedStore",
    "Shortfall",
    "Store",
    "Unused",
]

DEFAULT_ACCOUNT = "default"
"""The account of callers without a key: it exists, without a limit, unless configured."""

HOUSE = "~house"
"""The account that bears what a seller bills above its ceiling."""

MAX_DEPTH = 16
"""Accounts from leaf to root."""

SUSPENSE = "~suspense"
"""The account that takes what is billed on a hold that had already resolved, until somebody looks."""


class Period(StrEnum):
    """When an account's budget starts anew (UTC)."""

    TOTAL = "total"
    DAY = "day"
    MONTH = "month"


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A budget and whose part it is. budget_nusd None = no limit of its own; parent None = the root of a tree.

    default_budget_nusd: what an order without a budget may cost, None = no limit.
    """

    account_id: str
    parent: str | None = None
    budget_nusd: int | None = None
    period: Period = Period.TOTAL
    default_budget_nusd: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """Where an account stands in its current period: posted and pending include all descendants'.

    deposits_nusd raise the budget of an account that has one, in the period they were made in.
    period_key: ``total``, ``2026-11-24``, ``2026-11``.
    """

    account: Account
    posted_nusd: int
    pending_nusd: int
    deposits_nusd: int
    period_key: str

    @property
    def limit_nusd(self) -> int | None:
        """Budget plus deposits, None = no limit."""
        budget_nusd = self.account.budget_nusd
        return None if budget_nusd is None else budget_nusd + self.deposits_nusd

    @property
    def available_nusd(self) -> int | None:
        """What a new hold may draw, None = no limit; never negative."""
        limit_nusd = self.limit_nusd
        return None if limit_nusd is None else max(0, limit_nusd - self.posted_nusd - self.pending_nusd)


@record(frozen=True, slots=True, kw_only=True)
class Hold:
    """A reservation asked for. digests: content by field, to compare a repeated order id. hold_ms: its timeout.

    in_doubt_ms: the house's call follows at once, so that the hold is in doubt from the start, as :meth:`LedgerStore.begin`
    makes it; None = it may expire.
    """

    reservation_id: str
    order_id: str
    account: str
    hold_nusd: int
    hold_ms: int
    digests: Mapping[str, str] = field(default_factory=dict)
    in_doubt_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortfall:
    """Why a hold was refused: the account (or ancestor) that lacks the money; ``balance`` None = it is unknown."""

    account: str
    needed_nusd: int
    balance: Balance | None

    @property
    def held(self) -> bool:
        """Whether the money is there but pending: it may come free without a deposit."""
        balance = self.balance
        if balance is None or balance.limit_nusd is None:
            return False
        return balance.limit_nusd - balance.posted_nusd >= self.needed_nusd


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderRecord:
    """An order id that came before. state: of its hold. response: the answer to replay, None = not kept or not yet.

    history: what the order went through, JSON, None = not written yet.
    """

    order_id: str
    account: str
    reservation_id: str
    state: HoldState
    digests: Mapping[str, str]
    response: bytes | None = None
    history: bytes | None = None


@record(frozen=True, slots=True, kw_only=True)
class Note:
    """What to write beside a resolved hold: both optional, kept 24 hours."""

    response: bytes | None = None
    history: bytes | None = None


class LedgerStore(Protocol):
    """Money and order ids."""

    @property
    def immediate(self) -> bool:
        """Whether its verbs never wait: neither for a disk nor for another process."""
        ...

    async def put_account(self, account: Account) -> None:
        """Create an account or change its budget, period or default; a changed period starts with nothing posted.

        An account's parent never changes. Raises InputInvalid for another or an unknown parent, an id or amount that
        no account may have, or too many ancestors.
        """
        ...

    async def balances(self, account_id: str, now_ms: int) -> tuple[Balance, ...]:
        """The account, then its ancestors up to the root; empty = unknown."""
        ...

    async def accounts(self) -> tuple[str, ...]:
        """All account ids, sorted; the house's own included."""
        ...

    async def deposit(self, account_id: str, nusd: int, reference: str, now_ms: int) -> Balance:
        """Raise an account's budget (negative = correction); the same reference twice counts once.

        Raises InputInvalid for an unknown account, one without a budget, or a reference used for another amount.
        """
        ...

    async def find_order(self, account: str, order_id: str) -> OrderRecord | None:
        """What became of an order id of the last 24 hours; an id belongs to its account."""
        ...

    async def find_reservation(self, reservation_id: str) -> Reservation | None:
        """The hold with this id, resolved or not, of the last 24 hours; None = unknown."""
        ...

    async def reserve(self, hold: Hold, now_ms: int) -> Reservation | OrderRecord | Shortfall:
        """Claim the order id and hold the money on the account and all ancestors, or change nothing.

        OrderRecord: the id is taken (by a hold that is pending, in doubt or posted). The same reservation id again
        answers the same reservation. A caller that is cancelled meanwhile leaves no hold. Raises ValueError for an
        amount below 0 or above MAX_NUSD, here and below.
        """
        ...

    async def begin(self, reservation_id: str, now_ms: int, in_doubt_ms: int) -> None:
        """A call is about to reach a seller: from here the hold does not expire but becomes in doubt.

        Again before another attempt. Raises HoldResolved when the hold is no more: the call must not begin.
        """
        ...

    async def relayed(self, reservation_id: str, nusd: int) -> None:
        """At least so much is owed for what reached the buyer so far: posted if nobody else resolves the hold.

        The highest counts. Nothing happens to a hold that resolved before.
        """
        ...

    async def post(
        self,
        reservation_id: str,
        posted_nusd: int,
        now_ms: int,
        *,
        house_nusd: int = 0,
        note: Note | None = None,
    ) -> Settlement:
        """Charge at most the hold and release the rest; ``house_nusd`` is booked to the house.

        A hold that resolved before answers which way (``already``), and the part of the bill that nobody has booked
        yet goes to suspense: the same bill twice counts once. Raises LookupError for an unknown reservation.
        """
        ...

    async def void(self, reservation_id: str, now_ms: int, *, note: Note | None = None) -> Settlement:
        """Release the whole hold and free the order id; a hold that resolved before answers which way.

        Raises LookupError for an unknown reservation.
        """
        ...

    async def annotate(self, account: str, order_id: str, note: Note, now_ms: int) -> None:
        """Write response or history of an order later, or of one that never got a hold."""
        ...

    async def sweep(self, now_ms: int, limit: int = 1000) -> Sequence[Settlement]:
        """Resolve holds whose time is over: expired if no call had begun, else posted (relayed, else the hold).

        Also forgets order ids of more than 24 hours.
        """
        ...

    async def audit(self, *, archived: bool = False) -> Sequence[str]:
        """Recompute every balance from checkpoint and rows; the first row that does not fit, in words; empty = fits.

        archived: from the very first row on, with those in the archive.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseAsk:
    """A worker's wish for a part of a shared limit: up to ``want`` of at most ``amount`` in any ``per_ms``.

    A worker's grants add up. What it was granted may be used until the lease ends; the limit counts it until
    ``per_ms`` after that. key: ``provider:kind`` or ``provider/models:kind``.

    per_ms 0 = concurrency: slots in use at once. Here ``want`` is all the worker needs, those in use included, and the
    grant replaces its earlier one; slots come back when given back or when the worker's lease ends.

    spare: how much beyond ``want`` the worker likes to hold; of what is left then it gets at most half, so that those
    who ask next find some.
    """

    key: str
    amount: int
    per_ms: int
    want: int
    spare: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """What a worker may use of a shared limit on its own until ``until_ms``; granted 0: ask again then."""

    key: str
    granted: int
    until_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Unused:
    """What was leased and not used. until_ms: of which lease, by its end; None = of the worker's oldest."""

    key: str
    units: int
    until_ms: int | None = None


class RateStore(Protocol):
    """Rate limits shared by all workers of one store."""

    async def lease(
        self, worker: str, asks: Sequence[LeaseAsk], lease_ms: int, now_ms: int
    ) -> Sequence[Lease]:
        """One lease per ask, in order. The sum granted to all workers never exceeds a limit."""
        ...

    async def give_back(self, worker: str, unused: Sequence[Unused], now_ms: int) -> None:
        """Return what was leased and not used, to the lease it was part of: from another one it would free room that
        calls still fill. A worker that dies loses its leases at their end.
        """
        ...

    async def correct(self, key: str, remaining: int, now_ms: int) -> None:
        """The vendor says only so much is left in the current period: no lease grants more.

        The last word of a vendor counts. A key nobody leased from is ignored.
        """
        ...


class SharedStore(Protocol):
    """Small values workers and the market maker share: prices, learnt state, leadership."""

    async def publish(self, key: str, value: bytes, ttl_ms: int | None = None) -> None:
        """Set a value for everybody."""
        ...

    async def read(self, key: str) -> bytes | None:
        """The value, None = never set or expired."""
        ...

    async def put_entry(self, table: str, key: str, value: bytes | None) -> None:
        """Set an entry of a small table that outlives all processes; None = remove it."""
        ...

    async def entry(self, table: str, key: str) -> bytes | None:
        """One entry of a table, None = it is not there."""
        ...

    async def entries(self, table: str) -> Mapping[str, bytes]:
        """All entries of a table."""
        ...

    async def lead(self, role: str, holder: str, ttl_ms: int, now_ms: int) -> int | None:
        """Become or stay the leader of a role: a fencing token that grows with every change, None = another leads."""
        ...


class Store(LedgerStore, RateStore, SharedStore, Protocol):
    """All of it, behind one URL."""

    async def aclose(self) -> None:
        """Write what is pending and give back connections and locks."""
        ...
