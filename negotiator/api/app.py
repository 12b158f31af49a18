"""The web application: one middleware around every route, from the request's id to its line in the access log."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import nullcontext
from difflib import get_close_matches
from types import ModuleType
from typing import Any, Final

import orjson
from aiohttp import web

from ..errors import InputInvalid, Reject, RejectCode, Rejected, StoreUnavailable
from . import (
    accounts,
    anthropic,
    batches,
    dashboard,
    dashboard_feed,
    embeddings,
    files,
    keys,
    market,
    openai,
    ops,
    orders,
    plans,
    quotes,
    reports,
    responses,
)
from .faults import ApiFault, fault_bytes, fault_headers
from .routes import CALL, HOUSE, Answer, Call, House, Route, answer_json, take_in

__all__ = ["ROUTES", "build_app"]

logger = logging.getLogger("negotiator.api")
access = logging.getLogger("negotiator.access")

MAX_RUNNING: Final = 20_000
"""Requests served at once by one process; beyond, callers are told to come again."""

BODY_S: Final = 60.0
"""How long a body may take to arrive."""

MAX_MISSPELT: Final = 100
"""Characters of a path that are compared with the routes'."""

_UNCOUNTED: Final = nullcontext()

_MODULES: Final[tuple[ModuleType, ...]] = (
    quotes,
    orders,
    openai,
    embeddings,
    responses,
    anthropic,
    plans,
    files,
    batches,
    market,
    reports,
    accounts,
    keys,
    ops,
    dashboard_feed,
    dashboard,
)


def _routes_of(modules: Iterable[ModuleType]) -> tuple[Route, ...]:
    return tuple(found for module in modules for found in vars(module).values() if isinstance(found, Route))


ROUTES: Final = _routes_of(_MODULES)
"""Every endpoint, in the order of the document."""


def build_app(house: House, routes: Iterable[Route] = ROUTES) -> web.Application:
    """The application that serves ``routes`` for a house."""
    app = web.Application(middlewares=[_gate], client_max_size=house.max_body)
    app[HOUSE] = house
    house.routes = ROUTES
    for found in routes:
        app.router.add_route(found.method, found.path, _endpoint(found))
    return app


def _endpoint(route: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """A route as aiohttp calls it: let in, read, answer."""

    async def serve(request: web.Request) -> web.StreamResponse:
        call = request[CALL]
        house, key = call.house, None
        if route.scope is not None:
            call.caller = caller = await house.doorman.admit(request.headers, request.host)
            if route.scope != "any" and not caller.allows(route.scope):
                raise ApiFault(403, "SCOPE_MISSING", f"the key lacks the scope {route.scope!r}")
            key = caller.key
            if key is not None:
                await house.limits.enter(key)
        try:
            await _read(route, call)
            with house.feeds.hold(key.key_id if key is not None else "") if route.feeds else _UNCOUNTED:
                return _response(await route.handler(call), call, route.status)
        finally:
            if key is not None:
                house.limits.leave(key)

    return serve


async def _read(route: Route, call: Call) -> None:
    if call.request.content.is_eof():
        return await take_in(route, call)
    try:
        async with asyncio.timeout(BODY_S):
            await take_in(route, call)
    except TimeoutError:
        raise ApiFault(408, "BODY_TOO_SLOW", f"expected the body within {BODY_S:g} s") from None


def _response(answer: Answer, call: Call, status: int) -> web.StreamResponse:
    if isinstance(answer, web.StreamResponse):
        return answer
    return answer_json(answer, status, call.headers)


@web.middleware
async def _gate(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    house = request.app[HOUSE]
    call = Call(request, house, house.next_request_id())
    request[CALL] = call
    house.newcomers.spoke(request.protocol)
    if house.engine.tracing is not None:
        house.engine.tracing.adopt(request.headers)
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    house.running += 1
    response: web.StreamResponse | None = None
    status = 499
    try:
        if house.running > MAX_RUNNING:
            raise ApiFault(503, "SERVER_BUSY", "too many requests at once", retry_after_ms=1_000)
        response = await handler(request)
        status = response.status
    except asyncio.CancelledError:
        raise
    except Exception as error:
        if call.stream is not None:
            return _cut(call, error)
        fault = _fault_of(error, request)
        anthropic_shape = request.path == "/v1/messages"
        response = answer_json(
            fault_bytes(fault, call.request_id, anthropic=anthropic_shape),
            fault.status,
            call.headers | fault_headers(fault),
        )
        status = fault.status
    finally:
        del request[CALL]  # a circle would keep the body until the collector comes
        house.leave()
        if access.isEnabledFor(logging.INFO):
            _log(call, status, (loop.time() - begun_s) * 1000, response)
    if not response.prepared:
        response.headers["x-request-id"] = call.request_id
        if house.draining:
            response.force_close()
    return response


def _cut(call: Call, error: Exception) -> web.StreamResponse:
    """End a stream that cannot go on: its status is out, so the connection is all that is left to say it with."""
    if not isinstance(error, ConnectionError):
        logger.error("%s: the stream broke off", call.request_id, exc_info=error)
    if call.request.transport is not None:
        call.request.transport.abort()
    assert call.stream is not None, "only what began can be cut"
    return call.stream


def _fault_of(error: Exception, request: web.Request) -> ApiFault:
    """Every error as a fault; what nobody foresaw is logged with its trace and says nothing to the caller."""
    match error:
        case ApiFault():
            return error
        case Rejected():
            return ApiFault.of(error.reject)
        case InputInvalid():
            return ApiFault.invalid(str(error))
        case StoreUnavailable():
            message = f"the ledger does not answer, nothing was spent: {error}"
            return ApiFault.of(
                Reject(code=RejectCode.LEDGER_UNAVAILABLE, message=message, retry_after_ms=2_000)
            )
        case web.HTTPRequestEntityTooLarge():
            return ApiFault(413, "BODY_TOO_LARGE", "the body is larger than this server takes")
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(error.allowed_methods))
            message = f"{request.method} is not possible here; possible: {allowed}"
            return ApiFault(405, "METHOD_NOT_ALLOWED", message, headers={"allow": allowed})
        case web.HTTPNotFound():
            return ApiFault(404, "NOT_FOUND", f"there is nothing at {request.path}{_near(request.path)}")
        case web.HTTPException():
            return ApiFault(error.status, "HTTP_ERROR", error.reason)
        case web.RequestPayloadError():
            return ApiFault.invalid("body: expected it whole, found it broken off")
    logger.exception("%s %s failed", request.method, request.match_info.route.resource)
    return ApiFault(500, "INTERNAL", "the server failed; the request id finds the cause in its log")


def _near(path: str) -> str:
    close = get_close_matches(path[:MAX_MISSPELT], {route.path for route in ROUTES}, n=1, cutoff=0.8)
    return f"; did you mean {close[0]}?" if close else ""


def _log(call: Call, status: int, took_ms: float, response: web.StreamResponse | None) -> None:
    """One JSON line per request: who, what, how it went; never what was said."""
    request, caller = call.request, call.caller
    resource = request.match_info.route.resource
    line: dict[str, Any] = {
        "at_ms": call.engine.rooms.clock.now_ms(),
        "request_id": call.request_id,
        "order_id": call.order_id,
        "method": request.method,
        "path": resource.canonical if resource is not None else None,
        "status": status,
        "ms": round(took_ms, 2),
        "bytes": response.body_length if response is not None and response.prepared else None,
        "account": caller.account,
        "key": caller.key.key_id if caller.key is not None else None,
    }
    access.info("%s", orjson.dumps(line).decode())
