"""The gateway's figures as a page: ours beside the proxy of the same run, then peers' for orientation."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import aiohttp

__all__ = ["machine", "page"]

PEERS = """\
| peer | CPU per request, ms | throughput / aiohttp-1 | added p50 / p99, ms | SSE first byte p50 / p99, ms | memory, MiB | start, s |
|---|---|---|---|---|---|---|
| TensorZero | 0.12 | 0.9-1.1 | 0.33 / 0.4 | 0.66 / 0.84 | 70 | 0.2 |
| Portkey | 0.8-0.9 | 0.15 | 1.3 / 11 | - | 101-154 | - |
| LiteLLM | 9.2 | 0.016 | saturated | 22 / 82 | 365 | 5.4 |
"""

ROWS = (
    ("CPU per request, ms", "cpu_ms", 3, "0.25 / 0.10"),
    ("CPU per request / aiohttp-1", "cpu_of_proxy", 2, "2.1 / 0.8"),
    ("requests per second, 64 connections", "per_second", 0, "-"),
    ("throughput / aiohttp-1", "of_proxy", 2, "0.6 / 1.2"),
    ("added p50 at 100/s, ms", "whole_added_p50_ms", 2, "1.5 / 0.6"),
    ("added p99 at 100/s, ms", "whole_added_p99_ms", 2, "5 / 1.5"),
    ("SSE first byte, added p50, ms", "stream_added_p50_ms", 2, "1.5 / 0.8"),
    ("SSE first byte, added p99, ms", "stream_added_p99_ms", 2, "4 / 1.5"),
)


def machine() -> dict[str, Any]:
    """What it was measured on, and how busy that was."""
    model = platform.processor() or "unknown"
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "load_average": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "aiohttp": aiohttp.__version__,
    }


def page(found: dict[str, Any]) -> str:
    """The Markdown."""
    targets, at = found["targets"], found["machine"]
    names = [name for name in targets if name != "upstream"]
    lines = [
        "# What the gateway adds",
        "",
        f"{at['cpu']}, {at['cores']} cores, load average {at['load_average']}, Python {at['python']}, aiohttp {at['aiohttp']};"
        f" medians of {len(found['rounds'])} rounds{' (a quick run)' if found['quick'] else ''}.",
        "The load generator, the model server and the server under test share the cores, so requests per second say",
        "less than CPU per request. Added = quantile behind the server less the model server's own in the same round.",
        "",
        f"| measure | {' | '.join(names)} | must / extreme |",
        f"|---|{'---|' * len(names)}---|",
    ]
    for label, key, digits, aim in ROWS:
        lines.append(
            f"| {label} | {' | '.join(f'{targets[name][key]:.{digits}f}' for name in names)} | {aim} |"
        )
    for label, key, digits, aim in (
        ("memory before them, MiB", "idle_mib", 0, "-"),
        ("memory after the last requests, MiB", "after_mib", 0, "90 / 50"),
        ("growth over the second half, MiB per 100,000", "slope_mib_per_100k", 1, "0"),
    ):
        cells = [f"{one[key]:.{digits}f}" if (one := found["memory"].get(name)) else "-" for name in names]
        lines.append(f"| {label} | {' | '.join(cells)} | {aim} |")
    trips = found["redis"]
    if trips is not None:
        lines.append(
            "| with Valkey: round trips before the call / a stream's first byte / a whole answer | - "
            f"| {trips['before_call']:g} / {trips['before_first_byte']:g} / {trips['before_answer']:g}{' | -' * (len(names) - 2)} | 1 / 1 |"
        )
    done = max((one["requests"] for one in found["memory"].values()), default=0)
    lines += [
        f"| start to first good answer, s | - | {found['start_s']:.2f}{' | -' * (len(names) - 2)} | 1 / 0.4 |",
        "",
        f"Every request of the gateway's is an order with a budget and a quality floor over two offers, each with a prompt"
        f" of its own; {done:,} of them for the memory rows. aiohttp-1 is the proxy in `gateway_peers.py`.",
        "",
        "The aims are for a machine on which aiohttp-1 takes 0.12 ms; the ratio to aiohttp-1 carries over, the rest does not.",
        "Where every core is busy with other work, the added times and the throughput measure the wait for a core: read",
        "them beside the load average above. Memory grows until what is kept of the last orders and of sent prompts is full.",
        "Nobody knows the vocabulary of the model server's models, so tokens are estimated and none is loaded; each one that",
        "sellers of known vocabularies need takes 25 to 45 MiB more, and up to 0.3 s at start.",
        "",
        "Published figures of peers, from one run on another machine, for orientation (there aiohttp-1 took 0.12 ms):",
        "",
        PEERS,
    ]
    return "\n".join(lines)
