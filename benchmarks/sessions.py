"""What keeping a conversation on one model costs: switches per session beside dollars per session.

Run ``python -m benchmarks.sessions``: interleaved conversations through the whole market in virtual time, at limits that
now and then push the cheapest seller out, once without ``session`` and then with rising ``session_premium``. Writes
``results/sessions.json`` and ``sessions.md``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from negotiator.config import Config
from negotiator.engine import Engine
from negotiator.errors import Rejected
from negotiator.wire import terms_from
from providers.clock import LoopClock, run_virtual
from providers.simulated import default_sellers

RESULTS = Path(__file__).parent / "results"
PREMIUMS: tuple[float | None, ...] = (None, 0.0, 0.05, 0.1, 0.2, 0.5, 2.0)
SYSTEM = "You help with the house's own tools; be short and exact. " * 60
TURNS = 8
PAUSE_S = 20.0
LIMITS_SCALE = 0.2
WHY = ("dear", "full", "failed")
"""Another was cheaper by more than the premium; the model was full or out of the market; its call failed."""


@dataclass
class Tally:
    """What the conversations of one market came to."""

    sessions: int = 0
    turns: int = 0
    refused: int = 0
    switches: int = 0
    cost_nusd: int = 0
    input_tokens: int = 0
    read_tokens: int = 0
    per_session: list[int] = field(default_factory=list)
    why: Counter[str] = field(default_factory=Counter)

    def out(self) -> dict[str, Any]:
        """Per session."""
        return {
            "switches": self.switches / self.sessions,
            "never_switched": self.per_session.count(0) / self.sessions,
            "cost_usd": self.cost_nusd / 1e9 / self.sessions,
            "read": self.read_tokens / self.input_tokens,
            "refused": self.refused,
            **{f"because_{why}": self.why[why] / self.sessions for why in WHY},
        }


async def reason(market: Engine, order_id: str) -> str:
    """Why an order did not stay with the model its session had."""
    history = await market.history(order_id) or {}
    if len(history["attempts"]) > 1:
        return "failed"
    offer = (history["session"] or {}).get("offer")
    return "dear" if offer in (None, "above", "new") else "full"


async def converse(
    market: Engine, number: int, premium: float | None, chance: random.Random, tally: Tally
) -> None:
    """One conversation: every turn brings all that was said."""
    await asyncio.sleep(chance.uniform(0, TURNS * PAUSE_S))
    messages: list[dict[str, str]] = [{"role": "system", "content": SYSTEM}]
    values: dict[str, Any] = {"budget_usd": "0.05", "min_quality": 0.85}
    if premium is not None:
        values |= {"session": f"talk-{number}", "session_premium": premium}
    model, switches = "", 0
    for turn in range(TURNS):
        messages = [
            *messages,
            {"role": "user", "content": f"Talk {number}, question {turn}: and then? " * 12},
        ]
        try:
            done = await market.complete(messages, terms=terms_from(values), max_tokens=120)
        except Rejected:
            tally.refused += 1
            continue
        key = f"{done.provider}/{done.model}"
        if model and key != model:
            switches += 1
            tally.why[await reason(market, done.order_id)] += 1
        model = key
        tally.turns += 1
        tally.cost_nusd += done.cost_nusd
        tally.input_tokens += done.usage.input_tokens
        tally.read_tokens += done.usage.cache_read_tokens
        messages = [*messages, {"role": "assistant", "content": str(done.message["content"])[:600]}]
        await asyncio.sleep(chance.uniform(0.5, 1.5) * PAUSE_S)
    tally.sessions += 1
    tally.switches += switches
    tally.per_session.append(switches)


async def played(premium: float | None, seed: int, sessions: int) -> dict[str, Any]:
    """All conversations at one premium; the same arrivals for every premium."""
    clock, tally = LoopClock(), Tally()
    sellers = default_sellers(clock, seed=seed, limits_scale=LIMITS_SCALE)
    async with Engine.open(Config(), clock=clock, sellers=sellers) as market:
        chances = [random.Random(f"{seed}/{number}") for number in range(sessions)]
        talks = [converse(market, number, premium, chances[number], tally) for number in range(sessions)]
        await asyncio.gather(*talks)
    return {"premium": premium, "seed": seed, **tally.out()}


def page(rows: list[dict[str, Any]], sessions: int, seeds: tuple[int, ...]) -> str:
    """The table as Markdown: medians over seeds."""
    text = [
        "# Sessions: consistency and cost",
        "",
        f"`python -m benchmarks.sessions`: {sessions} conversations of {TURNS} turns, seeds {list(seeds)}, medians. Quotes count a",
        "warm cache in every row, so an order without `session` stays where its prefix is warm unless another is cheaper.",
        "",
        "| `session_premium` | switches per session | sessions on one model | $ per session | against no session | input read from caches | turns refused | switched: another was cheaper | full or away | its call failed |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    base = statistics.median(row["cost_usd"] for row in rows if row["premium"] is None)
    for premium in PREMIUMS:
        here = [row for row in rows if row["premium"] == premium]
        middle = {
            name: statistics.median(row[name] for row in here)
            for name in here[0]
            if name not in ("premium", "seed")
        }
        text.append(
            f"| {'no session' if premium is None else f'{premium:g}'} | {middle['switches']:.2f} | {middle['never_switched']:.0%} "
            f"| {middle['cost_usd']:.6f} | {middle['cost_usd'] / base - 1:+.1%} | {middle['read']:.0%} | {middle['refused']:g} "
            f"| {middle['because_dear']:.2f} | {middle['because_full']:.2f} | {middle['because_failed']:.2f} |"
        )
    return "\n".join(text) + "\n"


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one seed, fewer conversations")
    given = parser.parse_args()
    seeds, sessions = ((1,), 40) if given.quick else ((1, 2, 3), 100)
    rows = [run_virtual(played(premium, seed, sessions)) for premium in PREMIUMS for seed in seeds]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "sessions.json").write_text(json.dumps(rows, indent=1) + "\n")
    (RESULTS / "sessions.md").write_text(page(rows, sessions, seeds))
    print(page(rows, sessions, seeds))


if __name__ == "__main__":
    main()
