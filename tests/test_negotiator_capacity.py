"""Capacity: windows that hold in any period, breakers, backoff, retry budgets, latencies."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from negotiator.capacity import Capacity, Health, Slot
from negotiator.capacity_latency import FACTOR, Sketch, patience_ms, size_class
from negotiator.capacity_windows import GRAINS, Window
from negotiator.events import Event
from negotiator.limits import Full, Load, limit_rows
from negotiator.order import Loss
from providers.dialect import Window as Report
from providers.errors import (
    AuthFailed,
    Overloaded,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
    RequestRefused,
)
from providers.terms import RateKind, RateLimit, Usage

SMALL = Load(input_tokens=100, output_tokens=50, cached_tokens=40, latency_ms=800)


class HandClock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.ms = 1_000_000

    def now_ms(self) -> int:
        return self.ms


class Market:
    """A capacity with its clock and what it told."""

    def __init__(self, **limits: list[RateLimit]) -> None:
        self.clock = HandClock()
        self.events: list[Event] = []
        self.capacity = Capacity(limits, self.clock, self.events.append)

    def take(self, provider: str = "a", model: str = "m", load: Load = SMALL) -> Slot | Full:
        return self.capacity.take(provider, model, load)

    def slot(self, provider: str = "a", model: str = "m", load: Load = SMALL) -> Slot:
        taken = self.capacity.take(provider, model, load)
        assert isinstance(taken, Slot)
        return taken

    def fail(self, times: int, provider: str = "a", model: str = "m") -> None:
        for _ in range(times):
            self.capacity.failed(provider, model, SMALL, ProviderUnavailable("down"), 10)

    def serve(self, provider: str = "a", model: str = "m") -> None:
        self.capacity.succeeded(provider, model, SMALL, 100, 800)


def requests(amount: int, per_ms: int = 60_000, models: tuple[str, ...] | None = None) -> RateLimit:
    return RateLimit(RateKind.REQUESTS, amount, per_ms, models)


# Windows --------------------------------------------------------------------------------------------------------


def most_in_any_period(taken: list[tuple[int, int]], per_ms: int) -> int:
    """The largest sum in any half-open period, by brute force over the periods that start at a call."""
    return max(
        (sum(units for at, units in taken if start <= at < start + per_ms) for start, _ in taken), default=0
    )


@given(
    st.integers(1, 60),
    st.integers(1, 3_000),
    st.lists(st.tuples(st.integers(0, 400), st.integers(1, 20)), max_size=120),
)
def test_no_period_anywhere_holds_more_than_the_limit(
    amount: int, per_ms: int, calls: list[tuple[int, int]]
) -> None:
    """Whatever arrives when, the calls let through in any period sum to at most the limit."""
    window, now_ms, taken = Window(amount, per_ms), 0, []
    for gap_ms, units in calls:
        now_ms += gap_ms
        if units <= window.left(now_ms):
            window.take(units, now_ms)
            taken.append((now_ms, units))
    assert most_in_any_period(taken, per_ms) <= amount


def test_a_window_below_its_grain_is_exact() -> None:
    """With calls further apart than a grain, a call fits exactly when a log of all calls says so."""
    window, log, rng, now_ms = Window(10, 60_000), [], random.Random(1), 0
    refused = 0
    for _ in range(2_000):
        now_ms += rng.randrange(300, 9_000)
        used = sum(1 for at in log if at > now_ms - 60_000)
        assert (window.left(now_ms) > 0) == (used < 10)
        if used < 10:
            window.take(1, now_ms)
            log.append(now_ms)
        else:
            refused += 1
    assert refused > 100


def test_a_busy_window_keeps_few_buckets_and_wastes_little() -> None:
    """At 50 times the limit, memory stays bounded and at least 99 % of the limit is handed out."""
    window, served, rng, now_ms = Window(600, 60_000), 0, random.Random(2), 0
    while now_ms < 600_000:
        now_ms += rng.choice((0, 1, 3))
        if window.left(now_ms) > 0:
            window.take(1, now_ms)
            served += 1
        assert len(window) <= GRAINS + 2
    assert served >= 0.99 * 6_000


def test_the_wait_is_what_it_takes() -> None:
    """After the wait a full window told, the call fits; a millisecond before it does not."""
    window = Window(10, 60_000)
    for at in (0, 10_000, 20_000):
        window.take(3, at)
    wait_ms = window.wait_ms(5, 21_000)
    assert wait_ms == 49_000  # two buckets of three must leave, the second at 70,000
    assert window.left(21_000 + wait_ms - 1) < 5 <= window.left(21_000 + wait_ms)
    assert window.wait_ms(11, 21_000) is None


def test_vendors_report_of_other_users_is_believed_until_it_resets() -> None:
    """Less left at the vendor than counted here closes the difference for its reset time; more left changes nothing."""
    market = Market(a=[requests(10)])
    market.slot()
    market.capacity.correct("a", "m", [Report(RateKind.REQUESTS, 10, 2, 5_000)])
    assert market.capacity.left() == {"a:requests": 2}
    market.clock.ms += 5_000
    assert market.capacity.left() == {"a:requests": 9}
    market.capacity.correct("a", "m", [Report(RateKind.REQUESTS, 10, 10, 5_000)])
    assert market.capacity.left() == {"a:requests": 9}


def test_an_empty_window_nobody_configured_backs_off() -> None:
    """A vendor's daily limit that is not among the rows and is used up keeps calls away until it resets."""
    market = Market(a=[requests(10)])
    market.capacity.correct("a", "m", [Report(RateKind.REQUESTS, 1_000, 0, 40_000, 86_400_000)])
    full = market.take()
    assert isinstance(full, Full)
    assert (full.lack.row, full.retry_after_ms) == ("a/m:backoff", 40_000)


