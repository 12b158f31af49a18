"""Buyers of the money test: a tree of accounts, and calls on it of which half stream and a third hang up.

A tree is three levels deep and each level binds. Every buyer comes again, under the same order id, when its call was
lost with a process; what they saw is counted.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from benchmarks.overspend_counter import MODEL
from negotiator.money import format_usd, parse_usd

__all__ = ["Buyers", "Gate", "Size", "Tree"]

MAX_TOKENS = 100
CEILING_NUSD = 1_017_000
"""What one call may cost at most, as quoted."""

DEADLINE_MS = 6_000
PATIENCE_S = 30.0
AGAIN = 12
"""How often a buyer whose connection broke comes again."""

QUESTION = "Name the rivers of Europe."


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
