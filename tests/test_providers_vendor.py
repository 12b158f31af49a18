"""The HTTP seller: deadline, cancellation, keys, windows, bounds, and what it never does."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator

import pytest
from vendor_playback import CLIENT, Playback, collect, seller_at, ticket_for

from providers.errors import (
    AuthFailed,
    MalformedAnswer,
    Overloaded,
    ProviderError,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
    RequestRefused,
)
from providers.http_client import HttpClient, checked_url
from providers.http_plain import PlainClient
from providers.sse import MAX_EVENT_BYTES
from providers.terms import RFQ, Decline, DeclineCode, Delta, PrefixMark, Quote, RateKind
from providers.vendor import marked_messages


@pytest.fixture(autouse=True, params=[HttpClient, PlainClient], ids=["general", "lean"])
def _client(request: pytest.FixtureRequest) -> Iterator[None]:
    """Everything here holds with either client."""
    CLIENT.append(request.param)
    yield
    CLIENT.pop()


ANSWER = {
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 10, "completion_tokens": 1, "total_tokens": 11},
}
PIECE = {"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": None}]}
FINISH = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
GOOD = {"json": ANSWER}
LIMITED = {"status": 429, "headers": {"retry-after": "30"}, "json": {"error": {"message": "slow down"}}}
REFUSED = {"status": 401, "json": {"error": {"message": "Incorrect API key provided: secret-one"}}}


@pytest.mark.parametrize("reply", [{"hang": True}, {"events": [PIECE, "HANG"]}], ids=["silent", "mid-stream"])
async def test_the_deadline_cuts_a_call_off(reply: dict[str, object]) -> None:
    """A seller that never answers, or stops answering, is cut off at the ticket's deadline."""
    playback = Playback([reply])
    async with playback.at() as url:
        seller = seller_at(url)
        with pytest.raises(ProviderTimeout):
            await collect(seller, ticket_for(seller, stream="events" in reply, deadline_ms=80))
        await asyncio.wait_for(playback.cancelled.wait(), 10)
        await seller.aclose()


async def test_no_time_left_is_no_call() -> None:
    """A ticket whose time is over calls nobody."""
    playback = Playback([GOOD])
    async with playback.at() as url:
        seller = seller_at(url)
        with pytest.raises(ProviderTimeout):
            await collect(seller, ticket_for(seller, deadline_ms=0))
        assert not playback.received
        await seller.aclose()


async def test_closing_the_iterator_cancels_upstream() -> None:
    """A buyer who hangs up after the first piece makes the vendor's side break off at once."""
    playback = Playback([{"events": [PIECE, "HANG"]}])
    async with playback.at() as url:
        seller = seller_at(url)
        pieces = seller.execute(ticket_for(seller, stream=True))
        assert (await anext(pieces)).delta == {"content": "Hi"}
        await pieces.aclose()
        await asyncio.wait_for(playback.cancelled.wait(), 10)
        await seller.aclose()


async def test_a_finished_answer_does_not_wait_for_a_stream_that_stays_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After the finish reason the usage is waited for a little, then the answer is whole without it."""
    monkeypatch.setattr("providers.calls.USAGE_GRACE_MS", 50)
    playback = Playback([{"events": [PIECE, FINISH, "HANG"]}])
    async with playback.at() as url:
        seller = seller_at(url)
        message, last = await collect(seller, ticket_for(seller, stream=True))
        assert message["content"] == "Hi"
        assert last.usage is not None
        assert last.usage.estimated
        await seller.aclose()


async def test_a_stream_is_relayed_as_the_bytes_it_came_in() -> None:
    """Each piece carries the vendor's own event; only the finish, which waits for the usage, comes last."""
    playback = Playback(
        [{"events": [PIECE, FINISH, {"choices": [], "usage": ANSWER["usage"]}, "data: [DONE]\n\n"]}]
    )
    async with playback.at() as url:
        seller = seller_at(url)
        seen: list[Delta] = []
        await collect(seller, ticket_for(seller, stream=True), seen.append)
        assert [delta.raw for delta in seen] == [
            f"data: {json.dumps(event)}\n\n".encode() for event in (PIECE, FINISH)
        ]
        await seller.aclose()


