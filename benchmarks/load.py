"""What lasts: minutes at 70 % of capacity, a burst of ten times capacity, and days in virtual time.

Run ``python -m benchmarks.load`` (``--minutes 10`` for the long one, ``--quick`` for a short one). *Steady*: ``negotiator
serve`` on a ledger file, orders at fixed instants at 70 % of what it was measured to do; memory, the ledger's size, p99
and lost orders by segment. *Burst*: a seller with room for 50 calls a second gets 500; how soon the others are refused,
with what advice, and when everything is served again. *Days*: the same market in virtual time, on a file, for longer than
orders are kept: memory and file must stop growing. Writes ``results/load.json`` and ``load.md``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.gateway import CONFIG, Target
from benchmarks.gateway_load import Answers, bodies, closed, opened
from benchmarks.load_report import page
from benchmarks.processes import Market, audit, running, serving
from negotiator.config import Config
from negotiator.engine import Engine
from negotiator.errors import Rejected
from negotiator.money import parse_usd
from negotiator.wire import terms_from
from providers.clock import LoopClock, run_virtual

__all__ = ["burst", "days", "steady"]

RESULTS = Path(__file__).parent / "results"
SHARE = 0.7
SEGMENTS = 12
CAPACITY = 50
"""Calls a second that the seller of the burst has room for: five at once of a tenth of a second."""

BURST_S = 2.0
DAY_MS = 86_400_000

BURST_CONFIG = """
[[providers]]
kind = "openai_compat"
name = "small"
base_url = "{url}/v1"
limits = {{ concurrency = 5 }}
[[providers.models]]
name = "m-100"
input_usd_per_million = "1"
output_usd_per_million = "10"
context_tokens = 100000
quality_prior = 0.8
"""


def steady(folder: Path, minutes: float, share: float = SHARE) -> dict[str, Any]:
    """Orders at this share of what was served flat out just before, for so long."""
    store = f"embedded://{folder / 'ledger.db'}"
    with running(["-m", "benchmarks.gateway_peers", "upstream"], folder / "peer.log") as (upstream, _):
        with serving(folder, CONFIG.format(url=upstream), store) as market:
            target, work = Target("negotiator", market.url, market.process.pid), bodies()
            asyncio.run(closed(market.url, work, connections=64, seconds=2.0))
            before = asyncio.run(_orders(market))
            flat_out = asyncio.run(closed(market.url, work, connections=64, seconds=5.0))
            per_second = share * flat_out.good / flat_out.took_s
            segments, answers = [], []
            for _ in range(SEGMENTS):
                answers.append(
                    asyncio.run(
                        opened(market.url, work, per_second=per_second, seconds=60 * minutes / SEGMENTS)
                    )
                )
                segments.append(_segment(answers[-1], target, folder))
            after = asyncio.run(_orders(market))
            balance = asyncio.run(_balance(market))
        wrong = audit(store)
    good = flat_out.good + sum(answer.good for answer in answers)
    half = segments[SEGMENTS // 2 :]
    done = [sum(s["orders"] for s in segments[: k + 1]) for k in range(SEGMENTS // 2, SEGMENTS)]
    slope = statistics.linear_regression(done, [s["memory_mib"] for s in half]).slope
    return {
        "minutes": minutes,
        "share": share,
        "per_second": per_second,
        "orders": good,
        "refused": sum(answer.bad for answer in answers),
        "lost": good - (after - before),
        "memory_slope_mib_per_100k": slope * 100_000,
        "bytes_per_order": (segments[-1]["store_bytes"] - segments[0]["store_bytes"])
        / (sum(s["orders"] for s in segments[1:]) or 1),
        "pending_usd": balance["pending_usd"],
        "audit": wrong,
        "example": next((answer.example.decode() for answer in answers if answer.bad), ""),
        "segments": segments,
    }


def _segment(answers: Answers, target: Target, folder: Path) -> dict[str, Any]:
    times = sorted(answers.whole_s)
    return {
        "orders": answers.good,
        "p50_ms": 1000 * times[len(times) // 2],
        "p99_ms": 1000 * times[int(0.99 * len(times))],
        "memory_mib": target.memory_mib(),
        "store_bytes": _size(folder),
    }


def _size(folder: Path, name: str = "ledger.db*") -> int:
    return sum(path.stat().st_size for path in folder.rglob(name) if path.is_file())


async def _orders(market: Market) -> int:
    """Orders that settled, as the server counts them."""
    async with aiohttp.ClientSession() as session, session.get(f"{market.url}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    settled = [line for line in lines if line.startswith("negotiator_orders_total{") and '"SETTLED"' in line]
    return round(sum(float(line.rpartition(" ")[2]) for line in settled))


async def _balance(market: Market) -> dict[str, Any]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{market.url}/v1/accounts/default") as answer,
    ):
        told: dict[str, Any] = await answer.json()
        return told


def burst(folder: Path) -> dict[str, Any]:
    """Ten times capacity for two seconds between calm ones."""
    with (
        running(["-m", "benchmarks.vendor"], folder / "vendor.log") as (vendor, _),
        serving(folder, BURST_CONFIG.format(url=vendor), "embedded://") as market,
    ):
        return asyncio.run(_burst(market))


async def _burst(market: Market) -> dict[str, Any]:
    loop, seen = asyncio.get_running_loop(), []
    body = {
        "model": "auto",
        "messages": [{"role": "user", "content": "Name the rivers of Europe."}],
        "max_tokens": 20,
    }

    async def call(session: aiohttp.ClientSession, due_s: float) -> None:
        begun_s = loop.time()
        async with session.post(f"{market.url}/v1/chat/completions", json=body) as answer:
            await answer.read()
        retry = answer.headers.get("retry-after-ms")
        seen.append(
            {"due_s": due_s, "took_s": loop.time() - begun_s, "status": answer.status, "retry_ms": retry}
        )

    calm, rush = 0.4 * CAPACITY, 10.0 * CAPACITY
    plan = _instants([(2.0, calm), (BURST_S, rush), (4.0, calm)])
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as calls:
        began_s = loop.time()
        for due_s in plan:
            await asyncio.sleep(max(0.0, began_s + due_s - loop.time()))
            calls.create_task(call(session, due_s))
    refused = [each for each in seen if each["status"] == 429]
    end_s = 2.0 + BURST_S
    late = [each["due_s"] - end_s for each in seen if each["due_s"] >= end_s and each["status"] != 200]
    took = sorted(1000 * each["took_s"] for each in refused)
    return {
        "per_second": rush,
        "calls": len(seen),
        "statuses": {str(status): sum(each["status"] == status for each in seen) for status in (200, 429)},
        "others": sum(each["status"] not in (200, 429) for each in seen),
        "refused_p50_ms": took[len(took) // 2],
        "refused_p99_ms": took[int(0.99 * len(took))],
        "advised": sum(each["retry_ms"] is not None for each in refused) / len(refused),
        "recovered_s": max(late, default=0.0),
        "refused_before": sum(each["due_s"] < 2.0 for each in refused),
    }


def _instants(parts: Sequence[tuple[float, float]]) -> list[float]:
    """When calls are due: for so many seconds, so many a second."""
    found, at_s = [], 0.0
    for seconds, per_second in parts:
        found.append([at_s + k / per_second for k in range(int(seconds * per_second))])
        at_s += seconds
    return list(chain.from_iterable(found))


def days(folder: Path, count: int, orders_a_day: int) -> dict[str, Any]:
    """So many days in virtual time, busy by day and quiet by night."""
    began_s = time.process_time()
    quarters = run_virtual(_days(folder, count, orders_a_day))
    return {
        "days": count,
        "orders": sum(each["served"] + each["refused"] for each in quarters),
        "cpu_s": time.process_time() - began_s,
        "quarters": quarters,
    }


async def _days(folder: Path, count: int, orders_a_day: int) -> list[dict[str, Any]]:
    draw, quarters = random.Random(1), []
    clock = LoopClock(1_795_500_000_000)
    config = Config.model_validate(
        {"store": {"url": f"embedded://{folder / 'days.db'}"}, "market": {"reprice_ms": 60_000}}
    )
    async with Engine.open(config, clock=clock) as market:
        for _ in range(4 * count):
            seen = {"served": 0, "refused": 0, "cost_nusd": 0}
            end_ms = clock.now_ms() + DAY_MS // 4
            async with asyncio.TaskGroup() as buyers:
                while clock.now_ms() < end_ms:
                    busy = 1 + math.sin(2 * math.pi * clock.now_ms() / DAY_MS)
                    await asyncio.sleep(draw.expovariate(max(0.05, busy) * orders_a_day / 86_400))
                    buyers.create_task(_order(market, draw, seen))
            balance = (await market.rooms.store.balances("default", clock.now_ms()))[0]
            quarters.append(
                {
                    **seen,
                    "memory_mib": Target("", "", _own_pid()).memory_mib(),
                    "store_bytes": _size(folder, "days.db*"),
                    "pending_nusd": balance.pending_nusd,
                    "posted_nusd": balance.posted_nusd,
                }
            )
        assert not await market.rooms.store.audit()
    return quarters


def _own_pid() -> int:
    return int(Path("/proc/self").readlink().name)


async def _order(market: Engine, draw: random.Random, seen: dict[str, int]) -> None:
    terms = terms_from({"budget_usd": "0.01", "min_quality": draw.choice([0.5, 0.7, 0.85])})
    try:
        done = await market.complete(
            "Name three rivers.", terms=terms, max_tokens=draw.choice([50, 200, 500])
        )
    except Rejected:
        seen["refused"] += 1
    else:
        seen["served"] += 1
        seen["cost_nusd"] += done.cost_nusd


def main() -> int:
    """Measure, write, print the page; 1 where an order was lost or a hold leaked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=3.0, help="of steady load")
    parser.add_argument("--share", type=float, default=SHARE, help="of capacity, as measured just before")
    parser.add_argument("--days", type=int, default=2, help="in virtual time")
    parser.add_argument("--orders", type=int, default=20_000, help="a virtual day")
    parser.add_argument("--quick", action="store_true", help="half a minute and small days")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    minutes, orders = (0.5, 2_000) if given.quick else (given.minutes, given.orders)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found["burst"] = burst(folder)
        print(json.dumps(found["burst"]), flush=True)
        found["steady"] = steady(folder, minutes, given.share)
        print(json.dumps(found["steady"]), flush=True)
        found["days"] = days(folder, given.days, orders)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "load.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    text = page(found)
    (given.out / "load.md").write_text(text, encoding="utf-8")
    print(text)
    last = found["days"]["quarters"][-1]
    held_nusd = parse_usd(found["steady"]["pending_usd"]) + last["pending_nusd"]
    return int(found["steady"]["lost"] != 0 or held_nusd != 0 or bool(found["steady"]["audit"]))


if __name__ == "__main__":
    raise SystemExit(main())
