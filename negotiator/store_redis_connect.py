"""From a URL to clients: one server, one watched by sentinels, or a cluster."""

from __future__ import annotations

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
from .store_redis_link import FAULTS, Router

__all__ = ["connect"]

DEFAULT_PORT = 6379
SENTINEL_PORT = 26379


class _OneServer:
    """A router to one client, which finds the primary itself."""

    def __init__(self, client: Redis, others: Sequence[Redis] = ()) -> None:
        self._client = client
        self._others = others

    def client_for(self, key: str) -> Redis:
        return self._client

    async def redirect(self, command: Sequence[Any]) -> Any:
        answer: Any = await self._client.execute_command(*command)  # type: ignore[no-untyped-call]
        return answer

    async def aclose(self) -> None:
        for client in (self._client, *self._others):
            await client.aclose()


class _Cluster:
    """A router by slot: the cluster client knows the nodes, a plain client per node carries the pipelines."""

    def __init__(self, cluster: RedisCluster, options: dict[str, Any]) -> None:
        self._cluster = cluster
        self._options = options
        self._clients: dict[tuple[str, int], Redis] = {}

    def client_for(self, key: str) -> Redis:
        node = self._cluster.get_node_from_key(key)
        if node is None:
            raise RedisError("the slot is not covered")
        place = (node.host, int(node.port))
        if place not in self._clients:
            self._clients[place] = Redis(host=place[0], port=place[1], **self._options)
        return self._clients[place]

    async def redirect(self, command: Sequence[Any]) -> Any:
        return await self._cluster.execute_command(*command)

    async def aclose(self) -> None:
        for client in self._clients.values():
            await client.aclose()
        await self._cluster.aclose()


async def connect(url: str, *, timeout_s: float) -> Router:
    """A router to what ``url`` names, after it answered once. Raises InputInvalid or StoreUnavailable.

    ``redis://``, ``rediss://`` as redis-py reads them; ``redis+sentinel://host:26379,host:26379/NAME/DB``;
    ``redis+cluster://host:6379,host:6379``; both with ``?tls=1``.
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
        if parts.scheme == "redis+cluster":
            return await _cluster(parts, options)
        client, others = (
            _sentinel(parts, options) if parts.scheme == "redis+sentinel" else _server(parts, options)
        )
        await client.ping()
        return _OneServer(client, others)
    except FAULTS as error:
        raise StoreUnavailable(f"{_public(parts)}: {error}") from None
    except ValueError as error:
        raise InputInvalid(f"expected a Redis URL, found {_public(parts)!r}: {error}") from None


def _server(parts: SplitResult, options: dict[str, Any]) -> tuple[Redis, Sequence[Redis]]:
    query = "&".join(f"{name}={value}" for name, value in parse_qsl(parts.query) if name != "rows")
    return Redis.from_url(urlunsplit(parts._replace(query=query)), **options), ()


def _sentinel(parts: SplitResult, options: dict[str, Any]) -> tuple[Redis, Sequence[Redis]]:
    name, _, database = parts.path.strip("/").partition("/")
    if not name:
        raise ValueError("the path names the watched primary: /NAME or /NAME/DB")
    sentinel = Sentinel(_places(parts, SENTINEL_PORT), sentinel_kwargs=options)  # type: ignore[no-untyped-call]
    login = _login(parts)
    client = sentinel.master_for(name, db=int(database or 0), **options, **login)
    return client, sentinel.sentinels


async def _cluster(parts: SplitResult, options: dict[str, Any]) -> _Cluster:
    login = _login(parts)
    nodes = [ClusterNode(host, port) for host, port in _places(parts, DEFAULT_PORT)]
    cluster = RedisCluster(
        startup_nodes=nodes,
        socket_timeout=options["socket_timeout"],
        socket_connect_timeout=options["socket_connect_timeout"],
        protocol=2,
        **login,
    )
    await cluster.initialize()
    return _Cluster(cluster, {**options, **login})


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