# Room -----------------------------------------------------------------------------------------------------------


def test_a_call_counts_against_every_row_that_covers_it() -> None:
    """Requests, tokens by kind and slots all go down at once; rows of other models and sellers do not."""
    market = Market(
        a=[
            requests(10),
            RateLimit(RateKind.TOKENS, 1_000),
            RateLimit(RateKind.UNCACHED_INPUT_TOKENS, 1_000, models=("m",)),
            RateLimit(RateKind.OUTPUT_TOKENS, 1_000, models=("other",)),
            RateLimit(RateKind.CONCURRENCY, 3),
        ],
        b=[requests(10)],
    )
    market.slot()
    assert market.capacity.left() == {
        "a:requests": 9,
        "a:tokens": 850,
        "a/m:uncached_input_tokens": 940,
        "a/other:output_tokens": 1_000,
        "a:concurrency": 2,
        "b:requests": 10,
    }


def test_settling_corrects_the_estimate_once() -> None:
    """Tokens not used come back, tokens used beyond the estimate are counted, the slot is free; a second end is none."""
    market = Market(a=[RateLimit(RateKind.TOKENS, 1_000), RateLimit(RateKind.CONCURRENCY, 5)])
    shorter, longer = market.slot(), market.slot()
    shorter.settle(Usage(100, 10))
    assert market.capacity.left() == {"a:tokens": 740, "a:concurrency": 4}
    longer.settle(Usage(100, 300))
    assert market.capacity.left() == {"a:tokens": 490, "a:concurrency": 5}
    shorter.settle(None)
    longer.release()
    assert market.capacity.left() == {"a:tokens": 490, "a:concurrency": 5}


def test_releasing_gives_all_of_it_back() -> None:
    """A call that never reached its seller leaves no trace in any row."""
    market = Market(a=[requests(10), RateLimit(RateKind.TOKENS, 1_000), RateLimit(RateKind.CONCURRENCY, 5)])
    before = market.capacity.left()
    market.slot().release()
    assert market.capacity.left() == before


def test_what_ends_after_its_window_gives_nothing_back() -> None:
    """A call that outlives its window does not add to the next one."""
    market = Market(a=[RateLimit(RateKind.TOKENS, 1_000, per_ms=1_000)])
    slot = market.slot()
    market.clock.ms += 1_000
    slot.settle(Usage(0, 0))
    assert market.capacity.left() == {"a:tokens": 1_000}


def test_the_full_row_is_named_with_its_wait() -> None:
    """A refused call hears which row is full and when it has room; one too large for a row hears that it never has."""
    market = Market(a=[requests(1), RateLimit(RateKind.TOKENS, 1_000)])
    market.slot()
    market.clock.ms += 10_000
    full = market.take()
    assert isinstance(full, Full)
    assert (full.lack.row, full.lack.loss, full.retry_after_ms) == (
        "a:requests",
        Loss.LIMIT_BINDING,
        50_000,
    )
    large = market.take(load=Load(900, 200))
    assert isinstance(large, Full)
    assert large.retry_after_ms is None


def test_rows_of_one_kind_and_two_periods_have_two_names() -> None:
    """Requests per minute and per day of one seller are told apart."""
    names = [row.name for row in limit_rows("a", [requests(10), requests(100, 86_400_000)])]
    assert names == ["a:requests", "a:requests/86400000ms"]


def test_a_clock_that_steps_back_does_not_open_windows() -> None:
    """After an hour's step back time stands still here; then it goes on and the window opens when it should."""
    market = Market(a=[requests(1)])
    market.slot()
    market.clock.ms -= 3_600_000
    assert isinstance(market.take(), Full)
    market.clock.ms += 59_999
    assert isinstance(market.take(), Full)
    market.clock.ms += 1
    market.slot()


