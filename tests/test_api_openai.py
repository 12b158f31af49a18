"""Chat completions over HTTP: the seller's bytes with our object added, streams, failover, hang-ups, replays."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest
from api_house import ANSWER, CHAT, FINISH, PIECES, USAGE, Served, api_house, chunk, shop, until
from vendor_playback import Playback

GOOD = {"json": ANSWER}
STREAM = {"events": [*PIECES, *FINISH]}
COST_USD = "0.000024"
"""12 tokens in at $1 and 3 out at $4 per million."""


async def events_of(served: Served, body: dict[str, Any]) -> tuple[list[Any], Any]:
    """The data of every event of a streamed chat (JSON where it is), and the headers."""
    async with served.session.post(
        f"{served.url}/v1/chat/completions", json={**CHAT, **body, "stream": True}
    ) as answer:
        assert answer.status == 200, await answer.text()
        text = (await answer.read()).decode()
        data = [part.removeprefix("data: ") for part in text.split("\n\n") if part]
        return [json.loads(one) if one.startswith("{") else one for one in data], answer.headers


async def test_the_sellers_answer_is_relayed_with_the_bill() -> None:
    """Every field the seller wrote is there, unchanged, and ``negotiator`` says what it cost."""
    async with api_house(GOOD) as served:
        status, body, headers = await served.call("POST", "/v1/chat/completions", CHAT)
    bill = body.pop("negotiator")
    assert (status, body) == (200, ANSWER)
    assert bill["cost_usd"] == COST_USD
    assert (bill["provider"], bill["model"], bill["complete"]) == ("shop", "m", True)
    assert headers["x-negotiator-cost-usd"] == COST_USD
    assert headers["x-negotiator-order-id"] == bill["order_id"]
    assert headers["x-request-id"].startswith("req_")


async def test_unknown_parameters_reach_the_seller() -> None:
    """A parameter nobody here knows is sent on, and so is everything else the house does not set itself."""
    async with api_house(GOOD) as served:
        asked = {**CHAT, "brand_new_option": {"a": 1}, "temperature": 0.5, "seed": 7}
        await served.call("POST", "/v1/chat/completions", asked)
        sent = served.playback.received[0].body
    assert (sent["brand_new_option"], sent["temperature"], sent["seed"]) == ({"a": 1}, 0.5, 7)
    assert "negotiator" not in sent


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "nobody", "content": "x"}]}, "messages.0.role"),
        ({"n": 2}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stream_options": {"include_usage": True, "other": 1}}, "stream_options.other"),
        ({"service_tier": "golden"}, "service_tier"),
        ({"negotiator": {"budget": 1}}, "negotiator.budget"),
        ({"negotiator": {"min_quality": 2}}, "negotiator.min_quality"),
        ({"negotiator": {"budget_usd": -1}}, "negotiator.budget_usd"),
    ],
)
async def test_what_is_wrong_is_named(changed: dict[str, Any], named: str) -> None:
    """A wrong or unknown field of ours is refused with its name, and no seller is called."""
    async with api_house(GOOD) as served:
        status, body, _ = await served.call("POST", "/v1/chat/completions", CHAT | changed)
        assert not served.playback.received
    assert (status, body["error"]["code"], body["error"]["param"]) == (400, "INVALID", named)


async def test_headers_are_terms_and_the_body_wins() -> None:
    """``x-negotiator-*`` headers are terms; the same term in the body counts more; an unknown one is refused."""
    async with api_house(GOOD) as served:
        path = "/v1/chat/completions"
        status, body, _ = await served.call("POST", path, CHAT, x_negotiator_budget_usd="0.000001")
        assert (status, body["error"]["code"]) == (402, "BUDGET_TOO_LOW")
        rich = {**CHAT, "negotiator": {"budget_usd": "1"}}
        status, _, _ = await served.call("POST", path, rich, x_negotiator_budget_usd="0.000001")
        assert status == 200
        status, body, _ = await served.call("POST", path, CHAT, x_negotiator_bugdet="1")
        assert status == 400
        assert "x-negotiator-bugdet" in body["error"]["message"]


async def test_a_model_nobody_sells_has_no_price() -> None:
    """A model's bare name and ``provider/model`` are found; any other is UNPRICEABLE and names the field."""
    async with api_house(GOOD) as served:
        for model, expected in (("m", 200), ("shop/m", 200), ("other/m", 422), ("gpt-0", 422)):
            status, body, _ = await served.call("POST", "/v1/chat/completions", CHAT | {"model": model})
            assert status == expected, body
        assert (body["error"]["code"], body["error"]["param"]) == ("UNPRICEABLE", "model")


