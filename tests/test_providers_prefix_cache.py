"""Beliefs about prompt caches: the vendor's rule, the evidence, and the score."""

from __future__ import annotations

import pytest

from providers.prefix_cache import NO_CACHE, PRIOR_WEIGHT, CacheHope, PrefixCache
from providers.terms import CacheTerms, CacheWrites, PrefixMark, Usage

FREE = CacheTerms(1_000, 100, 60_000, hit_prior=0.8)
CHARGED = CacheTerms(1_000, 100, 60_000, writes=CacheWrites.CHARGED, hit_prior=0.8)
MARKED = CacheTerms(1_000, 1, 60_000, writes=CacheWrites.MARKED, hit_prior=0.9)
THIRD = CacheTerms(64, 64, 60_000, from_request=3, hit_prior=0.8)
SYSTEM, FIRST, SECOND = PrefixMark(1_250, "system"), PrefixMark(1_300, "one"), PrefixMark(1_330, "two")
OTHER = PrefixMark(1_290, "other")


def hope(
    cache: PrefixCache, terms: CacheTerms, *prefix: PrefixMark, now_ms: int = 10_000, **more: float
) -> CacheHope:
    """The belief for a request that ends with the last mark."""
    scale = more.get("scale", 1.0)
    return cache.hope(
        "m", terms, prefix, now_ms, input_tokens=int((prefix[-1].tokens + 3) * scale), scale=scale
    )


def test_nothing_sent_is_nothing_warm() -> None:
    """A first request reads nothing, and writes nothing where writing is free."""
    assert hope(PrefixCache(), FREE, SYSTEM, FIRST) is NO_CACHE


def test_a_shared_prefix_is_warm_in_whole_blocks() -> None:
    """1,250 shared tokens are 12 blocks of 100; the evidence says when it was sent and how sure it is."""
    cache = PrefixCache()
    cache.sent("m", FREE, (SYSTEM, FIRST), 4_000)
    warm = hope(cache, FREE, SYSTEM, OTHER)
    assert (warm.read_tokens, warm.hit, warm.left_ms, warm.write_tokens) == (1_200, 0.8, 54_000, 0)
    assert warm.basis == "a prefix of 1200 tokens was sent 6 s ago; 80% of such were read (0 calls seen)"


def test_the_next_turn_finds_the_whole_last_one() -> None:
    """The longest prefix in common counts."""
    cache = PrefixCache()
    cache.sent("m", FREE, (SYSTEM, FIRST), 0)
    assert hope(cache, FREE, SYSTEM, FIRST, SECOND).read_tokens == 1_300


@pytest.mark.parametrize(("now_ms", "read"), [(59_999, 1_200), (60_000, 0)])
def test_entries_die_at_the_end_of_their_lifetime(now_ms: int, read: int) -> None:
    """Sent at 0 with a lifetime of a minute; use renews it."""
    cache = PrefixCache()
    cache.sent("m", FREE, (SYSTEM,), 0)
    assert hope(cache, FREE, SYSTEM, OTHER, now_ms=now_ms).read_tokens == read
    cache.sent("m", FREE, (SYSTEM,), 50_000)
    assert hope(cache, FREE, SYSTEM, OTHER, now_ms=now_ms).read_tokens == 1_200


def test_below_the_minimum_nothing_is_cached() -> None:
    """A prefix of 999 tokens under a minimum of 1,000 is never warm."""
    cache = PrefixCache()
    short = PrefixMark(999, "short")
    cache.sent("m", FREE, (short,), 0)
    assert hope(cache, FREE, short, OTHER).read_tokens == 0


def test_models_do_not_share_a_cache() -> None:
    """What was sent to one model is cold at another."""
    cache = PrefixCache()
    cache.sent("other model", FREE, (SYSTEM,), 0)
    assert hope(cache, FREE, SYSTEM, OTHER) is NO_CACHE


def test_marks_are_scaled_to_the_sellers_tokens() -> None:
    """1,250 reference tokens are 1,500 of a seller whose vocabulary needs 1.2 times as many."""
    cache = PrefixCache()
    cache.sent("m", FREE, (SYSTEM,), 0)
    assert hope(cache, FREE, SYSTEM, OTHER, scale=1.2).read_tokens == 1_500


