"""How a self-hosted seller prices what would otherwise stand idle: the emptier, the cheaper, down to a reserve."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from typing import Final

from .base import PricingSettings
from .pricelist import Standing
from .quoting import Reduction
from .terms import RFQ, DiscountKind

__all__ = ["FAST_PATH_TOKENS", "idle_standing"]

FAST_PATH_TOKENS: Final = 512
"""A request of at most this many tokens, in and out, fits between two steps of a running batch."""
FAST_PATH_SHARE: Final = Fraction(9, 10)
STEPS: Final = 100


def idle_standing(
    busy: float, pricing: PricingSettings, rfq: RFQ, *, capacity: int | None = None, firm: bool = True
) -> Standing:
    """The standing of a seller of which the share ``busy`` (0 to 1, queue included) is in use.

    Its rates fall with the idle share, half-way to the reserve without being asked and all the way in a second round.
    A full seller asks its list price. Short requests ride along at nine tenths.
    """
    idle = max(0, min(STEPS, round((1 - busy) * STEPS)))
    wanted = rfq.expected_output_tokens or FAST_PATH_TOKENS
    short = busy < 1 and rfq.input_tokens + wanted <= FAST_PATH_TOKENS
    asked, lowest = _reductions(idle, pricing.reserve_share, short)
    return Standing(reduction=asked, reserve=lowest, capacity=capacity, firm=firm)


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
