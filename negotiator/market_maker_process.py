"""Keeps a market maker process alive: reports (or, with a shared store, beats) go down a pipe, prices come up.

No worker waits for it. When it dies or falls silent it is started again, with a pause that doubles; until it
has spoken, orders go by the last prices, and by cost alone once these are stale.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from providers.clock import Clock

from .events import Emit, Event
from .limits import LimitRow, ShadowPrices
from .market_maker import prices_from_bytes
from .market_maker_child import Instructions
from .market_maker_demand import DemandMeter

__all__ = ["MarketMakerProcess"]

logger = logging.getLogger("negotiator.market_maker")

COMMAND: Final = (sys.executable, "-m", "negotiator.market_maker_child")
FIRST_PAUSE_S: Final = 0.5
MAX_PAUSE_S: Final = 30.0
START_S: Final = 20.0
"""How long a new process may take to its first answer: it loads NumPy."""

SILENT_S: Final = 10.0
"""How long an answer may take before the process counts as hung."""

MAX_LINE: Final = 1 << 24


class _Died(Exception):
    """The child ended or fell silent; says how."""


class MarketMakerProcess:
    """One child process at a time, and what goes to it and comes from it."""

    def __init__(
        self,
        rows: tuple[LimitRow, ...],
        clock: Clock,
        emit: Emit,
        *,
        meter: DemandMeter,
        taken: Callable[[], Mapping[str, int]],
        publish: Callable[[ShadowPrices], bool],
        store: str | None = None,
        holder: str = "",
        command: tuple[str, ...] = COMMAND,
    ) -> None:
        """``store``: the URL of the store all workers share; they post there themselves, ``meter`` and ``taken`` are
        not asked. ``holder``: a name nobody else leads by."""
        self._rows = rows
        self._clock = clock
        self._emit = emit
        self._meter = meter
        self._taken = taken
        self._publish = publish
        self._store = store
        self._holder = holder
        self._command = command
        self._epoch = 0
        self._pause_s = FIRST_PAUSE_S
        self.process: Process | None = None

    async def run(self, reprice_ms: int) -> None:
        """Keep a child at work until cancelled; then end it."""
        while True:
            self._epoch += 1
            try:
                await self._attend(reprice_ms)
            except (_Died, OSError, ValueError) as error:
                now_ms = self._clock.now_ms()
                logger.warning("market maker: %s; starting again in %.1f s", error, self._pause_s)
                self._emit(Event("market_maker.died", now_ms, {"error": str(error), "epoch": self._epoch}))
            await asyncio.sleep(self._pause_s)
            self._pause_s = min(MAX_PAUSE_S, 2 * self._pause_s)

    async def _attend(self, reprice_ms: int) -> None:
        process = await asyncio.create_subprocess_exec(
            *self._command, stdin=PIPE, stdout=PIPE, limit=MAX_LINE
        )
        self.process = process
        patience_s = START_S
        try:
            assert process.stdin is not None
            told = Instructions(
                rows=self._rows,
                epoch=self._epoch,
                reprice_ms=reprice_ms,
                store=self._store,
                holder=self._holder,
            )
            process.stdin.write(told.to_bytes() + b"\n")
            if self._store is None:
                self._meter.forget()
            while True:
                await self._exchange(process, patience_s)
                patience_s, self._pause_s = SILENT_S, FIRST_PAUSE_S
                await asyncio.sleep(reprice_ms / (1000 if self._store is None else 2000))
        finally:
            self.process = None
            await _end(process)

    async def _exchange(self, process: Process, patience_s: float) -> None:
        """One report, one answer."""
        assert process.stdin is not None
        assert process.stdout is not None
        line = b""
        if self._store is None:
            line = self._meter.report(self._clock.now_ms(), self._taken()).to_bytes()
        try:
            process.stdin.write(line + b"\n")
            async with asyncio.timeout(patience_s):
                await process.stdin.drain()
                line = await process.stdout.readline()
        except TimeoutError:
            raise _Died(f"gave no prices within {patience_s:.0f} s") from None
        except ConnectionError:
            line = b""
        if not line:
            raise _Died(f"ended with status {await process.wait()}")
        if line.strip():
            prices = prices_from_bytes(line)
            if self._publish(prices):
                facts = {"rows": len(prices.nusd_per_million), "epoch": prices.epoch}
                self._emit(Event("market.repriced", prices.made_ms, facts))


async def _end(process: Process) -> None:
    """Close its input, which ends it; kill it where that does not."""
    if process.stdin is not None:
        process.stdin.close()
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
