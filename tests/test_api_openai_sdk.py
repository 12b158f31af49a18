"""OpenAI's own SDK against a running server: what it parses, what it raises, and how often it tries again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
from api_house import ANSWER, CHAT, FINISH, PIECES, USAGE, Served, api_house, chunk, shop
from pydantic import BaseModel
from vendor_playback import Playback

from negotiator.errors import Reject, RejectCode, Rejected

GOOD = {"json": ANSWER}
STREAM = {"events": [*PIECES, *FINISH]}
MESSAGES: Any = CHAT["messages"]
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
TOOLS: Any = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]


def answered(message: dict[str, Any], finish: str = "stop") -> dict[str, Any]:
    """A vendor's whole answer with this message."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", **message},
        "finish_reason": finish,
        "logprobs": None,
    }
    return {"json": {**ANSWER, "choices": [choice]}}


@asynccontextmanager
async def sdk(*replies: Any, **house: Any) -> AsyncIterator[tuple[openai.AsyncOpenAI, Served]]:
    """A client of a running server; the server has no keys, so any will do."""
    async with (
        api_house(*replies, **house) as served,
        openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="unused") as client,
    ):
        yield client, served


async def test_a_chat() -> None:
    """An answer parses as usual; the bill is an extra field, the request id is where the SDK looks for it."""
    async with sdk(GOOD) as (client, served):
        answer = await client.chat.completions.create(
            model="auto",
            messages=MESSAGES,
            temperature=0.3,
            extra_body={"negotiator": {"budget_usd": "0.01"}},
        )
        assert served.playback.received[0].body["temperature"] == 0.3
    assert answer.choices[0].message.content == "It is four."
    assert answer.usage is not None
    assert answer.usage.total_tokens == 15
    assert answer.model_extra is not None
    assert answer.model_extra["negotiator"]["cost_usd"] == "0.000024"
    assert (answer._request_id or "").startswith("req_")


async def test_raw_headers_carry_the_bill() -> None:
    """``with_raw_response`` sees the x-negotiator headers."""
    async with sdk(GOOD) as (client, _):
        raw = await client.chat.completions.with_raw_response.create(
            model="m", messages=MESSAGES, extra_headers={"x-negotiator-order-id": "mine"}
        )
    assert raw.headers["x-negotiator-order-id"] == "mine"
    assert raw.headers["x-negotiator-cost-usd"] == "0.000024"


