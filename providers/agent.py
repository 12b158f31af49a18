"""Serves any seller over the quote protocol: ``POST /quote``, ``POST /execute``, ``GET /schema.json``.

A quote that is open is honoured as often as it is called until it expires; an unknown or expired one is answered 410.
Bodies, open quotes and calls at once are bounded. With a key set, callers must show it.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import inspect
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, cast

import orjson
from aiohttp import web

from .agent_answers import answer_body, error_body, status_of, stream_events
from .assembly import MessageBuilder
from .base import Provider
from .clock import Clock, SystemClock
from .errors import ProviderError
from .keys import Secret
from .protocol import (
    ExecuteRequest,
    QuoteAnswer,
    QuoteRequest,
    Shape,
    WireFault,
    protocol_schema,
    read_wire,
    write_wire,
)
from .protocol_words import answer_out, rfq_in
from .terms import Answer, Decline, DeclineCode, Delta, PrefixMark, Quote, Ticket

__all__ = ["MAX_BODY_BYTES", "MAX_CALLS", "MAX_OPEN_QUOTES", "agent_app", "serve_agent"]

MAX_BODY_BYTES: Final = 32 * 2**20
MAX_OPEN_QUOTES: Final = 20_000
MIN_SWEEP: Final = 1_000
MAX_CALLS: Final = 1_000
"""Calls served at once; the next is told that there is no room."""


@dataclass(frozen=True, slots=True)
class _Open:
    quote: Quote
    until_ms: int
    prefix: tuple[PrefixMark, ...]


class _Agent:
    """The handlers, and the quotes that are open."""

    def __init__(self, provider: Provider, clock: Clock, key: Secret | None, max_calls: int) -> None:
        self._provider = provider
        self._clock = clock
        self._digest = None if key is None else _digest(f"Bearer {key.reveal()}")
        self._max_calls = max_calls
        self._calls = 0
        self._open: dict[str, _Open] = {}
        self._sweep_at = MIN_SWEEP

    async def quote(self, request: web.Request) -> web.StreamResponse:
        """``POST /quote``."""
        asked = await self._read(request, QuoteRequest)
        rfq = rfq_in(asked)
        self._forget_expired(self._clock.now_ms())
        if len(self._open) >= MAX_OPEN_QUOTES:
            full = Decline(self._provider.name, "", DeclineCode.NO_CAPACITY, "too many quotes are open")
            return _json(answer_out((full,)))
        answer: Answer | Any = self._provider.quote(rfq)
        if inspect.isawaitable(answer):
            try:
                async with asyncio.timeout(rfq.answer_within_ms / 1000):
                    answer = await answer
            except TimeoutError:
                answer = (Decline(self._provider.name, "", DeclineCode.TOO_LATE, "not in time"),)
        now_ms = self._clock.now_ms()
        for item in cast(Answer, answer):
            if isinstance(item, Quote):
                self._open[item.quote_id] = _Open(item, now_ms + item.valid_for_ms, rfq.prefix)
        return _json(answer_out(answer))

    async def execute(self, request: web.Request) -> web.StreamResponse:
        """``POST /execute``."""
        asked = await self._read(request, ExecuteRequest)
        found = self._open.get(asked.seller_quote_id)
        if found is None or found.until_ms <= self._clock.now_ms():
            gone = "expired" if found is not None else "unknown"
            return _error(410, f"quote {asked.seller_quote_id} is {gone}", "quote_expired")
        if self._calls >= self._max_calls:
            return _error(503, f"{self._calls} calls are served already", "overloaded")
        quote = found.quote
        ticket = Ticket(
            reservation_id=asked.order_id or asked.seller_quote_id,
            order_id=asked.order_id or asked.seller_quote_id,
            quote=quote,
            body=asked.body,
            max_output_tokens=min(
                asked.max_output_tokens or quote.max_output_tokens, quote.max_output_tokens
            ),
            deadline_ms=asked.deadline_ms,
            stream=asked.body.get("stream") is True,
            prefix=found.prefix,
        )
        self._calls += 1
        try:
            async with aclosing(cast(AsyncGenerator[Delta], self._provider.execute(ticket))) as deltas:
                return await (self._stream if ticket.stream else self._buffer)(request, ticket, deltas)
        except ProviderError as error:
            headers = {} if error.retry_after_ms is None else {"retry-after-ms": str(error.retry_after_ms)}
            return web.Response(
                status=status_of(error),
                body=orjson.dumps(error_body(error)),
                content_type="application/json",
                headers=headers,
            )
        finally:
            self._calls -= 1

    async def schema(self, request: web.Request) -> web.StreamResponse:
        """``GET /schema.json``."""
        return web.Response(body=orjson.dumps(protocol_schema()), content_type="application/json")

    async def _buffer(
        self, request: web.Request, ticket: Ticket, deltas: AsyncIterator[Delta]
    ) -> web.StreamResponse:
        message, last = MessageBuilder(), Delta()
        async for delta in deltas:
            message.add(delta.delta)
            last = delta
        body = answer_body(ticket, message.message(), last, self._clock.now_ms() // 1000)
        return web.Response(body=orjson.dumps(body), content_type="application/json")

    async def _stream(
        self, request: web.Request, ticket: Ticket, deltas: AsyncIterator[Delta]
    ) -> web.StreamResponse:
        """Answers 200 only once the first piece is here, so that a failure before it has its own status."""
        response: web.StreamResponse | None = None
        try:
            async for events in stream_events(ticket, deltas, self._clock.now_ms() // 1000):
                if response is None:
                    response = web.StreamResponse(
                        headers={"content-type": "text/event-stream", "cache-control": "no-cache"}
                    )
                    await response.prepare(request)
                await response.write(events)
        except ProviderError as error:
            if response is None:
                raise
            await response.write(b"data: " + orjson.dumps(error_body(error)) + b"\n\n")
        assert response is not None, "a seller's answer has at least its last piece"
        return response

    async def _read(self, request: web.Request, shape: type[Shape]) -> Shape:
        if self._digest is not None:
            shown = _digest(request.headers.get("authorization", ""))
            if not hmac.compare_digest(shown, self._digest):
                raise web.HTTPUnauthorized(
                    text=_told("expected the agent's key as bearer", "invalid_api_key"),
                    content_type="application/json",
                )
        body = await request.read()
        try:
            return read_wire(shape, body)
        except WireFault as fault:
            raise web.HTTPBadRequest(
                text=_told(str(fault), "invalid_request"), content_type="application/json"
            ) from None

    def _forget_expired(self, now_ms: int) -> None:
        """Drop expired quotes whenever their number has doubled: constant work per quote."""
        if len(self._open) >= min(self._sweep_at, MAX_OPEN_QUOTES):
            self._open = {key: one for key, one in self._open.items() if one.until_ms > now_ms}
            self._sweep_at = max(MIN_SWEEP, 2 * len(self._open))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _json(answer: QuoteAnswer) -> web.Response:
    return web.Response(body=write_wire(answer), content_type="application/json")


def _told(message: str, code: str) -> str:
    return orjson.dumps(
        {"error": {"message": message, "type": "invalid_request", "param": None, "code": code}}
    ).decode()


def _error(status: int, message: str, code: str) -> web.Response:
    return web.Response(status=status, text=_told(message, code), content_type="application/json")


def agent_app(
    provider: Provider, *, clock: Clock | None = None, key: Secret | None = None, max_calls: int = MAX_CALLS
) -> web.Application:
    """An application that sells for ``provider``; it closes the provider when it shuts down."""
    agent = _Agent(provider, clock or SystemClock(), key, max_calls)
    app = web.Application(client_max_size=MAX_BODY_BYTES)
    app.add_routes(
        [
            web.post("/quote", agent.quote),
            web.post("/execute", agent.execute),
            web.get("/schema.json", agent.schema),
        ]
    )

    async def close(_: web.Application) -> None:
        await provider.aclose()

    app.on_cleanup.append(close)
    return app


@asynccontextmanager
async def serve_agent(app: web.Application, host: str, port: int) -> AsyncGenerator[str]:
    """Serve until the block ends; gives the URL. A caller who hangs up cancels the call at the seller at once."""
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        yield f"http://{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
