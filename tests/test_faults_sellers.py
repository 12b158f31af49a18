"""Sellers that fail in every way, as real servers before a real ``negotiator serve``: coded, charged right, nothing held."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web
from fault_house import listening, until

from benchmarks.processes import serving
from negotiator.money import parse_usd

INPUT, OUTPUT = 8, 100
"""Tokens a seller says a call used; it is priced at a dollar per million in and ten out."""

GOOD_NUSD = 2 * (INPUT * 1_000 + OUTPUT * 10_000)
"""What the good seller, at twice the price, charges."""

CEILING_NUSD = 1_100_000
WORDS = [" river"] * 10
USAGE = {"prompt_tokens": INPUT, "completion_tokens": OUTPUT, "total_tokens": INPUT + OUTPUT}
HEAD: Mapping[str, Any] = {"id": "c", "created": 1, "model": "m"}


def whole(usage: Mapping[str, Any] | None) -> bytes:
    """A whole answer."""
    message = {"role": "assistant", "content": "".join(WORDS)}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    said = {**HEAD, "object": "chat.completion", "choices": [choice]}
    return orjson.dumps(said if usage is None else {**said, "usage": usage})


def pieces(usage: Mapping[str, Any] | None) -> list[bytes]:
    """The same as a stream."""
    deltas = [{"content": word} for word in WORDS]
    chunks: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas
    ]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    if usage is not None:
        chunks.append({"choices": [], "usage": usage})
    said = [
        b"data: " + orjson.dumps({**HEAD, "object": "chat.completion.chunk", **chunk}) for chunk in chunks
    ]
    return [line + b"\n\n" for line in [*said, b"data: [DONE]"]]


class Sellers:
    """One server for all: the first part of the path says how the seller fails."""

    def __init__(self) -> None:
        self.calls: dict[str, int] = {}

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """One call."""
        fault = request.path.split("/")[1]
        self.calls[fault] = self.calls.get(fault, 0) + 1
        stream = bool(orjson.loads(await request.read()).get("stream"))
        if fault == "silent":
            await asyncio.sleep(60)
        if fault in ("busy", "busy-later"):
            headers = {"retry-after": "7"} if fault == "busy-later" else {}
            return web.json_response({"error": {"message": "slow down"}}, status=429, headers=headers)
        if fault == "broken":
            return web.json_response({"error": {"message": "out of order"}}, status=500)
        if fault == "garbled":
            kind = "text/event-stream" if stream else "application/json"
            text = b'data: {"choices": [{"del\n\n' if stream else b'{"choices": [{"mess'
            return web.Response(body=text, content_type=kind)
        usages: dict[str, Mapping[str, Any] | None] = {
            "no-usage": None,
            "wrong-usage": {"prompt_tokens": INPUT, "completion_tokens": -5, "total_tokens": "many"},
            "dear": {**USAGE, "cost": 0.05},
            "long": {**USAGE, "completion_tokens": 40 * OUTPUT, "total_tokens": INPUT + 40 * OUTPUT},
        }
        return await self._answer(request, usages.get(fault, USAGE), stream, cut=fault == "cut")

    async def _answer(
        self, request: web.Request, usage: Mapping[str, Any] | None, stream: bool, cut: bool
    ) -> web.StreamResponse:
        body = pieces(usage) if stream else [whole(usage)]
        kind = "text/event-stream" if stream else "application/json"
        response = web.StreamResponse(headers={"content-type": kind})
        if not stream:
            response.content_length = len(body[0])
        await response.prepare(request)
        for piece in body[:4] if cut else body:
            await response.write(piece[: len(piece) // 2] if cut and not stream else piece)
        if cut:
            await asyncio.sleep(0.2)
            assert request.transport is not None
            request.transport.abort()
        return response


FAULTS = (
    "silent",
    "busy",
    "busy-later",
    "broken",
    "garbled",
    "cut",
    "no-usage",
    "wrong-usage",
    "dear",
    "long",
)


def config(url: str) -> str:
    """Every faulty seller, and a good one at twice the price."""
    lines = ["[market]", "hold_ms = 5000", "in_doubt_ms = 2000"]
    for name in (*FAULTS, "good"):
        dear = 2 if name == "good" else 1
        lines += [
            "[[providers]]",
            'kind = "openai_compat"',
            f'name = "{name}"',
            f'base_url = "{url}/{name}/v1"',
        ]
        lines += ["[[providers.models]]", 'name = "m"', f'input_usd_per_million = "{dear}"']
        lines += [f'output_usd_per_million = "{10 * dear}"', "context_tokens = 100000", "quality_prior = 0.8"]
    return "\n".join([*lines, ""])


@dataclass(frozen=True, slots=True)
class Told:
    """What a buyer heard and what it was charged. code: of the refusal or of the broken stream, "" = none."""

    status: int
    code: str
    body: bytes
    posted_nusd: int
    retry_after_ms: int | None


class House:
    """The server, with an account for every order so that each one's charge is seen."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self.session = session
        self._orders = 0

    async def buy(self, *sellers: str, stream: bool = False, **terms: Any) -> Told:
        """An order that these sellers may serve."""
        self._orders += 1
        account = f"order-{self._orders}"
        await self.session.put(f"{self.url}/v1/accounts/{account}", json={"budget_usd": "1"})
        body = {
            "model": "auto",
            "messages": [{"role": "user", "content": "Name the rivers of Europe."}],
            "max_tokens": OUTPUT,
            "stream": stream,
            "negotiator": {"account": account, "models": [f"{seller}/*" for seller in sellers], **terms},
        }
        data = b""
        async with self.session.post(f"{self.url}/v1/chat/completions", json=body) as answer:
            try:
                async for piece in answer.content.iter_any():
                    data += piece
            except aiohttp.ClientError:
                pass
        await until(lambda: self._settled(account), "the order is settled")
        code = data.partition(b'"code":"')[2].partition(b'"')[0].decode()
        retry = answer.headers.get("retry-after-ms")
        posted_nusd = (await self._balance(account))["posted"]
        return Told(answer.status, code, data, posted_nusd, None if retry is None else int(retry))

    async def _settled(self, account: str) -> bool:
        return (await self._balance(account))["pending"] == 0

    async def _balance(self, account: str) -> dict[str, int]:
        async with self.session.get(f"{self.url}/v1/accounts/{account}") as answer:
            told = await answer.json()
        return {key: parse_usd(told[f"{key}_usd"]) for key in ("posted", "pending")}

    async def house_usd(self) -> float:
        """What the house bore so far."""
        async with self.session.get(f"{self.url}/metrics") as answer:
            lines = (await answer.text()).splitlines()
        return sum(float(line.split()[1]) for line in lines if line.startswith("negotiator_house_usd_total"))


