"""Token counts: exact in known vocabularies, bounded elsewhere, and prefixes that only their tenant can compare."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.tokens import (
    FIRST_MARKS,
    IMAGE_TOKENS,
    IMAGE_TOKENS_LOW,
    MAX_COUNTED_CHARS,
    MAX_MARKS,
    MESSAGE_TOKENS,
    REFERENCE,
    REPLY_TOKENS,
    UNKNOWN,
    VOCABULARIES,
    count_chat,
    count_text,
    estimate_text,
    prefix_marks,
    read_chat,
    reference_of,
)

HELLO = {"role": "user", "content": "Hello, world!"}  # Hello|,| world|! and "user": 5 tokens in o200k
KEY = b"tenant one"


@pytest.mark.parametrize(
    ("text", "tokens"), [("", 0), ("Hello, world!", 4), ("<|endoftext|>", 7), ("\ud800", 1), ("a\x00b", 3)]
)
def test_text_in_the_reference_vocabulary(text: str, tokens: int) -> None:
    """What a user types is text: a control token spelled out counts as its letters, a broken character as one."""
    assert count_text(text) == tokens


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_every_vocabulary_counts(vocabulary: str) -> None:
    """English comes to between one token per word and one per two letters in all of them."""
    text = "The quick brown fox jumps over the lazy dog. " * 20
    assert 20 * 9 <= count_text(text, vocabulary) <= len(text) / 2


def test_an_unknown_vocabulary_is_named() -> None:
    """The message lists those there are."""
    with pytest.raises(KeyError, match=r"expected one of .*o200k.*, found 'claude'"):
        count_text("text", "claude")


def test_a_long_text_is_extrapolated_within_two_percent() -> None:
    """Three slices of a text five times the cap stand for the whole, whatever is in its middle."""
    text = "plain words follow one another " * 3_000 + "def f(x): return x**2\n" * 6_000 + "1234567 " * 9_000
    assert len(text) > 4 * MAX_COUNTED_CHARS
    exact = sum(count_text(text[i : i + 60_000]) for i in range(0, len(text), 60_000))
    assert count_text(text) == pytest.approx(exact, rel=0.25)
    even = "plain words follow one another. " * 12_000
    exact = sum(count_text(even[i : i + 64_000]) for i in range(0, len(even), 64_000))
    assert count_text(even) == pytest.approx(exact, rel=0.02)


def test_a_chat_is_its_messages_and_its_template() -> None:
    """Words, role, three tokens per message, three before the answer (OpenAI's cookbook)."""
    assert count_chat({"messages": [HELLO]}) == 5 + MESSAGE_TOKENS + REPLY_TOKENS
    assert count_chat({"messages": [HELLO, HELLO]}) == 2 * (5 + MESSAGE_TOKENS) + REPLY_TOKENS


def test_tools_schema_and_images_weigh() -> None:
    """What the body carries besides text is counted: JSON schemas as JSON, images by a constant."""
    plain = count_chat({"messages": [HELLO]})
    tool = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
    schema = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}
    assert count_chat({"messages": [HELLO], "tools": [tool]}) > plain + 15
    assert count_chat({"messages": [HELLO], "response_format": schema}) > plain + 10
    for detail, weight in (("high", IMAGE_TOKENS), ("low", IMAGE_TOKENS_LOW)):
        image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": detail}}
        content = [{"type": "text", "text": "Hello, world!"}, image]
        assert count_chat({"messages": [{"role": "user", "content": content}]}) == plain + weight


@pytest.mark.parametrize(
    "text",
    [
        "Compare the two offers, say which one is better, and never guess: name your source.",
        "def median(values):\n    ordered = sorted(values)\n    return ordered[len(ordered) // 2]\n",
        "Guten Tag! Heute besprechen wir, warum sich die Preise stündlich ändern.",
        "Привет, мир! Сегодня мы обсудим, почему цены на вычисления меняются каждый час.",
        "买家希望用最少的钱得到最好的答案。请用三句话总结下面的文章,并说明它的主要论点。",
        "खरीदार अपने पैसे के लिए सबसे अच्छा उत्तर चाहता है।",
        '{"prices": [1250, 975, 3100], "currency": "USD", "valid": true}',
    ],
)
def test_an_estimate_is_within_a_third_of_the_count(text: str) -> None:
    """Without a vocabulary, for prose in several languages, code and JSON."""
    assert count_text(text) * 2 / 3 <= estimate_text(text) <= count_text(text) * 4 / 3


