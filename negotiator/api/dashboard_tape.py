"""A live tape of what became of orders: the last thousand of this process, and listeners that hear of each as it ends.

Nothing here is formatted or looked up twice while an order is settled: words and dollars are made when somebody reads.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from providers.records import record

from ..engine_book import Job
from ..errors import Reject
from ..events import Event
from ..money import format_usd
from ..order import Loss
from ..wire_out import counter_offer_out, instant_out, loss_out

__all__ = ["Ended", "Listener", "Loser", "Tape"]

KEPT: Final = 1_000
"""Orders kept."""

WAITING: Final = 500
"""Orders kept for a listener that does not read; beyond, the oldest go and it is told how many."""

MAX_LISTENERS: Final = 100

SHOWN_LOSERS: Final = 2
"""Losers shown of each sort: those that met the terms and cost more, and those that missed a term."""


class Loser(NamedTuple):
    """A quote that was not chosen."""

    provider: str
    model: str
    tier: str
    expected_nusd: int
    loss: int


@record(frozen=True, slots=True)
class Ended:
    """An order that ended: facts of ``order.settled`` or ``order.rejected``, who lost, and the house's no if it was one."""

    at_ms: int
    facts: Mapping[str, Any]
    losers: Sequence[Loser]
    quotes: int
    reject: Reject | None

    @property
    def account(self) -> str:
        """On whose budget."""
        return str(self.facts["account"])

    @property
    def served(self) -> bool:
        """Whether an answer came."""
        return self.facts.get("provider") is not None

    def out(self) -> dict[str, Any]:
        """As it is read."""
        facts, reject = self.facts, self.reject
        return {
            "order_id": facts["order_id"],
            "account": facts["account"],
            "task": facts.get("task"),
            "at": instant_out(self.at_ms),
            "state": facts.get("state", "REJECTED"),
            "provider": facts.get("provider"),
            "model": facts.get("model"),
            "tier": facts.get("tier"),
            "expected_usd": format_usd(facts.get("expected_nusd", 0)),
            "cost_usd": format_usd(facts.get("posted_nusd", 0)),
            "saved_usd": format_usd(facts.get("saved_nusd", 0)),
            "latency_ms": facts.get("latency_ms", 0),
            "ttft_ms": facts.get("ttft_ms", 0),
            "attempts": facts.get("attempts", 0),
            "quotes": self.quotes,
            "losers": [_loser_out(loser) for loser in self.losers],
            "reject": facts["reject"],
            "message": reject.message if reject is not None else None,
            "counter_offer": counter_offer_out(reject.counter_offers[0])
            if reject is not None and reject.counter_offers
            else None,
        }


class Listener:
    """What one listener has not read yet. ``wanted`` says at once whether an account is of no concern to it."""

    def __init__(self, wanted: Callable[[str], bool]) -> None:
        self._wanted = wanted
        self._waiting: deque[Ended] = deque(maxlen=WAITING)
        self._missed = 0

    def put(self, ended: Ended) -> None:
        """Keep an order until it is read; never waits."""
        if self._wanted(ended.account):
            self._missed += len(self._waiting) == WAITING
            self._waiting.append(ended)

    def take(self) -> tuple[list[Ended], int]:
        """What ended since the last time, oldest first, and how many were missed."""
        taken, missed = list(self._waiting), self._missed
        self._waiting.clear()
        self._missed = 0
        return taken, missed


class Tape:
    """Subscribe :meth:`note` to the bus."""

    def __init__(self, recent: Mapping[tuple[str, str], Job], then: Callable[[Ended], None]) -> None:
        """recent: orders by account and id while they are known. then: who counts what ended."""
        self._recent = recent
        self._then = then
        self._ended: deque[Ended] = deque(maxlen=KEPT)
        self._losers: OrderedDict[tuple[str, str], tuple[Sequence[Loser], int]] = OrderedDict()
        self._listeners: set[Listener] = set()

    def note(self, event: Event) -> None:
        """Keep an order that ended; its quotes are told just before, by ``order.recorded``."""
        if event.name == "order.recorded":
            self._keep_losers(event.facts)
        elif event.name in ("order.settled", "order.rejected"):
            self._keep(event)

    def latest(self) -> Iterator[Ended]:
        """What is kept, newest first."""
        return iter(tuple(reversed(self._ended)))

    @property
    def full(self) -> bool:
        """Whether nobody more may listen."""
        return len(self._listeners) >= MAX_LISTENERS

    @contextmanager
    def listen(self, wanted: Callable[[str], bool]) -> Iterator[Listener]:
        """A listener for the time of the block."""
        listener = Listener(wanted)
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)

    def _keep_losers(self, history: Mapping[str, Any]) -> None:
        rounds = history["rounds"]
        if rounds:
            rows = rounds[-1][1]
            losers = _few(Loser(row[1], row[2], row[3], row[4], row[8]) for row in rows if row[8])
            self._losers[history["account"], history["order_id"]] = losers, len(rows)
            if len(self._losers) > KEPT:
                self._losers.popitem(last=False)

    def _keep(self, event: Event) -> None:
        facts = event.facts
        key = facts["account"], facts["order_id"]
        job = self._recent.get(key)
        losers, quotes = self._losers.pop(key, ((), 0))
        if not losers and job is not None and job.rounds:
            candidates = job.rounds[-1].candidates
            losers = _few(
                Loser(
                    one.quote.provider,
                    one.quote.model,
                    one.quote.tier,
                    one.expected_nusd,
                    int(one.misses[0].loss if one.misses else Loss.PRICIER),
                )
                for one in candidates
            )
            quotes = len(candidates)
        reject = job.reject if job is not None and facts["reject"] else None
        ended = Ended(event.at_ms, facts, losers, quotes, reject)
        self._ended.append(ended)
        self._then(ended)
        for listener in self._listeners:
            listener.put(ended)


def _few(losers: Iterator[Loser]) -> Sequence[Loser]:
    """The first losers of each sort; quotes come with those that met the terms first, each sort cheapest first."""
    dearer: list[Loser] = []
    missing: list[Loser] = []
    for loser in losers:
        sort = dearer if loser.loss == Loss.PRICIER else missing
        if len(sort) < SHOWN_LOSERS:
            sort.append(loser)
        elif sort is missing:
            break
    return (*dearer, *missing)


def _loser_out(loser: Loser) -> dict[str, Any]:
    return {
        "provider": loser.provider,
        "model": loser.model,
        "tier": loser.tier,
        "expected_usd": format_usd(loser.expected_nusd),
        "loss": loss_out(Loss(loser.loss)),
    }
