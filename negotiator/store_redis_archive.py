"""Rows leave Redis: one worker at a time moves them from the streams to append-only files, recounting as it goes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import orjson

from .store_archive import RowArchive
from .store_audit import Recount, Sums
from .store_redis_keys import Tree, row_of
from .store_redis_link import Link, Script
from .store_rows import Row

__all__ = ["StreamArchive", "recount"]

logger = logging.getLogger("negotiator.store")

BATCH_ROWS: Final = 500
"""Rows moved in one step: a few milliseconds of the worker's time."""

MAX_BATCHES: Final = 20
"""Steps for one tree in one run; the next run goes on."""


async def recount(
    link: Link, script: Script, tree: Tree, names: Sequence[str], archived: Iterable[Row] | None = None
) -> str | None:
    """Recount one tree from its base and the rows still in Redis, at one instant; the first misfit in words.

    archived: rows to recount from in place of the base.
    """
    keys = [tree.rows, tree.seq, tree.base, *(tree.account(name) for name in names)]
    base, entries, sums = await link.script(script, keys, ("standing", 0, 0, 0))
    checkpoint = None if base is None else orjson.loads(base)
    if archived is None:
        count = Recount(checkpoint)
    else:
        count = Recount()
        safe = 0 if checkpoint is None else checkpoint["seq"]
        count.feed(row for row in archived if row.seq <= safe)
    count.feed(map(row_of, entries))
    return count.compare(_sums(sums))


def _sums(found: Sequence[Sequence[Any]]) -> Mapping[str, Sums]:
    return {values[0].decode(): Sums(*map(int, values[1:])) for values in found if values[0] is not None}


class StreamArchive:
    """Moves the rows of all trees to ``directory/<tree>/rows-*.jsonl``."""

    def __init__(self, link: Link, directory: Path) -> None:
        self._link = link
        self._directory = directory
        self._script = Script("store_redis_rows.lua", "store_redis_accounts.lua")
        self._files: dict[str, RowArchive] = {}

    def files(self, tree: Tree) -> RowArchive:
        """Where the rows of a tree go."""
        return self._files.setdefault(tree.tag, RowArchive(self._directory / tree.tag))

    async def run(self, trees: Sequence[Tree]) -> int:
        """Move what is new in all trees; gives how many rows. Rows that do not fit stay where they are."""
        moved = 0
        for tree in trees:
            for _ in range(MAX_BATCHES):
                batch = await self._move(tree)
                moved += batch
                if batch < BATCH_ROWS:
                    break
        return moved

    async def _move(self, tree: Tree) -> int:
        base = await self._link.call(tree.base, "HGET", tree.base, "body")
        count = Recount(None if base is None else orjson.loads(base))
        after = f"({count.seq}-0"
        entries = await self._link.call(tree.rows, "XRANGE", tree.rows, after, "+", "COUNT", BATCH_ROWS)
        if not entries:
            return 0
        rows = [row_of(entry) for entry in entries]
        fault = count.feed(rows)
        if fault is not None:
            logger.error("rows of tree %s stay in Redis: %s", tree.tag, fault)
            return 0
        try:
            await asyncio.to_thread(self.files(tree).append, rows)
        except OSError as error:
            logger.error("rows of tree %s stay in Redis: %s", tree.tag, error)
            return 0
        args = ("trim", 0, 0, 0, rows[-1].seq, orjson.dumps(count.save()))
        await self._link.script(self._script, [tree.rows, tree.base], args)
        return len(rows)
