"""A batch by OpenAI's SDK, its server killed twice on the way: does every line have one result, and does the money fit?

Run ``python -m benchmarks.batch_api`` (``--lines 600`` for a short one). A real ``negotiator serve`` with the simulated
sellers, in real time, on a ledger in a file; the workload is made by ``examples/make_workload.py``. At a third and at
two thirds of the lines the server gets ``kill -9`` and is started again; interactive calls go on beside the batch.
Writes ``results/batch_api.json`` and ``batch_api.md``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import openai

from benchmarks.processes import Market, audit, serving
from providers.simulated import SIMULATED
from providers.terms import RateKind

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results"
SEED = 7
CHAT_EVERY_S = 0.5
WINDOW: Any = "1h"
ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
_KEYS = {
    RateKind.REQUESTS: "rpm",
    RateKind.TOKENS: "tpm",
    RateKind.INPUT_TOKENS: "input_tpm",
    RateKind.UNCACHED_INPUT_TOKENS: "input_tpm",
    RateKind.OUTPUT_TOKENS: "output_tpm",
    RateKind.CONCURRENCY: "concurrency",
}


def configuration(limits_scale: int) -> str:
    """The simulated sellers with limits so many times the usual; calls a crash cut off stay in doubt for long."""
    text = ["[market]", "in_doubt_ms = 3600000", ""]
    for name, seller in SIMULATED.items():
        limits = {_KEYS[kind]: amount * limits_scale for kind, amount in seller.limits.items()}
        told = ", ".join(f"{key} = {amount}" for key, amount in limits.items())
        text += ["[[providers]]", 'kind = "simulated"', f'name = "{name}"', f"limits = {{ {told} }}", ""]
    return "\n".join(text)


def workload(path: Path, lines: int) -> None:
    """The lines, all for standard tiers: flex and batch take minutes to hours, also where they are simulated."""
    make = [sys.executable, str(ROOT / "examples" / "make_workload.py"), str(lines), "--seed", str(SEED)]
    made = subprocess.run(make, check=True, capture_output=True, text=True).stdout
    with path.open("w", encoding="utf-8") as file:
        for text in made.splitlines():
            line = json.loads(text)
            line["terms"].pop("tiers", None)
            file.write(json.dumps(line) + "\n")


@dataclass
class Story:
    """What was seen on the way."""

    kills: list[int] = field(default_factory=list)
    states: list[str] = field(default_factory=list)
    chat_s: list[float] = field(default_factory=list)
    chat_failed: Counter[str] = field(default_factory=Counter)
    chat_nusd: int = 0
    seconds: float = 0.0


@asynccontextmanager
async def _client(market: Market) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{market.url}/v1", api_key="unused", max_retries=2) as client:
        yield client


async def _chat(client: openai.AsyncOpenAI, story: Story) -> None:
    """Interactive calls, one after the other, until cancelled."""
    while True:
        began = time.monotonic()
        try:
            answer = await client.chat.completions.create(
                model="auto",
                messages=[{"role": "user", "content": "Name three rivers."}],
                max_tokens=40,
                extra_body={"negotiator": {"min_quality": 0.7}},
            )
        except openai.APIError as error:
            story.chat_failed[type(error).__name__] += 1
        else:
            story.chat_s.append(time.monotonic() - began)
            bill: Any = (answer.model_extra or {})["negotiator"]
            story.chat_nusd += _nusd(bill["cost_usd"])
        await asyncio.sleep(CHAT_EVERY_S)


async def _watched(client: openai.AsyncOpenAI, batch_id: str, until_lines: int, story: Story) -> Any:
    """The batch once so many lines have a result, or at its end."""
    while True:
        batch = await client.batches.retrieve(batch_id)
        if batch.status not in story.states[-1:]:
            story.states.append(batch.status)
        counts = batch.request_counts
        if batch.status in ENDED or (counts and counts.completed + counts.failed >= until_lines):
            return batch
        await asyncio.sleep(0.1)


async def _act(market: Market, batch_id: str | None, source: Path, until_lines: int, story: Story) -> Any:
    """One life of the server: begin or find the batch, watch it, with chat beside it."""
    async with _client(market) as client:
        if batch_id is None:
            file = await client.files.create(file=source, purpose="batch")
            made = await client.batches.create(
                input_file_id=file.id,
                endpoint="/v1/chat/completions",
                completion_window=WINDOW,
                metadata={"job": "benchmark"},
            )
            batch_id = made.id
        chat = asyncio.ensure_future(_chat(client, story))
        try:
            return await _watched(client, batch_id, until_lines, story)
        finally:
            chat.cancel()
            with suppress(asyncio.CancelledError):
                await chat


def play(lines: int, limits_scale: int, folder: Path) -> dict[str, Any]:
    """The whole story; gives its figures. Raises AssertionError when a line or a nano-dollar is missing."""
    source, store, story = folder / "lines.jsonl", f"embedded://{folder / 'ledger.db'}", Story()
    workload(source, lines)
    config, batch_id, began = configuration(limits_scale), None, time.monotonic()
    for part in (lines // 3, 2 * lines // 3):
        with serving(folder, config, store) as market:
            batch = asyncio.run(_act(market, batch_id, source, part, story))
            batch_id = batch.id
            assert batch.status not in ENDED, f"expected a batch that still runs, found {batch.status}"
            os.kill(market.process.pid, signal.SIGKILL)
            market.process.wait()
            story.kills.append(batch.request_counts.completed + batch.request_counts.failed)
    with serving(folder, config, store) as market:
        batch = asyncio.run(_act(market, batch_id, source, lines, story))
        batch = asyncio.run(_act(market, batch_id, source, lines + 1, story))
        story.seconds = time.monotonic() - began
        results, balance, report = asyncio.run(_fetched(market, batch))
    found = audit(store)
    assert not found, found
    return _checked(source, batch, results, balance, report, story)


async def _fetched(market: Market, batch: Any) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any]]:
    async with _client(market) as client:
        results: list[dict[str, Any]] = []
        for file_id in (batch.output_file_id, batch.error_file_id):
            if file_id is not None:
                text = (await client.files.content(file_id)).text
                results += [json.loads(line) for line in text.splitlines()]
        balance = await client.get("/accounts/default", cast_to=object)
        report = await client.get(f"/batches/{batch.id}/report", cast_to=object)
    return results, dict(balance), dict(report)  # type: ignore[call-overload]


def _checked(
    source: Path,
    batch: Any,
    results: Sequence[dict[str, Any]],
    balance: dict[str, Any],
    report: dict[str, Any],
    story: Story,
) -> dict[str, Any]:
    asked = [json.loads(line)["custom_id"] for line in source.read_text(encoding="utf-8").splitlines()]
    assert Counter(result["custom_id"] for result in results) == Counter(asked), (
        "a line has no result, or two"
    )
    spent = sum(_nusd(result["cost_usd"]) for result in results)
    in_doubt = sum(_nusd(result.get("in_doubt_usd", "0")) for result in results)
    posted, pending = _nusd(balance["posted_usd"]), _nusd(balance["pending_usd"])
    shown = batch.model_extra["negotiator"]
    assert _nusd(shown["spent_usd"]) == spent, "the batch does not say what its results sum to"
    cut = posted + pending - story.chat_nusd - spent - in_doubt  # interactive calls that a kill cut off
    return {
        "lines": len(asked),
        "completed": batch.request_counts.completed,
        "failed": batch.request_counts.failed,
        "status": batch.status,
        "states": story.states,
        "killed_at": story.kills,
        "restarts": shown["restarts"],
        "seconds": round(story.seconds, 1),
        "spent_nusd": spent,
        "in_doubt_nusd": in_doubt,
        "in_doubt_lines": sum("in_doubt_usd" in result for result in results),
        "interactive_nusd": story.chat_nusd,
        "posted_nusd": posted,
        "pending_nusd": pending,
        "unexplained_nusd": cut,
        "saved_usd": report["saved_usd"],
        "rejects": report["rejects"],
        "interactive": {
            "served": len(story.chat_s),
            "refused": dict(story.chat_failed),
            "median_s": round(statistics.median(story.chat_s), 2) if story.chat_s else None,
            "slowest_s": round(max(story.chat_s), 2) if story.chat_s else None,
        },
    }


def _nusd(usd: str) -> int:
    return int(Decimal(usd) * 10**9)


def markdown(run: dict[str, Any], machine: dict[str, Any]) -> str:
    """The figures for people."""
    usd = {name: f"${run[name] / 1e9:.6f}" for name in run if name.endswith("_nusd")}
    chat = run["interactive"]
    rows = [
        ("lines", f"{run['lines']:,}"),
        ("completed / failed", f"{run['completed']:,} / {run['failed']:,}"),
        ("results per line", "exactly one"),
        ("server killed at", " and ".join(f"{n:,} lines" for n in run["killed_at"])),
        ("states seen", " → ".join(run["states"])),
        ("seconds, restarts included", run["seconds"]),
        ("sum of results", usd["spent_nusd"]),
        ("held for calls the kills cut off", f"{usd['in_doubt_nusd']} ({run['in_doubt_lines']} lines)"),
        (
            "interactive calls beside it",
            f"{chat['served']}, median {chat['median_s']} s, slowest {chat['slowest_s']} s, {usd['interactive_nusd']}",
        ),
        ("posted + pending in the ledger", f"{usd['posted_nusd']} + {usd['pending_nusd']}"),
        ("not explained by the above", usd["unexplained_nusd"]),
        ("audit of the ledger", "fits"),
    ]
    text = [
        "# A batch by OpenAI's SDK, its server killed twice",
        "",
        f"{machine['cpus']} CPUs, {machine['system']}, Python {machine['python']}. Made by"
        " `python -m benchmarks.batch_api`: simulated sellers in real time, `kill -9` at a third and two thirds.",
        "",
        "| | |",
        "|---|---:|",
        *(f"| {name} | {value} |" for name, value in rows),
        "",
        "What is not explained are the holds of interactive calls that a kill cut off: the buyer never heard of them.",
        "",
    ]
    return "\n".join(text)


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lines", type=int, default=5_000)
    parser.add_argument("--limits-scale", type=int, default=8, help="sellers' limits, times the usual")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    machine = {"cpus": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}
    with tempfile.TemporaryDirectory() as folder:
        run = play(given.lines, given.limits_scale, Path(folder))
    given.out.mkdir(parents=True, exist_ok=True)
    whole = json.dumps({"machine": machine, "run": run}, indent=1)
    (given.out / "batch_api.json").write_text(whole + "\n", encoding="utf-8")
    (given.out / "batch_api.md").write_text(markdown(run, machine), encoding="utf-8")
    print(whole)


if __name__ == "__main__":
    main()
