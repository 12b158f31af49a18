"""The bound of what can be done when windows slide, by numbers a reader can check."""

from __future__ import annotations

import pytest

from benchmarks.market_sliding import sliding_bound


def test_what_was_served_lately_is_in_the_way() -> None:
    """Two a minute at 1 and two at 10: five orders in ten seconds across a full minute leave one unserved."""
    at_s = [0.0, 50.0, 58.0, 61.0, 64.0, 66.0]
    served, cost_nusd = sliding_bound(at_s, [0] * 6, [[1, 10]], [5], [(2, 100), (2, 100)])
    assert served == pytest.approx(5)
    assert cost_nusd == pytest.approx(3 * 1 + 2 * 10)


def test_tokens_bind_as_requests_do() -> None:
    """Room for ten tokens a minute takes two orders of five, whatever the room for requests."""
    assert sliding_bound([0.0, 1.0, 2.0], [0, 0, 0], [[7, None]], [5], [(9, 10), (9, 9)]) == (
        pytest.approx(2),
        pytest.approx(14),
    )
