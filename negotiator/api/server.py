"""The server's life: open the market, listen, serve, drain, cut, close. One process, or one of several on one port."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import logging
import os
import secrets
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from providers.base import Provider
from providers.clock import SystemClock
from providers.tokens import VOCABULARIES, count_text, reference_of

from ..batch_office import BatchOffice, open_office
from ..config import Config
from ..engine import Engine
from ..engine_pricing import shared_by_workers
from ..errors import ConfigInvalid
from ..events import Later
from ..planner import PlannerProcess
from ..telemetry import Telemetry
from .app import ROUTES, build_app
from .auth import Doorman
from .dashboard_pulse import Pulse
from .dashboard_tape import Tape
from .key_limits import KeyLimits, SharedKeyLimits
from .keyring import KeyRing
from .routes import House, Route
from .sight import look_for_ever, made_for
from .tally import Tally

__all__ = ["Listening", "is_loopback", "open_house", "serve", "serve_until_told", "write_logs"]

logger = logging.getLogger("negotiator.api")

DRAIN_S: Final = 25.0
"""How long running requests may go on after the server was told to stop."""

CUT_S: Final = 5.0
"""How long requests that were cut may take to settle."""

COLLECT_AFTER: Final = (20_000, 50, 100)
"""Objects, young and middle collections after which the next generation is collected."""

IDLE_S: Final = 75.0
MAX_HEADER_BYTES: Final = 16 * 2**10


@dataclass(frozen=True, slots=True)
class Listening:
    """A server that takes requests."""

    house: House
    urls: tuple[str, ...]


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@asynccontextmanager
async def open_house(engine: Engine, hosts: Sequence[str]) -> AsyncGenerator[House]:
    """An open market with its doors: keys, limits, metrics. Raises ConfigInvalid for a public address without keys."""
    rooms = engine.rooms
    clock, loopback = rooms.clock, all(map(is_loopback, hosts))
    keys = KeyRing(rooms.store, clock)
    if not loopback and await keys.empty():
        public = next(host for host in hosts if not is_loopback(host))
        raise ConfigInvalid(
            f"server.host: expected a loopback address while there are no keys, found {public!r}; make the first key"
            " with `negotiator keys create --account ACCOUNT --scope use`, or listen on 127.0.0.1"
        )
    together = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    telemetry = made_for(rooms, together)
    looking = asyncio.ensure_future(look_for_ever(telemetry))
    tally = Tally(clock.now_ms())
    pulse = Pulse()
    tape = Tape(engine.recent, pulse.note)
    counting = Later(telemetry.note, tally.note, tape.note, at_once="order.rejected")
    # Any worker is asked for what all have counted, so where there are several none may wait.
    rooms.bus.subscribe(counting.note if together is None else counting.now)
    planner = PlannerProcess()
    holder = (
        f"api-{secrets.token_hex(6)}"
        if shared_by_workers(engine.config.store.url or "embedded://")
        else "api"
    )
    try:
        async with open_office(engine, apart=planner, holder=holder) as office:
            yield _house(engine, keys, (telemetry, tally, tape, pulse, counting), office, planner, loopback)
    finally:
        looking.cancel()
        planner.shutdown(wait=False, cancel_futures=True)


def _house(
    engine: Engine,
    keys: KeyRing,
    counters: tuple[Telemetry, Tally, Tape, Pulse, Later],
    office: BatchOffice,
    planner: Executor,
    loopback: bool,
) -> House:
    rooms = engine.rooms
    telemetry, tally, tape, pulse, counting = counters
    shared = (engine.config.store.url or "").startswith("redis")
    worker = f"api-{secrets.token_hex(6)}"
    return House(
        engine=engine,
        keys=keys,
        doorman=Doorman(keys, rooms.store, rooms.clock, keyless_allowed=loopback),
        limits=SharedKeyLimits(rooms.store, worker, rooms.clock) if shared else KeyLimits(rooms.clock),
        telemetry=telemetry,
        tally=tally,
        tape=tape,
        pulse=pulse,
        counting=counting,
        office=office,
        planner=planner,
        max_body=engine.config.server.max_body,
    )


@asynccontextmanager
async def serve(engine: Engine, *, reuse_port: bool = False) -> AsyncGenerator[Listening]:
    """Listen while the block runs; afterwards drain, then cut. ``engine`` is open."""
    server = engine.config.server
    ops_host, ops_port = _address(server.ops_bind) if server.ops_bind else (None, 0)
    hosts = [server.host] + ([ops_host] if ops_host else [])
    async with open_house(engine, hosts) as house:
        main = [route for route in ROUTES if not (ops_host and route.ops)]
        runners = [await _run(house, main, server.host, server.port, reuse_port)]
        if ops_host:
            ops = [
                route for route in ROUTES if route.ops or route.watch or route.path in ("/healthz", "/readyz")
            ]
            runners.append(await _run(house, ops, ops_host, ops_port, reuse_port))
        watch = asyncio.ensure_future(house.newcomers.watch(lambda: _connections(runners)))
        try:
            yield Listening(house, tuple(_urls(runners)))
        finally:
            watch.cancel()
            await _stop(house, runners)


async def _run(
    house: House, routes: Sequence[Route], host: str, port: int, reuse_port: bool
) -> web.AppRunner:
    runner = web.AppRunner(
        build_app(house, routes),
        access_log=None,
        handle_signals=False,
        handler_cancellation=True,
        keepalive_timeout=IDLE_S,
        max_field_size=MAX_HEADER_BYTES,
        max_line_size=MAX_HEADER_BYTES,
        shutdown_timeout=CUT_S,
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, reuse_port=reuse_port or None, backlog=1024).start()
    except OSError as error:
        await runner.cleanup()
        raise ConfigInvalid(
            f"server.host, server.port: expected a free address, found {host}:{port}: {error.strerror or error};"
            " --port takes another one, 0 any that is free"
        ) from None
    return runner


async def _stop(house: House, runners: Sequence[web.AppRunner]) -> None:
    """Take no more, let what runs end, then cut; cut requests settle what was delivered."""
    house.draining = True
    house.leave(0)
    house.office.desk.close_soon()
    for runner in runners:
        for site in list(runner.sites):
            await site.stop()
    try:
        async with asyncio.timeout(DRAIN_S):
            await house.idle.wait()
    except TimeoutError:
        logger.warning("%d requests still ran after %g s and are cut", house.running, DRAIN_S)
    for runner in runners:
        await runner.cleanup()


def _connections(runners: Sequence[web.AppRunner]) -> list[RequestHandler]:
    return [one for runner in runners if runner.server is not None for one in runner.server.connections]


def _urls(runners: Sequence[web.AppRunner]) -> list[str]:
    found = []
    for runner in runners:
        for host, port, *_ in runner.addresses:
            found.append(f"http://{f'[{host}]' if ':' in host else host}:{port}")
    return found


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigInvalid(f"server.ops_bind: expected HOST:PORT, found {text!r}")
    return host.strip("[]"), int(port)


def write_logs(*, access: bool) -> None:
    """Log to stderr: warnings with time and level and, with ``access``, one line of JSON a request."""
    shape = "%(asctime)s %(levelname)s %(name)s %(message)s"
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format=shape)
    logging.getLogger("aiohttp.server").setLevel(
        logging.CRITICAL
    )  # what is no HTTP is refused, without a trace
    if access:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        lines = logging.getLogger("negotiator.access")
        lines.addHandler(handler)
        lines.setLevel(logging.INFO)
        lines.propagate = False


def _spare_the_collector() -> None:
    """What is here now stays: collections pass over it, and come seldom, for requests leave hardly any cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)


def _warm_up(sellers: Sequence[Provider]) -> None:
    """Load now what the first request would wait for: vocabularies, and what they need for words they do not have."""
    sold_in = {offer.vocabulary for seller in sellers for offer in seller.offers()}
    for vocabulary in (sold_in | {reference_of(sold_in)}) & VOCABULARIES.keys():
        count_text("qzx" * 10, vocabulary)


async def serve_until_told(
    config: Config, ready: Callable[[Listening], None] | None = None, *, reuse_port: bool = False
) -> None:
    """Serve until SIGTERM or SIGINT; ``ready`` is told where."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    async with (
        Engine.open(config, clock=SystemClock(), apart=True, warm_up=_warm_up) as engine,
        serve(engine, reuse_port=reuse_port) as at,
    ):
        _spare_the_collector()
        if ready is not None:
            ready(at)
        await told.wait()
