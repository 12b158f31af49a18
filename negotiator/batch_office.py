"""All of a server's batch business: its files, its records, and the desk that runs batches; opened and closed together."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncGenerator
from concurrent.futures import Executor
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from .batch_desk import BatchDesk
from .batch_files import StoredFiles
from .batch_house import BatchHouse
from .batch_records import BatchRecords
from .batch_share import Share
from .config import Config
from .engine import Engine
from .store_open import state_directory

__all__ = ["BatchOffice", "open_office"]

IN_FLIGHT: Final = 256
"""Calls of batches at once: a server's processor time is shared too."""


@dataclass(frozen=True, slots=True)
class BatchOffice:
    """What requests about files and batches need."""

    files: StoredFiles
    records: BatchRecords
    desk: BatchDesk


@asynccontextmanager
async def open_office(
    engine: Engine, *, apart: Executor | None = None, holder: str
) -> AsyncGenerator[BatchOffice]:
    """Take up what a dead process left, and run batches while the block runs.

    holder: a name nobody else leads by. On a ledger in memory files and batches go with it.
    """
    config, rooms = engine.config, engine.rooms
    with ExitStack() as stack:
        root = _folder(config) or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="negotiator-")))
        files = StoredFiles(
            root, rooms.clock, max_file=config.batch.max_file, max_stored=config.batch.max_stored
        )
        records = BatchRecords(root, rooms.clock, files)
        house = BatchHouse(
            engine=engine,
            records=records,
            files=files,
            share=Share(rooms.capacity, workers=config.server.workers),
            gate=asyncio.Semaphore(IN_FLIGHT),
            max_lines=config.batch.max_lines,
            apart=apart,
        )
        desk = BatchDesk(house, holder=holder, running=config.batch.running)
        task = asyncio.ensure_future(desk.run())
        try:
            yield BatchOffice(files, records, desk)
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def _folder(config: Config) -> Path | None:
    """Where files and batches lie: as configured, else beside the ledger; None = the ledger is in memory."""
    if config.batch.folder is not None:
        return config.batch.folder
    parts = urlsplit(config.store.url or "embedded://")
    if parts.scheme == "embedded":
        path = Path(unquote(parts.path))
        return path.with_name(f"{path.stem}-batches") if parts.path.strip("/") else None
    place = parts.netloc.rpartition("@")[2] + parts.path
    return state_directory() / "batches" / hashlib.blake2s(place.encode(), digest_size=8).hexdigest()
