"""What warm prompt caches were expected to save, and what they did save.

Run ``python -m benchmarks.cache``: multi-turn conversations over one long shared prefix through the whole market in
virtual time, seller by seller. Writes ``results/cache.json`` and ``cache.md``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

from negotiator.config import Config
from negotiator.engine import Engine
from negotiator.wire import terms_from
from providers.clock import LoopClock, run_virtual
from providers.simulated import default_sellers
from providers.terms import LineKind, price_lines

RESULTS = Path(__file__).parent / "results"
SELLERS = ("openai", "anthropic", "google", "deepseek", "x-ai", "mistral", "basement")
POLICY = "House rules apply to every answer, and every rule has its reason. " * 330


def talk(number: int, turns: int) -> list[list[dict[str, str]]]:
    """The prompts of one conversation, each with all that came before it."""
    messages, prompts = [{"role": "system", "content": POLICY}], []
    for turn in range(turns):
        messages = [*messages, {"role": "user", "content": f"Conversation {number}, question {turn}? " * 20}]
        prompts.append(messages)
        messages = [*messages, {"role": "assistant", "content": f"Answer {turn} of {number}. " * 30}]
    return prompts


def open_market(seed: int) -> Engine:
    """The simulated market with room for everybody."""
    clock = LoopClock()
    return Engine.open(Config(), clock=clock, sellers=default_sellers(clock, seed=seed, limits_scale=100))


async def discounts(seller: str, seed: int, conversations: int, turns: int) -> dict[str, Any]:
    """Expected against realised savings on input at one seller, nano-dollars and tokens read."""
    expected = saved = read = 0
    async with open_market(seed) as market:
        terms = terms_from({"budget_usd": "1", "models": [f"{seller}/*"]})
        for number in range(conversations):
            for prompt in talk(number, turns):
                best = (await market.quote(prompt, terms=terms, max_tokens=60)).best
                assert best is not None
                done = await market.complete(prompt, terms=terms, max_tokens=60, quote_id=best.quote.quote_id)
                rate = best.quote.rates.input_nusd_per_mtok
                lines = [line for line in best.quote.lines if line.kind is not LineKind.OUTPUT]
                expected += sum(line.tokens for line in lines) * rate // 1_000_000 - sum(
                    x.nusd for x in lines
                )
                bill = [x for x in price_lines(best.quote.rates, done.usage) if x.kind is not LineKind.OUTPUT]
                saved += done.usage.input_tokens * rate // 1_000_000 - sum(line.nusd for line in bill)
                read += done.usage.cache_read_tokens
                await asyncio.sleep(5)
    error = (expected - saved) / saved if saved else 0.0
    return {
        "seller": seller,
        "seed": seed,
        "expected_nusd": expected,
        "saved_nusd": saved,
        "error": error,
        "read": read,
    }


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one seed, fewer conversations")
    given = parser.parse_args()
    seeds, conversations = ((1,), 15) if given.quick else ((1, 2, 3), 40)
    rows = [run_virtual(discounts(name, seed, conversations, 5)) for name in SELLERS for seed in seeds]
    text = [
        "# Warm caches: expected and realised",
        "",
        f"{conversations} conversations of 5 turns, seeds {list(seeds)}.",
        "",
    ]
    text += [
        "| seller | seed | expected saving, $ | realised, $ | error | tokens read |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        text.append(
            f"| {row['seller']} | {row['seed']} | {row['expected_nusd'] / 1e9:.6f} | {row['saved_nusd'] / 1e9:.6f} "
            f"| {row['error']:+.1%} | {row['read']:,} |"
        )
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "cache.md").write_text("\n".join(text) + "\n")
    (RESULTS / "cache.json").write_text(json.dumps(rows, indent=1) + "\n")
    print("\n".join(text))


if __name__ == "__main__":
    main()
