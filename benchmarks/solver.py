"""How good, how fast, how large: the solver against cheapest-first on synthetic markets, and on classic instances.

Every row is one ``solve`` in a process of its own (peak memory), next to cheapest-first on the same instance in the
same process, and checked by ``verify``. ``served`` is reported with its proven bound and ``gap`` is the proven gap of
the cost of serving at least as much. Writes JSON, Markdown and two plots into ``--out``.

    python -m benchmarks.solver --quick
    python -m benchmarks.solver --seeds 2 --data ../shared/data
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.instances import data_path, gap_instance, gap_names, greedy, market
from solver import solve, verify

__all__ = ["main"]

# requests, offers, load, time limit in seconds; the limits are those of the targets
CASES = [
    (100, 5, 0.9, 2.0),
    (1_000, 20, 0.9, 5.0),
    (1_000, 50, 0.9, 5.0),
    (10_000, 20, 0.9, 4.0),
    (10_000, 50, 0.9, 6.0),
    (10_000, 20, 1.25, 6.0),
    (10_000, 20, 1.5, 8.0),
    (10_000, 20, 2.0, 8.0),
    (100_000, 20, 0.9, 10.0),
    (100_000, 50, 0.9, 15.0),
    (100_000, 20, 1.5, 20.0),
    (1_000_000, 20, 0.9, 30.0),
    (1_000_000, 50, 0.9, 45.0),
]
QUICK = [(100, 5, 0.9, 1.0), (1_000, 20, 0.9, 2.0), (1_000, 20, 1.5, 2.0)]
LOADS = [0.5, 0.75, 1.0, 1.25, 1.5, 2.0]
LIMITS_S = [0.25, 0.5, 1.0, 2.0, 4.0, 8.0]
KIBIBYTES = 1024


def market_row(n: int, m: int, load: float, limit_s: float, seed: int, warm: bool) -> dict[str, Any]:
    """One synthetic market: ours and cheapest-first in turn."""
    problem = market(n, m, load, seed)
    started = time.perf_counter()
    simple = greedy(problem)
    simple_s = time.perf_counter() - started
    took = np.flatnonzero(simple >= 0)
    simple_cost = float(problem.cost[took, simple[took]].sum()) / max(1, len(took))
    before = None
    if warm:
        before = solve(market(n, m, load, seed), gap=1e-3, time_limit_s=limit_s).prices
    cpu, started = time.process_time(), time.perf_counter()
    plan = solve(problem, gap=1e-6, time_limit_s=limit_s, warm=before)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    certificate = verify(problem, plan)
    return {
        "case": f"{n}x{m}",
        "load": load,
        "seed": seed,
        "warm": warm,
        "rows": problem.rows,
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
    parser.add_argument("--quick", action="store_true", help="three small markets and gap1-1 only")
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
    for n, m, load, limit_s in cases:
        for seed in seeds:
            for warm in (False, True) if 10_000 <= n <= 100_000 and load == 0.9 else (False,):
                rows.append(alone(market_row, n, m, load, limit_s, seed, warm))
                print(json.dumps(rows[-1]), flush=True)
    size = (1_000, 20) if given.quick else (10_000, 20)
    over_time = [
        alone(market_row, *size, 0.9, limit_s, 1, False) for limit_s in LIMITS_S[: 3 if given.quick else None]
    ]
    over_load = [
        alone(market_row, *size, load, 3.0, 1, False) for load in (LOADS[::2] if given.quick else LOADS)
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
    columns = ["case", "load", "seed", "warm", "rows", "served", "served_bound", "gap", "greedy_served"]
    columns += ["cost_per_served_over_greedy", "seconds", "cpu_seconds", "peak_mib", "reason", "verified"]
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
