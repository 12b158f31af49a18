"""A store behind a URL; each kind is imported when it is asked for."""

from __future__ import annotations

import hashlib
import os
import random
from pathlib import Path
from typing import Final, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from providers.clock import Clock

from .errors import InputInvalid
from .store import Store

__all__ = ["open_store", "reconcile_store", "state_directory"]

_REDIS: Final = ("redis", "rediss", "redis+sentinel", "redis+cluster")


async def open_store(
    url: str,
    *,
    clock: Clock,
    durability: Literal["process", "power"] = "process",
    rng: random.Random | None = None,
) -> Store:
    """Open ``embedded:///path.db``, ``embedded://`` (memory), ``redis://``, ``rediss://``, ``redis+sentinel://`` or
    ``redis+cluster://``; with Redis, ``?rows=/directory`` says where rows are archived.

    Raises InputInvalid for another URL, StoreLocked when a process holds the file, StoreUnavailable when no server
    answers.
    """
    parts = urlsplit(url)
    if parts.scheme == "embedded":
        from .store_embedded import EmbeddedStore

        if parts.netloc:
            raise InputInvalid(f"expected embedded:///path.db or embedded://, found {url!r}")
        path = Path(unquote(parts.path)) if parts.path.strip("/") else None
        return EmbeddedStore(path, clock=clock, durability=durability)
    if parts.scheme in _REDIS:
        from .store_redis import RedisStore

        return await RedisStore.open(url, rows=_rows_directory(url), rng=rng or random.SystemRandom())
    raise InputInvalid(
        f"expected a store URL with embedded, redis, rediss, redis+sentinel or redis+cluster, found {url!r}"
    )


async def reconcile_store(url: str) -> dict[str, int]:
    """After a failover of Redis, put back what the archive has; gives the number of rows by account tree.

    Raises InputInvalid for a store that knows no failover, StoreError when the books do not fit afterwards.
    """
    if urlsplit(url).scheme not in _REDIS:
        raise InputInvalid(f"expected a Redis store: only there a server can take over, found {url!r}")
    from .store_redis_reconcile import reconcile

    return await reconcile(url, rows=_rows_directory(url), rng=random.SystemRandom())


def _rows_directory(url: str) -> Path:
    """Where a Redis store archives: as the URL says, else under the state directory, by server."""
    parts = urlsplit(url)
    rows = dict(parse_qsl(parts.query)).get("rows")
    if rows:
        return Path(rows)
    place = parts.netloc.rpartition("@")[2] + parts.path
    return state_directory() / "rows" / hashlib.blake2s(place.encode(), digest_size=8).hexdigest()


def state_directory() -> Path:
    """Where this user's ledgers live: ``$XDG_STATE_HOME/negotiator``, else ``~/.local/state/negotiator``."""
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "negotiator"