async def test_a_profile_is_a_model() -> None:
    """``auto:PROFILE`` shops under that profile's terms; an unknown profile is refused by name."""
    async with api_house(GOOD, profiles={"thrifty": {"budget_usd": "0.000001"}}) as served:
        status, body, _ = await served.call("POST", "/v1/chat/completions", CHAT | {"model": "auto:thrifty"})
        assert (status, body["error"]["code"]) == (402, "BUDGET_TOO_LOW")
        status, body, _ = await served.call("POST", "/v1/chat/completions", CHAT | {"model": "auto:none"})
        assert (status, body["error"]["param"]) == (400, "profile")


async def test_a_service_tier_is_a_tier() -> None:
    """OpenAI's ``service_tier`` chooses the market's tier: flex is not sold here, and the answer says so."""
    async with api_house(GOOD) as served:
        status, body, _ = await served.call("POST", "/v1/chat/completions", CHAT | {"service_tier": "flex"})
    assert (status, body["error"]["code"]) == (403, "POLICY_FORBIDS")


async def test_a_stream_is_relayed_byte_by_byte() -> None:
    """The seller's chunks come as they were sent; the finish carries the bill; then the end mark."""
    async with api_house(STREAM) as served:
        events, headers = await events_of(served, {})
    assert events[:2] == PIECES
    assert events[2]["choices"][0]["finish_reason"] == "stop"
    assert events[2]["id"] == "chatcmpl-vendor"
    assert events[2]["negotiator"]["cost_usd"] == COST_USD
    assert events[3:] == ["[DONE]"]
    assert headers["x-negotiator-provider"] == "shop"


async def test_usage_comes_last_when_asked_for() -> None:
    """With ``include_usage`` a chunk without choices has the usage and the bill, and the finish has neither."""
    async with api_house(STREAM) as served:
        events, _ = await events_of(served, {"stream_options": {"include_usage": True}})
    finish, usage, end = events[2:]
    assert "negotiator" not in finish
    assert usage["choices"] == []
    assert usage["usage"]["prompt_tokens"] == USAGE["prompt_tokens"]
    assert usage["negotiator"]["cost_usd"] == COST_USD
    assert end == "[DONE]"


async def test_buffered_and_streamed_cost_the_same() -> None:
    """The same answer settles to the same nano-dollar either way, and nothing stays held."""
    async with api_house(GOOD, STREAM) as served:
        await served.call("POST", "/v1/chat/completions", CHAT)
        once = await served.posted_nusd()
        await events_of(served, {})
        assert await served.posted_nusd() == 2 * once == 48_000
        assert await served.pending_nusd() == 0


async def test_a_refusal_before_the_first_token_has_its_status() -> None:
    """A stream that cannot begin is an ordinary error, not an empty 200."""
    async with api_house({"status": 500, "json": {"error": {"message": "down"}}}) as served:
        status, body, _ = await served.call("POST", "/v1/chat/completions", CHAT | {"stream": True})
        assert await served.pending_nusd() == 0
    assert (status, body["error"]["code"]) == (502, "PROVIDERS_FAILED")


async def test_failover_before_the_first_token_is_not_seen() -> None:
    """When the first seller fails the second answers, and the attempts say so."""
    broken, good = Playback([{"status": 503, "json": {}}]), Playback([STREAM])
    async with broken.at() as one, good.at() as two:
        sellers = [shop(one, "cheap"), shop(two, "dear", dear=2)]
        async with api_house(sellers=sellers) as served:
            events, headers = await events_of(served, {})
    assert events[:2] == PIECES
    attempts = events[2]["negotiator"]["attempts"]
    assert [(a["provider"], a["outcome"]) for a in attempts] == [("cheap", "Overloaded"), ("dear", "ok")]
    assert headers["x-negotiator-provider"] == "dear"


async def test_a_stream_that_breaks_off_ends_with_an_error() -> None:
    """After the first token: what came, a finish reason with the partial bill, then an error event and no end mark."""
    async with api_house({"events": [*PIECES, "CUT"]}) as served:
        events, _ = await events_of(served, {})
        assert await served.pending_nusd() == 0
    assert events[:2] == PIECES
    finish, error = events[2:]
    assert finish["choices"][0]["finish_reason"] == "length"
    assert finish["negotiator"]["complete"] is False
    assert error["error"]["code"] == "PROVIDERS_FAILED"


