"""The money test: 1,000 concurrent calls on a budget for 50, over HTTP, with real processes, one of them killed.

Run ``python -m benchmarks.overspend`` (``--quick`` for a small one). Accounts are a tree three levels deep: four runs under
two teams under one organisation, and each level binds. Half of the calls are streamed, a third hang up at random
moments, and while calls are in flight one worker is killed with ``kill -9``. With Valkey two workers share the ledger; the
embedded ledger is one process's, which is killed and started again. In the same run, on the same vendor, a gateway that
reads a counter before the call and adds to it afterwards gets the same calls.

Counted are: what the vendor bills against the budget; posted and pending of every account against its budget, sampled
while it happens; holds left when all timeouts have passed; and calls refused afterwards although they fitted. Writes
``results/overspend.json`` and ``overspend.md``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.overspend_buyers import Buyers, Gate, Size, Tree
from benchmarks.overspend_counter import MODEL
from benchmarks.overspend_report import page
from benchmarks.processes import audit, free_port, running, serving, shared_store

__all__ = ["measure"]

RESULTS = Path(__file__).parent / "results"
HOLD_MS = 2_000
IN_DOUBT_MS = 2_000

CONFIG = f"""
[market]
hold_ms = {HOLD_MS}
in_doubt_ms = {IN_DOUBT_MS}
[[providers]]
kind = "openai_compat"
name = "local"
base_url = "{{vendor}}/v1"
[[providers.models]]
name = "{MODEL}"
input_usd_per_million = "1"
output_usd_per_million = "10"
context_tokens = 100000
quality_prior = 0.8
"""


async def trial(gate: Gate, vendor: str, tree: Tree, seed: int) -> dict[str, Any]:
    """The rush, the settling, and what is left afterwards."""
    async with _session() as session:
        buyers = Buyers(gate, vendor, tree, session)
        before = await buyers.bill()
        await buyers.rush(seed)
        leaked_nusd = await buyers.settled()
        rush = await buyers.bill()
        told = await buyers.balances()
        served_after, refused_falsely = await buyers.use_up()
        after, end = await buyers.bill(), await buyers.balances()
    budget_nusd = told["org"]["budget"]
    rush_nusd, all_nusd = rush["nusd"] - before["nusd"], after["nusd"] - before["nusd"]
    return {
        "gateway": gate.name,
        "store": gate.store,
        "outcomes": dict(buyers.seen.outcomes),
        "vendor_calls": rush["calls"] - before["calls"],
        "vendor_whole": rush["whole"] - before["whole"],
        "budget_nusd": budget_nusd,
        "billed_nusd": rush_nusd,
        "booked_nusd": told["org"]["posted"],
        "overspent_nusd": max(0, all_nusd - budget_nusd),
        "peak_over_nusd": max(buyers.seen.peak_over_nusd, end["org"]["posted"] - budget_nusd),
        "samples": buyers.seen.samples,
        "leaked_nusd": leaked_nusd,
        "served_after": served_after,
        "refused_falsely": refused_falsely,
        "booked_at_end_nusd": end["org"]["posted"],
        "billed_at_end_nusd": all_nusd,
    }


@asynccontextmanager
async def _session() -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        yield session


@contextmanager
def ours(folder: Path, vendor: str, tree: Tree, store: str) -> Iterator[Gate]:
    """``negotiator serve``: two workers on Valkey, or one with the embedded store."""
    config, port = CONFIG.format(vendor=vendor) + tree.toml(), free_port()
    embedded = store.startswith("embedded")
    with ExitStack() as stack:
        market = stack.enter_context(serving(folder, config, store, workers=1 if embedded else 2, port=port))

        def kill() -> None:
            os.kill(market.workers()[-1], signal.SIGKILL)
            if embedded:
                market.process.wait()
                stack.enter_context(serving(folder, config, store, port=port))

        yield Gate("negotiator", "embedded" if embedded else "valkey", market.url, kill)


@contextmanager
def counter(folder: Path, vendor: str, tree: Tree, place: str) -> Iterator[Gate]:
    """The check-then-increment gateway: two processes on Valkey, or one with a file."""
    port, shared = free_port(), place.startswith("redis")
    words = ["-m", "benchmarks.overspend_counter", str(port), vendor, json.dumps(tree.lines()), place]
    with ExitStack() as stack:

        def start() -> tuple[str, int]:
            return stack.enter_context(running(words, folder / "counter.log"))

        url, pid = start()
        if shared:
            start()

        def kill() -> None:
            os.kill(pid, signal.SIGKILL)
            start()

        yield Gate("check, then increment", "valkey" if shared else "embedded", url, kill)


def measure(folder: Path, size: Size, seed: int) -> list[dict[str, Any]]:
    """Both gateways on both stores, one after the other, at one vendor."""
    tree, found = Tree(size), []
    with running(["-m", "benchmarks.vendor"], folder / "vendor.log") as (vendor, _):
        for name in ("valkey", "embedded"):
            (place := folder / name).mkdir()
            with ExitStack() as stack:
                if name == "valkey":
                    url = stack.enter_context(shared_store(place)).url
                    counters = url
                else:
                    url, counters = f"embedded://{place / 'ledger.db'}", str(place / "counters.db")
                with ours(place, vendor, tree, url) as gate:
                    run = asyncio.run(trial(gate, vendor, tree, seed))
                found.append({**run, "audit": audit(url)})
                with counter(place, vendor, tree, counters) as gate:
                    found.append(asyncio.run(trial(gate, vendor, tree, seed)))
    return found


def main() -> int:
    """Measure, write, print the page; 1 where the ledger did not hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="200 calls on a budget for 20, one seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    size = Size(200, 20, 4) if given.quick else Size()
    found: dict[str, Any] = {"calls": size.calls, "budget_for": size.budget_for, "runs": []}
    for seed in given.seeds[:1] if given.quick else given.seeds:
        with tempfile.TemporaryDirectory() as folder:
            for run in measure(Path(folder), size, seed):
                found["runs"].append({"seed": seed, **run})
                print(json.dumps(found["runs"][-1]), flush=True)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "overspend.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    text = page(found)
    (given.out / "overspend.md").write_text(text, encoding="utf-8")
    print(text)
    return int(any(broken(run) for run in found["runs"]))


def broken(run: dict[str, Any]) -> bool:
    """Whether our ledger failed what it promises."""
    promises = ("peak_over_nusd", "leaked_nusd", "refused_falsely", "audit")
    return run["gateway"] == "negotiator" and any(run.get(promise) for promise in promises)


if __name__ == "__main__":
    raise SystemExit(main())
