"""The server's own life: its document and page, health, metrics, addresses, draining, workers, the command."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from api_house import ANSWER, CHAT, PIECES, api_house, until
from click.testing import CliRunner
from openapi_pydantic import OpenAPI

from negotiator.api.app import ROUTES
from negotiator.api.openapi_document import openapi_bytes
from negotiator.cli import group
from negotiator.errors import StoreUnavailable

GOOD = {"json": ANSWER}
ROOT = Path(__file__).resolve().parents[1]


def test_the_document_is_valid_and_whole() -> None:
    """OpenAPI 3.1 of every route: each error status has a body, every reference leads somewhere."""
    raw = openapi_bytes(ROUTES)
    document = json.loads(raw)
    OpenAPI.model_validate(document)
    assert document["openapi"].startswith("3.1")
    described = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    assert described == {(route.method, route.path) for route in ROUTES}
    schemas = document["components"]["schemas"]
    for name in set(re.findall(r'"#/components/schemas/([^"]+)"', raw.decode())):
        assert name in schemas, name
    for item in document["paths"].values():
        for operation in item.values():
            assert operation["summary"]
            assert {"400", "500"} <= operation["responses"].keys()
            assert all(answer["content"] for answer in operation["responses"].values())


def test_the_document_has_the_models_limits() -> None:
    """What validation refuses the document forbids: bounds, formats, unknown fields."""
    schemas = json.loads(openapi_bytes(ROUTES))["components"]["schemas"]
    terms = schemas["Terms"]
    assert terms["additionalProperties"] is False
    quality = next(one for one in terms["properties"]["min_quality"]["anyOf"] if one["type"] == "number")
    assert (quality["minimum"], quality["maximum"]) == (0, 1)
    assert schemas["KeyRequest"]["required"] == ["account", "scopes"]


def test_the_page_needs_no_other_host() -> None:
    """The docs page loads nothing but the document."""
    page = (ROOT / "negotiator/api/static/docs.html").read_text()
    assert not re.findall(r"(?:https?:)?//\w+\.\w+", page)
    assert 'fetch("/openapi.json")' in page


async def test_health_and_readiness(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alive asks nobody; ready asks the store, and says so when it is away or the server drains."""
    async with api_house(GOOD) as served:
        assert (await served.call("GET", "/healthz"))[0] == 200
        assert (await served.call("GET", "/readyz"))[1]["status"] == "ready"

        async def away(*_: Any) -> None:
            raise StoreUnavailable("gone")

        with monkeypatch.context() as patch:
            patch.setattr(served.engine.rooms.store, "balances", away)
            status, body, _ = await served.call("GET", "/readyz")
            assert (status, body["error"]["code"]) == (503, "LEDGER_UNAVAILABLE")
            status, body, headers = await served.call("GET", "/v1/accounts/default")
            assert (status, body["error"]["code"]) == (503, "LEDGER_UNAVAILABLE")
            assert int(headers["retry-after-ms"]) > 0
        served.house.draining = True
        assert (await served.call("GET", "/readyz"))[0] == 503
        served.house.draining = False


async def test_metrics_count_orders_money_and_refusals() -> None:
    """What was bought, saved and refused is counted; nobody's account, id or words are a label."""
    async with api_house(GOOD) as served:
        await served.call("POST", "/v1/chat/completions", CHAT)
        await served.call("POST", "/v1/chat/completions", {**CHAT, "negotiator": {"budget_usd": 0}})
        _, data, headers = await served.call("GET", "/metrics")
    lines = dict(line.rsplit(" ", 1) for line in data.decode().splitlines() if not line.startswith("#"))
    assert headers["content-type"].startswith("text/plain; version=")
    assert lines['negotiator_orders_total{model="m",provider="shop",state="SETTLED"}'] == "1.0"
    assert lines['negotiator_rejects_total{reject="BUDGET_TOO_LOW"}'] == "1.0"
    assert float(lines["negotiator_spend_usd_total"]) == pytest.approx(0.000024)
    assert lines["negotiator_quote_seconds_count"] == "1.0"
    assert lines["negotiator_overspend_usd_total"] == "0.0"
    assert lines["negotiator_holds_pending"] == "0.0"
    for word in ("default", "ord_", "2+2"):
        assert word not in data.decode()


