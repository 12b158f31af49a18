"""From a URL to clients: one server, one watched by sentinels, or a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit, urlunsplit

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from .errors import InputInvalid, StoreUnavailable
from .store_redis_guard import FailoverGuard
from .store_redis_link import FAULTS

__all__ = ["Cluster", "OneServer", "connect"]

DEFAULT_PORT = 6379
SENTINEL_PORT = 26379


class OneServer:
    """A router to one client, which finds the primary itself."""

    def __init__(self, client: Redis, others: Sequence[Redis] = ()) -> None:
        self._client = client
        self._others = others

    def client_for(self, key: str) -> Redis:
        """The one there is."""
        return self._client

    def client_at(self, host: str, port: int) -> Redis:
        """The one there is."""
        return self._client

    def clients(self) -> Sequence[Redis]:
        """The one there is."""
        return [self._client]

    async def refresh(self) -> None:
        """Nothing to learn."""

    async def aclose(self) -> None:
        """Close all clients."""
        for client in (self._client, *self._others):
            await client.aclose()


class Cluster:
    """A router by slot: the cluster client knows the nodes, a plain client per node carries the pipelines."""

    def __init__(self, cluster: RedisCluster, options: dict[str, Any]) -> None:
        self._cluster = cluster
        self._options = options
        self._clients: dict[tuple[str, int], Redis] = {}

    def client_for(self, key: str) -> Redis:
        """The client of the primary that has the key's slot."""
        node = self._cluster.get_node_from_key(key)
        if node is None:
            raise RedisError("the slot is not covered")
        return self.client_at(node.host, int(node.port))

    def client_at(self, host: str, port: int) -> Redis:
        """The client of a node."""
        if (host, port) not in self._clients:
            self._clients[host, port] = Redis(host=host, port=port, **self._options)
        return self._clients[host, port]

    def clients(self) -> Sequence[Redis]:
        """The clients of all primaries."""
        return [self.client_at(node.host, int(node.port)) for node in self._cluster.get_primaries()]

    async def refresh(self) -> None:
        """Ask the nodes again who has which slot."""
        await self._cluster.nodes_manager.initialize()

    async def aclose(self) -> None:
        """Close all clients."""
        for client in self._clients.values():
            await client.aclose()
        await self._cluster.aclose()


async def connect(url: str, *, timeout_s: float, guarded: bool = True) -> OneServer | Cluster:
    """A router to what ``url`` names, after it answered once. Raises InputInvalid or StoreUnavailable.

    ``redis://``, ``rediss://`` as redis-py reads them; ``redis+sentinel://host:26379,host:26379/NAME/DB``;
    ``redis+cluster://host:6379,host:6379``; both with ``?tls=1``. guarded: see :mod:`.store_redis_guard`.
    """
    parts = urlsplit(url)
    options: dict[str, Any] = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "socket_keepalive": True,
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
    }
    try:
        router = await _router(parts, options, guarded)
    except ValueError as error:
        raise InputInvalid(f"expected a Redis URL, found {_public(parts)!r}: {error}") from None
    except FAULTS as error:
        raise StoreUnavailable(
            f"{_public(parts)}: expected a Redis or Valkey that answers, found: {error}"
        ) from None
    try:
        async with asyncio.timeout(timeout_s):
            for client in router.clients():
                await client.ping()
    except (*FAULTS, TimeoutError) as error:
        await router.aclose()
        raise StoreUnavailable(
            f"{_public(parts)}: expected a Redis or Valkey that answers, found: {error}"
        ) from None
    return router


async def _router(parts: SplitResult, options: dict[str, Any], guarded: bool) -> OneServer | Cluster:
    if parts.scheme == "redis+cluster":
        return await _cluster(parts, options, guarded)
    if parts.scheme == "redis+sentinel":
        return _sentinel(parts, options, guarded)
    return _server(parts, options, guarded)


def _server(parts: SplitResult, options: dict[str, Any], guarded: bool) -> OneServer:
    query = "&".join(f"{name}={value}" for name, value in parse_qsl(parts.query) if name != "rows")
    url = urlunsplit(parts._replace(query=query))
    side = Redis.from_url(url, **options)
    return OneServer(Redis.from_url(url, **_carrier(options, side, guarded)), [side])


def _sentinel(parts: SplitResult, options: dict[str, Any], guarded: bool) -> OneServer:
    name, _, database = parts.path.strip("/").partition("/")
    if not name:
        raise ValueError("the path names the watched primary: /NAME or /NAME/DB")
    sentinel = Sentinel(_places(parts, SENTINEL_PORT), sentinel_kwargs=options)  # type: ignore[no-untyped-call]
    given = {"db": int(database or 0), **options, **_login(parts)}
    side = sentinel.master_for(name, **given)
    client = sentinel.master_for(name, **_carrier(given, side, guarded))
    return OneServer(client, [side, *sentinel.sentinels])


async def _cluster(parts: SplitResult, options: dict[str, Any], guarded: bool) -> Cluster:
    login = _login(parts)
    cluster = RedisCluster(
        startup_nodes=[ClusterNode(host, port) for host, port in _places(parts, DEFAULT_PORT)],
        socket_timeout=options["socket_timeout"],
        socket_connect_timeout=options["socket_connect_timeout"],
        protocol=2,
        **login,
    )
    await cluster.initialize()
    return Cluster(cluster, _carrier({**options, **login}, cluster, guarded))


def _carrier(options: dict[str, Any], side: Redis | RedisCluster, guarded: bool) -> dict[str, Any]:
    """Options of a client that carries pipelines: the link has its own timeout for all of one."""
    greeting = {"redis_connect_func": FailoverGuard(side).greet} if guarded else {}
    return {**options, **greeting, "socket_timeout": None}


def _places(parts: SplitResult, port: int) -> list[tuple[str, int]]:
    places = []
    for place in parts.netloc.rpartition("@")[2].split(","):
        host, _, number = place.rpartition(":") if ":" in place else (place, "", str(port))
        places.append((host, int(number)))
    return places


def _login(parts: SplitResult) -> dict[str, Any]:
    user, _, password = parts.netloc.rpartition("@")[0].partition(":")
    login: dict[str, Any] = {"ssl": True} if dict(parse_qsl(parts.query)).get("tls") == "1" else {}
    if user:
        login["username"] = unquote(user)
    if password:
        login["password"] = unquote(password)
    return login


def _public(parts: SplitResult) -> str:
    """The URL without its password."""
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
