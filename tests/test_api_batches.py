"""OpenAI's Batch API by its own SDK: every state, results and errors, terms, pages, progress, reports; whose is whose."""

from __future__ import annotations

import json
from typing import Any
from xml.etree import ElementTree

import openai
import pytest
from api_house import ANSWER, Served, shop, until
from batch_sdk import ended, lines_of, request, sdk, started, uploaded
from vendor_playback import Playback

from negotiator.api import schemas_batches as out
from negotiator.batch_records import BatchRecord
from negotiator.money import parse_usd
from negotiator.store import Account
from providers.terms import RateKind, RateLimit

SLOW = {"hang": True}


async def test_a_batch_from_file_to_results() -> None:
    """Uploaded, created, waited for, downloaded: the SDK parses every object, each line has its answer and its cost."""
    async with sdk() as (client, served):
        batch = await started(client, [request("a"), request("b")], metadata={"project": "x"})
        assert (batch.status, batch.metadata, batch.output_file_id) == ("validating", {"project": "x"}, None)
        done = await ended(client, batch.id)
        results = await lines_of(client, done.output_file_id)
        file = await client.files.retrieve(done.output_file_id or "")
        posted = await served.posted_nusd()
    assert (done.status, done.error_file_id, done.errors) == ("completed", None, None)
    assert done.request_counts is not None
    assert done.request_counts.model_dump() == {"total": 2, "completed": 2, "failed": 0}
    moments = [done.created_at, done.in_progress_at, done.finalizing_at, done.completed_at]
    assert moments == sorted(moment for moment in moments if moment is not None)
    assert done.expires_at == done.created_at + 86_400
    assert (done.usage.input_tokens, done.usage.output_tokens) == (24, 6) if done.usage else False
    assert sorted(line["custom_id"] for line in results) == ["a", "b"]
    for line in results:
        assert set(line) == {"id", "custom_id", "cost_usd", "response", "error"}
        assert (line["error"], line["response"]["status_code"]) == (None, 200)
        assert line["response"]["body"]["choices"][0]["message"]["content"] == "It is four."
        assert line["response"]["request_id"]
    assert sum(parse_usd(line["cost_usd"]) for line in results) == posted == 48_000
    assert (file.purpose, file.filename) == ("batch_output", f"{batch.id}_output.jsonl")


async def test_lines_that_no_offer_serves_are_in_the_error_file() -> None:
    """A budget too low and a body that is no chat: each is refused as it would have been alone, the others go on."""
    broken = {**request("broken"), "body": {"model": "auto", "messages": []}}
    async with sdk() as (client, served):
        lines = [request("good"), request("poor", terms={"budget_usd": "0.000000001"}), broken]
        done = await ended(client, (await started(client, lines)).id)
        good = await lines_of(client, done.output_file_id)
        bad = {line["custom_id"]: line for line in await lines_of(client, done.error_file_id)}
        assert await served.settled()
    assert done.request_counts is not None
    assert done.request_counts.model_dump() == {"total": 3, "completed": 1, "failed": 2}
    assert [line["custom_id"] for line in good] == ["good"]
    assert bad["poor"]["error"]["code"] == "BUDGET_TOO_LOW"
    assert bad["poor"]["response"]["status_code"] == 402
    assert bad["poor"]["response"]["body"]["error"]["reject"]["counter_offers"]
    assert (bad["broken"]["error"]["code"], bad["broken"]["response"]["status_code"]) == ("INVALID", 400)
    assert "messages: expected" in bad["broken"]["error"]["message"]


BAD_FILES: Any = [
    (["{"], 1, "invalid_json_line"),
    ([request("a"), request("a")], 2, "duplicate_custom_id"),
    ([{**request("a"), "url": "/v1/embeddings"}], 1, "url_mismatch"),
    ([{**request("a"), "url": "/v1/completions"}], 1, "invalid_request"),
    ([request("a", terms={"budget": 1})], 1, "invalid_request"),
    ([request("a", terms={"account": "other"})], 1, "invalid_request"),
    ([request("a", terms={"order_id": "mine"})], 1, "invalid_request"),
    ([], None, "empty_file"),
    ([request("a"), request("b"), request("c"), request("d")], None, "too_many_requests"),
]


