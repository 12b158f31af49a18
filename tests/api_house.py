"""A running server for tests: a real engine and ledger, real HTTP sellers at a vendor that plays back a script."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import aiohttp
from vendor_playback import RATES, Playback

from negotiator.api.keyring import AccessKey, new_key
from negotiator.api.routes import House
from negotiator.api.server import serve
from negotiator.config import Config
from negotiator.engine import Engine
from negotiator.store import Account
from providers.base import ModelSettings, Provider, ProviderSettings
from providers.clock import SystemClock
from providers.http_sellers import http_seller
from providers.terms import Rates

__all__ = [
    "ANSWER",
    "CHAT",
    "FINISH",
    "PIECES",
    "USAGE",
    "Served",
    "api_house",
    "chunk",
    "shop",
    "two_shops",
    "until",
]

USAGE = {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15}
ANSWER = {
    "id": "chatcmpl-vendor",
    "object": "chat.completion",
    "created": 1_700_000_000,
    "model": "m",
    "system_fingerprint": "fp_vendor",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "It is four."},
            "finish_reason": "stop",
            "logprobs": None,
        }
    ],
    "usage": USAGE,
}
CHAT = {"model": "auto", "messages": [{"role": "user", "content": "What is 2+2?"}], "max_tokens": 50}


def chunk(delta: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """One chunk of a vendor's stream; ``finish`` ends the choice, ``usage`` has no choice."""
    head = {
        "id": "chatcmpl-vendor",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "m",
    }
    if "usage" in more:
        return {**head, "choices": [], "usage": more["usage"]}
    choice = {"index": 0, "delta": delta or {}, "finish_reason": more.get("finish")}
    return {**head, "choices": [choice]}


PIECES = [chunk({"role": "assistant", "content": "It is "}), chunk({"content": "four."})]
FINISH = [chunk(finish="stop"), chunk(usage=USAGE), "data: [DONE]\n\n"]


def shop(
    base_url: str, name: str = "shop", models: Sequence[str] = ("m",), dear: int = 1, **more: Any
) -> Provider:
    """A seller at ``base_url`` whose models cost ``dear`` times the playback's rates."""
    rates = Rates(**{name: value * dear for name, value in asdict(RATES).items()})
    settings = ProviderSettings(
        kind="openai_compat",
        name=name,
        base_url=base_url,
        models=tuple(ModelSettings(name=model, rates=rates, context_tokens=100_000) for model in models),
        **more,
    )
    return http_seller(settings, SystemClock(), {})


async def until(true: Callable[[], Awaitable[bool]] | Callable[[], bool]) -> None:
    """Wait for something to become true; raises TimeoutError after 20 s."""
    async with asyncio.timeout(20):
        while True:
            found = true()
            if found is True or (inspect.isawaitable(found) and await found):
                return
            await asyncio.sleep(0.005)


@dataclass
class Served:
    """A running server: where it is, what is behind it, and a session to talk to it."""

    url: str
    house: House
    engine: Engine
    playback: Playback
    session: aiohttp.ClientSession
    keys: dict[str, str] = field(default_factory=dict)

    async def call(
        self, method: str, path: str, body: Any = None, key: str | None = None, **headers: str
    ) -> tuple[int, Any, Mapping[str, str]]:
        """Status, JSON body (None where there is none) and headers of one request."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if key is not None:
            sent["authorization"] = f"Bearer {self.keys.get(key, key)}"
        async with self.session.request(method, self.url + path, json=body, headers=sent) as answer:
            kind = answer.headers.get("content-type", "")
            if kind.startswith("text/event-stream"):
                return answer.status, None, answer.headers  # leaving hangs up
            data = await answer.read()
            value = await answer.json() if data and kind.startswith("application/json") else data
            return answer.status, value, answer.headers

    async def make_key(self, name: str, account: str, *scopes: str, **wanted: Any) -> AccessKey:
        """A key of an account, made at the store; its text is in ``keys[name]``."""
        made, text = new_key(account, frozenset(scopes), self.engine.rooms.clock.now_ms(), **wanted)
        await self.house.keys.add(made)
        self.keys[name] = text
        return made

    async def pending_nusd(self, account: str = "default") -> int:
        """What is held on an account now."""
        rooms = self.engine.rooms
        return (await rooms.store.balances(account, rooms.clock.now_ms()))[0].pending_nusd

    async def settled(self, account: str = "default") -> bool:
        """Whether nothing is held on an account."""
        return await self.pending_nusd(account) == 0

    async def posted_nusd(self, account: str = "default") -> int:
        """What was charged to an account."""
        rooms = self.engine.rooms
        return (await rooms.store.balances(account, rooms.clock.now_ms()))[0].posted_nusd


@asynccontextmanager
async def api_house(
    *replies: Mapping[str, Any],
    sellers: Sequence[Provider] | None = None,
    accounts: Sequence[Account] = (),
    **config: Any,
) -> AsyncIterator[Served]:
    """A server on a free port, with one seller ``shop/m`` that answers ``replies`` (or with ``sellers``)."""
    values = {"server": {"port": 0}} | config
    playback = Playback(list(replies) or [{"json": ANSWER}])
    async with AsyncExitStack() as stack:
        vendor = await stack.enter_async_context(playback.at())
        engine = Engine(Config.model_validate(values), sellers=sellers or [shop(vendor)])
        await stack.enter_async_context(engine)
        for account in accounts:
            await engine.rooms.store.put_account(account)
        at = await stack.enter_async_context(serve(engine))
        session = await stack.enter_async_context(
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30))
        )
        yield Served(at.urls[0], at.house, engine, playback, session)


@asynccontextmanager
async def two_shops(accounts: Sequence[Account]) -> AsyncIterator[Served]:
    """A house with a cheap and a dear seller of the same model."""
    playback = Playback([{"json": ANSWER}])
    async with playback.at() as url:
        sellers = [shop(url, "cheap"), shop(url, "dear", dear=3)]
        async with api_house(sellers=sellers, accounts=accounts) as house:
            yield house
