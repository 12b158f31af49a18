"""The two HTTP clients against raw sockets: framing, reuse, odd answers, addresses, the end of things."""

from __future__ import annotations

import asyncio
import itertools
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vendor_playback import Playback, collect, seller_at, ticket_for

from providers.errors import (
    MalformedAnswer,
    Overloaded,
    ProviderError,
    ProviderTimeout,
    ProviderUnavailable,
    StreamCut,
)
from providers.http_client import HttpClient, link_local
from providers.http_framing import BodyReader, read_head
from providers.http_plain import PlainClient, open_client
from providers.http_reply import HttpPoster

OK = b"HTTP/1.1 200 OK\r\n"
BOTH = pytest.mark.parametrize("connect", [HttpClient, PlainClient], ids=["general", "lean"])
Connect = Callable[[str], HttpPoster]


class Server:
    """A raw server: each request on a connection gets the next script; ``b"CLOSE"`` at its end closes."""

    def __init__(self, *scripts: bytes) -> None:
        self.scripts = list(scripts)
        self.requests: list[bytes] = []
        self.connections = 0
        self.asked = asyncio.Semaphore(0)

    @asynccontextmanager
    async def at(self) -> AsyncIterator[str]:
        """Serve; gives the base URL."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/base"
        finally:
            server.close()
            await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(length))
                self.asked.release()
                script = self.scripts[min(len(self.requests), len(self.scripts)) - 1]
                writer.write(script.removesuffix(b"CLOSE"))
                await writer.drain()
                if script.endswith(b"CLOSE"):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def fetch(client: HttpPoster, path: str = "/x", deadline_ms: int | None = 10_000) -> tuple[int, bytes]:
    """Status and body of one POST."""
    reply = await client.post(path, b'{"a":1}', {"authorization": "Bearer k"}, deadline_ms=deadline_ms)
    try:
        return reply.status, await reply.body()
    finally:
        reply.close()


@BOTH
@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (OK + b"Content-Length: 5\r\n\r\nhello", b"hello"),
        (OK + b"content-length: 0\r\n\r\n", b""),
        (
            OK + b"Transfer-Encoding: chunked\r\n\r\n3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\nTrailer: 1\r\n\r\n",
            b"hello",
        ),
        (OK + b"\r\nhelloCLOSE", b"hello"),
        (b"HTTP/1.0 200 OK\r\n\r\nhelloCLOSE", b"hello"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"content-length: 2\r\n\r\nhi", b"hi"),
        (b"HTTP/1.1 500 Oops\r\ncontent-length: 3\r\n\r\nbad", b"bad"),
    ],
)
async def test_answers_are_framed_by_length_chunks_or_end(
    connect: Connect, answer: bytes, body: bytes
) -> None:
    """A body by length, in chunks with trailers, to the connection's end, or none: read whole by either client."""
    async with Server(answer).at() as url:
        client = connect(url)
        _, found = await fetch(client)
        assert found == body
        await client.aclose()


@BOTH
async def test_the_request_is_what_it_should_be(connect: Connect) -> None:
    """One POST below the base path, with host, JSON, length and the headers given; nothing from the environment."""
    server = Server(OK + b"content-length: 0\r\n\r\n")
    async with server.at() as url:
        client = connect(url + "/")
        await fetch(client, "/models/m:go?alt=sse")
        head, _, body = server.requests[0].partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        assert lines[0] == "POST /base/models/m:go?alt=sse HTTP/1.1"
        headers = {line.split(": ")[0].lower(): line.split(": ")[1] for line in lines[1:]}
        assert headers == {
            "host": url.split("/")[2],
            "content-type": "application/json",
            "accept-encoding": "identity",
            "authorization": "Bearer k",
            "content-length": "7",
        }
        assert body == b'{"a":1}'
        await client.aclose()


