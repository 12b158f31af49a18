"""One decorator for every endpoint: it says what is taken, what is answered and who may call, and all three are used.

The same models validate requests and become the OpenAPI document, so neither can drift from the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from aiohttp import web
from pydantic import BaseModel, ValidationError

from ..batch_office import BatchOffice
from ..engine import Engine
from ..events import Later
from ..ids import numbered
from ..telemetry import Telemetry
from ..wire import describe_invalid
from .auth import KEYLESS, Caller, Doorman
from .dashboard_pulse import Pulse
from .dashboard_tape import Tape
from .faults import ApiFault
from .key_limits import Limits
from .keyring import KeyRing
from .patience import Feeds, Newcomers
from .tally import Tally

__all__ = [
    "CALL",
    "FORM_TYPE",
    "HOUSE",
    "JSON_TYPE",
    "NDJSON_TYPES",
    "Answer",
    "Call",
    "Handler",
    "House",
    "Route",
    "answer_json",
    "route",
    "take_in",
]

JSON_TYPE: Final = "application/json"
FORM_TYPE: Final = "multipart/form-data"
NDJSON_TYPES: Final = frozenset({"application/x-ndjson", "application/jsonl", "application/ndjson"})


@dataclass(slots=True)
class House:
    """What all requests of one server share. counting: what telemetry, tally, tape and pulse have yet to be told."""

    engine: Engine
    keys: KeyRing
    doorman: Doorman
    limits: Limits
    telemetry: Telemetry
    tally: Tally
    tape: Tape
    pulse: Pulse
    counting: Later
    office: BatchOffice
    max_body: int
    planner: Executor | None = None
    planning: int = 0
    draining: bool = False
    running: int = 0
    routes: Sequence[Route] = ()
    newcomers: Newcomers = field(default_factory=Newcomers)
    feeds: Feeds = field(default_factory=Feeds)
    next_request_id: Callable[[], str] = field(default_factory=lambda: numbered("req"))
    openapi: bytes = b""
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    def leave(self, requests: int = 1) -> None:
        """Requests ended; while draining, ``idle`` says when none runs any more."""
        self.running -= requests
        if self.draining and not self.running:
            self.idle.set()


HOUSE: Final = web.AppKey("house", House)


@dataclass(slots=True)
class Call:
    """One request on its way: who called, what was asked.

    body: the validated model; raw: the same as JSON values. stream: the answer, once its status is out.
    """

    request: web.Request
    house: House
    request_id: str
    caller: Caller = KEYLESS
    body: Any = None
    raw: Any = None
    query: Any = None
    order_id: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    stream: web.StreamResponse | None = None

    @property
    def engine(self) -> Engine:
        """The market."""
        return self.house.engine

    async def reach(self, account: str | None) -> str:
        """The account that is meant, by default the caller's own. Raises ApiFault 404 for one out of reach."""
        if account is None or account == self.caller.account:
            return self.caller.account
        if not await self.house.doorman.within_reach(self.caller, account):
            raise ApiFault(404, "ACCOUNT_UNKNOWN", f"account {account!r} does not exist or is out of reach")
        return account


CALL: Final = web.RequestKey("call", Call)

Answer = web.StreamResponse | Mapping[str, Any] | bytes
Handler = Callable[[Call], Awaitable[Answer]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """An endpoint. scope: what the caller's key needs, None = open to all, ``any`` = any key.

    also: other bodies it may answer. errors: statuses beyond those every route may answer. ndjson: takes lines as well as one JSON object.
    form: the fields of an upload, which the handler itself reads as it comes.
    streams: may answer server-sent events. anthropic: errors in Anthropic's shape. ops: may move to ``ops_bind``.
    watch: the dashboard reads it, so it is answered at ``ops_bind`` too.
    """

    method: str
    path: str
    handler: Handler
    scope: str | None
    req: type[BaseModel] | None = None
    res: type[BaseModel] | None = None
    also: tuple[type[BaseModel], ...] = ()
    query: type[BaseModel] | None = None
    form: type[BaseModel] | None = None
    errors: tuple[int, ...] = ()
    status: int = 200
    produces: str = JSON_TYPE
    ndjson: bool = False
    streams: bool = False
    anthropic: bool = False
    ops: bool = False
    watch: bool = False

    @property
    def summary(self) -> str:
        """The first line of the handler's docstring."""
        return (self.handler.__doc__ or "").strip().partition("\n")[0]

    @property
    def feeds(self) -> bool:
        """Whether it streams news for as long as somebody listens."""
        return self.streams and self.method == "GET"

    @property
    def needs_key(self) -> bool:
        """Whether the caller must say who it is."""
        return self.scope is not None


def route(method: str, path: str, *, scope: str | None = "use", **given: Any) -> Callable[[Handler], Route]:
    """Make a handler an endpoint; see :class:`Route` for what can be said of it."""

    def declare(handler: Handler) -> Route:
        return Route(method=method, path=path, handler=handler, scope=scope, **given)

    return declare


def answer_json(values: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A JSON answer."""
    body = values if isinstance(values, bytes) else orjson.dumps(values)
    return web.Response(body=body, status=status, headers=headers, content_type=JSON_TYPE)


async def take_in(route: Route, call: Call) -> None:
    """Read and validate query and body. Raises ApiFault 400, 408, 413, 415."""
    request = call.request
    if route.query is not None:
        call.query = _validated(route.query, dict(request.query), "query")
    elif request.query_string:
        raise ApiFault.invalid(f"{next(iter(request.query), 'query')}: expected no query, found one")
    if route.req is None:
        return
    kind = request.headers.get("content-type", "")
    if kind != JSON_TYPE:
        kind = request.content_type  # without its parameters
    if kind != JSON_TYPE and not (route.ndjson and kind in NDJSON_TYPES):
        raise ApiFault(415, "MEDIA_TYPE_UNSUPPORTED", f"content-type: expected {JSON_TYPE}, found {kind!r}")
    if (request.content_length or 0) > call.house.max_body:
        raise ApiFault(413, "BODY_TOO_LARGE", "the body is larger than this server takes")
    data = await request.read()
    if kind != JSON_TYPE:
        call.raw = data
        return
    try:
        call.raw = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ApiFault.invalid(f"body: expected JSON, found: {error}") from None
    call.body = _validated(route.req, call.raw, "body")


def _validated(model: type[BaseModel], values: Any, what: str) -> BaseModel:
    if not isinstance(values, dict):
        raise ApiFault.invalid(f"{what}: expected an object, found {type(values).__name__}")
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ApiFault.invalid(describe_invalid(error)) from None
