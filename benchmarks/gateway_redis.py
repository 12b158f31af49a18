"""How often an order waits for a shared store: round trips to Valkey, seen on the wire between it and the gateway.

A relay on loopback passes every byte on and notes when the gateway sends something to the store. One order at a time
is sent; trips are those between the order's arrival and the call's at the model server (which passes a relay too),
a stream's first byte, and a whole answer, which waits for its settlement. What workers tell the store on their own is counted as well, so the median is the figure.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from itertools import islice
from urllib.parse import urlsplit

from benchmarks.gateway_load import bodies, opened

__all__ = ["measured", "relayed", "round_trips"]

ORDERS = 100
PER_SECOND = 20.0


class Relay:
    """A listener that passes connections on to an address; ``sent`` are the instants at which clients sent something."""

    def __init__(self, url: str) -> None:
        where = urlsplit(url)
        self._host, self._port = where.hostname or "127.0.0.1", where.port
        self.sent: list[float] = []
        self.url = ""

    async def pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either side ends it."""
        there, back = await asyncio.open_connection(self._host, self._port)
        loop = asyncio.get_running_loop()

        def seen() -> None:
            self.sent.append(loop.time())

        with suppress(ConnectionError):
            await asyncio.gather(_copy(reader, back, seen), _copy(there, writer, lambda: None))
        writer.close()
        back.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Callable[[], None]) -> None:
    while data := await reader.read(65_536):
        seen()
        writer.write(data)
        await writer.drain()
    writer.close()


@asynccontextmanager
async def relayed(url: str) -> AsyncIterator[Relay]:
    """A relay in front of an address while the block runs."""
    relay = Relay(url)
    server = await asyncio.start_server(relay.pass_on, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    relay.url = f"{urlsplit(url).scheme}://{host}:{port}"
    try:
        yield relay
    finally:
        server.close()


async def measured(
    upstream: str, store: str, gateway: Callable[[str, str], AbstractContextManager[str]]
) -> dict[str, float]:
    """The trips of a gateway; ``gateway`` starts one between a model server and a store and gives its address."""
    async with relayed(upstream) as seller, relayed(store) as shared:
        where = urlsplit(store)
        starting = gateway(seller.url, f"{shared.url}{where.path}?{where.query}")
        url = await asyncio.to_thread(starting.__enter__)
        try:
            return await round_trips(url, shared, seller)
        finally:
            await asyncio.to_thread(starting.__exit__, None, None, None)


async def round_trips(gateway: str, store: Relay, seller: Relay) -> dict[str, float]:
    """Medians over orders that come one by one, streamed and whole."""
    await opened(gateway, bodies(), per_second=PER_SECOND, seconds=2)
    before_call, before_first = await _counted(gateway, store, seller, bodies(stream=True))
    _, before_answer = await _counted(gateway, store, seller, bodies())
    return {
        "orders": 2 * ORDERS,
        "before_call": statistics.median(before_call),
        "before_first_byte": statistics.median(before_first),
        "before_answer": statistics.median(before_answer),
    }


async def _counted(
    gateway: str, store: Relay, seller: Relay, work: Iterator[bytes]
) -> tuple[list[int], list[int]]:
    """Per order, what was sent to the store before the call went out, and before the answer's first byte came."""
    before_call: list[int] = []
    before_first: list[int] = []
    loop = asyncio.get_running_loop()
    for body in islice(work, ORDERS):
        store.sent.clear()
        seller.sent.clear()
        answers = await opened(gateway, iter([body]), per_second=1.0, seconds=1.0)
        began = loop.time() - answers.took_s
        if answers.bad or not seller.sent:
            raise SystemExit(
                f"{gateway}: expected a good answer of the model server, found {answers.example!r}"
            )
        first = began + answers.first_s[0]
        before_call.append(sum(began <= at <= seller.sent[0] for at in store.sent))
        before_first.append(sum(began <= at <= first for at in store.sent))
    return before_call, before_first