@pytest.mark.parametrize(("lines", "number", "code"), BAD_FILES, ids=lambda value: str(value)[:30])
async def test_a_bad_file_fails_before_anything_is_bought(lines: Any, number: int | None, code: str) -> None:
    """The batch is ``failed``; its errors say line, code and what was expected; no order was made."""
    async with sdk(batch={"max_lines": 3}) as (client, served):
        done = await ended(client, (await started(client, lines)).id)
        assert not served.playback.received
    assert (done.status, done.output_file_id, done.error_file_id) == ("failed", None, None)
    assert done.failed_at is not None
    assert done.errors is not None
    assert done.errors.data is not None
    assert (done.errors.data[0].line, done.errors.data[0].code) == (number, code)
    assert "found" in (done.errors.data[0].message or "")


async def test_terms_of_the_batch_hold_where_a_line_says_nothing() -> None:
    """Metadata ``negotiator`` is the default of every line; a line's own terms come first; plan options go with it."""
    terms = {"budget_usd": "0.000000001", "options": {"gap": 0.01}}
    async with sdk() as (client, _):
        lines = [request("poor"), request("rich", terms={"budget_usd": "0.1"})]
        batch = await started(client, lines, metadata={"negotiator": json.dumps(terms)})
        done = await ended(client, batch.id)
        (good,) = await lines_of(client, done.output_file_id)
        (bad,) = await lines_of(client, done.error_file_id)
    assert (good["custom_id"], bad["custom_id"]) == ("rich", "poor")
    assert bad["error"]["code"] == "BUDGET_TOO_LOW"


REFUSED: Any = [
    ({"completion_window": "1d"}, "completion_window"),
    ({"completion_window": "200h"}, "completion_window"),
    ({"completion_window": "0h"}, "completion_window"),
    ({"endpoint": "/v1/completions"}, "endpoint"),
    ({"metadata": {"negotiator": "{"}}, "metadata.negotiator"),
    ({"metadata": {"negotiator": '{"budget": 1}'}}, "metadata.negotiator"),
    ({"metadata": {"negotiator": '{"account": "x"}'}}, "metadata.negotiator"),
    ({"metadata": {"negotiator": '{"profile": "x"}'}}, "profile"),
    ({"metadata": {"k": "v" * 513}}, None),
    ({"metadata": {f"k{n}": "v" for n in range(17)}}, "metadata"),
]


@pytest.mark.parametrize(("changed", "named"), REFUSED, ids=lambda value: str(value)[:40])
async def test_what_a_batch_cannot_be_is_named(changed: dict[str, Any], named: str | None) -> None:
    """A wrong window, endpoint or metadata is a 400 that names it, and makes no batch."""
    async with sdk() as (client, _):
        file_id = await uploaded(client, [request("a")])
        asked: Any = {"endpoint": "/v1/chat/completions", "completion_window": "24h", **changed}
        with pytest.raises(openai.BadRequestError) as caught:
            await client.batches.create(input_file_id=file_id, **asked)
        assert (await client.batches.list()).data == []
    assert caught.value.param == named or named is None


