"""One batch from where it stands to its end: validated, run, its lines written to files, its report made.

Whatever a crash leaves undone is done again by whoever takes the batch up: every step finds what the last one wrote.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from .batch_disk import read_json
from .batch_house import BatchHouse
from .batch_lines import refused_line
from .batch_outputs import write_outputs
from .batch_progress import Pace, Progress
from .batch_records import BatchRecord
from .batch_report import batch_report, write_report
from .batch_results import ResultFile, ResultTally
from .batch_validation import validate
from .batches import BatchRun, Circumstances
from .errors import InputInvalid, Reject, RejectCode
from .events import Event
from .plan_lines import RequestFile
from .wire import PlanOptions, Terms

__all__ = ["conduct"]

logger = logging.getLogger("negotiator.batches")

TICK_S: Final = 0.5
CANCEL_GRACE_S: Final = 10.0
"""How long calls in flight may go on after a batch was cancelled, so that what is nearly paid is not lost."""

CLOSE_GRACE_S: Final = 15.0
"""The same when the server closes."""

PLANNED_AT_ONCE: Final = 20_000
"""Lines of one plan: other people's requests go on between the steps of it."""

_ENDINGS: Final = {
    "expired": (
        "batch_expired",
        RejectCode.DEADLINE_PASSED,
        "This request could not be executed before the completion window expired.",
    ),
    "cancelled": (
        "batch_cancelled",
        RejectCode.CANCELLED,
        "This request was not executed: the batch was cancelled.",
    ),
    "failed": (
        "batch_failed",
        RejectCode.NO_PLAN_IN_TIME,
        "This request was not executed: the batch could not go on.",
    ),
    "completed": ("batch_failed", RejectCode.NO_PLAN_IN_TIME, "This request has no result."),
}


async def conduct(house: BatchHouse, record: BatchRecord) -> BatchRecord:
    """Take a batch to its end, or as far as it gets before the server closes.

    Raises StoreUnavailable and whatever nobody foresaw: then somebody takes it up again later.
    """
    if "in_progress" in record.moments:
        record = replace(record, restarts=record.restarts + 1)
    elif record.status == "cancelling":
        record = record.moved("cancelled", house.now_ms())
        house.records.save(record, durable=True)
    else:
        record = await _validated(house, record)
    if not record.ended and record.ending is None:
        record = await _Running(house, record).run()
    if record.ending is not None and not record.ended:
        record = await _finalized(house, record)
    if record.ended:
        facts = {"batch_id": record.batch_id, "account": record.account, "status": record.status}
        house.engine.rooms.bus.emit(Event("batch.ended", house.now_ms(), facts))
    return record


async def _validated(house: BatchHouse, record: BatchRecord) -> BatchRecord:
    path = house.records.input(record)
    found = await validate(path, record.endpoint, max_lines=house.max_lines)
    if found.errors:
        record = record.moved("failed", house.now_ms(), errors=found.errors)
    else:
        record = record.moved("in_progress", house.now_ms(), total=found.requests)
    house.records.save(record, durable=True)
    return record