# Health ---------------------------------------------------------------------------------------------------------


def test_five_faults_in_a_row_eject_and_a_success_between_does_not() -> None:
    """Only consecutive faults count; an ejected seller takes no call and is lost as EJECTED."""
    market = Market(a=[], b=[])
    market.capacity.state("b", "m")
    market.fail(4)
    market.serve()
    market.fail(4)
    assert market.capacity.state("a", "m") is Health.UP
    market.fail(1)
    assert market.capacity.state("a", "m") is Health.EJECTED
    lack = market.capacity.lacks("a", "m", SMALL)
    assert lack is not None
    assert (lack.row, lack.loss) == ("a/m:ejected", Loss.EJECTED)
    assert [event.name for event in market.events] == ["capacity.ejected"]


def test_a_seller_comes_back_by_one_probe_at_a_time() -> None:
    """After 30 s one call is let through, no second beside it; its success brings the seller back."""
    market = Market(a=[], b=[])
    market.capacity.state("b", "m")
    market.fail(5)
    market.clock.ms += 29_999
    assert isinstance(market.take(), Full)
    market.clock.ms += 1
    assert market.capacity.state("a", "m") is Health.PROBING
    probe = market.slot()
    assert isinstance(market.take(), Full)
    probe.settle(None)
    market.serve()
    assert market.capacity.state("a", "m") is Health.UP
    assert market.events[-1].name == "capacity.recovered"


def test_every_further_ejection_is_longer_until_it_stayed_well() -> None:
    """A failed probe ejects at once for twice as long; after five minutes of health it starts again at 30 s."""
    market = Market(a=[], b=[])
    market.capacity.state("b", "m")
    market.fail(5)
    market.clock.ms += 30_000
    market.slot().settle(None)
    market.fail(1)
    market.clock.ms += 59_999
    assert market.capacity.state("a", "m") is Health.EJECTED
    market.clock.ms += 1
    market.slot().settle(None)
    market.serve()
    market.clock.ms += 400_000
    market.fail(5)
    assert market.events[-1].facts["ejection_ms"] == 30_000


def test_a_probe_that_is_cancelled_leaves_the_way_free() -> None:
    """A buyer who hangs up during a probe gives no verdict; the next call probes."""
    market = Market(a=[], b=[])
    market.capacity.state("b", "m")
    market.fail(5)
    market.clock.ms += 30_000
    market.slot().release()
    market.clock.ms += 1_000
    assert market.capacity.may_probe("a", "m")
    market.slot()


def test_the_sole_seller_of_a_model_has_a_breaker_too() -> None:
    """A single seller that is down costs no buyer a timeout: it becomes indicative, refused but for a probe a second."""
    market = Market(a=[])
    market.fail(5)
    assert market.capacity.state("a", "m") is Health.INDICATIVE_ONLY
    assert market.capacity.lacks("a", "m", SMALL) is not None
    assert isinstance(market.take(), Full)
    market.clock.ms += 1_000
    market.slot().settle(None)
    assert isinstance(market.take(), Full)
    market.serve()
    assert market.capacity.lacks("a", "m", SMALL) is None


def test_a_refused_key_ejects_at_once_and_is_not_probed_early() -> None:
    """One AuthFailed is enough, also for the last of its kind."""
    market = Market(a=[])
    market.capacity.failed("a", "m", SMALL, AuthFailed("key refused"), 5)
    assert market.capacity.state("a", "m") is Health.EJECTED
    market.clock.ms += 5_000
    assert not market.capacity.may_probe("a", "m")


def test_a_full_window_at_the_seller_is_no_fault() -> None:
    """429s back off for as long as they say, else 1 s, 2 s, 4 s, and never eject."""
    market = Market(a=[])
    for expected_ms in (1_000, 2_000, 4_000):
        market.capacity.failed("a", "m", SMALL, RateLimited("slow down"), 5)
        assert market.capacity.retry_after_ms("a", "m", SMALL) == expected_ms
        market.clock.ms += expected_ms
    for _ in range(10):
        market.capacity.failed("a", "m", SMALL, RateLimited("slow down", retry_after_ms=7_000), 5)
    full = market.take()
    assert isinstance(full, Full)
    assert (full.lack.row, full.lack.loss, full.retry_after_ms) == (
        "a/m:backoff",
        Loss.LIMIT_BINDING,
        7_000,
    )
    assert market.capacity.state("a", "m") is Health.UP


def test_refusing_a_request_is_no_fault_and_proves_life() -> None:
    """Any number of refused requests leave a seller up, and one brings an ejected seller back."""
    market = Market(a=[], b=[])
    market.capacity.state("b", "m")
    for _ in range(20):
        market.capacity.failed("a", "m", SMALL, RequestRefused("bad field"), 5)
    assert market.capacity.state("a", "m") is Health.UP
    market.fail(5)
    market.capacity.failed("a", "m", SMALL, RequestRefused("bad field"), 5)
    assert market.capacity.state("a", "m") is Health.UP


