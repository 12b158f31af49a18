"""The shared store: many workers on many machines, one Redis or Valkey, every verb one atomic script.

An account tree lives in one hash slot. Redis keeps balances, open holds and the orders of 24 hours; rows leave
through a stream to append-only files, so memory does not grow with traffic. docs/stores.md has the table of keys.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from .order import Settlement
from .store_redis_archive import StreamArchive
from .store_redis_connect import connect
from .store_redis_ledger import RedisLedger
from .store_redis_link import Link
from .store_redis_rates import RedisRates, RedisValues

__all__ = ["TIMEOUT_S", "RedisStore"]

TIMEOUT_S: Final = 2.0
"""The longest a command may wait, and again the longest it may take."""

ARCHIVE_LEASE_MS: Final = 10_000
"""How long a worker that moves rows may be silent before another does."""


class RedisStore(RedisLedger, RedisRates, RedisValues):
    """See :class:`negotiator.store.Store` for what the verbs answer."""

    def __init__(self, link: Link, *, rows: Path, worker: str) -> None:
        """rows: where the archive goes. worker: this process among those of the store."""
        RedisLedger.__init__(self, link, StreamArchive(link, rows))
        RedisRates.__init__(self, link)
        RedisValues.__init__(self, link)
        self._worker = worker

    @classmethod
    async def open(
        cls, url: str, *, rows: Path, rng: random.Random, timeout_s: float = TIMEOUT_S
    ) -> RedisStore:
        """Connect. Raises InputInvalid for a wrong URL, StoreUnavailable when no server answers."""
        link = Link(await connect(url, timeout_s=timeout_s), timeout_s=timeout_s, rng=rng)
        return cls(link, rows=rows, worker=f"{rng.getrandbits(64):016x}")

    async def sweep(self, now_ms: int, limit: int = 1000) -> Sequence[Settlement]:
        """Resolve what is overdue; the one worker that leads in it also moves rows to the archive."""
        settlements = await super().sweep(now_ms, limit)
        if await self.lead("archive", self._worker, ARCHIVE_LEASE_MS, now_ms) is not None:
            await self._archive.run(await self._directory.trees())
        return settlements

    async def aclose(self) -> None:
        """Give back all connections."""
        await self._link.aclose()
