"""The queue of batches of a server: which run now, the earliest deadline first; one process of all that share a store.

Batches that a dead process left are taken up at start. A batch that fails here, for want of a store or for a bug, is
taken up again later, after a pause that doubles.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Final

from .batch_house import BatchHouse
from .batch_records import BatchRecord
from .errors import InputInvalid, StoreUnavailable

__all__ = ["BatchDesk"]

logger = logging.getLogger("negotiator.batches")

ROLE: Final = "batches"
LEAD_MS: Final = 10_000
TICK_S: Final = 1.0
FIRST_PAUSE_S: Final = 1.0
MAX_PAUSE_S: Final = 60.0
SWEEP_EVERY_S: Final = 3_600.0


class BatchDesk:
    """Runs the batches of one house. holder: a name nobody else leads by; running: how many at a time."""

    def __init__(self, house: BatchHouse, *, holder: str, running: int) -> None:
        self._house = house
        self._holder = holder
        self._running = running
        self._tasks: dict[str, asyncio.Task[BatchRecord]] = {}
        self._pauses: dict[str, tuple[float, float]] = {}
        self._woken = asyncio.Event()
        self._lead_until_ms = 0
        self._swept_s = float("-inf")

    def wake(self) -> None:
        """There is a batch to look at."""
        self._woken.set()

    def close_soon(self) -> None:
        """Begin nothing more; :meth:`run` is cancelled when others have closed too."""
        self._house.closing.set()

    async def run(self) -> None:
        """Keep the queue moving until cancelled; then let what is in flight end, and close."""
        try:
            while True:
                try:
                    await self._turn()
                except OSError as error:
                    logger.warning("batches: the folder cannot be read: %s", error)
                with suppress(TimeoutError):
                    async with asyncio.timeout(TICK_S):
                        await self._woken.wait()
                self._woken.clear()
        finally:
            await self._close()

    async def _turn(self) -> None:
        """Start what may start, hear what has ended."""
        loop_s = asyncio.get_running_loop().time()
        self._reap(loop_s)
        if self._house.closing.is_set():
            return
        if not await self._leads():
            for task in self._tasks.values():
                task.cancel()
            return
        if loop_s - self._swept_s > SWEEP_EVERY_S:
            self._swept_s = loop_s
            self._house.files.sweep()
            self._house.records.sweep()
        waiting = [record for record in self._house.records.open() if record.batch_id not in self._tasks]
        for record in sorted(waiting, key=lambda record: (record.expires_ms, record.batch_id)):
            if len(self._tasks) >= self._running:
                break
            if self._pauses.get(record.batch_id, (0.0, 0.0))[0] <= loop_s:
                from .batch_conduct import conduct  # with all that plans and runs: most servers have no batch

                self._tasks[record.batch_id] = asyncio.ensure_future(conduct(self._house, record))
                self._tasks[record.batch_id].add_done_callback(lambda _: self.wake())

    async def _leads(self) -> bool:
        """Whether this process runs the batches now."""
        now_ms = self._house.now_ms()
        try:
            token = await self._house.engine.rooms.store.lead(ROLE, self._holder, LEAD_MS, now_ms)
        except StoreUnavailable:
            return now_ms < self._lead_until_ms  # nobody else can have become it
        if token is None:
            self._lead_until_ms = 0
            return False
        self._lead_until_ms = now_ms + LEAD_MS
        return True

    def _reap(self, loop_s: float) -> None:
        for batch_id, task in list(self._tasks.items()):
            if not task.done():
                continue
            del self._tasks[batch_id]
            error = None if task.cancelled() else task.exception()
            if error is None:
                self._pauses.pop(batch_id, None)
                continue
            pause_s = min(MAX_PAUSE_S, max(FIRST_PAUSE_S, 2 * self._pauses.get(batch_id, (0.0, 0.0))[1]))
            self._pauses[batch_id] = (loop_s + pause_s, pause_s)
            known = isinstance(error, (InputInvalid, OSError, StoreUnavailable))
            logger.warning(
                "%s stopped and goes on in %g s: %s",
                batch_id,
                pause_s,
                error,
                exc_info=None if known else error,
            )

    async def _close(self) -> None:
        self._house.closing.set()
        if self._tasks:
            await asyncio.wait(self._tasks.values())
        for task in self._tasks.values():
            task.cancel()
