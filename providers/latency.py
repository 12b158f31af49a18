"""How long a seller's answers really take: recent observations per model and tier, in bounded memory.

Quantiles come by size class of the output, time to first token apart; :meth:`Latency.speed` fits the same
observations to the :class:`SpeedModel` a quote is composed from.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import OrderedDict, deque
from dataclasses import dataclass, replace
from typing import Final

from .terms import Quantiles, Quote, SpeedModel

__all__ = ["SIZE_CLASSES", "Latency", "Spread", "at_speed", "size_class"]

SIZE_CLASSES: Final = (64, 256, 1024, 4096)
"""Upper bounds of the output size classes, tokens; the last class has none."""

KEPT: Final = 128
"""Observations kept per model and tier: enough for a p95, few enough to follow the hour."""

MAX_SERIES: Final = 512
MIN_TO_SPEAK: Final = 8
REFIT_EVERY: Final = 32
P95_SIGMAS: Final = 1.645
MIN_SIGMA, MAX_SIGMA = 0.05, 1.5


def size_class(output_tokens: int) -> int:
    """The index of an output's size class, 0 to ``len(SIZE_CLASSES)``."""
    return bisect_left(SIZE_CLASSES, output_tokens)


@dataclass(frozen=True, slots=True)
class Spread:
    """Observed quantiles, milliseconds; ttft_* None where no stream was seen."""

    observations: int
    p50_ms: int
    p95_ms: int
    p99_ms: int
    ttft_p50_ms: int | None
    ttft_p95_ms: int | None


@dataclass(slots=True)
class _Series:
    calls: deque[tuple[int, float | None, float]]
    since_fit: int
    speed: SpeedModel | None


class Latency:
    """Observations by model and tier; the series unused longest is forgotten beyond :data:`MAX_SERIES`."""

    def __init__(self) -> None:
        self._series: OrderedDict[tuple[str, str], _Series] = OrderedDict()

    def observe(
        self, model: str, tier: str, output_tokens: int, ttft_ms: float | None, total_ms: float
    ) -> bool:
        """Remember one whole call (``ttft_ms`` None: it was not streamed); whether :meth:`speed` changed.

        output_tokens 0: a batch of calls, whose time says nothing of any answer's length.
        """
        series = self._series.get((model, tier))
        if series is None:
            series = self._series[model, tier] = _Series(deque(maxlen=KEPT), 0, None)
            if len(self._series) > MAX_SERIES:
                self._series.popitem(last=False)
        self._series.move_to_end((model, tier))
        series.calls.append((output_tokens, ttft_ms, total_ms))
        series.since_fit += 1
        if len(series.calls) < MIN_TO_SPEAK or (series.since_fit < REFIT_EVERY and series.speed is not None):
            return False
        series.since_fit, series.speed = 0, _fit(series.calls)
        return True

    def speed(self, model: str, tier: str) -> SpeedModel | None:
        """What was observed as a speed model; None before :data:`MIN_TO_SPEAK` calls."""
        series = self._series.get((model, tier))
        return None if series is None else series.speed

    def spread(self, model: str, tier: str, output_tokens: int) -> Spread | None:
        """Quantiles of the output's size class; of all classes while it has too few calls; None with none."""
        series = self._series.get((model, tier))
        if series is None:
            return None
        wanted = size_class(output_tokens)
        calls = [call for call in series.calls if size_class(call[0]) == wanted]
        if len(calls) < MIN_TO_SPEAK:
            calls = list(series.calls)
        if len(calls) < MIN_TO_SPEAK:
            return None
        totals = sorted(call[2] for call in calls)
        firsts = sorted(call[1] for call in calls if call[1] is not None)
        return Spread(
            len(calls),
            round(_quantile(totals, 0.50)),
            round(_quantile(totals, 0.95)),
            round(_quantile(totals, 0.99)),
            round(_quantile(firsts, 0.50)) if firsts else None,
            round(_quantile(firsts, 0.95)) if firsts else None,
        )


def at_speed(quote: Quote, speed: SpeedModel) -> Quote:
    """The same quote as it is at another speed."""
    late = math.exp(P95_SIGMAS * speed.sigma)
    first_ms = speed.ttft_ms_p50
    whole_ms = first_ms + speed.ms_per_output_token_p50 * quote.expected_output_tokens
    first, whole = (Quantiles(max(1, round(ms)), max(1, round(ms * late))) for ms in (first_ms, whole_ms))
    return replace(quote, latency_ms=whole, ttft_ms=first)


def _quantile(ordered: list[float], share: float) -> float:
    """The value that ``share`` of them do not exceed (nearest rank)."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _fit(calls: deque[tuple[int, float | None, float]]) -> SpeedModel:
    """Medians of first token and pace; the spread is how far the slow tail is from what the medians predict."""
    if not any(output for output, _, _ in calls):
        whole = sorted(total for _, _, total in calls)
        median_ms = max(_quantile(whole, 0.5), 1.0)
        sigma = math.log(max(_quantile(whole, 0.95) / median_ms, 1.0)) / P95_SIGMAS
        return SpeedModel(median_ms, 0.0, min(max(sigma, MIN_SIGMA), MAX_SIGMA))
    firsts = sorted(first for _, first, _ in calls if first is not None)
    if not firsts:  # never streamed: the shortest wait bounds the time to first token
        firsts = [min(total for _, _, total in calls)]
    ttft_ms = max(_quantile(firsts, 0.5), 1.0)
    paces = sorted(
        max(total - (ttft_ms if first is None else first), 0.0) / max(output, 1)
        for output, first, total in calls
    )
    pace_ms = max(_quantile(paces, 0.5), 0.01)
    ratios = sorted(total / (ttft_ms + pace_ms * output) for output, _, total in calls)
    sigma = math.log(max(_quantile(ratios, 0.95), 1.0)) / P95_SIGMAS
    return SpeedModel(ttft_ms, pace_ms, min(max(sigma, MIN_SIGMA), MAX_SIGMA))
