"""A load generator that costs little itself: HTTP/1.1 over raw asyncio protocols.

``closed`` keeps a fixed number of connections busy and counts; ``opened`` sends at fixed instants whatever comes back
and measures from those instants, so that a server that stalls is charged for everyone it kept waiting.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

__all__ = ["Answers", "bodies", "closed", "opened", "post"]

PATIENCE_S = 30.0
"""How long an answer may take before the run is given up."""

RULES = (
    "You are the desk of a river authority. Answer in one sentence, name your source, and never guess. " * 5
)


def bodies(*, stream: bool = False, terms: bool = True) -> Iterator[bytes]:
    """Chat bodies of about a kilobyte: one system prompt, and every user's question another."""
    number = 0
    while True:
        number += 1
        question = f"Ship {number:06d}: how deep is the channel at kilometre {number % 811} today, and is it dredged?"
        messages = [{"role": "system", "content": RULES}, {"role": "user", "content": question}]
        body: dict[str, object] = {"model": "auto", "messages": messages, "max_tokens": 200}
        if terms:
            body["negotiator"] = {"budget_usd": "0.01", "min_quality": 0.5}
        if stream:
            body["stream"] = True
        yield json.dumps(body).encode()


@dataclass
class Answers:
    """What came back. first_s and whole_s: seconds from when a request was due to its first and its last byte."""

    good: int = 0
    bad: int = 0
    took_s: float = 0.0
    first_s: list[float] = field(default_factory=list)
    whole_s: list[float] = field(default_factory=list)
    example: bytes = b""


class _Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request on it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._data = bytearray()
        self._body_at = -1
        self._length: int | None = None
        self.first_at = 0.0
        self.answer: asyncio.Future[bytes] | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def send(self, request: bytes) -> asyncio.Future[bytes]:
        self._data.clear()
        self._body_at, self.first_at = -1, 0.0
        self.answer = self._loop.create_future()
        assert self.transport is not None
        self.transport.write(request)
        return self.answer

    def data_received(self, data: bytes) -> None:
        self._data += data
        if self._body_at < 0:
            end = self._data.find(b"\r\n\r\n")
            if end < 0:
                return
            self._body_at = end + 4
            head = bytes(self._data[:end]).lower()
            at = head.find(b"content-length:")
            self._length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else None
        if not self.first_at and len(self._data) > self._body_at:
            self.first_at = self._loop.time()
        if self._length is None:
            whole = self._data.endswith(b"\r\n0\r\n\r\n")
        else:
            whole = len(self._data) >= self._body_at + self._length
        if whole and self.answer is not None and not self.answer.done():
            self.answer.set_result(bytes(self._data))

    def connection_lost(self, error: Exception | None) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(error or ConnectionResetError("closed"))


def post(body: bytes, path: str = "/v1/chat/completions") -> bytes:
    """The bytes of a request."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def _connect(url: str) -> _Connection:
    where = urlsplit(url)
    _, connection = await asyncio.get_running_loop().create_connection(
        _Connection, where.hostname, where.port
    )
    return connection


async def closed(url: str, requests: Iterator[bytes], *, connections: int, seconds: float) -> Answers:
    """As many as fit into ``seconds``, each connection sending anew when it has its answer."""
    loop, answers = asyncio.get_running_loop(), Answers()
    pool = [await _connect(url) for _ in range(connections)]
    began = loop.time()
    end = began + seconds

    async def keep_busy(connection: _Connection) -> None:
        while loop.time() < end:
            _count(answers, await connection.send(post(next(requests))))

    async with asyncio.timeout(seconds + PATIENCE_S):
        await asyncio.gather(*map(keep_busy, pool))
    answers.took_s = loop.time() - began
    _hang_up(pool)
    return answers


async def opened(url: str, requests: Iterator[bytes], *, per_second: float, seconds: float) -> Answers:
    """``per_second`` requests at even instants, on as many connections as that takes."""
    loop, answers = asyncio.get_running_loop(), Answers()
    free: list[_Connection] = [await _connect(url) for _ in range(8)]
    pool = list(free)
    running: set[asyncio.Task[None]] = set()

    async def one(due: float) -> None:
        connection = free.pop() if free else await _connect(url)
        if connection not in pool:
            pool.append(connection)
        _count(answers, await connection.send(post(next(requests))))
        answers.whole_s.append(loop.time() - due)
        answers.first_s.append(connection.first_at - due)
        free.append(connection)

    began = loop.time()
    for number in range(int(per_second * seconds)):
        due = began + number / per_second
        if (left := due - loop.time()) > 0:
            await asyncio.sleep(left)
        task = asyncio.create_task(one(due))
        running.add(task)
        task.add_done_callback(running.discard)
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*running)
    answers.took_s = loop.time() - began
    _hang_up(pool)
    return answers


def _count(answers: Answers, data: bytes) -> None:
    if data.startswith(b"HTTP/1.1 200"):
        answers.good += 1
    else:
        answers.bad += 1
        answers.example = data[:500]


def _hang_up(pool: list[_Connection]) -> None:
    for connection in pool:
        if connection.transport is not None:
            connection.transport.close()