@BOTH
@pytest.mark.parametrize(
    ("answer", "connections"),
    [
        (OK + b"content-length: 2\r\n\r\nhi", 1),
        (OK + b"transfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", 1),
        (OK + b"content-length: 2\r\nconnection: close\r\n\r\nhiCLOSE", 3),
        (OK + b"\r\nhiCLOSE", 3),
    ],
)
async def test_connections_are_kept_where_the_answer_allows(
    connect: Connect, answer: bytes, connections: int
) -> None:
    """Three calls, one after the other, share a connection unless the answer ends it."""
    server = Server(answer)
    async with server.at() as url:
        client = connect(url)
        for _ in range(3):
            assert (await fetch(client))[1] == b"hi"
        assert server.connections == connections
        await client.aclose()


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        OK + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        OK + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\nhello",
        OK + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        OK + b"content-length : 5\r\n\r\nhello",
        OK + b"content-length: -5\r\n\r\nhello",
        OK + b" folded: 5\r\n\r\nhello",
        OK + b"content-encoding: gzip\r\ncontent-length: 5\r\n\r\nhello",
        OK + b"transfer-encoding: chunked\r\n\r\nzz\r\nhello",
        OK + b"transfer-encoding: chunked\r\n\r\n" + b"0" * 5000,
        OK + b"x: " + b"y" * 40_000 + b"\r\n\r\n",
        OK + b"x: " + b"y" * 40_000,
    ],
)
async def test_an_answer_framed_otherwise_is_refused(answer: bytes) -> None:
    """Two lengths, a length beside chunks, encodings not asked for, endless heads: refused, the connection dropped."""
    server = Server(answer)
    async with server.at() as url:
        client = PlainClient(url)
        for _ in range(2):
            with pytest.raises(MalformedAnswer):
                await fetch(client)
        assert server.connections == 2
        await client.aclose()


@BOTH
@pytest.mark.parametrize(
    ("answer", "leaf"),
    [
        (b"CLOSE", ProviderUnavailable),
        (OK + b"content-length: 5\r\n\r\nheCLOSE", StreamCut),
        (OK + b"transfer-encoding: chunked\r\n\r\n5\r\nheCLOSE", StreamCut),
        (OK + b"transfer-encoding: chunked\r\n\r\n2\r\nhe\r\nCLOSE", StreamCut),
    ],
)
async def test_a_connection_that_breaks_is_named(
    connect: Connect, answer: bytes, leaf: type[ProviderError]
) -> None:
    """Closed before an answer: unavailable. Closed before its end: cut."""
    async with Server(answer).at() as url:
        client = connect(url)
        with pytest.raises(leaf):
            await fetch(client)
        await client.aclose()


@BOTH
@pytest.mark.parametrize("answer", [b"", OK, OK + b"content-length: 5\r\n\r\nhe"])
async def test_the_deadline_holds_at_every_stage(connect: Connect, answer: bytes) -> None:
    """Before the head, within it and within the body: a call ends at its deadline."""
    async with Server(answer).at() as url:
        client = connect(url)
        with pytest.raises(ProviderTimeout):
            await fetch(client, deadline_ms=60)
        await client.aclose()


async def test_bytes_after_the_answer_spoil_the_connection() -> None:
    """What follows an answer unasked is never taken for the next one's."""
    server = Server(OK + b"content-length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil")
    async with server.at() as url:
        client = PlainClient(url)
        assert [(await fetch(client))[1] for _ in range(2)] == [b"hi", b"hi"]
        assert server.connections == 2
        await client.aclose()


async def test_connections_at_once_are_bounded() -> None:
    """One connection more than the bound is a coded answer, and a place that is free again is used again."""
    async with Server(OK + b"content-length: 5\r\n\r\nhello").at() as url:
        client = PlainClient(url, max_connections=1)
        reply = await client.post("/x", b"{}", {}, deadline_ms=5_000)
        with pytest.raises(Overloaded, match="all 1"):
            await fetch(client)
        reply.close()
        assert (await fetch(client))[0] == 200
        await client.aclose()


async def test_a_cancelled_call_gives_its_place_back() -> None:
    """Cancelling a call that waits drops its connection and frees its place."""
    server = Server(b"", OK + b"content-length: 0\r\n\r\n")
    async with server.at() as url:
        client = PlainClient(url, max_connections=1)
        for _ in range(3):
            waiting = asyncio.ensure_future(fetch(client))
            await server.asked.acquire()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            server.requests.clear()
        server.scripts = [OK + b"content-length: 0\r\n\r\n"]
        assert (await fetch(client))[0] == 200
        await client.aclose()


