"""The requests of a batch as orders, a chunk at a time: a file's are read again where they are needed, not kept."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from .errors import InputInvalid, Rejected
from .intake import DEFAULT_ACCOUNT
from .order import Order
from .plan_lines import LineFault, PlanLine, RequestFile
from .wire import Terms

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ["CHUNK", "Progress", "ReadBatch", "read_orders"]

CHUNK: Final = 2_000
YIELD: Final = 64
"""Lines read between two looks at who else wants to go on: a server that plans keeps answering."""

Progress = Callable[[str, int], None]
"""Told of a stage and how many lines it has done."""


@dataclass(slots=True)
class ReadBatch:
    """The requests of a batch in the order of their lines, and the lines that are none.

    orders: of requests that came without a file. A file's are known by where their lines begin (``offsets``) and are
    read again on demand, as requests of ``account`` where they name none and under ``defaults`` where they say nothing.
    until_ms: when all must be done, None = nobody waits: orders are planned with a deadline no later than that.
    """

    orders: list[Order] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    faults: list[LineFault] = field(default_factory=list)
    file: RequestFile | None = None
    offsets: array[int] = field(default_factory=lambda: array("q"))
    account: str = DEFAULT_ACCOUNT
    defaults: Terms | None = None
    until_ms: int | None = None

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
            defaults=self.defaults,
            until_ms=self.until_ms,
        )

    async def order(self, engine: Engine, row: int, *, planned: bool = True) -> Order:
        """One request; with ``planned`` False under its own deadline alone.

        Raises InputInvalid when the file is no longer what it was.
        """
        order = self.orders[row] if self.file is None else (await self._again(engine, row, row + 1))[0]
        return self._in_time(engine, [order])[0] if planned else order

    async def chunks(self, engine: Engine) -> AsyncIterator[list[Order]]:
        """All requests, some at a time."""
        for start in range(0, len(self), CHUNK):
            end = min(start + CHUNK, len(self))
            orders = self.orders[start:end] if self.file is None else await self._again(engine, start, end)
            yield self._in_time(engine, orders)

    def _in_time(self, engine: Engine, orders: list[Order]) -> list[Order]:
        if self.until_ms is None:
            return orders
        left_ms = max(1, self.until_ms - engine.rooms.clock.now_ms())
        return [
            order
            if order.deadline_ms is not None and order.deadline_ms <= left_ms
            else replace(order, deadline_ms=left_ms)
            for order in orders
        ]

    async def _again(self, engine: Engine, start: int, end: int) -> list[Order]:
        assert self.file is not None
        orders = []
        for row, line in enumerate(self.file.at(self.offsets[start:end]), start=start):
            if line.request.custom_id != self.ids[row]:
                raise InputInvalid(
                    f"{self.file.path}: expected {self.ids[row]!r} where it was first read, "
                    f"found {line.request.custom_id!r}"
                )
            orders.append(await _order(engine, line, self.account, self.defaults))
            if row % YIELD == 0:
                await asyncio.sleep(0)
        return orders


async def read_orders(
    engine: Engine,
    lines: Iterable[PlanLine | LineFault],
    progress: Progress | None = None,
    *,
    account: str = DEFAULT_ACCOUNT,
    defaults: Terms | None = None,
    until_ms: int | None = None,
    seen: Callable[[list[Order]], None] | None = None,
) -> ReadBatch:
    """Room 1 for every line: orders, and what is wrong with the lines that are none.

    account, defaults, until_ms: see :class:`ReadBatch`. seen: is given every chunk of orders once, in their order; those of a file are kept nowhere else.
    """
    file = lines if isinstance(lines, RequestFile) else None
    batch = ReadBatch(file=file, account=account, defaults=defaults, until_ms=until_ms)
    chunk: list[Order] = []
    for line in lines:
        if isinstance(line, LineFault):
            batch.faults.append(line)
            continue
        try:
            order = await _order(engine, line, account, defaults)
        except Rejected as refused:
            fault = LineFault(line.number, refused.reject.message, line.request.custom_id)
            batch.faults.append(fault)
            continue
        chunk.append(order)
        batch.ids.append(line.request.custom_id)
        batch.offsets.append(line.offset)
        if len(batch) % YIELD == 0:
            await asyncio.sleep(0)
        if len(chunk) == CHUNK:
            chunk = _hand_over(batch, chunk, seen)
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


async def _order(engine: Engine, line: PlanLine, account: str, defaults: Terms | None) -> Order:
    terms = line.request.terms if defaults is None else line.request.terms.over(defaults)
    return await engine.order_for(line.request.body, terms, account=account)
