"""Run a batch: plan what is left, execute it within the limits, plan again what did not fit, until nothing is left.

A line's order id is made from the batch and its ``custom_id``: after a crash the same file run again finds answers
that were paid but not written, and never pays for a line twice without saying so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from providers.terms import Offer

from .batch_counts import RunReport
from .batch_lines import ended_line, refused_line, served_line
from .batch_queue import OfferQueue, queues_of, unplanned
from .batch_refusals import note_refusal, only_late
from .batch_replan import PlanFacts
from .batch_results import ResultFile, batch_id_of
from .batch_settling import Returns
from .batch_share import Room, Share
from .batch_slots import SlotClock
from .batch_tries import Tries
from .batch_vendor import VendorBatches
from .engine_grant import Grant
from .errors import InputInvalid, Reject, RejectCode, Rejected, StoreUnavailable
from .events import Event
from .intake import DEFAULT_ACCOUNT
from .limits import Full, Load
from .order import Completion, Order
from .plan_lines import LineFault, PlanLine
from .planning import PlannedBatch, ReadBatch, plan_batch, read_orders
from .wire import PlanOptions, Terms

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ["BatchRun", "Circumstances", "batch_id_of"]

MAX_IN_FLIGHT: Final = 512
MAX_TRIES: Final = 5
"""How often a line whose sellers failed is tried again in a later round."""

MAX_IDLE_ROUNDS: Final = 3
"""Rounds without a single answer after which the rest is given up, where there is no time to wait for."""

ROUND_WAIT_MS: Final = 1_000
MAX_ROUND_WAIT_MS: Final = 30_000
MAX_PLANNED: Final = 100_000
"""Lines one round plans, the first that have no result: what a round holds in memory does not grow with the batch."""

_TAKEN: Final = frozenset({RejectCode.IN_PROGRESS, RejectCode.DUPLICATE_DIFFERENT})
"""The id was used before and has no answer to replay; its content is the same, for the batch's id says so."""

Progress = Callable[[RunReport], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """How a batch runs beside other traffic; by default it has the market to itself.

    account, defaults: of lines that say nothing. until_ms: when to stop, None = when nothing is left or nothing moves.
    share: takes room at sellers in its stead. urgent: whether it would be late at the rate it goes. apart: where plans
    are solved, None = here and now. gate: bounds the calls in flight, of all batches that share it.
    """

    account: str = DEFAULT_ACCOUNT
    defaults: Terms | None = None
    until_ms: int | None = None
    share: Share | None = None
    urgent: Callable[[], bool] = bool
    apart: Executor | None = None
    gate: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAX_IN_FLIGHT))
    planned_at_once: int | None = None


