"""How much a key may ask for: calls a minute and calls at once, in one process or shared by all workers of a store."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final, Protocol

from providers.clock import Clock

from ..errors import StoreUnavailable
from ..store import LeaseAsk, RateStore, Unused
from .faults import ApiFault
from .keyring import AccessKey

__all__ = ["KeyLimits", "Limits", "SharedKeyLimits"]

MAX_TRACKED: Final = 10_000
MINUTE_MS: Final = 60_000
RATE_LEASE_MS: Final = 2_000
"""How long a worker may use calls it leased; a worker that dies keeps so many from the others."""

SLOT_LEASE_MS: Final = 300_000
"""How long a slot of a worker that died stays taken."""

PORTION: Final = 50
"""A lease is for this part of a minute's calls."""


class Limits(Protocol):
    """Counts calls of keys in and out."""

    async def enter(self, key: AccessKey) -> None:
        """Count a call in; raises ApiFault 429. Whoever entered must :meth:`leave`."""
        ...

    def leave(self, key: AccessKey) -> None:
        """Count a call out."""
        ...


class KeyLimits:
    """Calls per minute (GCRA: one number per key, a burst of a tenth of a minute) and calls at once, per key."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._due_ms: dict[str, float] = {}
        self._running: dict[str, int] = {}

    async def enter(self, key: AccessKey) -> None:
        """Count a call in; raises ApiFault 429. Whoever entered must :meth:`leave`."""
        running = self._running.get(key.key_id, 0)
        if key.concurrency is not None and running >= key.concurrency:
            raise _busy(key)
        if key.rpm is not None:
            self._pace(key.key_id, key.rpm)
        self._running[key.key_id] = running + 1

    def _pace(self, key_id: str, rpm: int) -> None:
        now_ms, every_ms = self._clock.now_ms(), 60_000 / rpm
        burst_ms = max(6_000.0, every_ms)
        due_ms = max(self._due_ms.get(key_id, 0.0), now_ms)
        if due_ms - now_ms + every_ms > burst_ms:
            raise _too_fast(rpm, round(due_ms - now_ms + every_ms - burst_ms))
        if len(self._due_ms) >= MAX_TRACKED:
            self._due_ms = {name: due for name, due in self._due_ms.items() if due > now_ms}
        self._due_ms[key_id] = due_ms + every_ms

    def leave(self, key: AccessKey) -> None:
        """Count a call out."""
        left = self._running.get(key.key_id, 0) - 1
        if left > 0:
            self._running[key.key_id] = left
        else:
            self._running.pop(key.key_id, None)


class SharedKeyLimits:
    """The same for workers that share a store: each counts against what it leased, together they exceed no limit."""

    def __init__(self, rates: RateStore, worker: str, clock: Clock) -> None:
        self._rates = rates
        self._worker = worker
        self._clock = clock
        self._left: dict[str, tuple[int, int]] = {}
        self._running: dict[str, int] = {}
        self._returning: set[asyncio.Task[None]] = set()

    async def enter(self, key: AccessKey) -> None:
        """Count a call in, asking the store where nothing is leased; raises ApiFault 429 or StoreUnavailable."""
        if key.concurrency is not None:
            running = self._running.get(key.key_id, 0) + 1
            self._running[key.key_id] = running
            ask = LeaseAsk(key=_slots(key), amount=key.concurrency, per_ms=0, want=running)
            granted, _ = await self._lease(ask, SLOT_LEASE_MS)
            if granted < running:
                self.leave(key)
                raise _busy(key)
        if key.rpm is not None:
            try:
                await self._pace(key.key_id, key.rpm)
            except ApiFault:
                self.leave(key)
                raise

    async def _pace(self, key_id: str, rpm: int) -> None:
        left, until_ms = self._left.get(key_id, (0, 0))
        if left <= 0 or until_ms <= self._clock.now_ms():
            want = max(1, rpm // PORTION)
            ask = LeaseAsk(key=f"key-{key_id}:requests", amount=rpm, per_ms=MINUTE_MS, want=want)
            left, until_ms = await self._lease(ask, RATE_LEASE_MS)
            if left <= 0:
                raise _too_fast(rpm, until_ms - self._clock.now_ms())
            if len(self._left) >= MAX_TRACKED:
                self._left.clear()
        self._left[key_id] = (left - 1, until_ms)

    async def _lease(self, ask: LeaseAsk, lease_ms: int) -> tuple[int, int]:
        (lease,) = await self._rates.lease(self._worker, [ask], lease_ms, self._clock.now_ms())
        return lease.granted, lease.until_ms

    def leave(self, key: AccessKey) -> None:
        """Count a call out; its slot goes back beside what follows."""
        if key.concurrency is None:
            return
        left = self._running.get(key.key_id, 0) - 1
        if left > 0:
            self._running[key.key_id] = left
        else:
            self._running.pop(key.key_id, None)
        task = asyncio.ensure_future(self._give_back(_slots(key)))
        self._returning.add(task)
        task.add_done_callback(self._returning.discard)

    async def _give_back(self, slots: str) -> None:
        with suppress(StoreUnavailable):  # then it comes back when the lease ends
            await self._rates.give_back(self._worker, [Unused(key=slots, units=1)], self._clock.now_ms())


def _slots(key: AccessKey) -> str:
    return f"key-{key.key_id}:concurrency"


def _busy(key: AccessKey) -> ApiFault:
    message = f"the key allows {key.concurrency} calls at once, and so many are running"
    return ApiFault(429, "KEY_BUSY", message, retry_after_ms=200)


def _too_fast(rpm: int, wait_ms: int) -> ApiFault:
    message = f"the key allows {rpm} calls a minute"
    return ApiFault(429, "KEY_RATE_LIMITED", message, retry_after_ms=max(1, wait_ms))
