"""How a self-hosted seller prices what would otherwise stand idle: the emptier, the cheaper, down to a reserve."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import Final

from .base import PricingSettings
from .latency import Latency
from .pricelist import Standing
from .quoting import Reduction
from .terms import RFQ, DiscountKind, SpeedModel

__all__ = ["FAST_PATH_TOKENS", "QuietTimes", "idle_standing"]

FAST_PATH_TOKENS: Final = 512
"""A request of at most this many tokens, in and out, fits between two steps of a running batch."""
FAST_PATH_SHARE: Final = Fraction(9, 10)
STEPS: Final = 100
QUIET: Final = 0.5
"""A server of which less than this share is in use is quiet: nobody waits for a place in its batch."""


class QuietTimes:
    """How fast a seller is while nobody waits: seen of the calls that began then, and promised only then."""

    def __init__(self, busy: Callable[[], float]) -> None:
        """busy: the share in use now, 0 to 1."""
        self._busy = busy
        self._latency = Latency()

    @property
    def now(self) -> bool:
        """Whether it is quiet now."""
        return self._busy() < QUIET

    def observe(
        self, model: str, tier: str, output_tokens: int, ttft_ms: float | None, total_ms: float
    ) -> None:
        """Remember a call that began while it was quiet."""
        self._latency.observe(model, tier, output_tokens, ttft_ms, total_ms)

    def speed(self, model: str, tier: str) -> SpeedModel | None:
        """How fast it is just now, None = it is not quiet, or too few such calls were seen."""
        return self._latency.speed(model, tier) if self.now else None


def idle_standing(
    busy: float,
    pricing: PricingSettings,
    rfq: RFQ,
    *,
    capacity: int | None = None,
    firm: bool = True,
    quick: SpeedModel | None = None,
) -> Standing:
    """The standing of a seller of which the share ``busy`` (0 to 1, queue included) is in use.

    Its rates fall with the idle share, half-way to the reserve without being asked and all the way in a second round.
    A full seller asks its list price. Short requests ride along at nine tenths.
    """
    idle = max(0, min(STEPS, round((1 - busy) * STEPS)))
    wanted = rfq.expected_output_tokens or FAST_PATH_TOKENS
    short = busy < 1 and rfq.input_tokens + wanted <= FAST_PATH_TOKENS
    asked, lowest = _reductions(idle, pricing.reserve_share, short)
    return Standing(reduction=asked, reserve=lowest, capacity=capacity, firm=firm, quick=quick)


@lru_cache(maxsize=1024)
def _reductions(idle: int, reserve_share: float, short: bool) -> tuple[Reduction | None, Reduction | None]:
    """What is asked at ``idle`` per cent, and the lowest; None = the list price."""
    span = 1 - Fraction(reserve_share).limit_denominator(1000)
    asked = 1 - span * Fraction(idle, 2 * STEPS)
    lowest = 1 - span * Fraction(idle, STEPS)
    basis, kind = f"{idle} % of its capacity is idle", DiscountKind.IDLE
    if short:
        asked, lowest = asked * FAST_PATH_SHARE, lowest * FAST_PATH_SHARE
        if not idle:
            basis, kind = "a short request rides along in the running batch", DiscountKind.FAST_PATH
    return (
        _reduction(kind, asked, basis),
        _reduction(DiscountKind.COUNTER, lowest, f"second round: {basis}"),
    )


def _reduction(kind: DiscountKind, share: Fraction, basis: str) -> Reduction | None:
    if share >= 1:
        return None
    return Reduction(kind, share.numerator, share.denominator, basis)