@pytest.mark.parametrize("stream", [False, True], ids=["buffered", "streamed"])
async def test_hanging_up_cancels_the_seller_and_settles(stream: bool) -> None:
    """A caller that disconnects cuts the call at the vendor at once; nothing stays held."""
    reply = {"events": [*PIECES, "HANG"]} if stream else {"hang": True}
    async with api_house(reply) as served:
        async with aiohttp.ClientSession() as session:
            asked = session.post(f"{served.url}/v1/chat/completions", json=CHAT | {"stream": stream})
            if stream:
                answer = await asked
                await answer.content.readany()
                answer.close()
            else:
                task = asyncio.ensure_future(asked._coro)
                await until(lambda: bool(served.playback.received))
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
        await asyncio.wait_for(served.playback.cancelled.wait(), 10)
        await until(served.settled)
        posted_nusd = await served.posted_nusd()
    assert posted_nusd >= 12_000, "the input and what was delivered are owed"
    if stream:
        assert posted_nusd > 16_000, "some output was relayed"


async def test_an_order_id_is_replayed() -> None:
    """The same id and content gives the first answer, marked; the seller is called once. Also as a stream."""
    async with api_house(GOOD) as served:
        asked = {**CHAT, "negotiator": {"order_id": "once"}}
        _, first, _ = await served.call("POST", "/v1/chat/completions", asked)
        _, again, _ = await served.call("POST", "/v1/chat/completions", asked)
        events, _ = await events_of(served, {"negotiator": {"order_id": "once"}})
        assert len(served.playback.received) == 1
        assert await served.posted_nusd() == 24_000
    assert again["negotiator"]["replayed"] is True
    assert again["choices"][0]["message"] == first["choices"][0]["message"]
    assert events[0]["choices"][0]["delta"]["content"] == "It is four."
    assert events[1]["negotiator"]["replayed"] is True


async def test_the_idempotency_key_is_an_order_id() -> None:
    """``Idempotency-Key`` names the order where the body does not; other content under it names the field."""
    async with api_house(GOOD) as served:
        path = "/v1/chat/completions"
        await served.call("POST", path, CHAT, idempotency_key="k1")
        _, body, _ = await served.call("POST", path, CHAT, idempotency_key="k1")
        assert body["negotiator"]["replayed"] is True
        status, body, headers = await served.call("POST", path, CHAT | {"seed": 1}, idempotency_key="k1")
    assert (status, body["error"]["code"]) == (422, "DUPLICATE_DIFFERENT")
    assert body["error"]["param"] == "seed"
    assert headers["x-should-retry"] == "false"


async def test_the_same_order_twice_at_once() -> None:
    """While an order runs, the same id is IN_PROGRESS, with when to come again."""
    async with api_house({"events": [*PIECES, "HANG"]}) as served:
        asked = {**CHAT, "stream": True, "negotiator": {"order_id": "twice"}}
        async with served.session.post(f"{served.url}/v1/chat/completions", json=asked) as running:
            await running.content.readany()
            status, body, headers = await served.call("POST", "/v1/chat/completions", asked)
            assert (status, body["error"]["code"]) == (409, "IN_PROGRESS")
            assert int(headers["retry-after-ms"]) > 0


async def test_a_key_never_reaches_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """The access log is one JSON object a request, with its ids, and has neither prompt nor answer nor key."""
    with caplog.at_level("INFO", logger="negotiator.access"):
        async with api_house(GOOD) as served:
            await served.call("POST", "/v1/chat/completions", CHAT, key="sk-of-nobody")
    line = json.loads(caplog.records[0].getMessage())
    assert (line["path"], line["status"]) == ("/v1/chat/completions", 200)
    assert line["request_id"].startswith("req_")
    assert line["order_id"].startswith("ord_")
    for secret in ("2+2", "four", "sk-of-nobody"):
        assert secret not in caplog.text


async def test_a_stream_of_tool_calls_is_relayed() -> None:
    """Tool calls come in the seller's own chunks, arguments split as it split them."""
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "add", "arguments": ""}}
    pieces = [
        chunk({"role": "assistant", "content": None, "tool_calls": [call]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"a":'}}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]}),
    ]
    reply = {"events": [*pieces, chunk(finish="tool_calls"), chunk(usage=USAGE), "data: [DONE]\n\n"]}
    async with api_house(reply) as served:
        tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
        events, _ = await events_of(served, {"tools": tools})
        assert served.playback.received[0].body["tools"] == tools
    assert events[:3] == pieces
    assert events[3]["choices"][0]["finish_reason"] == "tool_calls"
