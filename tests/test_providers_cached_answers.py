"""Cached answers: exactly the same question, of the same account, and only for those who ask."""

from __future__ import annotations

import pytest

from providers.cached_answers import CachedAnswers, answer_key
from providers.errors import QuoteDishonoured
from providers.terms import RFQ, Delta, DiscountKind, Quote, Ticket, Usage

SECRET = b"house"
BODY = {"messages": [{"role": "user", "content": "What is 2+2?"}], "temperature": 0}
MESSAGE = {"role": "assistant", "content": "4"}


class Clock:
    """A clock that stands until it is moved."""

    now = 1_000_000

    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        return self.now


def key(body: dict[str, object] = BODY, account: str = "a", choice: str = "auto") -> str:
    """The key of a question."""
    return answer_key(SECRET, account, choice, body)


def ask(answer: str | None, *tiers: str) -> RFQ:
    """An RFQ that accepts cached answers unless told otherwise."""
    return RFQ(rfq_id="r", input_tokens=20, tiers=tiers or ("standard", "cached"), answer_key=answer)


def remember(cache: CachedAnswers, answer: str, text: str = "4", reason: str = "stop") -> bool:
    """Tell the cache an answer that cost 0.05 cents."""
    usage = Usage(20, 5)
    message = {"role": "assistant", "content": text}
    return cache.remember(answer, "openai/gpt-6-luna", message, reason, usage, cost_nusd=500_000)


def only(cache: CachedAnswers, rfq: RFQ) -> Quote:
    """The one quote for an RFQ."""
    (quote,) = cache.quote(rfq)
    assert isinstance(quote, Quote)
    return quote


async def buy(cache: CachedAnswers, quote: Quote, answer: str) -> list[Delta]:
    """Execute a quote."""
    ticket = Ticket(
        reservation_id="v",
        order_id="o",
        quote=quote,
        body=BODY,
        max_output_tokens=quote.max_output_tokens,
        answer_key=answer,
    )
    return [delta async for delta in cache.execute(ticket)]


async def test_the_same_question_is_answered_free_and_at_once() -> None:
    """The quote costs nothing, takes a millisecond, says what it saves, and delivers the same message."""
    clock = Clock()
    cache = CachedAnswers(clock)
    remember(cache, key())
    clock.now += 5_000
    quote = only(cache, ask(key()))
    assert (quote.expected_nusd, quote.ceiling_nusd, quote.latency_ms.p95, quote.tier) == (0, 0, 1, "cached")
    assert quote.key == "cached/openai/gpt-6-luna"
    (saved,) = quote.discounts
    assert (saved.kind, saved.saves_nusd) == (DiscountKind.CACHED_ANSWER, 500_000)
    assert saved.basis == "answered 5 s ago by openai/gpt-6-luna"
    (delta,) = await buy(cache, quote, key())
    assert (delta.delta, delta.finish_reason, delta.billed_nusd) == (MESSAGE, "stop", 0)


def test_it_is_sold_only_to_those_who_ask() -> None:
    """Without the tier, or without a key, there is no quote."""
    cache = CachedAnswers(Clock())
    remember(cache, key())
    assert cache.quote(ask(key(), "standard")) == ()
    assert cache.quote(ask(None)) == ()
    assert cache.quote(ask(key({**BODY, "messages": []}))) == ()


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0.1},
        {"seed": 7},
        {"max_tokens": 5},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"messages": [{"role": "user", "content": "what is 2+2?"}]},
        {"model": "auto:cheap"},
    ],
)
def test_any_other_question_has_another_key(change: dict[str, object]) -> None:
    """No semantic matching: one changed parameter or letter is another question."""
    assert key({**BODY, **change}) != key()


def test_account_model_choice_and_secret_are_part_of_the_key() -> None:
    """Nobody finds another account's answers, nor an answer of a model not asked for."""
    assert (
        len({key(), key(account="b"), key(choice="openai/*"), answer_key(b"other", "a", "auto", BODY)}) == 4
    )
    assert answer_key(SECRET, "a", "bauto", BODY) != answer_key(SECRET, "ab", "auto", BODY)


def test_how_an_answer_travels_is_not_part_of_the_question() -> None:
    """Streaming, metadata and absent fields do not matter; nor does the order of fields."""
    assert key({**BODY, "stream": True, "stream_options": {"include_usage": True}, "seed": None}) == key()
    assert key(dict(reversed(BODY.items()))) == key()
    assert key({**BODY, "messages": [{"role": "user", "content": "\ud800"}]})


@pytest.mark.parametrize(("later_ms", "valid_ms"), [(0, 30_000), (99_000, 1_000), (100_000, None)])
def test_answers_live_for_their_time(later_ms: int, valid_ms: int | None) -> None:
    """A quote never outlives its answer; a dead answer is not quoted."""
    clock = Clock()
    cache = CachedAnswers(clock, lifetime_ms=100_000)
    remember(cache, key())
    clock.now += later_ms
    if valid_ms is None:
        assert cache.quote(ask(key())) == ()
        assert len(cache) == 0
    else:
        assert only(cache, ask(key())).valid_for_ms == valid_ms


def test_count_and_bytes_are_bounded_and_the_least_asked_goes() -> None:
    """Three answers in room for two: the one not asked for since goes; an oversized one is not kept."""
    cache = CachedAnswers(Clock(), max_answers=2)
    remember(cache, "one")
    remember(cache, "two")
    only(cache, ask("one"))
    remember(cache, "three")
    assert [len(cache.quote(ask(name))) for name in ("one", "two", "three")] == [1, 0, 1]
    small = CachedAnswers(Clock(), max_bytes=16_000)
    assert not remember(small, "big", "x" * 2_000)
    for number in range(100):
        assert remember(small, str(number), "x" * 900)
    assert 10 < len(small) < 20


def test_a_refusal_is_not_worth_keeping() -> None:
    """A content filter's answer is asked for again."""
    cache = CachedAnswers(Clock())
    assert not remember(cache, key(), reason="content_filter")


async def test_an_answer_that_had_to_make_room_is_a_dishonoured_quote() -> None:
    """The house hears it as such, and turns to its runner-up."""
    cache = CachedAnswers(Clock(), max_answers=1)
    remember(cache, key())
    quote = only(cache, ask(key()))
    remember(cache, "another")
    with pytest.raises(QuoteDishonoured):
        await buy(cache, quote, key())
