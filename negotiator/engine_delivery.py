"""Rooms 6 and 7 of one order: the answer on its way to the buyer, and its settlement whatever happens."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from dataclasses import replace
from functools import partial
from typing import Final

import orjson

from providers.errors import ProviderError
from providers.terms import Delta, Fill
from providers.tokens import count_text

from .engine_book import Job
from .engine_grant import Grant
from .engine_rooms import Rooms
from .errors import Reject, RejectCode, Rejected, StoreError
from .events import Event
from .execution import Execution, Outcome
from .execution_call import Slot
from .intake import prompt_text
from .limits import Full, load_of
from .money import format_usd
from .order import Assignment, Candidate, Chunk, Completion, Order, Reservation
from .record import completion_kept
from .store import Note

__all__ = ["Check", "Delivery", "longest_ms"]

PATIENCE: Final = 3
"""An attempt is never abandoned before this many times the p95 that was quoted."""

Check = Callable[[Fill], bool]
"""A buyer's own judgement of an answer, asked before a two-tier order accepts it."""

_CODES = {
    "deadline": RejectCode.DEADLINE_PASSED,
    "cancelled": RejectCode.CANCELLED,
    "full": RejectCode.CAPACITY_EXHAUSTED,
}


def _patience_ms(rooms: Rooms, candidate: Candidate) -> int:
    """A multiple of the seller's observed p99, and never before what it quoted: slow tiers are slow on purpose."""
    quote = candidate.quote
    observed_ms = rooms.capacity.abandon_after_ms(quote.provider, quote.model, load_of(candidate))
    return max(observed_ms, PATIENCE * quote.latency_ms.p95)


def longest_ms(rooms: Rooms, order: Order, assignment: Assignment) -> int:
    """How long all the calls of an order may take together."""
    if order.deadline_ms is not None:
        return order.deadline_ms
    return sum(_patience_ms(rooms, candidate) for candidate in assignment.candidates)


