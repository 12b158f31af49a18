"""One seller's connections: pooled, verified, bounded, to the host its configuration names and no other.

Redirects are not followed, cookies not kept, proxies not read from the environment, and a name that resolves to a
link-local address (where clouds keep their metadata) is not called. The deadline covers connecting, waiting and
reading; it cuts only waits of this client, never its caller's own awaits.
"""

from __future__ import annotations

import ipaddress
import math
import socket
from collections.abc import Mapping
from typing import Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import DefaultResolver
from yarl import URL

from .errors import MalformedAnswer, ProviderError, ProviderTimeout, ProviderUnavailable, StreamCut
from .http_reply import Reply

__all__ = [
    "CONNECT_MS",
    "LONGEST_CALL_MS",
    "MAX_CONNECTIONS",
    "MAX_HEADER_BYTES",
    "HttpClient",
    "checked_url",
    "link_local",
]

MAX_HEADER_BYTES: Final = 32 * 2**10
MAX_CONNECTIONS: Final = 1_000
CONNECT_MS: Final = 10_000
LONGEST_CALL_MS: Final = 1_800_000
"""A call without a deadline ends here: flex and long reasoning take minutes, nothing takes longer."""

HOST_CACHE_S: Final = 60


def checked_url(text: str) -> str:
    """A base URL without its trailing slash; raises ValueError for what is not http(s) with a host, or has a login."""
    url = URL(text)
    if url.scheme not in ("http", "https") or not url.host or url.user or url.query_string or url.fragment:
        raise ValueError(f"base_url: expected http(s)://host/path without login or query, found {text!r}")
    if link_local(url.host):
        raise ValueError(f"base_url: expected a host that is not link-local, found {url.host}")
    return str(url).rstrip("/")


def link_local(address: str) -> bool:
    """Whether an address is one that only neighbours have, where clouds keep their metadata; names are not."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_link_local


class _GuardedResolver(AbstractResolver):
    """The system's resolver without link-local answers."""

    def __init__(self) -> None:
        self._resolver = DefaultResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        allowed = [result for result in found if not link_local(result["host"])]
        if not allowed:
            raise OSError(f"{host} resolves to link-local addresses only, which are never called")
        return allowed

    async def close(self) -> None:
        await self._resolver.close()


class _Reply(Reply):
    """A reply of aiohttp's."""

    __slots__ = ("_response",)

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        super().__init__(response.status, response.headers)  # case-insensitive
        self._response = response

    @property
    def ended(self) -> bool:
        return self._response.content.at_eof()

    async def next_bytes(self) -> bytes:
        try:
            return await self._response.content.readany()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise _fault_in_transport(error, started=True) from error

    def close(self) -> None:
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()


def _fault_in_transport(error: BaseException, *, started: bool) -> ProviderError:
    """The failure that a transport error stands for. ``started``: the answer had begun."""
    if isinstance(error, TimeoutError):
        return ProviderTimeout("no answer in time" if not started else "the answer was not complete in time")
    if isinstance(error, aiohttp.ClientSSLError):
        return ProviderUnavailable(f"its certificate was not accepted: {type(error).__name__}")
    if isinstance(error, (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError)) and started:
        return StreamCut("the connection closed before the answer's end")
    if isinstance(error, (aiohttp.ClientResponseError, aiohttp.InvalidURL)):
        return MalformedAnswer(f"expected an HTTP answer, found: {type(error).__name__}")
    if started:
        return StreamCut(f"the connection broke before the answer's end: {type(error).__name__}")
    return ProviderUnavailable(f"cannot be reached: {type(error).__name__}")


class HttpClient:
    """A pool of connections below one base URL; opened by the first call, in the loop that makes it."""

    def __init__(self, base_url: str, *, max_connections: int = MAX_CONNECTIONS) -> None:
        self._base_url = checked_url(base_url)
        self._max_connections = max_connections
        self._session: aiohttp.ClientSession | None = None
        self._urls: dict[str, URL] = {}

    @property
    def base_url(self) -> str:
        """Where it calls."""
        return self._base_url

    async def post(
        self, path: str, body: bytes, headers: Mapping[str, str], *, deadline_ms: int | None
    ) -> Reply:
        """Send a JSON body; gives the reply once its headers are here. Raises :class:`ProviderError` only."""
        return await self.request("POST", path, body, headers, deadline_ms=deadline_ms)

    async def request(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str], *, deadline_ms: int | None
    ) -> Reply:
        """The same by any method and, where ``headers`` name one, of any content type."""
        total_s = (deadline_ms if deadline_ms is not None else LONGEST_CALL_MS) / 1000
        timeout = aiohttp.ClientTimeout(
            total=max(total_s, 0.001), sock_connect=min(CONNECT_MS / 1000, total_s), ceil_threshold=math.inf
        )
        try:
            response = await self._open().request(
                method, self._url(path), data=body, headers=headers, timeout=timeout, allow_redirects=False
            )
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise _fault_in_transport(error, started=False) from error
        return _Reply(response)

    async def aclose(self) -> None:
        """Close all connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _url(self, path: str) -> URL:
        url = self._urls.get(path)
        if url is None:
            url = URL(self._base_url + path, encoded=True)
            if len(self._urls) < 256:
                self._urls[path] = url
        return url

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            connector = aiohttp.TCPConnector(
                limit=self._max_connections,
                ttl_dns_cache=HOST_CACHE_S,
                resolver=_GuardedResolver(),
                keepalive_timeout=60,
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"content-type": "application/json", "accept-encoding": "identity"},
                skip_auto_headers=("user-agent", "accept"),
                max_line_size=MAX_HEADER_BYTES,
                max_field_size=MAX_HEADER_BYTES,
                read_bufsize=2**18,
            )
        return self._session
