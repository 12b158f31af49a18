"""Room 5, the ledger: holds an order's money before anything is spent, settles it once, and has the last word.

Store outcomes become values here: a reservation, an earlier answer, or a reject with its numbers. A settlement that
the store cannot take now is kept and told again by :meth:`Ledger.sweep`; until then the hold is in doubt and counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from providers.clock import Clock

from .errors import Reject, StoreUnavailable
from .events import Emit, Event
from .ids import secret_id
from .ledger_answers import again, away, short, unknown_account
from .order import Assignment, HoldState, Order, Replayed, Reservation, Settlement
from .store import Account, Hold, LedgerStore, Note, OrderRecord, Shortfall

__all__ = ["Ledger", "new_reservation_id"]

MAX_DEFERRED: Final = 10_000
"""Settlements kept for a store that is away; beyond, a hold posts what was relayed, else its ceiling."""

MAX_DEFAULTS: Final = 10_000
DEFAULTS_MS: Final = 1_000
"""How long an account's default budget is believed before it is read again."""


def new_reservation_id() -> str:
    """An id nobody can guess or repeat."""
    return secret_id("rsv", 12)


@dataclass(frozen=True, slots=True)
class _Deferred:
    """A resolution the store could not take; posted_nusd None = void."""

    reservation: Reservation
    posted_nusd: int | None
    house_nusd: int
    note: Note | None


