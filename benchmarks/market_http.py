"""The market over HTTP: two real workers on Valkey, sellers in a process of their own whose windows really refuse.

Run ``python -m benchmarks.market --http``. Eight sellers enforce requests and tokens a minute in sliding windows and answer
429 beyond. Orders of forty kinds arrive at random instants; what each may cost at each seller is what the market quotes.
The first minute fills the windows; the minutes after it are compared with their optimum in hindsight, found in this process
from all their orders at once. Load 1 is nine tenths of what all sellers can take together.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import orjson
from aiohttp import web

from benchmarks.market_sliding import sliding_bound
from benchmarks.processes import running, serving, shared_store
from negotiator.clearing_batch import BatchBook, BatchOffer, clear_batch
from negotiator.limits import limit_rows
from negotiator.money import parse_usd
from providers.simulated.windows import Windows
from providers.terms import RateKind, RateLimit

__all__ = ["Seller", "measure_http", "report_http"]

MINUTE_MS = 60_000
KINDS = 40
FILL = 0.9
WORD = " river"


@dataclass(frozen=True, slots=True)
class Seller:
    """One account: prices in dollars per million tokens, quality, and limits a minute."""

    name: str
    input_usd: float
    output_usd: float
    quality: float
    rpm: int
    tpm: int

    @property
    def limits(self) -> tuple[RateLimit, ...]:
        """As the market knows them."""
        return (RateLimit(RateKind.REQUESTS, self.rpm), RateLimit(RateKind.TOKENS, self.tpm))

    @property
    def toml(self) -> str:
        """As configuration."""
        return (
            f'[[providers]]\nkind = "openai_compat"\nname = "{self.name}"\nbase_url = "{{url}}/{self.name}/v1"\n'
            f'limits = {{{{ rpm = {self.rpm}, tpm = {self.tpm} }}}}\n[[providers.models]]\nname = "{self.name}"\n'
            f'input_usd_per_million = "{self.input_usd}"\noutput_usd_per_million = "{self.output_usd}"\n'
            f"context_tokens = 100000\nquality_prior = {self.quality}\n"
        )


SELLERS = (
    Seller("tiny", 0.05, 0.40, 0.55, 300, 90_000),
    Seller("small", 0.10, 0.60, 0.62, 240, 90_000),
    Seller("open", 0.15, 0.90, 0.68, 180, 60_000),
    Seller("middle", 0.40, 1.60, 0.75, 240, 100_000),
    Seller("brisk", 0.80, 3.20, 0.80, 180, 60_000),
    Seller("large", 2.00, 8.00, 0.88, 180, 80_000),
    Seller("great", 3.00, 15.00, 0.92, 120, 60_000),
    Seller("best", 5.00, 25.00, 0.96, 120, 60_000),
)


class Desk:
    """All sellers: their answers are cut at the tokens they may use, and they refuse what their windows cannot take."""

    def __init__(self) -> None:
        self._windows = {seller.name: Windows(seller.limits) for seller in SELLERS}
        self._seen = {"calls": 0, "refused": 0}

    async def chat(self, request: web.Request) -> web.Response:
        """One call."""
        body = orjson.loads(await request.read())
        asked = sum(len(str(message["content"])) for message in body["messages"]) // len(WORD)
        tokens = int(body["max_tokens"])
        uses = {RateKind.REQUESTS: 1, RateKind.TOKENS: asked + tokens}
        self._seen["calls"] += 1
        wait_ms = self._windows[request.match_info["name"]].enter("m", uses, time.monotonic_ns() // 1_000_000)
        if wait_ms:
            self._seen["refused"] += 1
            headers = {"retry-after-ms": str(wait_ms)}
            return web.json_response({"error": {"message": "slow down"}}, status=429, headers=headers)
        await asyncio.sleep(0.05 + tokens / 2_000)
        message = {"role": "assistant", "content": WORD * tokens}
        usage = {"prompt_tokens": asked, "completion_tokens": tokens, "total_tokens": asked + tokens}
        choice = {"index": 0, "message": message, "finish_reason": "length"}
        head = {"id": "c", "object": "chat.completion", "created": 1, "model": "m"}
        return web.json_response({**head, "choices": [choice], "usage": usage})

    async def seen(self, request: web.Request) -> web.Response:
        """Calls and refusals so far."""
        return web.json_response(self._seen)


async def _listen() -> None:
    desk, app = Desk(), web.Application()
    app.router.add_post("/{name}/v1/chat/completions", desk.chat)
    app.router.add_get("/seen", desk.seen)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    print("http://{}:{}".format(*runner.addresses[0][:2]), flush=True)
    await asyncio.Event().wait()


@dataclass(slots=True)
class Kind:
    """A kind of order, and what it costs and takes at each seller (by position; None = it misses a term there)."""

    body: dict[str, Any]
    costs: list[int | None]
    input_tokens: int
    output_tokens: int


def draw_kinds(seed: int) -> list[dict[str, Any]]:
    """Bodies of forty sizes and quality floors."""
    draw = random.Random(seed)
    kinds = []
    for number in range(KINDS):
        words = min(400, max(10, int(draw.lognormvariate(4.2, 0.8))))
        floor = round(0.4 + 0.54 * draw.betavariate(1.3, 2.2), 2)
        kinds.append(
            {
                "model": "auto",
                "messages": [{"role": "user", "content": f"{number}" + WORD * words}],
                "max_tokens": min(400, max(10, int(draw.lognormvariate(4.4, 0.7)))),
                "negotiator": {"min_quality": floor},
            }
        )
    return kinds


async def quoted(url: str, body: dict[str, Any], session: aiohttp.ClientSession) -> Kind:
    """The kind with what the market quotes for it."""
    asked = {"messages": body["messages"], "max_tokens": body["max_tokens"], "terms": body["negotiator"]}
    async with session.post(f"{url}/v1/quotes", json=asked) as answer:
        told = await answer.json()
    costs: list[int | None] = [None] * len(SELLERS)
    names = [seller.name for seller in SELLERS]
    size = told["quotes"][0]
    for quote in told["quotes"]:
        if quote["eligible"]:
            costs[names.index(quote["provider"])] = parse_usd(quote["expected_usd"])
    return Kind(body, costs, size["input_tokens"], size["expected_output_tokens"])


def full_per_ms(kinds: Sequence[Kind]) -> float:
    """Orders a millisecond that fill nine tenths of all sellers together, by count and by tokens."""
    tokens = sum(kind.input_tokens + kind.output_tokens for kind in kinds) / len(kinds)
    room = sum(min(seller.rpm, seller.tpm / tokens) for seller in SELLERS)
    return FILL * room / MINUTE_MS


def hindsight(kinds: Sequence[Kind], minutes: float) -> tuple[int, int, float]:
    """The best for these orders in so many minutes: served, cost in nano-dollars, gap."""
    cost = np.array([[nusd or 0 for nusd in kind.costs] for kind in kinds], dtype=np.int64)
    allowed = np.array([[nusd is not None for nusd in kind.costs] for kind in kinds], dtype=np.bool_)
    shape = np.ones((1, len(SELLERS)))
    book = BatchBook(
        offers=[BatchOffer(seller.name, seller.name) for seller in SELLERS],
        cost=cost,
        allowed=allowed,
        input_tokens=np.array([[kind.input_tokens] for kind in kinds]) * shape,
        cached_tokens=np.zeros((len(kinds), len(SELLERS))),
        output_tokens=np.array([[kind.output_tokens] for kind in kinds]) * shape,
        latency_ms=np.full((len(kinds), len(SELLERS)), 100.0),
        rows=[row for seller in SELLERS for row in limit_rows(seller.name, seller.limits)],
        horizon_ms=round(minutes * MINUTE_MS),
    )
    plan = clear_batch(book, time_limit_s=10.0, gap=1e-3)
    return plan.served, plan.cost_nusd, plan.gap


def sliding(kinds: Sequence[Kind], orders: Sequence[tuple[float, Kind]]) -> tuple[float, float]:
    """The same where windows slide: a bound of what can be served, and of what that costs."""
    number = {id(kind): k for k, kind in enumerate(kinds)}
    return sliding_bound(
        [at_s for at_s, _ in orders],
        [number[id(kind)] for _, kind in orders],
        [kind.costs for kind in kinds],
        [kind.input_tokens + kind.output_tokens for kind in kinds],
        [(seller.rpm, seller.tpm) for seller in SELLERS],
    )


async def trial(url: str, sellers: str, load: float, minutes: int, seed: int) -> dict[str, Any]:
    """Orders at this load for a minute and then so many more; the latter are compared."""
    draw, loop, outcomes = random.Random(seed), asyncio.get_running_loop(), []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        kinds = [await quoted(url, body, session) for body in draw_kinds(seed)]
        kinds = [kind for kind in kinds if any(nusd is not None for nusd in kind.costs)]
        per_s = 1000 * load * full_per_ms(kinds)

        async def buy(kind: Kind, due_s: float) -> None:
            async with session.post(f"{url}/v1/chat/completions", json=kind.body) as answer:
                told = await answer.json()
            nusd = parse_usd(told["negotiator"]["cost_usd"]) if answer.status == 200 else None
            code = "served" if answer.status == 200 else told["error"]["code"]
            outcomes.append((due_s, kind, nusd, code))

        begun_s, due_s = loop.time(), 0.0
        async with asyncio.TaskGroup() as calls:
            while due_s < 60 * (1 + minutes):
                await asyncio.sleep(max(0.0, begun_s + due_s - loop.time()))
                calls.create_task(buy(draw.choice(kinds), due_s))
                due_s += draw.expovariate(per_s)
        async with session.get(f"{sellers}/seen") as answer:
            seen = await answer.json()
    measured = [outcome for outcome in outcomes if outcome[0] >= 60]
    served, cost_nusd, gap = hindsight([kind for _, kind, _, _ in measured], minutes)
    bound, bound_nusd = sliding(kinds, [(at_s, kind) for at_s, kind, _, _ in measured])
    paid = [nusd for _, _, nusd, _ in measured if nusd is not None]
    codes = [code for _, _, _, code in measured]
    return {
        "load": load,
        "seed": seed,
        "orders": len(measured),
        "hindsight_served": served / len(measured),
        "gap": gap,
        "served_ratio": len(paid) / served,
        "cost_ratio": sum(paid) / len(paid) / (cost_nusd / served),
        "sliding": {
            "served_ratio": len(paid) / bound,
            "cost_ratio": sum(paid) / len(paid) / (bound_nusd / bound),
        },
        "codes": {code: codes.count(code) for code in sorted(set(codes))},
        "sellers": seen,
    }


def measure_http(loads: Sequence[float], minutes: int, seed: int) -> list[dict[str, Any]]:
    """Every load with servers of its own."""
    found = []
    for load in loads:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            with (
                shared_store(folder) as shared,
                running(["-m", "benchmarks.market_http"], folder / "sellers.log") as (sellers, _),
            ):
                config = "\n".join(seller.toml for seller in SELLERS).format(url=sellers)
                with serving(folder, config, shared.url, workers=2) as market:
                    found.append(asyncio.run(trial(market.url, sellers, load, minutes, seed)))
        print(json.dumps(found[-1]), flush=True)
    return found


def report_http(found: Sequence[dict[str, Any]], minutes: int) -> str:
    """The results as Markdown."""
    lines = [
        "# The market over HTTP",
        "",
        f"`python -m benchmarks.market --http`: two workers of `negotiator serve` on Valkey, {len(SELLERS)} sellers in a process of"
        f" their own with sliding windows of a minute, {minutes} minutes after one to fill the windows. Cost per served order"
        " and served orders are relative to the optimum in hindsight of the same minutes, which has whole minutes to itself;"
        " and to a bound whose windows slide as the sellers' do, which no policy can pass.",
        "",
        "| load | orders | hindsight serves | cost per served | served | sliding: cost | served | 429s of sellers / calls |"
        " outcomes | gap |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for run in found:
        outcomes = ", ".join(f"{count} {code}" for code, count in run["codes"].items())
        lines.append(
            f"| {run['load']:g} | {run['orders']} | {run['hindsight_served']:.3f} | {run['cost_ratio']:.3f} |"
            f" {run['served_ratio']:.3f} | {run['sliding']['cost_ratio']:.3f} | {run['sliding']['served_ratio']:.3f} |"
            f" {run['sellers']['refused']} / {run['sellers']['calls']} | {outcomes} | {run['gap']:.1e} |"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    assert not sys.argv[1:]
    asyncio.run(_listen())
