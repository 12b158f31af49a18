"""One connection pool to a house: requests out, JSON or events back, repeated where that cannot buy twice.

A request is sent again after a refusal that may pass (429, 503, ...) and, where the call may be repeated, after a
connection that broke: orders carry an id made here, so the house knows them again. Waits grow and are jittered, so that
clients refused together do not come back together; what the house asks for (``retry-after-ms``) is the least.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar

import aiohttp
import orjson

from .errors import NegotiatorError, RejectCode, Rejected, ServerRefused, ServerUnreachable
from .wire_in import reject_in

__all__ = ["Connection", "error_in"]

T = TypeVar("T")

CONNECT_S: Final = 10.0
FIRST_WAIT_MS: Final = 250
LONGEST_WAIT_MS: Final = 8_000
MAX_CONNECTIONS: Final = 1_000

_PASSING: Final = frozenset({408, 429, 502, 503, 504})
_OVER: Final = frozenset({RejectCode.CANCELLED, RejectCode.DEADLINE_PASSED})
"""Rejects that another order may escape, but not this one: its time is up."""

Body = Mapping[str, Any] | bytes | Callable[[], aiohttp.FormData]
"""JSON values, lines of JSON, or what makes a form anew for every try."""


class Connection:
    """HTTP to one house. timeout_s bounds a whole call, all tries and waits included; tries is at least 1."""

    def __init__(
        self, base_url: str, key: str | None, *, timeout_s: float, tries: int, chance: random.Random | None
    ) -> None:
        self._base_url = base_url
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self._timeout_s = timeout_s
        self._tries = tries
        self._chance = chance or random.SystemRandom()
        self._session: aiohttp.ClientSession | None = None

    async def aclose(self) -> None:
        """Close the pool; a later call opens it again."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def call(
        self,
        method: str,
        path: str,
        body: Body | None = None,
        *,
        query: Mapping[str, str] | None = None,
        repeatable: bool = True,
        key: str | None = None,
    ) -> bytes:
        """The body of an answer. key: the same for every try. Raises Rejected, ServerRefused, ServerUnreachable."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._send(method, path, body, query, repeatable, _whole, key)
        except TimeoutError:
            raise self._late(method, path) from None

    async def open(self, path: str, body: Body | None, *, method: str = "POST") -> aiohttp.ClientResponse:
        """An answer whose body is still to come. The caller closes it. Raises as :meth:`call` does."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._send(method, path, body, None, True, _begun)
        except TimeoutError:
            raise self._late(method, path) from None

    async def _send(
        self,
        method: str,
        path: str,
        body: Body | None,
        query: Mapping[str, str] | None,
        repeatable: bool,
        take: Callable[[aiohttp.ClientResponse], Awaitable[T]],
        key: str | None = None,
    ) -> T:
        """What ``take`` makes of the first answer that is no error, within ``tries``.

        An order of ours that is still running, because the connection to it broke, is waited for.
        """
        tried, lost = 0, False
        while True:
            tried += 1
            asked_ms: int | None = None
            try:
                response = await self._once(method, path, body, query, key)
                if response.status < 400:
                    return await take(response)
                fault = error_in(response.status, await response.read())
                if lost and isinstance(fault, Rejected) and fault.reject.code is RejectCode.IN_PROGRESS:
                    tried -= 1
                elif not _may_pass(response, fault):
                    raise fault
                asked_ms = _asked_ms(response.headers)
            except aiohttp.ClientError as error:
                fault = ServerUnreachable(f"{self._base_url}: {error or type(error).__name__}")
                fault.__cause__ = error
                lost = not isinstance(error, aiohttp.ClientConnectorError)
                if lost and not repeatable:
                    raise fault from error
            if tried >= self._tries:
                raise fault
            await asyncio.sleep(self._wait_ms(tried, asked_ms) / 1000)

    async def _once(
        self, method: str, path: str, body: Body | None, query: Mapping[str, str] | None, key: str | None
    ) -> aiohttp.ClientResponse:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                headers=self._headers,
                connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=self._timeout_s),
            )
        data, kind = _sent(body)
        headers = {"content-type": kind} if kind else {}
        if key is not None:
            headers["idempotency-key"] = key
        return await self._session.request(
            method, f"{self._base_url}{path}", data=data, params=query, headers=headers
        )

    def _wait_ms(self, tried: int, asked_ms: int | None) -> float:
        grown_ms = min(LONGEST_WAIT_MS, FIRST_WAIT_MS << (tried - 1))
        if asked_ms is None:
            return grown_ms * self._chance.uniform(0.5, 1.0)
        return asked_ms + self._chance.uniform(0.0, 0.25) * min(grown_ms, asked_ms)

    def _late(self, method: str, path: str) -> ServerUnreachable:
        return ServerUnreachable(
            f"{self._base_url}: no answer to {method} {path} within {self._timeout_s:g} s"
        )


def _sent(body: Body | None) -> tuple[Any, str | None]:
    """What aiohttp sends for a body, and its type where aiohttp does not know it."""
    if body is None or callable(body):
        return (None if body is None else body()), None
    return (
        (body, "application/x-ndjson")
        if isinstance(body, bytes)
        else (orjson.dumps(body), "application/json")
    )


async def _whole(response: aiohttp.ClientResponse) -> bytes:
    return await response.read()


async def _begun(response: aiohttp.ClientResponse) -> aiohttp.ClientResponse:
    return response


def error_in(status: int, data: bytes) -> NegotiatorError:
    """The exception that an error's body stands for; also of bodies that no house wrote."""
    try:
        error = orjson.loads(data)["error"]
        if error.get("reject") is not None:
            return Rejected(reject_in(error["reject"]))
        return ServerRefused(status, error["code"], error["message"], error.get("param"))
    except (AttributeError, KeyError, TypeError, ValueError):
        found = data[:200].decode("utf-8", "replace")
        return ServerRefused(status, "UNKNOWN", f"expected an error as a house writes it, found {found!r}")


def _may_pass(response: aiohttp.ClientResponse, fault: NegotiatorError) -> bool:
    said = response.headers.get("x-should-retry")
    if said in ("true", "false"):
        return said == "true"
    if not isinstance(fault, Rejected):
        return response.status in _PASSING
    reject = fault.reject
    charged = reject.facts.get("charged_usd", "0") != "0"
    return reject.code.again and reject.code not in _OVER and not charged


def _asked_ms(headers: Mapping[str, str]) -> int | None:
    """How long the house asks to wait, None = it does not say."""
    for name, factor in (("retry-after-ms", 1), ("retry-after", 1000)):
        text = headers.get(name, "")
        if text.isdecimal():
            return int(text) * factor
    return None
