"""The client side of the quote protocol: late is absent, contradictions are declines, broken words cost firmness."""

from __future__ import annotations

import asyncio
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from vendor_playback import Playback

from providers.assembly import MessageBuilder
from providers.base import ProviderSettings
from providers.clock import SystemClock
from providers.errors import AuthFailed, ProviderError, QuoteDishonoured, StreamCut
from providers.remote import RemoteSeller, remote_seller
from providers.terms import (
    RFQ,
    Decline,
    DeclineCode,
    DiscountKind,
    LineKind,
    PrefixMark,
    Quantiles,
    Quote,
    Target,
    Ticket,
)

RFQ_1 = RFQ(
    rfq_id="r1", input_tokens=1000, max_output_tokens=200, expected_output_tokens=100, answer_within_ms=5_000
)
QUOTE: dict[str, Any] = {
    "seller_quote_id": "s1",
    "model": "small",
    "rates": {"input_usd_per_million": "1", "output_usd_per_million": "4"},
    "expected_usd": "0.0014",
    "ceiling_usd": "0.002",
    "latency_ms": {"p50": 300, "p95": 900},
    "valid_for_ms": 60_000,
    "capacity": 7,
}
ANSWER = {
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1000, "completion_tokens": 100},
}


def seller(url: str) -> RemoteSeller:
    """A remote seller at ``url``."""
    settings = ProviderSettings(kind="remote", name="far", base_url=url, api_key_env=("KEY_ONE",))
    return remote_seller(settings, SystemClock(), {"KEY_ONE": "secret-one"})


def ticket_for(quote: Quote, stream: bool = False) -> Ticket:
    """A ticket for a quote."""
    body = {"messages": [{"role": "user", "content": "Say hi to me."}], "temperature": 0.5, "max_tokens": 999}
    return Ticket(
        reservation_id="res",
        order_id="o",
        quote=quote,
        body=body,
        max_output_tokens=150,
        stream=stream,
        deadline_ms=9_000,
    )


async def answer_of(remote: RemoteSeller, ticket: Ticket) -> dict[str, Any]:
    """The whole message."""
    message = MessageBuilder()
    async for delta in remote.execute(ticket):
        message.add(delta.delta)
    return message.message()


async def quoted(remote: RemoteSeller, rfq: RFQ = RFQ_1) -> Quote:
    """Its one quote."""
    (quote,) = await remote.quote(rfq)
    assert isinstance(quote, Quote), quote
    return quote


async def test_an_rfq_goes_out_without_a_budget_and_a_quote_comes_back() -> None:
    """The seller sees the request's size, needs and target, never a budget; its quote becomes ours, line by line."""
    playback = Playback([{"json": {"quotes": [QUOTE]}}])
    async with playback.at() as url:
        remote = seller(url)
        rfq = RFQ(
            rfq_id="r1",
            input_tokens=1000,
            max_output_tokens=200,
            expected_output_tokens=100,
            prefix=(PrefixMark(900, "k"),),
            capabilities=frozenset({"tools"}),
            parameters=frozenset({"seed"}),
            round=2,
            target=Target(nusd=1_500_000, latency_ms=400),
        )
        quote = await quoted(remote, rfq)
        assert playback.received[0].body == {
            "rfq_id": "r1",
            "input_tokens": 1000,
            "max_tokens": 200,
            "expected_output_tokens": 100,
            "prefix": [{"tokens": 900, "key": "k"}],
            "capabilities": ["tools"],
            "parameters": ["seed"],
            "tiers": ["standard"],
            "models": None,
            "answer_within_ms": 250,
            "round": 2,
            "target": {"usd": "0.0015", "latency_ms": 400},
        }
        assert playback.received[0].headers["authorization"] == "Bearer secret-one"
        assert (quote.provider, quote.model, quote.quote_id, quote.firm) == ("far", "small", "far:s1", True)
        assert (quote.expected_nusd, quote.ceiling_nusd, quote.capacity) == (1_400_000, 2_000_000, 7)
        assert [(line.kind, line.tokens) for line in quote.lines] == [
            (LineKind.INPUT, 1000),
            (LineKind.OUTPUT, 100),
        ]
        assert quote.max_output_tokens == 200
        assert quote.latency_ms == Quantiles(300, 900)
        await remote.aclose()


