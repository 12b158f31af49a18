"""Batches of responses and of embeddings by OpenAI's SDK: answered as alone, planned, refused by name, resumed."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import openai
import pytest
from api_house import ANSWER, shop
from batch_sdk import ended, half_way, lines_of, request, sdk, started
from openai.types import CreateEmbeddingResponse
from openai.types.responses import Response
from vendor_playback import Playback

from benchmarks.processes import audit, serving
from negotiator.batch_results import ResultFile
from negotiator.batches import BatchRun
from negotiator.config import Config
from negotiator.engine import Engine
from negotiator.money import parse_usd
from negotiator.plan_lines import RequestFile
from negotiator.planning import plan_requests
from negotiator.wire import PlanOptions

RESPONSES, EMBEDDINGS = "/v1/responses", "/v1/embeddings"
VECTOR = [0.5, -0.25]
VECTORS = {
    "object": "list",
    "model": "e",
    "data": [{"object": "embedding", "index": 0, "embedding": VECTOR}],
    "usage": {"prompt_tokens": 4, "total_tokens": 4},
}
ASKED: Any = {
    RESPONSES: {
        "model": "auto",
        "instructions": "Be short.",
        "input": "What is 2+2?",
        "max_output_tokens": 50,
    },
    EMBEDDINGS: {"model": "auto", "input": "What is 2+2?", "encoding_format": "float"},
}
ANSWERED: Any = {RESPONSES: ANSWER, EMBEDDINGS: VECTORS}
PARSED: Any = {RESPONSES: Response, EMBEDDINGS: CreateEmbeddingResponse}
TAGS: Any = {RESPONSES: frozenset(), EMBEDDINGS: frozenset({"embeddings"})}

both = pytest.mark.parametrize("url", [RESPONSES, EMBEDDINGS])


def line(url: str, custom_id: str, **more: Any) -> dict[str, Any]:
    """A line of a batch for an endpoint; ``more`` is of its body, but for ``terms``."""
    terms = {"terms": more.pop("terms")} if "terms" in more else {}
    body = {**ASKED[url], **more}
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body, **terms}


def varying(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer without what differs between two calls: ids, times, the order."""
    text = json.dumps({**answer, "created_at": 0, "negotiator": sorted(answer["negotiator"])})
    return dict(json.loads(text.replace(answer.get("id", "none"), "ID")))


@both
async def test_every_answer_is_what_the_endpoint_alone_gives(url: str) -> None:
    """The SDK's own types parse each body; but for ids and times it is the live answer; costs are the ledger's."""
    playback = Playback([{"json": ANSWERED[url]}])
    async with playback.at() as vendor, sdk(sellers=[shop(vendor, tags=TAGS[url])]) as (client, served):
        batch = await started(client, [line(url, "a"), line(url, "b")], endpoint=url)
        done = await ended(client, batch.id)
        results = await lines_of(client, done.output_file_id)
        spent = sum(parse_usd(result["cost_usd"]) for result in results)
        assert spent == await served.posted_nusd() > 0
        assert await served.settled()
        _, alone, _ = await served.call("POST", url, ASKED[url])
        _, report, _ = await served.call("GET", f"/v1/batches/{batch.id}/report")
    assert (done.status, done.endpoint, done.error_file_id) == ("completed", url, None)
    assert sorted(result["custom_id"] for result in results) == ["a", "b"]
    for result in results:
        assert (result["error"], result["response"]["status_code"]) == (None, 200)
        PARSED[url].model_validate(result["response"]["body"], strict=True)
        assert varying(result["response"]["body"]) == varying(alone)
    used = ANSWERED[url]["usage"]
    assert done.usage is not None
    assert done.usage.input_tokens == 2 * used["prompt_tokens"]
    assert done.usage.output_tokens == 2 * used.get("completion_tokens", 0)
    assert (report["served"], report["spent_usd"]) == (2, f"{spent / 1e9:.6f}")
    assert [one.path for one in playback.received[:2]] == [playback.received[-1].path] * 2