async def test_a_stream_with_usage() -> None:
    """Text comes in pieces; the last chunk has the usage and the bill."""
    async with sdk(STREAM) as (client, _):
        stream = await client.chat.completions.create(
            model="auto", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
        chunks = [one async for one in stream]
    text = "".join(one.choices[0].delta.content or "" for one in chunks if one.choices)
    assert text == "It is four."
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.prompt_tokens == 12
    assert (chunks[-1].model_extra or {})["negotiator"]["provider"] == "shop"
    assert chunks[-2].choices[0].finish_reason == "stop"


async def test_the_streaming_helper_adds_up() -> None:
    """The SDK's accumulating stream helper takes relayed chunks as OpenAI's own."""
    async with (
        sdk(STREAM) as (client, _),
        client.chat.completions.stream(model="auto", messages=MESSAGES) as stream,
    ):
        done = await stream.get_final_completion()
    assert done.choices[0].message.content == "It is four."


async def test_a_stream_that_breaks_off_raises() -> None:
    """After what was delivered the SDK raises APIError with our code; nothing is swallowed."""
    async with sdk({"events": [*PIECES, "CUT"]}) as (client, _):
        stream = await client.chat.completions.create(model="auto", messages=MESSAGES, stream=True)
        texts: list[str] = []

        async def read() -> None:
            async for one in stream:
                texts.append(one.choices[0].delta.content or "")  # noqa: PERF401 - kept when it raises

        with pytest.raises(openai.APIError) as caught:
            await read()
    assert "".join(texts) == "It is four."
    assert caught.value.code == "PROVIDERS_FAILED"


async def test_tools() -> None:
    """Tool calls come back as the seller made them, whole and streamed."""
    pieces = [
        chunk({"role": "assistant", "tool_calls": [{"index": 0, **CALL}]}),
        chunk(finish="tool_calls"),
        chunk(usage=USAGE),
        "data: [DONE]\n\n",
    ]
    async with sdk(answered({"content": None, "tool_calls": [CALL]}, "tool_calls"), {"events": pieces}) as (
        client,
        served,
    ):
        whole = await client.chat.completions.create(
            model="auto", messages=MESSAGES, tools=TOOLS, tool_choice="required"
        )
        stream = await client.chat.completions.create(
            model="auto", messages=MESSAGES, tools=TOOLS, stream=True
        )
        streamed = [one async for one in stream]
        assert served.playback.received[0].body["tool_choice"] == "required"
    calls = whole.choices[0].message.tool_calls or []
    assert calls[0].to_dict() == CALL
    assert streamed[0].choices[0].delta.tool_calls is not None
    assert streamed[-1].choices[0].finish_reason == "tool_calls"


async def test_images_need_vision() -> None:
    """An image is passed through untouched to a seller that sees, and no other seller is asked."""
    blind, seeing = Playback([GOOD]), Playback([GOOD])
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    messages: Any = [{"role": "user", "content": [{"type": "text", "text": "what?"}, image]}]
    async with blind.at() as one, seeing.at() as two:
        sellers = [
            shop(one, "blind", ["gpt-3.5-turbo"]),
            shop(two, "seeing", ["gpt-4o"], dear=9, tags=frozenset({"vision"})),
        ]
        async with sdk(sellers=sellers) as (client, _):
            answer = await client.chat.completions.create(model="auto", messages=messages, max_tokens=20)
    assert (answer.model_extra or {})["negotiator"]["provider"] == "seeing"
    assert seeing.received[0].body["messages"] == messages
    assert not blind.received


class Sum(BaseModel):
    """What the model is asked to fill in."""

    total: int


async def test_a_schema_is_parsed() -> None:
    """``parse`` sends json_schema and gets its object back."""
    async with sdk(answered({"content": '{"total": 4}'})) as (client, served):
        answer = await client.chat.completions.parse(model="auto", messages=MESSAGES, response_format=Sum)
        sent = served.playback.received[0].body["response_format"]
    assert answer.choices[0].message.parsed == Sum(total=4)
    assert sent["json_schema"]["name"] == "Sum"


async def test_embeddings() -> None:
    """Embeddings parse, in the encoding the SDK prefers."""
    vectors = {
        "object": "list",
        "model": "e",
        "data": [{"object": "embedding", "index": 0, "embedding": "AAAAPwAAAL8="}],
        "usage": {"prompt_tokens": 4, "total_tokens": 4},
    }
    playback = Playback([{"json": vectors}])
    async with playback.at() as url:
        seller = shop(url, "shop", ["e"], tags=frozenset({"embeddings"}))
        async with sdk(sellers=[seller]) as (client, _):
            answer = await client.embeddings.create(model="e", input="hello")
    assert answer.data[0].embedding == [0.5, -0.5]
    assert answer.usage.prompt_tokens == 4


async def test_models() -> None:
    """The list of models is OpenAI's, with ours beside it."""
    async with sdk(GOOD) as (client, _):
        models = [model async for model in client.models.list()]
    assert [model.id for model in models] == ["shop/m"]


async def test_a_response() -> None:
    """The responses API answers with output items and usage; instructions became a system message."""
    async with sdk(GOOD) as (client, served):
        answer = await client.responses.create(
            model="auto",
            input="What is 2+2?",
            instructions="Be brief.",
            max_output_tokens=50,
            extra_body={"negotiator": {"budget_usd": "0.01"}},
        )
        sent = served.playback.received[0].body
    assert answer.output_text == "It is four."
    assert answer.status == "completed"
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (12, 3)
    assert (answer.model_extra or {})["negotiator"]["cost_usd"] == "0.000024"
    assert sent["messages"][0] == {"role": "system", "content": "Be brief."}
    assert sent["max_tokens"] == 50


async def test_a_response_streams() -> None:
    """Events come in OpenAI's order, and the SDK's own accumulator ends with the whole response."""
    async with (
        sdk(STREAM) as (client, _),
        client.responses.stream(model="auto", input="What is 2+2?") as stream,
    ):
        kinds = [event.type async for event in stream]
        done = await stream.get_final_response()
    assert done.output_text == "It is four."
    assert kinds[:3] == ["response.created", "response.in_progress", "response.output_item.added"]
    assert kinds.count("response.output_text.delta") == 2
    assert kinds[-1] == "response.completed"


async def test_a_response_calls_tools() -> None:
    """Function calls and their outputs go round: the call comes as an item, its output goes back as a tool message."""
    pieces = [
        chunk({"role": "assistant", "tool_calls": [{"index": 0, **CALL}]}),
        chunk(finish="tool_calls"),
        chunk(usage=USAGE),
        "data: [DONE]\n\n",
    ]
    tools: Any = [{"type": "function", "name": "add", "parameters": {"type": "object"}, "strict": False}]
    replies = [answered({"content": None, "tool_calls": [CALL]}, "tool_calls"), {"events": pieces}, GOOD]
    async with sdk(*replies) as (client, served):
        first = await client.responses.create(model="auto", input="add", tools=tools)
        stream = await client.responses.create(model="auto", input="add", tools=tools, stream=True)
        events = [event async for event in stream]
        conversation: Any = [
            {"role": "user", "content": "add"},
            *[item.to_dict() for item in first.output],
            {"type": "function_call_output", "call_id": "c1", "output": "1"},
        ]
        await client.responses.create(model="auto", input=conversation, tools=tools)
        sent = served.playback.received[2].body["messages"]
    item = first.output[0]
    assert item.type == "function_call"
    assert (item.name, item.call_id) == ("add", "c1")
    assert [event.type for event in events if "arguments" in event.type] == [
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
    ]
    assert sent[1]["tool_calls"] == [CALL]
    assert sent[2] == {"role": "tool", "tool_call_id": "c1", "content": "1"}


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"store": True}, "store"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0.type"),
        ({"reasoning": {"summary": "auto"}}, "reasoning.summary"),
    ],
)
async def test_what_a_response_cannot_be_is_named(changed: dict[str, Any], named: str) -> None:
    """What has no form in a chat is refused by name, never dropped."""
    async with sdk(GOOD) as (client, served):
        with pytest.raises(openai.BadRequestError) as caught:
            await client.responses.create(**{"model": "auto", "input": "x", **changed})
        assert not served.playback.received
    assert caught.value.param == named


