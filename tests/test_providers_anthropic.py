"""Anthropic's dialect: what it has no word for is named, cache marks go where the quote counts on them."""

from __future__ import annotations

from typing import Any

import pytest
from vendor_playback import Playback, collect, seller_at, ticket_for

from providers.anthropic import Anthropic, messages_call
from providers.anthropic_answers import usage_of
from providers.dialect import Want
from providers.errors import RequestRefused
from providers.terms import LineKind, PrefixMark, Usage

USER = {"role": "user", "content": "hi"}


def want(**more: Any) -> Want:
    """A plain wish."""
    return Want(**{"model": "m", "tier": "standard", "max_output_tokens": 50, "stream": False, **more})


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"seed": 7}, "seed"),
        ({"logprobs": True}, "logprobs"),
        ({"n": 2}, "n"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"response_format": {"type": "json_object"}}, "response_format json_object"),
        ({"reasoning_effort": "extreme"}, "reasoning_effort extreme"),
        ({"tools": [{"type": "web_search"}]}, "tool type web_search"),
        ({"temperature": 1.5}, "temperature above 1"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "content part input_audio"),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": "x", "cache_control": {"type": "ephemeral", "ttl": "1h"}}
                        ],
                    }
                ]
            },
            "cache_control ttl",
        ),
        ({"seed": None, "logprobs": False, "n": 1, "frequency_penalty": 0, "logit_bias": {}}, None),
        ({"stop": ["a"], "user": "u", "temperature": 0, "parallel_tool_calls": True}, None),
    ],
)
def test_what_the_api_has_no_word_for_is_named(more: dict[str, Any], named: str | None) -> None:
    """A parameter, tool or part without a form in the Messages API is refused by name; a neutral value is not asking."""
    assert Anthropic().unsupported({"messages": [USER], **more}) == named


def test_embeddings_are_not_sold() -> None:
    """The API has no embeddings: a body with input is refused."""
    assert Anthropic().unsupported({"input": "x"}) == "input"


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{oops"}}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png,plain"}}]},
        {"role": "user", "content": [{"type": "file", "file": {"file_id": "file_1"}}]},
    ],
)
def test_content_without_a_form_is_refused(message: dict[str, Any]) -> None:
    """What cannot be said in the Messages API is refused before any call, saying what was expected."""
    with pytest.raises(RequestRefused, match="expected"):
        messages_call({"messages": [message]}, want())


def test_marks_go_after_tools_system_and_messages() -> None:
    """Breakpoints sit on the last block before which the prompt is stored; never more than four."""
    body = {
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "messages": [
            {"role": "system", "content": "s"},
            *[USER, {"role": "assistant", "content": "a"}] * 3,
            USER,
        ],
    }
    told = messages_call(body, want(cache_after=(-1, 0, 7)))
    mark = {"type": "ephemeral"}
    assert told["tools"][-1]["cache_control"] == mark
    assert told["system"][-1]["cache_control"] == mark
    marked = [index for index, turn in enumerate(told["messages"]) if "cache_control" in turn["content"][-1]]
    assert marked == [6]
    many = messages_call({"messages": body["messages"]}, want(cache_after=(1, 2, 3, 4, 5, 6, 7)))
    assert sum("cache_control" in block for turn in many["messages"] for block in turn["content"]) == 4


def test_priority_is_fast_mode_and_standard_never_spends_contracted_capacity() -> None:
    """The priced fast path is asked for by name; the standard tier says that it is only that."""
    call = Anthropic().call({"messages": [USER]}, want(tier="priority"))
    assert b'"speed":"fast"' in call.body
    assert "anthropic-beta" in call.headers
    assert b'"service_tier":"standard_only"' in Anthropic().call({"messages": [USER]}, want()).body


def test_usage_breakdowns_take_the_larger() -> None:
    """A breakdown that says more than its total is what was billed; no input at all is no report."""
    assert usage_of(
        {"input_tokens": 5, "output_tokens": 2, "cache_creation": {"ephemeral_5m_input_tokens": 9}}
    ) == Usage(14, 2, cache_write_tokens=9)
    assert usage_of({"output_tokens": 3}) is None
    assert usage_of(None) is None


async def test_a_prefix_that_came_before_is_marked_and_quoted_as_written() -> None:
    """The second request with a long shared prefix marks it, as its quote says; the third quote counts on reading it."""
    usage = {"input_tokens": 10, "output_tokens": 1, "cache_creation_input_tokens": 5000}
    reply = {"content": [{"type": "text", "text": "Hi"}], "stop_reason": "end_turn", "usage": usage}
    playback = Playback([{"json": reply}])
    prefix = (PrefixMark(5000, "shared"), PrefixMark(5010, "whole"))
    body = {"messages": [{"role": "system", "content": "long"}, USER]}
    async with playback.at() as url:
        seller = seller_at(url, "anthropic", model="claude-haiku-5-5")
        kinds = []
        for _ in range(3):
            ticket = ticket_for(seller, body, input_tokens=5010, prefix=prefix)
            kinds.append({line.kind for line in ticket.quote.lines})
            await collect(seller, ticket)
        marks = [b"cache_control" in repr(received.body).encode() for received in playback.received]
        assert marks == [False, True, True]
        assert LineKind.CACHE_WRITE not in kinds[0]
        assert LineKind.CACHE_WRITE in kinds[1]
        assert LineKind.CACHE_READ in kinds[2]
        await seller.aclose()
