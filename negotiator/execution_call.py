"""One attempt at one seller while it runs: what has come so far, what ended it, and what is owed for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from types import TracebackType
from typing import Final, Protocol, Self

from providers.assembly import MessageBuilder
from providers.errors import MalformedAnswer, ProviderError, ProviderTimeout, StreamCut
from providers.terms import Delta, Fill, LineKind, Ticket, Usage

from .order import Candidate

__all__ = ["MAX_ANSWER_BYTES", "Call", "Cutoff", "Slot"]

logger = logging.getLogger("negotiator.execution")

MAX_ANSWER_BYTES: Final = 16_000_000
"""A seller that sends more is cut off."""

RELAYED_BYTES_PER_TOKEN: Final = 8
"""More UTF-8 bytes than a token of prose or code has in any vendor's vocabulary: three to five are usual."""

_INPUT_LINES: Final = frozenset({LineKind.INPUT, LineKind.CACHE_READ, LineKind.CACHE_WRITE})


class Slot(Protocol):
    """Room taken at a seller for one call; one of the two ends it."""

    def settle(self, usage: Usage | None) -> None:
        """The call ended; what it used, None = as was expected."""

    def release(self) -> None:
        """The call never reached the seller: give all of it back."""


class Cutoff:
    """Ends whatever wait its instant falls into. One timer serves all the waits of a call."""

    __slots__ = ("_cancelled", "_over", "_task", "_timer")

    def __init__(self, at_s: float | None) -> None:
        """at_s: by the loop's time, None = never."""
        self._over = False
        self._cancelled = False
        self._task: asyncio.Task[object] | None = None
        self._timer = None if at_s is None else asyncio.get_running_loop().call_at(at_s, self._expire)

    async def next_of(self, pieces: AsyncIterator[Delta]) -> Delta | None:
        """The next piece, None = there is none. Raises TimeoutError; a wait that others cancel stays cancelled."""
        if self._over:
            raise TimeoutError
        task = self._task = asyncio.current_task()
        assert task is not None, "only a task can wait"
        asked = task.cancelling()
        try:
            return await anext(pieces, None)
        except asyncio.CancelledError:
            if self._cancelled and task.cancelling() <= asked + 1:
                raise TimeoutError from None
            raise
        finally:
            self._task = None
            if self._cancelled:
                self._cancelled = False
                task.uncancel()

    def close(self) -> None:
        """No more waits."""
        if self._timer is not None:
            self._timer.cancel()

    def _expire(self) -> None:
        self._over = True
        if self._task is not None:
            self._cancelled = True
            self._task.cancel()


