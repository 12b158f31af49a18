"""How much of each class of orders will come, as a batch whose limits can be priced.

Exponentially weighted rates: what came is forgotten by half every ``half_life_ms``. The most frequent classes are
kept one by one; what the others amounted to is spread over them, so that the total stays right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from .clearing_book import BatchBook, BatchOffer
from .limits import LimitRow
from .market_maker_demand import ClassReport, DemandReport, OfferKey, OfferLoad

__all__ = ["HALF_LIFE_MS", "Expected", "Forecast", "Outlook"]

HALF_LIFE_MS: Final = 30_000
JUDGED_MS: Final = 60_000
"""By how much earlier forecasts were off is forgotten by half in so long."""

TRUSTED: Final = 50.0  # orders: with fewer to judge by, a forecast is believed
MOST_OFF: Final = 2.0
MAX_CLASSES: Final = 1_024
MAX_OFFERS: Final = 512
BLEND: Final = 0.3  # how much a new description of a class counts against the old ones
WORTH: Final = 30  # what an order is worth that does not say, in mean dearest costs: being served comes first


@dataclass(frozen=True, slots=True, eq=False)
class Expected:
    """Classes of orders as a batch. count: float64[n], how many of each. unserved_nusd: what an order that names no
    worth is taken to be worth."""

    book: BatchBook
    count: npt.NDArray[np.float64]
    unserved_nusd: int


class Outlook:
    """How many orders came for every one that was expected, lately: what the next forecast is multiplied by."""

    def __init__(self) -> None:
        self._came = self._expected = TRUSTED
        self._per_ms = 0.0
        self._since_ms = 0

    def came(self, orders: int) -> None:
        """Count what came."""
        self._came += orders if self._per_ms else 0

    def factor(self, now_ms: int, per_ms: float) -> float:
        """Judge the last forecast by what has come since, and take down a new one; ``per_ms``: orders a millisecond."""
        passed_ms = max(0, now_ms - self._since_ms)
        self._expected += self._per_ms * passed_ms
        kept = 2 ** (-passed_ms / JUDGED_MS)
        self._came = TRUSTED + kept * (self._came - TRUSTED)
        self._expected = TRUSTED + kept * (self._expected - TRUSTED)
        self._per_ms, self._since_ms = per_ms, now_ms
        return min(MOST_OFF, max(1 / MOST_OFF, self._came / self._expected))


class _Class:
    __slots__ = ("loads", "mass", "worth_nusd")

    def __init__(self, worth_nusd: int | None) -> None:
        self.mass = 0.0
        self.worth_nusd = worth_nusd
        self.loads: dict[int, npt.NDArray[np.float64]] = {}  # column → cost, input, cached, output, latency


class Forecast:
    """Rates per class, and the batch that is expected in a time to come."""

    def __init__(self, rows: Sequence[LimitRow], *, half_life_ms: int = HALF_LIFE_MS) -> None:
        self._rows = tuple(rows)
        self._half_life_ms = half_life_ms
        self._classes: dict[str, _Class] = {}
        self._columns: dict[OfferKey, int] = {}
        self._total = 0.0  # mass of all classes, also of those no longer kept
        self._began_ms: int | None = None
        self._now_ms = 0
        self.undescribed = 0
        """Orders reported in classes that nobody described here: their workers must do so."""

    def observe(self, report: DemandReport) -> None:
        """Count what a worker saw."""
        if self._began_ms is None:
            self._began_ms = report.at_ms - report.span_ms
            self._now_ms = report.at_ms
        self._fade(max(0, report.at_ms - self._now_ms))
        self._now_ms = max(self._now_ms, report.at_ms)
        noted = sum(told.count for told in report.classes)
        for told in report.classes:
            self._count(told, told.count * report.orders / noted)
        self._total += report.orders
        if len(self._classes) > MAX_CLASSES:
            lightest = sorted(self._classes, key=lambda key: self._classes[key].mass)
            for key in lightest[: len(lightest) - MAX_CLASSES * 7 // 8]:
                del self._classes[key]

    def seen(self) -> float:
        """How much of its memory is filled, 0 to 1."""
        if self._began_ms is None:
            return 0.0
        return 1 - float(2 ** (-max(1, self._now_ms - self._began_ms) / self._half_life_ms))

    def per_ms(self) -> float:
        """Orders expected per millisecond, all classes."""
        if self._began_ms is None:
            return 0.0
        return self._total * math.log(2) / self._half_life_ms / self.seen()

    def expect(self, horizon_ms: int) -> Expected | None:
        """What is expected in ``horizon_ms``; None = no demand yet."""
        classes = [c for c in self._classes.values() if c.mass > 0]
        orders = self.per_ms() * horizon_ms
        if not classes or not orders:
            return None
        share = np.array([c.mass for c in classes])
        share /= share.sum()
        loads = np.zeros((len(classes), len(self._columns), 5))
        allowed = np.zeros((len(classes), len(self._columns)), dtype=np.bool_)
        for i, entry in enumerate(classes):
            at = list(entry.loads)
            loads[i, at] = list(entry.loads.values())
            allowed[i, at] = True
        dearest = loads[..., 0].max(axis=1)
        unserved_nusd = WORTH * (1 + int(share @ dearest))
        usual = np.maximum(unserved_nusd, dearest + unserved_nusd / 2).tolist()  # as clearing has it
        worth = [
            nusd if c.worth_nusd is None else c.worth_nusd for c, nusd in zip(classes, usual, strict=True)
        ]
        book = BatchBook(
            offers=[BatchOffer(*key) for key in self._columns],
            cost=np.rint(loads[..., 0]).astype(np.int64),
            allowed=allowed,
            input_tokens=loads[..., 1],
            cached_tokens=loads[..., 2],
            output_tokens=loads[..., 3],
            latency_ms=loads[..., 4],
            rows=self._rows,
            horizon_ms=horizon_ms,
            value=np.array(worth, dtype=np.int64),
        )
        return Expected(book=book, count=share * orders, unserved_nusd=unserved_nusd)

    def _count(self, told: ClassReport, orders: float) -> None:
        entry = self._classes.get(told.key)
        if entry is None:
            if not told.offers:
                self.undescribed += told.count
                return
            entry = self._classes[told.key] = _Class(told.worth_nusd)
        entry.mass += orders
        if told.worth_nusd is not None and entry.worth_nusd is not None:
            entry.worth_nusd += round(BLEND * (told.worth_nusd - entry.worth_nusd))
        for key, load in told.offers.items():
            column = self._columns.setdefault(key, len(self._columns))
            if column >= MAX_OFFERS:
                del self._columns[key]
                continue
            new, old = _numbers(load), entry.loads.get(column)
            entry.loads[column] = new if old is None else old + BLEND * (new - old)

    def _fade(self, passed_ms: int) -> None:
        factor = 2 ** (-passed_ms / self._half_life_ms)
        self._total *= factor
        for entry in self._classes.values():
            entry.mass *= factor


def _numbers(load: OfferLoad) -> npt.NDArray[np.float64]:
    return np.array(
        [load.cost_nusd, load.input_tokens, load.cached_tokens, load.output_tokens, load.latency_ms], float
    )
