"""A store behind a URL; each kind is imported when it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from providers.clock import Clock

from .errors import InputInvalid
from .store import Store

__all__ = ["open_store"]


async def open_store(url: str, *, clock: Clock, durability: Literal["process", "power"] = "process") -> Store:
    """Open ``embedded:///path.db``, ``embedded://`` (memory), ``redis://``, ``rediss://``, ``redis+sentinel://`` or
    ``redis+cluster://``.

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
    raise InputInvalid(
        f"expected a store URL with embedded, redis, rediss, redis+sentinel or redis+cluster, found {url!r}"
    )
