"""The usual way to keep a budget, as a peer: read the counter, call if it is below the budget, add the cost afterwards.

``python -m benchmarks.overspend_counter PORT VENDOR BUDGETS PLACE`` serves OpenAI's chat API. It is made as well as such
a gateway can be: the price of the call is looked up before, all accounts of the tree are checked, and what was
relayed is counted when the buyer hangs up. PLACE is where the counters are: ``redis://...`` for any number of
processes, or a SQLite file for one.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import aiohttp
import orjson
from aiohttp import web
from redis.asyncio import BlockingConnectionPool, Redis

from benchmarks.vendor import INPUT_NUSD, OUTPUT_NUSD, WORD

__all__ = ["MODEL", "CounterGateway", "Counters", "FileCounters", "SharedCounters"]

MODEL = "m-300"


class Counters(Protocol):
    """What each account has spent, nano-dollars."""

    async def read(self, names: Sequence[str]) -> list[int]:
        """The counters of these accounts."""
        ...

    async def add(self, names: Sequence[str], nusd: int) -> None:
        """Count a cost on all of them, in one step."""
        ...


class SharedCounters:
    """In Valkey."""

    def __init__(self, url: str) -> None:
        pool = BlockingConnectionPool.from_url(url.partition("?")[0], max_connections=50)
        self._redis: Redis = Redis(connection_pool=pool)

    async def read(self, names: Sequence[str]) -> list[int]:
        """One round trip."""
        found: Awaitable[list[Any]] = self._redis.hmget("spent", list(names))
        return [int(value or 0) for value in await found]

    async def add(self, names: Sequence[str], nusd: int) -> None:
        """One transaction."""
        async with self._redis.pipeline(transaction=True) as pipe:
            for name in names:
                pipe.hincrby("spent", name, nusd)
            await pipe.execute()


class FileCounters:
    """In SQLite."""

    def __init__(self, path: str) -> None:
        self._file = sqlite3.connect(path, isolation_level=None)
        self._file.execute("create table if not exists spent (name text primary key, nusd integer not null)")

    async def read(self, names: Sequence[str]) -> list[int]:
        """One query for each."""
        query = "select nusd from spent where name = ?"
        return [(self._file.execute(query, (name,)).fetchone() or (0,))[0] for name in names]

    async def add(self, names: Sequence[str], nusd: int) -> None:
        """One transaction."""
        insert = (
            "insert into spent values (?, ?) on conflict (name) do update set nusd = nusd + excluded.nusd"
        )
        self._file.execute("begin immediate")
        self._file.executemany(insert, [(name, nusd) for name in names])
        self._file.execute("commit")


class CounterGateway:
    """Check, call, increment. budgets: account → (its ancestors and itself, its own budget)."""

    def __init__(self, vendor: str, budgets: dict[str, Any], counters: Counters) -> None:
        self._vendor = vendor
        self._budgets = budgets
        self._counters = counters
        self._session: aiohttp.ClientSession | None = None

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """One call."""
        body = orjson.loads(await request.read())
        line: list[str] = self._budgets[body.pop("negotiator")["account"]]["line"]
        asked = sum(len(str(message["content"])) for message in body["messages"]) // 4
        price_nusd = asked * INPUT_NUSD + body["max_tokens"] * OUTPUT_NUSD
        spent = await self._counters.read(line)
        if any(
            nusd + price_nusd > self._budgets[name]["nusd"] for name, nusd in zip(line, spent, strict=True)
        ):
            return web.json_response({"error": {"code": "budget_exceeded"}}, status=402)
        body["model"] = MODEL
        if body.get("stream"):
            return await self._streamed(request, body, line, asked)
        output_tokens = 0
        try:
            async with self._session_().post(f"{self._vendor}/v1/chat/completions", json=body) as answer:
                data = await answer.read()
            output_tokens = orjson.loads(data)["usage"]["completion_tokens"]
            return web.Response(body=data, content_type="application/json")
        finally:
            await asyncio.shield(self._counters.add(line, asked * INPUT_NUSD + output_tokens * OUTPUT_NUSD))

    async def _streamed(
        self, request: web.Request, body: dict[str, Any], line: Sequence[str], asked: int
    ) -> web.StreamResponse:
        stream, relayed = web.StreamResponse(headers={"content-type": "text/event-stream"}), 0
        try:
            await stream.prepare(request)
            async with self._session_().post(f"{self._vendor}/v1/chat/completions", json=body) as answer:
                async for piece in answer.content.iter_any():
                    relayed += piece.count(WORD.encode())
                    await stream.write(piece)
            return stream
        finally:
            await asyncio.shield(self._counters.add(line, asked * INPUT_NUSD + relayed * OUTPUT_NUSD))

    async def read(self, request: web.Request) -> web.Response:
        """What an account has spent, in the shape of ours."""
        name = request.match_info["name"]
        spent, budget_nusd = (await self._counters.read([name]))[0], self._budgets[name]["nusd"]
        left_nusd = max(0, budget_nusd - spent)
        usd = {"posted_usd": spent, "pending_usd": 0, "available_usd": left_nusd, "budget_usd": budget_nusd}
        return web.json_response({key: str(nusd / 1e9) for key, nusd in usd.items()})

    def _session_(self) -> aiohttp.ClientSession:
        self._session = self._session or aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        return self._session


async def _listen(port: int, gateway: CounterGateway) -> None:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", gateway.chat)
    app.router.add_get("/v1/accounts/{name}", gateway.read)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, reuse_port=True, backlog=1024).start()
    print(f"http://127.0.0.1:{port}", flush=True)
    await asyncio.Event().wait()


def main(words: Sequence[str]) -> None:
    """Serve until killed."""
    port, vendor, budgets, place = words
    counters: Callable[[str], Counters] = SharedCounters if place.startswith("redis") else FileCounters

    async def serve() -> None:
        await _listen(int(port), CounterGateway(vendor, json.loads(budgets), counters(place)))

    asyncio.run(serve())


if __name__ == "__main__":
    main(sys.argv[1:])
