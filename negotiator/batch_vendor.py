"""Lines planned on a vendor's own batch tier: handed in together, waited for, settled one by one.

Every line has its own hold and order id. What is about to be handed in is written down first (:mod:`batch_parcel`), so
a process that comes after a crash goes on asking for the same batch and hands nothing in twice. Where a vendor cannot
say whether it took a batch its lines stay in doubt: their holds count, and they run again under the next id.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from providers.batch import BATCH_TIER, BatchDriver, BatchLine, SubmitInDoubt, batches_of
from providers.errors import ProviderError, RequestRefused
from providers.terms import Offer

from .batch_errand import GRACE_MS, Dispatch, Errand
from .batch_parcel import Parcel, ParcelLine, parcels_in
from .batch_queue import OfferQueue
from .batch_settling import Returns, give_back
from .batch_tries import Tries
from .capacity import Slot
from .engine_delivery import Delivery
from .engine_grant import Grant
from .errors import HoldResolved, InputInvalid, Reject, RejectCode, Rejected
from .limits import Full, Load
from .order import Completion, Order

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ["VendorBatches"]

MAX_LINES: Final = 10_000
"""Lines handed in as one batch, where the vendor takes as many: what a crash or a failure puts at stake."""

MAX_OPEN: Final = 8
"""Parcels filled at the same time, one per deadline."""

SUBMIT_AGAIN_MS: Final = (5_000, 30_000)
LONGEST_WAIT_MS: Final = 60_000
"""How long a vendor that says when to come again may make a parcel wait for it."""

TurnedDown = Callable[[Order, str, Rejected], Awaitable[None]]


class VendorBatches:
    """The parcels of one batch. ``out``: the lines that are with vendors now."""

    def __init__(self, engine: Engine, batch_id: str, folder: Path, tries: Tries, returns: Returns) -> None:
        self._engine = engine
        self._folder = folder
        self._tries = tries
        self._dispatch = Dispatch(engine, batch_id, returns)
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def out(self) -> set[str]:
        """The lines that are with vendors now."""
        return self._dispatch.out

    def takes(self, offer: Offer) -> bool:
        """Whether lines planned on this offer are handed in as a batch."""
        return offer.tier == BATCH_TIER and self._driver(offer.provider) is not None

    async def resume(self) -> None:
        """Go on with what an earlier run handed in. Raises InputInvalid where its seller is not configured any more."""
        for parcel in parcels_in(self._folder):
            driver = self._driver(parcel.provider)
            if driver is None:
                raise InputInvalid(
                    f"{parcel.path}: expected a seller {parcel.provider!r} with a batch tier, found none: "
                    f"{len(parcel.ids)} lines are with it"
                )
            if parcel.sending_ms is None:
                await self._void(parcel)
            else:
                self._wait_again(parcel)
                self._follow(parcel, driver, at_once=True)

    async def send(self, queue: OfferQueue, late: Callable[[int], bool], turned_down: TurnedDown) -> None:
        """Hold the money of an offer's lines and hand them in, a parcel at a time; results come later.

        late: whether a call of so many milliseconds would not end in time. turned_down: hears of orders not let in.
        """
        driver = self._driver(queue.offer.provider)
        assert driver is not None, "only offers it takes are sent"
        most, most_bytes = min(MAX_LINES, driver.max_lines), driver.max_bytes * 9 // 10
        filling: dict[int | None, tuple[Parcel, list[bytes]]] = {}
        while queue.rows and not self._dispatch.recalled.is_set():
            row = queue.rows.popleft()
            if late(queue.latency_ms_p95(row)):
                continue
            custom_id = queue.plan.batch.ids[row]
            room = self._engine.rooms.capacity.take(queue.offer.provider, queue.offer.model, queue.load(row))
            if isinstance(room, Full):  # it waits until a batch has ended, or is planned elsewhere
                self._dispatch.returns.fail(custom_id, _full(room))
                continue
            order = await queue.plan.batch.order(self._engine, row, planned=False)
            order = self._tries.numbered(order, custom_id)
            try:
                delivery = await self._let_in(queue.offer, order, custom_id, room)
            except Rejected as no:
                room.release()
                await turned_down(order, custom_id, no)
                continue
            if delivery is None:
                room.release()
                continue
            if order.deadline_ms not in filling:
                if len(filling) == MAX_OPEN:
                    await self._hand_in(driver, *filling.pop(next(iter(filling))))
                filling[order.deadline_ms] = self._parcel(queue.offer, order.deadline_ms), []
            parcel, lines = filling[order.deadline_ms]
            self._dispatch.rooms.setdefault(parcel.name, []).append(room)
            await self._pack(driver, parcel, lines, custom_id, delivery)
            if len(lines) >= most or sum(map(len, lines)) >= most_bytes:
                await self._hand_in(driver, *filling.pop(order.deadline_ms))
        for parcel, lines in filling.values():
            await self._hand_in(driver, parcel, lines)

    async def wait(self, stopping: asyncio.Event) -> None:
        """Until a parcel has ended, or something is to stop."""
        stop = asyncio.ensure_future(stopping.wait())
        try:
            await asyncio.wait((*self._tasks, stop), return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()

    def returned(self) -> list[str]:
        """Lines that are not with a vendor any more, since this was asked last. Raises InputInvalid, StoreUnavailable."""
        for task in [task for task in self._tasks if task.done()]:
            self._tasks.discard(task)
            task.result()
        back, self._dispatch.back = self._dispatch.back, []
        return back

    async def recall(self) -> None:
        """Tell vendors to stop and wait for what was done; lines without an answer are given up."""
        self._dispatch.recalled.set()
        await asyncio.gather(*self._tasks)
        self.returned()
        await self.close()

    async def close(self) -> None:
        """Stop asking; vendors go on, and :meth:`resume` will find what they did."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        with suppress(OSError):  # something is in it, or it was never made
            self._folder.rmdir()

    def _driver(self, provider: str) -> BatchDriver | None:
        seller = self._engine.rooms.sellers.get(provider)
        return None if seller is None else batches_of(seller)

    def _parcel(self, offer: Offer, deadline_ms: int | None) -> Parcel:
        self._folder.mkdir(parents=True, exist_ok=True)
        batch = hashlib.blake2b(self._dispatch.batch_id.encode(), digest_size=4).hexdigest()
        path = self._folder / f"n{batch}-{secrets.token_hex(6)}.jsonl"
        now_ms = self._dispatch.now_ms
        parcel = Parcel(path, offer.provider, offer.model, began_ms=now_ms, deadline_ms=deadline_ms)
        parcel.begin()
        return parcel

    async def _let_in(self, offer: Offer, order: Order, custom_id: str, room: Slot) -> Delivery | None:
        """The order with its money held for this offer; None = it was answered before, or must be planned again."""
        grant = Grant(offer.provider, offer.model, offer.tier, room)
        delivery = await self._engine.submit(order, grant=grant, calls=False)
        if isinstance(delivery, Completion):
            self._dispatch.returns.serve(custom_id, delivery)
            return None
        if grant.covers(delivery.serving):
            return delivery
        await self._engine.rooms.ledger.void(delivery.reservation)
        message = f"{offer.key}: the batch tier does not take it just now"
        self._dispatch.returns.fail(custom_id, Reject(code=RejectCode.CAPACITY_EXHAUSTED, message=message))
        return None

    async def _pack(
        self, driver: BatchDriver, parcel: Parcel, lines: list[bytes], custom_id: str, delivery: Delivery
    ) -> None:
        """Write a line down, then make its hold one that does not lapse before the vendor's time is over."""
        rooms, job, held, award = self._engine.rooms, delivery.job, delivery.reservation, delivery.serving
        number = len(parcel.ids)
        line = ParcelLine.of(
            custom_id,
            number,
            held,
            award,
            task=job.order.task,
            dearest_nusd=max(c.expected_nusd for c in job.rounds[-1].eligible),
            history=job.history(),
        )
        asked = BatchLine(
            line_id=parcel.line_id(number), body=job.order.body, max_output_tokens=award.max_output_tokens
        )
        rooms.ledger.hand_over(held)
        self._engine.out_of_hand(held.account, held.order_id)
        try:
            lines.append(driver.encode(parcel.model, asked))
        except RequestRefused as error:
            await give_back(self._engine, parcel, line, error, self._dispatch.returns, over=False)
            return
        parcel.add(line)
        try:
            await rooms.ledger.begin(held, driver.window_ms + GRACE_MS)
        except HoldResolved:  # whoever else runs this batch has voided it: what is not held is not handed in
            lines.pop()
            parcel.drop(number)
            message = f"{held.order_id}: its hold was voided by another run of this batch"
            self._dispatch.returns.fail(
                custom_id, Reject(code=RejectCode.LEDGER_UNAVAILABLE, message=message)
            )
            return
        self.out.add(custom_id)

    async def _hand_in(self, driver: BatchDriver, parcel: Parcel, lines: list[bytes]) -> None:
        if not lines:
            self._dispatch.end(parcel)
            return
        parcel.is_sending(self._dispatch.now_ms)
        for wait_ms in (*SUBMIT_AGAIN_MS, None):
            try:
                parcel.is_sent(await driver.submit(parcel.name, parcel.model, lines))
            except SubmitInDoubt:
                pass  # whoever follows looks for it
            except ProviderError as error:  # it was not taken
                self._turned_away(parcel, error)
                if error.retryable and wait_ms is not None:
                    asked_ms = min(error.retry_after_ms or 0, LONGEST_WAIT_MS)
                    await asyncio.sleep(max(wait_ms, asked_ms) / 1000)
                    continue
                await Errand(self._dispatch, parcel, driver).give_all_back(error)
                return
            else:
                self._engine.rooms.capacity.took(parcel.provider, parcel.model)
            break
        self._dispatch.tell("batch.handed_in", parcel, lines=len(parcel.ids))
        self._follow(parcel, driver)

    def _turned_away(self, parcel: Parcel, error: ProviderError) -> None:
        """Its endpoint did not take it: a full one is left alone, and one that fails is out, as with any call."""
        capacity, took_ms = self._engine.rooms.capacity, self._dispatch.now_ms - (parcel.sending_ms or 0)
        capacity.failed(parcel.provider, parcel.model, Load(0, 0, batch=True), error, took_ms)

    def _follow(self, parcel: Parcel, driver: BatchDriver, *, at_once: bool = False) -> None:
        self.out.update(parcel.ids.values())
        errand = Errand(self._dispatch, parcel, driver)
        self._tasks.add(asyncio.ensure_future(errand.run(at_once=at_once)))

    def _wait_again(self, parcel: Parcel) -> None:
        """Count what an earlier run handed in: it waits at the vendor still."""
        rooms, capacity = self._dispatch.rooms.setdefault(parcel.name, []), self._engine.rooms.capacity
        for line in parcel.lines():
            room = capacity.take(parcel.provider, parcel.model, Load(line.input_tokens, 0, batch=True))
            if isinstance(room, Full):
                return
            rooms.append(room)

    async def _void(self, parcel: Parcel) -> None:
        """A parcel that never went anywhere: give its money back."""
        for line in parcel.lines():
            await self._engine.rooms.ledger.void_found(line.reservation)
        parcel.forget()


def _full(full: Full) -> Reject:
    never = full.retry_after_ms is None
    why = "is less than the request" if never else "leaves no room now"
    wait_ms = max(1_000, full.retry_after_ms or 0)
    return Reject(
        code=RejectCode.CAPACITY_EXHAUSTED, message=f"{full.lack.row} {why}", retry_after_ms=wait_ms
    )