async def test_text_that_arrives_together_is_one_piece_with_all_its_bytes() -> None:
    """Neighbouring pieces of text in one read are joined, bytes and words alike; a call between them parts them."""
    call = {
        "choices": [
            {"index": 0, "delta": {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f"}}]}}
        ]
    }
    bursts = [
        "".join(f"data: {json.dumps(event)}\n\n" for event in burst)
        for burst in ([PIECE] * 3, [call], [PIECE] * 2)
    ]
    end = f"data: {json.dumps(FINISH)}\n\ndata: [DONE]\n\n"
    playback = Playback([{"events": ["".join(bursts) + end]}])
    async with playback.at() as url:
        seller = seller_at(url)
        seen: list[Delta] = []
        message, _ = await collect(seller, ticket_for(seller, stream=True), seen.append)
        assert message["content"] == "Hi" * 5
        assert (
            b"".join(delta.raw or b"" for delta in seen).decode()
            == "".join(bursts) + end.partition("data: [")[0]
        )
        assert [delta.delta.get("content") for delta in seen] == ["HiHiHi", None, "HiHi", None]
        await seller.aclose()


async def test_what_came_before_a_failure_is_relayed() -> None:
    """Text that arrived in one read with an error event is given first, then the error is raised."""
    burst = f"data: {json.dumps(PIECE)}\n\n" * 2 + 'data: {"error": {"code": 503, "message": "x"}}\n\n'
    playback = Playback([{"events": [burst]}])
    async with playback.at() as url:
        seller = seller_at(url)
        seen: list[Delta] = []
        with pytest.raises(Overloaded):
            await collect(seller, ticket_for(seller, stream=True), seen.append)
        assert [delta.delta["content"] for delta in seen] == ["HiHi"]
        await seller.aclose()


async def test_connections_are_reused() -> None:
    """Buffered and streamed calls of one seller, one after the other, share one connection."""
    playback = Playback([GOOD, {"events": [PIECE, FINISH, "data: [DONE]\n\n"]}, GOOD])
    async with playback.at() as url:
        seller = seller_at(url)
        for stream in (False, True, False):
            await collect(seller, ticket_for(seller, stream=stream))
        assert len(playback.received) == 3
        assert len(playback.peers) == 1
        await seller.aclose()


async def test_a_limited_key_is_ejected_alone() -> None:
    """A 429 on one key is answered by the other, which then takes the calls; the buyer notices nothing."""
    playback = Playback([LIMITED, GOOD])
    async with playback.at() as url:
        seller = seller_at(url, keys=("KEY_ONE", "KEY_TWO"))
        for _ in range(2):
            await collect(seller, ticket_for(seller))
        keys = [received.headers["authorization"] for received in playback.received]
        assert keys == ["Bearer secret-one", "Bearer secret-two", "Bearer secret-two"]
        await seller.aclose()


async def test_the_last_key_s_refusal_is_the_seller_s_and_later_quotes_decline() -> None:
    """When every key is refused the call fails as such, and the seller declines with the code for it."""
    playback = Playback([REFUSED])
    async with playback.at() as url:
        seller = seller_at(url, keys=("KEY_ONE", "KEY_TWO"))
        ticket = ticket_for(seller)
        with pytest.raises(AuthFailed) as caught:
            await collect(seller, ticket)
        assert (caught.value.provider, caught.value.model) == ("shop", "m")
        assert len(playback.received) == 2
        (declined,) = seller.quote(RFQ(rfq_id="r", input_tokens=1))
        assert isinstance(declined, Decline)
        assert declined.code is DeclineCode.AUTH
        await seller.aclose()


async def test_a_limited_model_is_declined_alone() -> None:
    """With its only key resting from one model, that model is a coded decline and a call says for how long."""
    playback = Playback([LIMITED])
    async with playback.at() as url:
        seller = seller_at(url, more_models=("other",))
        ticket = ticket_for(seller, models=frozenset({"m"}))
        for _ in range(2):
            with pytest.raises(RateLimited) as caught:
                await collect(seller, ticket)
            assert 29_000 < (caught.value.retry_after_ms or 0) <= 30_000
        assert len(playback.received) == 1
        declined, quoted = seller.quote(RFQ(rfq_id="r", input_tokens=1))
        assert isinstance(declined, Decline)
        assert (declined.model, declined.code) == ("m", DeclineCode.RATE_LIMITED)
        assert isinstance(quoted, Quote)
        assert quoted.model == "other"
        await seller.aclose()


async def test_a_key_that_is_not_set_is_a_decline_naming_the_variable() -> None:
    """A missing key is told by the name of its variable, before any call."""
    seller = seller_at("http://127.0.0.1:9", keys=("KEY_MISSING",))
    (declined,) = seller.quote(RFQ(rfq_id="r", input_tokens=1))
    assert isinstance(declined, Decline)
    assert declined.code is DeclineCode.AUTH
    assert "KEY_MISSING" in declined.detail


@pytest.mark.parametrize(
    "reply",
    [
        GOOD,
        LIMITED,
        REFUSED,
        {"status": 400, "json": {"error": {"message": "bad header Bearer secret-one"}}},
        {"status": 500, "text": "secret-one"},
        {"events": [{"error": {"message": "secret-one"}}]},
        {"json": {"error": {"message": "secret-one"}}},
    ],
)
async def test_a_key_is_never_told(reply: dict[str, object], caplog: pytest.LogCaptureFixture) -> None:
    """Neither logs nor errors nor anything printable of the seller contains a key, even if the vendor repeats it."""
    caplog.set_level(logging.DEBUG)
    playback = Playback([reply])
    async with playback.at() as url:
        seller = seller_at(url)
        try:
            _, last = await collect(seller, ticket_for(seller, stream="events" in reply))
            told = repr(last)
        except ProviderError as error:
            told = f"{error!r} {error} {error.detail}"
        assert playback.received[0].headers["authorization"] == "Bearer secret-one"
        assert "secret-one" not in told + repr(seller._keys.keys) + caplog.text
        await seller.aclose()


async def test_windows_are_heard() -> None:
    """The rate-limit headers of an answer reach whoever listens, and steer which key is next."""
    headers = {
        "x-ratelimit-limit-requests": "100",
        "x-ratelimit-remaining-requests": "25",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-tokens": "-1",
        "x-ratelimit-remaining-tokens": "-1",
    }
    playback = Playback([{**GOOD, "headers": headers}])
    async with playback.at() as url:
        seller = seller_at(url, keys=("KEY_ONE", "KEY_TWO"))
        heard = []
        seller.hear(lambda *told: heard.append(told))
        await collect(seller, ticket_for(seller))
        ((name, model, (window,)),) = heard
        assert (name, model) == ("shop", "m")
        assert (window.kind, window.limit, window.remaining, window.reset_ms) == (
            RateKind.REQUESTS,
            100,
            25,
            1000,
        )
        await collect(seller, ticket_for(seller))
        assert playback.received[1].headers["authorization"] == "Bearer secret-two"
        await seller.aclose()


async def test_an_endless_event_is_cut() -> None:
    """An event that does not end within its bound is refused, and the call is cut off."""
    playback = Playback([{"events": ["data: " + "x" * (MAX_EVENT_BYTES + 1), "HANG"]}])
    async with playback.at() as url:
        seller = seller_at(url)
        with pytest.raises(MalformedAnswer, match="expected an event of at most"):
            await collect(seller, ticket_for(seller, stream=True))
        await asyncio.wait_for(playback.cancelled.wait(), 10)
        await seller.aclose()


@pytest.mark.parametrize("stream", [False, True])
async def test_an_endless_answer_is_cut(monkeypatch: pytest.MonkeyPatch, stream: bool) -> None:
    """An answer beyond the bound is refused, buffered or streamed."""
    monkeypatch.setattr("providers.http_reply.MAX_ANSWER_BYTES", 2000)
    playback = Playback([{"events": [PIECE] * 100}])
    async with playback.at() as url:
        seller = seller_at(url)
        with pytest.raises(MalformedAnswer, match="at most 2000 bytes"):
            await collect(seller, ticket_for(seller, stream=stream))
        await seller.aclose()


async def test_nobody_there_is_unavailable() -> None:
    """A connection that is refused is a seller that cannot be reached."""
    seller = seller_at("http://127.0.0.1:9/v1")
    with pytest.raises(ProviderUnavailable):
        await collect(seller, ticket_for(seller))
    await seller.aclose()


async def test_what_the_vendor_cannot_honour_is_refused_by_name_and_declined_by_name() -> None:
    """A parameter that the vendor ignores is never sent: the quote declines and the call refuses, naming it."""
    playback = Playback([GOOD])
    async with playback.at() as url:
        seller = seller_at(url, "groq")
        (declined,) = seller.quote(
            RFQ(rfq_id="r", input_tokens=1, parameters=frozenset({"logprobs", "seed"}))
        )
        assert isinstance(declined, Decline)
        assert (declined.code, declined.detail) == (DeclineCode.UNSUPPORTED, "cannot honour logprobs")
        body = {"messages": [{"role": "user", "content": "hi"}], "logprobs": True}
        with pytest.raises(RequestRefused, match="logprobs"):
            await collect(seller, ticket_for(seller, body))
        neutral = {"messages": [{"role": "user", "content": "hi"}], "logprobs": False, "n": 1}
        await collect(seller, ticket_for(seller, neutral))
        assert len(playback.received) == 1
        await seller.aclose()


@pytest.mark.parametrize(
    ("kind", "tier", "sold"),
    [
        ("openai", "flex", True),
        ("openai", "batch", True),
        ("xai", "batch", False),
        ("anthropic", "priority", True),
        ("anthropic", "flex", False),
        ("gemini", "flex", True),
        ("gemini", "batch", True),
        ("openai_compat", "flex", False),
    ],
)
def test_a_tier_that_no_call_can_ask_for_is_refused_at_the_start(kind: str, tier: str, sold: bool) -> None:
    """What a call cannot ask for would be quoted cheap and billed dear: such a configuration is refused by name."""
    if sold:
        seller_at("http://127.0.0.1:9", kind, tiers=("standard", tier, "cached"))
    else:
        with pytest.raises(ValueError, match=f"tiers: expected some of .*standard.*found '{tier}'"):
            seller_at("http://127.0.0.1:9", kind, tiers=("standard", tier))


async def test_the_seller_learns_its_pace() -> None:
    """After a few calls the quoted latency is the one observed, not the assumed one."""
    playback = Playback(
        [{"events": [PIECE, FINISH, {"choices": [], "usage": ANSWER["usage"]}, "data: [DONE]\n\n"]}]
    )
    async with playback.at() as url:
        seller = seller_at(url)
        assumed = ticket_for(seller).quote.ttft_ms.p50
        for _ in range(8):
            await collect(seller, ticket_for(seller, stream=True))
        assert ticket_for(seller).quote.ttft_ms.p50 < assumed
        spread = seller.latency.spread("m", "standard", 1)
        assert spread is not None
        assert spread.observations == 8
        await seller.aclose()


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("ftp://example.com", "http"),
        ("http://user:pass@example.com", "login"),
        ("https://example.com/v1?key=1", "query"),
        ("http://169.254.169.254/latest", "link-local"),
        ("http://[::ffff:169.254.169.254]/", "link-local"),
    ],
)
def test_base_urls_that_are_refused(url: str, fault: str) -> None:
    """A seller is called at an http(s) host without login, and never where clouds keep their metadata."""
    with pytest.raises(ValueError, match=fault):
        checked_url(url)


