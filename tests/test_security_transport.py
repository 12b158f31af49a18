"""What strangers send on a socket: slow, huge, nested, doubled and crooked requests are refused, and nobody waits for them."""

from __future__ import annotations

import asyncio
import json

import pytest
from api_house import CHAT, Served, api_house, until

LOOPBACK = "Host: localhost\r\n"


async def exchange(served: Served, *parts: bytes, pause_s: float = 0.0, limit: int = 65_536) -> bytes:
    """Send the parts on one connection and read until the server closes it or has said enough."""
    host, _, port = served.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause_s)
        async with asyncio.timeout(20):
            return await reader.read(limit)
    except ConnectionError:
        return b""
    finally:
        writer.close()


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.") else 0


async def test_a_slow_header_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that never finishes its head is closed after a while, byte by byte or silent."""
    monkeypatch.setattr("negotiator.api.patience.HEAD_S", 0.3)
    async with api_house() as served:
        dribbled = await exchange(served, b"GET /healthz HTTP/1.1\r\n", b"Host: lo", b"calhost", pause_s=0.2)
        silent = await exchange(served)
    assert status_of(dribbled) in {0, 408}
    assert status_of(silent) in {0, 408}


async def test_a_huge_head_is_refused_early() -> None:
    """A header line above 16 KiB is 400 or 431 and closes the connection; so are very many lines."""
    async with api_house() as served:
        long_line = f"GET /healthz HTTP/1.1\r\n{LOOPBACK}X-A: {'a' * 40_000}\r\n\r\n".encode()
        many = "".join(f"X-{n}: {'b' * 100}\r\n" for n in range(40_000))
        assert status_of(await exchange(served, long_line)) in {400, 431}
        assert status_of(
            await exchange(served, f"GET /healthz HTTP/1.1\r\n{LOOPBACK}{many}\r\n".encode())
        ) in {0, 400, 431}
        status, _, _ = await served.call("GET", "/healthz")
    assert status == 200


async def test_a_huge_body_is_refused_before_it_is_held() -> None:
    """An announced size above the limit is 413 at once; an unannounced one when it passes the limit."""
    async with api_house(server={"port": 0, "max_body": 4096}) as served:
        head = f"POST /v1/quotes HTTP/1.1\r\n{LOOPBACK}Content-Type: application/json\r\n"
        announced = await exchange(served, f"{head}Content-Length: 900000000\r\n\r\n".encode(), b"{")
        piece = b"1000\r\n" + b"[" * 4096 + b"\r\n"
        chunked = await exchange(served, f"{head}Transfer-Encoding: chunked\r\n\r\n".encode(), *[piece] * 64)
    assert status_of(announced) == 413
    assert status_of(chunked) == 413


@pytest.mark.parametrize(
    "bomb", ["[" * 100_000, '{"a":' * 100_000, '{"messages":' + "[" * 5_000 + "]" * 5_000 + "}"]
)
async def test_a_deep_body_is_a_bad_request(bomb: str) -> None:
    """JSON nested a hundred thousand deep is 400, not a crash."""
    async with api_house() as served:
        async with served.session.post(
            f"{served.url}/v1/quotes", data=bomb, headers={"content-type": "application/json"}
        ) as answer:
            assert answer.status == 400
        status, _, _ = await served.call("GET", "/healthz")
    assert status == 200


@pytest.mark.parametrize(
    "framing",
    [
        "Content-Length: 4\r\nContent-Length: 30\r\n",
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Content-Length: +4\r\n",
        "Content-Length : 4\r\n",
    ],
)
async def test_a_body_framed_two_ways_smuggles_nothing(framing: str) -> None:
    """What could be read as one request by a proxy and as two here is refused, and the rest is not a request."""
    hidden = b"GET /v1/keys HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with api_house() as served:
        head = f"POST /v1/quotes HTTP/1.1\r\n{LOOPBACK}Content-Type: application/json\r\n{framing}\r\n"
        answer = await exchange(served, head.encode() + b"0\r\n\r\n" + hidden)
    assert status_of(answer) == 400
    assert answer.count(b"HTTP/1.") == 1


@pytest.mark.parametrize(
    "target",
    [
        "/v1/../v1/keys",
        "//v1/keys",
        "/v1//keys",
        "/%76%31/keys",
        "/v1/keys/",
        "/v1/keys?x",
        "/healthz/../v1/keys",
        "/healthz%2f..%2fv1%2fkeys",
        "/v1/keys#fragment",
        "http://localhost/v1/keys",
        "/dashboard/../../pyproject.toml",
        "/dashboard/%2e%2e%2f%2e%2e%2fpyproject.toml",
        "/v1/files/..%2f..%2f/content",
        "/v1/keys;a=b",
    ],
)
async def test_no_way_of_writing_a_path_goes_around_the_key(target: str) -> None:
    """Whatever stands in the request line: the handler that answers is the one whose scope was checked."""
    async with api_house() as served:
        await served.make_key("root", "default", "admin")
        request = f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        answer = await exchange(served, request)
    assert status_of(answer) in {400, 401, 403, 404, 405}, answer[:200]
    assert b"key_id" not in answer
    assert b"build-system" not in answer


async def test_what_a_header_claims_of_the_caller_is_nothing() -> None:
    """Forwarded addresses, other hosts and override headers change neither who calls nor where."""
    claims = {
        "x-forwarded-for": "127.0.0.1",
        "x-forwarded-host": "localhost",
        "x-real-ip": "127.0.0.1",
        "x-original-url": "/healthz",
        "x-rewrite-url": "/healthz",
        "x-http-method-override": "GET",
        "x-portkey-custom-host": "http://127.0.0.1:1",
        "x-negotiator-account": "~house",
    }
    async with api_house() as served:
        await served.make_key("root", "default", "admin")
        async with served.session.get(f"{served.url}/v1/keys", headers=claims) as answer:
            assert answer.status == 401
        async with served.session.post(
            f"{served.url}/v1/chat/completions",
            json={**CHAT, "api_base": "http://127.0.0.1:1"},
            headers=claims,
        ) as answer:
            assert answer.status == 401
        assert not served.playback.received


async def test_streams_of_one_key_are_bounded() -> None:
    """A key without a limit of its own holds so many event streams and not one more; others are not in its way."""
    from negotiator.api.patience import STREAMS_PER_KEY

    async with api_house() as served:
        await served.make_key("watcher", "default", "read")
        await served.make_key("other", "default", "read")
        url, head = f"{served.url}/v1/market/stream", {"authorization": f"Bearer {served.keys['watcher']}"}
        open_streams = [await served.session.get(url, headers=head) for _ in range(STREAMS_PER_KEY)]
        assert {stream.status for stream in open_streams} == {200}
        status, body, headers = await served.call("GET", "/v1/market/stream", key="watcher")
        assert (status, body["error"]["code"]) == (429, "TOO_MANY_STREAMS")
        assert int(headers["retry-after-ms"]) > 0
        assert (await served.call("GET", "/v1/market/stream", key="other"))[0] == 200
        for stream in open_streams:
            stream.close()

        async def again() -> bool:
            return (await served.call("GET", "/v1/market/stream", key="watcher"))[0] == 200

        await until(again)


async def test_quotes_hold_no_money_and_a_huge_max_tokens_pins_no_budget() -> None:
    """A hundred quotes reserve nothing; an order with an absurd max_tokens holds at most its budget or is refused."""
    async with api_house() as served:
        await asyncio.gather(*(served.call("POST", "/v1/quotes", CHAT) for _ in range(100)))
        assert await served.pending_nusd() == 0
        greedy = {**CHAT, "max_tokens": 10**9, "negotiator": {"budget_usd": "0.001"}}
        status, body, _ = await served.call("POST", "/v1/chat/completions", greedy)
        assert status in {200, 402, 422}, json.dumps(body)
        held = {
            "messages": CHAT["messages"],
            "max_tokens": 10**9,
            "terms": {"budget_usd": "1000"},
            "execute": False,
        }
        status, body, _ = await served.call("POST", "/v1/orders", held)
        pinned = await served.pending_nusd()
    assert pinned <= 100_000 * 10**6, "a hold is bounded by what the model can say, not by what is asked"
    assert status in {200, 422}, json.dumps(body)


@pytest.mark.parametrize("order_id", ["a\nb", "a\r\nset-cookie: x=1", "\x00", "\x7f"])
async def test_an_id_that_would_break_a_header_is_refused_by_name(order_id: str) -> None:
    """An order's id stands in answers' headers and in logs: control characters in it are 400."""
    async with api_house() as served:
        body = {**CHAT, "negotiator": {"order_id": order_id}}
        status, answer, _ = await served.call("POST", "/v1/chat/completions", body)
        assert status == 400
        assert "order_id" in answer["error"]["message"]
        assert not served.playback.received


async def test_a_sellers_name_for_its_model_cannot_break_a_header() -> None:
    """What a seller calls its model is escaped where it stands in a header."""
    async with api_house(sellers=None) as served:
        from negotiator.api import buying

        assert buying._header("m\r\nx: y") == "m%0D%0Ax%3A%20y"
        assert buying._header("openai/gpt-6 luna") == "openai/gpt-6 luna"
        status, _, headers = await served.call("POST", "/v1/chat/completions", CHAT)
        assert (status, headers["x-negotiator-model"]) == (200, "m")
