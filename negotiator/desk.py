"""Room 2, desk: asks every seller for quotes within one deadline; late is absent.

Local sellers answer at once, remote ones all together. A seller that raises, answers late or answers
nonsense is as good as silent: the market goes on without it and says so in an event.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import replace
from typing import Final

from providers.base import Provider
from providers.clock import Clock
from providers.records import record
from providers.terms import RFQ, Answer, Decline, Quote, Target

from .events import Emit, Event

__all__ = ["Answers", "Desk"]

logger = logging.getLogger("negotiator.desk")

MAX_QUOTES_PER_SELLER: Final = 500


@record(frozen=True, slots=True)
class Answers:
    """What came back for one RFQ, in the order of the sellers. silent: whether anybody gave no usable answer."""

    quotes: tuple[Quote, ...]
    declines: tuple[Decline, ...]
    silent: bool = False

    def renewed(self, newer: Answers) -> Answers:
        """These answers with newer quotes in place of older ones for the same offer."""
        latest = {(quote.provider, quote.model, quote.tier): quote for quote in self.quotes}
        latest |= {(quote.provider, quote.model, quote.tier): quote for quote in newer.quotes}
        return Answers(tuple(latest.values()), self.declines, self.silent)


class Desk:
    """Asks sellers; knows nothing of budgets."""

    def __init__(self, sellers: Mapping[str, Provider], clock: Clock, emit: Emit) -> None:
        self._sellers = sellers
        self._clock = clock
        self._emit = emit

    async def ask(self, rfq: RFQ) -> Answers:
        """Quotes and declines of all sellers that answered within ``rfq.answer_within_ms``."""
        return await self._collect(dict.fromkeys(self._sellers, rfq))

    async def ask_again(self, rfq: RFQ, targets: Mapping[str, Target]) -> Answers:
        """A second round: the named sellers hear what would win, and may quote again."""
        asked = {
            name: replace(rfq, round=rfq.round + 1, target=target)
            for name, target in targets.items()
            if name in self._sellers
        }
        return await self._collect(asked)

    async def _collect(self, asked: Mapping[str, RFQ]) -> Answers:
        answers: dict[str, Answer] = {}
        waiting: dict[str, Awaitable[Answer]] = {}
        for name, rfq in asked.items():
            try:
                answer = self._sellers[name].quote(rfq)
            except Exception as error:
                self._silent(name, rfq, error)
                continue
            if isinstance(answer, tuple):
                answers[name] = answer
            else:
                assert inspect.isawaitable(answer), f"{name}: quote gave neither an answer nor an awaitable"
                waiting[name] = answer
        if waiting:
            answers |= await self._await(waiting, asked)
        quotes: list[Quote] = []
        declines: list[Decline] = []
        for name, rfq in asked.items():
            if given := answers.get(name):
                self._sort(name, rfq, given, quotes, declines)
        return Answers(tuple(quotes), tuple(declines), silent=len(answers) < len(asked))

    async def _await(
        self, waiting: Mapping[str, Awaitable[Answer]], asked: Mapping[str, RFQ]
    ) -> dict[str, Answer]:
        tasks = {name: asyncio.ensure_future(answer) for name, answer in waiting.items()}
        within_s = max(asked[name].answer_within_ms for name in tasks) / 1000
        try:
            await asyncio.wait(tasks.values(), timeout=within_s)
        finally:
            for task in tasks.values():
                task.cancel()
        answers: dict[str, Answer] = {}
        for name, task in tasks.items():
            if not task.done() or task.cancelled():
                self._silent(name, asked[name], TimeoutError(f"no answer within {within_s:g} s"))
            elif error := task.exception():
                self._silent(name, asked[name], error)
            else:
                answers[name] = task.result()
        return answers

    def _sort(
        self,
        name: str,
        rfq: RFQ,
        answer: Iterable[Quote | Decline],
        quotes: list[Quote],
        declines: list[Decline],
    ) -> None:
        for item in tuple(answer)[:MAX_QUOTES_PER_SELLER]:
            if isinstance(item, Decline):
                declines.append(item)
            elif fault := _fault(name, rfq, item):
                self._silent(name, rfq, ValueError(fault))
            else:
                quotes.append(item)

    def _silent(self, name: str, rfq: RFQ, error: BaseException) -> None:
        logger.debug("seller %s gave no usable answer to %s: %s", name, rfq.rfq_id, error)
        facts = {"provider": name, "rfq_id": rfq.rfq_id, "error": str(error) or type(error).__name__}
        self._emit(Event("seller.silent", self._clock.now_ms(), facts))


def _fault(name: str, rfq: RFQ, quote: Quote) -> str | None:
    """What makes a quote unusable, None = nothing."""
    if quote.rfq_id != rfq.rfq_id or quote.provider != name:
        return f"expected a quote of {name} for {rfq.rfq_id}, found {quote.provider} for {quote.rfq_id}"
    if not 0 <= quote.expected_nusd <= quote.ceiling_nusd:
        return f"expected 0 <= expected <= ceiling, found {quote.expected_nusd} and {quote.ceiling_nusd}"
    billed_nusd = 0
    for line in quote.lines:
        billed_nusd += line.nusd
    if billed_nusd != quote.expected_nusd:
        return f"expected price lines that sum to {quote.expected_nusd}, found {billed_nusd}"
    if quote.valid_for_ms <= 0 or quote.max_output_tokens < 1:
        return f"expected validity and output above zero, found {quote.valid_for_ms} and {quote.max_output_tokens}"
    return None
