"""What operators ask: is it alive, is it ready, what does it count, and what can it do."""

from __future__ import annotations

from importlib.resources import files

from aiohttp import web

from ..errors import StoreUnavailable
from ..store import DEFAULT_ACCOUNT
from .faults import ApiFault
from .routes import Answer, Call, answer_json, route
from .schemas_out import HealthOut

__all__ = ["read_docs", "read_health", "read_metrics", "read_openapi", "read_readiness"]


@route("GET", "/healthz", scope=None, res=HealthOut)
async def read_health(call: Call) -> Answer:
    """Whether the process lives; asks nobody else."""
    return {"status": "ok"}


@route("GET", "/readyz", scope=None, res=HealthOut, errors=(503,))
async def read_readiness(call: Call) -> Answer:
    """Whether it can serve: it is not shutting down, its store answers, and somebody sells."""
    if call.house.draining:
        raise ApiFault(503, "DRAINING", "the server is shutting down", retry_after_ms=1_000)
    rooms = call.engine.rooms
    try:
        await rooms.store.balances(DEFAULT_ACCOUNT, rooms.clock.now_ms())
    except StoreUnavailable as error:
        raise ApiFault(503, "LEDGER_UNAVAILABLE", f"the store does not answer: {error}") from None
    if not rooms.sellers:
        raise ApiFault(503, "NO_SELLERS", "no seller is configured")
    return {"status": "ready", "sellers": len(rooms.sellers), "simulated": rooms.simulated}


@route("GET", "/metrics", scope="read", produces="text/plain", ops=True)
async def read_metrics(call: Call) -> Answer:
    """Metrics in Prometheus' text format."""
    call.house.counting.catch_up()
    return web.Response(
        body=call.house.telemetry.exposition(),
        headers={"content-type": "text/plain; version=0.0.4; charset=utf-8"},
    )


@route("GET", "/openapi.json", scope=None)
async def read_openapi(call: Call) -> Answer:
    """This API as OpenAPI 3.1, made from the models that validate it."""
    from .openapi_document import openapi_bytes  # a third of the server's start, for who never asks

    house = call.house
    house.openapi = house.openapi or openapi_bytes(house.routes)
    return answer_json(house.openapi)


@route("GET", "/docs", scope=None, produces="text/html")
async def read_docs(call: Call) -> Answer:
    """This API as a page; it needs no other host."""
    page = (files(__package__) / "static" / "docs.html").read_bytes()
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
    return web.Response(
        body=page, content_type="text/html", charset="utf-8", headers={"content-security-policy": policy}
    )
