"""What all batches of a server share; light, for every server has one and few run batches."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from dataclasses import dataclass, field

from .batch_files import StoredFiles
from .batch_records import BatchRecords
from .batch_share import Share
from .engine import Engine

__all__ = ["BatchHouse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchHouse:
    """The market, what lies on disk, and the room left to batches. apart: where plans are solved. gate: bounds all calls in flight."""

    engine: Engine
    records: BatchRecords
    files: StoredFiles
    share: Share
    gate: asyncio.Semaphore
    max_lines: int
    apart: Executor | None = None
    closing: asyncio.Event = field(default_factory=asyncio.Event)

    def now_ms(self) -> int:
        """The market's time."""
        return self.engine.rooms.clock.now_ms()