async def test_a_large_answer_does_not_pile_up() -> None:
    """A fast server and a slow reader: what is not read waits at the sender, not in memory."""
    size = 24 * 2**20
    async with Server(OK + b"content-length: %d\r\n\r\n" % size + b"x" * size).at() as url:
        client = PlainClient(url)
        reply = await client.post("/x", b"{}", {}, deadline_ms=20_000)
        total, largest = 0, 0
        while chunk := await reply.some():
            total += len(chunk)
            largest = max(largest, len(chunk))
            await asyncio.sleep(0)
        assert total == size
        assert largest < 4 * 2**20
        reply.close()
        await client.aclose()


@BOTH
async def test_a_name_that_leads_to_a_link_local_address_is_not_called(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name whose addresses are all link-local, where clouds keep their metadata, is never connected to."""

    async def nowhere(*_: object, **__: object) -> list[tuple[object, ...]]:
        return [(2, 1, 6, "", ("169.254.169.254", 80))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", nowhere)
    client = connect("http://metadata.example")
    with pytest.raises(ProviderUnavailable):
        await fetch(client)
    await client.aclose()


def test_link_local_addresses() -> None:
    """Link-local in either family, mapped ones too; loopback, private ones and names are the operator's own."""
    for address in ("169.254.1.1", "fe80::1", "::ffff:169.254.169.254"):
        assert link_local(address)
    for address in ("127.0.0.1", "10.0.0.1", "::1", "example.com"):
        assert not link_local(address)


async def test_a_header_or_path_that_would_break_the_request_is_refused() -> None:
    """A line break in a header or a blank in a path never reaches the wire."""
    client = PlainClient("http://127.0.0.1:9")
    with pytest.raises(ValueError, match="printable"):
        await client.post("/x", b"", {"a": "b\r\nc: d"}, deadline_ms=100)
    with pytest.raises(ValueError, match="printable"):
        await client.post("/x y", b"", {}, deadline_ms=100)
    with pytest.raises(ValueError, match="http://"):
        PlainClient("https://127.0.0.1:9")


@pytest.fixture
def self_signed(tmp_path: Path) -> ssl.SSLContext:
    """A server's context with a certificate that nobody vouches for."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -keyout {} -out {}"
    made = subprocess.run(command.format(key, certificate).split(), capture_output=True, check=False)
    if made.returncode:
        pytest.skip("openssl made no certificate")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


async def test_certificates_are_checked(self_signed: ssl.SSLContext) -> None:
    """A server with a certificate that nobody vouches for is not spoken to; TLS always takes the general client."""
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=self_signed)
    async with server:
        client = open_client(f"https://localhost:{server.sockets[0].getsockname()[1]}")
        assert isinstance(client, HttpClient)
        with pytest.raises(ProviderUnavailable, match="certificate"):
            await fetch(client)
        await client.aclose()


def test_it_works_on_uvloop() -> None:
    """Buffered, at once and streamed: the lean client needs nothing that only asyncio's own loop has."""
    uvloop = pytest.importorskip("uvloop", reason="uvloop is not installed")

    async def play() -> None:
        good = {"json": {"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]}}
        playback = Playback([good])
        async with playback.at() as url:
            seller = seller_at(url)
            answers = await asyncio.gather(*(collect(seller, ticket_for(seller)) for _ in range(20)))
            assert [message["content"] for message, _ in answers] == ["hi"] * 20
            assert len(playback.peers) <= 20
            await seller.aclose()

    uvloop.run(play())


@given(
    pieces=st.lists(st.binary(min_size=1, max_size=40), max_size=6),
    cuts=st.lists(st.integers(0, 400), max_size=8),
    chunked=st.booleans(),
)
def test_any_cut_gives_the_same_body(pieces: list[bytes], cuts: list[int], chunked: bool) -> None:
    """However the bytes of an answer are cut, head and body are the same, and nothing of the next answer is eaten."""
    body = b"".join(pieces)
    if chunked:
        framed = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        wire = OK + b"transfer-encoding: chunked\r\n\r\n" + framed
    else:
        wire = OK + b"content-length: %d\r\n\r\n" % len(body) + body
    wire += b"NEXT"
    places = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]
    head, reader, tail, found = None, None, b"", b""
    for start, end in itertools.pairwise(places):
        tail += wire[start:end]
        if head is None:
            head, tail = read_head(tail)
            if head is None:
                continue
            reader = BodyReader(head)
        assert reader is not None
        taken, tail = reader.feed(tail)
        found += b"".join(taken)
    assert head is not None
    assert reader is not None
    assert head.status == 200
    assert reader.done
    assert (found, tail) == (body, b"NEXT")
