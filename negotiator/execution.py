"""Room 6, execution: calls the award, fails over along the runners-up, and says what was delivered and owed.

An attempt starts only while what was billed so far plus its ceiling fits the hold, and only before a token has
left the house. After the first token an answer that breaks off is an honest partial. A buyer who hangs up pays for
the input and what was delivered; one whose call fails before its first token pays nothing for that attempt.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, Protocol

from providers.base import Provider
from providers.errors import ProviderError
from providers.terms import NO_TOKENS, RFQ, Delta, Fill, Quote, Ticket, Usage, price_nusd

from .execution_call import Call, Slot
from .order import Assignment, Attempt, Candidate, HoldState, Order, Reservation

__all__ = ["Execution", "House", "Outcome", "Slot", "cost_of"]

TELL_EVERY_S: Final = 1.0
"""While an answer is relayed the store is told so often what is owed, first when it has lasted so long."""


class House(Protocol):
    """What this room asks of the others, through the engine."""

    def take(self, candidate: Candidate, retry: bool) -> Slot | None:
        """Room at the candidate's seller, None = it is full. ``retry``: another seller failed before."""

    async def relayed(self, nusd: int) -> None:
        """At least so much is owed so far, should nobody live to settle. Raises nothing: it is told beside the answer."""

    def abandon_after_ms(self, candidate: Candidate) -> int | None:
        """When an attempt without a deadline is given up, None = never."""

    def failed(self, candidate: Candidate, error: ProviderError, latency_ms: int) -> None:
        """A seller failed."""

    def delivered(self, candidate: Candidate, fill: Fill) -> None:
        """A seller delivered, wholly or (``fill.complete`` False) in part."""

    def accepts(self, fill: Fill) -> bool:
        """Whether the answer will do; asked only of a two-tier order before it is let out."""


@dataclass(slots=True)
class Outcome:
    """What came of an order's execution so far; final once that has ended.

    fill, candidate: what was delivered and by whom, None = nothing. billed_nusd: owed by the account, all
    attempts. house_nusd: what the house bears above. trouble: what went wrong last.
    """

    fill: Fill | None = None
    candidate: Candidate | None = None
    attempts: tuple[Attempt, ...] = ()
    billed_nusd: int = 0
    house_nusd: int = 0
    trouble: str = ""
    retry_after_ms: int | None = None

    @property
    def cause(self) -> str:
        """Why it is no whole answer: ``deadline``, ``cancelled``, ``failed``, ``full``; empty = it is one."""
        whole = self.fill is not None and self.fill.complete
        return "" if whole else self.trouble or "failed"


def cost_of(quote: Quote, ceiling_nusd: int, usage: Usage, billed_nusd: int | None) -> tuple[int, int]:
    """What the buyer owes and what the house bears: ``(buyer_nusd, house_nusd)``.

    The buyer pays the quoted rates, never above the ceiling, and less where the seller billed less. A bill of
    zero is no evidence. Whatever the seller charges above is the house's.
    """
    rated_nusd = price_nusd(quote.rates, usage)
    charged_nusd = billed_nusd or rated_nusd
    buyer_nusd = min(rated_nusd, charged_nusd, ceiling_nusd)
    return buyer_nusd, charged_nusd - buyer_nusd


