"""The requests of a batch as orders, a chunk at a time: a file's are read again where they are needed, not kept."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from .errors import InputInvalid, Rejected
from .intake import DEFAULT_ACCOUNT
from .order import Order
from .plan_lines import LineFault, PlanLine, RequestFile

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ["CHUNK", "Progress", "ReadBatch", "read_orders"]

CHUNK: Final = 2_000

Progress = Callable[[str, int], None]
"""Told of a stage and how many lines it has done."""


@dataclass(slots=True)
class ReadBatch:
    """The requests of a batch in the order of their lines, and the lines that are none.

    orders: of requests that came without a file. A file's are known by where their lines begin (``offsets``) and are
    read again on demand, as requests of ``account`` where they name none.
    """

    orders: list[Order] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    faults: list[LineFault] = field(default_factory=list)
    file: RequestFile | None = None
    offsets: array[int] = field(default_factory=lambda: array("q"))
    account: str = DEFAULT_ACCOUNT

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, rows: Sequence[int]) -> ReadBatch:
        """Some of the requests, in the order given, without the faults."""
        return ReadBatch(
            orders=[] if self.file else [self.orders[row] for row in rows],
            ids=[self.ids[row] for row in rows],
            file=self.file,
            offsets=array("q", [self.offsets[row] for row in rows]) if self.file else self.offsets,
            account=self.account,
        )

    async def order(self, engine: Engine, row: int) -> Order:
        """One request. Raises InputInvalid when the file is no longer what it was."""
        if self.file is None:
            return self.orders[row]
        return (await self._again(engine, row, row + 1))[0]

    async def chunks(self, engine: Engine) -> AsyncIterator[list[Order]]:
        """All requests, some at a time."""
        for start in range(0, len(self), CHUNK):
            end = min(start + CHUNK, len(self))
            yield self.orders[start:end] if self.file is None else await self._again(engine, start, end)

    async def _again(self, engine: Engine, start: int, end: int) -> list[Order]:
        assert self.file is not None
        orders = []
        for row, line in enumerate(self.file.at(self.offsets[start:end]), start=start):
            if line.request.custom_id != self.ids[row]:
                raise InputInvalid(
                    f"{self.file.path}: expected {self.ids[row]!r} where it was first read, "
                    f"found {line.request.custom_id!r}"
                )
            orders.append(await _order(engine, line, self.account))
        return orders


async def read_orders(
    engine: Engine,
    lines: Iterable[PlanLine | LineFault],
    progress: Progress | None = None,
    *,
    account: str = DEFAULT_ACCOUNT,
    seen: Callable[[list[Order]], None] | None = None,
) -> ReadBatch:
    """Room 1 for every line: orders, and what is wrong with the lines that are none.

    seen: is given every chunk of orders once, in their order; those of a file are kept nowhere else.
    """
    batch = ReadBatch(file=lines if isinstance(lines, RequestFile) else None, account=account)
    chunk: list[Order] = []
    for line in lines:
        if isinstance(line, LineFault):
            batch.faults.append(line)
            continue
        try:
            order = await _order(engine, line, account)
        except Rejected as refused:
            batch.faults.append(LineFault(line.number, refused.reject.message))
            continue
        chunk.append(order)
        batch.ids.append(line.request.custom_id)
        batch.offsets.append(line.offset)
        if len(chunk) == CHUNK:
            chunk = _hand_over(batch, chunk, seen)
            await asyncio.sleep(0)  # a server goes on serving
            if progress is not None:
                progress("read", len(batch))
    _hand_over(batch, chunk, seen)
    return batch


def _hand_over(
    batch: ReadBatch, chunk: list[Order], seen: Callable[[list[Order]], None] | None
) -> list[Order]:
    if batch.file is None:
        batch.orders += chunk
    if seen is not None and chunk:
        seen(chunk)
    return []


async def _order(engine: Engine, line: PlanLine, account: str) -> Order:
    return await engine.order_for(line.request.body, line.request.terms, account=account)
