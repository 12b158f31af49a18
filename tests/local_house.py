"""A house to talk to: a model server, the real server in front of it, and a door before both that can be made to fail.

All listen on loopback, in one thread with an event loop of its own, so that blocking clients can be tested too.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import aiohttp
import orjson
from aiohttp import web

from negotiator.api.server import serve
from negotiator.config import Config
from negotiator.engine import Engine

__all__ = ["Door", "LocalHouse", "ModelServer", "local_house"]

T = TypeVar("T")

WORDS = ("The ", "Rhine, ", "the ", "Nile, ", "the ", "Amur.")
USAGE = {"prompt_tokens": 12, "completion_tokens": 6, "total_tokens": 18}
HEADERS = ("content-type", "retry-after", "retry-after-ms", "x-should-retry")


@dataclass
class ModelServer:
    """OpenAI's chat endpoint. A prompt with ``slowly`` takes its time, one with ``failing`` gets a 500."""

    calls: Counter[str] = field(default_factory=Counter)
    hung_up: threading.Event = field(default_factory=threading.Event)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """One answer, whole or streamed."""
        body = await request.json()
        prompt = body["messages"][-1]["content"]
        self.calls[prompt] += 1
        if "failing" in prompt:
            return web.json_response({"error": {"message": "out of order"}}, status=500)
        pause_s = 0.1 if "slowly" in prompt else 0.0
        if not body.get("stream"):
            await asyncio.sleep(len(WORDS) * pause_s)
            message = {"role": "assistant", "content": "".join(WORDS)}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            return web.json_response({**self._head(body), "choices": [choice], "usage": USAGE})
        return await self._streamed(request, body, pause_s)

    async def _streamed(self, request: web.Request, body: Any, pause_s: float) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        try:
            for word in WORDS:
                choice = {"index": 0, "delta": {"content": word}, "finish_reason": None}
                await self._send(response, {**self._head(body), "choices": [choice]})
                await asyncio.sleep(pause_s)
            last = {"index": 0, "delta": {}, "finish_reason": "stop"}
            await self._send(response, {**self._head(body), "choices": [last]})
            await self._send(response, {**self._head(body), "choices": [], "usage": USAGE})
            await response.write(b"data: [DONE]\n\n")
        except (ConnectionError, asyncio.CancelledError):
            self.hung_up.set()
            raise
        return response

    def _head(self, body: Any) -> dict[str, Any]:
        kind = "chat.completion.chunk" if body.get("stream") else "chat.completion"
        return {"id": "chatcmpl-1", "object": kind, "created": 1, "model": body["model"]}

    async def _send(self, response: web.StreamResponse, values: Any) -> None:
        await response.write(b"data: " + orjson.dumps(values) + b"\n\n")


@dataclass
class Door:
    """Passes requests on to the house; ``plan`` says how the next ones go instead.

    A step is what makes a response (sent as it is), ``drop`` (cut before the house hears of it), ``lose`` (the house answers,
    and the connection is cut while it does), ``hang`` (no answer).
    """

    house_url: str = ""
    plan: list[Callable[[], web.Response] | str] = field(default_factory=list)
    seen: list[dict[str, Any]] = field(default_factory=list)
    _lost: set[asyncio.Task[Any]] = field(default_factory=set)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """One request."""
        data = await request.read()
        self.seen.append(orjson.loads(data) if data else {})
        step = self.plan.pop(0) if self.plan else "pass"
        if callable(step):
            return step()
        if step == "hang":
            await asyncio.sleep(60)
        if step == "lose":
            task = asyncio.ensure_future(self._asked(request, data))
            self._lost.add(task)
            await asyncio.sleep(0.1)
        if step in ("drop", "lose"):
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        status, headers, body = await self._asked(request, data)
        return web.Response(status=status, headers=headers, body=body)

    async def _asked(self, request: web.Request, data: bytes) -> tuple[int, dict[str, str], bytes]:
        kind = request.headers.get("content-type", "application/json")
        async with (
            aiohttp.ClientSession() as session,
            session.request(
                request.method,
                self.house_url + request.path_qs,
                data=data or None,
                headers={"content-type": kind},
            ) as answer,
        ):
            kept = {name: answer.headers[name] for name in HEADERS if name in answer.headers}
            return answer.status, kept, await answer.read()


@dataclass
class LocalHouse:
    """Where it is, and its parts. engine is used through :meth:`run` alone: it lives in the other thread."""

    url: str
    door_url: str
    engine: Engine
    models: ModelServer
    door: Door
    loop: asyncio.AbstractEventLoop

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What a coroutine gives in the house's thread."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)


def config(models_url: str) -> Config:
    """Two models of one seller: a cheap one and a better one at ten times its price."""
    prices = {
        "small": {"input": "0.10", "output": "0.40", "quality": 0.75},
        "large": {"input": "1", "output": "4", "quality": 0.95},
    }
    models = [
        {
            "name": name,
            "input_usd_per_million": price["input"],
            "output_usd_per_million": price["output"],
            "context_tokens": 8192,
            "quality_prior": price["quality"],
        }
        for name, price in prices.items()
    ]
    seller = {"kind": "openai_compat", "name": "local", "base_url": f"{models_url}/v1", "models": models}
    accounts = [{"id": "team", "budget_usd": "5"}]
    return Config.model_validate({"providers": [seller], "accounts": accounts, "server": {"port": 0}})


@asynccontextmanager
async def listening(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> AsyncIterator[str]:
    """A server with one handler for everything; gives its address."""
    app = web.Application(client_max_size=2**26)
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield "http://{}:{}".format(*runner.addresses[0][:2])
    finally:
        await runner.cleanup()


@asynccontextmanager
async def _open(loop: asyncio.AbstractEventLoop) -> AsyncGenerator[LocalHouse]:
    models, door = ModelServer(), Door()
    async with (
        listening(models.chat) as models_url,
        Engine.open(config(models_url)) as engine,
        serve(engine) as at,
        listening(door.serve) as door_url,
    ):
        door.house_url = at.urls[0]
        yield LocalHouse(at.urls[0], door_url, engine, models, door, loop)


@contextmanager
def local_house() -> Iterator[LocalHouse]:
    """The house, open for the time of the block."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="local-house")
    thread.start()
    house = _open(loop)
    try:
        yield asyncio.run_coroutine_threadsafe(house.__aenter__(), loop).result(30)
    finally:
        asyncio.run_coroutine_threadsafe(house.__aexit__(None, None, None), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