@both
async def test_terms_of_lines_and_of_the_batch_hold(url: str) -> None:
    """A budget too low is refused in the error file with counter-offers; a line's own terms come first."""
    terms = {"negotiator": '{"budget_usd": "0.000000001"}'}
    playback = Playback([{"json": ANSWERED[url]}])
    async with playback.at() as vendor, sdk(sellers=[shop(vendor, tags=TAGS[url])]) as (client, _):
        lines = [line(url, "poor"), line(url, "rich", terms={"budget_usd": "0.1"})]
        done = await ended(client, (await started(client, lines, endpoint=url, metadata=terms)).id)
        (good,) = await lines_of(client, done.output_file_id)
        (bad,) = await lines_of(client, done.error_file_id)
    assert (good["custom_id"], bad["custom_id"]) == ("rich", "poor")
    assert (bad["error"]["code"], bad["response"]["status_code"]) == ("BUDGET_TOO_LOW", 402)
    assert bad["response"]["body"]["error"]["reject"]["counter_offers"]


BROKEN: Any = [
    (RESPONSES, {"messages": []}, "messages: expected no such field"),
    (RESPONSES, {"input": 3}, "input"),
    (RESPONSES, {"input": [{"type": "computer_call"}]}, "input.0.type: expected message"),
    (RESPONSES, {"store": True}, "store: expected false"),
    (RESPONSES, {"stream": True}, "stream: expected none in a batch"),
    (RESPONSES, {"negotiator": {"budget_usd": "1"}}, "negotiator: expected a line's terms beside its body"),
    (EMBEDDINGS, {"input": []}, "input: expected a text or a list"),
    (EMBEDDINGS, {"encoding_format": "hex"}, "encoding_format"),
    (EMBEDDINGS, {"messages": [{"role": "user", "content": "x"}]}, "expected no messages"),
    (EMBEDDINGS, {"negotiator": {}}, "negotiator: expected a line's terms beside its body"),
]


@pytest.mark.parametrize(("url", "wrong", "said"), BROKEN, ids=lambda value: str(value)[:40])
async def test_a_body_its_endpoint_does_not_take_is_refused_alone(
    url: str, wrong: dict[str, Any], said: str
) -> None:
    """It is INVALID in the error file, names the field and what was expected, and costs nothing; the others go on."""
    playback = Playback([{"json": ANSWERED[url]}])
    async with playback.at() as vendor, sdk(sellers=[shop(vendor, tags=TAGS[url])]) as (client, _):
        lines = [line(url, "good"), line(url, "bad", **wrong)]
        done = await ended(client, (await started(client, lines, endpoint=url)).id)
        (good,) = await lines_of(client, done.output_file_id)
        (bad,) = await lines_of(client, done.error_file_id)
    assert (good["custom_id"], bad["custom_id"]) == ("good", "bad")
    assert (bad["error"]["code"], bad["response"]["status_code"], bad["cost_usd"]) == ("INVALID", 400, "0")
    assert said in bad["error"]["message"]


@pytest.mark.parametrize("url", [RESPONSES, EMBEDDINGS, "/v1/chat/completions"])
async def test_lines_for_another_endpoint_than_the_batchs_fail_it(url: str) -> None:
    """Also a line without a ``url``, unless the batch is of chats: ``url_mismatch`` says the line and both endpoints."""
    other = RESPONSES if url != RESPONSES else EMBEDDINGS
    async with sdk() as (client, _):
        plain = {name: value for name, value in request("plain").items() if name != "url"}
        lines = [line(other, "other"), plain]
        done = await ended(client, (await started(client, lines, endpoint=url)).id)
    assert done.status == "failed"
    assert done.errors is not None
    errors = done.errors.data or []
    assert {(error.code, error.param) for error in errors} == {("url_mismatch", "url")}
    assert [error.line for error in errors] == ([1, 2] if url != "/v1/chat/completions" else [1])
    assert errors[0].message == f"url: expected {url!r}, the batch's endpoint, found {other!r}"


