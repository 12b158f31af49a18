"""OpenAI's dialect and its relatives: usage whichever way it is counted, windows, presets, faults in words."""

from __future__ import annotations

from typing import Any

import pytest

from providers.errors import AuthFailed, ContextTooLong, Overloaded, ProviderError, RateLimited
from providers.limit_headers import LIMIT_HEADERS, duration_ms, retry_after_ms
from providers.openai_compat import OpenAICompat
from providers.openai_faults import fault_in_answer, fault_of, safe_detail
from providers.openai_usage import billed_of, usage_of
from providers.presets import load_presets, preset, preset_names
from providers.terms import RateKind, Usage
from providers.vendor_terms import load_vendor_terms


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 2}, Usage(10, 2)),
        ({"input_tokens": 10, "output_tokens": 2}, Usage(10, 2)),
        ({"prompt_tokens": 10, "completion_tokens": 2, "prompt_tokens_details": None}, Usage(10, 2)),
        ({"prompt_tokens": 10, "completion_tokens": 2, "cached_tokens": 8}, Usage(10, 2, 8)),
        ({"prompt_tokens": 10, "completion_tokens": 2, "prompt_cache_hit_tokens": 8}, Usage(10, 2, 8)),
        # cached beside the prompt, told by the total
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 2,
                "total_tokens": 18,
                "prompt_tokens_details": {"cached_tokens": 6},
            },
            Usage(16, 2, 6),
        ),
        # cached beside the prompt, told by being more than it
        (
            {"prompt_tokens": 10, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 30}},
            Usage(40, 2, 30),
        ),
        # reasoning beside the completion, told by the total, by being more than it, and both beside at once
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "total_tokens": 18,
                "completion_tokens_details": {"reasoning_tokens": 3},
            },
            Usage(10, 8, reasoning_tokens=3),
        ),
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "completion_tokens_details": {"reasoning_tokens": 9},
            },
            Usage(10, 14, reasoning_tokens=9),
        ),
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "total_tokens": 24,
                "prompt_tokens_details": {"cached_tokens": 6},
                "completion_tokens_details": {"reasoning_tokens": 3},
            },
            Usage(16, 8, 6, reasoning_tokens=3),
        ),
        # a total beyond its parts is billed; a total below them is not believed
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 20}, Usage(10, 10)),
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 3}, Usage(10, 5)),
        ({"prompt_tokens": 0, "completion_tokens": 0}, None),
        ({"prompt_tokens": "10", "completion_tokens": 5}, None),
        ({"prompt_tokens": -1}, None),
        ({}, None),
        (None, None),
        ("usage", None),
    ],
)
def test_usage_in_five_classes(report: object, expected: Usage | None) -> None:
    """Cached tokens inside or beside the input, reasoning inside or beside the output: one reading."""
    assert usage_of(report) == expected


@pytest.mark.parametrize(
    ("report", "nusd"),
    [
        ({"cost": 0.000_012_5}, 12_500),
        ({"cost": "0.0000000001"}, 1),
        ({"cost": {"total_cost": 0.01}}, 10_000_000),
        ({"cost_in_usd_ticks": 11}, 2),
        ({"cost": 0}, None),
        ({"cost": True}, None),
        ({"cost": "NaN"}, None),
        ({"cost": "much"}, None),
        ({}, None),
    ],
)
def test_a_seller_s_own_bill(report: dict[str, Any], nusd: int | None) -> None:
    """A bill is read exactly and rounded up; a bill of zero is no evidence."""
    assert billed_of(report) == nusd


@pytest.mark.parametrize(
    ("text", "ms"),
    [("1s", 1000), ("6m0s", 360_000), ("120ms", 120), ("7.66s", 7660), ("2", 2000), ("1h2m", 3_720_000)],
)
def test_durations(text: str, ms: int) -> None:
    """Go's durations and plain seconds are read to the millisecond."""
    assert duration_ms(text) == ms


@pytest.mark.parametrize("text", ["", "soon", "1x", "s1", "-1s", None])
def test_what_is_no_duration_is_none(text: str | None) -> None:
    """Anything else is unknown, not zero."""
    assert duration_ms(text) is None


