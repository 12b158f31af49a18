"""The requests of a batch as orders, a chunk at a time: a file's are read again where they are needed, not kept."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, zip_longest
from typing import TYPE_CHECKING, Any, Final

from .errors import Rejected
from .intake import DEFAULT_ACCOUNT
from .line_bodies import answer_out, asked_of
from .order import Completion, Order
from .plan_asked import Asked, Intake, read_asked
from .plan_lines import LineFault, PlanLine, RequestFile, repeated
from .wire import CHAT, EMBEDDINGS, RequestLine, Terms
from .wire_out import chat_completion_out

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ["CHUNK", "Progress", "ReadBatch", "read_orders"]

CHUNK: Final = 2_000
"""Lines priced at a time."""

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
    others: lines that are no chats, by id: where they begin, or as they came. embeds: whether any asks for embeddings.
    """

    orders: list[Order] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    faults: list[LineFault] = field(default_factory=list)
    file: RequestFile | None = None
    offsets: array[int] = field(default_factory=lambda: array("q"))
    account: str = DEFAULT_ACCOUNT
    defaults: Terms | None = None
    until_ms: int | None = None
    others: dict[str, int | RequestLine] = field(default_factory=dict)
    embeds: bool = False

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, rows: Sequence[int]) -> ReadBatch:
        """Some of the requests, in the order given, without the faults."""
        return replace(
            self,
            orders=[] if self.file else [self.orders[row] for row in rows],
            ids=[self.ids[row] for row in rows],
            faults=[],
            offsets=array("q", [self.offsets[row] for row in rows]) if self.file else self.offsets,
        )

    def answer(self, custom_id: str, done: Completion, created_s: int) -> dict[str, Any]:
        """The answer to a line as its endpoint gives it. Raises InputInvalid when the file is no longer what it was."""
        found = self.others.get(custom_id)
        if found is None:
            return chat_completion_out(done, created_s)
        if isinstance(found, int):
            assert self.file is not None, "a line that has a place is of a file"
            (line,) = self.file.at([found])
            found = line.request
            if found.custom_id != custom_id:
                raise self.file.changed(custom_id, found.custom_id)
        return answer_out(found, done, created_s)

    def left_ms(self, now_ms: int) -> int | None:
        """How much time there is for all of it, None = any."""
        return None if self.until_ms is None else max(1, self.until_ms - now_ms)

    async def order(self, engine: Engine, row: int, *, planned: bool = True) -> Order:
        """One request; with ``planned`` False under its own deadline alone.

        Raises InputInvalid when the file is no longer what it was.
        """
        if self.file is None:
            order = self.orders[row]
        else:
            (line,) = self.file.at([self.offsets[row]])
            if line.request.custom_id != self.ids[row]:
                raise self.file.changed(self.ids[row], line.request.custom_id)
            order = await _order(engine, line, self.account, self.defaults)
        left_ms = self.left_ms(engine.rooms.clock.now_ms()) if planned else None
        if left_ms is None or (order.deadline_ms is not None and order.deadline_ms <= left_ms):
            return order
        return replace(order, deadline_ms=left_ms)

    async def asked(self, engine: Engine) -> AsyncIterator[Asked]:
        """What all requests ask, some at a time. Raises InputInvalid when the file is no longer what it was."""
        intake = Intake(engine.config.profiles, self.account, self.defaults)
        for start in range(0, len(self), CHUNK):
            end = min(start + CHUNK, len(self))
            if self.file is None:
                part = Asked()
                for row in range(start, end):
                    part.add(self.orders[row])
                    if row % YIELD == 0:
                        await asyncio.sleep(0)
                yield part
                continue
            places = self.offsets[start:end]
            lines = [(0, at, line) for at, line in zip(places, self.file.raw(places), strict=True)]
            part = await _asked(engine, lines, intake)
            for expected, found in zip_longest(self.ids[start:end], part.ids, fillvalue="nothing"):
                if expected != found:
                    raise self.file.changed(expected, found)
            yield part


async def read_orders(
    engine: Engine,
    lines: Iterable[PlanLine | LineFault],
    progress: Progress | None = None,
    *,
    account: str = DEFAULT_ACCOUNT,
    defaults: Terms | None = None,
    until_ms: int | None = None,
) -> ReadBatch:
    """Room 1 for every line: orders, and what is wrong with the lines that are none. A file's orders are not kept.

    account, defaults, until_ms: see :class:`ReadBatch`.
    """
    batch = ReadBatch(account=account, defaults=defaults, until_ms=until_ms)
    if isinstance(lines, RequestFile):
        batch.file = lines
        await _read_file(engine, lines, batch, progress)
        return batch
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
        batch.orders.append(order)
        batch.ids.append(line.request.custom_id)
        if line.request.url != CHAT:
            batch.others[line.request.custom_id] = line.request
            batch.embeds |= line.request.url == EMBEDDINGS
        if len(batch) % YIELD == 0:
            await asyncio.sleep(0)
        if progress is not None and len(batch) % CHUNK == 0:
            progress("read", len(batch))
    return batch


async def _read_file(engine: Engine, file: RequestFile, batch: ReadBatch, progress: Progress | None) -> None:
    intake, seen = Intake(engine.config.profiles, batch.account, batch.defaults), dict[str, int]()
    source = file.lines(*file.whole)
    while chunk := list(islice(source, CHUNK)):
        asked = await _asked(engine, chunk, intake)
        faults = list(asked.faults)
        for custom_id, number, offset in zip(asked.ids, asked.numbers, asked.offsets, strict=True):
            first = seen.setdefault(custom_id, number)
            if first != number:
                faults.append(repeated(number, custom_id, first))
                continue
            batch.ids.append(custom_id)
            batch.offsets.append(offset)
            if custom_id in asked.others:
                batch.others[custom_id] = offset
        batch.embeds |= EMBEDDINGS in asked.others.values()
        batch.faults += sorted(faults, key=lambda fault: fault.number)
        if progress is not None:
            progress("read", len(batch))


async def _asked(engine: Engine, lines: Sequence[tuple[int, int, Any]], intake: Intake) -> Asked:
    """What lines ask; default budgets that are not known yet are looked up and entered in ``intake``."""
    while True:
        asked = Asked()
        for start in range(0, len(lines), YIELD):
            read_asked(lines[start : start + YIELD], intake, asked)
            await asyncio.sleep(0)
        if not asked.missing:
            return asked
        for account in asked.missing:
            intake.budgets[account] = await engine.rooms.ledger.default_budget_nusd(account)


async def _order(engine: Engine, line: PlanLine, account: str, defaults: Terms | None) -> Order:
    body, terms = asked_of(line.request)
    return await engine.order_for(body, terms if defaults is None else terms.over(defaults), account=account)
