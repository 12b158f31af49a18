"""Run a batch: plan what is left, execute it within the limits, plan again what did not fit, until nothing is left.

A line's order id is made from the batch and its ``custom_id``: after a crash the same file run again finds answers
that were paid but not written, and never pays for a line twice without saying so.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import orjson

from providers.terms import Offer

from .batch_replan import PlanFacts
from .batch_results import ResultFile
from .capacity import Slot
from .engine_grant import Grant
from .errors import InputInvalid, Reject, RejectCode, Rejected
from .events import Event
from .limits import Full, Load
from .money import format_usd, parse_usd
from .order import Completion, Order
from .plan_lines import LineFault, PlanLine
from .planning import PlannedBatch, ReadBatch, plan_batch, read_orders
from .wire import PlanOptions
from .wire_out import chat_completion_out, reject_out

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ["BatchRun", "RunReport", "batch_id_of"]

MAX_IN_FLIGHT: Final = 512
MAX_TRIES: Final = 5
"""How often a line whose sellers failed is tried again in a later round."""

MAX_IDLE_ROUNDS: Final = 3
"""Rounds without a single answer after which the rest is given up."""

ROUND_WAIT_MS: Final = 1_000

MAX_PLANNED: Final = 100_000
"""Lines one round plans, the first that have no result: what a round holds in memory does not grow with the batch."""

_TAKEN: Final = frozenset({RejectCode.IN_PROGRESS, RejectCode.DUPLICATE_DIFFERENT})
"""The id was used before and has no answer to replay; its content is the same, for the batch's id says so."""

Progress = Callable[["RunReport"], None]


@dataclass(slots=True)
class RunReport:
    """How far a run is: lines by what became of them, and money in nano-dollars.

    in_doubt: lines that were in flight when an earlier run died; they run again, and their first holds, in_doubt_nusd
    together, count until the sellers' usage is known.
    expected_nusd: what was planned for the served. replayed: found paid in the ledger, written without paying again.
    failovers: answers that a runner-up gave. cached_tokens: input that sellers read from their prompt caches.
    """

    requests: int = 0
    served: int = 0
    refused: int = 0
    replayed: int = 0
    skipped: int = 0
    in_doubt: int = 0
    in_doubt_nusd: int = 0
    cost_nusd: int = 0
    expected_nusd: int = 0
    rounds: int = 0
    failovers: int = 0
    cached_tokens: int = 0
    latency_ms: list[int] = field(default_factory=list)
    rejects: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    errors: list[LineFault] = field(default_factory=list)
    first_plan: PlannedBatch | None = None

    @property
    def finished(self) -> int:
        """Lines that need nothing more."""
        return self.served + self.refused + self.skipped

    def out(self) -> dict[str, Any]:
        """As plain values; ``plan`` is the first round's summary."""
        return {
            "requests": self.requests,
            "served": self.served,
            "refused": self.refused,
            "replayed": self.replayed,
            "skipped": self.skipped,
            "in_doubt": self.in_doubt,
            "in_doubt_usd": format_usd(self.in_doubt_nusd),
            "cost_usd": format_usd(self.cost_nusd),
            "expected_usd": format_usd(self.expected_nusd),
            "rounds": self.rounds,
            "failovers": self.failovers,
            "cached_tokens": self.cached_tokens,
            "rejects": dict(sorted(self.rejects.items())),
            "models": dict(self.models.most_common()),
            "errors": [{"line": fault.number, "message": fault.message} for fault in self.errors],
            "plan": self.first_plan.summary() if self.first_plan is not None else None,
        }


def batch_id_of(content: bytes | BinaryIO) -> str:
    """The id of a batch, from its bytes or its open file: the same has the same, so running it again continues it."""
    digest = hashlib.blake2b(digest_size=8)
    if isinstance(content, bytes):
        digest.update(content)
    else:
        while block := content.read(HASHED_BYTES):
            digest.update(block)
    return f"batch_{digest.hexdigest()}"


HASHED_BYTES: Final = 2**20


def _first(faults: BaseExceptionGroup[InputInvalid]) -> InputInvalid:
    found = faults.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found