def test_cache_marks_are_found_in_the_body() -> None:
    """A prefix mark names the message it ends at; tools come before all messages; a long middle has no marks."""
    short = {"messages": [{}] * 3, "tools": [{}]}
    assert marked_messages(short, 4, (0, 3)) == (-1, 2)
    assert marked_messages({"messages": [{}] * 3}, 3, (1,)) == (1,)
    long = {"messages": [{}] * 100}
    assert marked_messages(long, 64, (7, 8, 63)) == (7, 44, 99)
    assert marked_messages(long, 64, ()) == ()


async def test_prefix_goes_along_as_cache_key() -> None:
    """Where the vendor routes by a cache key, calls that share a prefix send the same one."""
    playback = Playback([GOOD])
    async with playback.at() as url:
        seller = seller_at(url, "mistral")
        await collect(seller, ticket_for(seller, prefix=(PrefixMark(1000, "abc"), PrefixMark(2000, "def"))))
        assert playback.received[0].body["prompt_cache_key"] == "abc"
        await seller.aclose()


@pytest.mark.parametrize("kind", ["openai_compat", "anthropic", "gemini"])
@pytest.mark.parametrize(
    "shape",
    [
        [],
        "text",
        7,
        {"choices": "x", "content": "x", "candidates": "x"},
        {"choices": ["x"], "content": ["x"], "candidates": ["x"]},
        {
            "choices": [{"message": "x", "delta": "x"}],
            "content": [None],
            "candidates": [{"content": {"parts": "x"}}],
        },
        {
            "choices": [{"message": {}, "delta": {"tool_calls": 7}, "finish_reason": 5}],
            "type": "content_block_delta",
        },
        {"error": "x", "usage": "x", "usageMetadata": "x"},
    ],
    ids=str,
)
@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_of_any_other_shape_is_a_named_failure(
    kind: str, shape: object, stream: bool
) -> None:
    """Whatever JSON a vendor sends, what comes out is a delta or an error of the tree, never a bare exception."""
    playback = Playback([{"events": [f"data: {json.dumps(shape)}\n\n"]} if stream else {"json": shape}])
    async with playback.at() as url:
        seller = seller_at(url, kind)
        with pytest.raises(ProviderError):
            await collect(seller, ticket_for(seller, stream=stream))
        await seller.aclose()


@pytest.mark.parametrize("kind", ["anthropic", "gemini"])
@pytest.mark.parametrize(
    "more",
    [
        {"tools": [{"type": "function"}]},
        {"tools": "x"},
        {"response_format": 7},
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
    ],
)
async def test_a_body_of_any_other_shape_is_refused(kind: str, more: dict[str, object]) -> None:
    """A body that is not in chat shape is the request's fault, not the seller's, and calls nobody."""
    playback = Playback([GOOD])
    async with playback.at() as url:
        seller = seller_at(url, kind)
        with pytest.raises(RequestRefused):
            await collect(
                seller, ticket_for(seller, {"messages": [{"role": "user", "content": "hi"}], **more})
            )
        assert not playback.received
        await seller.aclose()
