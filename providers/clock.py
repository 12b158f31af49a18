"""Time as a constructor argument: the wall clock, or a virtual one in which a simulated hour takes seconds.

Rooms and sellers take a :class:`Clock` and never look at the wall themselves. :func:`run_virtual` runs a coroutine
in an event loop whose time jumps to the next timer instead of waiting for it, so ``asyncio.sleep``, timeouts and
deadlines all work unchanged, in virtual time, and the same seed gives the same run.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol, TypeVar

__all__ = ["Clock", "LoopClock", "SystemClock", "VirtualLoop", "run_virtual"]

T = TypeVar("T")

VIRTUAL_EPOCH_MS: Final = 1_795_521_600_000
"""Where virtual time starts unless told otherwise: a Tuesday noon of November 2026, UTC."""

MAX_IDLE_POLLS: Final = 2_000
"""Real waits of a virtual loop with nothing scheduled, 10 ms each, before it says that it is stuck."""


class Clock(Protocol):
    """What time it is, in milliseconds since 1970."""

    def now_ms(self) -> int:
        """Milliseconds since 1970, UTC. It may step; intervals are measured by the event loop's own time."""
        ...


class SystemClock:
    """The machine's wall clock."""

    def now_ms(self) -> int:
        """Milliseconds since 1970, UTC."""
        return time.time_ns() // 1_000_000


class LoopClock:
    """The running event loop's time, counted from ``start_ms``: virtual in a :class:`VirtualLoop`."""

    def __init__(self, start_ms: int = VIRTUAL_EPOCH_MS) -> None:
        self._start_ms = start_ms
        self._zero_s: float | None = None
        self._last_ms = start_ms

    def now_ms(self) -> int:
        """Milliseconds since 1970; outside a running loop, the last time that was read."""
        try:
            now_s = asyncio.get_running_loop().time()
        except RuntimeError:
            return self._last_ms
        if self._zero_s is None:
            self._zero_s = now_s
        self._last_ms = self._start_ms + round((now_s - self._zero_s) * 1000)
        return self._last_ms


class _JumpingSelector(selectors.DefaultSelector):
    """Never waits while a timer is due later: it reports the wait as passed and lets the loop's time jump."""

    def __init__(self, jump: Callable[[float], None]) -> None:
        super().__init__()
        self._jump = jump
        self._idle = 0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if ready or timeout == 0:
            self._idle = 0
            return ready
        if timeout is not None:
            self._idle = 0
            self._jump(max(timeout, 0.0))
            return ready
        self._idle += 1  # no timer: only real input, or a thread, can wake this loop
        if self._idle > MAX_IDLE_POLLS:
            raise RuntimeError("virtual time is stuck: every task waits for something that is not a timer")
        return super().select(0.01)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time advances only by jumping to the next timer. For simulations: no sockets, no threads."""

    def __init__(self) -> None:
        self._virtual_s = 0.0
        super().__init__(_JumpingSelector(self._advance))

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._virtual_s

    def _advance(self, seconds: float) -> None:
        self._virtual_s += seconds


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run ``main`` to its end in virtual time; like ``asyncio.run``, with a :class:`VirtualLoop`."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
