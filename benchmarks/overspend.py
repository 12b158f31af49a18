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
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.overspend_counter import MODEL
from benchmarks.overspend_report import page
from benchmarks.processes import audit, free_port, running, serving, shared_store
from negotiator.money import format_usd, parse_usd

__all__ = ["Size", "Tree", "measure"]

RESULTS = Path(__file__).parent / "results"
MAX_TOKENS = 100
CEILING_NUSD = 1_017_000
"""What one call may cost at most, as quoted."""

HOLD_MS = 2_000
IN_DOUBT_MS = 2_000
DEADLINE_MS = 6_000
PATIENCE_S = 30.0
AGAIN = 12
"""How often a buyer whose connection broke comes again."""

QUESTION = "Name the rivers of Europe."

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


@dataclass(frozen=True, slots=True)
class Size:
    """How many calls at once on a budget for how many. kill_at: whole answers after which a worker is killed."""

    calls: int = 1_000
    budget_for: int = 50
    kill_at: int = 10


@dataclass(frozen=True, slots=True)
class Tree:
    """An organisation with two teams of two runs: budgets for all, three fifths and two fifths of the calls."""

    size: Size

    def accounts(self) -> Iterator[tuple[str, str | None, int]]:
        """Account, its parent, its budget in nano-dollars; parents first."""
        calls = self.size.budget_for
        yield "org", None, calls * CEILING_NUSD
        for team in ("north", "south"):
            yield team, "org", calls * 3 // 5 * CEILING_NUSD
            for run in ("a", "b"):
                yield f"{team}-{run}", team, calls * 2 // 5 * CEILING_NUSD

    @property
    def runs(self) -> list[str]:
        """The leaves."""
        return [name for name, _, _ in self.accounts() if "-" in name]

    def lines(self) -> dict[str, Any]:
        """Every account with its ancestors and its budget."""
        parents = {name: parent for name, parent, _ in self.accounts()}
        found: dict[str, Any] = {}
        for name, parent, nusd in self.accounts():
            line, at = [name], parent
            while at is not None:
                line.append(at)
                at = parents[at]
            found[name] = {"line": line, "nusd": nusd}
        return found

    def toml(self) -> str:
        """The accounts as configuration."""
        parts = []
        for name, parent, nusd in self.accounts():
            above = f'parent = "{parent}"\n' if parent else ""
            parts.append(f'[[accounts]]\nid = "{name}"\n{above}budget_usd = "{format_usd(nusd)}"\n')
        return "\n".join(parts)


@dataclass(frozen=True, slots=True)
class Habit:
    """One buyer. hangs_up_s: after how long, None = it waits for its answer."""

    number: int
    account: str
    stream: bool
    hangs_up_s: float | None


def habits(tree: Tree, seed: int) -> list[Habit]:
    """All buyers: half of them streamed, a third hanging up at random moments."""
    draw = random.Random(seed)
    return [
        Habit(
            number,
            draw.choice(tree.runs),
            draw.random() < 0.5,
            draw.uniform(0, 3.0) if draw.random() < 1 / 3 else None,
        )
        for number in range(tree.size.calls)
    ]


@dataclass(frozen=True, slots=True)
class Gate:
    """A gateway under test. kill: ``kill -9`` one of its processes, and see to it that there is one again."""

    name: str
    store: str
    url: str
    kill: Callable[[], None]


@dataclass(slots=True)
class Seen:
    """What was seen. peak_over_nusd: the most by which an account's posted and pending exceeded its budget."""

    outcomes: Counter[str] = field(default_factory=Counter)
    peak_over_nusd: int = 0
    samples: int = 0