class Call:
    """One attempt: ``async with`` around it notes and swallows what ends it, unless the buyer hung up.

    cause: what ended it other than the seller (deadline, cancelled). start: makes the call. ended: told once, when
    ``error`` and ``cause`` are known.
    """

    __slots__ = (
        "_begun_s",
        "_billed_nusd",
        "_cutoff",
        "_ended",
        "_held",
        "_message",
        "_over",
        "_pieces",
        "_size",
        "_start",
        "_time",
        "_ttft_ms",
        "_usage",
        "candidate",
        "cause",
        "error",
        "finish_reason",
        "left_ms",
        "slot",
        "started",
        "ticket",
    )

    def __init__(
        self,
        candidate: Candidate,
        ticket: Ticket,
        slot: Slot,
        left_ms: int | None,
        patience_ms: int | None,
        *,
        start: Callable[[Ticket], AsyncIterator[Delta]],
        ended: Callable[[Call], None],
    ) -> None:
        self.candidate = candidate
        self.ticket = ticket
        self.slot = slot
        self._start = start
        self._ended = ended
        self._pieces: AsyncIterator[Delta] | None = None
        self._over = False
        self.left_ms = left_ms
        self._time = asyncio.get_running_loop().time
        self._begun_s = self._time()
        self._cutoff = Cutoff(None if patience_ms is None else self._begun_s + patience_ms / 1000)
        self.error: ProviderError | None = None
        self.cause = ""
        self.started = False
        self.finish_reason: str | None = None
        self._message = MessageBuilder()
        self._usage: Usage | None = None
        self._billed_nusd: int | None = None
        self._held: list[Delta] = []
        self._ttft_ms = 0
        self._size = 0

    @property
    def latency_ms(self) -> int:
        """Since the call began."""
        return round((self._time() - self._begun_s) * 1000)

    @property
    def outcome(self) -> str:
        """``ok`` or the error's name."""
        if self.error is None:
            return "ok"
        return "Cancelled" if self.cause == "cancelled" else type(self.error).__name__

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        swallowed = self._ended_by(error)
        self._cutoff.close()
        self._ended(self)
        if not self._over and (close := getattr(self._pieces, "aclose", None)) is not None:
            await close()
        return swallowed

    async def next(self) -> bool:
        """Wait for one more piece and take it in; False = there is none."""
        if self._pieces is None:
            self._pieces = self._start(self.ticket)
        piece = await self._cutoff.next_of(self._pieces)
        if piece is None:
            self._over = True
            return False
        self.add(piece)
        return True

    def add(self, piece: Delta) -> None:
        """Take a piece; it waits until :meth:`let_out`. Later usage replaces earlier: sellers repeat running totals."""
        self._message.add(piece.delta)
        if not self.started and not self._message.empty:
            self.started = True
            self._ttft_ms = self.latency_ms
        self.finish_reason = piece.finish_reason or self.finish_reason
        self._usage = piece.usage or self._usage
        if piece.billed_nusd is not None:
            self._billed_nusd = piece.billed_nusd
        self._held.append(piece)
        self._size += len(piece.raw or b"") or sum(len(str(value)) for value in piece.delta.values())
        if self._size > MAX_ANSWER_BYTES:
            raise MalformedAnswer(f"expected an answer of at most {MAX_ANSWER_BYTES} bytes, found more")

    def let_out(self) -> list[Delta]:
        """What has waited so far."""
        held, self._held = self._held, []
        return held

    def relayed_usage(self) -> Usage:
        """At least so much was used so far: the quoted input, and of the output a token for every eight bytes.

        No tokenizer is asked. What was quoted as read from a cache counts as read; what a seller hides from the
        buyer, as thoughts, does not count.
        """
        output_tokens = len(self._message.text.encode("utf-8", "surrogatepass")) // RELAYED_BYTES_PER_TOKEN
        if self._usage is not None:
            return replace(self._usage, output_tokens=output_tokens, reasoning_tokens=0, estimated=True)
        lines = self.candidate.quote.lines
        read_tokens = sum(line.tokens for line in lines if line.kind is LineKind.CACHE_READ)
        return Usage(self._input_tokens(), output_tokens, read_tokens, estimated=True)

    def _input_tokens(self) -> int:
        """As quoted."""
        return sum(line.tokens for line in self.candidate.quote.lines if line.kind in _INPUT_LINES)

    def _ended_by(self, failure: BaseException | None) -> bool:
        """Note how it ended, None = the seller said no more; whether that is all there is to do about the failure."""
        if failure is None:
            if self.finish_reason is None:
                self.error = StreamCut("the stream ended without a finish reason")
        elif isinstance(failure, ProviderError):
            self.error = failure
        elif isinstance(failure, TimeoutError):
            self.cause = "" if self.left_ms is None else "deadline"
            self.error = ProviderTimeout("gave no whole answer in time and was cut off")
        elif isinstance(failure, asyncio.CancelledError | GeneratorExit):
            self.cause, self.error = "cancelled", ProviderTimeout("the buyer hung up")
            return False
        elif isinstance(failure, Exception):
            logger.error(
                "seller %s raised what its contract forbids", self.candidate.quote.key, exc_info=failure
            )
            self.error = MalformedAnswer(f"{type(failure).__name__}: {failure}")
        else:
            return False
        return True

    def fill(self, count_tokens: Callable[[str], int]) -> Fill | None:
        """What was delivered, None when nothing is owed: the call failed before its first token."""
        complete = self.error is None
        if not (self.started or complete or self.cause in ("cancelled", "deadline")):
            return None
        usage = self._usage
        if usage is None:
            usage = Usage(self._input_tokens(), count_tokens(self._message.text), estimated=True)
        return Fill(
            ticket=self.ticket,
            message=self._message.message(),
            finish_reason=self.finish_reason or "length",
            usage=usage,
            billed_nusd=self._billed_nusd,
            ttft_ms=self._ttft_ms,
            latency_ms=self.latency_ms,
            complete=complete,
        )
