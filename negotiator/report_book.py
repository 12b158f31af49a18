"""A log's orders as arrays, orders x offers: what was believed, what turned out, and the limits window by window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from providers.batch import BATCH_TIER
from providers.terms import RateKind

from .limits import Load
from .report import LoggedMarket, LoggedOrder

if TYPE_CHECKING:
    from solver import Limit

__all__ = ["LogBook"]

FEEDBACK_WORTH: Final = 5.0
"""Judgements that weigh as much as the estimate made beforehand."""

WINDOW_MS: Final = 60_000
MAX_WINDOWS: Final = 240
"""Windows that a log's time is cut into at most: of a minute, of longer where the log is longer than four hours."""

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class LogBook:
    """n orders x m offers.

    quoted: there was a quote. eligible: it met every term. expected, realised: int64 nano-dollars, as quoted, and with
    the length that the answer turned out to have, at most the ceiling. quality: the estimates made then. award: int64[n],
    -1 = refused.
    """

    def __init__(self, market: LoggedMarket, orders: Sequence[LoggedOrder]) -> None:
        self.market, self.orders = market, orders
        self.offers = market.names
        shape = (len(orders), len(self.offers))
        self.quoted, self.eligible = np.zeros(shape, bool), np.zeros(shape, bool)
        self.expected, self.realised = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        self.quality = np.zeros(shape)
        self._loads: dict[RateKind, Floats] = {}
        self.award = np.array([order.award for order in orders], dtype=np.int64)
        self.billed = np.array([order.billed_nusd for order in orders], dtype=np.int64)
        self.floor = np.array([order.min_quality for order in orders])
        self._at_ms = np.array([order.at_ms for order in orders], dtype=np.int64)
        for i, order in enumerate(orders):
            self._put(i, order)

    def _put(self, i: int, order: LoggedOrder) -> None:
        quotes, j = order.quoted, order.quoted.offer
        self.quoted[i, j] = True
        self.eligible[i, j] = quotes.eligible
        self.expected[i, j] = quotes.expected_nusd
        self.quality[i, j] = quotes.quality
        billed, quoted = (order.billed_nusd, max(1, order.quoted_nusd)) if order.served else (1, 1)
        scaled = np.rint(quotes.expected_nusd * (billed / quoted)).astype(np.int64)
        self.realised[i, j] = np.minimum(scaled, quotes.ceiling_nusd)
        if order.served:
            self.eligible[i, order.award] = True  # what was done was possible
            self.realised[i, order.award] = order.billed_nusd

    def limits(self) -> list[Limit]:
        """Sellers' limits in each window of the log's time.

        Windows do not slide, and hold at least what was really sent in them, so what was done is always possible and the
        optimum is a bound from below.
        """
        from solver import Limit

        if not len(self._at_ms):
            return []
        first_ms = int(self._at_ms.min())
        span_ms = int(self._at_ms.max()) - first_ms + 1
        window_ms = max(WINDOW_MS, -(-span_ms // MAX_WINDOWS))
        group = ((self._at_ms - first_ms) // window_ms).astype(np.int32)
        served = np.flatnonzero(self.award >= 0)
        limits = []
        for row in self.market.limits:
            columns = [
                j
                for j, (seller, model, tier) in enumerate(self.offers)
                if row.covers(seller, model, batch=tier == BATCH_TIER)
            ]
            if not columns:
                continue
            usage = self._usage(row.kind)
            covered = served[np.isin(self.award[served], columns)]
            sent = np.bincount(
                group[covered], usage[covered, self.award[covered]], minlength=int(group.max()) + 1
            )
            caps = np.maximum(row.cap_over(window_ms), sent)
            limits.append(Limit(row.name, caps, models=columns, usage=usage, group=group))
        return limits

    def _usage(self, kind: RateKind) -> Floats:
        """What each pair takes of a limit of this kind; limits of one kind share the array."""
        known = self._loads.get(kind)
        if known is None:
            known = self._loads[kind] = np.zeros(self.quoted.shape)
            for i, order in enumerate(self.orders):
                quotes = order.quoted
                rows = zip(
                    quotes.input_tokens.tolist(),
                    quotes.output_tokens.tolist(),
                    quotes.latency_ms.tolist(),
                    strict=True,
                )
                known[i, quotes.offer] = [Load(a, b, latency_ms=ms).over_horizon(kind) for a, b, ms in rows]
        return known

    def good_enough(self) -> Bools:
        """Pairs that meet the floor when the estimate is moved by what feedback said of the model."""
        quality = self.quality.copy()
        for j, (provider, model, _) in enumerate(self.offers):
            scores = self.market.scores.get((provider, model), [])
            weight = len(scores) / (len(scores) + FEEDBACK_WORTH)
            if scores:
                quality[:, j] = (1 - weight) * quality[:, j] + weight * float(np.mean(scores))
        return self._with_award(self.eligible & (quality >= self.floor[:, None]))

    def in_service(self) -> Bools:
        """Pairs whose seller was not out when the order came."""
        mask = np.ones_like(self.eligible)
        for provider, model, from_ms, until_ms in self.market.ejected:
            for j, offer in enumerate(self.offers):
                if offer[:2] == (provider, model):
                    mask[(self._at_ms >= from_ms) & (self._at_ms < until_ms), j] = False
        return self._with_award(mask)

    def _with_award(self, mask: Bools) -> Bools:
        served = np.flatnonzero(self.award >= 0)
        mask[served, self.award[served]] = True
        return mask

    def costs(self, choice: npt.NDArray[np.int32], cost: Ints) -> Ints:
        """int64[n]: each order's cost under a plan; one that the plan leaves out was served, so its award's cost."""
        column = np.where(choice >= 0, choice, self.award)
        found: Ints = cost[np.arange(len(column)), column]
        return found
