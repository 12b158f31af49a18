"""A primary that took over from another, or restarted from a snapshot, may have lost what was acknowledged.

Replication is asynchronous. So every new connection looks whether its server has such a past
(``master_replid2``), and the ledger stays closed until ``negotiator accounts reconcile`` has put back what the
archive has and written the server's ``master_replid`` down as reconciled.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError

from .store_redis_keys import RECONCILED

__all__ = ["FailoverGuard", "replication_past"]


def replication_past(info: bytes | str) -> tuple[str, str, bool]:
    """Role, replication id, and whether there is a past, from the text of ``INFO replication``."""
    text = info.decode() if isinstance(info, bytes) else info
    fields = dict(line.split(":", 1) for line in text.split("\r\n") if ":" in line)
    return fields["role"], fields["master_replid"], bool(fields.get("master_replid2", "").strip("0"))


class FailoverGuard:
    """What each new connection of a ledger does first; ``side``: a client of its own to ask what was reconciled."""

    def __init__(self, side: Redis | RedisCluster) -> None:
        self._side = side
        self._reconciled: set[str] = set()

    async def greet(self, connection: AbstractConnection) -> None:
        """Log in, then refuse a replica, and a primary whose past nobody reconciled."""
        await connection.on_connect()
        await connection.send_command("INFO", "replication")
        role, replid, past = replication_past(await connection.read_response())
        if role != "master":
            raise RedisConnectionError("expected a primary, found a replica")
        if not past or replid in self._reconciled:
            return
        known: Callable[[str, str], Awaitable[Any]] = self._side.sismember
        if not await known(RECONCILED, replid):
            raise RedisConnectionError(
                "the server took over from another or restarted from a snapshot and may have lost rows:"
                " run `negotiator accounts reconcile`"
            )
        self._reconciled.add(replid)
