"""Every transcript under ``tests/transcripts``: the call a vendor receives, and what the house makes of its reply.

A transcript is one JSON object: ``about`` (a sentence), ``kind`` (a preset or dialect), ``ticket`` (body, tier, ...),
``call`` (path, headers and body expected), ``reply`` (status, headers, json or text) or ``stream`` (events), and
``expect`` (message, finish_reason, usage, billed_nusd, or error). Where both replies are given they are the same
answer, and the same must come of it: buffered equals streamed. Where no usage came, input is ``quoted`` and output
``counted``.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from vendor_playback import RATES, Playback, collect, seller_at, ticket_for

from providers.errors import ProviderError
from providers.terms import price_nusd

TRANSCRIPTS = Path(__file__).parent / "transcripts"
CASES = [
    pytest.param(case, way, id=f"{path.parent.name}/{path.stem}-{way}")
    for path in sorted(TRANSCRIPTS.glob("*/*.json"))
    for case in (json.loads(path.read_text(encoding="utf-8")),)
    for way in ("reply", "stream")
    if way in case
]
USAGE_FIELDS = {
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "reasoning_tokens",
    "estimated",
}


@pytest.mark.parametrize(("case", "way"), CASES)
async def test_transcript(case: dict[str, Any], way: str) -> None:
    """The vendor receives the call expected, and its reply becomes the result expected."""
    assert set(case) <= {"about", "kind", "ticket", "call", "reply", "stream", "expect"}, (
        "an unknown key tests nothing"
    )
    playback = Playback([case[way] if way == "reply" else {"events": case["stream"]}])
    async with playback.at() as base_url:
        ticket = {"model": "m", "tier": "standard", "tags": [], "capabilities": []} | case["ticket"]
        seller = seller_at(
            base_url,
            case["kind"],
            model=ticket["model"],
            tiers=tuple(dict.fromkeys(("standard", ticket["tier"]))),
            tags=frozenset(ticket["tags"]),
        )
        try:
            await _play(seller, ticket, case, way, playback)
        finally:
            await seller.aclose()


async def _play(
    seller: Any, ticket: dict[str, Any], case: dict[str, Any], way: str, playback: Playback
) -> None:
    asked = ticket_for(
        seller,
        ticket["body"],
        stream=way == "stream",
        tier=ticket["tier"],
        max_output_tokens=ticket.get("max_output_tokens", 100),
        input_tokens=ticket.get("input_tokens", 10),
        capabilities=frozenset(ticket["capabilities"]),
    )
    expect = case["expect"]
    if "error" in expect:
        with pytest.raises(ProviderError) as caught:
            await collect(seller, asked)
        error = caught.value
        found = {
            "error": type(error).__name__,
            "retry_after_ms": error.retry_after_ms,
            "detail": error.detail,
        }
        assert {key: found[key] for key in expect} == expect
        assert "secret" not in str(error)
    else:
        message, last = await collect(seller, asked)
        assert message == expect["message"]
        assert last.finish_reason == expect["finish_reason"]
        assert last.usage is not None
        usage = dict.fromkeys(USAGE_FIELDS, 0) | {"estimated": False} | expect["usage"]
        if usage["input_tokens"] == "quoted":
            usage["input_tokens"] = sum(line.tokens for line in asked.quote.lines if line.kind == "input")
        if usage["output_tokens"] == "counted":
            usage["output_tokens"] = last.usage.output_tokens
            assert 3 <= last.usage.output_tokens <= 5
        assert asdict(last.usage) == usage
        assert last.billed_nusd == expect.get("billed_nusd")
        if "cost_nusd" in expect:
            assert price_nusd(RATES, last.usage) == expect["cost_nusd"]
    if "call" in case:
        _check_call(case["call"], way, playback)
    else:
        assert playback.received, "a reply was expected to be played"


def _check_call(call: dict[str, Any], way: str, playback: Playback) -> None:
    (received,) = playback.received
    assert received.path == call["stream_path" if way == "stream" and "stream_path" in call else "path"]
    body = dict(call["body"])
    if way == "stream":
        body |= call.get("stream_body", {})
    assert received.body == body
    for name, value in call.get("headers", {}).items():
        assert received.headers.get(name) == value
    assert received.headers["content-type"] == "application/json"
