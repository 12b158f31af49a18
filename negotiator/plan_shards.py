"""A large file in shards: ranges of bytes that processes read and price side by side, put together in their order.

What comes out does not depend on who made which shard, nor on how many make them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any, Final, Protocol

from .errors import InputInvalid
from .plan_asked import read_asked
from .plan_book import PlanBook
from .plan_lines import LineFault, RequestFile, repeated
from .plan_pricing import PRICED_AT_ONCE, BookMaker, Pricing
from .plan_reading import Progress, ReadBatch

if TYPE_CHECKING:
    from solver.rows import Rows
    from solver.spread import Spread

    from .engine import Engine

__all__ = [
    "Engines",
    "Makers",
    "PricedShard",
    "Shard",
    "on_this_machine",
    "price_file",
    "price_shard",
    "price_told",
    "shards_of",
]

SHARD_BYTES: Final = 8 * 2**20
LARGE_BYTES: Final = 4 * SHARD_BYTES
"""From here on a file is worth the second it takes to start processes."""

MOST_PROCESSES: Final = 16
SAMPLE: Final = 1_000
"""Lines whose lengths say how many there are."""

WAITING: Final = 2
"""Shards under way per process: none runs dry, and few results wait."""


@dataclass(frozen=True, slots=True)
class Shard:
    """The lines of a file that begin within a range."""

    file: RequestFile
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class PricedShard:
    """What a shard came to. lines: how many it has, good, broken and blank; faults are numbered within it.

    book: None = ``missing`` names accounts whose default budget must be known first. accounts: the book's, in its
    numbering.
    """

    lines: int
    ids: list[str]
    offsets: list[int]
    numbers: list[int]
    faults: list[LineFault]
    book: PlanBook | None
    accounts: tuple[str, ...] = ()
    missing: frozenset[str] = frozenset()


class Makers(Protocol):
    """Whoever prices shards."""

    @property
    def count(self) -> int:
        """How many at a time."""
        ...

    @property
    def spread(self) -> Callable[[Rows], Spread] | None:
        """Where the solver's dense passes are made, None = here."""
        ...

    def submit(self, shard: Any, budgets: dict[str, int | None]) -> Future[PricedShard | InputInvalid]:
        """Price a shard, given default budgets by account."""
        ...


Engines = Callable[[Pricing, int], AbstractContextManager[Makers]]
"""Opens makers for a pricing and a file of so many bytes."""


def shards_of(file: RequestFile) -> list[Shard]:
    """The shards of a file. Raises InputInvalid when it cannot be read."""
    return [Shard(file, start, end) for start, end in file.ranges(SHARD_BYTES)]


def price_shard(pricing: Pricing, shard: Shard, budgets: dict[str, int | None]) -> PricedShard:
    """Read and price one shard. Raises InputInvalid when the file cannot be read."""
    intake = replace(pricing.intake, budgets=budgets)
    maker = BookMaker(pricing)
    made = PricedShard(0, [], [], [], [], None)
    lines, missing = 0, set[str]()
    source = shard.file.lines(shard.start, shard.end)
    while chunk := list(islice(source, PRICED_AT_ONCE)):
        lines += len(chunk)
        asked = read_asked(chunk, intake)
        made.ids.extend(asked.ids)
        made.offsets.extend(asked.offsets)
        made.numbers.extend(asked.numbers)
        made.faults.extend(asked.faults)
        missing |= asked.missing
        if not missing:
            maker.add(asked)
    if missing:
        return PricedShard(lines, [], [], [], [], None, missing=frozenset(missing))
    return replace(made, lines=lines, book=maker.book(), accounts=tuple(maker.accounts))


def price_told(pricing: Pricing, shard: Shard, budgets: dict[str, int | None]) -> PricedShard | InputInvalid:
    """The same; a user's mistake is told, not raised, so that it crosses processes as it is."""
    try:
        return price_shard(pricing, shard, budgets)
    except InputInvalid as error:
        return error


