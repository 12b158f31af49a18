"""A vendor that plays back a script over real HTTP, and a real seller that calls it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer
from aiohttp.typedefs import Handler

from providers.assembly import MessageBuilder
from providers.base import ModelSettings, ProviderSettings
from providers.clock import SystemClock
from providers.http_plain import open_client
from providers.http_reply import HttpPoster
from providers.http_sellers import http_seller
from providers.terms import RFQ, Delta, PrefixMark, Quote, Rates, Ticket
from providers.vendor import VendorSeller

__all__ = [
    "CLIENT",
    "ENVIRONMENT",
    "RATES",
    "Playback",
    "Received",
    "collect",
    "seller_at",
    "ticket_for",
    "vendor_at",
]

RATES = Rates(
    input_nusd_per_mtok=1_000_000_000,
    output_nusd_per_mtok=4_000_000_000,
    cache_read_nusd_per_mtok=100_000_000,
    cache_write_nusd_per_mtok=1_250_000_000,
    cache_write_1h_nusd_per_mtok=2_000_000_000,
)
"""$1 in, $4 out, $0.10 cached, $1.25 written: products that a reader can check by hand."""

CLIENT: list[Callable[[str], HttpPoster]] = [open_client]
"""Opens the client of a seller: the last one; a test module may push another."""

ENVIRONMENT = {"KEY_ONE": "secret-one", "KEY_TWO": "secret-two"}


@dataclass
class Received:
    """One request as it arrived."""

    path: str
    headers: Mapping[str, str]
    body: Any


@asynccontextmanager
async def vendor_at(handle: Handler) -> AsyncIterator[str]:
    """Serve every method and path with ``handle``; gives the base URL."""
    app = web.Application(client_max_size=2**26)
    app.router.add_route("*", "/{path:.*}", handle)
    async with TestServer(app) as server:
        yield str(server.make_url("/v1"))


@dataclass
class Playback:
    """Answers each request with the next reply, the last one again and again; remembers what it was asked.

    A reply with both ``json`` and ``events`` streams where it is asked to.
    """

    replies: list[Mapping[str, Any]]
    received: list[Received] = field(default_factory=list)
    peers: set[object] = field(default_factory=set)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    def at(self) -> AbstractAsyncContextManager[str]:
        """Serve; gives the base URL."""
        return vendor_at(self._handle)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        text = await request.text()
        body = json.loads(text) if text else None
        self.peers.add(request.transport)
        self.received.append(
            Received(request.path_qs, {name.lower(): value for name, value in request.headers.items()}, body)
        )
        reply = self.replies[min(len(self.received), len(self.replies)) - 1]
        try:
            return await self._reply(request, reply)
        except (asyncio.CancelledError, ConnectionResetError):
            self.cancelled.set()
            raise

    async def _reply(self, request: web.Request, reply: Mapping[str, Any]) -> web.StreamResponse:
        if reply.get("hang"):
            await asyncio.sleep(3600)
        status, headers = reply.get("status", 200), dict(reply.get("headers", {}))
        asked = self.received[-1].body
        streams = "events" in reply and isinstance(asked, dict) and bool(asked.get("stream"))
        if "json" in reply and not streams:
            return web.Response(
                status=status,
                headers={"content-type": "application/json"} | headers,
                text=json.dumps(reply["json"]),
            )
        if "text" in reply:
            return web.Response(status=status, headers=headers, text=reply["text"])
        response = web.StreamResponse(status=status, headers={"content-type": "text/event-stream"} | headers)
        await response.prepare(request)
        for event in reply["events"]:
            if event == "CUT":
                assert request.transport is not None
                request.transport.abort()
                return response
            if event == "HANG":
                await asyncio.sleep(3600)
            await response.write(encoded(event))
        return response


def encoded(event: Any) -> bytes:
    """An event of a transcript: an object is its data, a text is sent as it is, ``{"event", "data"}`` has a name."""
    if isinstance(event, str):
        return event.encode()
    if set(event) == {"event", "data"}:
        return f"event: {event['event']}\ndata: {json.dumps(event['data'])}\n\n".encode()
    return f"data: {json.dumps(event)}\n\n".encode()


def seller_at(
    base_url: str,
    kind: str = "openai_compat",
    *,
    model: str = "m",
    keys: tuple[str, ...] = ("KEY_ONE",),
    more_models: tuple[str, ...] = (),
    **more: Any,
) -> VendorSeller:
    """A real seller of one model, or some more, at known rates."""
    settings = ProviderSettings(
        kind=kind,
        name="shop",
        base_url=base_url,
        api_key_env=keys,
        models=tuple(
            ModelSettings(name=name, rates=RATES, context_tokens=100_000) for name in (model, *more_models)
        ),
        **more,
    )
    return http_seller(settings, SystemClock(), ENVIRONMENT, connect=CLIENT[-1])


def ticket_for(
    seller: VendorSeller,
    body: Mapping[str, Any] | None = None,
    *,
    stream: bool = False,
    tier: str = "standard",
    input_tokens: int = 10,
    max_output_tokens: int = 100,
    deadline_ms: int | None = 20_000,
    prefix: tuple[PrefixMark, ...] = (),
    capabilities: frozenset[str] = frozenset(),
    models: frozenset[str] | None = None,
) -> Ticket:
    """A ticket for what the seller quotes."""
    rfq = RFQ(
        rfq_id="rfq_1",
        input_tokens=input_tokens,
        max_output_tokens=max_output_tokens,
        tiers=(tier,),
        prefix=prefix,
        capabilities=capabilities,
        models=models,
    )
    quotes = [answer for answer in seller.quote(rfq) if isinstance(answer, Quote)]
    assert len(quotes) == 1, seller.quote(rfq)
    return Ticket(
        reservation_id="res_1",
        order_id="order_1",
        quote=quotes[0],
        body=body or {"messages": [{"role": "user", "content": "hi"}]},
        max_output_tokens=max_output_tokens,
        deadline_ms=deadline_ms,
        stream=stream,
        prefix=prefix,
    )


async def collect(
    seller: VendorSeller, ticket: Ticket, each: Callable[[Delta], None] = lambda _: None
) -> tuple[dict[str, Any], Delta]:
    """The whole message and the last delta."""
    message, last = MessageBuilder(), None
    async for delta in seller.execute(ticket):
        message.add(delta.delta)
        each(delta)
        last = delta
    assert last is not None
    return message.message(), last