def test_an_overloaded_seller_is_left_alone_for_as_long_as_it_asks() -> None:
    """A 503 with Retry-After counts as a fault and also backs off."""
    market = Market(a=[])
    market.capacity.failed("a", "m", SMALL, Overloaded("busy", retry_after_ms=3_000), 5)
    assert isinstance(market.take(), Full)
    market.clock.ms += 3_000
    market.slot()


def test_retries_are_a_fifth_of_the_calls_and_ten_a_second() -> None:
    """With no first attempts 100 retries in ten seconds pass; each five first attempts allow one more."""
    market = Market(a=[])

    def retries() -> int:
        passed = 0
        while isinstance(market.capacity.take("a", "m", SMALL, retry=True), Slot):
            passed += 1
        return passed

    assert retries() == 100
    for _ in range(50):
        market.slot()
    assert retries() == 10
    full = market.capacity.take("a", "m", SMALL, retry=True)
    assert isinstance(full, Full)
    assert full.lack.row == "a:retries"
    market.clock.ms += 11_000
    assert retries() == 100


def test_sellers_that_name_models_as_they_like_do_not_fill_memory() -> None:
    """The number of models watched is bounded."""
    market = Market(a=[requests(10)])
    for k in range(6_000):
        market.capacity.state("a", f"m{k}")
    assert len(market.capacity._pairs) == 4_096


# Latency --------------------------------------------------------------------------------------------------------


def test_quantiles_are_within_the_sketches_resolution() -> None:
    """Of a lognormal sample, p50, p95 and p99 lie within one bucket of the exact ones."""
    rng, sketch = random.Random(3), Sketch()
    sample = [round(rng.lognormvariate(6.5, 0.5)) for _ in range(1_000)]
    for duration_ms in sample:
        sketch.add(duration_ms)
    spread = sketch.spread
    assert spread is not None
    ordered = sorted(sample)
    for found, share in ((spread.p50, 0.5), (spread.p95, 0.95), (spread.p99, 0.99)):
        assert found == pytest.approx(ordered[int(share * 1_000) - 1], rel=FACTOR - 1)


def test_the_past_fades() -> None:
    """After a seller became four times slower, its median follows within some two thousand calls."""
    sketch = Sketch()
    for duration_ms in [500] * 5_000 + [2_000] * 2_000:
        sketch.add(duration_ms)
    spread = sketch.spread
    assert spread is not None
    assert spread.p50 == pytest.approx(2_000, rel=FACTOR - 1)


def test_attempts_without_a_deadline_end_at_a_multiple_of_what_was_seen() -> None:
    """Until enough was seen the quoted median decides; then three times the observed p99 of that size of answer."""
    market = Market(a=[])
    assert market.capacity.abandon_after_ms("a", "m", SMALL) == 3 * 4 * 800
    for _ in range(100):
        market.capacity.succeeded("a", "m", SMALL, 90, 2_000)
    assert market.capacity.abandon_after_ms("a", "m", SMALL) == pytest.approx(6_000, rel=FACTOR - 1)
    long_answer = Load(100, 3_000, 0, 20_000)
    assert market.capacity.abandon_after_ms("a", "m", long_answer) == 3 * 4 * 20_000
    ttft = market.capacity.ttft("a", "m")
    assert ttft is not None
    assert ttft.p50 == pytest.approx(90, rel=FACTOR - 1)


def test_being_cut_off_makes_us_more_patient() -> None:
    """Calls given up count as at least that long, so a seller that became slow is not cut off for ever."""
    market = Market(a=[])
    for _ in range(50):
        market.capacity.succeeded("a", "m", SMALL, 90, 1_000)
    before_ms = market.capacity.abandon_after_ms("a", "m", SMALL)
    market.capacity.failed("a", "m", SMALL, ProviderTimeout("cut off"), before_ms)
    assert market.capacity.abandon_after_ms("a", "m", SMALL) > 2 * before_ms


def test_patience_has_a_floor_and_a_ceiling() -> None:
    """Never below a second, never above ten minutes."""
    assert patience_ms(None, 1) == 1_000
    assert patience_ms(None, 10**9) == 600_000


@pytest.mark.parametrize(
    ("output_tokens", "size"), [(0, 0), (64, 0), (65, 1), (1_024, 2), (4_096, 3), (5_000, 4)]
)
def test_sizes_of_answers(output_tokens: int, size: int) -> None:
    """The bounds belong to the smaller class."""
    assert size_class(output_tokens) == size
