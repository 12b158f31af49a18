"""Anthropic's own SDK against a running server: messages, streams, tools, images, errors and retries."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import pytest
from api_house import ANSWER, FINISH, PIECES, USAGE, Served, api_house, chunk, shop
from vendor_playback import Playback

from negotiator.errors import Reject, RejectCode, Rejected

GOOD = {"json": ANSWER}
STREAM = {"events": [*PIECES, *FINISH]}
ASKED: Any = {"model": "auto", "max_tokens": 50, "messages": [{"role": "user", "content": "What is 2+2?"}]}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
TOOL: Any = {"name": "add", "description": "adds", "input_schema": {"type": "object"}}


@asynccontextmanager
async def sdk(*replies: Any, **house: Any) -> AsyncIterator[tuple[anthropic.AsyncAnthropic, Served]]:
    """A client of a running server; only the base URL is changed."""
    async with (
        api_house(*replies, **house) as served,
        anthropic.AsyncAnthropic(base_url=served.url, api_key="unused") as client,
    ):
        yield client, served


def called(*more: Any) -> dict[str, Any]:
    """A vendor's answer that calls a tool."""
    message = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls", "logprobs": None}
    return {"json": {**ANSWER, "choices": [choice]}}


async def test_a_message() -> None:
    """A message parses as usual; the system prompt leads, the bill is an extra field."""
    async with sdk(GOOD) as (client, served):
        message = await client.messages.create(
            **ASKED,
            system="Be brief.",
            stop_sequences=["END"],
            metadata={"user_id": "u1"},
            extra_body={"negotiator": {"budget_usd": "0.01"}},
        )
        sent = served.playback.received[0].body
    block = message.content[0]
    assert block.type == "text"
    assert block.text == "It is four."
    assert message.stop_reason == "end_turn"
    assert (message.usage.input_tokens, message.usage.output_tokens) == (12, 3)
    assert (message.model_extra or {})["negotiator"]["cost_usd"] == "0.000024"
    assert sent["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (sent["stop"], sent["user"], sent["max_tokens"]) == (["END"], "u1", 50)


async def test_a_stream() -> None:
    """The SDK's accumulating stream takes our events as Anthropic's own, and ends with the billed usage."""
    async with sdk(STREAM) as (client, _), client.messages.stream(**ASKED) as stream:
        text = [piece async for piece in stream.text_stream]
        message = await stream.get_final_message()
    assert text == ["It is ", "four."]
    assert message.stop_reason == "end_turn"
    assert (message.usage.input_tokens, message.usage.output_tokens) == (12, 3)


async def test_a_stream_that_breaks_off_raises() -> None:
    """After what was delivered an error event raises."""
    async with sdk({"events": [*PIECES, "CUT"]}) as (client, _):
        texts: list[str] = []

        async def read() -> None:
            async with client.messages.stream(**ASKED) as stream:
                async for piece in stream.text_stream:
                    texts.append(piece)  # noqa: PERF401 - kept when it raises

        with pytest.raises(anthropic.APIStatusError):
            await read()
    assert "".join(texts) == "It is four."


async def test_tools_go_round() -> None:
    """A tool_use block comes back with its input, whole and streamed, and its result goes on as a tool message."""
    pieces = [
        chunk({"role": "assistant", "tool_calls": [{"index": 0, **CALL}]}),
        chunk(finish="tool_calls"),
        chunk(usage=USAGE),
        "data: [DONE]\n\n",
    ]
    async with sdk(called(), {"events": pieces}, GOOD) as (client, served):
        choice: Any = {"type": "any", "disable_parallel_tool_use": True}
        message = await client.messages.create(**ASKED, tools=[TOOL], tool_choice=choice)
        async with client.messages.stream(**ASKED, tools=[TOOL]) as stream:
            streamed = await stream.get_final_message()
        result = {"type": "tool_result", "tool_use_id": "c1", "content": "1"}
        turns: Any = [
            *ASKED["messages"],
            {"role": "assistant", "content": [block.to_dict() for block in message.content]},
            {"role": "user", "content": [result, {"type": "text", "text": "and now?"}]},
        ]
        await client.messages.create(**ASKED | {"messages": turns}, tools=[TOOL])
        first, _, third = (received.body for received in served.playback.received)
    for made in (message, streamed):
        block = made.content[0]
        assert block.type == "tool_use"
        assert (block.name, block.id, block.input) == ("add", "c1", {"a": 1})
        assert made.stop_reason == "tool_use"
    assert (first["tool_choice"], first["parallel_tool_calls"]) == ("required", False)
    assert first["tools"][0]["function"]["parameters"] == {"type": "object"}
    assert third["messages"][1]["tool_calls"][0]["function"]["name"] == "add"
    assert third["messages"][2:] == [
        {"role": "tool", "tool_call_id": "c1", "content": "1"},
        {"role": "user", "content": [{"type": "text", "text": "and now?"}]},
    ]


async def test_images_and_marks() -> None:
    """An image reaches a seller that sees; five-minute cache marks are the house's business and go no further."""
    playback = Playback([GOOD])
    source = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
    content = [
        {"type": "text", "text": "what?", "cache_control": {"type": "ephemeral"}},
        {"type": "image", "source": source},
    ]
    async with playback.at() as url:
        seller = shop(url, "seeing", ["gpt-4o"], tags=frozenset({"vision"}))
        async with sdk(sellers=[seller]) as (client, _):
            messages: Any = [{"role": "user", "content": content}]
            await client.messages.create(**ASKED | {"messages": messages})
    assert playback.received[0].body["messages"][0]["content"] == [
        {"type": "text", "text": "what?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    ]


async def test_a_schema() -> None:
    """A json_schema output format reaches the seller."""
    async with sdk(GOOD) as (client, served):
        schema = {"type": "object", "properties": {"total": {"type": "integer"}}}
        config: Any = {"format": {"type": "json_schema", "schema": schema}}
        await client.messages.create(**ASKED, output_config=config)
        sent = served.playback.received[0].body["response_format"]
    assert sent["json_schema"]["schema"] == schema


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0.type"),
        ({"extra_body": {"container": "x"}}, "container"),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {
                                "type": "text",
                                "text": "x",
                                "cache_control": {"type": "ephemeral", "ttl": "1h"},
                            }
                        ],
                    }
                ]
            },
            "messages.0.content.0.cache_control.ttl",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "messages.0.content.0.type"),
    ],
)
async def test_what_a_message_cannot_be_is_named(changed: dict[str, Any], named: str) -> None:
    """What has no form in a chat is refused by name in Anthropic's shape, and no seller is called."""
    async with sdk(GOOD) as (client, served):
        with pytest.raises(anthropic.BadRequestError) as caught:
            await client.messages.create(**ASKED | changed)
        assert not served.playback.received
    body: Any = caught.value.body
    assert (body["type"], body["error"]["param"]) == ("error", named)


