"""How long calls took: quantiles per size of answer, recent calls first, in bounded memory.

Counts in buckets whose bounds grow by a fixed factor (as DDSketch and HDR histograms do), so a quantile is off by at
most half that factor; all counts are halved when there are many, so the past fades.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from dataclasses import dataclass
from typing import Final

__all__ = ["Latencies", "Sketch", "Spread", "patience_ms", "size_class"]

FACTOR: Final = 1.1
BUCKETS: Final = 160  # 1 ms .. 1.1^160 ms, more than an hour
FADE_AT: Final = 1_024
MIN_OBSERVATIONS: Final = 20
RENEW_SHARE: Final = 64
"""Quantiles are worked out anew once a 64th more calls were seen."""

PATIENCE: Final = 3
"""A call is given up after this many times the 99th percentile."""

P99_PER_MEDIAN: Final = 4  # of a lognormal with sigma 0.6: generous, since too early a cut wastes a call
MIN_PATIENCE_MS: Final = 1_000
MAX_PATIENCE_MS: Final = 600_000

_SIZES: Final = (64, 256, 1_024, 4_096)
_LOG: Final = math.log(FACTOR)


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, 95th and 99th percentile in milliseconds, and of how many calls (faded ones count less)."""

    p50: int
    p95: int
    p99: int
    observations: int


def size_class(output_tokens: int) -> int:
    """0 to 4: answers of up to 64, 256, 1,024, 4,096 tokens, and longer ones."""
    return bisect_left(_SIZES, output_tokens)


class Sketch:
    """The distribution of one duration."""

    __slots__ = ("_counts", "_renew_at", "_spread", "_total")

    def __init__(self) -> None:
        self._counts = array("H", bytes(2 * BUCKETS))
        self._total = 0
        self._spread: Spread | None = None
        self._renew_at = MIN_OBSERVATIONS

    def add(self, duration_ms: int) -> None:
        """Count one call."""
        bucket = min(BUCKETS - 1, int(math.log(duration_ms) / _LOG)) if duration_ms > 1 else 0
        self._counts[bucket] += 1
        self._total += 1
        if self._total >= FADE_AT:
            self._counts = array("H", (count // 2 for count in self._counts))
            self._total = sum(self._counts)
            self._renew_at = self._total

    @property
    def spread(self) -> Spread | None:
        """Its quantiles, None = too few calls yet."""
        if self._total >= self._renew_at:
            p50, p95, p99 = (self._quantile(q) for q in (0.5, 0.95, 0.99))
            self._spread = Spread(p50, p95, p99, self._total)
            self._renew_at = self._total + max(1, self._total // RENEW_SHARE)
        return self._spread

    def _quantile(self, q: float) -> int:
        rank, bucket = q * self._total - self._counts[0], 0
        while rank > 0:
            bucket += 1
            rank -= self._counts[bucket]
        return round(math.exp((bucket + 0.5) * _LOG))  # the middle of the bucket, in ratio


class Latencies:
    """First token and completion of one seller's model, by size of answer."""

    __slots__ = ("_ttft", "_whole")

    def __init__(self) -> None:
        self._ttft = Sketch()  # how soon an answer starts does not depend on how long it gets
        self._whole = [Sketch() for _ in range(len(_SIZES) + 1)]

    def add(self, output_tokens: int, ttft_ms: int | None, latency_ms: int) -> None:
        """Count one call; ``ttft_ms`` None = its first token never came."""
        self._whole[size_class(output_tokens)].add(latency_ms)
        if ttft_ms is not None:
            self._ttft.add(ttft_ms)

    def spread(self, output_tokens: int) -> Spread | None:
        """How long answers of this size take, None = too few were seen."""
        return self._whole[size_class(output_tokens)].spread

    @property
    def ttft(self) -> Spread | None:
        """How soon answers start, None = too few were seen."""
        return self._ttft.spread


def patience_ms(spread: Spread | None, median_ms: int) -> int:
    """When a call without a deadline is given up; from the median quoted until enough was seen."""
    p99_ms = P99_PER_MEDIAN * median_ms if spread is None else spread.p99
    return min(MAX_PATIENCE_MS, max(MIN_PATIENCE_MS, PATIENCE * p99_ms))
