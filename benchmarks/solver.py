"""How good, how fast, how large: the solver against cheapest-first on synthetic markets, and on classic instances.

Every row is one ``solve`` in a process of its own (peak memory), next to cheapest-first on the same instance in the
same process, and checked by ``verify``. ``served`` is reported with its proven bound and ``gap`` is the proven gap of
the cost of serving at least as much. Warm rows are given prices up to 3 % off. ``stall_ms`` is the longest that an
event loop of the same process was kept waiting while the solver ran in a thread. Writes JSON, Markdown and two plots
into ``--out``; with two seeds it takes about eighteen minutes.

    python -m benchmarks.solver --quick
    python -m benchmarks.solver --seeds 2 --data ../shared/data
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import multiprocessing
import os
import platform
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.instances import data_path, gap_instance, gap_names, greedy, market
from solver import Prices, solve, verify

__all__ = ["main"]

# requests, offers, load, gap asked for, time limit in seconds, warm: a row per target
CASES = [
    (100, 5, 0.9, 0.0, 2.0, False),
    (1_000, 20, 0.9, 3e-3, 2.0, False),
    (1_000, 20, 0.9, 5e-4, 5.0, False),
    (1_000, 50, 0.9, 3e-3, 5.0, False),
    (10_000, 20, 0.9, 2e-4, 4.0, False),
    (10_000, 20, 0.9, 5e-4, 4.0, True),
    (10_000, 50, 0.9, 1e-3, 6.0, False),
    (100_000, 20, 0.9, 3e-5, 10.0, False),
    (100_000, 20, 0.9, 3e-5, 10.0, True),
    (100_000, 50, 0.9, 1e-4, 25.0, False),
    (1_000_000, 20, 0.9, 5e-6, 45.0, False),
    (1_000_000, 50, 0.9, 3e-5, 80.0, False),
    (10_000, 20, 1.25, 1e-3, 4.0, False),
    (100_000, 20, 1.25, 1e-3, 8.0, False),
    (10_000, 20, 1.5, 3e-3, 6.0, False),
    (10_000, 20, 2.0, 3e-3, 6.0, False),
    (100_000, 20, 1.5, 5e-4, 30.0, False),
]
QUICK = [
    (100, 5, 0.9, 0.0, 1.0, False),
    (1_000, 20, 0.9, 3e-3, 2.0, False),
    (4_000, 20, 0.9, 5e-4, 2.0, True),
    (1_000, 20, 1.5, 3e-3, 2.0, False),
]
LOADS = [0.5, 0.75, 1.0, 1.25, 1.5, 2.0]
LIMITS_S = [0.25, 0.5, 1.0, 2.0, 4.0, 8.0]
KIBIBYTES = 1024
TICK_S = 0.001


class Ticker:
    """An event loop beside a solve in a thread, that asks to be woken every millisecond and notes how late it is."""

    def __init__(self) -> None:
        self.stall_s = 0.0

    async def beside(self, work: Callable[[], Any]) -> Any:
        """The result of work() in a thread; ``stall_s`` becomes the longest that the loop was kept waiting."""
        done = asyncio.get_running_loop().run_in_executor(None, work)
        while not done.done():
            before = time.perf_counter()
            await asyncio.sleep(TICK_S)
            self.stall_s = max(self.stall_s, time.perf_counter() - before - TICK_S)
        return await done


def market_row(
    n: int, m: int, load: float, gap: float, limit_s: float, warm: bool, seed: int
) -> dict[str, Any]:
    """One synthetic market: ours and cheapest-first in turn. OR-Tools and SciPy are loaded before the clock starts."""
    importlib.import_module("ortools.linear_solver.python.model_builder_helper")
    importlib.import_module("scipy.linalg")
    importlib.import_module("scipy.sparse")
    problem = market(n, m, load, seed)
    started = time.perf_counter()
    simple = greedy(problem)
    simple_s = time.perf_counter() - started
    took = np.flatnonzero(simple >= 0)
    simple_cost = float(problem.cost[took, simple[took]].sum()) / max(1, len(took))
    before = None
    if warm:
        before = solve(problem, gap=gap, time_limit_s=limit_s, seed=seed + 1).prices
        before = Prices(
            before.names, before.lam * np.random.default_rng(seed).uniform(0.97, 1.03, len(before.lam))
        )
    ticker = Ticker()
    cpu, started = time.process_time(), time.perf_counter()
    plan = asyncio.run(ticker.beside(lambda: solve(problem, gap=gap, time_limit_s=limit_s, warm=before)))
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    certificate = verify(problem, plan)
    return {
        "case": f"{n}x{m}",
        "load": load,
        "seed": seed,
        "warm": warm,
        "rows": problem.rows,
        "gap_asked": gap,
        "limit_s": limit_s,
        "seconds": round(seconds, 3),
        "cpu_seconds": round(cpu, 3),
        "served": plan.served,
        "served_bound": plan.served_bound,
        "gap": plan.gap,
        "reason": str(plan.termination.reason),
        "verified": certificate.ok,
        "greedy_served": len(took),
        "greedy_seconds": round(simple_s, 3),
        "cost_per_served_over_greedy": plan.cost / max(1.0, plan.served) / max(simple_cost, 1e-9),
        "stall_ms": round(1000 * ticker.stall_s, 1),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // KIBIBYTES,
        "stages": {name: round(value, 3) for name, value in plan.termination.seconds.items()},
    }


def gap_row(data: str, entry: dict[str, Any], limit_s: float) -> dict[str, Any]:
    """One generalised-assignment instance: every job must be served."""
    problem = gap_instance(Path(data), str(entry["name"]))
    started = time.perf_counter()
    plan = solve(problem, gap=0.0, time_limit_s=limit_s)
    best = float(entry["best_known_min"])
    return {
        "name": entry["name"],
        "size": f"{entry['m']}x{entry['n']}",
        "feasible": plan.served == problem.n and verify(problem, plan).ok,
        "cost": plan.cost,
        "best_known": best,
        "over_percent": 100.0 * (plan.cost - best) / best,
        "proven": str(plan.termination.reason) == "OPTIMAL",
        "seconds": round(time.perf_counter() - started, 2),
    }


def alone(work: Any, *arguments: Any) -> Any:
    """The result of work(*arguments) in a fresh process, so that peak memory is its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def table(rows: list[dict[str, Any]], columns: list[str]) -> str:
    """Rows as Markdown."""

    def shown(value: Any) -> str:
        return (
            f"{value:.3g}"
            if isinstance(value, float) and value != int(value)
            else str(value).removesuffix(".0")
        )

    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(shown(row[column]) for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def plots(out: Path, over_time: list[dict[str, Any]], over_load: list[dict[str, Any]]) -> None:
    """Gap against time, and cost per served request (over cheapest-first) against load."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    axes.loglog([r["seconds"] for r in over_time], [max(r["gap"], 1e-7) for r in over_time], "o-")
    axes.set(xlabel="seconds", ylabel="proven gap of the cost", title=f"{over_time[0]['case']}, load 0.9")
    figure.savefig(out / "solver_gap_time.png", dpi=120, bbox_inches="tight")
    figure, axes = plt.subplots(figsize=(6, 4))
    loads = [r["load"] for r in over_load]
    axes.plot(
        loads,
        [r["cost_per_served_over_greedy"] for r in over_load],
        "o-",
        label="cost per served / cheapest-first",
    )
    axes.plot(loads, [r["served"] / r["served_bound"] for r in over_load], "s--", label="served / bound")
    axes.plot(
        loads,
        [r["greedy_served"] / r["served_bound"] for r in over_load],
        "^:",
        label="cheapest-first served / bound",
    )
    axes.set(xlabel="load", title=f"{over_load[0]['case']}")
    axes.legend()
    figure.savefig(out / "solver_cost_load.png", dpi=120, bbox_inches="tight")


def main() -> None:
    """Run and write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="four small markets and gap1-1 only")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--largest", type=int, default=1_000_000, help="leave out larger batches")
    parser.add_argument("--data", default=None, help="folder with gap/; NEGOTIATOR_DATA otherwise")
    parser.add_argument("--gap-seconds", type=float, default=8.0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    cases = QUICK if given.quick else [case for case in CASES if case[0] <= given.largest]
    seeds = range(1, (1 if given.quick else given.seeds) + 1)
    rows = []
    for case in cases:
        for seed in seeds:
            rows.append(alone(market_row, *case, seed))
            print(json.dumps(rows[-1]), flush=True)
    size = (1_000, 20) if given.quick else (10_000, 20)
    over_time = [
        alone(market_row, *size, 0.9, 0.0, limit_s, False, 1)
        for limit_s in LIMITS_S[: 3 if given.quick else None]
    ]
    over_load = [
        alone(market_row, *size, load, 1e-4, 3.0, False, 1) for load in (LOADS[::2] if given.quick else LOADS)
    ]
    classic = []
    data = data_path(given.data)
    if data is not None and (data / "gap").is_dir():
        for entry in gap_names(data):
            if int(str(entry["m"])) <= 20 and (not given.quick or entry["name"] == "gap1-1"):
                classic.append(alone(gap_row, str(data), entry, given.gap_seconds))
                print(json.dumps(classic[-1]), flush=True)
    write(given.out, rows, over_time, over_load, classic)


def write(out: Path, rows: Any, over_time: Any, over_load: Any, classic: Any) -> None:
    """JSON, Markdown and plots; the load of the machine beside the figures."""
    machine = {"cores": os.cpu_count(), "load_average": os.getloadavg(), "python": platform.python_version()}
    name = "solver"
    result = {
        "machine": machine,
        "markets": rows,
        "over_time": over_time,
        "over_load": over_load,
        "classic": classic,
    }
    (out / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    columns = [
        "case",
        "load",
        "seed",
        "warm",
        "rows",
        "served",
        "served_bound",
        "gap",
        "gap_asked",
        "seconds",
    ]
    columns += ["cpu_seconds", "stall_ms", "peak_mib", "greedy_served", "cost_per_served_over_greedy"]
    columns += ["reason", "verified"]
    text = f"# Solver\n\nSynthetic markets; {machine['cores']} cores, load average {machine['load_average'][0]:.1f} at the end "
    text += (
        "(other processes shared the cores: compare CPU seconds and ratios).\n\n"
        + table(rows, columns)
        + "\n"
    )
    if classic:
        hard = [row for row in classic if not str(row["name"]).startswith("gap")]
        text += "\n## Generalised assignment\n\n"
        proven = sum(row["proven"] for row in classic)
        text += f"{proven} of {len(classic)} proven optimal; infeasible {sum(not row['feasible'] for row in classic)}"
        if hard:
            mean = float(np.mean([row["over_percent"] for row in hard]))
            text += f"; classes A-E, at most 20 agents: {mean:.3f} % over best known in the mean"
        text += (
            ".\n\n"
            + table(
                classic,
                ["name", "size", "feasible", "cost", "best_known", "over_percent", "proven", "seconds"],
            )
            + "\n"
        )
    (out / f"{name}.md").write_text(text, encoding="utf-8")
    plots(out, over_time, over_load)


if __name__ == "__main__":
    main()