class BatchRun:
    """One run of one batch into one result file."""

    def __init__(
        self,
        engine: Engine,
        batch_id: str,
        results: ResultFile,
        options: PlanOptions,
        progress: Progress | None = None,
    ) -> None:
        self._engine = engine
        self._batch_id = batch_id
        self._results = results
        self._options = options
        self._progress = progress
        self._gate = asyncio.Semaphore(MAX_IN_FLIGHT)
        self._tries: Counter[str] = Counter()
        self._last: dict[str, Reject] = {}
        self._sunk_nusd: Counter[str] = Counter()  # charged by tries that gave no answer
        self._before: PlanFacts | None = None
        self.report = RunReport()

    async def run(self, lines: Iterable[PlanLine | LineFault]) -> RunReport:
        """Execute all lines that have no result yet; every line ends as exactly one result."""
        batch = await read_orders(self._engine, lines)
        report, done = self.report, self._results.done
        report.requests, report.errors = len(batch), batch.faults
        todo = [row for row, custom_id in enumerate(batch.ids) if custom_id not in done]
        report.skipped = len(batch) - len(todo)
        idle = 0
        while todo and idle < MAX_IDLE_ROUNDS * -(-len(todo) // MAX_PLANNED):
            before = report.finished
            report.rounds += 1
            now, later = todo[:MAX_PLANNED], todo[MAX_PLANNED:]
            await self._round(batch.part(now))
            # what did not fit goes behind what was not planned yet: it cannot keep others out for ever
            todo = later + [row for row in now if batch.ids[row] not in done]
            idle = idle + 1 if report.finished == before else 0
            if todo and not later:
                waits = [
                    self._last[i].retry_after_ms or 0
                    for i in (batch.ids[row] for row in todo)
                    if i in self._last
                ]
                await asyncio.sleep(max(ROUND_WAIT_MS, min(waits, default=0)) / 1000)
        for row in todo:
            self._refuse(batch.ids[row], self._last[batch.ids[row]])
        return report

    async def _round(self, part: ReadBatch) -> None:
        plan = await plan_batch(self._engine, part, self._options)
        if self.report.first_plan is None:
            self.report.first_plan = plan
        self._tell(plan)
        queues: dict[int, deque[int]] = {}
        for row, column in enumerate(plan.plan.choice.tolist()):
            if column >= 0:
                queues.setdefault(column, deque()).append(row)
                continue
            reject = plan.rejects[row]
            self._last[part.ids[row]] = reject
            if not reject.code.again:
                self._refuse(part.ids[row], reject)
        try:
            async with asyncio.TaskGroup() as group:
                for column, queue in queues.items():
                    group.create_task(self._pace(plan, column, queue, group))
        except* InputInvalid as faults:  # a file that changed, a disk that is full: the first says it
            raise _first(faults) from None

    def _tell(self, plan: PlannedBatch) -> None:
        """Emit ``batch.replanned`` where lines of the last plan are planned again, with what is different now."""
        rooms = self._engine.rooms
        facts = PlanFacts.of(plan, rooms.capacity.rows)
        changed = None if self._before is None else facts.since(self._before)
        self._before = facts
        if changed is not None:
            told = {"batch_id": self._batch_id, "round": self.report.rounds, **changed}
            rooms.bus.emit(Event("batch.replanned", rooms.clock.now_ms(), told))

    async def _pace(
        self, plan: PlannedBatch, column: int, queue: deque[int], group: asyncio.TaskGroup
    ) -> None:
        """Start one offer's calls as fast as its seller's limits allow."""
        book, offer = plan.book, plan.book.offers[column]
        capacity = self._engine.rooms.capacity
        while queue:
            row = queue.popleft()
            load = Load(
                int(book.input_tokens[row, column]),
                int(book.output_tokens[row, column]),
                latency_ms=int(book.latency_ms_p50[row, column]),
            )
            await self._gate.acquire()
            taken = capacity.take(offer.provider, offer.model, load)
            if isinstance(taken, Full):
                self._gate.release()
                if taken.retry_after_ms is None:  # larger than a limit: the next round may plan it elsewhere
                    message = f"the request is larger than {taken.lack.row}"
                    reject = Reject(code=RejectCode.CAPACITY_EXHAUSTED, message=message)
                    self._last[plan.batch.ids[row]] = reject
                    continue
                queue.appendleft(row)
                await asyncio.sleep(max(1, taken.retry_after_ms) / 1000)
                continue
            group.create_task(self._one(plan, row, offer, taken))

    async def _one(self, plan: PlannedBatch, row: int, offer: Offer, slot: Slot) -> None:
        custom_id = plan.batch.ids[row]
        try:
            order = self._numbered(await plan.batch.order(self._engine, row), custom_id)
            grant = Grant(offer.provider, offer.model, offer.tier, slot)
            done = await self._engine.buy(order, grant=grant)
        except Rejected as refused:
            if refused.reject.code in _TAKEN:
                await self._taken(order, custom_id)
            else:
                self._failed(custom_id, refused.reject)
        else:
            self.report.expected_nusd += int(plan.book.cost_nusd[row, plan.plan.choice[row]])
            self._serve(custom_id, done)
        finally:
            slot.release()
            self._gate.release()
            if self._progress is not None:
                self._progress(self.report)

    def _numbered(self, order: Order, custom_id: str) -> Order:
        """The order under the id it has in this batch; a further try has an id of its own."""
        again = self._tries[custom_id]
        name = custom_id if len(custom_id) < 200 else hashlib.blake2b(custom_id.encode()).hexdigest()
        suffix = f":{again}" if again else ""
        return replace(order, order_id=f"{self._batch_id}:{name}{suffix}", keep_answer=True)

    async def _taken(self, order: Order, custom_id: str) -> None:
        """An earlier run used this order id and left no answer: count what that costs, and take the next id.

        What was settled is known from its history. What was in flight when that run died stays in doubt: its hold
        counts, whether it is still pending or has posted by now.
        """
        ledger = self._engine.rooms.ledger
        self._tries[custom_id] += 1
        record = await ledger.record(order.account, order.order_id)
        if record is None:
            return
        if record.history is not None:
            self._sunk_nusd[custom_id] += orjson.loads(record.history)["billed_nusd"]
            return
        held = await ledger.find(record.reservation_id)
        self.report.in_doubt += 1
        self.report.in_doubt_nusd += held.hold_nusd if held is not None else 0

    def _failed(self, custom_id: str, reject: Reject) -> None:
        """Decide what a refused line does next: a later round, or its end."""
        self._last[custom_id] = reject
        self._sunk_nusd[custom_id] += parse_usd(reject.facts.get("charged_usd", "0"))
        if reject.code is RejectCode.CAPACITY_EXHAUSTED:
            pass  # nothing was tried
        elif reject.code.again and self._tries[custom_id] < MAX_TRIES:
            self._tries[custom_id] += 1
        else:
            self._refuse(custom_id, reject)

    def _serve(self, custom_id: str, done: Completion) -> None:
        report = self.report
        report.served += 1
        report.replayed += done.replayed
        cost_nusd = done.cost_nusd + self._sunk_nusd.pop(custom_id, 0)
        report.cost_nusd += cost_nusd
        report.models[f"{done.provider}/{done.model}"] += 1
        report.latency_ms.append(done.latency_ms)
        report.failovers += len(done.attempts) > 1
        report.cached_tokens += done.usage.cache_read_tokens
        created_s = self._engine.rooms.clock.now_ms() // 1000
        self._results.write(
            {
                "id": done.order_id,
                "custom_id": custom_id,
                "cost_usd": format_usd(cost_nusd),
                "response": {
                    "status_code": 200,
                    "request_id": done.order_id,
                    "body": chat_completion_out(done, created_s),
                },
                "error": None,
            }
        )

    def _refuse(self, custom_id: str, reject: Reject) -> None:
        self.report.refused += 1
        self.report.rejects[reject.code.name] += 1
        out = reject_out(reject)
        cost_nusd = self._sunk_nusd.pop(custom_id, 0)
        self.report.cost_nusd += cost_nusd
        error = {"code": reject.code.name, "message": reject.message, "reject": out}
        with suppress(KeyError):
            self._last.pop(custom_id)
        self._results.write(
            {
                "id": f"{self._batch_id}:{custom_id}",
                "custom_id": custom_id,
                "cost_usd": format_usd(cost_nusd),
                "response": None,
                "error": error,
            }
        )
