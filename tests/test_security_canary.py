"""Secrets put in at one end are looked for at every other: logs, errors, metrics, histories, files, the order log."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web
from fault_house import listening

from benchmarks.processes import serving, shared_store

VENDOR_KEY = "sk-canary-vendor-7f3a91c2d4"
PROMPT = "canary-prompt-55d1 tell nobody"
ANSWER = "canary-answer-90aa"

CONFIG = """
[store]
order_log = "{log}"

[[providers]]
kind = "openai_compat"
name = "local"
base_url = "{url}/v1"
api_key_env = "CANARY_API_KEY"
limits = {{ rpm = 6000, tpm = 10000000 }}

[[providers.models]]
name = "m"
input_usd_per_million = "1"
output_usd_per_million = "2"
context_tokens = 100000
quality_prior = 0.9
"""


async def vendor(request: web.Request) -> web.StreamResponse:
    """Answers, and fails in ways that say back what it was sent: the key in a 401, the prompt in a 500."""
    body = orjson.loads(await request.read())
    assert request.headers["authorization"] == f"Bearer {VENDOR_KEY}"
    said = body["messages"][-1]["content"]
    if "refuse me" in said:
        error = {
            "error": {"message": f"Incorrect API key provided: {VENDOR_KEY}.", "code": "invalid_api_key"}
        }
        return web.json_response(error, status=401)
    if "break" in said:
        return web.json_response({"error": {"message": f"could not parse {said}"}}, status=500)
    usage = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}
    choice = {"index": 0, "message": {"role": "assistant", "content": ANSWER}, "finish_reason": "stop"}
    return web.json_response(
        {
            "id": "c",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [choice],
            "usage": usage,
        }
    )


def chat(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "auto", "messages": [{"role": "user", "content": text}], "max_tokens": 20, **more}


async def trade(url: str) -> list[tuple[str, str]]:
    """Good and bad calls, then every page a reader has; gives what each said, answers to the buyer apart."""
    seen: list[tuple[str, str]] = []
    async with aiohttp.ClientSession(
        headers={"authorization": "Bearer neg_canary_buyer_wrong_key"}
    ) as session:

        async def call(method: str, path: str, body: Any = None) -> Any:
            async with session.request(method, url + path, json=body) as answer:
                text = await answer.text()
                seen.append((f"{method} {path} {answer.status}", text))
                return orjson.loads(text) if text.startswith("{") else None

        served = await call("POST", "/v1/chat/completions", chat(PROMPT))
        assert served["choices"][0]["message"]["content"] == ANSWER
        seen.clear()  # the buyer may see its answer
        order_id = served["negotiator"]["order_id"]
        for text in (f"{PROMPT} and break", f"{PROMPT} and refuse me"):
            await call("POST", "/v1/chat/completions", chat(text))
        await call("POST", "/v1/quotes", chat(PROMPT, terms={"budget_usd": "0.00000001"}))
        await call("POST", "/v1/chat/completions", chat(PROMPT, nonsense_parameter=PROMPT))
        await call("POST", "/v1/chat/completions", {"model": "auto", "messages": PROMPT})
        await call("POST", "/v1/feedback", {"order_id": order_id, "score": 0.5, "source": "test"})
        for path in (
            "/metrics",
            "/v1/market",
            "/v1/report",
            "/v1/models",
            "/v1/accounts",
            "/v1/keys",
            "/v1/orders",
        ):
            await call("GET", path)
        await call("GET", f"/v1/orders/{order_id}")
        await asyncio.sleep(1.0)
    return seen


def written(folder: Path) -> dict[Path, bytes]:
    """Every file below, but the configuration."""
    found = [path for path in folder.rglob("*") if path.is_file() and path.name != "negotiator.toml"]
    return {path: path.read_bytes() for path in found}


@pytest.mark.parametrize("store", ["embedded", "redis"])
async def test_secrets_stay_where_they_belong(store: str, tmp_path: Path) -> None:
    """The vendor's key and the prompt appear in no page, log, file or shared store; an answer only where a retry needs it."""
    folder = tmp_path / "serve"
    folder.mkdir()
    async with listening(vendor) as url:
        config = CONFIG.format(url=url, log=tmp_path / "orders.jsonl")
        with shared_store(tmp_path) as shared:
            place = shared.url if store == "redis" else f"embedded://{tmp_path}/ledger.db"
            environment = {"CANARY_API_KEY": VENDOR_KEY}
            with serving(folder, config, place, environment=environment) as market:
                seen = await trade(market.url)
                log = market.said()
                with shared.client() as client:
                    kept = (
                        b"".join(client.dump(key) or b"" for key in client.keys("*"))
                        if store == "redis"
                        else b""
                    )
    for page, text in seen:
        for canary in (VENDOR_KEY, "canary_buyer"):
            assert canary not in text, page
        # The answer to whoever sent a prompt may say it back, as a vendor's complaint does; nothing else may.
        assert "canary-prompt" not in text or page.startswith("POST "), page
    files = written(tmp_path)
    assert any(path.name == "orders.jsonl" and data for path, data in files.items())
    for place, data in {**files, "the log": log.encode(), "the shared store": kept}.items():
        for canary in (VENDOR_KEY, "canary-prompt", "canary_buyer"):
            assert canary.encode() not in data, f"{canary} in {place}"
