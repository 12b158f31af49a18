"""A lean HTTP/1.1 client for plain ``http://`` sellers, where the general client costs more than all else together.

Does what :class:`providers.http_client.HttpClient` does and no more: POST with a JSON body, connections kept and used
again, an answer by length, in chunks or to the connection's end (RFC 9112). An answer that is framed in any other
or in two ways at once is refused and its connection dropped. Only hosts of the configuration are called.
Works on asyncio's own event loop and on uvloop's.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from typing import Final, cast

from yarl import URL

from .errors import (
    MalformedAnswer,
    Overloaded,
    ProviderError,
    ProviderTimeout,
    ProviderUnavailable,
    StreamCut,
)
from .http_client import (
    CONNECT_MS,
    LONGEST_CALL_MS,
    MAX_CONNECTIONS,
    HttpClient,
    checked_url,
    link_local,
)
from .http_framing import AnswerHead, BodyReader, read_head
from .http_reply import HttpPoster, Reply

__all__ = ["PlainClient", "open_client"]

IDLE_S: Final = 30.0
"""Connections unused for longer are not used again: the other side may be closing them."""

HIGH_WATER_BYTES: Final = 2**20
HOST_KEPT_S: Final = 60.0


class _Connection(asyncio.Protocol):
    """One connection, one call at a time."""

    __slots__ = (
        "_busy",
        "_deadline_s",
        "_head",
        "_paused",
        "_tail",
        "_timer",
        "_waiter",
        "alive",
        "body",
        "chunks",
        "error",
        "idle_since_s",
        "size",
        "transport",
    )

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.alive = False
        self.idle_since_s = 0.0
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._busy = False
        self._deadline_s = 0.0
        self._paused = False
        self._tail = b""
        self.chunks: list[bytes] = []
        self.size = 0
        self._head: AnswerHead | None = None
        self.body: BodyReader | None = None
        self.error: ProviderError | None = None

    # What the event loop calls ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport, self.alive = cast(asyncio.Transport, transport), True  # other loops' are no subclass

    def data_received(self, data: bytes) -> None:
        try:
            self._take(self._tail + data if self._tail else data)
        except ProviderError as error:
            self.fail(error)
        self._wake()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.alive = False
        self._unwatch()
        if self.body is not None:
            self.body.connection_ended(clean=exc is None)
        if self.error is None and (self._head is None or (self.body is not None and not self.body.done)):
            answered = self._head is not None
            self.error = (
                StreamCut("the connection closed before the answer's end")
                if answered
                else ProviderUnavailable("the connection closed before an answer")
            )
        self._wake()

    # What the reply calls -----------------------------------------------------------------------------------------

    def begin(self, request: bytes, deadline_s: float) -> None:
        """Send a request; a call that is not over by ``deadline_s`` (the loop's time) is cut off."""
        self._tail, self.chunks, self.size = b"", [], 0
        self._head = self.body = self.error = None
        self._busy, self._deadline_s = True, deadline_s
        timer = self._timer
        if timer is None or timer.when() > deadline_s:
            self._watch(deadline_s)
        self.transport.write(request)

    async def head(self) -> AnswerHead:
        """The head of the answer, once it is here."""
        while self._head is None:
            if self.error is not None:
                raise self.error
            await self._wait()
        return self._head

    async def next_bytes(self) -> bytes:
        """What came of the body since; empty at its end."""
        body = self.body
        assert body is not None, "the head was read before the body"
        while not self.chunks:
            if body.done:
                return b""
            if self.error is not None:
                raise self.error
            await self._wait()
        data = self.chunks[0] if len(self.chunks) == 1 else b"".join(self.chunks)
        self.chunks, self.size = [], 0
        if self._paused and self.alive:
            self._paused = False
            self.transport.resume_reading()
        return data

    def release(self) -> bool:
        """End the call; whether the connection may serve another one. What is not over is cut."""
        self._busy, body = False, self.body
        if body is not None and body.done and body.reusable and self.alive and not self._tail:
            return True
        if self.alive:
            self.alive = False
            self.transport.abort()
        return False

    def fail(self, error: ProviderError) -> None:
        """Cut the connection for a reason."""
        self.error = self.error or error
        if self.alive:
            self.alive = False
            self.transport.abort()

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _watch(self, deadline_s: float) -> None:
        self._unwatch()
        self._timer = asyncio.get_running_loop().call_at(deadline_s, self._expire)

    def _expire(self) -> None:
        """The timer of an earlier call is put off to the deadline of the present one: most calls need none of their own."""
        self._timer = None
        if not self._busy:
            return
        if asyncio.get_running_loop().time() < self._deadline_s:
            self._watch(self._deadline_s)
            return
        over = "the answer was not complete in time" if self._head is not None else "no answer in time"
        self.fail(ProviderTimeout(over))
        self._wake()

    def _take(self, data: bytes) -> None:
        if self._head is None:
            head, data = read_head(data)
            if head is None:
                self._tail = data
                return
            self._head, self.body = head, BodyReader(head)
        body = self.body
        if body is None or not self._busy:
            raise MalformedAnswer("expected nothing before a request, found an answer")
        pieces, self._tail = body.feed(data)
        for piece in pieces:
            self.chunks.append(piece)
            self.size += len(piece)
        if self.size > HIGH_WATER_BYTES and not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def _wait(self) -> None:
        assert self._waiter is None, "one reader at a time"
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None


class _Reply(Reply):
    """A reply of a plain connection."""

    __slots__ = ("_client", "_connection")

    def __init__(self, head: AnswerHead, connection: _Connection, client: PlainClient) -> None:
        super().__init__(head.status, head.headers)
        self._connection: _Connection | None = connection
        self._client = client

    @property
    def ended(self) -> bool:
        connection = self._connection
        return connection is None or (
            connection.body is not None and connection.body.done and not connection.chunks
        )

    async def next_bytes(self) -> bytes:
        return b"" if self._connection is None else await self._connection.next_bytes()

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._client.give_back(connection)


class PlainClient:
    """A pool of plain connections below one base URL."""

    def __init__(self, base_url: str, *, max_connections: int = MAX_CONNECTIONS) -> None:
        url = URL(checked_url(base_url))
        if url.scheme != "http" or url.host is None:
            raise ValueError(f"base_url: expected http://, found {base_url!r}")
        self._host, self._port = url.host, url.port or 80
        self._root = url.raw_path.rstrip("/")
        self._authority = url.raw_authority
        self._max = max_connections
        self._in_use = 0
        self._idle: list[_Connection] = []
        self._heads: dict[str, bytes] = {}
        self._addresses: list[str] = []
        self._resolved_s = 0.0

    async def post(
        self, path: str, body: bytes, headers: Mapping[str, str], *, deadline_ms: int | None
    ) -> Reply:
        """Send a JSON body; gives the reply once its headers are here. Raises :class:`ProviderError` only."""
        time = asyncio.get_running_loop().time
        now_s = time()
        deadline_s = now_s + (LONGEST_CALL_MS if deadline_ms is None else deadline_ms) / 1000
        request = self._request(path, body, headers)
        connection = self._take(now_s) or await self._connect(deadline_s)
        try:
            connection.begin(request, deadline_s)
            head = await connection.head()
        except BaseException:
            connection.fail(StreamCut("given up"))
            self.give_back(connection)
            raise
        return _Reply(head, connection, self)

    async def aclose(self) -> None:
        """Close all connections; the client may be used again."""
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.transport.abort()
        if idle:
            await asyncio.sleep(0)  # the transports close in the loop's next turn

    def give_back(self, connection: _Connection) -> None:
        """A call is over: keep the connection for the next one, or drop it."""
        self._in_use -= 1
        if connection.release():
            connection.idle_since_s = asyncio.get_running_loop().time()
            self._idle.append(connection)

    def _take(self, now_s: float) -> _Connection | None:
        if self._in_use >= self._max:
            raise Overloaded(f"all {self._max} connections to it are in use")
        self._in_use += 1
        while self._idle:
            connection = self._idle.pop()
            if connection.alive and now_s - connection.idle_since_s < IDLE_S:
                return connection
            if connection.alive:
                connection.alive = False
                connection.transport.abort()
        return None

    async def _connect(self, deadline_s: float) -> _Connection:
        loop = asyncio.get_running_loop()
        problem = ""
        try:
            async with asyncio.timeout_at(min(deadline_s, loop.time() + CONNECT_MS / 1000)):
                for address in await self._resolve(loop):
                    try:
                        _, connection = await loop.create_connection(_Connection, address, self._port)
                        return connection
                    except OSError as error:
                        problem = type(error).__name__
        except TimeoutError:
            self._in_use -= 1
            raise ProviderTimeout("no connection in time") from None
        except OSError as error:
            problem = type(error).__name__
        except BaseException:
            self._in_use -= 1
            raise
        self._in_use -= 1
        raise ProviderUnavailable(f"cannot be reached: {problem or 'no address that may be called'}")

    async def _resolve(self, loop: asyncio.AbstractEventLoop) -> list[str]:
        """The host's addresses without link-local ones, looked up once a minute."""
        now_s = loop.time()
        if not self._addresses or now_s - self._resolved_s > HOST_KEPT_S:
            found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
            self._addresses = [address for address in addresses if not link_local(address)]
            self._resolved_s = now_s
        return self._addresses

    def _request(self, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        head = self._heads.get(path)
        if head is None:
            target = self._root + path
            if not target.isascii() or not target.isprintable() or " " in target:
                raise ValueError(f"path: expected printable ASCII without blanks, found {target!r}")
            head = (
                f"POST {target} HTTP/1.1\r\nhost: {self._authority}\r\n"
                "content-type: application/json\r\naccept-encoding: identity\r\n"
            ).encode("ascii")
            if len(self._heads) < 256:
                self._heads[path] = head
        parts = [head]
        for name, value in headers.items():
            if not value.isprintable():
                raise ValueError(f"header {name}: expected printable text")
            parts.append(f"{name}: {value}\r\n".encode("latin-1"))
        parts.append(b"content-length: %d\r\n\r\n" % len(body))
        parts.append(body)
        return b"".join(parts)


def open_client(base_url: str) -> HttpPoster:
    """The client for a base URL: the lean one for plain HTTP, the general one for TLS."""
    return PlainClient(base_url) if base_url.startswith("http://") else HttpClient(base_url)
