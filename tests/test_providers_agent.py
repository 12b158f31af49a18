"""The serving side of the quote protocol: any seller through it is the same seller, and its word is kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from vendor_playback import Playback, seller_at

from providers.agent import agent_app, serve_agent
from providers.assembly import MessageBuilder
from providers.base import Provider, ProviderSettings
from providers.clock import VIRTUAL_EPOCH_MS, SystemClock
from providers.errors import (
    ContentRefused,
    ContextTooLong,
    Overloaded,
    ProviderError,
    QuoteDishonoured,
    RateLimited,
)
from providers.keys import Secret
from providers.protocol import protocol_schema
from providers.remote import RemoteSeller, remote_seller
from providers.terms import RFQ, Decline, DeclineCode, Delta, Quote, Ticket, price_nusd

PIECE = {"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": None}]}
CALL = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
MESSAGE = {"role": "assistant", "content": "Hi there.", "reasoning_content": "Hm.", "tool_calls": CALL}
USAGE = {
    "prompt_tokens": 2000,
    "completion_tokens": 30,
    "prompt_tokens_details": {"cached_tokens": 1500},
    "completion_tokens_details": {"reasoning_tokens": 20},
    "cost": 0.0007,
}
BUFFERED = {"json": {"choices": [{"message": MESSAGE, "finish_reason": "tool_calls"}], "usage": USAGE}}
STREAMED = {
    "events": [
        {"choices": [{"index": 0, "delta": {"role": "assistant", "reasoning_content": "Hm."}}]},
        PIECE,
        {"choices": [{"index": 0, "delta": {"content": " there."}}]},
        {"choices": [{"index": 0, "delta": {"tool_calls": [{**CALL[0], "index": 0}]}}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
        {"choices": [], "usage": USAGE},
        "data: [DONE]\n\n",
    ]
}
RFQ_1 = RFQ(
    rfq_id="r1", input_tokens=2000, max_output_tokens=100, expected_output_tokens=30, answer_within_ms=5_000
)


class Hands:
    """A clock set by hand."""

    def __init__(self) -> None:
        self.ms = VIRTUAL_EPOCH_MS

    def now_ms(self) -> int:
        """The time it was set to."""
        return self.ms


@asynccontextmanager
async def through_agent(
    provider: Provider, key: str = "", **more: Any
) -> AsyncIterator[tuple[str, RemoteSeller]]:
    """An agent that sells for ``provider``, and a remote seller that speaks to it."""
    app = agent_app(provider, key=Secret(key) if key else None, **more)
    async with serve_agent(app, "127.0.0.1", 0) as url:
        settings = ProviderSettings(
            kind="remote", name="far", base_url=url, api_key_env=("KEY",) if key else ()
        )
        remote = remote_seller(settings, SystemClock(), {"KEY": key})
        try:
            yield url, remote
        finally:
            await remote.aclose()


def ticket_for(quote: Quote, stream: bool = False, content: str = "hi") -> Ticket:
    """A ticket for a quote."""
    body = {"messages": [{"role": "user", "content": content}]}
    return Ticket(
        reservation_id="res",
        order_id="o",
        quote=quote,
        body=body,
        max_output_tokens=100,
        stream=stream,
        deadline_ms=9_000,
    )


async def whole(seller: Provider, ticket: Ticket) -> tuple[dict[str, Any], Delta]:
    """The whole message and the last delta."""
    message, last = MessageBuilder(), Delta()
    async for delta in seller.execute(ticket):
        message.add(delta.delta)
        last = delta
    return message.message(), last


@pytest.mark.parametrize("stream", [False, True])
async def test_through_the_protocol_it_is_the_same_seller(stream: bool) -> None:
    """Quote, answer, usage in its classes, bill and price are the same as at the seller itself, buffered or streamed."""
    playback = Playback([STREAMED if stream else BUFFERED])
    async with playback.at() as url:
        direct = seller_at(url)
        async with through_agent(seller_at(url)) as (_, remote):
            (near,) = direct.quote(RFQ_1)
            (far,) = await remote.quote(RFQ_1)
            assert isinstance(near, Quote)
            assert isinstance(far, Quote)
            for name in (
                "model",
                "tier",
                "firm",
                "lines",
                "expected_nusd",
                "ceiling_nusd",
                "input_tokens",
                "tags",
            ):
                assert getattr(near, name) == getattr(far, name), name
            assert (near.max_output_tokens, near.latency_ms, near.ttft_ms) == (
                far.max_output_tokens,
                far.latency_ms,
                far.ttft_ms,
            )
            message, last = await whole(direct, ticket_for(near, stream))
            far_message, far_last = await whole(remote, ticket_for(far, stream))
            assert far_message == message == MESSAGE
            assert (far_last.finish_reason, far_last.usage, far_last.billed_nusd) == (
                last.finish_reason,
                last.usage,
                last.billed_nusd,
            )
            assert last.usage is not None
            assert price_nusd(near.rates, last.usage) == 500 * 1000 + 1500 * 100 + 30 * 4000
            assert last.billed_nusd == 700_000
        await direct.aclose()


async def test_unknown_and_expired_quotes_are_gone() -> None:
    """An unknown quote is 410 at once, a known one once its time has passed, and not a moment before."""
    clock = Hands()
    playback = Playback([BUFFERED])
    async with playback.at() as url, through_agent(seller_at(url), clock=clock) as (agent, remote):
        (quote,) = await remote.quote(RFQ_1)
        assert isinstance(quote, Quote)
        clock.ms += quote.valid_for_ms - 1
        await whole(remote, ticket_for(quote))
        clock.ms += 1
        with pytest.raises(QuoteDishonoured, match="expired"):
            await whole(remote, ticket_for(quote))
        async with aiohttp.ClientSession() as session:
            asked = {"seller_quote_id": "nobody", "body": {}}
            async with session.post(f"{agent}/execute", json=asked) as response:
                assert response.status == 410
                assert "unknown" in (await response.json())["error"]["message"]


@pytest.mark.parametrize(
    ("reply", "leaf"),
    [
        ({"status": 429, "headers": {"retry-after-ms": "1500"}, "json": {}}, RateLimited),
        ({"status": 503, "json": {}}, Overloaded),
        ({"status": 400, "json": {"error": {"code": "context_length_exceeded"}}}, ContextTooLong),
        ({"status": 400, "json": {"error": {"code": "content_filter"}}}, ContentRefused),
        ({"status": 500, "json": {}}, ProviderError),
        ({"events": [PIECE, {"error": {"message": "overloaded", "code": 503}}]}, Overloaded),
    ],
)
async def test_failures_keep_their_name(reply: dict[str, Any], leaf: type[ProviderError]) -> None:
    """What fails at the seller fails by the same name at the other end, with its time to come back."""
    playback = Playback([reply])
    async with playback.at() as url, through_agent(seller_at(url)) as (_, remote):
        (quote,) = await remote.quote(RFQ_1)
        assert isinstance(quote, Quote)
        with pytest.raises(leaf) as caught:
            await whole(remote, ticket_for(quote, stream="events" in reply))
        if leaf is RateLimited:
            assert caught.value.retry_after_ms == 1500


async def test_hanging_up_reaches_the_vendor() -> None:
    """A buyer who hangs up at the far end cancels the call at the vendor behind the agent."""
    playback = Playback([{"events": [PIECE, "HANG"]}])
    async with playback.at() as url, through_agent(seller_at(url)) as (_, remote):
        (quote,) = await remote.quote(RFQ_1)
        assert isinstance(quote, Quote)
        pieces = remote.execute(ticket_for(quote, stream=True))
        assert (await anext(pieces)).delta == {"content": "Hi"}
        await pieces.aclose()
        await asyncio.wait_for(playback.cancelled.wait(), 10)


async def test_a_key_is_asked_for() -> None:
    """With a key set, a caller without it, or with another, gets 401 on both paths; with it, quotes."""
    playback = Playback([BUFFERED])
    async with playback.at() as url, through_agent(seller_at(url), key="agent-key") as (agent, remote):
        async with aiohttp.ClientSession() as session:
            for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "agent-key"}):
                for path in ("quote", "execute"):
                    async with session.post(f"{agent}/{path}", json={}, headers=headers) as response:
                        assert response.status == 401
        (quote,) = await remote.quote(RFQ_1)
        assert isinstance(quote, Quote)


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("quote", {"rfq_id": "r", "input_tokens": 1, "budget": 5}, "budget"),
        ("quote", {"rfq_id": "r", "input_tokens": -1}, "input_tokens"),
        ("quote", {"input_tokens": 1}, "rfq_id"),
        ("quote", [], "the message"),
        ("execute", {"seller_quote_id": "x"}, "body"),
        ("execute", {"seller_quote_id": "x", "body": {}, "max_output_tokens": 0}, "max_output_tokens"),
    ],
)
async def test_a_wrong_request_is_named(path: str, body: object, named: str) -> None:
    """A request with an unknown, missing or impossible field is refused by its name."""
    async with (
        through_agent(seller_at("http://127.0.0.1:9")) as (agent, _),
        aiohttp.ClientSession() as session,
        session.post(f"{agent}/{path}", json=body) as response,
    ):
        assert response.status == 400
        assert named in (await response.json())["error"]["message"]


async def test_calls_at_once_are_bounded() -> None:
    """One call more than the bound is told that there is no room."""
    playback = Playback([{"events": [PIECE, "HANG"]}])
    async with playback.at() as url, through_agent(seller_at(url), max_calls=1) as (_, remote):
        (quote,) = await remote.quote(RFQ_1)
        assert isinstance(quote, Quote)
        first = remote.execute(ticket_for(quote, stream=True))
        await anext(first)
        with pytest.raises(Overloaded, match="1 calls"):
            await whole(remote, ticket_for(quote))
        await first.aclose()


async def test_open_quotes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """With too many quotes open the answer is a decline; expired ones make room again."""
    monkeypatch.setattr("providers.agent.MAX_OPEN_QUOTES", 2)
    monkeypatch.setattr("providers.agent.MIN_SWEEP", 1)
    clock = Hands()
    async with through_agent(seller_at("http://127.0.0.1:9"), clock=clock) as (_, remote):
        kinds = [type((await remote.quote(RFQ_1))[0]) for _ in range(3)]
        assert kinds == [Quote, Quote, Decline]
        clock.ms += 60_000
        assert isinstance((await remote.quote(RFQ_1))[0], Quote)


async def test_agents_of_agents_work_and_slow_ones_are_late() -> None:
    """A remote seller can be sold on; one that does not answer in time is a decline with the code for late."""
    playback = Playback([{"hang": True}])
    async with playback.at() as silent:
        settings = ProviderSettings(kind="remote", name="silent", base_url=silent)
        slow = remote_seller(settings, SystemClock(), {})
        async with through_agent(slow) as (_, remote):
            (declined,) = await remote.quote(RFQ(rfq_id="r", input_tokens=1, answer_within_ms=200))
            assert isinstance(declined, Decline)
            assert declined.code is DeclineCode.TOO_LATE


async def test_the_schema_is_published_and_says_what_is_checked() -> None:
    """The agent serves the schema; it is JSON Schema, and requests allow no unknown field."""
    async with (
        through_agent(seller_at("http://127.0.0.1:9")) as (agent, _),
        aiohttp.ClientSession() as session,
        session.get(f"{agent}/schema.json") as response,
    ):
        schema = await response.json()
    assert schema == protocol_schema()
    shapes = schema["$defs"]
    assert {"QuoteRequest", "QuoteAnswer", "ExecuteRequest"} <= set(shapes)
    assert shapes["QuoteRequest"]["additionalProperties"] is False
    assert shapes["QuoteRequest"]["required"] == ["rfq_id", "input_tokens"]
    assert not any("budget" in name for shape in shapes.values() for name in shape.get("properties", ()))
