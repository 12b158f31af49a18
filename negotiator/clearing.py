"""Room 4, clearing: which candidate gets the order, by price and by what its scarce room is worth.

The bid-price rule of revenue management: a candidate's bid is its expected cost plus the shadow price of what it
takes of its seller's limits. The order goes to the lowest bid that fits, and to nobody when even that is more than
the order is worth: the room is kept for one that is worth more. Prices make many orders indifferent between two
sellers, or between being served and not: bids are shaken a little (Gumbel noise, which makes the lowest a softmin), so
that they part as the prices expect instead of all going one way. Batches: :mod:`negotiator.clearing_batch`.

Policies ``cheapest`` and ``two_tier`` follow the bids. The others follow their own order, and bids only veto: a
candidate whose bid is more than the order is worth is passed over. Without fresh prices a bid is the expected cost,
which is cheapest-first.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from heapq import heappop, heappush
from math import log
from typing import Any, Final, NamedTuple, Protocol

from providers.batch import BATCH_TIER
from providers.clock import Clock
from providers.terms import RateKind

from .errors import Reject, RejectCode
from .events import Emit, Event
from .limits import (
    UNITS_PER_PRICE,
    Lack,
    LimitRow,
    Load,
    ShadowPrices,
    cached_input,
    expected_output,
    load_of,
)
from .money import format_usd
from .order import Assignment, Candidate, Loss, Lost, Order

__all__ = ["Clearing", "Room"]

logger = logging.getLogger("negotiator.clearing")

STALE_MS: Final = 60_000
"""Prices this old are still close to right; older ones are not used."""

RETRY_AFTER_MS: Final = 1_000
FARTHEST: Final = 8.0
"""How many times the heat of the prices a bid is lowered at most: once in three thousand bids it would be more."""

_BY_BID: Final = frozenset({"cheapest", "two_tier"})


class Room(Protocol):
    """What clearing asks of capacity."""

    def lacks(self, provider: str, model: str, load: Load, *, retry: bool = False) -> Lack | None:
        """What keeps a call from its seller now, None = it fits."""
        ...

    def may_probe(self, provider: str, model: str) -> bool:
        """Whether a seller that is out may be tried now."""
        ...

    def retry_after_ms(self, provider: str, model: str, load: Load) -> int | None:
        """When the call may fit, None = never."""
        ...


class _Tariff(NamedTuple):
    """Shadow prices of all rows of one seller's model, by what a call is made of; nano-dollars per million."""

    call: int
    input_token: int
    cached_token: int
    output_token: int
    busy_ms: int


_FREE: Final = _Tariff(0, 0, 0, 0, 0)
_PRICIER: Final = Lost(Loss.PRICIER)
_SHAPES: Final = {
    RateKind.REQUESTS: _Tariff(1, 0, 0, 0, 0),
    RateKind.TOKENS: _Tariff(0, 1, 0, 1, 0),
    RateKind.INPUT_TOKENS: _Tariff(0, 1, 0, 0, 0),
    RateKind.UNCACHED_INPUT_TOKENS: _Tariff(0, 1, -1, 0, 0),
    RateKind.OUTPUT_TOKENS: _Tariff(0, 0, 0, 1, 0),
    RateKind.CONCURRENCY: _Tariff(0, 0, 0, 0, 1),
    RateKind.ENQUEUED_TOKENS: _Tariff(0, 1, 0, 0, 0),
    RateKind.ENQUEUED_REQUESTS: _Tariff(1, 0, 0, 0, 0),
}


