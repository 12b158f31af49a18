"""A vendor's batch endpoint over HTTP: connections, keys, lines of results as they stream; the rest is its dialect's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

import aiohttp

from .batch import BatchHandle, BatchLine, BatchResult, BatchStatus, SubmitInDoubt
from .batch_dialect import BatchDialect, Request
from .calls import SHAPES
from .errors import (
    AuthFailed,
    MalformedAnswer,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
    StreamCut,
)
from .http_client import HttpClient
from .http_reply import Reply
from .keys import Key, KeyRing
from .vendor_json import object_of

__all__ = ["MAX_RESULT_BYTES", "HttpBatches"]

MAX_RESULT_BYTES: Final = 16 * 2**20
"""The longest result of one line."""

MAX_INLINE_BYTES: Final = 512 * 2**20
"""The longest answer with all results of a batch in it."""

MAX_PAGES: Final = 20
ANSWER_MS: Final = 60_000
UPLOAD_MS: Final = 600_000


class HttpBatches:
    """A :class:`providers.batch.BatchDriver` at a vendor's HTTP API."""

    def __init__(self, provider: str, dialect: BatchDialect, client: HttpClient, keys: KeyRing) -> None:
        self._provider, self._dialect, self._client, self._keys = provider, dialect, client, keys
        self.max_lines, self.max_bytes = dialect.max_lines, dialect.max_bytes
        self.window_ms, self.findable = dialect.window_ms, dialect.findable

    def encode(self, model: str, line: BatchLine) -> bytes:
        """A line as it is handed in; raises RequestRefused for what the vendor cannot honour."""
        return self._dialect.encode(model, line)

    async def submit(self, name: str, model: str, lines: Sequence[bytes]) -> BatchHandle:
        """Hand lines in as one batch. Raises SubmitInDoubt where it may have been taken all the same."""
        dialect, key, file_id = self._dialect, self._keys.take(), None
        try:
            upload = dialect.upload(name, lines)
            if upload is not None:
                file_id = dialect.id_of(await self._ask(key, upload, UPLOAD_MS))
            create = dialect.create(name, model, lines, file_id)
            try:
                batch_id = dialect.id_of(await self._ask(key, create, UPLOAD_MS))
            except (ProviderUnavailable, StreamCut, MalformedAnswer) as error:
                if isinstance(error.__cause__, aiohttp.ClientConnectorError):
                    raise  # nothing was sent
                raise SubmitInDoubt(
                    error.detail, provider=self._provider, model=model, status=error.status
                ) from error
        except (AuthFailed, RateLimited) as error:
            self._keys.eject(key, error)
            raise
        finally:
            self._keys.release(key)
        position = self._keys.keys.index(key)
        return BatchHandle(provider=self._provider, model=model, batch_id=batch_id, key=position)

    async def find(self, name: str, model: str, lines: int, since_ms: int) -> BatchHandle | None:
        """The batch of that name, or the only one that could be it; None = there is none, or there are several."""
        for position, key in enumerate(self._keys.keys):
            found = [str(self._dialect.id_of(row)) for row in await self._rows(key, name, lines, since_ms)]
            if len(found) == 1:
                return BatchHandle(provider=self._provider, model=model, batch_id=found[0], key=position)
        return None

    async def poll(self, handle: BatchHandle) -> BatchStatus:
        """How far it is."""
        body = await self._ask(self._key(handle), self._dialect.look(handle.batch_id), ANSWER_MS)
        try:
            return self._dialect.status(body)
        except SHAPES as error:
            raise self._misshapen("the state of a batch", error) from error

    async def results(self, handle: BatchHandle, status: BatchStatus) -> AsyncIterator[BatchResult]:
        """The results of a batch that ended, as they stream in."""
        for place in status.results:
            reply = await self._send(self._key(handle), self._dialect.fetch(place), None)
            try:
                async for row in self._read(reply):
                    try:
                        yield self._checked(self._dialect.result(row))
                    except SHAPES as error:
                        raise self._misshapen("the result of a line", error) from error
            finally:
                reply.close()

    async def cancel(self, handle: BatchHandle) -> None:
        """Ask that no further line is run."""
        await self._ask(self._key(handle), self._dialect.cancel(handle.batch_id), ANSWER_MS)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def _rows(self, key: Key, name: str, lines: int, since_ms: int) -> list[Mapping[str, Any]]:
        """The listed batches that could be the named one."""
        found: list[Mapping[str, Any]] = []
        after: str | None = None
        for page in range(MAX_PAGES):
            body = await self._ask(key, self._dialect.listing(page, after), ANSWER_MS)
            try:
                rows, after = self._dialect.listed(body)
                found += [row for row in rows if self._dialect.is_named(row, name, lines, since_ms)]
            except SHAPES as error:
                raise self._misshapen("a list of batches", error) from error
            if after is None:
                break
        return found

    async def _read(self, reply: Reply) -> AsyncIterator[Mapping[str, Any]]:
        """The results in a reply, a line at a time where they are lines."""
        rows = None if self._lined else self._dialect.rows(object_of(await reply.body(MAX_INLINE_BYTES)))
        if rows is not None:
            for row in rows:
                yield row
            return
        tail = b""
        while chunk := await reply.next_bytes():
            *whole, tail = (tail + chunk).split(b"\n")
            for line in whole:
                if line.strip():
                    yield object_of(line)
            if len(tail) > MAX_RESULT_BYTES:
                raise MalformedAnswer(f"expected a result of at most {MAX_RESULT_BYTES} bytes, found more")
        if tail.strip():
            yield object_of(tail)

    @property
    def _lined(self) -> bool:
        """Whether results come as lines."""
        return self._dialect.rows({}) is None

    def _checked(self, result: BatchResult) -> BatchResult:
        if result.error is not None:
            result.error.provider = self._provider
            result.error.detail = self._keys.masked(result.error.detail)
            result.error.args = (result.error.detail,)
        return result

    def _key(self, handle: BatchHandle) -> Key:
        """The key that handed it in; another account would not see it."""
        keys = self._keys.keys
        return keys[handle.key] if handle.key < len(keys) else keys[0]

    async def _ask(self, key: Key, request: Request, deadline_ms: int) -> dict[str, Any]:
        reply = await self._send(key, request, deadline_ms)
        try:
            return object_of(await reply.body(MAX_INLINE_BYTES))
        except ProviderError as error:
            raise self._named(error) from error.__cause__
        finally:
            reply.close()

    async def _send(self, key: Key, request: Request, deadline_ms: int | None) -> Reply:
        headers = dict(request.headers)
        if key.secret is not None:
            headers |= self._dialect.chat.authorise(key.secret.reveal())
        try:
            reply = await self._client.request(
                request.method, request.path, request.body, headers, deadline_ms=deadline_ms
            )
            if 200 <= reply.status < 300:
                return reply
            try:
                raise self._dialect.chat.fault(reply.status, reply.headers, await reply.fault_body())
            finally:
                reply.close()
        except ProviderError as error:
            raise self._named(error) from error.__cause__

    def _named(self, error: ProviderError) -> ProviderError:
        error.provider = self._provider
        error.detail = self._keys.masked(error.detail)
        error.args = (error.detail,)
        return error

    def _misshapen(self, what: str, error: Exception) -> MalformedAnswer:
        detail = f"expected {what} in the documented shape, found another: {type(error).__name__}: {error}"
        return MalformedAnswer(self._keys.masked(detail)[:300], provider=self._provider)
