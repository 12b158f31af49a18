"""A reply of which the headers are here and the body is not yet: what every HTTP client here gives back."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Final, Protocol

from .errors import MalformedAnswer, ProviderError

__all__ = ["MAX_ANSWER_BYTES", "HttpPoster", "Reply"]

MAX_ANSWER_BYTES: Final = 64 * 2**20
"""The largest answer read, buffered or streamed: embeddings of a full batch fit."""

MAX_FAULT_BYTES: Final = 64 * 2**10
DRAIN_S: Final = 0.25


class Reply(ABC):
    """Read it by :meth:`body` or piece by piece by :meth:`some`; then :meth:`close`, which never waits."""

    __slots__ = ("_max_bytes", "_read", "headers", "status")

    def __init__(self, status: int, headers: Mapping[str, str]) -> None:
        self.status = status
        self.headers = headers
        self._read = 0
        self._max_bytes = MAX_ANSWER_BYTES

    @property
    @abstractmethod
    def ended(self) -> bool:
        """Whether the body was read to its end."""

    @abstractmethod
    async def next_bytes(self) -> bytes:
        """The next bytes of the body, empty at its end; raises :class:`ProviderError`."""

    @abstractmethod
    def close(self) -> None:
        """Give the connection back when the body was read to its end; else cut it, which cancels the call upstream."""

    async def some(self) -> bytes:
        """The next bytes as they arrived, empty at the end; raises MalformedAnswer beyond the bound."""
        chunk = await self.next_bytes()
        self._read += len(chunk)
        if self._read > self._max_bytes:
            self.close()
            raise MalformedAnswer(f"expected an answer of at most {self._max_bytes} bytes, found more")
        return chunk

    async def body(self, max_bytes: int | None = None) -> bytes:
        """The whole body; raises MalformedAnswer beyond ``max_bytes`` (None: :data:`MAX_ANSWER_BYTES`)."""
        self._max_bytes = MAX_ANSWER_BYTES if max_bytes is None else max_bytes
        first = await self.some()
        if not first or self.ended:
            return first
        chunks = [first]
        while chunk := await self.some():
            chunks.append(chunk)
        return b"".join(chunks)

    async def fault_body(self) -> bytes:
        """The first :data:`MAX_FAULT_BYTES` of an error's body; what breaks off is taken as it came."""
        data = b""
        try:
            while len(data) < MAX_FAULT_BYTES and (chunk := await self.some()):
                data += chunk
        except ProviderError:
            pass
        return data[:MAX_FAULT_BYTES]

    async def finish(self) -> None:
        """Read the few bytes after the end mark, so that the connection can serve the next call; else drop it."""
        try:
            if not self.ended:
                async with asyncio.timeout(DRAIN_S):
                    while await self.some():
                        pass
        except (TimeoutError, ProviderError):
            pass
        self.close()


class HttpPoster(Protocol):
    """A pool of connections below one base URL."""

    async def post(
        self, path: str, body: bytes, headers: Mapping[str, str], *, deadline_ms: int | None
    ) -> Reply:
        """Send a JSON body; gives the reply once its headers are here. Raises :class:`ProviderError` only."""
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...