async def test_cached_lines_are_priced_by_their_own_rates() -> None:
    """A quote that expects cached tokens says so in its lines; they are priced by its cache rate."""
    said = {
        **QUOTE,
        "rates": {**QUOTE["rates"], "cache_read_usd_per_million": "0.1"},
        "lines": [
            {"kind": "input", "tokens": 100},
            {"kind": "cache_read", "tokens": 900},
            {"kind": "output", "tokens": 100},
        ],
        "expected_usd": 0.00059,
        "discounts": [{"kind": "cache_hit", "saves_usd": "0.00081", "basis": "seen before"}],
    }
    playback = Playback([{"json": {"quotes": [said]}}])
    async with playback.at() as url:
        remote = seller(url)
        quote = await quoted(remote)
        assert quote.expected_nusd == 590_000 == sum(line.nusd for line in quote.lines)
        assert quote.input_tokens == 1000
        assert quote.discounts[0].kind is DiscountKind.CACHE_HIT
        await remote.aclose()


@pytest.mark.parametrize(
    ("said", "code", "detail"),
    [
        ({"decline": {"code": "D2", "detail": "no tools"}}, DeclineCode.UNSUPPORTED, "no tools"),
        ({"decline": {"code": "TOO_LONG"}}, DeclineCode.TOO_LONG, ""),
        ({"quotes": [{**QUOTE, "expected_usd": "0.001"}]}, DeclineCode.PRICE_STALE, "expected 0.0014"),
        ({"quotes": [{**QUOTE, "ceiling_usd": "0.0001"}]}, DeclineCode.PRICE_STALE, "at least 0.0014"),
        ({"quotes": [{**QUOTE, "expected_usd": "-1"}]}, DeclineCode.DISABLED, "quotes.0.expected_usd"),
        ({"quotes": [{**QUOTE, "valid_for_ms": 0}]}, DeclineCode.DISABLED, "quotes.0.valid_for_ms"),
        ({"quotes": [{**QUOTE, "rates": {}}]}, DeclineCode.DISABLED, "input_usd_per_million"),
        ({"quotes": [{**QUOTE, "seller_quote_id": "a b"}]}, DeclineCode.DISABLED, "seller_quote_id"),
        ({"decline": {"code": "D10"}}, DeclineCode.DISABLED, "decline.code"),
        ([], DeclineCode.DISABLED, "the message"),
    ],
)
async def test_declines_and_contradictions(said: object, code: DeclineCode, detail: str) -> None:
    """A decline keeps its code; a quote that contradicts itself or the schema is a decline that says where."""
    playback = Playback([{"json": said}])
    async with playback.at() as url:
        remote = seller(url)
        (declined,) = await remote.quote(RFQ_1)
        assert isinstance(declined, Decline)
        assert declined.code is code
        assert detail in declined.detail
        assert remote.record.inconsistent == (code in (DeclineCode.DISABLED, DeclineCode.PRICE_STALE))
        await remote.aclose()


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        ({"hang": True}, DeclineCode.TOO_LATE),
        ({"status": 401, "json": {}}, DeclineCode.AUTH),
        ({"status": 429, "json": {}}, DeclineCode.RATE_LIMITED),
        ({"status": 500, "text": ""}, DeclineCode.DISABLED),
        ({"json": {"quotes": [], "filler": "x" * 2**20}}, DeclineCode.DISABLED),
    ],
    ids=["late", "key", "limited", "broken", "too large"],
)
async def test_silence_and_refusals_are_declines(reply: dict[str, Any], code: DeclineCode) -> None:
    """Late, unauthorised, limited, broken or endless: a coded decline, never an exception, never a wait."""
    playback = Playback([reply])
    async with playback.at() as url:
        remote = seller(url)
        (declined,) = await remote.quote(
            RFQ(rfq_id="r1", input_tokens=10, answer_within_ms=100 if reply.get("hang") else 5_000)
        )
        assert isinstance(declined, Decline)
        assert declined.code is code
        await remote.aclose()
    remote = seller(url)
    (declined,) = await remote.quote(RFQ_1)
    assert isinstance(declined, Decline)
    assert declined.code is DeclineCode.DISABLED
    await remote.aclose()


async def test_a_quote_is_called_by_its_id() -> None:
    """The call names the seller's own quote, carries the body with the model and limit bought, and is relayed."""
    playback = Playback([{"json": {"quotes": [QUOTE]}}, {"json": ANSWER}])
    async with playback.at() as url:
        remote = seller(url)
        message = await answer_of(remote, ticket_for(await quoted(remote)))
        assert message["content"] == "Hi"
        call = playback.received[1]
        assert call.path == "/v1/execute"
        assert call.body == {
            "seller_quote_id": "s1",
            "body": {
                "messages": [{"role": "user", "content": "Say hi to me."}],
                "temperature": 0.5,
                "model": "small",
                "max_tokens": 150,
            },
            "max_output_tokens": 150,
        }
        assert remote.record.honoured == 1
        await remote.aclose()