async def test_operations_may_have_an_address_of_their_own() -> None:
    """With ``ops_bind`` metrics are served there and no more beside the API."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with api_house(GOOD, server={"port": 0, "ops_bind": f"127.0.0.1:{port}"}) as served:
        assert (await served.call("GET", "/metrics"))[0] == 404
        async with served.session.get(f"http://127.0.0.1:{port}/metrics") as answer:
            assert answer.status == 200
        async with served.session.get(f"http://127.0.0.1:{port}/v1/models") as answer:
            assert answer.status == 404


async def test_draining_lets_running_requests_end() -> None:
    """Told to stop, the server ends what runs and only then goes: the stream is whole and settled."""
    ready = asyncio.Event()
    house = api_house({"events": [PIECES[0], "HANG"]})
    served = await house.__aenter__()
    try:
        asked = served.session.post(f"{served.url}/v1/chat/completions", json={**CHAT, "stream": True})
        async with asked as answer:
            await answer.content.readuntil(b"\n\n")
            served.house.draining = True
            served.house.leave(0)
            assert not served.house.idle.is_set(), "one request still runs"
            ready.set()
    finally:
        await house.__aexit__(None, None, None)
    assert served.house.idle.is_set()


async def test_what_outlasts_the_drain_is_cut_and_settled(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A request that does not end in time is cut; its hold is settled before the house closes."""
    monkeypatch.setattr("negotiator.api.server.DRAIN_S", 0.05)
    monkeypatch.setattr("negotiator.api.server.CUT_S", 0.05)
    async with aiohttp.ClientSession() as session:
        async with api_house({"events": [*PIECES, "HANG"]}) as served:
            rooms, before = served.engine.rooms, served.engine.rooms.ledger.unresolved
            answer = await session.post(f"{served.url}/v1/chat/completions", json={**CHAT, "stream": True})
            await answer.content.readuntil(b"\n\n")
            assert rooms.ledger.unresolved == before + 1
        assert rooms.ledger.unresolved == 0
        answer.close()
    assert "cut" in caplog.text


@asynccontextmanager
async def process(*options: str, **environment: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """``negotiator serve`` as a process: it, and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "negotiator.cli", "serve", "--port", str(port), *options),
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=os.environ | environment,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        async with aiohttp.ClientSession() as session:

            async def up() -> bool:
                try:
                    async with session.get(f"{url}/healthz") as answer:
                        return answer.status == 200
                except aiohttp.ClientError:
                    return started.returncode is not None

            await until(up)
        yield started, url
    finally:
        if started.returncode is None:
            started.terminate()
        await asyncio.wait_for(started.communicate(), 30)


async def test_the_command_serves_and_stops() -> None:
    """``negotiator serve`` answers over HTTP on simulated sellers, and SIGTERM ends it with exit code 0."""
    async with process("--store", "embedded://", "--quiet") as (running, url):
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{url}/v1/quotes", json=CHAT) as answer,
        ):
            assert answer.status == 200
            assert len((await answer.json())["quotes"]) > 10
        running.send_signal(signal.SIGTERM)
        _, said = await asyncio.wait_for(running.communicate(), 30)
    assert running.returncode == 0
    assert url.encode() in said


def test_several_workers_need_a_shared_store() -> None:
    """With the embedded store one worker is all; more are refused with what to do."""
    result = CliRunner().invoke(group, ["serve", "--workers", "2", "--store", "embedded://"])
    assert result.exit_code == 1
    assert "redis://" in str(result.exception)


def test_a_wrong_configuration_names_its_line(tmp_path: Path) -> None:
    """A wrong key stops the server at start with file, line, what was expected and what was found."""
    path = tmp_path / "negotiator.toml"
    path.write_text("[server]\nport = 8377\nwokers = 2\n")
    result = CliRunner().invoke(group, ["serve", "--config", str(path)])
    assert result.exit_code == 1
    assert f"{path}:3: server.wokers" in str(result.exception)


def test_a_taken_address_is_said(tmp_path: Path) -> None:
    """A port somebody else has is one sentence."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = CliRunner().invoke(group, ["serve", "--port", port, "--store", "embedded://"])
    assert result.exit_code == 1
    assert f"127.0.0.1:{port}" in str(result.exception)
    assert "--port takes another one" in str(result.exception)


def test_keys_on_the_command_line(tmp_path: Path) -> None:
    """A key is made at the store, printed once, listed without its secret, and removed."""
    store = f"embedded://{tmp_path / 'ledger.db'}"
    runner = CliRunner()

    def run(*words: str) -> Any:
        result = runner.invoke(group, ["keys", *words, "--store", store, "--json"])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    made = run("create", "--account", "default", "--scope", "use", "--rpm", "60", "--expires-in", "90d")
    assert made["key"].startswith(f"neg_{made['key_id']}_")
    admin = run("create", "--account", "default", "--scope", "admin")
    assert (made["reach"], admin["reach"]) == ("account", "house")
    listed = run("list")
    assert [key["key_id"] for key in listed] == [made["key_id"], admin["key_id"]]
    assert made["key"].split("_", 2)[2] not in json.dumps(listed)
    run("remove", made["key_id"])
    assert [key["key_id"] for key in run("list")] == [admin["key_id"]]
    unknown = ["keys", "create", "--account", "nobody", "--scope", "use", "--store", store]
    assert "accounts create" in str(runner.invoke(group, unknown).exception)