@pytest.mark.parametrize("url", ["/v1/completions", "/v1/moderations", "v1/embeddings"])
async def test_any_other_endpoint_is_refused_with_those_there_are(url: str) -> None:
    """A 400 that names ``endpoint`` and lists the three."""
    async with sdk() as (client, _):
        with pytest.raises(openai.BadRequestError) as caught:
            await started(client, [request("a")], endpoint=url)
    assert caught.value.param == "endpoint"
    for known in (RESPONSES, EMBEDDINGS, "/v1/chat/completions"):
        assert known in str(caught.value)


async def test_a_service_tier_of_a_response_is_a_term() -> None:
    """``service_tier: flex`` asks for that tier, which nobody sells here; a line's own ``tiers`` come first."""
    lines = [
        line(RESPONSES, "flex", service_tier="flex"),
        line(RESPONSES, "said", service_tier="flex", terms={"tiers": ["standard"]}),
    ]
    async with sdk() as (_, served):
        _, planned, _ = await served.call("POST", "/v1/plans", {"requests": lines})
        status, alone, _ = await served.call("POST", RESPONSES, lines[0]["body"])
    rows = {row["custom_id"]: row for row in planned["lines"]}
    assert rows["flex"]["reject"]["name"] == alone["error"]["code"]
    assert (status, rows["said"]["tier"]) == (403, "standard")


async def test_embeddings_come_as_they_were_asked_for() -> None:
    """Base64 of a vendor that sends numbers; each line's input and dimensions reach the seller."""
    playback = Playback([{"json": VECTORS}])
    async with (
        playback.at() as vendor,
        sdk(sellers=[shop(vendor, tags=TAGS[EMBEDDINGS])]) as (client, _),
    ):
        asked = line(EMBEDDINGS, "a", input=["one", "two"], dimensions=2, encoding_format="base64", user="me")
        done = await ended(client, (await started(client, [asked], endpoint=EMBEDDINGS)).id)
        (good,) = await lines_of(client, done.output_file_id)
    sent = playback.received[0]
    assert (sent.path, sent.body["input"], sent.body["dimensions"]) == (EMBEDDINGS, ["one", "two"], 2)
    assert "negotiator" not in sent.body
    vector = good["response"]["body"]["data"][0]["embedding"]
    assert struct.unpack("<2f", base64.b64decode(vector)) == tuple(VECTOR)


async def test_chats_and_embeddings_go_to_those_who_sell_them() -> None:
    """The embeddings model is the cheapest by far and gets no chat; the chat model gets nothing to embed."""
    chats, vectors = Playback([{"json": ANSWER}]), Playback([{"json": VECTORS}])
    async with chats.at() as one, vectors.at() as two:
        sellers = [shop(one, "chat", dear=5), shop(two, "embed", ["e"], tags=TAGS[EMBEDDINGS])]
        async with sdk(sellers=sellers) as (client, served):
            mixed = [line(EMBEDDINGS, "e"), line(RESPONSES, "r"), request("c")]
            _, planned, _ = await served.call("POST", "/v1/plans", {"requests": mixed})
            plans = [
                await ended(client, (await started(client, [one], endpoint=one["url"])).id) for one in mixed
            ]
            results = [(await lines_of(client, done.output_file_id))[0] for done in plans]
    assert {row["custom_id"]: row["provider"] for row in planned["lines"]} == {
        "e": "embed",
        "r": "chat",
        "c": "chat",
    }
    assert [result["response"]["body"]["object"] for result in results] == [
        "list",
        "response",
        "chat.completion",
    ]
    assert [one.path for one in vectors.received] == [EMBEDDINGS]
    assert [one.path for one in chats.received] == ["/v1/chat/completions"] * 2


async def test_what_nobody_sells_is_refused() -> None:
    """Embeddings where only chats are sold: refused line by line, and the batch is completed."""
    async with sdk() as (client, served):
        done = await ended(client, (await started(client, [line(EMBEDDINGS, "a")], endpoint=EMBEDDINGS)).id)
        (bad,) = await lines_of(client, done.error_file_id)
        _, alone, _ = await served.call("POST", EMBEDDINGS, ASKED[EMBEDDINGS])
    assert done.status == "completed"
    assert bad["error"]["code"] == alone["error"]["code"]