class Delivery:
    """An order that was let in: iterate its chunks to the end, or close the iterator to hang up.

    The last chunk carries the completion. When nothing is delivered there is no last chunk and ``job.reject`` says
    why. Either way the hold is resolved when the iterator is closed.
    """

    def __init__(
        self,
        rooms: Rooms,
        job: Job,
        assignment: Assignment,
        reservation: Reservation,
        check: Check | None = None,
        grant: Grant | None = None,
    ) -> None:
        assert job.rfq is not None, "an order is executed on quotes, and quotes answer an RFQ"
        self.job = job
        self.reservation = reservation
        self._rooms = rooms
        self._check = check
        self._grant = grant
        self.immediate = rooms.ledger.immediate
        self._patience_ms: dict[str, int] = {}
        self._execution = Execution(
            job.order,
            job.rfq,
            assignment,
            reservation,
            sellers=rooms.sellers,
            house=weakref.proxy(self),  # a circle would keep all of it until the collector comes
            count_tokens=partial(count_text, vocabulary=rooms.reference),
            attempts=rooms.config.market.attempts,
        )

    @property
    def serving(self) -> Candidate:
        """Whom the order is with: the award, or after a failover who follows."""
        return self._execution.serving

    def fault(self) -> Reject | None:
        """Why an answer that broke off after its first token is not whole; None = it is, or nothing came at all."""
        done = self.job.completion
        return None if done is None or done.complete else self._reject(self._execution.outcome)

    async def whole(self) -> tuple[Completion, bytes | None]:
        """Wait for the whole answer; and the seller's own body of it, where it came as one. Raises Rejected."""
        self.job.state = "EXECUTING"
        try:
            raw = await self._execution.whole()
        finally:
            await self._ended()
        if self.job.completion is None:
            assert self.job.reject is not None, "nothing was delivered, so a reject says why"
            raise Rejected(self.job.reject)
        return self.job.completion, raw

    async def chunks(self) -> AsyncGenerator[Chunk]:
        """The answer as it comes, then what it cost."""
        self.job.state = "EXECUTING"
        last: Delta | None = None
        try:
            async with aclosing(self._execution.deltas()) as deltas:
                async for piece in deltas:
                    if piece.finish_reason is not None or last is not None:
                        last = piece if last is None else last  # the finish waits for the bill
                        continue
                    yield Chunk(delta=piece.delta, raw=piece.raw)
        finally:
            await self._ended()
        completion = self.job.completion
        if completion is not None:
            yield Chunk(
                delta=last.delta if last is not None else {},
                finish_reason=completion.finish_reason,
                completion=completion,
                raw=last.raw if last is not None else None,
            )

    async def _ended(self) -> None:
        """Settle, whoever hangs up meanwhile."""
        settling = self._settle(self._execution.outcome)
        if self.immediate:  # nothing is waited for, so nothing can come between
            await settling
        else:
            await asyncio.shield(asyncio.ensure_future(settling))

    # What execution asks of the other rooms.

    def take(self, candidate: Candidate, retry: bool) -> Slot | None:
        """Room at the candidate's seller, None = it is full."""
        quote, grant = candidate.quote, self._grant
        if grant is not None and grant.covers(candidate):
            self._grant = None
            return grant.slot
        slot = self._rooms.capacity.take(quote.provider, quote.model, load_of(candidate), retry=retry)
        return None if isinstance(slot, Full) else slot

    async def relayed(self, nusd: int) -> None:
        """The ledger says so where the store is away; the call stands as it is."""
        with suppress(StoreError):
            await self._rooms.ledger.relayed(self.reservation, nusd)

    def abandon_after_ms(self, candidate: Candidate) -> int:
        """How long an attempt is waited for, as it was when first asked."""
        quote = candidate.quote
        known_ms = self._patience_ms.get(quote.quote_id)
        if known_ms is None:
            known_ms = self._patience_ms[quote.quote_id] = _patience_ms(self._rooms, candidate)
        return known_ms

    def failed(self, candidate: Candidate, error: ProviderError, latency_ms: int) -> None:
        """Count it against the seller's health."""
        quote = candidate.quote
        self._rooms.capacity.failed(quote.provider, quote.model, load_of(candidate), error, latency_ms)
        facts = {
            "provider": quote.provider,
            "model": quote.model,
            "error": type(error).__name__,
            "detail": error.detail,
        }
        self._rooms.bus.emit(Event("seller.failed", self._rooms.clock.now_ms(), facts))

    def delivered(self, candidate: Candidate, fill: Fill) -> None:
        """Teach health, latency and length."""
        rooms, quote = self._rooms, candidate.quote
        rooms.capacity.succeeded(
            quote.provider, quote.model, load_of(candidate), fill.ttft_ms, fill.latency_ms
        )
        if not fill.usage.estimated:
            rooms.quality.learn_length(
                quote.key,
                self.job.order.task,
                fill.usage.output_tokens,
                cut=fill.finish_reason == "length",
                text=prompt_text(self.job.order.body) if rooms.config.quality.model else None,
            )

    def accepts(self, fill: Fill) -> bool:
        """Whether a two-tier order is content with the cheap answer."""
        if fill.finish_reason not in ("stop", "tool_calls", "function_call"):
            return False
        if not (fill.message.get("content") or fill.message.get("tool_calls")):
            return False
        return self._check is None or self._check(fill)

    # Room 7.

    async def _settle(self, outcome: Outcome) -> None:
        """Post what is owed or give all back, and write down what happened."""
        job, rooms = self.job, self._rooms
        fill, candidate = outcome.fill, outcome.candidate
        if fill is not None and candidate is not None and (fill.complete or outcome.cause != "cancelled"):
            job.completion = self._completion(fill, candidate, outcome)
        if job.completion is None:
            job.reject = self._reject(outcome)
        owed = fill is not None or outcome.billed_nusd > 0
        job.state = _state(outcome, job.completion)
        note = self._note(outcome)
        if owed:
            job.settlement = await rooms.ledger.settle(
                self.reservation, outcome.billed_nusd, house_nusd=outcome.house_nusd, note=note
            )
        else:
            job.settlement = await rooms.ledger.void(self.reservation, note=note)
        posted_nusd = job.settlement.posted_nusd
        if job.completion is not None and posted_nusd != job.completion.cost_nusd:
            # the hold had lapsed: what the ledger says counts
            job.completion = replace(job.completion, cost_nusd=posted_nusd)
        if job.completion is not None and candidate is not None:
            rooms.affinity.served(job.order, candidate)
            rooms.explorer.settled(posted_nusd, explored=job.explored)
            self._remember(candidate, job.completion)
        self._tell(outcome)
        if job.completion is not None:
            job.slim()
        else:
            job.fold(note.history)

    def _remember(self, candidate: Candidate, done: Completion) -> None:
        """Keep a whole answer for the same question again, where the buyer accepts such answers."""
        rfq = self.job.rfq
        if rfq is None or rfq.answer_key is None or not done.complete or done.tier == "cached":
            return
        self._rooms.cached.remember(
            rfq.answer_key,
            candidate.quote.key,
            done.message,
            done.finish_reason,
            done.usage,
            cost_nusd=done.cost_nusd,
            tags=candidate.quote.tags,
        )

    def _note(self, outcome: Outcome) -> Note:
        """History, and the whole answer where the buyer made the id and may send it again."""
        job, done = self.job, self.job.completion
        history = job.history(outcome.attempts, outcome.billed_nusd, outcome.house_nusd)
        self._rooms.bus.emit(Event("order.recorded", self._rooms.clock.now_ms(), history))
        keep = done is not None and done.complete and job.order.keep_answer
        return Note(
            response=orjson.dumps(completion_kept(done)) if keep and done is not None else None,
            history=orjson.dumps(history),
        )

    def _completion(self, fill: Fill, candidate: Candidate, outcome: Outcome) -> Completion:
        order, quote = self.job.order, candidate.quote
        eligible = self.job.rounds[-1].eligible if self.job.rounds else ()
        dearest_nusd = max((c.expected_nusd for c in eligible), default=outcome.billed_nusd)
        return Completion(
            order_id=order.order_id,
            quote_id=quote.quote_id,
            provider=quote.provider,
            model=quote.model,
            tier=quote.tier,
            message=fill.message,
            finish_reason=fill.finish_reason,
            usage=fill.usage,
            expected_nusd=candidate.expected_nusd,
            ceiling_nusd=candidate.ceiling_nusd,
            cost_nusd=outcome.billed_nusd,
            saved_nusd=max(0, dearest_nusd - outcome.billed_nusd),
            quality=candidate.estimate,
            latency_ms=fill.latency_ms,
            ttft_ms=fill.ttft_ms,
            attempts=outcome.attempts,
            complete=fill.complete,
        )

    def _reject(self, outcome: Outcome) -> Reject:
        code = _CODES.get(outcome.cause, RejectCode.PROVIDERS_FAILED)
        tried = "; ".join(f"{a.provider}/{a.model}: {a.outcome}" for a in outcome.attempts)
        return Reject(
            code=code,
            message=f"{_WHY[code]}: {tried or 'no attempt fitted the hold'}",
            facts={"attempts": len(outcome.attempts), "charged_usd": format_usd(outcome.billed_nusd)},
            retry_after_ms=outcome.retry_after_ms or (1_000 if code.again else None),
            said="; ".join(f"{a.provider}: {a.detail}" for a in outcome.attempts if a.detail),
        )

    def _tell(self, outcome: Outcome) -> None:
        job, settlement = self.job, self.job.settlement
        assert settlement is not None
        done, order = job.completion, job.order
        facts = {
            "order_id": order.order_id,
            "account": order.account,
            "task": order.task,
            "state": job.state,
            "provider": done.provider if done else None,
            "model": done.model if done else None,
            "tier": done.tier if done else None,
            "expected_nusd": done.expected_nusd if done else 0,
            "posted_nusd": settlement.posted_nusd,
            "released_nusd": settlement.released_nusd,
            "house_nusd": settlement.house_nusd,
            "saved_nusd": done.saved_nusd if done else 0,
            "received_ms": job.received_ms,
            "latency_ms": done.latency_ms if done else 0,
            "ttft_ms": done.ttft_ms if done else 0,
            "input_tokens": done.usage.input_tokens if done else 0,
            "output_tokens": done.usage.output_tokens if done else 0,
            "attempts": len(outcome.attempts),
            "reject": job.reject.code.name if job.reject else None,
        }
        self._rooms.bus.emit(Event("order.settled", self._rooms.clock.now_ms(), facts))


_WHY = {
    RejectCode.DEADLINE_PASSED: "the deadline passed before an answer came",
    RejectCode.CANCELLED: "the buyer hung up",
    RejectCode.CAPACITY_EXHAUSTED: "every seller that meets the terms is full just now",
    RejectCode.PROVIDERS_FAILED: "no seller delivered",
}


def _state(outcome: Outcome, completion: Completion | None) -> str:
    if outcome.cause == "cancelled":
        return "CANCELLED"
    if completion is None:
        return "FAILED"
    return "SETTLED" if completion.complete else "PARTIAL"