def test_retry_after_as_a_date_is_judged_by_the_vendor_s_own_clock() -> None:
    """A date becomes the interval from the answer's own date."""
    headers = {"retry-after": "Wed, 21 Oct 2026 07:28:10 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}
    assert retry_after_ms(headers) == 10_000
    assert retry_after_ms({"retry-after": headers["retry-after"]}) is None


@pytest.mark.parametrize(
    ("dialect", "headers", "expected"),
    [
        (
            "openai",
            {
                "x-ratelimit-limit-requests": "500",
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "6m0s",
                "x-ratelimit-limit-tokens": "30000",
                "x-ratelimit-remaining-tokens": "29000",
            },
            [(RateKind.REQUESTS, 500, 0, 360_000, 60_000), (RateKind.TOKENS, 30_000, 29_000, None, 60_000)],
        ),
        ("openai", {"x-ratelimit-limit-requests": "-1", "x-ratelimit-remaining-requests": "0"}, []),
        (
            "groq",
            {"x-ratelimit-limit-requests": "14400", "x-ratelimit-remaining-requests": "14370"},
            [(RateKind.REQUESTS, 14_400, 14_370, None, 86_400_000)],
        ),
        (
            "mistral",
            {"x-ratelimit-limit-tokens-minute": "500", "x-ratelimit-remaining-tokens-minute": "400"},
            [(RateKind.TOKENS, 500, 400, None, 60_000)],
        ),
        (
            "fireworks",
            {"x-ratelimit-limit-tokens-generated": "100", "x-ratelimit-remaining-tokens-generated": "60"},
            [(RateKind.OUTPUT_TOKENS, 100, 60, None, 1000)],
        ),
        (
            "together",
            {"x-tokenlimit-limit": "100", "x-tokenlimit-remaining": "1", "x-ratelimit-reset": "1"},
            [(RateKind.TOKENS, 100, 1, None, 1000)],
        ),
        (
            "anthropic",
            {
                "anthropic-ratelimit-input-tokens-limit": "50000",
                "anthropic-ratelimit-input-tokens-remaining": "49000",
                "anthropic-ratelimit-input-tokens-reset": "2026-11-24T10:00:30Z",
                "date": "Tue, 24 Nov 2026 10:00:00 GMT",
            },
            [(RateKind.UNCACHED_INPUT_TOKENS, 50_000, 49_000, 30_000, 60_000)],
        ),
        ("none", {"x-ratelimit-limit-requests": "500"}, []),
    ],
)
def test_windows_in_headers(dialect: str, headers: dict[str, str], expected: list[tuple[Any, ...]]) -> None:
    """Each vendor's headers become windows; what says nothing is unknown."""
    found = LIMIT_HEADERS[dialect](headers)
    assert [(w.kind, w.limit, w.remaining, w.reset_ms, w.per_ms) for w in found] == expected


def test_every_preset_has_a_row_of_vendor_terms_and_a_source() -> None:
    """A shipped preset names a vendor whose terms are known, and where its row was read."""
    vendors = load_vendor_terms().vendors
    for name in preset_names():
        row = preset(name)
        assert row.vendor in vendors, name
        assert row.source.startswith("https://"), name
        if row.vendor != "self-hosted":
            assert row.key_env, name


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ('auth = "cookie"', "auth: expected one of bearer, api-key"),
        ('limit_headers = "x"', "limit_headers: expected one of"),
        ('dialect = "soap"', "dialect: expected one of"),
        ('colour = "red"', "found 'colour'"),
    ],
)
def test_a_wrong_preset_is_refused(row: str, fault: str) -> None:
    """A row with a key or value that cannot be is refused by name."""
    text = f'[shop]\nvendor = "openai"\nsource = "https://example.com"\nchecked = 2026-11-23\n{row}\n'
    with pytest.raises(ValueError, match=fault):
        load_presets(text)


def test_an_unknown_preset_names_the_known_ones() -> None:
    """A kind that is no preset is refused with the names there are."""
    with pytest.raises(ValueError, match=r"openai.*found 'opneai'"):
        preset("opneai")


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"messages": [], "logit_bias": {"1": 2}}, "logit_bias"),
        ({"messages": [], "n": 2}, "n"),
        ({"messages": [], "n": 1, "logit_bias": {}, "top_logprobs": None}, None),
    ],
)
def test_unsupported_is_named_and_neutral_is_not_asking(body: dict[str, Any], named: str | None) -> None:
    """A parameter that the vendor ignores is named; one with a value that asks for nothing is not."""
    assert OpenAICompat(preset("groq")).unsupported(body) == named


@pytest.mark.parametrize(
    ("code", "leaf"), [(429, RateLimited), ("503", Overloaded), (400, ContextTooLong), (None, ContextTooLong)]
)
def test_an_error_inside_an_answer_is_read_by_its_code(code: object, leaf: type[ProviderError]) -> None:
    """A status inside the body counts as the answer's."""
    error = fault_in_answer(
        {
            "error": {"code": code, "message": "maximum context length"}
            if leaf is ContextTooLong
            else {"code": code}
        }
    )
    assert type(error) is leaf


def test_messages_are_fit_for_logs() -> None:
    """A vendor's message is one line, bounded, and anything like a key in it is masked."""
    assert safe_detail("a\n b  c") == "a b c"
    assert len(safe_detail("x" * 5000)) == 300
    assert "abcdef" not in safe_detail("Incorrect key sk-proj-abcdef123456 given, or gsk_abcdef12")


def test_an_error_without_a_body_still_has_its_status() -> None:
    """An empty, non-JSON or oddly shaped error body is judged by its status."""
    for data in (b"", b"oops", b"[]", b'"x"', b'{"error": null}', b'{"error": "text"}', b'{"detail": "x"}'):
        error = fault_of(401, {}, data)
        assert isinstance(error, AuthFailed), data
        assert error.status == 401