async def test_a_file_may_mix_endpoints_in_plans_and_runs(tmp_path: Path) -> None:
    """From the shell: one file is planned and run as it lies, each line to who sells it, answered in its shape."""
    mixed = [request("c"), line(EMBEDDINGS, "e"), line(RESPONSES, "r"), line(EMBEDDINGS, "bad", input={})]
    path, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    path.write_text("\n".join(map(json.dumps, mixed)))
    chats, vectors = Playback([{"json": ANSWER}]), Playback([{"json": VECTORS}])
    async with chats.at() as one, vectors.at() as two:
        sellers = [shop(one, "chat"), shop(two, "embed", ["e"], tags=TAGS[EMBEDDINGS])]
        async with Engine(Config(), sellers=sellers) as engine:
            plan = await plan_requests(engine, RequestFile(path), PlanOptions(time_limit_s=2))
            with ResultFile(out) as results:
                report = await BatchRun(engine, "b", results, PlanOptions(time_limit_s=2)).run(
                    RequestFile(path)
                )
    assert [(row["custom_id"], row["provider"]) for row in plan.rows()] == [
        ("c", "chat"),
        ("e", "embed"),
        ("r", "chat"),
    ]
    assert [fault.number for fault in plan.batch.faults] == [4]
    assert (report.served, [fault.custom_id for fault in report.errors]) == (3, ["bad"])
    bodies = {
        row["custom_id"]: row["response"]["body"] for row in map(json.loads, out.read_text().splitlines())
    }
    assert {name: body["object"] for name, body in bodies.items()} == {
        "c": "chat.completion",
        "e": "list",
        "r": "response",
    }


async def test_what_embeds_takes_no_messages_alone_either() -> None:
    """At ``/v1/embeddings`` messages beside the input are a 400 that names what is wrong."""
    async with sdk() as (_, served):
        chat = [{"role": "user", "content": "x"}]
        status, answer, _ = await served.call("POST", EMBEDDINGS, {"input": "x", "messages": chat})
    assert (status, answer["error"]["code"]) == (400, "INVALID")
    assert "expected no messages" in answer["error"]["message"]


CONFIG = """
[market]
in_doubt_ms = 600000
[[providers]]
kind = "openai_compat"
name = "shop"
base_url = "{url}"
tags = {tags}
[[providers.models]]
name = "m"
input_usd_per_million = "1"
output_usd_per_million = "4"
context_tokens = 100000
quality_prior = 0.9
"""


@both
async def test_a_batch_goes_on_after_a_kill(url: str, tmp_path: Path) -> None:
    """kill -9 with calls out, start again: one result a line in the endpoint's shape, and the ledger agrees."""
    store, names = f"embedded://{tmp_path / 'ledger.db'}", [f"r{n}" for n in range(12)]
    good = {"json": ANSWERED[url]}
    playback = Playback([*[good] * 5, *[{"hang": True}] * 3, good])
    async with playback.at() as vendor:
        config = CONFIG.format(url=vendor, tags=json.dumps(sorted(TAGS[url])))
        with serving(tmp_path, config, store) as market:
            async with openai.AsyncOpenAI(base_url=f"{market.url}/v1", api_key="x") as client:
                batch = await started(client, [line(url, name) for name in names], endpoint=url)
                await half_way(client, batch.id, playback, 5, 8)
            os.kill(market.process.pid, signal.SIGKILL)
            await asyncio.to_thread(market.process.wait)
        with serving(tmp_path, config, store) as market:
            async with openai.AsyncOpenAI(base_url=f"{market.url}/v1", api_key="x") as client:
                done = await ended(client, batch.id)
                results = await lines_of(client, done.output_file_id)
                balance: Any = await client.get("/accounts/default", cast_to=object)
    assert Counter(result["custom_id"] for result in results) == Counter(names)
    for result in results:
        PARSED[url].model_validate(result["response"]["body"], strict=True)
    spent = sum(parse_usd(result["cost_usd"]) for result in results)
    in_doubt = sum(parse_usd(result.get("in_doubt_usd", "0")) for result in results)
    assert (parse_usd(balance["posted_usd"]), parse_usd(balance["pending_usd"])) == (spent, in_doubt)
    assert in_doubt > 0
    assert await asyncio.to_thread(audit, store) == ""