class Clearing:
    """The online half of the room: one order at a time, in microseconds."""

    def __init__(
        self,
        rows: Iterable[LimitRow],
        clock: Clock,
        emit: Emit,
        *,
        attempts: int = 3,
        rng: random.Random | None = None,
    ) -> None:
        """``rng``: shakes bids that are near a tie; None = one of a fixed seed."""
        self._rows = tuple(rows)
        self._clock = clock
        self._emit = emit
        self._attempts = attempts
        self._prices: ShadowPrices | None = None
        self._tariffs: dict[tuple[str, str, bool], _Tariff] = {}
        self._stale = False
        self._draw = (rng or random.Random(0)).random

    @property
    def prices(self) -> ShadowPrices | None:
        """The prices in force, None = none came yet, or they are stale and orders go to the cheapest."""
        prices = self._prices
        if prices is None:
            return None
        stale = self._clock.now_ms() - prices.made_ms > STALE_MS
        if stale is not self._stale:
            self._stale = stale
            self._tell_stale(prices)
        return None if stale else prices

    def publish(self, prices: ShadowPrices) -> bool:
        """Use these prices from now on; False for those of a market maker that no longer leads, or older ones.

        Once what is in force is stale any newer ones will do: a store that lost its tokens counts from one again.
        """
        now = self._prices
        if now is not None and (prices.epoch, prices.made_ms) < (now.epoch, now.made_ms):
            stale = self._clock.now_ms() - now.made_ms > STALE_MS
            if not (stale and prices.made_ms > now.made_ms):
                return False
        self._prices = prices
        self._tariffs = {}  # a new one: who asks later why an offer lost then still has the old
        return True

    def bid_nusd(self, candidate: Candidate) -> int:
        """Expected cost plus the shadow price of the room the candidate takes, nano-dollars."""
        return candidate.expected_nusd + self._shadow_nusd(candidate, self.prices)

    def choose(
        self,
        order: Order,
        ranked: Sequence[Candidate],
        room: Room,
        *,
        kept: Candidate | None = None,
        granted: bool = False,
    ) -> Assignment | Reject:
        """The award with its runners-up, or why there is none.

        ranked: the eligible candidates, best first by the order's policy, at least one. kept: the session's own
        offer, which goes first if it fits. granted: it was promised, by a plan or a firm quote, and is not priced again.
        A seller that is out is tried only when nobody else can take the order. A two-tier order holds for its cheap
        answer and a better one.
        """
        prices = self.prices
        line = self._line(order, ranked, prices, kept, granted)
        full: list[tuple[Candidate, Lack]] = []
        award: Candidate | None = None
        for candidate in line:
            lack = _lack(candidate, room)
            if lack is None:
                award = candidate
                break
            full.append((candidate, lack))
        if award is None:
            award = next((c for c, _ in full if room.may_probe(c.quote.provider, c.quote.model)), None)
        if award is None:
            return _exhausted(full, room) if full else self._priced_out(order, ranked, prices)
        runners_up = self._runners_up(order, award, line, room)
        dearest_nusd = max((c.ceiling_nusd for c in runners_up), default=0)
        two_tier = order.policy == "two_tier"
        hold_nusd = award.ceiling_nusd + dearest_nusd if two_tier else max(award.ceiling_nusd, dearest_nusd)
        if order.budget_nusd is not None:
            hold_nusd = min(order.budget_nusd, hold_nusd)
        explain = partial(self._why, order, prices, self._tariffs, award, full) if prices or full else None
        return Assignment(award=award, runners_up=runners_up, hold_nusd=hold_nusd, explain=explain)

    def refused(self, order: Order, ranked: Sequence[Candidate], room: Room) -> Callable[[Candidate], Lost]:
        """Why each candidate did not get an order that was refused; ask at once, while the room is as it was."""
        full = [(candidate, lack) for candidate in ranked if (lack := _lack(candidate, room)) is not None]
        return partial(self._why, order, self.prices, self._tariffs, None, full)

    def _why(
        self,
        order: Order,
        prices: ShadowPrices | None,
        tariffs: dict[tuple[str, str, bool], _Tariff],
        award: Candidate | None,
        full: Sequence[tuple[Candidate, Lack]],
        candidate: Candidate,
    ) -> Lost:
        """Why a candidate lost: its seller had no room, its room is worth too much to others, or it was pricier."""
        shadow_nusd = self._shadow_nusd(candidate, prices, tariffs)
        for other, lack in full:
            if other is candidate:
                return Lost(lack.loss, lack.row, shadow_nusd)
        if not shadow_nusd:
            return _PRICIER
        cheaper = (
            award is not None and order.policy in _BY_BID and candidate.expected_nusd < award.expected_nusd
        )
        if cheaper or not _bearable(order, candidate, shadow_nusd, prices):
            return Lost(Loss.LIMIT_BINDING, "", shadow_nusd)
        return Lost(Loss.PRICIER, "", shadow_nusd)

    def _line(
        self,
        order: Order,
        ranked: Sequence[Candidate],
        prices: ShadowPrices | None,
        kept: Candidate | None,
        granted: bool,
    ) -> Iterator[Candidate]:
        """The candidates the order can bear, in the order they are tried; lazily, since most are never asked for."""
        if kept is not None and (granted or _bearable(order, kept, self._shadow_nusd(kept, prices), prices)):
            yield kept
        if prices is None:
            yield from (c for c in ranked if c is not kept)
            return
        by_bid = order.policy in _BY_BID
        heat = prices.heat if by_bid else 0.0
        served = self._shaken(heat)
        heap: list[tuple[float, int, Candidate]] = []
        for rank, candidate in enumerate(ranked):
            # A bid is at least the expected cost and these ascend: whatever is lower than this one is final.
            while heap and heap[0][0] <= (1 - FARTHEST * heat) * candidate.expected_nusd:
                yield heappop(heap)[2]
            if candidate is kept:
                continue
            shadow_nusd, shaken = self._shadow_nusd(candidate, prices), self._shaken(heat)
            if _bearable(order, candidate, shadow_nusd, prices, served / shaken):
                if by_bid:
                    heappush(heap, (shaken * (candidate.expected_nusd + shadow_nusd), rank, candidate))
                else:
                    yield candidate
        while heap:
            yield heappop(heap)[2]

    def _shaken(self, heat: float) -> float:
        """What a bid is multiplied by; of several that are, the lowest is a draw from their softmin."""
        return 1 + heat * max(-FARTHEST, log(-log(self._draw() or 0.5))) if heat else 1.0

    def _shadow_nusd(
        self,
        candidate: Candidate,
        prices: ShadowPrices | None,
        tariffs: dict[tuple[str, str, bool], _Tariff] | None = None,
    ) -> int:
        """``tariffs``: those of ``prices``, None = of the prices in force."""
        if prices is None:
            return 0
        if tariffs is None:
            tariffs = self._tariffs
        quote = candidate.quote
        key = (quote.provider, quote.model, quote.tier == BATCH_TIER)
        tariff = tariffs.get(key)
        if tariff is None:
            tariff = tariffs[key] = self._tariff(*key, prices)
        if tariff is _FREE:
            return 0
        call, input_token, cached_token, output_token, busy_ms = tariff
        nusd = call + input_token * quote.input_tokens + busy_ms * quote.latency_ms.p50
        if output_token:
            nusd += output_token * expected_output(candidate)
        if cached_token:
            nusd += cached_token * cached_input(quote)
        return max(0, nusd) // UNITS_PER_PRICE

    def _tariff(self, provider: str, model: str, batch: bool, prices: ShadowPrices) -> _Tariff:
        total = [0, 0, 0, 0, 0]
        for row in self._rows:
            nusd = prices.nusd_per_million.get(row.name, 0) if row.covers(provider, model, batch=batch) else 0
            if nusd > 0:
                total = [sum_ + nusd * part for sum_, part in zip(total, _SHAPES[row.kind], strict=True)]
        return _Tariff(*total) if any(total) else _FREE

    def _runners_up(
        self, order: Order, award: Candidate, line: Iterator[Candidate], room: Room
    ) -> tuple[Candidate, ...]:
        """Who follows: the next of other sellers first, then of the same; two-tier escalates to better models."""
        want = self._attempts - 1
        two_tier, sellers = order.policy == "two_tier", {award.quote.provider}
        if two_tier:
            rest, mean = list(line), award.estimate.mean
            better = sorted((c for c in rest if c.estimate.mean > mean), key=lambda c: -c.estimate.mean)
            line = iter(better + [c for c in rest if c.estimate.mean <= mean])
        others: list[Candidate] = []
        same: list[Candidate] = []
        for candidate in line:
            if len(others) == want:
                break
            into = same if candidate.quote.provider in sellers and not two_tier else others
            if len(into) < want and _lack(candidate, room) is None:
                into.append(candidate)
                sellers.add(candidate.quote.provider)
        return tuple((others + same)[:want])

    def _priced_out(self, order: Order, ranked: Sequence[Candidate], prices: ShadowPrices | None) -> Reject:
        """Room is left, but it is worth more to others."""
        nusd, shadow_nusd = min(
            (c.expected_nusd + shadow_nusd, shadow_nusd)
            for c in ranked
            for shadow_nusd in (self._shadow_nusd(c, prices),)
        )
        worth_nusd = _worth_nusd(order)
        return Reject(
            code=RejectCode.PRICED_OUT,
            message=f"capacity goes to higher values: the room of the best offer is worth {format_usd(shadow_nusd)} USD",
            facts={
                "needed_usd": format_usd(nusd),
                "shadow_usd": format_usd(shadow_nusd),
                "value_usd": None if worth_nusd is None else format_usd(worth_nusd),
            },
            retry_after_ms=RETRY_AFTER_MS,
        )

    def _tell_stale(self, prices: ShadowPrices) -> None:
        now_ms = self._clock.now_ms()
        age_ms = now_ms - prices.made_ms
        if self._stale:
            logger.warning("shadow prices are %d ms old: orders go to the cheapest that fits", age_ms)
        else:
            logger.info("shadow prices are fresh again")
        self._emit(Event("clearing.stale" if self._stale else "clearing.fresh", now_ms, {"age_ms": age_ms}))


