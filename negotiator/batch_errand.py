"""One parcel at its vendor: found again, asked for, stopped in time, fetched, and its lines brought to their end."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from providers.batch import BatchDriver, BatchState, BatchStatus, SellsBatches
from providers.batch_single import next_poll_ms
from providers.errors import ProviderError, ProviderTimeout, ProviderUnavailable, RequestRefused

from .batch_parcel import Parcel
from .batch_settling import Returns, give_back, settle
from .capacity import Slot
from .events import Event
from .order import Completion

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ["GRACE_MS", "Dispatch", "Errand"]

LOOK_AFTER_MS: Final = (2_000, 15_000, 60_000)
"""When a batch that may have been taken is looked for."""

GRACE_MS: Final = 6 * 3_600_000
"""How long after its window a batch is still asked for."""

FETCHES: Final = 100
AT_ONCE: Final = 64
"""Lines given back to the market at the same time."""

FAR_MS: Final = 2**40


@dataclass(slots=True)
class Dispatch:
    """What all parcels of a batch share.

    out: lines that are with vendors now; back: lines that were, until somebody takes note. recalled: set, vendors are
    told to stop and lines without an answer are given up. rooms: what each parcel takes of its endpoint's queue, by name.
    """

    engine: Engine
    batch_id: str
    returns: Returns
    out: set[str] = field(default_factory=set)
    back: list[str] = field(default_factory=list)
    recalled: asyncio.Event = field(default_factory=asyncio.Event)
    rooms: dict[str, list[Slot]] = field(default_factory=dict)

    @property
    def now_ms(self) -> int:
        """The house's time."""
        return self.engine.rooms.clock.now_ms()

    def end(self, parcel: Parcel) -> None:
        """Nothing of it is needed any more, and none of it waits at its vendor."""
        for room in self.rooms.pop(parcel.name, ()):
            room.release()
        parcel.forget()

    def tell(self, name: str, parcel: Parcel, **facts: Any) -> None:
        """Emit what happened to a parcel."""
        about = {"batch_id": self.batch_id, "provider": parcel.provider, "model": parcel.model}
        self.engine.rooms.bus.emit(Event(name, self.now_ms, {**about, **facts}))