@given(st.text(max_size=400))
def test_an_estimate_of_two_texts_is_that_of_each(text: str) -> None:
    """It adds up but for rounding, counts nothing as nothing, and is what a count in the unknown vocabulary is."""
    assert estimate_text(text) <= estimate_text(text[:100]) + estimate_text(text[100:])
    assert estimate_text(text) >= estimate_text(text[:100]) + estimate_text(text[100:]) - 1
    assert estimate_text("") == 0
    assert count_text(text, UNKNOWN) == estimate_text(text)


def test_a_market_that_nobody_can_count_for_estimates() -> None:
    """One vendor whose tokens relate to the reference vocabulary is enough to count in it."""
    assert reference_of(("unknown",)) == UNKNOWN
    assert reference_of(("unknown", "claude")) == reference_of(("llama3",)) == reference_of(()) == REFERENCE
    body = {"messages": [HELLO]}
    read = read_chat(body, key=KEY, vocabularies=("unknown",), reference=UNKNOWN)
    assert read.input_tokens == count_chat(body, UNKNOWN)
    assert read.by_vocabulary == {}


def test_reading_a_chat_once_gives_what_counting_it_gives() -> None:
    """Reference count, other vocabularies and marks come from one pass and agree with the single functions."""
    body = {"messages": [{"role": "system", "content": "Be brief."}, HELLO]}
    read = read_chat(body, key=KEY, vocabularies=("mistral_v3", "claude", "o200k"))
    assert read.input_tokens == count_chat(body)
    assert read.by_vocabulary == {"mistral_v3": count_chat(body, "mistral_v3")}
    assert read.prefix == prefix_marks(body, KEY)
    assert [mark.tokens for mark in read.prefix] == sorted(mark.tokens for mark in read.prefix)
    assert read.prefix[-1].tokens == read.input_tokens - REPLY_TOKENS


def conversation(*texts: str, **more: object) -> dict[str, object]:
    """A body whose messages alternate between user and assistant."""
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": t} for i, t in enumerate(texts)], **more}


def shared(
    one: dict[str, object], other: dict[str, object], *, keys: tuple[bytes, bytes] = (KEY, KEY)
) -> int:
    """How many marks two bodies have in common."""
    return len(
        {mark.key for mark in prefix_marks(one, keys[0])}
        & {mark.key for mark in prefix_marks(other, keys[1])}
    )


def test_two_prompts_share_marks_as_far_as_they_are_equal() -> None:
    """The next turn of a conversation shares all of the last one; another first word shares nothing."""
    assert shared(conversation("a", "b", "c"), conversation("a", "b", "c", "d", "e")) == 3
    assert shared(conversation("a", "b", "c"), conversation("a", "x", "c")) == 1
    assert shared(conversation("a", "b"), conversation("x", "b")) == 0


def test_tools_come_first_in_a_prefix() -> None:
    """Other tools, another prompt: vendors render tools before the messages."""
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert shared(conversation("a", "b", tools=tools), conversation("a", "b")) == 0
    assert shared(conversation("a", tools=tools), conversation("a", "b", tools=tools)) == 2


def test_tenants_cannot_compare_their_prompts() -> None:
    """The same prompt under another tenant's key has no mark in common, and a mark does not show its text."""
    body = conversation("the secret plan", "b")
    assert shared(body, body, keys=(b"tenant one", b"tenant two")) == 0
    assert "secret" not in repr(prefix_marks(body, KEY))


@given(
    st.lists(st.text(max_size=8), min_size=1, max_size=6),
    st.lists(st.text(max_size=8), min_size=1, max_size=6),
)
def test_marks_are_equal_exactly_where_prefixes_are(one: list[str], other: list[str]) -> None:
    """For any two conversations the number of shared marks is the number of equal leading messages."""
    equal = 0
    while equal < min(len(one), len(other)) and one[equal] == other[equal]:
        equal += 1
    assert shared(conversation(*one), conversation(*other)) == equal


def test_a_long_conversation_keeps_its_first_and_newest_marks() -> None:
    """Marks are bounded; the next turn still finds the last one."""
    texts = [str(i) for i in range(200)]
    marks = prefix_marks(conversation(*texts), KEY)
    assert len(marks) == MAX_MARKS
    assert marks[:FIRST_MARKS] == prefix_marks(conversation(*texts[:FIRST_MARKS]), KEY)
    assert marks[-1] in prefix_marks(conversation(*texts, "and", "on"), KEY)