RAISED: Any = [
    (RejectCode.BUDGET_TOO_LOW, openai.APIStatusError, 1),
    (RejectCode.FUNDS_INSUFFICIENT, openai.APIStatusError, 1),
    (RejectCode.ACCOUNT_UNKNOWN, openai.PermissionDeniedError, 1),
    (RejectCode.UNKNOWN_QUOTE, openai.NotFoundError, 1),
    (RejectCode.IN_PROGRESS, openai.ConflictError, 3),
    (RejectCode.QUOTE_EXPIRED, openai.APIStatusError, 1),
    (RejectCode.QUALITY_UNREACHABLE, openai.UnprocessableEntityError, 1),
    (RejectCode.FUNDS_HELD, openai.RateLimitError, 3),
    (RejectCode.CAPACITY_EXHAUSTED, openai.RateLimitError, 3),
    (RejectCode.PROVIDERS_FAILED, openai.InternalServerError, 3),
    (RejectCode.ALL_DECLINED, openai.InternalServerError, 3),
    (RejectCode.DEADLINE_PASSED, openai.InternalServerError, 3),
]


@pytest.mark.parametrize(("code", "kind", "tries"), RAISED, ids=lambda value: getattr(value, "name", None))
async def test_rejects_raise_the_right_exception(
    code: RejectCode, kind: type[openai.APIStatusError], tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each reject is the SDK's own exception with our code, tried again only where that may help."""
    asked = 0
    async with sdk(GOOD) as (client, served):

        async def refuse(*_: Any, **__: Any) -> None:
            nonlocal asked
            asked += 1
            raise Rejected(Reject(code=code, message="no", retry_after_ms=1 if code.again else None))

        monkeypatch.setattr(served.engine, "submit", refuse)
        with pytest.raises(kind) as caught:
            await client.chat.completions.create(model="auto", messages=MESSAGES)
    assert (caught.value.status_code, caught.value.code) == (code.http_status, code.name)
    assert asked == tries


async def test_a_refused_key_is_an_authentication_error() -> None:
    """A wrong key raises AuthenticationError at once; a right one works."""
    async with api_house(GOOD) as served:
        await served.call("POST", "/v1/chat/completions", CHAT)
        await served.make_key("k", "default", "use")
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="neg_0_0") as client:
            with pytest.raises(openai.AuthenticationError):
                await client.models.list()
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key=served.keys["k"]) as client:
            assert [model.id async for model in client.models.list()] == ["shop/m"]