class _Here:
    """Prices in this process, at once."""

    count = 1
    spread = None

    def __init__(self, pricing: Pricing) -> None:
        self._pricing = pricing

    def submit(self, shard: Any, budgets: dict[str, int | None]) -> Future[PricedShard | InputInvalid]:
        done: Future[PricedShard | InputInvalid] = Future()
        done.set_result(price_told(self._pricing, shard, budgets))
        return done


class _Processes:
    """Prices in processes of this machine; each is sent the pricing once."""

    spread = None

    def __init__(self, pool: ProcessPoolExecutor, count: int) -> None:
        self._pool, self.count = pool, count

    def submit(self, shard: Any, budgets: dict[str, int | None]) -> Future[PricedShard | InputInvalid]:
        return self._pool.submit(_price_sent, shard, budgets)


_sent: list[Pricing] = []
"""In a process that prices: what it was sent when it was started."""


def _take(pricing: Pricing) -> None:
    _sent.append(pricing)


def _price_sent(shard: Shard, budgets: dict[str, int | None]) -> PricedShard | InputInvalid:
    return price_told(_sent[0], shard, budgets)


@contextmanager
def on_this_machine(pricing: Pricing, size: int, processes: int = 1) -> Iterator[Makers]:
    """This process prices a file of so many bytes, or ``processes`` others where it is large.

    Others import the main module again, so it must be importable without doing its work.
    """
    processes = min(processes, MOST_PROCESSES)
    if size < LARGE_BYTES or processes < 2:
        yield _Here(pricing)
        return
    # A fresh interpreter: a forked one would inherit locks that other threads hold.
    pool = ProcessPoolExecutor(processes, get_context("spawn"), _take, (pricing,))
    try:
        yield _Processes(pool, processes)
    finally:
        pool.shutdown(cancel_futures=True)


async def price_file(
    engine: Engine,
    file: RequestFile,
    pricing: Pricing,
    makers: Makers,
    progress: Progress | None = None,
) -> tuple[ReadBatch, BookMaker]:
    """All lines of a file, read and priced: shards are under way side by side and taken in their order."""
    batch = ReadBatch(file=file, account=pricing.intake.account)
    maker = BookMaker(pricing, file.lines_about(SAMPLE) * 21 // 20)
    budgets: dict[str, int | None] = {}
    seen: dict[str, int] = {}
    before = 0
    waiting: deque[tuple[Shard, Future[PricedShard | InputInvalid]]] = deque()
    todo = iter(shards_of(file))
    while True:
        for shard in islice(todo, max(0, WAITING * makers.count - len(waiting))):
            waiting.append((shard, makers.submit(shard, dict(budgets))))
        if not waiting:
            return batch, maker
        shard, future = waiting.popleft()
        made = future.result()
        if isinstance(made, InputInvalid):
            raise made
        if made.book is None:
            for account in made.missing - budgets.keys():
                budgets[account] = await engine.rooms.ledger.default_budget_nusd(account)
            waiting.appendleft((shard, makers.submit(shard, dict(budgets))))
            continue
        _merge(made, batch, maker, seen, before)
        before += made.lines
        if progress is not None:
            progress("read", len(batch))


def _merge(made: PricedShard, batch: ReadBatch, maker: BookMaker, seen: dict[str, int], before: int) -> None:
    """Append a shard: its lines numbered in the file, its accounts as in the batch, no id a second time."""
    assert made.book is not None
    keep, faults = [], [LineFault(before + fault.number, fault.message) for fault in made.faults]
    for row, (custom_id, number) in enumerate(zip(made.ids, made.numbers, strict=True)):
        first = seen.setdefault(custom_id, before + number)
        if first == before + number:
            keep.append(row)
        else:
            faults.append(repeated(before + number, custom_id, first))
    batch.faults += sorted(faults, key=lambda fault: fault.number)
    book = made.book
    numbers = maker.number(made.accounts)
    if len(numbers):
        book = replace(book, account=numbers[book.account])
    if len(keep) < len(made.ids):
        book = book.part(keep)
        batch.ids += [made.ids[row] for row in keep]
        batch.offsets.extend([made.offsets[row] for row in keep])
    else:
        batch.ids += made.ids
        batch.offsets.extend(made.offsets)
    maker.keep(book)