def _worth_nusd(order: Order) -> int | None:
    """What serving the order is worth: its value, by default its budget; None = it says neither."""
    return order.budget_nusd if order.value_nusd is None else order.value_nusd


def _bearable(
    order: Order, candidate: Candidate, shadow_nusd: int, prices: ShadowPrices | None, shaken: float = 1.0
) -> bool:
    """Whether the bid is at most what the order is worth; where it says nothing, what serving one more order is,
    ``shaken`` since all those orders are at one tie. Nothing is refused for room that is not scarce, nor an order that
    is large by itself for room that is worth little."""
    if prices is None or not shadow_nusd:
        return True
    worth_nusd, cost_nusd = _worth_nusd(order), candidate.expected_nusd
    if worth_nusd is not None:
        return cost_nusd + shadow_nusd <= worth_nusd
    if prices.unserved_nusd is None:
        return True
    unserved_nusd = prices.unserved_nusd * shaken
    return shadow_nusd <= max(unserved_nusd - cost_nusd, unserved_nusd / 2)


def _lack(candidate: Candidate, room: Room) -> Lack | None:
    quote = candidate.quote
    return room.lacks(quote.provider, quote.model, load_of(candidate))


def _exhausted(line: Sequence[tuple[Candidate, Lack]], room: Room) -> Reject:
    """Every candidate that the order could pay for is full or out."""
    lacks = {lack.row for _, lack in line}
    waits_ms = [room.retry_after_ms(c.quote.provider, c.quote.model, load_of(c)) for c, _ in line]
    known_ms = [wait_ms for wait_ms in waits_ms if wait_ms is not None]
    facts: dict[str, Any] = {"offers": len(line), "limits": sorted(lacks)}
    if not known_ms:
        message = f"the call is larger than a limit of each of {len(line)} offers allows at any time"
        return Reject(code=RejectCode.CAPACITY_EXHAUSTED, message=message, facts=facts)
    retry_after_ms = max(min(known_ms), 1)
    return Reject(
        code=RejectCode.CAPACITY_EXHAUSTED,
        message=f"all {len(line)} offers that meet the terms are full; room is expected in {retry_after_ms} ms",
        facts=facts,
        retry_after_ms=retry_after_ms,
    )
