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

__all__ = ["open_store", "state_directory"]

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

        place = parts.netloc.rpartition("@")[2] + parts.path
        rows = dict(parse_qsl(parts.query)).get("rows")
        default = state_directory() / "rows" / hashlib.blake2s(place.encode(), digest_size=8).hexdigest()
        return await RedisStore.open(
            url, rows=Path(rows) if rows else default, rng=rng or random.SystemRandom()
        )
    raise InputInvalid(
        f"expected a store URL with embedded, redis, rediss, redis+sentinel or redis+cluster, found {url!r}"
    )


def state_directory() -> Path:
    """Where this user's ledgers live: ``$XDG_STATE_HOME/negotiator``, else ``~/.local/state/negotiator``."""
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "negotiator"
