"""What buyers want: counted by workers per class of order, forecast by the market maker.

A class is orders of about the same size (input and output to half an octave) that the same offers may serve and that
are worth about the same (to an octave). Workers report counts, and of classes that are new the offers with their mean
costs and loads; the market maker keeps exponentially weighted rates of the most frequent classes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from hashlib import blake2b
from typing import Any, Final

import orjson

from .limits import cached_input, expected_output
from .order import Candidate, Order

__all__ = ["ClassReport", "DemandMeter", "DemandReport", "OfferKey", "OfferLoad"]

MAX_NOTES: Final = 500
"""Orders looked at in one report; more are counted as if they were like these."""

MAX_KNOWN: Final = 4_096
RENEW_REPORTS: Final = (
    10  # after so many reports a class is described anew, by another order: means come of it
)

OfferKey = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class OfferLoad:
    """What one order of a class costs at one offer, and takes of its limits; means."""

    cost_nusd: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    latency_ms: int


@dataclass(frozen=True, slots=True)
class ClassReport:
    """How many orders of a class came. offers: by ``(provider, model, tier)``, empty = as reported before.

    worth_nusd: the mean value (by default budget) of its orders, None = they name none.
    """

    key: str
    count: int
    worth_nusd: int | None = None
    offers: Mapping[OfferKey, OfferLoad] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class DemandReport:
    """What one worker saw in ``span_ms`` up to ``at_ms``. orders: all of them, also those not put into classes.

    taken: units of each row taken in that time, by name, what was given back subtracted.
    """

    worker: str
    at_ms: int
    span_ms: int
    orders: int
    classes: tuple[ClassReport, ...]
    taken: Mapping[str, int]

    def to_bytes(self) -> bytes:
        """As JSON, for a pipe or a store."""
        return orjson.dumps(
            {
                "worker": self.worker,
                "at_ms": self.at_ms,
                "span_ms": self.span_ms,
                "orders": self.orders,
                "taken": dict(self.taken),
                "classes": [
                    [
                        c.key,
                        c.count,
                        c.worth_nusd,
                        [[*key, *_numbers(load)] for key, load in c.offers.items()],
                    ]
                    for c in self.classes
                ],
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> DemandReport:
        """The report in ``data``, without what a later version adds to it; raises ValueError where it is none."""
        told = orjson.loads(data)
        try:
            classes = tuple(
                ClassReport(key, count, worth_nusd, {tuple(o[:3]): OfferLoad(*o[3:8]) for o in offers})
                for key, count, worth_nusd, offers, *_ in told["classes"]
            )
            return cls(**{each.name: told[each.name] for each in fields(cls)} | {"classes": classes})
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"expected a demand report, found {data[:80]!r}") from error


def _numbers(load: OfferLoad) -> tuple[int, ...]:
    return (load.cost_nusd, load.input_tokens, load.cached_tokens, load.output_tokens, load.latency_ms)


class _Tally:
    """Orders of one class since the last report."""

    __slots__ = ("candidates", "count", "offers", "worth_nusd")

    def __init__(self, candidates: Sequence[Candidate], offers: frozenset[OfferKey]) -> None:
        self.candidates = candidates  # of the first order: its costs and loads stand for the class
        self.offers = offers
        self.count = 0
        self.worth_nusd = 0


class DemandMeter:
    """Counts the orders of one worker; :meth:`note` takes a few microseconds, and of at most ``MAX_NOTES`` a report."""

    def __init__(self, worker: str = "0") -> None:
        self._worker = worker
        self._orders = 0
        self._tallies: dict[Any, _Tally] = {}
        self._noted = 0
        self._described: OrderedDict[str, int] = OrderedDict()  # class → the report it was described in
        self._reports = 0
        self._last_ms: int | None = None

    def note(self, order: Order, eligible: Sequence[Candidate]) -> None:
        """An order came, and these offers meet its terms."""
        self._orders += 1
        if self._noted >= MAX_NOTES or not eligible:
            return
        self._noted += 1
        offers = frozenset([(c.quote.provider, c.quote.model, c.quote.tier) for c in eligible])
        first, worth_nusd = eligible[0], order.budget_nusd if order.value_nusd is None else order.value_nusd
        key = (
            _half_octave(first.quote.input_tokens),
            _half_octave(expected_output(first)),
            None if worth_nusd is None else worth_nusd.bit_length(),
            offers,
        )
        tally = self._tallies.get(key)
        if tally is None:
            tally = self._tallies[key] = _Tally(eligible, offers)
        tally.count += 1
        tally.worth_nusd += worth_nusd or 0

    def report(self, now_ms: int, taken: Mapping[str, int]) -> DemandReport:
        """What came since the last report; starts counting anew."""
        span_ms = 0 if self._last_ms is None else now_ms - self._last_ms
        self._reports += 1
        classes = [self._class(key, tally) for key, tally in self._tallies.items()]
        report = DemandReport(
            worker=self._worker,
            at_ms=now_ms,
            span_ms=span_ms,
            orders=self._orders,
            classes=tuple(classes),
            taken=taken,
        )
        self._tallies = {}
        self._orders = self._noted = 0
        self._last_ms = now_ms
        return report

    def forget(self) -> None:
        """Describe every class anew: the market maker is another one."""
        self._described.clear()

    def _class(self, key: Any, tally: _Tally) -> ClassReport:
        told = _digest(key[:3], tally.offers)
        described = self._described.get(told)
        offers: dict[OfferKey, OfferLoad] = {}
        if described is None or self._reports - described >= RENEW_REPORTS:
            self._described[told] = self._reports
            offers = {(c.quote.provider, c.quote.model, c.quote.tier): _load(c) for c in tally.candidates}
        self._described.move_to_end(told)
        if len(self._described) > MAX_KNOWN:
            self._described.popitem(last=False)
        worth_nusd = None if key[2] is None else tally.worth_nusd // tally.count
        return ClassReport(told, tally.count, worth_nusd, offers)


def _half_octave(tokens: int) -> int:
    """0 for none, then two steps for every doubling."""
    bits = tokens.bit_length()
    return 2 * bits + (tokens >> (bits - 2) & 1 if bits > 1 else 0)


def _digest(sizes: tuple[Any, ...], offers: frozenset[OfferKey]) -> str:
    """The same for the same class in every worker."""
    text = "\n".join([repr(sizes), *("\t".join(offer) for offer in sorted(offers))])
    return blake2b(text.encode(), digest_size=9).hexdigest()


def _load(candidate: Candidate) -> OfferLoad:
    quote = candidate.quote
    return OfferLoad(
        candidate.expected_nusd,
        quote.input_tokens,
        cached_input(quote),
        expected_output(candidate),
        quote.latency_ms.p50,
    )
