"""A simulated seller's batch endpoint: the same models, paced by the tier's own windows, done within a day or expired.

It lives as long as its process: after a restart it knows none of its batches, as a vendor that lost them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import orjson

from ..assembly import MessageBuilder
from ..batch import BatchHandle, BatchLine, BatchResult, BatchState, BatchStatus
from ..batch_dialect import DAY_MS, dropped
from ..errors import ProviderError, ProviderUnavailable, RateLimited, RequestRefused
from ..terms import RFQ, Delta, Quote, RateKind, Ticket
from ..tokens import count_chat

if TYPE_CHECKING:
    from .seller import SimulatedSeller

__all__ = ["ENQUEUED", "SimulatedBatches"]

ENQUEUED: Final = (RateKind.ENQUEUED_TOKENS, RateKind.ENQUEUED_REQUESTS)
"""What of a seller's limits counts at its batch endpoint."""

AT_ONCE: Final = 1_000
"""Lines of a batch that run at the same time."""


@dataclass(slots=True, eq=False)
class _Batch:
    name: str
    model: str
    total: int
    tokens: int
    results: dict[str, BatchResult] = field(default_factory=dict)
    work: asyncio.Task[None] | None = None
    word: str = "in progress"


class SimulatedBatches:
    """A :class:`providers.batch.BatchDriver` in front of a simulated seller."""

    max_lines: int = 50_000
    max_bytes: int = 50_000_000
    window_ms: int = DAY_MS
    findable: bool = True

    def __init__(self, seller: SimulatedSeller) -> None:
        self._seller = seller
        self._batches: dict[str, _Batch] = {}

    def encode(self, model: str, line: BatchLine) -> bytes:
        """A line as it is handed in."""
        return orjson.dumps({"id": line.line_id, "body": line.body, "max": line.max_output_tokens})

    async def submit(self, name: str, model: str, lines: Sequence[bytes]) -> BatchHandle:
        """Hand lines in as one batch; refused where more than its limits would wait."""
        asked = [orjson.loads(line) for line in lines]
        tokens = sum(count_chat(line["body"]) for line in asked)
        self._check(model, tokens, len(lines))
        batch_id = f"batch_{len(self._batches) + 1}"
        batch = self._batches[batch_id] = _Batch(name, model, len(lines), tokens)
        batch.work = asyncio.ensure_future(self._run(batch, model, asked))
        return BatchHandle(provider=self._seller.name, model=model, batch_id=batch_id)

    async def find(self, name: str, model: str, lines: int, since_ms: int) -> BatchHandle | None:
        """A batch by its name."""
        for batch_id, batch in self._batches.items():
            if batch.name == name:
                return BatchHandle(provider=self._seller.name, model=model, batch_id=batch_id)
        return None

    async def poll(self, handle: BatchHandle) -> BatchStatus:
        """How far it is."""
        batch = self._batch(handle)
        done = sum(result.delta is not None for result in batch.results.values())
        over = batch.work is not None and batch.work.done()
        return BatchStatus(
            state=BatchState.ENDED if over else BatchState.RUNNING,
            total=batch.total,
            done=done,
            failed=len(batch.results) - done,
            detail=batch.word,
        )

    async def results(self, handle: BatchHandle, status: BatchStatus) -> AsyncIterator[BatchResult]:
        """The results of a batch that ended."""
        for result in self._batch(handle).results.values():
            yield result

    async def cancel(self, handle: BatchHandle) -> None:
        """Stop it: lines that run are given up."""
        batch = self._batch(handle)
        batch.word = "canceled"
        if batch.work is not None:
            batch.work.cancel()
            await asyncio.gather(batch.work, return_exceptions=True)

    async def aclose(self) -> None:
        """Stop all batches."""
        work = [batch.work for batch in self._batches.values() if batch.work is not None]
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)

    def _check(self, model: str, tokens: int, requests: int) -> None:
        """Raises RateLimited where so much more may not wait."""
        waiting = [batch for batch in self._batches.values() if batch.work is None or not batch.work.done()]
        for limit in self._seller.limits:
            if limit.kind not in ENQUEUED or (limit.models is not None and model not in limit.models):
                continue
            alike = [batch for batch in waiting if limit.models is None or batch.model in limit.models]
            if limit.kind is RateKind.ENQUEUED_TOKENS:
                used, more = sum(batch.tokens for batch in alike), tokens
            else:
                used, more = sum(batch.total for batch in alike), requests
            if used + more > limit.amount:
                raise RateLimited(
                    f"{limit.kind}: {used} of {limit.amount} wait, {more} more do not fit", status=429
                )

    def _batch(self, handle: BatchHandle) -> _Batch:
        if handle.batch_id not in self._batches:
            raise RequestRefused(f"no batch {handle.batch_id}", status=404)
        return self._batches[handle.batch_id]

    async def _run(self, batch: _Batch, model: str, lines: Sequence[dict[str, Any]]) -> None:
        gate = asyncio.Semaphore(AT_ONCE)
        try:
            async with asyncio.timeout(self.window_ms / 1000), asyncio.TaskGroup() as group:
                for line in lines:
                    group.create_task(self._line(batch, model, line, gate))
            batch.word = "completed"
        except TimeoutError:
            batch.word = "expired"
        finally:
            for line in lines:
                batch.results.setdefault(line["id"], dropped(line["id"], batch.word))

    async def _line(self, batch: _Batch, model: str, line: dict[str, Any], gate: asyncio.Semaphore) -> None:
        async with gate:
            try:
                result = BatchResult(line_id=line["id"], delta=await self._answer(batch.name, model, line))
            except ProviderError as error:
                result = BatchResult(line_id=line["id"], error=error)
        batch.results[line["id"]] = result

    async def _answer(self, name: str, model: str, line: dict[str, Any]) -> Delta:
        """The whole answer of one line, which waits for room in the tier's windows."""
        quote = self._quote(name, model, line)
        ticket = Ticket(
            reservation_id=name,
            order_id=line["id"],
            quote=quote,
            body=line["body"],
            max_output_tokens=min(line["max"], quote.max_output_tokens),
        )
        while True:
            try:
                return await _whole(self._seller, ticket)
            except RateLimited as error:
                await asyncio.sleep((error.retry_after_ms or 1_000) / 1000)

    def _quote(self, name: str, model: str, line: dict[str, Any]) -> Quote:
        rfq = RFQ(
            rfq_id=name,
            input_tokens=count_chat(line["body"]),
            max_output_tokens=line["max"],
            tiers=("batch",),
            models=frozenset((model,)),
        )
        quotes = [item for item in self._seller.quote(rfq) if isinstance(item, Quote)]
        if not quotes:
            raise RequestRefused(f"{model} does not take this line", status=400)
        return quotes[0]


async def _whole(seller: SimulatedSeller, ticket: Ticket) -> Delta:
    message, last = MessageBuilder(), None
    async for delta in seller.execute(ticket):
        message.add(delta.delta)
        last = delta
    if last is None:
        raise ProviderUnavailable("nothing came")
    return Delta(
        delta=message.message(),
        finish_reason=last.finish_reason,
        usage=last.usage,
        billed_nusd=last.billed_nusd,
    )