class Ledger:
    """One worker's door to the store's money."""

    def __init__(
        self,
        store: LedgerStore,
        clock: Clock,
        emit: Emit,
        *,
        hold_ms: int,
        in_doubt_ms: int,
        new_id: Callable[[], str] = new_reservation_id,
    ) -> None:
        """hold_ms: how long a hold waits for its call; in_doubt_ms: how long a begun call may stay unsettled."""
        self._store = store
        self._clock = clock
        self._emit = emit
        self._hold_ms = hold_ms
        self._in_doubt_ms = in_doubt_ms
        self._new_id = new_id
        self._live: dict[str, int] = {}
        self._deferred: dict[str, _Deferred] = {}
        self._defaults: dict[str, tuple[int, int | None]] = {}

    @property
    def immediate(self) -> bool:
        """Whether the store never waits for anything: what is asked of it is done at once."""
        return self._store.immediate

    @property
    def unresolved(self) -> int:
        """Reservations of this worker that nobody settled, voided or handed over yet."""
        return len(self._live)

    @property
    def oldest_ms(self) -> int:
        """How long the oldest of them has been held, 0 = there is none."""
        since_ms = next(iter(self._live.values()), None)
        return 0 if since_ms is None else max(0, self._clock.now_ms() - since_ms)

    @property
    def deferred(self) -> int:
        """Settlements that wait for the store to come back."""
        return len(self._deferred)

    # before the call

    async def default_budget_nusd(self, account: str) -> int | None:
        """What an order without a budget may cost: the account's own default, else its nearest ancestor's.

        None = no limit; also for an unknown account and while the store is away: :meth:`lookup` then refuses.
        """
        try:
            return await self._default(account)
        except (LookupError, StoreUnavailable):
            return None

    async def lookup(self, order: Order) -> Replayed | Reject | None:
        """What this order id was answered before, None = it is free: asked before any quote.

        An id that the house made is not looked for: :meth:`reserve` has the last word.
        """
        try:
            record = None
            if order.keep_answer:
                record = await self._store.find_order(order.account, order.order_id)
            if record is None or record.state in (HoldState.VOIDED, HoldState.EXPIRED):
                await self._default(order.account)
                return None
        except StoreUnavailable as error:
            return away(error)
        except LookupError:
            return unknown_account(order.account)
        return again(order, record)

    async def reserve(
        self, order: Order, assignment: Assignment, *, longest_ms: int | None = None
    ) -> Reservation | Replayed | Reject:
        """Claim the order id and hold the money on the account and all its ancestors, in one step.

        longest_ms: the call follows at once and may take so long: the hold is begun (:meth:`begin`) in the same step.
        """
        hold = Hold(
            reservation_id=self._new_id(),
            order_id=order.order_id,
            account=order.account,
            hold_nusd=assignment.hold_nusd,
            hold_ms=self._hold_ms,
            digests=order.digests if order.keep_answer else {},
            in_doubt_ms=None if longest_ms is None else longest_ms + self._in_doubt_ms,
        )
        now_ms = self._clock.now_ms()
        try:
            outcome = await self._store.reserve(hold, now_ms)
        except StoreUnavailable as error:
            return away(error)
        if isinstance(outcome, Shortfall):
            return short(outcome)
        if isinstance(outcome, OrderRecord):
            return again(order, outcome)
        self._live[outcome.reservation_id] = now_ms
        return outcome

    async def begin(self, reservation: Reservation, longest_ms: int = 0) -> None:
        """A call is about to reach a seller. Raises StoreError when it must not: the hold is gone or not reachable.

        longest_ms: how long the call itself may take; only then does the time in doubt begin to count.
        """
        in_doubt_ms = longest_ms + self._in_doubt_ms
        await self._store.begin(reservation.reservation_id, self._clock.now_ms(), in_doubt_ms)

    async def relayed(self, reservation: Reservation, nusd: int) -> None:
        """At least so much is owed so far; lost when the store is away, and then the ceiling counts."""
        try:
            await self._store.relayed(reservation.reservation_id, nusd)
        except StoreUnavailable as error:
            self._tell("ledger.unavailable", verb="relayed", detail=str(error))

    # after the call

    async def settle(
        self, reservation: Reservation, billed_nusd: int, *, house_nusd: int = 0, note: Note | None = None
    ) -> Settlement:
        """Charge what was billed, up to the hold; the rest of the bill and ``house_nusd`` are the house's.

        Consumes the reservation. Never fails for a store that is away: the settlement is IN_DOUBT and told later.
        """
        self._consume(reservation)
        return await self._settle(reservation, billed_nusd, house_nusd, note)

    async def void(self, reservation: Reservation, *, note: Note | None = None) -> Settlement:
        """Nothing is owed: release the hold and free the order id. Consumes the reservation."""
        self._consume(reservation)
        return await self._resolve(reservation, None, 0, note)

    def hand_over(self, reservation: Reservation) -> None:
        """The buyer calls the model itself and will resolve by id. Consumes the reservation here."""
        self._consume(reservation)

    async def find(self, reservation_id: str) -> Reservation | None:
        """A hold by its id, None = unknown; raises StoreUnavailable. Whose account it is, is for the caller to check."""
        return await self._store.find_reservation(reservation_id)

    def take_back(self, reservation: Reservation) -> None:
        """The house calls the model after all, under a hold that it had handed over."""
        assert reservation.reservation_id not in self._live, (
            f"{reservation.reservation_id} was not handed over"
        )
        self._live[reservation.reservation_id] = self._clock.now_ms()

    async def settle_found(
        self, reservation: Reservation, billed_nusd: int, *, house_nusd: int = 0, note: Note | None = None
    ) -> Settlement:
        """Settle a hold that :meth:`find` gave; a second resolve is told which way the first went."""
        return await self._settle(reservation, billed_nusd, house_nusd, note)

    async def void_found(self, reservation: Reservation) -> Settlement:
        """Void a hold that :meth:`find` gave; a second resolve is told which way the first went."""
        return await self._resolve(reservation, None, 0, None)

    async def record(self, account: str, order_id: str) -> OrderRecord | None:
        """What is kept of an order of this account, None = nothing; raises StoreUnavailable."""
        return await self._store.find_order(account, order_id)

    async def annotate(self, account: str, order_id: str, note: Note) -> None:
        """Keep what an order went through, also of one that was refused; lost when the store is away."""
        try:
            await self._store.annotate(account, order_id, note, self._clock.now_ms())
        except StoreUnavailable as error:
            self._tell("ledger.unavailable", verb="annotate", detail=str(error))

    async def sweep(self) -> Sequence[Settlement]:
        """Tell deferred settlements again, then resolve what is overdue; also the recovery at start."""
        try:
            for deferred in tuple(self._deferred.values()):
                await self._tell_store(
                    deferred.reservation, deferred.posted_nusd, deferred.house_nusd, deferred.note
                )
                del self._deferred[deferred.reservation.reservation_id]
            settlements = await self._store.sweep(self._clock.now_ms())
        except StoreUnavailable as error:
            self._tell("ledger.unavailable", verb="sweep", detail=str(error))
            return ()
        for settlement in settlements:
            self._tell("ledger.lapsed", **_facts(settlement))
        return settlements

    # accounts

    async def open_run(self, account: str, run_id: str, budget_nusd: int) -> str:
        """The sub-account of one agent run, or a new budget for it: every hold on it draws on ``account`` as well."""
        run = f"{account}/{run_id}"
        await self._store.put_account(Account(account_id=run, parent=account, budget_nusd=budget_nusd))
        return run

    # parts

    async def _default(self, account: str) -> int | None:
        """Raises LookupError for an unknown account, StoreUnavailable."""
        now_ms = self._clock.now_ms()
        until_ms, budget_nusd = self._defaults.get(account, (0, None))
        if until_ms > now_ms:
            return budget_nusd
        balances = await self._store.balances(account, now_ms)
        if not balances:
            raise LookupError(account)
        given = (balance.account.default_budget_nusd for balance in balances)
        budget_nusd = next((nusd for nusd in given if nusd is not None), None)
        if len(self._defaults) >= MAX_DEFAULTS:
            self._defaults.clear()
        self._defaults[account] = (now_ms + DEFAULTS_MS, budget_nusd)
        return budget_nusd

    def _consume(self, reservation: Reservation) -> None:
        assert reservation.reservation_id in self._live, f"{reservation.reservation_id} was consumed before"
        del self._live[reservation.reservation_id]

    async def _settle(
        self, reservation: Reservation, billed_nusd: int, house_nusd: int, note: Note | None
    ) -> Settlement:
        assert min(billed_nusd, house_nusd) >= 0, f"negative bill: {billed_nusd}, {house_nusd}"
        posted_nusd = min(billed_nusd, reservation.hold_nusd)
        above_nusd = billed_nusd - posted_nusd + house_nusd
        return await self._resolve(reservation, posted_nusd, above_nusd, note)

    async def _resolve(
        self, reservation: Reservation, posted_nusd: int | None, house_nusd: int, note: Note | None
    ) -> Settlement:
        """posted_nusd None = void."""
        try:
            return await self._tell_store(reservation, posted_nusd, house_nusd, note)
        except StoreUnavailable as error:
            kept = len(self._deferred) < MAX_DEFERRED
            if kept:
                deferred = _Deferred(reservation, posted_nusd, house_nusd, note)
                self._deferred[reservation.reservation_id] = deferred
            posted_nusd = posted_nusd or 0
            self._tell(
                "ledger.deferred", reservation_id=reservation.reservation_id, kept=kept, detail=str(error)
            )
            return Settlement(
                reservation_id=reservation.reservation_id,
                order_id=reservation.order_id,
                account=reservation.account,
                state=HoldState.IN_DOUBT,
                posted_nusd=posted_nusd,
                released_nusd=reservation.hold_nusd - posted_nusd,
                house_nusd=house_nusd,
            )

    async def _tell_store(
        self, reservation: Reservation, posted_nusd: int | None, house_nusd: int, note: Note | None
    ) -> Settlement:
        now_ms = self._clock.now_ms()
        try:
            if posted_nusd is None:
                settlement = await self._store.void(reservation.reservation_id, now_ms, note=note)
            else:
                settlement = await self._store.post(
                    reservation.reservation_id, posted_nusd, now_ms, house_nusd=house_nusd, note=note
                )
        except LookupError:  # older than the store remembers: it lapsed long ago
            settlement = Settlement(
                reservation_id=reservation.reservation_id,
                order_id=reservation.order_id,
                account=reservation.account,
                state=HoldState.EXPIRED,
                posted_nusd=0,
                released_nusd=reservation.hold_nusd,
                already=True,
            )
            billed_nusd = (posted_nusd or 0) + house_nusd
            self._tell("ledger.forgotten", billed_nusd=billed_nusd, **_facts(settlement))
        if settlement.house_nusd and not settlement.already:
            self._tell("ledger.overbilled", **_facts(settlement))
        if settlement.suspense_nusd:
            self._tell("ledger.suspense", **_facts(settlement))
        return settlement

    def _tell(self, name: str, **facts: Any) -> None:
        self._emit(Event(name, self._clock.now_ms(), facts))


def _facts(settlement: Settlement) -> dict[str, Any]:
    return {
        "reservation_id": settlement.reservation_id,
        "order_id": settlement.order_id,
        "account": settlement.account,
        "state": settlement.state.value,
        "posted_nusd": settlement.posted_nusd,
        "house_nusd": settlement.house_nusd,
        "suspense_nusd": settlement.suspense_nusd,
    }
