"""Idle capacity is sold cheaper, in steps that a reader can check."""

from __future__ import annotations

from fractions import Fraction

import pytest

from providers.base import PricingSettings
from providers.idle_pricing import FAST_PATH_TOKENS, QuietTimes, idle_standing
from providers.quoting import Reduction
from providers.terms import RFQ, DiscountKind

LONG = RFQ(rfq_id="r", input_tokens=5_000, expected_output_tokens=500)
SHORT = RFQ(rfq_id="r", input_tokens=FAST_PATH_TOKENS - 100, expected_output_tokens=100)


def share(reduction: Reduction | None) -> Fraction:
    """The part of the list price that is asked."""
    return Fraction(1) if reduction is None else Fraction(reduction.numerator, reduction.denominator)


@pytest.mark.parametrize(
    ("busy", "asked", "reserve"),
    [(0.0, "0.65", "0.3"), (0.5, "0.825", "0.65"), (0.9, "0.965", "0.93"), (1.0, "1", "1"), (3.0, "1", "1")],
)
def test_the_emptier_the_cheaper_down_to_the_reserve(busy: float, asked: str, reserve: str) -> None:
    """With a reserve of 30 %: half-way unasked, all the way in a second round, list price when full or queueing."""
    standing = idle_standing(busy, PricingSettings(reserve_share=0.3), LONG)
    assert share(standing.reduction) == Fraction(asked)
    assert share(standing.reserve) == Fraction(reserve)


def test_the_cause_is_itemised() -> None:
    """The basis says how idle it is; the second round is a counter."""
    standing = idle_standing(0.25, PricingSettings(reserve_share=0.3), LONG)
    assert standing.reduction is not None
    assert standing.reserve is not None
    assert (standing.reduction.kind, standing.reduction.basis) == (
        DiscountKind.IDLE,
        "75 % of its capacity is idle",
    )
    assert standing.reserve.kind is DiscountKind.COUNTER


def test_short_requests_ride_along_unless_it_is_full() -> None:
    """A tenth off on top of the idle price, by the fast path alone when nothing is idle but a slot is free."""
    assert share(idle_standing(0.0, PricingSettings(reserve_share=0.3), SHORT).reduction) == Fraction("0.585")
    nearly = idle_standing(0.999, PricingSettings(reserve_share=0.3), SHORT).reduction
    assert nearly is not None
    assert (nearly.kind, share(nearly)) == (DiscountKind.FAST_PATH, Fraction("0.9"))
    assert idle_standing(1.0, PricingSettings(reserve_share=0.3), SHORT).reduction is None


def test_a_reserve_of_one_never_bargains() -> None:
    """An operator who sets the whole price as reserve asks it always."""
    standing = idle_standing(0.0, PricingSettings(reserve_share=1.0), LONG, capacity=7)
    assert (standing.reduction, standing.reserve, standing.capacity) == (None, None, 7)


def test_how_fast_it_is_while_quiet_is_said_only_then() -> None:
    """Eight calls that began in quiet times teach a speed; once half of it is in use nothing is promised."""
    busy = [0.0]
    quiet = QuietTimes(lambda: busy[0])
    for number in range(8):
        assert quiet.speed("m", "standard") is None, number
        quiet.observe("m", "standard", 100, 50.0, 550.0)
    speed = quiet.speed("m", "standard")
    assert speed is not None
    assert (speed.ttft_ms_p50, speed.ms_per_output_token_p50) == (50, 5)
    assert quiet.speed("m", "flex") is None
    busy[0] = 0.5
    assert not quiet.now
    assert quiet.speed("m", "standard") is None
