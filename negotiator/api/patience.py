"""What a caller may take without asking for anything: time to say what it wants, and streams that never end."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from aiohttp.web_protocol import RequestHandler

from .faults import ApiFault

__all__ = ["HEAD_S", "STREAMS_PER_KEY", "Feeds", "Newcomers"]

HEAD_S: Final = 15.0
"""How long a new connection may take to send the head of its first request; later ones have the idle time."""

STREAMS_PER_KEY: Final = 16
"""Streams of news, which never end by themselves, that one key may hold open at a process."""


class Newcomers:
    """Connections that have not sent a whole head yet; those that take too long are closed."""

    def __init__(self) -> None:
        self._spoke: set[RequestHandler] = set()
        self._waited: set[RequestHandler] = set()

    def spoke(self, connection: RequestHandler) -> None:
        """A request of this connection has come."""
        self._spoke.add(connection)

    def sweep(self, connections: Sequence[RequestHandler]) -> None:
        """Close those that had not spoken at the last sweep, and have not since."""
        here = set(connections)
        self._spoke &= here
        silent = here - self._spoke
        for connection in silent & self._waited:
            connection.force_close()
        self._waited = silent

    async def watch(self, connections: Callable[[], Sequence[RequestHandler]]) -> None:
        """Sweep for ever: a connection that does not speak is closed after ``HEAD_S`` at the latest."""
        while True:
            await asyncio.sleep(HEAD_S / 2)
            self.sweep(connections())


class Feeds:
    """How many streams of news each key holds."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()

    @contextmanager
    def hold(self, key_id: str) -> Iterator[None]:
        """One more while the block runs. Raises ApiFault 429 when the key has enough."""
        if self._open[key_id] >= STREAMS_PER_KEY:
            message = f"a key may hold {STREAMS_PER_KEY} streams open, and so many are"
            raise ApiFault(429, "TOO_MANY_STREAMS", message, retry_after_ms=1_000)
        self._open[key_id] += 1
        try:
            yield
        finally:
            self._open[key_id] -= 1
            if not self._open[key_id]:
                del self._open[key_id]
