"""Bytes of strangers at every parser: vendors' answers and streams, batch lines, configurations, the quote protocol.

Recorded answers are bent (values replaced, members dropped, bytes flipped, streams cut anywhere); whatever comes out is
an answer with sane numbers or a refusal: an error of the parser's own kind, or one of ``SHAPES``, which the caller takes
for a misshapen answer.
``NEGOTIATOR_FUZZ=20000`` sets the number of cases of each test (default 60).
"""

from __future__ import annotations

import asyncio
import copy
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from api_house import CHAT, api_house, shop, until
from hypothesis import given, settings
from hypothesis import strategies as st
from vendor_playback import Playback

from negotiator.config import load_config
from negotiator.errors import ConfigInvalid
from negotiator.plan_lines import LineFault, PlanLine, read_lines
from providers.anthropic import Anthropic
from providers.calls import SHAPES
from providers.dialect import Dialect
from providers.errors import ProviderError
from providers.gemini import Gemini
from providers.openai_compat import OpenAICompat
from providers.presets import preset
from providers.protocol import ExecuteRequest, QuoteAnswer, QuoteRequest, read_wire
from providers.sse import EventReader
from providers.terms import Delta, Usage

CASES = int(os.environ.get("NEGOTIATOR_FUZZ", "60"))
TRANSCRIPTS = Path(__file__).parent / "transcripts"
DIALECTS: dict[str, Dialect] = {
    "openai": OpenAICompat(preset("openai")),
    "anthropic": Anthropic(),
    "gemini": Gemini(),
}

JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["", "stop", "tool_calls", "error", "content", "0", -1, 1e308]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def recorded(dialect: str, part: str) -> list[Any]:
    """The ``reply`` or ``stream`` of every transcript of a dialect that has one."""
    folder = TRANSCRIPTS / ("openai_compat" if dialect == "openai" else dialect)
    cases = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    found = [case[part] for case in cases if part in case]
    assert found
    return found


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place inside a JSON value."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, below in inner:
        yield from places(below, (*path, name))