RAISED: Any = [
    (RejectCode.BUDGET_TOO_LOW, anthropic.APIStatusError, 1),
    (RejectCode.ACCOUNT_UNKNOWN, anthropic.PermissionDeniedError, 1),
    (RejectCode.IN_PROGRESS, anthropic.ConflictError, 3),
    (RejectCode.QUALITY_UNREACHABLE, anthropic.UnprocessableEntityError, 1),
    (RejectCode.FUNDS_HELD, anthropic.RateLimitError, 3),
    (RejectCode.PROVIDERS_FAILED, anthropic.InternalServerError, 3),
]


@pytest.mark.parametrize(("code", "kind", "tries"), RAISED, ids=lambda value: getattr(value, "name", None))
async def test_rejects_raise_the_right_exception(
    code: RejectCode, kind: type[anthropic.APIStatusError], tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each reject is the SDK's own exception, tried again only where that may help; the reject is in its body."""
    asked = 0
    async with sdk(GOOD) as (client, served):

        async def refuse(*_: Any, **__: Any) -> None:
            nonlocal asked
            asked += 1
            raise Rejected(Reject(code=code, message="no", retry_after_ms=1 if code.again else None))

        monkeypatch.setattr(served.engine, "submit", refuse)
        with pytest.raises(kind) as caught:
            await client.messages.create(**ASKED)
    body: Any = caught.value.body
    assert (caught.value.status_code, body["error"]["code"]) == (code.http_status, code.name)
    assert body["error"]["reject"]["name"] == code.name
    assert asked == tries


async def test_its_key_header_works() -> None:
    """``x-api-key`` lets the SDK in; a wrong one is AuthenticationError in Anthropic's shape."""
    async with api_house(GOOD) as served:
        await served.call("POST", "/v1/messages", ASKED)
        await served.make_key("k", "default", "use")
        async with anthropic.AsyncAnthropic(base_url=served.url, api_key=served.keys["k"]) as client:
            assert (await client.messages.create(**ASKED)).stop_reason == "end_turn"
        async with anthropic.AsyncAnthropic(base_url=served.url, api_key="neg_0_0") as client:
            with pytest.raises(anthropic.AuthenticationError):
                await client.messages.create(**ASKED)
