"""What a plan of a large batch takes: time, peak memory and proven gap, by the command a user would type.

Each plan is made twice: with tokens estimated where that decides nothing, as by default, and with all of them counted.
Run ``python -m benchmarks.batch`` (``--quick`` for a short one). The workload is made by
``examples/make_workload.py``; the sellers are the simulated ones with real price cards, and their limits refill over a
day. Time is wall clock on this machine with whatever else it does; memory is the peak resident
size of the command and its processes together.
Writes ``results/batch.json`` and ``batch.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
DAY_MS = 86_400_000
SEED = 7
QUICK = 20_000


def measure(lines: int, horizon_ms: int, tokens: str, time_limit_s: float, folder: Path) -> dict[str, Any]:
    """One plan of a workload of so many lines."""
    workload = folder / f"{lines}.jsonl"
    if not workload.exists():
        make = [sys.executable, str(ROOT / "examples" / "make_workload.py"), str(lines)]
        subprocess.run([*make, "--seed", str(SEED), "--out", str(workload)], check=True)
    command = [sys.executable, "-m", "negotiator.cli", "plan", str(workload), "--json", "--tokens", tokens]
    options = ["--horizon-ms", str(horizon_ms), "--time-limit-s", str(time_limit_s)]
    out = folder / "plan.json"
    load, began, before = os.getloadavg()[0], time.monotonic(), _children_seconds()
    with out.open("wb") as file:
        process = subprocess.Popen([*command, *options], stdout=file, cwd=ROOT)
        peak_bytes = 0
        while process.poll() is None:
            peak_bytes = max(peak_bytes, resident_bytes(process.pid))
            time.sleep(0.1)
    seconds = time.monotonic() - began
    if process.returncode:
        raise SystemExit(f"plan of {lines} lines: expected status 0, found {process.returncode}")
    summary = json.loads(out.read_bytes())
    kept = (
        "requests",
        "served",
        "served_bound",
        "cost_usd",
        "cost_bound_usd",
        "gap",
        "termination",
        "tokens",
    )
    return {
        "lines": lines,
        "bytes": workload.stat().st_size,
        "horizon_ms": horizon_ms,
        "time_limit_s": time_limit_s,
        "load": round(load, 1),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(_children_seconds() - before, 1),
        "peak_rss_mib": peak_bytes // 2**20,
        **{name: summary[name] for name in kept},
        "baselines": summary["baselines"],
    }


def _children_seconds() -> float:
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def resident_bytes(pid: int) -> int:
    """Resident memory of a process and its children; 0 when it has gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") + sum(resident_bytes(int(child)) for child in children)


def markdown(runs: list[dict[str, Any]], machine: dict[str, Any]) -> str:
    """The measurements for people."""
    text = [
        "# Plans of large batches",
        "",
        f"{machine['cpus']} CPUs, {machine['system']}, Python {machine['python']}. Made by "
        "`python -m benchmarks.batch`. Load: the average just before, of what else the machine did. Peak: of all "
        "processes together.",
        "",
        "| lines | horizon | counted | load | seconds | CPU seconds | peak MiB | served | bound | cost | gap | ended by |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    text += [
        f"| {run['lines']:,} | {run['horizon_ms'] // 60_000} min | {run['tokens']['counted'] / run['requests']:.0%} "
        f"| {run['load']} | {run['seconds']} | {run['cpu_seconds']} "
        f"| {run['peak_rss_mib']:,} | {run['served']:,} | {run['served_bound']:,} | ${run['cost_usd']} "
        f"| {run['gap']:.2e} | {run['termination']} |"
        for run in runs
    ]
    text += [
        "",
        "What others would pay in the same horizon:",
        "",
        "| lines | horizon | way | served | cost |",
    ]
    text.append("|---:|---:|---|---:|---:|")
    for run in runs:
        if run["tokens"]["estimated"]:
            continue
        for name, baseline in run["baselines"].items():
            text.append(
                f"| {run['lines']:,} | {run['horizon_ms'] // 60_000} min | {name.replace('_', ' ')} "
                f"| {baseline['served']:,} | ${baseline['cost_usd']} |"
            )
    return "\n".join(text) + "\n"


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} lines instead")
    parser.add_argument("--horizon-ms", type=int, nargs="+", default=[DAY_MS])
    parser.add_argument("--time-limit-s", type=float, default=30.0)
    parser.add_argument("--folder", type=Path, help="keep the workloads here")
    given = parser.parse_args()
    machine = {
        "cpus": os.cpu_count(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
    }
    with tempfile.TemporaryDirectory() as made:
        folder = given.folder or Path(made)
        folder.mkdir(exist_ok=True)
        runs = [
            measure(lines, horizon_ms, tokens, given.time_limit_s, folder)
            for lines in ([QUICK] if given.quick else given.lines)
            for horizon_ms in given.horizon_ms
            for tokens in ("auto", "counted")
        ]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "batch.json").write_text(json.dumps({"machine": machine, "runs": runs}, indent=2) + "\n")
    (RESULTS / "batch.md").write_text(markdown(runs, machine))
    print(markdown(runs, machine))


if __name__ == "__main__":
    main()