def _first(faults: BaseExceptionGroup[InputInvalid | StoreUnavailable]) -> Exception:
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
        *,
        within: Circumstances | None = None,
    ) -> None:
        self._engine = engine
        self._batch_id = batch_id
        self._results = results
        self._options = options
        self._progress = progress
        self._within = within or Circumstances()
        self._tries = Tries(engine.rooms.ledger, batch_id)
        self._last: dict[str, Reject] = {}
        self._before: PlanFacts | None = None
        self._begun: set[str] = set()
        self._stopping = asyncio.Event()
        self._slots = SlotClock(engine.rooms.clock, options)
        self._batch = ReadBatch()
        self._row_of: dict[str, int] = {}
        self.report = RunReport()
        folder = results.path.with_name(f"{results.path.name}.batches")
        returns = Returns(self._order_again, self._tries.found, self._came, self._failed)
        self._vendors = VendorBatches(engine, batch_id, folder, self._tries, returns)

    async def run(self, lines: Iterable[PlanLine | LineFault]) -> RunReport:
        """Execute all lines that have no result yet; every line ends as exactly one result, unless it is stopped.

        Raises InputInvalid for a file that changes or a disk that is full, StoreUnavailable.
        """
        within = self._within
        self._batch = batch = await read_orders(
            self._engine, lines, account=within.account, defaults=within.defaults, until_ms=within.until_ms
        )
        report, done = self.report, self._results.done
        report.requests, report.errors = len(batch), batch.faults
        report.skipped = sum(custom_id in done for custom_id in batch.ids)
        try:
            await self._vendors.resume()
            await self._rounds(batch)
        finally:
            await self._vendors.close()
        return report

    async def _rounds(self, batch: ReadBatch) -> None:
        report, done, out = self.report, self._results.done, self._vendors.out
        todo = [row for row, name in enumerate(batch.ids) if name not in done and name not in out]
        idle, most = 0, self._within.planned_at_once or MAX_PLANNED
        while not self._stopping.is_set():
            if not (todo and self._hopeful(idle, -(-len(todo) // most))):
                if not out:
                    break
                waiting = len(out)
                await self._vendors.wait(self._stopping)
                todo += self._returned()
                if len(out) < waiting:
                    idle = 0  # there is room at its endpoint again
                continue
            before = report.finished + len(out)
            report.rounds += 1
            now, later = todo[:most], todo[most:]
            await self._round(batch.part(now))
            # what did not fit goes behind what was not planned yet: it cannot keep others out for ever
            rest = (row for row in now if not (batch.ids[row] in done or batch.ids[row] in out))
            todo = list(dict.fromkeys((*later, *rest, *self._returned())))
            slot_ms = self._slots.wait_ms
            idle = idle + 1 if report.finished + len(out) == before and slot_ms is None else 0
            if todo and not later:
                await self._pause(slot_ms or self._wait_ms(todo, idle))
        if not self._stopping.is_set():
            for row in todo:
                await self._turn_away(batch, row, self._last[batch.ids[row]])

    def stop(self) -> None:
        """Begin nothing more; :meth:`run` returns when what is in flight has ended."""
        self._stopping.set()

    async def end(self, code: str, reject: Reject, *, restarted: bool) -> None:
        """Give every line that has no result one: its answer, if it was paid, else an error and what it cost.

        code: as OpenAI's results call it; reject: why, as the market does. restarted: an earlier process may have begun
        any of them. Call it when :meth:`run` is over.
        """
        await self._vendors.resume()
        await self._vendors.recall()
        for row, custom_id in enumerate(self._batch.ids):
            if custom_id in self._results.done:
                continue
            if restarted or custom_id in self._begun:
                done = await self._tries.found(self._within.account, custom_id)
                if done is not None:
                    self._serve(custom_id, done)
                    continue
            with suppress(InputInvalid):  # a file that changed is why a batch ends, not why its end fails
                await note_refusal(self._engine, self._batch, row, reject, self._tries)
            sunk_nusd, doubt_nusd = self._tries.end(custom_id)
            self._results.write(
                ended_line(
                    f"{self._batch_id}:{custom_id}",
                    custom_id,
                    code,
                    reject.message,
                    cost_nusd=sunk_nusd,
                    in_doubt_nusd=doubt_nusd,
                )
            )
            await asyncio.sleep(0)

    def _hopeful(self, idle: int, parts: int) -> bool:
        """Whether another round may bring something: while there is time, or while rounds bring answers."""
        return self._within.until_ms is not None or idle < MAX_IDLE_ROUNDS * parts

    def _wait_ms(self, todo: list[int], idle: int) -> int:
        """Until the first of the rest may fit; longer where several rounds brought nothing."""
        waits = [
            self._last[i].retry_after_ms or 0
            for i in (self._batch.ids[row] for row in todo)
            if i in self._last
        ]
        grown_ms = ROUND_WAIT_MS << min(idle, 5) if self._within.until_ms is not None else ROUND_WAIT_MS
        return max(min(grown_ms, MAX_ROUND_WAIT_MS), min(waits, default=0))

    async def _pause(self, wait_ms: int) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_ms / 1000):
                await self._stopping.wait()

    async def _round(self, part: ReadBatch) -> None:
        options, elapsed_ms = self._options_now(), self._slots.elapsed_ms
        plan = await plan_batch(self._engine, part, options, apart=self._within.apart, elapsed_ms=elapsed_ms)
        self._slots.planned(plan)
        if self.report.first_plan is None:
            self.report.first_plan = plan
        self._tell(plan)
        for row in unplanned(plan):
            reject = plan.rejects[row]
            self._last[part.ids[row]] = reject
            if not reject.code.again and not await only_late(self._engine, part, row, reject):
                await self._turn_away(part, row, reject)
        try:
            async with asyncio.TaskGroup() as group:
                for queue in queues_of(plan):
                    if self._vendors.takes(queue.offer):
                        group.create_task(self._vendors.send(queue, self._late, self._turned_down))
                    else:
                        group.create_task(self._pace(queue, group))
        except* (InputInvalid, StoreUnavailable) as faults:  # the first says it
            raise _first(faults) from None

    def _options_now(self) -> PlanOptions:
        """The options with what is left of the time and of the batch's budget."""
        changed: dict[str, int] = {}
        if self._within.until_ms is not None:
            changed["horizon_ms"] = max(1_000, self._within.until_ms - self._engine.rooms.clock.now_ms())
        if self._options.total_budget_usd is not None:
            tally = self._results.tally
            spent_nusd = tally.cost_nusd + tally.in_doubt_nusd
            changed["total_budget_usd"] = max(0, self._options.total_budget_usd - spent_nusd)
        return self._slots.left(self._options).model_copy(update=changed)

    def _tell(self, plan: PlannedBatch) -> None:
        """Emit ``batch.replanned`` where lines of the last plan are planned again, with what is different now."""
        rooms = self._engine.rooms
        facts = PlanFacts.of(plan, rooms.capacity.rows)
        changed = None if self._before is None else facts.since(self._before)
        self._before = facts
        if changed is not None:
            told = {"batch_id": self._batch_id, "round": self.report.rounds, **changed}
            rooms.bus.emit(Event("batch.replanned", rooms.clock.now_ms(), told))

    async def _pace(self, queue: OfferQueue, group: asyncio.TaskGroup) -> None:
        """Start one offer's calls as fast as its seller's limits allow."""
        rows, gate = queue.rows, self._within.gate
        while rows and not self._stopping.is_set():
            row = rows.popleft()
            if self._late(queue.latency_ms_p95(row)):
                continue
            await gate.acquire()
            taken = None if self._stopping.is_set() else self._take(queue.offer, queue.load(row))
            if taken is not None and not isinstance(taken, Full):
                group.create_task(self._one(queue, row, taken))
                continue
            gate.release()
            if taken is None:
                return
            if taken.retry_after_ms is None:  # larger than a limit: the next round may plan it elsewhere
                await self._too_large(queue.plan.batch, row, taken)
                continue
            rows.appendleft(row)
            await self._pause(max(1, taken.retry_after_ms))

    def _take(self, offer: Offer, load: Load) -> Room | Full:
        share = self._within.share
        if share is not None:
            return share.take(offer.provider, offer.model, load, urgent=self._within.urgent())
        return self._engine.rooms.capacity.take(offer.provider, offer.model, load)

    def _late(self, latency_ms: int) -> bool:
        """Whether a call begun now would probably not end in time."""
        until_ms = self._within.until_ms
        return until_ms is not None and self._engine.rooms.clock.now_ms() + latency_ms > until_ms

    async def _too_large(self, batch: ReadBatch, row: int, full: Full) -> None:
        custom_id, message = batch.ids[row], f"the request is larger than {full.lack.row}"
        self._last[custom_id] = reject = Reject(code=RejectCode.CAPACITY_EXHAUSTED, message=message)
        tried = self._tries.failed(custom_id, reject, called=False)
        if self._within.until_ms is not None and tried > MAX_TRIES:
            await self._turn_away(batch, row, reject)

    async def _one(self, queue: OfferQueue, row: int, slot: Room) -> None:
        batch, offer = queue.plan.batch, queue.offer
        custom_id = batch.ids[row]
        self._begun.add(custom_id)
        try:
            order = await batch.order(self._engine, row, planned=False)
            order = self._slots.hurried(self._tries.numbered(order, custom_id))
            grant = Grant(offer.provider, offer.model, offer.tier, slot)
            done = await self._engine.buy(order, grant=grant)
        except Rejected as refused:
            await self._turned_down(order, custom_id, refused)
        else:
            self.report.expected_nusd += queue.expected_nusd(row)
            self._serve(custom_id, done)
        finally:
            slot.release()
            self._within.gate.release()
            if self._progress is not None:
                self._progress(self.report)

    async def _turned_down(self, order: Order, custom_id: str, refused: Rejected) -> None:
        """An order that was not let in or not served: another one has its id, or it is tried again or refused."""
        if refused.reject.code not in _TAKEN:
            self._failed(custom_id, refused.reject)
            return
        await self._tries.taken(order.account, custom_id)
        self.report.in_doubt, self.report.in_doubt_nusd = self._tries.in_doubt, self._tries.in_doubt_nusd

    async def _order_again(self, custom_id: str) -> Order:
        return await self._batch.order(self._engine, self._row(custom_id), planned=False)

    def _returned(self) -> list[int]:
        """Lines that vendors' batches did not answer and that are not refused either."""
        return [self._row(name) for name in self._vendors.returned() if name not in self._results.done]

    def _row(self, custom_id: str) -> int:
        if not self._row_of:
            self._row_of = {name: row for row, name in enumerate(self._batch.ids)}
        return self._row_of[custom_id]

    def _failed(self, custom_id: str, reject: Reject) -> None:
        """Decide what a refused line does next: a later round, or its end."""
        if custom_id in self._results.done:
            return
        self._last[custom_id] = reject
        if reject.code is RejectCode.CAPACITY_EXHAUSTED and "charged_usd" not in reject.facts:
            return  # nothing was tried
        tried = self._tries.failed(custom_id, reject)
        if not reject.code.again or tried > MAX_TRIES:
            self._refuse(custom_id, reject)

    def _came(self, custom_id: str, done: Completion) -> None:
        """An answer by way of a vendor's batch; it may be there already, from before a crash."""
        if custom_id not in self._results.done:
            self.report.expected_nusd += 0 if done.replayed else done.expected_nusd
            self._serve(custom_id, done)
            if self._progress is not None:
                self._progress(self.report)

    def _serve(self, custom_id: str, done: Completion) -> None:
        report = self.report
        report.served += 1
        report.replayed += done.replayed
        sunk_nusd, doubt_nusd = self._end(custom_id)
        cost_nusd = done.cost_nusd + sunk_nusd
        report.cost_nusd += cost_nusd
        report.models[f"{done.provider}/{done.model}"] += 1
        report.latency_ms.append(done.latency_ms)
        report.failovers += len(done.attempts) > 1
        report.cached_tokens += done.usage.cache_read_tokens
        created_s = self._engine.rooms.clock.now_ms() // 1000
        body = self._batch.answer(custom_id, done, created_s)
        self._results.write(served_line(custom_id, done, body, cost_nusd=cost_nusd, in_doubt_nusd=doubt_nusd))

    async def _turn_away(self, batch: ReadBatch, row: int, reject: Reject) -> None:
        """No plan served it, and none will."""
        await note_refusal(self._engine, batch, row, reject, self._tries)
        self._refuse(batch.ids[row], reject)

    def _refuse(self, custom_id: str, reject: Reject) -> None:
        self.report.refused += 1
        self.report.rejects[reject.code.name] += 1
        sunk_nusd, doubt_nusd = self._end(custom_id)
        self.report.cost_nusd += sunk_nusd
        line_id = f"{self._batch_id}:{custom_id}"
        self._results.write(
            refused_line(line_id, custom_id, reject, cost_nusd=sunk_nusd, in_doubt_nusd=doubt_nusd)
        )

    def _end(self, custom_id: str) -> tuple[int, int]:
        self._begun.discard(custom_id)
        self._last.pop(custom_id, None)
        return self._tries.end(custom_id)