def bent(draw: st.DrawFn, value: Any) -> Any:
    """The value with up to three of its parts replaced by junk or dropped."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(0, 3))):
        path = draw(st.sampled_from(list(places(value))))
        if not path:
            return draw(JUNK)
        holder = value
        for step in path[:-1]:
            holder = holder[step]
        if isinstance(holder, dict) and draw(st.booleans()):
            del holder[path[-1]]
        else:
            holder[path[-1]] = draw(JUNK)
    return value


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


def flipped(draw: st.DrawFn, data: bytes) -> bytes:
    """The bytes with some of them changed, or cut off."""
    found = bytearray(data)
    for _ in range(draw(st.integers(0, 2))):
        if found:
            found[draw(st.integers(0, len(found) - 1))] = draw(st.integers(0, 255))
    return bytes(found[: draw(st.integers(0, len(found)))] if draw(st.integers(0, 4)) == 0 else found)


@st.composite
def answers(draw: st.DrawFn, dialect: str) -> bytes:
    reply = draw(st.sampled_from([one for one in recorded(dialect, "reply") if "json" in one]))
    return flipped(draw, encoded(bent(draw, reply["json"])))


@st.composite
def streams(draw: st.DrawFn, dialect: str) -> list[bytes]:
    """A recorded stream with events bent, dropped, doubled and exchanged, in chunks of any size."""
    events = list(draw(st.sampled_from(recorded(dialect, "stream"))))
    for _ in range(draw(st.integers(0, 2))):
        if events:
            one, other = (draw(st.integers(0, len(events) - 1)) for _ in range(2))
            change = draw(st.sampled_from(["drop", "double", "exchange"]))
            if change == "drop":
                del events[one]
            elif change == "double":
                events.insert(other, events[one])
            else:
                events[one], events[other] = events[other], events[one]
    text = b""
    for event in events:
        if isinstance(event, str):
            text += event.encode()
        elif isinstance(event, dict) and set(event) == {"event", "data"}:
            text += (
                f"event: {event['event']}\n".encode()
                + b"data: "
                + encoded(bent(draw, event["data"]))
                + b"\n\n"
            )
        else:
            text += b"data: " + encoded(bent(draw, event)) + b"\n\n"
    text = flipped(draw, text)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=6)))
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def sane(delta: Delta) -> None:
    """What an answer may say: counts that are counts, money that is owed."""
    assert isinstance(delta.delta, dict)
    assert delta.finish_reason is None or isinstance(delta.finish_reason, str)
    assert delta.billed_nusd is None or (isinstance(delta.billed_nusd, int) and delta.billed_nusd >= 0)
    usage = delta.usage
    if usage is not None:
        for name in Usage.__dataclass_fields__:
            count = getattr(usage, name)
            assert isinstance(count, bool) or (isinstance(count, int) and count >= 0), (name, count)


@pytest.mark.parametrize("name", sorted(DIALECTS))
@given(data=st.data())
@settings(max_examples=CASES)
def test_a_bent_answer_is_an_answer_or_a_vendors_failure(name: str, data: st.DataObject) -> None:
    """A buffered answer of each vendor."""
    with suppress(ProviderError, *SHAPES):
        sane(DIALECTS[name].answer(data.draw(answers(name))))


@pytest.mark.parametrize("name", sorted(DIALECTS))
@given(data=st.data())
@settings(max_examples=CASES)
def test_a_bent_stream_is_deltas_or_a_vendors_failure(name: str, data: st.DataObject) -> None:
    """A streamed answer of each vendor, in chunks of any size."""
    events, reader = EventReader(), DIALECTS[name].reader()
    with suppress(ProviderError, *SHAPES):
        for chunk in data.draw(streams(name)):
            for event in events.feed(chunk):
                sane(reader.event(event) or Delta())
        for event in events.close():
            sane(reader.event(event) or Delta())
        sane(reader.last())


@pytest.mark.parametrize("name", sorted(DIALECTS))
@given(
    status=st.integers(300, 599), body=st.binary(max_size=60) | JUNK.map(encoded), text=st.text(max_size=12)
)
@settings(max_examples=CASES)
def test_every_refusal_of_a_vendor_is_an_error_of_the_tree(
    name: str, status: int, body: bytes, text: str
) -> None:
    """Whatever status, body and headers a vendor refuses with."""
    headers = {"retry-after": text, "retry-after-ms": text, "x-ratelimit-remaining-requests": text}
    assert isinstance(DIALECTS[name].fault(status, headers, body), ProviderError)
    DIALECTS[name].windows(headers)


LINE = {
    "custom_id": "a",
    "method": "POST",
    "url": "/v1/chat/completions",
    "body": {
        "model": "auto",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        "max_tokens": 5,
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    },
    "terms": {"budget_usd": "0.01", "min_quality": 0.5, "deadline_ms": 1000, "tiers": ["standard"]},
}


@given(data=st.data())
@settings(max_examples=CASES)
def test_a_bent_batch_line_is_a_line_or_a_fault(data: st.DataObject) -> None:
    """A line of a batch file."""

    @st.composite
    def lines(draw: st.DrawFn) -> bytes:
        return flipped(draw, encoded(bent(draw, LINE)))

    for read in read_lines([data.draw(lines())]):
        assert isinstance(read, PlanLine | LineFault)


CONFIG = """
[server]
port = 8377
[store]
url = "embedded://"
[[providers]]
kind = "openai_compat"
name = "a"
base_url = "http://127.0.0.1:1/v1"
limits = { rpm = 5 }
models = [{ name = "m", input_usd_per_million = "1", output_usd_per_million = "2" }]
[profiles.x]
budget_usd = "0.1"
[[accounts]]
id = "b"
budget_usd = "5"
period = "day"
"""


@given(data=st.data())
@settings(max_examples=CASES)
def test_a_bent_configuration_loads_or_says_what_is_wrong(tmp_path_factory: Any, data: st.DataObject) -> None:
    """A configuration with bytes changed, lines dropped and values exchanged."""

    @st.composite
    def texts(draw: st.DrawFn) -> bytes:
        lines = CONFIG.splitlines()
        for _ in range(draw(st.integers(0, 3))):
            number = draw(st.integers(0, len(lines) - 1))
            name, mark, _ = lines[number].partition(" = ")
            junk = draw(
                st.sampled_from(['"x"', "-1", "1e400", "[]", "{}", "true", "9" * 30, '""', "nan", "[[]]"])
            )
            lines[number] = f"{name} = {junk}" if mark and draw(st.booleans()) else ""
        return flipped(draw, "\n".join(lines).encode())

    path = tmp_path_factory.getbasetemp() / "fuzzed.toml"
    path.write_bytes(data.draw(texts()))
    with suppress(ConfigInvalid):
        load_config(path, {})


MESSAGES: list[tuple[Any, dict[str, Any]]] = [
    (
        QuoteRequest,
        {"rfq_id": "r", "input_tokens": 5, "expected_output_tokens": 2, "capabilities": ["tools"]},
    ),
    (QuoteAnswer, {"quotes": [{"seller_quote_id": "q", "model": "m", "valid_for_ms": 5, "rates": {}}]}),
    (ExecuteRequest, {"seller_quote_id": "q", "body": {"messages": []}, "max_output_tokens": 5}),
]


@given(data=st.data())
@settings(max_examples=CASES)
def test_a_bent_message_of_the_quote_protocol_is_read_or_refused(data: st.DataObject) -> None:
    """Each message that crosses between a market and a remote seller."""
    shape, message = data.draw(st.sampled_from(MESSAGES))

    @st.composite
    def wire(draw: st.DrawFn) -> bytes:
        return flipped(draw, encoded(bent(draw, message)))

    with suppress(ValueError):
        read_wire(shape, data.draw(wire()))


@given(data=st.data())
@settings(max_examples=max(2, CASES // 30))
def test_no_bent_stream_is_a_bug_of_the_house(data: st.DataObject) -> None:
    """Through a real server: a bent answer is relayed, cut honestly or refused, never a 500; nothing stays held."""
    sent = [b"".join(data.draw(streams("openai"))) for _ in range(12)]
    asyncio.run(_buy(sent, [data.draw(st.booleans()) for _ in sent]))


async def _buy(sent: list[bytes], streamed: list[bool]) -> None:
    # Bytes that are no text are what a stream may hold and JSON text may not: both ends speak Latin-1 here.
    replies = [
        {"text": one.decode("latin-1"), "headers": {"content-type": "text/event-stream"}} for one in sent
    ]
    playback = Playback(replies)
    async with playback.at() as vendor:
        shops = [shop(vendor, name=f"shop{n}") for n in range(len(sent))]
        async with api_house(sellers=shops) as served:
            for n, stream in enumerate(streamed):
                body = {**CHAT, "model": f"shop{n}/m", "stream": stream}
                url = f"{served.url}/v1/chat/completions"
                async with served.session.post(url, json=body) as answer:
                    assert answer.status != 500, await answer.text()
                    with suppress(aiohttp.ClientPayloadError):  # cut, which is how a broken stream is said
                        await answer.read()
            await until(served.settled)