class Errand:
    """One parcel and the driver it is with."""

    def __init__(self, dispatch: Dispatch, parcel: Parcel, driver: BatchDriver) -> None:
        self._dispatch, self._parcel, self._driver = dispatch, parcel, driver

    async def run(self, *, at_once: bool = False) -> None:
        """Until none of its lines is with the vendor; ``at_once``: ask first, then wait. Raises InputInvalid, StoreUnavailable."""
        if self._parcel.handle is None and not await self._found():
            if self._driver.findable:
                await self.give_all_back(ProviderUnavailable("the batch was not taken"))
            else:
                self._in_doubt("it may have been taken, and the vendor keeps no names")
            return
        status = await self._polled(at_once)
        if status is None:
            self._in_doubt("its vendor does not know it, or did not end it in time")
        elif status.state is BatchState.FAILED:
            await self.give_all_back(ProviderUnavailable(f"the batch was not run: {status.detail}"))
        else:
            await self._settle(status)

    async def give_all_back(self, error: ProviderError) -> None:
        """No line was run: each is bought elsewhere or refused for now."""
        await self._give_back(dict.fromkeys(self._parcel.ids, error))
        self._ended()
        self._dispatch.tell("batch.not_taken", self._parcel, detail=error.detail)

    async def _found(self) -> bool:
        """Whether a batch that may have been taken is there."""
        parcel = self._parcel
        assert parcel.sending_ms is not None, "only what was about to be handed in is looked for"
        for wait_ms in LOOK_AFTER_MS:
            await asyncio.sleep(wait_ms / 1000)
            with suppress(ProviderError):
                handle = await self._driver.find(
                    parcel.name, parcel.model, len(parcel.ids), parcel.sending_ms
                )
                if handle is not None:
                    parcel.is_sent(handle)
                    return True
        return False

    async def _polled(self, at_once: bool) -> BatchStatus | None:
        """The status it ended with; None = nobody knows. At its deadline, or recalled, it is told to stop."""
        parcel, driver = self._parcel, self._driver
        assert parcel.handle is not None, "what has no handle is not asked for"
        assert parcel.sending_ms is not None, "it was handed in"
        last_ms = parcel.sending_ms + driver.window_ms + GRACE_MS
        waited_ms, stopped = 0, False
        while self._dispatch.now_ms <= last_ms:
            if not at_once:
                waited_ms = next_poll_ms(0 if stopped else waited_ms)
                await self._pause(waited_ms, stopped)
            at_once = False
            try:
                if not stopped and (self._dispatch.recalled.is_set() or self._due_ms() <= 0):
                    await driver.cancel(parcel.handle)
                    stopped = True
                status = await driver.poll(parcel.handle)
            except RequestRefused:
                return None
            except ProviderError:
                continue
            if status.state is not BatchState.RUNNING:
                self._learn(status, watched=waited_ms > 0)
                return status
        return None

    def _learn(self, status: BatchStatus, *, watched: bool) -> None:
        """Teach its seller how long it took; one stopped at its deadline took at least so long.

        watched: it was asked for all the time. When a batch ended that a dead process had handed in nobody knows.
        """
        parcel, dispatch = self._parcel, self._dispatch
        seller = dispatch.engine.rooms.sellers[parcel.provider]
        if status.state is BatchState.ENDED and watched and not dispatch.recalled.is_set():
            assert isinstance(seller, SellsBatches), "it has a batch"
            assert parcel.sending_ms is not None, "it was handed in"
            seller.batch_took(parcel.model, dispatch.now_ms - parcel.sending_ms)

    async def _pause(self, wait_ms: int, stopped: bool) -> None:
        if stopped:
            await asyncio.sleep(wait_ms / 1000)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0, min(wait_ms, self._due_ms())) / 1000):
                await self._dispatch.recalled.wait()

    def _due_ms(self) -> int:
        """Until its deadline; far where it has none."""
        parcel = self._parcel
        return FAR_MS if parcel.deadline_ms is None else parcel.due_ms - self._dispatch.now_ms

    async def _settle(self, status: BatchStatus) -> None:
        """Settle what was answered; what was not goes back to the market once all answers are safe."""
        unanswered: dict[int, ProviderError] = {}
        answered = await self._answers(status, unanswered)
        if answered is None or (not answered and not unanswered and status.done):
            self._in_doubt("its results could not be fetched, or are of other lines")
            return
        dropped = ProviderTimeout if status.detail == "expired" else ProviderUnavailable
        for number in self._parcel.ids.keys() - answered - unanswered.keys():
            unanswered[number] = dropped(f"the batch ended without it: {status.detail}")
        await self._give_back(unanswered)
        self._ended()
        self._dispatch.tell("batch.fetched", self._parcel, answered=len(answered), unanswered=len(unanswered))

    async def _answers(self, status: BatchStatus, unanswered: dict[int, ProviderError]) -> set[int] | None:
        """Fetch the results, from the start again where they break off; settling twice changes nothing.

        None = the vendor did not give all of them in :data:`FETCHES` tries.
        """
        parcel, dispatch = self._parcel, self._dispatch
        assert parcel.handle is not None, "what ended has a handle"
        answered: set[int] = set()
        waited_ms = 0
        for _ in range(FETCHES):
            try:
                async for result in self._driver.results(parcel.handle, status):
                    number = parcel.number_of(result.line_id)
                    if number is None or number in answered:
                        continue
                    if result.delta is None:
                        assert result.error is not None, "a result is an answer or an error"
                        unanswered[number] = result.error
                        continue
                    done = await settle(dispatch.engine, parcel, parcel.line(number), result.delta)
                    answered.add(number)
                    self._served(done, parcel.ids[number])
                return answered
            except ProviderError as error:
                waited_ms = next_poll_ms(waited_ms)
                dispatch.tell("batch.unreachable", parcel, detail=error.detail)
                await asyncio.sleep(waited_ms / 1000)
        return None

    def _served(self, done: Completion, custom_id: str) -> None:
        self._dispatch.out.discard(custom_id)
        self._dispatch.returns.serve(custom_id, done)

    async def _give_back(self, errors: dict[int, ProviderError]) -> None:
        gate, dispatch, parcel = asyncio.Semaphore(AT_ONCE), self._dispatch, self._parcel

        async def one(number: int, error: ProviderError) -> None:
            async with gate:
                over = dispatch.recalled.is_set()
                line = parcel.line(number)
                await give_back(dispatch.engine, parcel, line, error, dispatch.returns, over=over)
                dispatch.out.discard(line.custom_id)

        await asyncio.gather(*(one(number, error) for number, error in errors.items()))

    def _in_doubt(self, why: str) -> None:
        """Let go of it: its holds count until they post, and whoever sends its lines again finds their ids in flight."""
        self._dispatch.tell("batch.in_doubt", self._parcel, lines=len(self._parcel.ids), detail=why)
        self._ended()

    def _ended(self) -> None:
        ids = set(self._parcel.ids.values())
        self._dispatch.back += ids
        self._dispatch.out -= ids
        self._dispatch.end(self._parcel)