async def test_a_cancelled_batch_returns_its_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancelled while a call is out: ``cancelling``, then ``cancelled``; no line is lost and nothing stays held."""
    monkeypatch.setattr("negotiator.batch_conduct.CANCEL_GRACE_S", 0.5)
    async with sdk({"json": ANSWER}, SLOW) as (client, served):
        lines = [request(f"r{n}") for n in range(4)]
        batch = await started(client, lines)
        await until(lambda: len(served.playback.received) >= 2)
        asked = await client.batches.cancel(batch.id)
        assert asked.status == "cancelling"
        assert asked.cancelling_at is not None
        done = await ended(client, batch.id)
        results = [
            line
            for file_id in (done.output_file_id, done.error_file_id)
            if file_id
            for line in await lines_of(client, file_id)
        ]
        assert await served.settled()
        posted = await served.posted_nusd()
        with pytest.raises(openai.ConflictError):
            await client.batches.cancel(batch.id)
    assert done.status == "cancelled"
    assert done.cancelled_at is not None
    assert sorted(line["custom_id"] for line in results) == ["r0", "r1", "r2", "r3"]
    cut = [line for line in results if line["error"]]
    assert {line["error"]["code"] for line in cut} == {"batch_cancelled"}
    assert sum(parse_usd(line["cost_usd"]) for line in results) == posted


async def test_what_is_not_done_in_time_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    """The window ends while a call is out: it is cut off and what it cost is said; the rest is ``batch_expired``."""
    async with sdk({"json": ANSWER}, SLOW) as (client, served):
        batch = await started(client, [request(f"r{n}") for n in range(3)], "1h")
        await until(lambda: len(served.playback.received) == 3)
        now_ms = served.engine.rooms.clock.now_ms()
        monkeypatch.setattr(BatchRecord, "expires_ms", property(lambda record: now_ms))
        done = await ended(client, batch.id)
        (good,) = await lines_of(client, done.output_file_id)
        bad = await lines_of(client, done.error_file_id)
        assert await served.settled()
        assert sum(parse_usd(line["cost_usd"]) for line in [good, *bad]) == await served.posted_nusd()
        assert all(parse_usd(line["cost_usd"]) > 0 for line in bad), "a buyer who hangs up pays for the input"
    assert done.status == "expired"
    assert done.expired_at is not None
    assert done.request_counts is not None
    assert done.request_counts.model_dump() == {"total": 3, "completed": 1, "failed": 2}
    assert {line["error"]["code"] for line in bad} == {"batch_expired"}
    assert all(line["response"] is None for line in bad)


async def test_pages_of_batches() -> None:
    """The latest first; ``limit`` and ``after`` walk through all of them, as the SDK's own iteration does."""
    async with sdk() as (client, _):
        made = [(await started(client, [request("a")])).id for _ in range(5)]
        first = await client.batches.list(limit=2)
        assert ([batch.id for batch in first.data], first.has_more) == (made[:2:-1], True)
        rest = await client.batches.list(after=first.data[-1].id, limit=10)
        assert ([batch.id for batch in rest.data], rest.has_more) == (made[2::-1], False)
        assert [batch.id async for batch in client.batches.list(limit=2)] == made[::-1]
        for batch_id in made:
            await ended(client, batch_id)


async def test_progress_is_told_as_events_until_the_end() -> None:
    """A stream of ``batch`` events: counts, spent, saved, rate and time left; it closes with the batch."""
    async with sdk() as (client, served):
        batch = await started(client, [request(f"r{n}") for n in range(3)])
        async with served.session.get(f"{served.url}/v1/batches/{batch.id}/events") as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            text = (await answer.read()).decode()
    events = [json.loads(event.partition("data: ")[2]) for event in text.split("\n\n") if event]
    assert all(event.startswith("event: batch\n") for event in text.split("\n\n") if event)
    last = events[-1]
    assert (last["status"], last["request_counts"]["completed"]) == ("completed", 3)
    progress = last["negotiator"]
    assert parse_usd(progress["spent_usd"]) == 72_000
    assert {"saved_usd", "in_doubt_usd", "per_second", "eta_s"} <= set(progress)


async def test_the_report_of_a_batch() -> None:
    """JSON with what was spent and saved, the same as Markdown, and a picture with a bar per way of buying."""
    async with sdk() as (client, served):
        batch = await started(client, [request("a"), request("poor", terms={"budget_usd": "0.000000001"})])
        await ended(client, batch.id)
        path = f"/v1/batches/{batch.id}/report"
        status, report, _ = await served.call("GET", path)
        _, text, headers = await served.call("GET", f"{path}?format=markdown")
        _, picture, more = await served.call("GET", f"{path}?format=svg")
    out.BatchReportOut.model_validate(report)
    assert (status, report["served"], report["refused"], report["spent_usd"]) == (200, 1, 1, "0.000024")
    assert set(report["saved_usd"]) == {"cheapest_feasible", "always_best", "two_tier", "as_requested"}
    assert report["rejects"] == {"BUDGET_TOO_LOW": 1}
    assert headers["content-type"].startswith("text/markdown")
    assert text.decode().startswith("# Batch report")
    assert more["content-type"].startswith("image/svg+xml")
    assert "default-src 'none'" in more["content-security-policy"]
    bars = [part for part in ElementTree.fromstring(picture) if part.get("rx")]
    assert len(bars) == 1 + sum(usd is not None for usd in report["saved_usd"].values())


