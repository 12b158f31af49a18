"""The API against its own document: thousands of generated requests find no 500 and nothing undescribed."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from api_house import ANSWER, FINISH, PIECES, api_house
from hypothesis import given, settings
from hypothesis import strategies as st

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "text", "role", "content", "function", "x"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)
MESSAGES = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
BODIES: Any = {
    "/v1/chat/completions": {
        "messages": MESSAGES,
        "tools": [TOOL],
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}},
        "stop": ["x"],
        "stream": False,
        "negotiator": {"budget_usd": 1, "tiers": ["flex"]},
    },
    "/v1/quotes": {"messages": MESSAGES, "input_tokens": None, "terms": {"models": ["*"]}},
    "/v1/orders": {"messages": MESSAGES, "execute": False, "order_id": "a", "terms": {}},
    "/v1/embeddings": {"input": ["a"], "dimensions": 3},
    "/v1/responses": {
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}],
        "tools": [{"type": "function", "name": "f"}],
        "text": {"format": {"type": "json_schema", "schema": {}}},
        "tool_choice": {"type": "function", "name": "f"},
        "reasoning": {"effort": "low"},
    },
    "/v1/messages": {
        "model": "auto",
        "max_tokens": 5,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi", "cache_control": {}}]}],
        "system": [{"type": "text", "text": "x"}],
        "tools": [{"name": "f", "input_schema": {}}],
        "tool_choice": {"type": "auto"},
        "output_config": {"format": {"type": "json_schema", "schema": {}}},
        "metadata": {"user_id": "u"},
    },
    "/v1/plans": {"requests": [{"custom_id": "a", "body": {"messages": MESSAGES}}], "options": {"gap": 1}},
    "/v1/batches": {
        "input_file_id": "file-000000000000000000000000",
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        "metadata": {"negotiator": "{}"},
        "output_expires_after": {"anchor": "created_at", "seconds": 3600},
    },
}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, one in inner for place in places(one, (*path, key)))]


def put(value: Any, place: tuple[Any, ...], other: Any) -> Any:
    """The value with something else in one place."""
    if not place:
        return other
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[place[0]] = put(copy[place[0]], place[1:], other)
    return copy


@settings(max_examples=3)
@given(data=st.data())
def test_nothing_a_caller_sends_is_a_bug_here(data: st.DataObject) -> None:
    """Any JSON in any place of any body is an answer, a refusal or a seller's failure; never a 500."""
    sent = []
    for _ in range(60):
        path = data.draw(st.sampled_from(sorted(BODIES)))
        body = BODIES[path]
        for _ in range(data.draw(st.integers(1, 2))):
            body = put(body, data.draw(st.sampled_from(places(body))), data.draw(JSON))
        sent.append((path, body))
    asyncio.run(_send(sent))


async def _send(sent: list[tuple[str, Any]]) -> None:
    async with api_house() as served:
        for path, body in sent:
            status, answer, _ = await served.call("POST", path, body)
            assert status != 500, (path, body, answer)


async def test_what_the_fuzz_found_stays_mended() -> None:
    """An order's id that no header can hold, and a tier that nobody sells: the caller's faults, said as such."""
    chat = {"messages": [{"role": "user", "content": "hi"}]}
    async with api_house() as served:
        for path, more, status, says in (
            ("/v1/orders", {"order_id": "a\x1ab"}, 400, "order_id: "),
            ("/v1/orders", {"order_id": "a\x1ab", "execute": False}, 400, "order_id: "),
            ("/v1/orders", {"service_tier": "priority"}, 403, "tiers: "),
            ("/v1/chat/completions", {"service_tier": "priority"}, 403, "tiers: "),
        ):
            found, answer, _ = await served.call("POST", path, chat | more)
            assert (found, answer["error"]["message"][: len(says)]) == (status, says)


BUDGET_S = int(os.environ.get("NEGOTIATOR_FUZZ_SECONDS", "60"))
"""For which sequences of requests are made up: ``make fuzz-api`` takes 300."""

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,"
    "negative_data_rejection,unsupported_method"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("phases", "limits", "checks"),
    [
        ("coverage,fuzzing", ("--max-examples", "10"), CHECKS),
        (
            "stateful",
            ("--max-examples", "100", "--max-time", str(BUDGET_S)),
            f"{CHECKS},use_after_free,ensure_resource_availability",
        ),
    ],
)
async def test_the_document_and_the_server_agree(
    phases: str, limits: tuple[str, ...], checks: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Every route, asked with what its models allow and forbid, answers as the document says.

    So do sequences of requests in which one takes what another gave (orders, files, batches, accounts): some
    thousand calls a minute for as long as ``BUDGET_S``.
    """
    tool = shutil.which("st", path=str(Path(sys.executable).parent)) or shutil.which("st")
    if tool is None:
        pytest.skip("needs the extra `test-all`: pip install -e '.[test-all]'")
    async with api_house({"json": ANSWER, "events": [*PIECES, *FINISH]}) as served:
        run = await asyncio.create_subprocess_exec(
            *(
                tool,
                "run",
                f"{served.url}/openapi.json",
                "--url",
                served.url,
                *limits,
            ),
            *(
                "--checks",
                checks,
                "--phases",
                phases,
                "--exclude-path-regex",
                "market/stream|keys",
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=tmp_path,
        )
        said, _ = await asyncio.wait_for(run.communicate(), 240 + 2 * BUDGET_S)
    bugs = [record.getMessage() for record in caplog.records if record.name == "negotiator.api"]
    assert not bugs, "what nobody foresaw is logged"
    assert run.returncode == 0, said.decode()[-6_000:]