def test_a_prefix_shared_twice_hits_from_the_third_request_but_a_turn_from_the_second() -> None:
    """DeepSeek stores a common prefix when a second request shows it, and each whole request at once."""
    cache = PrefixCache()
    cache.sent("m", THIRD, (SYSTEM, FIRST), 0)
    assert hope(cache, THIRD, SYSTEM, OTHER).read_tokens == 0
    assert hope(cache, THIRD, SYSTEM, FIRST, SECOND).read_tokens == 1_280
    cache.sent("m", THIRD, (SYSTEM, OTHER), 1_000)
    assert hope(cache, THIRD, SYSTEM, SECOND).read_tokens == 1_216


def test_charged_writes_are_expected_from_the_first_request() -> None:
    """Where the vendor writes by itself and charges, the first request pays; a later one writes only what is new."""
    cache = PrefixCache()
    first = hope(cache, CHARGED, SYSTEM, FIRST)
    assert (first.read_tokens, first.write_tokens) == (0, 1_300)
    cache.sent("m", CHARGED, (SYSTEM, FIRST), 0)
    later = hope(cache, CHARGED, SYSTEM, OTHER)
    assert (later.read_tokens, later.write_tokens, later.rewrite_tokens) == (1_200, 1_200, 0)


def test_marks_are_paid_for_on_evidence_only() -> None:
    """Never on a first request; the shared prefix when it comes again; the whole when a conversation goes on."""
    cache = PrefixCache()
    prefix = (SYSTEM, FIRST)
    assert cache.breakpoints("m", MARKED, prefix, 0) == ()
    cache.sent("m", MARKED, prefix, 0, stored=())
    assert cache.breakpoints("m", MARKED, (SYSTEM, OTHER), 1_000) == (0,)
    assert cache.breakpoints("m", MARKED, (SYSTEM, FIRST, SECOND), 1_000) == (1, 2)
    assert cache.breakpoints("m", FREE, (SYSTEM, OTHER), 1_000) == ()


def test_only_what_was_marked_is_warm() -> None:
    """An unmarked request warms nothing; a marked one its marked prefix."""
    cache = PrefixCache()
    cache.sent("m", MARKED, (SYSTEM, FIRST), 0, stored=())
    assert hope(cache, MARKED, SYSTEM, OTHER).read_tokens == 0
    cache.sent("m", MARKED, (SYSTEM, OTHER), 1_000, stored=(0,))
    warm = hope(cache, MARKED, SYSTEM, SECOND)
    assert warm.read_tokens == 1_250
    assert hope(cache, MARKED, SYSTEM, OTHER).read_tokens == 1_250


def test_the_hit_rate_follows_what_came_back() -> None:
    """From the prior of 0.8, ten misses in a row pull it below a third, and the score keeps both sums."""
    cache = PrefixCache()
    belief = CacheHope(read_tokens=1_000, hit=0.8)
    for _ in range(10):
        cache.observe("m", FREE, belief, Usage(1_300, 10))
    assert cache.hit_rate("m", FREE) < 1 / 3
    assert cache.hit_rate("m", FREE) > 0.8 * PRIOR_WEIGHT / (PRIOR_WEIGHT + 10) - 0.01
    score = cache.scores()["m"]
    assert (score.calls, score.hit_rate, score.expected_tokens, score.read_tokens) == (10, 0, 8_000, 0)


def test_an_estimated_usage_is_no_evidence() -> None:
    """A cut stream whose usage never came says nothing of the cache; nor does a call that expected nothing."""
    cache = PrefixCache()
    cache.observe("m", FREE, CacheHope(read_tokens=1_000, hit=0.8), Usage(1_300, 10, estimated=True))
    cache.observe("m", FREE, NO_CACHE, Usage(1_300, 10, 1_000))
    assert cache.scores() == {}


def test_memory_is_bounded_and_the_oldest_prefix_goes_first() -> None:
    """A hundred prefixes in room for ten: the last ten are remembered."""
    cache = PrefixCache(max_prefixes=10)
    marks = [PrefixMark(2_000, str(number)) for number in range(100)]
    for number, mark in enumerate(marks):
        cache.sent("m", FREE, (mark,), number)
    known = [mark for mark in marks if hope(cache, FREE, mark, OTHER, now_ms=100).read_tokens]
    assert known == marks[-10:]