async def test_a_batch_that_failed_has_no_report() -> None:
    """Nothing was run, so there is nothing to report."""
    async with sdk() as (client, served):
        batch = await ended(client, (await started(client, ["{"])).id)
        status, body, _ = await served.call("GET", f"/v1/batches/{batch.id}/report")
    assert (status, body["error"]["code"]) == (404, "NO_REPORT")


async def test_the_same_key_again_is_the_same_batch() -> None:
    """A create that is sent again under its idempotency key makes no second batch; another key does."""
    async with sdk() as (client, _):
        file_id = await uploaded(client, [request("a")])
        asked: Any = {
            "input_file_id": file_id,
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        }
        made = [
            (await client.batches.create(**asked, extra_headers={"idempotency-key": key})).id
            for key in ("one", "one", "two")
        ]
        assert made[0] == made[1] != made[2]
        assert len((await client.batches.list()).data) == 2
        for batch_id in made:
            await ended(client, batch_id)


async def test_an_account_sees_and_runs_its_own_alone() -> None:
    """Another account's file and batch are not there; a batch of another's file cannot be made; who has it pays."""
    tenants = (Account(account_id="red", budget_nusd=10**9), Account(account_id="blue", budget_nusd=10**9))
    async with sdk(accounts=tenants) as (_, served):
        clients = {}
        for name in ("red", "blue"):
            await served.make_key(name, name, "use")
            clients[name] = openai.AsyncOpenAI(
                base_url=f"{served.url}/v1", api_key=served.keys[name], max_retries=0
            )
        red, blue = clients["red"], clients["blue"]
        batch = await started(blue, [request("a")])
        done = await ended(blue, batch.id)
        for call in (
            lambda: red.batches.retrieve(batch.id),
            lambda: red.batches.cancel(batch.id),
            lambda: red.files.retrieve(batch.input_file_id),
            lambda: red.files.content(done.output_file_id or ""),
            lambda: red.files.delete(batch.input_file_id),
            lambda: red.batches.create(
                input_file_id=batch.input_file_id, endpoint="/v1/chat/completions", completion_window="24h"
            ),
            lambda: red.batches.retrieve(batch.id, extra_query={"account": "blue"}),
        ):
            with pytest.raises(openai.NotFoundError):
                await call()
        assert (await red.batches.list()).data == []
        assert (await red.files.list()).data == []
        assert (await served.posted_nusd("red"), await served.posted_nusd("blue")) == (0, 24_000)
        for client in clients.values():
            await client.close()


async def test_batches_leave_room_for_interactive_calls() -> None:
    """A seller with 40 calls a minute and a batch of 60: an interactive call in the middle of it is served at once."""

    async def chat(served: Served) -> int:
        body = {"model": "auto", "messages": [{"role": "user", "content": "now?"}], "max_tokens": 20}
        return (await served.call("POST", "/v1/chat/completions", body))[0]

    playback, limits = Playback([{"json": ANSWER}]), (RateLimit(RateKind.REQUESTS, 40),)
    async with playback.at() as vendor, sdk(sellers=[shop(vendor, limits=limits)]) as (client, served):
        batch = await started(client, [request(f"r{n}") for n in range(60)])
        await until(lambda: len(playback.received) >= 38)
        assert len(playback.received) == 38
        assert await chat(served) == 200
        await client.batches.cancel(batch.id)
        done = await ended(client, batch.id)
    assert done.request_counts is not None
    assert done.request_counts.model_dump() == {"total": 60, "completed": 38, "failed": 22}