class Execution:
    """One order on its way through its sellers: by :meth:`whole`, or :meth:`deltas` to the end or closed.

    Then read ``outcome``.
    """

    def __init__(
        self,
        order: Order,
        rfq: RFQ,
        assignment: Assignment,
        reservation: Reservation,
        *,
        sellers: Mapping[str, Provider],
        house: House,
        count_tokens: Callable[[str], int],
        attempts: int = 3,
    ) -> None:
        self._order = order
        self._rfq = rfq
        self._assignment = assignment
        self._reservation = reservation
        self._sellers = sellers
        self._house = house
        self._count_tokens = count_tokens
        self._attempts_left = attempts
        self._withhold = order.policy == "two_tier"
        self._telling: asyncio.Task[None] | None = None
        self._tell_at_s: float | None = None
        self._started_s = 0.0
        self._done = False
        self.outcome = Outcome()
        self.serving = assignment.award
        """Whom the order is with, or was with last."""

    async def deltas(self) -> AsyncGenerator[Delta]:
        """The answer as it comes; ends early, without raising, when it breaks off or nobody delivers."""
        time = asyncio.get_running_loop().time
        for call in self._turns():
            async with call:
                while await call.next():
                    if call.started and not self._withhold:
                        for earlier in call.let_out():
                            yield earlier
                        if self._tell_at_s is None:
                            self._tell_at_s = time() + TELL_EVERY_S
                        elif time() >= self._tell_at_s:
                            self._tell_at_s = time() + TELL_EVERY_S
                            self._tell(call)
            if self._done:
                for piece in call.let_out():
                    yield piece
        fill = self.outcome.fill
        if self._withhold and not self._done and fill is not None:
            # no answer passed the check: the last one is still an answer
            yield Delta(delta=fill.message, finish_reason=fill.finish_reason, usage=fill.usage)

    async def whole(self) -> bytes | None:
        """Wait for the whole answer, or for everybody's failure; gives the seller's own body where it sent one."""
        for call in self._turns():
            async with call:
                while await call.next():
                    pass
            if self._done:
                held = call.let_out()
                return held[-1].raw if held else None
        return None

    def _turns(self) -> Iterator[Call]:
        """The calls that may be made, one after the other, each with room at its seller."""
        self._started_s = asyncio.get_running_loop().time()
        for planned in self._assignment.candidates:
            if self._done or self._attempts_left == 0:
                break
            candidate = self._fitted(planned)
            if candidate is None:
                continue
            slot = self._house.take(candidate, retry=bool(self.outcome.attempts))
            if slot is None:
                self.outcome.trouble = self.outcome.trouble or "full"
                self._note(candidate, "Full", 0, 0)
                continue
            self._attempts_left -= 1
            self.serving = candidate
            yield self._open(candidate, slot)

    def _start(self, ticket: Ticket) -> AsyncIterator[Delta]:
        assert self._reservation.state is HoldState.IN_DOUBT, "a call is made under a hold that says so"
        return self._sellers[ticket.quote.provider].execute(ticket)

    def _tell(self, call: Call) -> None:
        """Tell what is owed so far, beside the answer; one telling at a time."""
        if self._telling is None or self._telling.done():
            candidate = call.candidate
            so_far_nusd, _ = cost_of(candidate.quote, candidate.ceiling_nusd, call.relayed_usage(), None)
            self._telling = asyncio.ensure_future(self._house.relayed(self.outcome.billed_nusd + so_far_nusd))

    def _fitted(self, candidate: Candidate) -> Candidate | None:
        """The candidate if its attempt may start now, with an answer as long as what is left of the hold allows."""
        left_ms = self._left_ms()
        if left_ms is not None and (
            left_ms <= 0 or (self.outcome.attempts and candidate.quote.latency_ms.p50 > left_ms)
        ):
            self.outcome.trouble = "deadline"
            return None
        left_nusd = self._assignment.hold_nusd - self.outcome.billed_nusd
        if candidate.ceiling_nusd <= left_nusd:
            return candidate
        tokens = candidate.quote.affordable_output(left_nusd)
        if self._order.max_output_tokens is not None or tokens < max(1, candidate.estimate.output_tokens_p95):
            return None
        ceiling_nusd = candidate.quote.ceiling_with(tokens)
        return replace(candidate, max_output_tokens=tokens, ceiling_nusd=ceiling_nusd)

    def _left_ms(self) -> int | None:
        if self._order.deadline_ms is None:
            return None
        passed_s = asyncio.get_running_loop().time() - self._started_s
        return self._order.deadline_ms - round(passed_s * 1000)

    def _open(self, candidate: Candidate, slot: Slot) -> Call:
        left_ms = self._left_ms()
        ticket = Ticket(
            reservation_id=self._reservation.reservation_id,
            order_id=self._order.order_id,
            quote=candidate.quote,
            body=self._order.body,
            max_output_tokens=candidate.max_output_tokens,
            deadline_ms=left_ms,
            stream=self._order.stream,
            prefix=self._rfq.prefix,
            answer_key=self._rfq.answer_key,
        )
        patience_ms = self._house.abandon_after_ms(candidate) if left_ms is None else left_ms
        return Call(
            candidate,
            ticket,
            slot,
            left_ms,
            patience_ms,
            start=self._start,
            ended=self._conclude,
        )

    def _conclude(self, call: Call) -> None:
        """Count what is owed, tell the house, and decide whether another seller may follow."""
        candidate, error, cause, so_far = call.candidate, call.error, call.cause, self.outcome
        fill = call.fill(self._count_tokens)
        call.slot.settle(NO_TOKENS if fill is None else fill.usage)
        buyer_nusd = 0
        if error is not None:
            so_far.trouble = cause or "failed"
            so_far.retry_after_ms = error.retry_after_ms or so_far.retry_after_ms
            if cause != "cancelled":
                self._house.failed(candidate, error, call.latency_ms)
        if fill is not None:
            buyer_nusd, house_nusd = cost_of(
                candidate.quote, candidate.ceiling_nusd, fill.usage, fill.billed_nusd
            )
            so_far.billed_nusd += buyer_nusd
            so_far.house_nusd += house_nusd
            if error is None or call.started:
                so_far.fill, so_far.candidate = fill, candidate
            if error is None:
                self._house.delivered(candidate, fill)
        if self._withhold:
            passed = fill is not None and error is None and self._house.accepts(fill)
            self._done = bool(cause) or passed or (error is not None and not error.retryable)
            outcome = call.outcome if passed or error is not None else "CheckFailed"
        else:
            self._done = fill is not None or bool(cause) or (error is not None and not error.retryable)
            outcome = call.outcome
        self._note(candidate, outcome, buyer_nusd, call.latency_ms, "" if error is None else error.detail)

    def _note(
        self, candidate: Candidate, outcome: str, billed_nusd: int, latency_ms: int, detail: str = ""
    ) -> None:
        quote, so_far = candidate.quote, self.outcome
        attempt = Attempt(
            number=len(so_far.attempts) + 1,
            provider=quote.provider,
            model=quote.model,
            tier=quote.tier,
            quote_id=quote.quote_id,
            outcome=outcome,
            billed_nusd=billed_nusd,
            latency_ms=latency_ms,
            detail=detail,
        )
        so_far.attempts += (attempt,)
