"""One message out of deltas: text joined, calls by index, the rest as it came."""

from __future__ import annotations

from providers.assembly import MessageBuilder


def built(*deltas: dict[str, object]) -> MessageBuilder:
    """A builder that took these."""
    builder = MessageBuilder()
    for delta in deltas:
        builder.add(delta)
    return builder


def test_nothing_is_an_empty_assistant_message() -> None:
    """Roles and empty texts are nothing written yet."""
    builder = built({"role": "assistant", "content": ""}, {"content": None})
    assert builder.empty
    assert builder.message() == {"role": "assistant", "content": ""}
    assert built().message() == {"role": "assistant", "content": None}


def test_tool_calls_are_put_together_by_index() -> None:
    """Arguments are joined, names and ids said once, the index is not part of the message; order is by index."""
    builder = built(
        {
            "tool_calls": [
                {"index": 1, "id": "b", "type": "function", "function": {"name": "g", "arguments": ""}}
            ]
        },
        {
            "tool_calls": [
                {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": "{"}}
            ]
        },
        {"tool_calls": [{"index": 0, "id": None, "function": {"name": None, "arguments": "}"}}]},
    )
    assert not builder.empty
    assert builder.message() == {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}},
            {"id": "b", "type": "function", "function": {"name": "g", "arguments": ""}},
        ],
    }
    assert builder.text == "f{}g"


def test_a_whole_message_is_itself() -> None:
    """A buffered message in one delta comes out as it went in; calls without an index keep their order."""
    message = {
        "role": "assistant",
        "content": "Hi",
        "refusal": None,
        "reasoning_content": "Hm",
        "thinking_blocks": [{"type": "thinking"}],
        "tool_calls": [{"id": "a", "function": {"name": "f"}}, {"id": "b", "function": {"name": "g"}}],
        "audio": {"id": "x"},
    }
    assert built(message).message() == {name: value for name, value in message.items() if value is not None}


def test_the_older_function_call_is_joined_too() -> None:
    """A streamed function call of the older kind is one call, and counts as written."""
    builder = built({"function_call": {"name": "f", "arguments": "{"}}, {"function_call": {"arguments": "}"}})
    assert builder.message()["function_call"] == {"name": "f", "arguments": "{}"}
    assert builder.text == "f{}"
    assert not builder.empty


def test_lists_are_extended_and_what_came_in_is_not_changed() -> None:
    """Lists grow, and a delta that was taken is never written to."""
    first: dict[str, object] = {"thinking_blocks": [{"a": 1}]}
    builder = built(first, {"thinking_blocks": [{"b": 2}]})
    assert builder.message()["thinking_blocks"] == [{"a": 1}, {"b": 2}]
    assert first == {"thinking_blocks": [{"a": 1}]}