class _Running:
    """The time between validation and the last result."""

    def __init__(self, house: BatchHouse, record: BatchRecord) -> None:
        self._house = house
        self._record = record

    async def run(self) -> BatchRecord:
        """Run until nothing is left, time is over, it is cancelled, or the server closes."""
        house, record = self._house, self._record
        with ResultFile(house.records.results(record)) as results:
            self._pace = Pace(house.now_ms(), results.tally.finished)
            run = self._make_run(results)
            ending, why = await self._watched(run, results.tally)
            self._note_plan(run)
            self._show(results.tally, durable=True)
            if ending is None:
                return self._record  # the server closes; another one goes on
            self._write_faults(run, results)
            code, reject, message = _ENDINGS[ending]
            await run.end(
                code, Reject(code=reject, message=why or message), restarted=self._record.restarts > 0
            )
            self._show(results.tally, durable=False)
            return self._ended(ending, why, results.tally)

    def _make_run(self, results: ResultFile) -> BatchRun:
        house, record = self._house, self._record
        within = Circumstances(
            account=record.account,
            defaults=Terms.model_validate(record.terms),
            until_ms=record.expires_ms,
            share=house.share,
            urgent=lambda: self._would_be_late(results.tally),
            apart=house.apart,
            gate=house.gate,
            planned_at_once=PLANNED_AT_ONCE,
        )
        options = PlanOptions.model_validate(record.options)
        return BatchRun(house.engine, record.batch_id, results, options, within=within)

    def _would_be_late(self, tally: ResultTally) -> bool:
        now_ms = self._house.now_ms()
        left_ms = self._pace.left_ms(now_ms, tally.finished, self._record.total)
        return left_ms is not None and left_ms > self._record.expires_ms - now_ms

    async def _watched(self, run: BatchRun, tally: ResultTally) -> tuple[str | None, str | None]:
        """How the run ended: its state to be, None = not at all; and why, where it failed."""
        lines = RequestFile(self._house.records.input(self._record))
        task = asyncio.ensure_future(run.run(lines))
        ending: str | None = "completed"
        try:
            while not task.done():
                ending, grace_s = self._asked_to_end()
                if ending != "completed":
                    await _stopped(run, task, grace_s)
                    break
                await asyncio.wait({task}, timeout=TICK_S)
                self._note_plan(run)
                self._show(tally, durable=False)
            if task.cancelled():
                await run.run(lines)  # it begins nothing more: this reads the lines that want an end
            else:
                task.result()
        except InputInvalid as error:
            logger.warning("%s cannot go on: %s", self._record.batch_id, error)
            return "failed", str(error)
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task
        return ending, None

    def _asked_to_end(self) -> tuple[str | None, float]:
        """Whether it must end now, and how long calls in flight may go on."""
        if self._house.closing.is_set():
            return None, CLOSE_GRACE_S
        asked = read_json(self._house.records.folder(self._record) / "cancel.json")
        if asked is not None:
            if self._record.status != "cancelling":
                self._record = self._record.moved("cancelling", asked["at_ms"])
            return "cancelled", CANCEL_GRACE_S
        if self._house.now_ms() >= self._record.expires_ms:
            return "expired", 0.0
        return "completed", 0.0

    def _write_faults(self, run: BatchRun, results: ResultFile) -> None:
        """Lines that are requests but no orders: each is refused as it would have been alone."""
        for fault in run.report.errors:
            if fault.custom_id is not None and fault.custom_id not in results.done:
                line_id = f"{self._record.batch_id}:{fault.custom_id}"
                reject = Reject(code=RejectCode.INVALID, message=fault.message)
                results.write(refused_line(line_id, fault.custom_id, reject, cost_nusd=0))

    def _note_plan(self, run: BatchRun) -> None:
        """Keep what the first plan promised: the report compares with it, also after a crash."""
        planned = run.report.first_plan
        if planned is not None and self._record.plan is None:
            summary = planned.summary()
            self._record = replace(self._record, plan={name: summary[name] for name in _OF_PLAN})

    def _show(self, tally: ResultTally, *, durable: bool) -> None:
        """Write down how far it is: whoever asks, in whatever process, reads it there."""
        now_ms = self._house.now_ms()
        progress = Progress.of(self._pace, tally, self._record.total, now_ms)
        self._record = replace(
            self._record,
            completed=tally.served,
            failed=tally.refused,
            usage=_usage(tally),
            progress={**progress.out(), "at_ms": now_ms},
        )
        self._house.records.save(self._record, durable=durable)

    def _ended(self, ending: str, why: str | None, tally: ResultTally) -> BatchRecord:
        record, now_ms = self._record, self._house.now_ms()
        stem = f"file-{record.batch_id.removeprefix('batch_')[:-1]}"
        if why is not None:
            error = {"code": "batch_failed", "line": None, "message": why, "param": None}
            record = replace(record, errors=(error,))
        record = replace(record, ending=ending, output_file_id=f"{stem}0", error_file_id=f"{stem}1")
        if ending in ("completed", "expired"):
            record = record.moved("finalizing", now_ms)
        self._house.records.save(record, durable=True)
        return record


async def _stopped(run: BatchRun, task: asyncio.Future[Any], grace_s: float) -> None:
    """Begin nothing more; wait for what is in flight; then cut it off. What was delivered is paid."""
    run.stop()
    await asyncio.wait({task}, timeout=grace_s)
    if not task.done():
        task.cancel()
        await asyncio.wait({task})


async def _finalized(house: BatchHouse, record: BatchRecord) -> BatchRecord:
    """Files and report of a batch that has all its results."""
    ending = record.ending
    assert ending is not None
    results, folder = house.records.results(record), house.records.folder(record)
    if results.exists():
        report = batch_report(results, record.plan)
        write_report({"batch_id": record.batch_id, **report}, folder)
        record = await write_outputs(house.files, record, results)
    record = record.moved(ending, house.now_ms())
    house.records.save(record, durable=True)
    for path in (results, house.records.input(record)):
        path.unlink(missing_ok=True)
    shutil.rmtree(results.with_name(f"{results.name}.batches"), ignore_errors=True)
    return record


_OF_PLAN: Final = (
    "requests",
    "served",
    "served_bound",
    "cost_usd",
    "cost_bound_usd",
    "gap",
    "termination",
    "baselines",
)


def _usage(tally: ResultTally) -> Mapping[str, int]:
    return {
        "input": tally.input_tokens,
        "cached": tally.cached_tokens,
        "output": tally.output_tokens,
        "reasoning": tally.reasoning_tokens,
    }
