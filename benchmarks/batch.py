"""What a plan of a large batch takes: time, peak memory and proven gap, by the command a user would type.

Run ``python -m benchmarks.batch`` (``--quick`` for a short one). The workload is made by
``examples/make_workload.py``; the sellers are the simulated ones with real price cards, and their limits refill over a
day. Time is wall clock on this machine with whatever else it does; memory is the peak resident size of the command.
Writes ``results/batch.json`` and ``batch.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
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


def measure(lines: int, horizon_ms: int, time_limit_s: float, folder: Path) -> dict[str, Any]:
    """One plan of a workload of so many lines."""
    workload = folder / f"{lines}.jsonl"
    if not workload.exists():
        make = [sys.executable, str(ROOT / "examples" / "make_workload.py"), str(lines)]
        subprocess.run([*make, "--seed", str(SEED), "--out", str(workload)], check=True)
    command = [sys.executable, "-m", "negotiator.cli", "plan", str(workload), "--json"]
    options = ["--horizon-ms", str(horizon_ms), "--time-limit-s", str(time_limit_s)]
    out = folder / "plan.json"
    began = time.monotonic()
    with out.open("wb") as file:
        process = subprocess.Popen([*command, *options], stdout=file, cwd=ROOT)
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - began
    if status:
        raise SystemExit(f"plan of {lines} lines: expected status 0, found {status}")
    summary = json.loads(out.read_bytes())
    kept = ("requests", "served", "served_bound", "cost_usd", "cost_bound_usd", "gap", "termination")
    return {
        "lines": lines,
        "bytes": workload.stat().st_size,
        "horizon_ms": horizon_ms,
        "time_limit_s": time_limit_s,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_rss_mib": usage.ru_maxrss // 1024,
        **{name: summary[name] for name in kept},
        "baselines": summary["baselines"],
    }


def markdown(runs: list[dict[str, Any]], machine: dict[str, Any]) -> str:
    """The measurements for people."""
    text = [
        "# Plans of large batches",
        "",
        f"{machine['cpus']} CPUs, {machine['system']}, Python {machine['python']}; load average at the start "
        f"{machine['load']}. Made by `python -m benchmarks.batch`. Tokens are counted exactly, none is estimated.",
        "",
        "| lines | horizon | seconds | CPU seconds | peak MiB | served | bound | cost | gap | ended by |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    text += [
        f"| {run['lines']:,} | {run['horizon_ms'] // 60_000} min | {run['seconds']} | {run['cpu_seconds']} "
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
        "load": round(os.getloadavg()[0], 1),
    }
    with tempfile.TemporaryDirectory() as made:
        folder = given.folder or Path(made)
        runs = [
            measure(lines, horizon_ms, given.time_limit_s, folder)
            for lines in ([QUICK] if given.quick else given.lines)
            for horizon_ms in given.horizon_ms
        ]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "batch.json").write_text(json.dumps({"machine": machine, "runs": runs}, indent=2) + "\n")
    (RESULTS / "batch.md").write_text(markdown(runs, machine))
    print(markdown(runs, machine))


if __name__ == "__main__":
    main()