async def test_a_seller_that_breaks_its_word_is_indicative_until_it_earned_it_back() -> None:
    """Two firm quotes refused and its quotes are information only; calls honoured since make them firm again."""
    gone = {"status": 410, "json": {"error": {"message": "changed my mind"}}}
    quote = {"json": {"quotes": [QUOTE]}}
    playback = Playback([quote, gone, quote, gone, quote, *[{"json": ANSWER}] * 5, quote])
    async with playback.at() as url:
        remote = seller(url)
        for _ in range(2):
            ticket = ticket_for(await quoted(remote))
            with pytest.raises(QuoteDishonoured):
                await answer_of(remote, ticket)
        probe = await quoted(remote)
        assert not probe.firm
        assert remote.record.dishonoured == 2
        for _ in range(5):
            await answer_of(remote, ticket_for(probe))
        assert (await quoted(remote)).firm
        await remote.aclose()


async def test_a_refusal_after_expiry_is_no_lie() -> None:
    """A quote refused once its time has passed costs no trust."""
    playback = Playback([{"json": {"quotes": [{**QUOTE, "valid_for_ms": 1}]}}, {"status": 410, "json": {}}])
    async with playback.at() as url:
        remote = seller(url)
        ticket = ticket_for(await quoted(remote))
        await asyncio.sleep(0.01)
        with pytest.raises(QuoteDishonoured):
            await answer_of(remote, ticket)
        assert remote.record.dishonoured == 0
        assert remote.record.trust == 100
        await remote.aclose()


async def test_a_bill_above_the_ceiling_is_recorded() -> None:
    """A seller that bills more than it promised loses trust; what the buyer pays is not its business."""
    dear = {**ANSWER, "usage": {**ANSWER["usage"], "cost": "0.0021"}}
    playback = Playback([{"json": {"quotes": [QUOTE]}}, {"json": dear}])
    async with playback.at() as url:
        remote = seller(url)
        await answer_of(remote, ticket_for(await quoted(remote)))
        assert remote.record.overbilled == 1
        assert remote.record.trust == 50
        await remote.aclose()


@pytest.mark.parametrize(
    ("reply", "leaf"),
    [({"status": 401, "json": {}}, AuthFailed), ({"events": [{"choices": []}]}, StreamCut)],
)
async def test_failures_of_a_call_are_named(reply: dict[str, Any], leaf: type[ProviderError]) -> None:
    """A remote seller's failures are of the same tree, and cost it no trust."""
    playback = Playback([{"json": {"quotes": [QUOTE]}}, reply])
    async with playback.at() as url:
        remote = seller(url)
        ticket = ticket_for(await quoted(remote), stream="events" in reply)
        with pytest.raises(leaf):
            await answer_of(remote, ticket)
        assert remote.record.trust == 100
        await remote.aclose()


def test_a_remote_seller_needs_an_address() -> None:
    """Without a base_url there is nobody to ask."""
    with pytest.raises(ValueError, match="base_url"):
        remote_seller(ProviderSettings(kind="remote"), SystemClock(), {})


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.parametrize("stream", [False, True])
async def test_the_example_seller_in_javascript(root: Path, stream: bool) -> None:
    """The example in Node quotes, honours its quote buffered and streamed, declines by code, answers 410."""
    process = await asyncio.create_subprocess_exec(
        "node", str(root / "examples" / "seller.mjs"), "0", stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        line = (await asyncio.wait_for(process.stdout.readline(), 30)).decode()
        found = re.search(r"http://\S+", line)
        assert found is not None, line
        remote = seller(found[0])
        quote = await quoted(remote)
        assert quote.discounts[0].kind is DiscountKind.IDLE
        assert (await answer_of(remote, ticket_for(quote, stream)))["content"] == "Say hi to me."
        (declined,) = await remote.quote(
            RFQ(rfq_id="r", input_tokens=1, capabilities=frozenset({"vision"}), answer_within_ms=5_000)
        )
        assert isinstance(declined, Decline)
        assert declined.code is DeclineCode.UNSUPPORTED
        stranger = Ticket(
            reservation_id="x",
            order_id="x",
            quote=replace(quote, quote_id="far:x"),
            body={"messages": []},
            max_output_tokens=1,
        )
        with pytest.raises(QuoteDishonoured):
            await answer_of(remote, stranger)
        await remote.aclose()
    finally:
        process.terminate()
        await process.communicate()
