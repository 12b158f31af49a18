"""Real processes under faults: a market of ``negotiator serve``, a model server in the test's loop, and a buyer."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web

from benchmarks.processes import Market
from benchmarks.vendor import Vendor
from negotiator.money import parse_usd

__all__ = ["Buyer", "buyer_at", "config", "listening", "model_server", "until"]

PATIENCE_S = 45.0
BUDGETS = {"org": "0.2", "team": "0.1"}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def config(vendor: str, *, hold_ms: int = 1_000, in_doubt_ms: int = 1_000, **market: int) -> str:
    """One seller with two models of a known price, and the account ``team`` below ``org``."""
    lines = ["[market]", f"hold_ms = {hold_ms}", f"in_doubt_ms = {in_doubt_ms}"]
    lines += [f"{name} = {value}" for name, value in market.items()]
    lines += ["[[providers]]", 'kind = "openai_compat"', 'name = "local"', f'base_url = "{vendor}/v1"']
    lines += ["limits = { rpm = 600, tpm = 1000000 }"]
    for model, usd in (("m-150", "10"), ("dear-150", "20")):
        lines += ["[[providers.models]]", f'name = "{model}"', 'input_usd_per_million = "1"']
        lines += [f'output_usd_per_million = "{usd}"', "context_tokens = 100000", "quality_prior = 0.8"]
    lines += ["[[accounts]]", 'id = "org"', f'budget_usd = "{BUDGETS["org"]}"']
    lines += ["[[accounts]]", 'id = "team"', 'parent = "org"', f'budget_usd = "{BUDGETS["team"]}"']
    return "\n".join([*lines, ""])


async def until(true: Callable[[], Any], what: str) -> None:
    """Wait for something to become true; raises TimeoutError that says what did not."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + PATIENCE_S
    while True:
        found = true()
        if await found if inspect.isawaitable(found) else found:
            return
        if loop.time() > end_s:
            raise TimeoutError(f"expected within {PATIENCE_S:g} s: {what}")
        await asyncio.sleep(0.1)


@asynccontextmanager
async def listening(handler: Handler) -> AsyncIterator[str]:
    """A server on loopback that answers everything with ``handler``; gives its address."""
    app = web.Application(client_max_size=2**26)
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield "http://{}:{}".format(*runner.addresses[0][:2])
    finally:
        await runner.cleanup()


@asynccontextmanager
async def model_server() -> AsyncIterator[tuple[Vendor, str]]:
    """A model server that keeps its bill."""
    vendor = Vendor()
    async with listening(vendor.chat) as url:
        yield vendor, url


@dataclass
class Buyer:
    """Whoever buys at a market, and what became of it: told_nusd is what whole answers said they cost."""

    market: Market
    session: aiohttp.ClientSession
    told_nusd: int = 0
    outcomes: list[str] = field(default_factory=list)

    async def buy(self, number: int, *, stream: bool = False, **terms: Any) -> str:
        """``served``, ``lost`` with its connection, or the name of the refusal."""
        body = {
            "model": "auto",
            "messages": [{"role": "user", "content": "Name the rivers of Europe."}],
            "max_tokens": 100,
            "stream": stream,
            "negotiator": {"account": "team", "order_id": f"o-{number}", "deadline_ms": 4_500, **terms},
        }
        try:
            async with self.session.post(f"{self.market.url}/v1/chat/completions", json=body) as answer:
                data = await answer.read()
        except (aiohttp.ClientError, ConnectionError, TimeoutError):
            outcome = "lost"
        else:
            outcome = self._outcome(answer.status, data)
        self.outcomes.append(outcome)
        return outcome

    async def insist(self, number: int, **given: Any) -> str:
        """Buy, and come again as clients do where ledger or leases were late, as on a machine that is very busy."""
        for _ in range(10):
            outcome = await self.buy(number, **given)
            if outcome not in ("LEDGER_UNAVAILABLE", "IN_PROGRESS", "CAPACITY_EXHAUSTED"):
                break
            await asyncio.sleep(0.5)
        return outcome

    def _outcome(self, status: int, data: bytes) -> str:
        if status == 200 and b'"finish_reason"' in data:
            cost = re.findall(rb'"cost_usd":"([0-9.]+)"', data)
            self.told_nusd += parse_usd(cost[-1].decode()) if cost else 0
            return "served" if cost else "cut"
        name = re.search(rb'"code":"?(\w+)', data)
        return name[1].decode() if name else f"status {status}"

    async def get(self, path: str) -> tuple[int, Any]:
        """Status and JSON of a path; 0 where nobody answers."""
        try:
            async with self.session.get(self.market.url + path) as answer:
                kind = answer.headers.get("content-type", "")
                return answer.status, await (answer.json() if "json" in kind else answer.text())
        except (aiohttp.ClientError, ConnectionError, TimeoutError):
            return 0, None

    async def balance(self, account: str) -> dict[str, int]:
        """Posted, pending and budget, nano-dollars. Raises AssertionError where both exceed the budget.

        A connection that breaks while workers join or leave the port is made again.
        """
        for _ in range(10):
            status, told = await self.get(f"/v1/accounts/{account}")
            if status:
                break
            await asyncio.sleep(0.2)
        assert status == 200, told
        balance = {key: parse_usd(told[f"{key}_usd"]) for key in ("posted", "pending", "budget")}
        assert balance["posted"] + balance["pending"] <= balance["budget"], f"{account} is overspent: {told}"
        return balance

    async def nothing_held(self) -> bool:
        """Whether no hold is left anywhere in the tree; checks the budgets as it looks."""
        return not any([(await self.balance(account))["pending"] for account in BUDGETS])

    async def metric(self, name: str) -> float:
        """A metric of all workers, summed over its labels."""
        _, text = await self.get("/metrics")
        lines = [line.rpartition(" ") for line in str(text).splitlines() if line.startswith(name)]
        return sum(float(value) for _, _, value in lines)


@asynccontextmanager
async def buyer_at(market: Market) -> AsyncIterator[Buyer]:
    """A buyer whose every call has a connection of its own: all workers are asked."""
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        yield Buyer(market, session)
