"""The market in one process: the corridor between the rooms, and the only module that knows them all.

``submit`` names the rooms an order passes, in order: intake, desk, policy, clearing, ledger; what follows
(execution and settlement) is the :class:`negotiator.engine_delivery.Delivery` it returns.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from providers.base import Provider
from providers.clock import Clock, SystemClock
from providers.terms import Usage

from .config import Config, load_config
from .engine_book import Job, ask, shown
from .engine_delivery import Check, Delivery, longest_ms
from .engine_grant import Grant
from .engine_learning import Learning, explore
from .engine_pricing import shared_by_workers, upkeep
from .engine_recent import Recent
from .engine_reserve import hand_over, resolve
from .engine_rooms import Rooms, build_rooms, build_sellers, configured_accounts
from .errors import Reject, RejectCode, Rejected, StoreUnavailable
from .events import Event
from .intake import DEFAULT_ACCOUNT, prompt_text, to_order
from .money import parse_usd
from .order import (
    Assignment,
    Book,
    Candidate,
    Completion,
    Order,
    Replayed,
    Reservation,
    Settlement,
)
from .order_log import OrderLog, asked_kept
from .record import completion_from
from .store import Store
from .store_open import open_store
from .wire import Terms

if TYPE_CHECKING:
    from .telemetry_otel import OpenTelemetry

__all__ = ["Corridor"]

SWEEP_EVERY_S: Final = 5.0
REFILLS: Final = 8  # each about doubles what this worker holds
_NOT_TRAFFIC: Final = frozenset({RejectCode.DUPLICATE_DIFFERENT, RejectCode.IN_PROGRESS})
_NO_ROOM: Final = frozenset({RejectCode.CAPACITY_EXHAUSTED, RejectCode.PRICED_OUT})


class Corridor:
    """An open market and the path of an order through its rooms; :class:`negotiator.engine.Engine` is its face."""

    def __init__(
        self,
        config: Config,
        *,
        clock: Clock | None = None,
        sellers: Sequence[Provider] | None = None,
        store: Store | None = None,
        seed: int = 0,
        apart: bool = False,
        warm_up: Callable[[Sequence[Provider]], None] | None = None,
    ) -> None:
        """sellers, store: instead of those configured; the store stays open. apart: prices come from a process beside.

        warm_up: is shown the sellers before the store is opened, while nobody waits for this process.
        """
        self.config = config
        self._apart = apart
        self._warm_up = warm_up
        self._clock = clock or SystemClock()
        self._given_sellers = sellers
        self._given_store = store
        self._seed = seed
        self._rooms: Rooms | None = None
        self._log: OrderLog | None = None
        self.tracing: OpenTelemetry | None = None
        self.recent = Recent()
        self._background: set[asyncio.Task[None]] = set()
        self._opened = AsyncExitStack()

    @classmethod
    def open(cls, config: str | Path | Config | None = None, **given: Any) -> Self:
        """A market from a configuration file (None: defaults); enter it to start. Raises ConfigInvalid."""
        return cls(config if isinstance(config, Config) else load_config(config), **given)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as opened:  # where a step raises, what was opened before it is closed
            self._rooms = await self._enter(opened)
            self._opened = opened.pop_all()
        return self

    async def _enter(self, opened: AsyncExitStack) -> Rooms:
        sellers, simulated = self._given_sellers, False
        if sellers is None:
            sellers, simulated = build_sellers(self.config, self._clock, self._seed)
        for seller in sellers:
            opened.push_async_callback(seller.aclose)
        if self._warm_up is not None:
            self._warm_up(sellers)
        url, store = self.config.store.url or "embedded://", self._given_store
        if store is None:
            store = await open_store(url, durability=self.config.store.durability, clock=self._clock)
            opened.push_async_callback(store.aclose)
        # One process holds an embedded store: its name, and so what it learnt, is the same after a restart.
        worker = uuid.uuid4().hex[:12] if shared_by_workers(url) else "main"
        rooms = build_rooms(
            self.config,
            store,
            sellers,
            self._clock,
            worker=worker,
            simulated=simulated,
            shared=shared_by_workers(url),
        )
        if self.config.store.order_log is not None:
            self._log = OrderLog(
                self.config.store.order_log,
                rooms.capacity.rows,
                self._clock.now_ms(),
                config=self.config.market_facts(),
                look=self._logged,
            )
            opened.callback(self._log.flush)
            rooms.bus.subscribe(self._log.note)
        telemetry = self.config.telemetry
        if telemetry.otlp_endpoint is not None:
            from .telemetry_otel import open_telemetry

            self.tracing = open_telemetry(
                telemetry.otlp_endpoint,
                service_name=telemetry.service_name,
                sample_share=telemetry.sample_share,
                export_every_ms=telemetry.export_every_ms,
            )
            opened.push_async_callback(asyncio.to_thread, self.tracing.close)
            rooms.bus.subscribe(self.tracing.note)
        for account in configured_accounts(self.config):
            await store.put_account(account)
        await rooms.ledger.sweep()  # starting is recovering: whatever a dead process left is resolved first
        self._learning = Learning(rooms)
        await self._learning.share()
        opened.push_async_callback(self._rest)
        self._spawn(self._learning.run())
        self._spawn(self._sweep_for_ever(rooms))
        for work in upkeep(rooms, worker=worker, url=url, apart=self._apart):
            self._spawn(work)
        return rooms

    async def __aexit__(self, *_: object) -> None:
        await self._opened.aclose()

    async def _rest(self) -> None:
        """Stop what runs beside the orders, and share what was learnt last."""
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self._learning.share()
        self._rooms = None

    @property
    def rooms(self) -> Rooms:
        """The rooms of the open market."""
        assert self._rooms is not None, "the market is not open: use `async with Engine.open(...)`"
        return self._rooms

    # The path of an order.

    async def order_for(
        self,
        body: Mapping[str, Any],
        terms: Terms | None = None,
        *,
        account: str = DEFAULT_ACCOUNT,
        stream: bool = False,
    ) -> Order:
        """Room 1, intake. Raises Rejected (INVALID)."""
        owner = (terms.account if terms is not None else None) or account
        order = to_order(
            body,
            terms,
            profiles=self.config.profiles,
            account=account,
            default_budget_nusd=await self.rooms.ledger.default_budget_nusd(owner),
            stream=stream,
        )
        if isinstance(order, Reject):
            raise Rejected(order)
        return order

    async def submit(
        self,
        order: Order,
        *,
        quote_id: str | None = None,
        check: Check | None = None,
        grant: Grant | None = None,
        calls: bool = True,
    ) -> Delivery | Completion:
        """Let an order in: desk, policy, clearing, ledger. Raises Rejected; a Completion is a replayed answer.

        quote_id: take this quote. check: judges a two-tier order's cheap answer. grant: a plan's choice, with room
        already taken for it. calls: the delivery is iterated at once, so its hold is made as one whose call begins.
        """
        rooms, job, time = self.rooms, Job(order, self._clock.now_ms()), asyncio.get_running_loop().time
        asked_s = time()
        seen = await rooms.ledger.lookup(order)
        if isinstance(seen, Replayed):
            return completion_from(seen.response, replayed=True)
        if isinstance(seen, Reject):
            raise self._refused(job, seen)
        book = await ask(rooms, job) if quote_id is None else shown(rooms, job, quote_id)
        if book.reject is not None:
            if quote_id is None and book.reject.counter_offers and job.rfq is not None:
                # Whoever takes a counter-offer comes back with its quote.
                rooms.shelf.put(order, book, job.rfq)
            raise self._refused(job, book.reject)
        quoted_s = time()
        if grant is None:  # a batch waits for room: it is no demand that should make room dear for others
            rooms.meter.note(order, book.eligible)
        taken = None if quote_id is None else book.best
        choice = self._clear(order, book.eligible, grant, taken)
        tries = REFILLS  # where this worker's part is full, the store may have more
        while tries and isinstance(choice, Reject) and choice.code is RejectCode.CAPACITY_EXHAUSTED:
            tries = tries - 1 if await rooms.capacity.refill() else 0
            choice = self._clear(order, book.eligible, grant, taken)
        if isinstance(choice, Reject):
            raise self._refused(job, choice)
        choice = self._explored(job, choice, book.eligible, free=grant is None and taken is None)
        longest = longest_ms(rooms, order, choice) if calls else None
        held = await rooms.ledger.reserve(order, choice, longest_ms=longest)
        if isinstance(held, Reject) and held.code is RejectCode.FUNDS_INSUFFICIENT:
            # once more, without what the account cannot hold
            choice = self._affordable(order, book, held) or choice
            held = await rooms.ledger.reserve(order, choice, longest_ms=longest)
        if isinstance(held, Replayed):
            return completion_from(held.response, replayed=True)
        if isinstance(held, Reject):
            raise self._refused(job, held)
        job.assignment, job.state = choice, "RESERVED"
        took = {"quoting_s": quoted_s - asked_s, "deciding_s": time() - quoted_s}
        facts = {"order_id": order.order_id, "account": order.account, **took}
        rooms.bus.emit(Event("order.reserved", job.received_ms, facts))
        self.recent.remember(job)
        return Delivery(rooms, job, choice, held, check, grant)

    async def buy(
        self,
        order: Order,
        *,
        quote_id: str | None = None,
        check: Check | None = None,
        grant: Grant | None = None,
    ) -> Completion:
        """Submit an order and wait for its whole answer. Raises Rejected."""
        delivery = await self.submit(order, quote_id=quote_id, check=check, grant=grant)
        if isinstance(delivery, Completion):
            return delivery
        return (await delivery.whole())[0]

    async def reserve(self, order: Order, *, quote_id: str | None = None) -> tuple[Reservation, Candidate]:
        """Only hold the money: the buyer calls the model itself and then resolves. Raises Rejected."""
        delivery = await self.submit(order, quote_id=quote_id, calls=False)
        if isinstance(delivery, Completion):
            message = f"order {order.order_id!r} was executed before: execute differs"
            raise Rejected(
                Reject(code=RejectCode.DUPLICATE_DIFFERENT, message=message, facts={"field": "execute"})
            )
        self.out_of_hand(order.account, order.order_id)
        return await hand_over(self.rooms, delivery)

    async def resolve(self, reservation: Reservation, usage: Usage | None) -> Settlement:
        """Settle a hold of :meth:`reserve` by what the call used, or (None) void it. Raises InputInvalid."""
        return await resolve(self.rooms, reservation, usage)

    async def book(self, order: Order) -> Book:
        """Rooms 2 and 3: quotes of all sellers as candidates, kept for whoever comes back with a quote's id."""
        job = Job(order, self._clock.now_ms())
        book = await ask(self.rooms, job)
        assert job.rfq is not None
        self.rooms.shelf.put(order, book, job.rfq)
        return book

    def _clear(
        self,
        order: Order,
        eligible: Sequence[Candidate],
        grant: Grant | None = None,
        taken: Candidate | None = None,
    ) -> Assignment | Reject:
        rooms = self.rooms
        if taken is not None:  # chosen by the buyer at a firm price: scarcity is no longer its concern
            return rooms.clearing.choose(order, eligible, rooms.capacity, kept=taken, granted=True)
        planned = next((c for c in eligible if grant is not None and grant.covers(c)), None)
        if grant is not None and planned is not None:
            return rooms.clearing.choose(
                order, eligible, grant.over(rooms.capacity), kept=planned, granted=True
            )
        kept = rooms.affinity.keep(order, eligible, rooms.clearing.bid_nusd)
        choice = rooms.clearing.choose(order, eligible, rooms.capacity, kept=kept.candidate)
        if order.session is None or isinstance(choice, Reject):
            return choice
        full = kept.candidate is not None and choice.award is not kept.candidate
        return replace(choice, session=("full" if full else kept.reason, kept.cost_nusd))

    def _explored(
        self, job: Job, choice: Assignment, eligible: Sequence[Candidate], *, free: bool
    ) -> Assignment:
        """The choice, or now and then one that teaches more, where the operator set a share of spend aside."""
        rooms = self.rooms
        tried = explore(rooms, job.order, choice, eligible) if free else None
        if tried is None:
            return choice
        other = rooms.clearing.choose(job.order, eligible, rooms.capacity, kept=tried)
        job.explored = isinstance(other, Assignment) and other.award is tried
        return other if isinstance(other, Assignment) and job.explored else choice

    def _affordable(self, order: Order, book: Book, refused: Reject) -> Assignment | None:
        """The choice among candidates that what is available can hold, None = there is none."""
        available_nusd = parse_usd(refused.facts["available_usd"])
        fitting = [candidate for candidate in book.eligible if candidate.ceiling_nusd <= available_nusd]
        choice = self._clear(order, fitting) if fitting else None
        return choice if isinstance(choice, Assignment) else None

    # Housekeeping.

    def out_of_hand(self, account: str, order_id: str) -> None:
        """Somebody else ends this order: from here on its record tells how it stands."""
        if self._log is not None:
            self._log.keep(account, order_id)
        self.recent.pop((account, order_id))

    def flush_log(self) -> None:
        """Write now what waits for the order log, so that who reads it next sees all of this process."""
        if self._log is not None:
            self._log.flush()

    def _refused(self, job: Job, reject: Reject) -> Rejected:
        job.reject, job.state = reject, "REJECTED"
        if self._log is not None and job.rounds and reject.code in _NO_ROOM:
            job.explain = self.rooms.clearing.refused(job.order, job.rounds[-1].eligible, self.rooms.capacity)
        self._tell_refused(job, reject)
        job.fold()
        return Rejected(reject)

    def _tell_refused(self, job: Job, reject: Reject) -> None:
        order, now_ms = job.order, self._clock.now_ms()
        self.recent.remember(job)  # the log looks there for what was asked
        if self._log is not None and reject.code not in _NOT_TRAFFIC:
            self.rooms.bus.emit(Event("order.recorded", now_ms, job.history()))
        facts: dict[str, Any] = {"order_id": order.order_id, "account": order.account}
        facts |= {"reject": reject.code.name, "received_ms": job.received_ms}
        if reject.code is RejectCode.FUNDS_HELD:
            needed, available = (parse_usd(reject.facts[f"{name}_usd"]) for name in ("needed", "available"))
            facts["short_nusd"] = needed - available
        self.rooms.bus.emit(Event("order.rejected", now_ms, facts))

    def _logged(self, account: str, order_id: str) -> dict[str, Any]:
        """What the order log keeps of an order beside its history."""
        job, prompts = self.recent.get((account, order_id)), self.config.store.order_log_prompts
        if job is None:
            return {}
        kept = asked_kept(job.order, job.rfq, job.completion)
        if prompts == "none":
            return kept
        text = prompt_text(job.order.body)
        if prompts == "text":
            return kept | {"prompt": text}
        from .quality import encode_features

        return kept | {"features": encode_features(text)}

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _sweep_for_ever(self, rooms: Rooms) -> None:
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            try:
                await rooms.ledger.sweep()
            except StoreUnavailable:
                continue  # the store says so itself; the next sweep catches up