class Buyers:
    """All calls at one gateway."""

    def __init__(self, gate: Gate, vendor: str, tree: Tree, session: aiohttp.ClientSession) -> None:
        self._gate = gate
        self._vendor = vendor
        self._tree = tree
        self._session = session
        self.seen = Seen()

    async def rush(self, seed: int) -> None:
        """Everybody at once, and a worker killed when enough calls are in flight."""
        watch = asyncio.ensure_future(self._watch())
        kill = asyncio.ensure_future(self._kill())
        outcomes = await asyncio.gather(*(self._buyer(habit) for habit in habits(self._tree, seed)))
        await kill
        watch.cancel()
        self.seen.outcomes.update(outcomes)

    async def _buyer(self, habit: Habit) -> str:
        order_id = f"{self._gate.name}-{habit.number}"
        call = asyncio.ensure_future(self._persist(habit, order_id))
        done, _ = await asyncio.wait([call], timeout=habit.hangs_up_s)
        if not done:
            call.cancel()
            with suppress(asyncio.CancelledError):
                await call
            return "hung up"
        return call.result()

    async def _persist(self, habit: Habit, order_id: str) -> str:
        """A call that is lost with its process is made again, under the same order id."""
        outcome = await self.buy(habit.account, order_id, stream=habit.stream)
        for _ in range(AGAIN):
            if outcome != "lost":
                break
            await asyncio.sleep(1.0)
            outcome = await self.buy(habit.account, order_id, stream=habit.stream)
        return outcome

    async def buy(self, account: str, order_id: str, *, stream: bool = False) -> str:
        """One call: ``served``, ``cut``, ``lost`` with its process, or the name of its refusal."""
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": QUESTION}],
            "max_tokens": MAX_TOKENS,
            "stream": stream,
            "negotiator": {"account": account, "order_id": order_id, "deadline_ms": DEADLINE_MS},
        }
        try:
            async with self._session.post(f"{self._gate.url}/v1/chat/completions", json=body) as answer:
                data = await answer.read()
        except aiohttp.ClientError:
            return "lost"
        if answer.status != 200:
            kind = answer.headers.get("content-type", "")
            return str(json.loads(data)["error"]["code"]) if "json" in kind else f"status {answer.status}"
        return "served" if not stream or data.rstrip().endswith(b"[DONE]") else "cut"

    async def balances(self) -> dict[str, dict[str, int]]:
        """Where every account stands, nano-dollars; without those that nobody would tell."""
        found = {}
        for name, _, _ in self._tree.accounts():
            with suppress(aiohttp.ClientError):
                async with self._session.get(f"{self._gate.url}/v1/accounts/{name}") as answer:
                    if answer.status == 200:
                        told = await answer.json()
                        keys = ("posted", "pending", "available", "budget")
                        found[name] = {key: parse_usd(told[f"{key}_usd"]) for key in keys}
        return found

    async def bill(self) -> dict[str, int]:
        """The vendor's side."""
        async with self._session.get(f"{self._vendor}/bill") as answer:
            told: dict[str, int] = await answer.json()
            return told

    async def _watch(self) -> None:
        while True:
            for told in (await self.balances()).values():
                over_nusd = told["posted"] + told["pending"] - told["budget"]
                self.seen.peak_over_nusd = max(self.seen.peak_over_nusd, over_nusd)
                self.seen.samples += 1
            await asyncio.sleep(0.05)

    async def _kill(self) -> None:
        before = (await self.bill())["whole"]
        while True:
            told = await self.bill()
            if told["whole"] - before >= self._tree.size.kill_at and told["running"]:
                break
            await asyncio.sleep(0.01)
        await asyncio.to_thread(self._gate.kill)

    async def settled(self) -> int:
        """Wait until nothing is pending; what still is when all timeouts have passed, nano-dollars."""
        until_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < until_s:
            told, running = await self.balances(), (await self.bill())["running"]
            known = len(told) == len(self._tree.lines())
            if known and not running and not any(each["pending"] for each in told.values()):
                return 0
            await asyncio.sleep(0.2)
        return sum(told["pending"] for name, told in (await self.balances()).items() if "-" in name)

    async def use_up(self) -> tuple[int, int]:
        """Buy one by one on every run until it is refused; how many were served, and refused though they fitted."""
        served = refused_falsely = 0
        lines = self._tree.lines()
        for run in self._tree.runs:
            for number in range(self._tree.size.budget_for + 1):
                fits = await self._fits(lines[run]["line"])
                outcome = await self.buy(run, f"{self._gate.name}-{run}-after-{number}")
                served += outcome == "served"
                refused_falsely += fits and outcome != "served"
                if outcome != "served":
                    break
        return served, refused_falsely

    async def _fits(self, line: list[str]) -> bool:
        told = await self.balances()
        return all(told[name]["available"] >= CEILING_NUSD for name in line)


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
