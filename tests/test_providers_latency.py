"""Observed latency: quantiles by size class, a speed model, bounded memory."""

from __future__ import annotations

import math
import random

import pytest

from providers.latency import KEPT, MAX_SERIES, Latency, size_class


@pytest.mark.parametrize(("tokens", "expected"), [(0, 0), (64, 0), (65, 1), (1024, 2), (4096, 3), (4097, 4)])
def test_size_classes_meet_at_their_bounds(tokens: int, expected: int) -> None:
    """A class holds its upper bound."""
    assert size_class(tokens) == expected


def test_nothing_is_said_of_too_few_calls() -> None:
    """Seven calls say nothing yet, the eighth does."""
    latency = Latency()
    for count in range(1, 9):
        changed = latency.observe("m", "standard", 10, 100, 200)
        assert changed is (count == 8)
        assert (latency.spread("m", "standard", 10) is None) is (count < 8)
    assert latency.speed("m", "flex") is None


def test_quantiles_are_of_the_size_class() -> None:
    """Long answers do not slow the quantiles of short ones; a class without calls takes them all."""
    latency = Latency()
    for step in range(1, 21):
        latency.observe("m", "standard", 10, 50, 100 + step)
        latency.observe("m", "standard", 1000, 60, 5000 + step)
    short, long = latency.spread("m", "standard", 12), latency.spread("m", "standard", 900)
    assert short is not None
    assert long is not None
    assert (short.p50_ms, short.p95_ms, short.p99_ms, short.ttft_p50_ms) == (110, 119, 120, 50)
    assert (long.p50_ms, long.ttft_p95_ms) == (5010, 60)
    other = latency.spread("m", "standard", 9999)
    assert other is not None
    assert other.observations == 40


def test_the_fit_finds_the_speed_it_was_drawn_from() -> None:
    """First token, pace and spread are recovered to a tenth from noisy calls; a third of spread to a fifth."""
    draw = random.Random(7)
    latency = Latency()
    for _ in range(KEPT):
        noise, output = draw.lognormvariate(0, 0.3), draw.randint(50, 500)
        latency.observe("m", "standard", output, 400 * noise, (400 + 10 * output) * noise)
    speed = latency.speed("m", "standard")
    assert speed is not None
    assert speed.ttft_ms_p50 == pytest.approx(400, rel=0.1)
    assert speed.ms_per_output_token_p50 == pytest.approx(10, rel=0.1)
    assert speed.sigma == pytest.approx(0.3, rel=0.25)


def test_buffered_calls_alone_give_a_speed() -> None:
    """Without a stream the shortest wait stands for the first token, and quantiles of it are not invented."""
    latency = Latency()
    for output in range(10, 26):
        latency.observe("m", "standard", output, None, 200 + 10 * output)
    speed, spread = latency.speed("m", "standard"), latency.spread("m", "standard", 20)
    assert speed is not None
    assert spread is not None
    assert 0 < speed.ttft_ms_p50 <= 300
    assert spread.ttft_p50_ms is None


def test_memory_is_bounded() -> None:
    """The series unused longest is forgotten."""
    latency = Latency()
    for number in range(MAX_SERIES + 1):
        for _ in range(8):
            latency.observe(f"m{number}", "standard", 1, 1, 1)
    assert latency.speed("m0", "standard") is None
    assert latency.speed("m1", "standard") is not None


def test_how_long_batches_took_says_nothing_of_a_token() -> None:
    """Eight batches of one to eight hours: their median and p95, whatever the answer's length."""
    latency = Latency()
    for hours in range(1, 9):
        latency.observe("m", "batch", 0, None, hours * 3_600_000)
    speed = latency.speed("m", "batch")
    assert speed is not None
    assert (speed.ttft_ms_p50, speed.ms_per_output_token_p50) == (4 * 3_600_000, 0)
    assert speed.ttft_ms_p50 * math.exp(1.645 * speed.sigma) == pytest.approx(8 * 3_600_000)
