"""What is handed out: a wheel that runs in an empty environment, and an update under traffic that loses no order."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from benchmarks.processes import audit, serving, shared_store, wait_for
from negotiator import AsyncClient, Terms

ROOT = Path(__file__).parents[1]

SERVER = """
[[accounts]]
id = "default"
budget_usd = "1000"
"""


def run(words: list[str], cwd: Path) -> str:
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_runs_the_demo_in_an_empty_environment(tmp_path: Path) -> None:
    """Built from the source distribution, which is built from the tree; nothing of the tree is needed afterwards."""
    pip = [sys.executable, "-m", "pip", "-qq", "--disable-pip-version-check"]
    run([*pip, "install", "--target", str(tmp_path / "tools"), "build", "hatchling"], tmp_path)
    build = f"import sys; sys.path.insert(0, {str(tmp_path / 'tools')!r}); from hatchling import build as b; "
    run([sys.executable, "-c", build + f"print(b.build_sdist({str(tmp_path)!r}))"], ROOT)
    (sdist,) = tmp_path.glob("*.tar.gz")
    run([*pip, "wheel", "--no-deps", "--wheel-dir", str(tmp_path), str(sdist)], tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"negotiator", "providers", "solver"}

    venv.create(tmp_path / "empty", with_pip=True)
    python = str(tmp_path / "empty" / "bin" / "python")
    run([python, "-m", "pip", "install", "-qq", "--disable-pip-version-check", str(wheel)], tmp_path)
    story = json.loads(run([str(tmp_path / "empty" / "bin" / "negotiator"), "demo", "--json"], tmp_path))
    assert story["requests"] == 264
    assert story["served"] > 200


@pytest.mark.slow
async def test_a_rolling_update_loses_no_order(tmp_path: Path) -> None:
    """A new server takes the port before the old one is told to go; buyers only ever retry, each order is served
    once, and what the buyers paid is what the ledger says."""
    with shared_store(tmp_path) as shared:
        old_folder, new_folder = tmp_path / "old", tmp_path / "new"
        old_folder.mkdir()
        new_folder.mkdir()
        with serving(old_folder, SERVER, shared.url, workers=2) as old:
            port = int(old.url.rpartition(":")[2])
            stop = asyncio.Event()
            paid = asyncio.gather(*(buy(old.url, buyer, stop) for buyer in range(8)))
            await asyncio.sleep(2)
            with serving(new_folder, SERVER, shared.url, workers=2, port=port) as new:
                await asyncio.to_thread(
                    wait_for, lambda: new.listening() >= 4, "two new workers beside the old ones"
                )
                old.process.send_signal(signal.SIGTERM)
                await asyncio.to_thread(old.process.wait, 60)
                assert old.process.returncode == 0
                await asyncio.sleep(2)
                stop.set()
                bills = [bill for each in await paid for bill in each]
                async with AsyncClient(new.url) as market:
                    account = await market.account("default")
        assert len(bills) > 20
        assert account.pending_nusd == 0
        assert account.posted_nusd == sum(bills)
        assert audit(shared.url) == ""


async def buy(url: str, buyer: int, stop: asyncio.Event) -> list[int]:
    """Order after order until told; gives what each cost."""
    bills: list[int] = []
    async with AsyncClient(url) as market:
        while not stop.is_set():
            order_id = f"buyer-{buyer}-{len(bills)}"
            terms = Terms(order_id=order_id, budget_usd="0.01")
            answer = await market.complete([{"role": "user", "content": "Name a colour."}], terms=terms)
            bills.append(answer.cost_nusd)
    return bills
