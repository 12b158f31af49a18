"""Gemini's dialect: what it has no word for is named, conversations keep their order, usage counts thoughts."""

from __future__ import annotations

from typing import Any

import pytest

from providers.dialect import Want
from providers.errors import RequestRefused
from providers.gemini import Gemini, content_call, embed_call
from providers.gemini_answers import usage_of
from providers.terms import Usage

USER = {"role": "user", "content": "hi"}
WANT = Want(model="m", tier="standard", max_output_tokens=50, stream=False)


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"logit_bias": {"1": 1}}, "logit_bias"),
        ({"logprobs": True}, "logprobs"),
        ({"user": "u"}, "user"),
        ({"parallel_tool_calls": False, "n": 3}, "n"),
        ({"response_format": {"type": "grammar"}}, "response_format grammar"),
        ({"reasoning_effort": "none"}, "reasoning_effort none"),
        ({"tools": [{"type": "web_search"}]}, "tool type web_search"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "content part video"),
        (
            {"seed": 1, "top_k": 3, "parallel_tool_calls": True, "response_format": {"type": "json_object"}},
            None,
        ),
    ],
)
def test_what_the_api_has_no_word_for_is_named(more: dict[str, Any], named: str | None) -> None:
    """A parameter, tool or part without a form in the API is refused by name; a neutral value is not asking."""
    assert Gemini().unsupported({"messages": [USER], **more}) == named


@pytest.mark.parametrize(
    "message",
    [
        {"role": "tool", "tool_call_id": "unknown", "content": "x"},
        {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{oops"}}]},
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": "https://example.com/image"}}],
        },
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png,plain"}}]},
    ],
)
def test_content_without_a_form_is_refused(message: dict[str, Any]) -> None:
    """What cannot be said in the API is refused before any call, saying what was expected."""
    with pytest.raises(RequestRefused, match="expected"):
        content_call({"messages": [message]}, WANT)


def test_neighbours_of_one_role_are_one_turn() -> None:
    """Turns alternate: neighbours of one role are joined, empty messages leave no turn, system stands apart."""
    told = content_call(
        {
            "messages": [
                {"role": "developer", "content": "s"},
                USER,
                USER,
                {"role": "assistant", "content": ""},
                {"role": "assistant", "content": "a"},
                USER,
            ]
        },
        WANT,
    )
    assert [(turn["role"], len(turn["parts"])) for turn in told["contents"]] == [
        ("user", 2),
        ("model", 1),
        ("user", 1),
    ]
    assert told["systemInstruction"] == {"parts": [{"text": "s"}]}


def test_a_result_that_is_no_object_is_wrapped() -> None:
    """A tool's result that is not a JSON object is wrapped, as the API wants one."""
    call = {"id": "a", "function": {"name": "f", "arguments": ""}}
    for content, response in (
        ("plain", {"result": "plain"}),
        ("[1]", {"result": [1]}),
        ('{"a":1}', {"a": 1}),
    ):
        body = {
            "messages": [
                {"role": "assistant", "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "a", "content": content},
            ]
        }
        told = content_call(body, WANT)["contents"][1]["parts"][0]
        assert told == {"functionResponse": {"name": "f", "response": response}}


def test_tiers_are_a_parameter() -> None:
    """Flex and priority are asked for by name, standard is what comes without."""
    for tier, told in (("standard", None), ("flex", "flex"), ("priority", "priority")):
        want = Want(model="m", tier=tier, max_output_tokens=50, stream=False)
        assert content_call({"messages": [USER]}, want).get("serviceTier") == told


@pytest.mark.parametrize("given", [[], [[1, 2]], [1]])
def test_embeddings_of_tokens_are_refused(given: list[Any]) -> None:
    """The API embeds texts; token lists and nothing are refused."""
    with pytest.raises(RequestRefused, match="expected texts"):
        embed_call({"input": given}, WANT)


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ({"promptTokenCount": 10, "candidatesTokenCount": 2, "totalTokenCount": 12}, Usage(10, 2)),
        (
            {"promptTokenCount": 10, "candidatesTokenCount": 2, "thoughtsTokenCount": 30},
            Usage(10, 32, reasoning_tokens=30),
        ),
        ({"promptTokenCount": 10, "cachedContentTokenCount": 8, "totalTokenCount": 10}, Usage(10, 0, 8)),
        ({"promptTokenCount": 10, "totalTokenCount": 50}, Usage(10, 40)),
        ({"candidatesTokenCount": 2}, None),
        (None, None),
    ],
)
def test_usage_counts_thoughts_as_output(report: object, expected: Usage | None) -> None:
    """Cached tokens are inside the prompt, thoughts beside the answer, and a larger total is billed."""
    assert usage_of(report) == expected