@asynccontextmanager
async def house_of(tmp_path: Path) -> AsyncIterator[tuple[House, Sellers]]:
    """All of it running."""
    sellers = Sellers()
    timeout = aiohttp.ClientTimeout(total=30)
    async with listening(sellers.serve) as url, aiohttp.ClientSession(timeout=timeout) as session:
        with serving(tmp_path, config(url), "embedded://") as market:
            yield House(market.url, session), sellers


async def test_sellers_that_fail_before_their_first_token_cost_nothing(tmp_path: Path) -> None:
    """429 with and without Retry-After, 500, malformed JSON, a body cut short: another serves, or a code and no charge."""
    async with house_of(tmp_path) as (house, sellers):
        for fault in ("busy", "busy-later", "broken", "garbled", "cut"):
            told = await house.buy(fault, "good")
            assert (told.status, told.posted_nusd) == (200, GOOD_NUSD), f"{fault}: {told}"
            assert sellers.calls[fault] == 1, f"{fault} was not asked first"
        for fault in ("broken", "garbled"):
            for stream in (False, True):
                told = await house.buy(fault, stream=stream)
                assert (told.status, told.code, told.posted_nusd) == (502, "PROVIDERS_FAILED", 0), fault


@pytest.mark.slow
async def test_a_seller_that_says_when_is_left_alone_so_long(tmp_path: Path) -> None:
    """After a 429 nobody calls for the seven seconds it said, or a second where it said none: come again, says the code."""
    async with house_of(tmp_path) as (house, sellers):
        for fault in ("busy", "busy-later"):
            assert (await house.buy(fault)).code == "PROVIDERS_FAILED"
            told = await house.buy(fault)
            assert (told.status, told.code, told.posted_nusd) == (503, "ALL_DECLINED", 0), told
            assert told.retry_after_ms is not None
            assert sellers.calls[fault] == 1
        await asyncio.sleep(2.5)
        for fault, calls in (("busy", 2), ("busy-later", 1)):
            await house.buy(fault)
            assert sellers.calls[fault] == calls


@pytest.mark.slow
async def test_a_stream_that_is_cut_charges_what_came(tmp_path: Path) -> None:
    """Four words came: the stream says that it broke off, and input and four tokens are charged."""
    async with house_of(tmp_path) as (house, _):
        told = await house.buy("cut", "good", stream=True)
        assert told.body.count(b" river") == 4
        assert b"[DONE]" not in told.body
        assert 4 * 10_000 < told.posted_nusd < 10 * 10_000
        assert told.code == "PROVIDERS_FAILED"


@pytest.mark.slow
async def test_a_seller_that_never_answers_costs_no_more_than_the_deadline(tmp_path: Path) -> None:
    """The order is refused at its deadline and charged at most its input; silence before the first token is no sale."""
    async with house_of(tmp_path) as (house, _):
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        told = await house.buy("silent", deadline_ms=4_500)
        assert loop.time() - begun_s >= 4.5
        assert (told.status, told.code) == (504, "DEADLINE_PASSED")
        assert told.posted_nusd < 30 * 1_000, "more than the input was charged"


@pytest.mark.slow
async def test_usage_that_is_missing_or_wrong_is_counted_by_the_house(tmp_path: Path) -> None:
    """No usage, or one that no call can have: what was delivered is counted, never zero and never above the ceiling."""
    async with house_of(tmp_path) as (house, _):
        for fault in ("no-usage", "wrong-usage"):
            charges = [await house.buy(fault, stream=stream) for stream in (False, True)]
            assert [told.status for told in charges] == [200, 200]
            assert charges[0].posted_nusd == charges[1].posted_nusd, f"{fault}: streamed costs another"
            assert 0 < charges[0].posted_nusd < CEILING_NUSD


@pytest.mark.slow
async def test_a_bill_above_the_ceiling_is_the_houses(tmp_path: Path) -> None:
    """A bill of fifty times the quote, and forty times the tokens allowed: the buyer pays at most the ceiling."""
    async with house_of(tmp_path) as (house, _):
        for fault in ("dear", "long"):
            before_usd = await house.house_usd()
            for stream in (False, True):
                told = await house.buy(fault, stream=stream)
                assert told.status == 200
                assert 0 < told.posted_nusd <= CEILING_NUSD
            assert await house.house_usd() > before_usd
