"""One attempt at one seller while it runs: what has come so far, and what is owed for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from providers.assembly import MessageBuilder
from providers.errors import MalformedAnswer, ProviderError
from providers.terms import Delta, Fill, LineKind, Ticket, Usage

from .order import Candidate

__all__ = ["MAX_ANSWER_BYTES", "Call"]

MAX_ANSWER_BYTES: Final = 16_000_000
"""A seller that sends more is cut off."""

_INPUT_LINES: Final = frozenset({LineKind.INPUT, LineKind.CACHE_READ, LineKind.CACHE_WRITE})


class Call:
    """The state of one attempt. ``cause``: what ended it other than the seller (deadline, cancelled, store)."""

    def __init__(
        self, candidate: Candidate, ticket: Ticket, left_ms: int | None, patience_ms: int | None
    ) -> None:
        self.candidate = candidate
        self.ticket = ticket
        self.left_ms = left_ms
        self._time = asyncio.get_running_loop().time
        self._begun_s = self._time()
        self.cut_s = None if patience_ms is None else self._begun_s + patience_ms / 1000
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

    def fill(self, count_tokens: Callable[[str], int]) -> Fill | None:
        """What was delivered, None when nothing is owed: the call failed before its first token."""
        complete = self.error is None
        if not (self.started or complete or self.cause in ("cancelled", "deadline")):
            return None
        usage = self._usage
        if usage is None:
            lines = self.candidate.quote.lines
            tokens = sum(line.tokens for line in lines if line.kind in _INPUT_LINES)
            usage = Usage(tokens, count_tokens(self._message.text), estimated=True)
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
