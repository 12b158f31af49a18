"""Rooms 2 and 3 for one order: ask the sellers, judge what they say, ask once more where little is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import orjson

from providers.cached_answers import answer_key
from providers.terms import RFQ, Quote
from providers.tokens import ChatTokens, read_chat

from .counter_offers import counter_offers
from .desk import Answers
from .engine_rooms import Rooms
from .errors import Reject
from .intake import capabilities_of, parameters_of, prompt_text
from .order import (
    Assignment,
    Attempt,
    Book,
    Candidate,
    Completion,
    Lost,
    Order,
    QualityEstimate,
    Settlement,
)
from .policy import consider, rank, refuse, targets
from .quality import Estimate
from .record import history_kept

__all__ = ["Job", "ask", "judged", "shown"]


@dataclass(slots=True)
class Job:
    """What an order has come to so far; its parts are frozen, this is the list of them.

    explain: why candidates lost, where clearing refused the order. size_bytes: of its prompt, as JSON. written: the
    history of one that ended without an answer.
    """

    order: Order
    received_ms: int
    rfq: RFQ | None = None
    rounds: list[Book] = field(default_factory=list)
    assignment: Assignment | None = None
    completion: Completion | None = None
    settlement: Settlement | None = None
    reject: Reject | None = None
    state: str = "RECEIVED"
    explored: bool = False
    size_bytes: int = 0
    written: bytes | None = None
    explain: Callable[[Candidate], Lost] | None = None

    def fold(self, written: bytes | None = None) -> None:
        """It ended without an answer: its history (by default as it is now) is all that is kept of it."""
        self.written = orjson.dumps(self.history()) if written is None else written
        self.order = replace(self.order, body={})
        self.explain = None
        self.slim()

    def slim(self) -> None:
        """Let go of what only its making needed; its history has been written down."""
        self.rfq, self.assignment = None, None
        self.rounds.clear()

    def history(
        self, attempts: Sequence[Attempt] = (), billed_nusd: int = 0, house_nusd: int = 0
    ) -> dict[str, Any]:
        """The record of it, as it is kept."""
        return history_kept(
            self.order,
            state=self.state,
            received_ms=self.received_ms,
            rounds=self.rounds,
            assignment=self.assignment,
            attempts=attempts,
            billed_nusd=billed_nusd,
            house_nusd=house_nusd,
            reject=self.reject,
            explain=self.explain,
            explored=self.explored,
        )


async def ask(rooms: Rooms, job: Job) -> Book:
    """Quotes of all sellers as candidates; a second round where a seller misses a term by little."""
    order = job.order
    text = prompt_text(order.body) if rooms.quality.reads else ""
    estimate = rooms.quality.estimate(text, rooms.models, task=order.task)
    weighed = read_chat(
        order.body,
        key=rooms.tenant_key(order.account),
        vocabularies=rooms.vocabularies,
        reference=rooms.reference,
    )
    job.size_bytes = weighed.size_bytes
    job.rfq = rfq = _rfq(rooms, order, weighed, estimate)
    answers = await rooms.desk.ask(rfq)
    book = _judge(rooms, order, rfq, estimate, answers)
    job.rounds.append(book)
    wanted = targets(order, book.candidates) if order.rounds else {}
    if wanted:
        answers = answers.renewed(await rooms.desk.ask_again(rfq, wanted))
        book = _judge(rooms, order, rfq, estimate, answers)
        book = replace(book, targets=wanted)
        job.rounds.append(book)
    return book


def shown(rooms: Rooms, job: Job, quote_id: str) -> Book:
    """The book of a quote that this buyer was shown, that quote first; its reject says why it cannot be had."""
    order, now_ms = job.order, rooms.clock.now_ms()
    found = rooms.shelf.take(quote_id, order, now_ms)
    if isinstance(found, Reject):
        return Book(rfq_id="", candidates=(), reject=found)
    wanted, book, job.rfq = found
    others = [c for c in book.candidates if c is not wanted and c.valid_until_ms > now_ms]
    first, *rest = (_again(order, candidate) for candidate in (wanted, *others))
    if not first.eligible:
        reject = refuse(order, [first]).with_counter_offers(counter_offers(order, [first, *rest], now_ms))
        return Book(rfq_id=book.rfq_id, candidates=(first, *rest), reject=reject)
    taken = Book(rfq_id=book.rfq_id, candidates=(first, *rank(order, rest)))
    job.rounds.append(taken)
    return taken


def _rfq(rooms: Rooms, order: Order, weighed: ChatTokens, estimate: Estimate) -> RFQ:
    median_output, output_by_model = _lengths(rooms.models, estimate)
    sized = order.input_tokens is not None
    return RFQ(
        rfq_id=rooms.next_rfq_id(),
        input_tokens=order.input_tokens or weighed.input_tokens,
        max_output_tokens=order.max_output_tokens,
        expected_output_tokens=median_output,
        output_tokens_by_model=output_by_model,
        tokens_by_vocabulary={} if sized else weighed.by_vocabulary,
        prefix=() if sized else weighed.prefix,
        capabilities=capabilities_of(order.body),
        tiers=order.tiers,
        models=None if order.named is None else frozenset((order.named,)),
        answer_within_ms=rooms.config.market.rfq_timeout_ms,
        parameters=parameters_of(order.body),
        answer_key=_answer_key(rooms, order) if "cached" in order.tiers else None,
    )


@lru_cache(maxsize=16)
def _lengths(models: tuple[str, ...], estimate: Estimate) -> tuple[int, dict[str, int]]:
    """The expected length of an answer: the median over models, and each model's."""
    tokens = estimate.output_tokens.tolist()
    return sorted(tokens)[len(tokens) // 2] if tokens else 0, dict(zip(models, tokens, strict=True))


def _answer_key(rooms: Rooms, order: Order) -> str:
    """Of exactly this question under exactly this choice of models, for this account alone."""
    choice = "|".join((order.named or "auto", *order.models, "", *order.exclude))
    return answer_key(rooms.key, order.account, choice, order.body)


def _judge(rooms: Rooms, order: Order, rfq: RFQ, estimate: Estimate, answers: Answers) -> Book:
    now_ms, quotes, declines = rooms.clock.now_ms(), answers.quotes, answers.declines
    beliefs = _beliefs(rooms, order, estimate, quotes)
    may_probe, named = rooms.capacity.may_probe, rfq.models
    candidates = [
        consider(
            order,
            quote,
            beliefs[quote.model],
            now_ms=now_ms,
            probe=not quote.firm and may_probe(quote.provider, quote.model),
        )
        for quote in quotes
        if named is None or quote.model in named or quote.key in named
    ]
    ranked = rank(order, candidates)
    if ranked:
        if len(ranked) < len(candidates):
            ranked += _by_price(candidate for candidate in candidates if candidate.misses)
        return Book(rfq_id=rfq.rfq_id, candidates=tuple(ranked), declines=declines)
    reject = refuse(order, candidates, declines, silent=answers.silent).with_counter_offers(
        counter_offers(order, candidates, now_ms)
    )
    return Book(rfq_id=rfq.rfq_id, candidates=_by_price(candidates), declines=declines, reject=reject)


def _beliefs(
    rooms: Rooms, order: Order, estimate: Estimate, quotes: Sequence[Quote]
) -> dict[str, QualityEstimate]:
    """What is believed of each quoted model; models nobody lists (remote sellers') are estimated apart."""
    known = _rows(rooms.models, estimate)
    strange = {quote.model for quote in quotes if quote.model not in known}
    if strange:
        text, named = prompt_text(order.body), tuple(strange)
        return known | _rows(named, rooms.quality.estimate(text, named, task=order.task))
    return known


@lru_cache(maxsize=16)
def _rows(models: tuple[str, ...], estimate: Estimate) -> dict[str, QualityEstimate]:
    columns = (
        estimate.mean.tolist(),
        estimate.sd.tolist(),
        estimate.observations.tolist(),
        estimate.output_tokens.tolist(),
        estimate.output_tokens_p95.tolist(),
    )
    return {model: QualityEstimate(*row) for model, *row in zip(models, *columns, strict=True)}


def _again(order: Order, shown: Candidate) -> Candidate:
    """A candidate judged against the order's terms of now; it expires when it did."""
    quote = shown.quote
    return consider(order, quote, shown.estimate, now_ms=shown.valid_until_ms - quote.valid_for_ms)


def _by_price(candidates: Iterable[Candidate]) -> tuple[Candidate, ...]:
    return tuple(sorted(candidates, key=lambda c: (c.expected_nusd, c.quote.key, c.quote.tier)))


async def judged(rooms: Rooms, job: Job) -> Reject | None:
    """Why an order's own terms cannot be met now, with counter-offers; None = they can."""
    return (await ask(rooms, job)).reject
