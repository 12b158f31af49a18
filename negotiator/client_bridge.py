"""A blocking face for an asynchronous object: one private thread runs its event loop, any thread may call.

:func:`blocking` and :func:`iterating` turn a method of the asynchronous class into one of the blocking class, with the
same parameters for readers and type checkers, so there is no second implementation to keep alike.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from typing import Any, Concatenate, Final, ParamSpec, Protocol, TypeVar

from .errors import CounterOffer, Rejected

__all__ = ["Bridge", "Bridged", "blocking", "iterating"]

P = ParamSpec("P")
R = TypeVar("R")
A = TypeVar("A")
S = TypeVar("S", covariant=True)

_END: Final = object()


class Bridge:
    """An event loop in a thread of its own, started by the first call."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    @property
    def running(self) -> bool:
        """Whether there was a call since it was made or closed."""
        return self._loop is not None

    def run(self, work: Coroutine[Any, Any, R]) -> R:
        """What a coroutine gives. An interrupt here cancels it there."""
        assert threading.current_thread() is not self._thread, "a blocking call inside the loop it waits for"
        future = asyncio.run_coroutine_threadsafe(work, self._started())
        try:
            return future.result()
        except Rejected as refused:
            if refused.again is not None:
                refused.again = functools.partial(self._accept, refused.again)
            raise
        finally:
            future.cancel()

    def iterate(self, source: AsyncGenerator[R]) -> Generator[R]:
        """The items of an asynchronous generator; closing this closes it."""
        try:
            while (item := self.run(_next(source))) is not _END:
                yield item  # type: ignore[misc]
        finally:
            self.run(source.aclose())

    def close(self) -> None:
        """Stop the thread; a later call starts another."""
        with self._starting:
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._starting:
            if self._loop is None:
                self._loop = loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=_serve, args=(loop,), name="negotiator-client", daemon=True
                )
                self._thread.start()
            return self._loop

    def _accept(self, again: Callable[[CounterOffer], Any], offer: CounterOffer) -> Any:
        given = again(offer)
        return self.run(given) if inspect.iscoroutine(given) else self.iterate(given)


class Bridged(Protocol[S]):
    """A blocking object: the asynchronous one behind it, and the bridge to it."""

    @property
    def asynchronous(self) -> S:
        """The object that does the work."""

    @property
    def bridge(self) -> Bridge:
        """Where it does it."""


def blocking(
    method: Callable[Concatenate[A, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[Bridged[A], P], R]:
    """A coroutine method of ``A`` as a method that waits."""

    @functools.wraps(method)
    def call(self: Bridged[A], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.bridge.run(method(self.asynchronous, *args, **kwargs))

    return call


def iterating(
    method: Callable[Concatenate[A, P], AsyncGenerator[R]],
) -> Callable[Concatenate[Bridged[A], P], Generator[R]]:
    """An asynchronous generator method of ``A`` as a generator."""

    @functools.wraps(method)
    def call(self: Bridged[A], /, *args: P.args, **kwargs: P.kwargs) -> Generator[R]:
        return self.bridge.iterate(method(self.asynchronous, *args, **kwargs))

    return call


async def _next(source: AsyncGenerator[R]) -> R | object:
    return await anext(source, _END)


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
