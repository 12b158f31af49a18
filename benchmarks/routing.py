"""Does routing by estimated quality pay on recorded outcomes, and against what?

Run ``python -m benchmarks.routing --data DIR`` (or ``NEGOTIATOR_DATA``); DIR or its ``router_outcomes`` holds Parquet
files in the columns of ``negotiator train``. Without data a small synthetic set is made and the report says so.
Writes ``results/routing.json``, ``routing.md`` and a plot per file: figures only, no prompt.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy: one thread decides, one thread is measured

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import routing_measures as measures
from benchmarks.routing_budget import protocol
from benchmarks.routing_data import find_files, load, synthetic
from benchmarks.routing_predictors import HeldOut, Router, held_out
from benchmarks.routing_report import page, plots
from negotiator.quality import load_model
from negotiator.quality.evaluate import brier, frontier, singles
from negotiator.quality.fit import fit_model
from negotiator.quality.outcomes import Outcomes
from negotiator.quality.training import USD_PER_THOUSAND, cross_validate, expected_cost

RESULTS = Path(__file__).parent / "results"
SMALL_FILE = 4_000
SIZES = (100, 300, 1_000, 3_000)


def examine(outcomes: Outcomes, seeds: int, *, curve: bool = True) -> dict[str, Any]:
    """All tables of one file."""
    assert outcomes.cost_nusd is not None
    quality, cost = outcomes.quality, outcomes.cost_nusd * USD_PER_THOUSAND
    found = held_out(outcomes, say=_say)
    alone = singles(quality, cost)
    names = outcomes.models
    ours, others = found.routers["negotiator"], found.routers
    lines = {name: frontier(router.mean, router.cost, quality, cost) for name, router in others.items()}
    lines |= {
        f"{name}*" if name in ("oracle", "cascade, perfect check") else name: line
        for name, line in measures.baselines(quality, cost, outcomes.input_tokens, 0).items()
    }
    routers: dict[str, dict[str, Any]] = {
        n: dict(measures.scores(line, quality, cost)) for n, line in lines.items()
    }
    for name, router in others.items():
        routers[name]["calibration"] = measures.calibration(router.mean, quality)
    gap = {name: measures.gaps(router, quality, cost) for name, router in others.items()}
    for seed in range(1, seeds):
        _say(f"{outcomes.name}: split {seed + 1} of {seeds}")
        _again(outcomes, seed, routers["negotiator"], gap["negotiator"])
    _medians(routers["negotiator"], gap["negotiator"])
    tables: dict[str, Any] = {
        "prompts": len(outcomes),
        "models": len(names),
        "best": _single(names, alone.best, quality, cost),
        "cheapest": _single(names, alone.cheapest, quality, cost),
        "random": {"quality": float(quality.mean()), "cost": float(cost.mean())},
        "routers": routers,
        "gaps": gap,
        "spread": measures.spread(ours, others["TF-IDF logistic"], quality, cost),
        "floors": measures.floors(ours, quality, cost),
        "budget": protocol(ours, others["5 neighbours"], quality, cost),
        "curve": learning_curve(outcomes, found) if curve else [],
        "lines": {
            name: [[float(x), float(y)] for x, y in zip(line.cost, line.quality, strict=True)]
            for name, line in lines.items()
        },
        "single_points": [[float(x), float(y)] for x, y in zip(alone.cost, alone.quality, strict=True)],
    }
    if len(names) == 2:
        tables["pair"] = {
            name: measures.pair(router, quality, cost)
            for name, router in {**others, "oracle*": Router(quality, cost)}.items()
        }
    return tables


def _single(names: tuple[str, ...], j: int, quality: Any, cost: Any) -> dict[str, Any]:
    return {"model": names[j], "quality": float(quality[:, j].mean()), "cost": float(cost[:, j].mean())}


def _again(outcomes: Outcomes, seed: int, scores: dict[str, Any], gap: dict[str, Any]) -> None:
    """Another split into folds: its figures are put beside those already there."""
    assert outcomes.cost_nusd is not None
    quality, cost = outcomes.quality, outcomes.cost_nusd * USD_PER_THOUSAND
    found = cross_validate(outcomes, seed=seed)
    assert found.cost is not None
    router = Router(found.mean, found.cost)
    more = measures.scores(frontier(router.mean, router.cost, quality, cost), quality, cost)
    for name, value in more.items():
        scores[name] = [*(scores[name] if isinstance(scores[name], list) else [scores[name]]), value]
    for name, value in measures.gaps(router, quality, cost).items():
        gap[name] = [*(gap[name] if isinstance(gap[name], list) else [gap[name]]), value]


def _medians(*tables: dict[str, Any]) -> None:
    for table in tables:
        for name, values in table.items():
            if isinstance(values, list):
                table[name] = statistics.median(float("inf") if v is None else v for v in values)
                if table[name] == float("inf"):
                    table[name] = None


def learning_curve(outcomes: Outcomes, found: HeldOut, draws: int = 3) -> list[dict[str, Any]]:
    """Trained on so many prompts of four folds, judged on the fifth."""
    assert outcomes.cost_nusd is not None
    rows = []
    for size in SIZES:
        made = []
        for k in range(draws):
            here, rest = np.flatnonzero(found.fold == k), np.flatnonzero(found.fold != k)
            if size > len(rest):
                continue
            part = outcomes.rows(np.random.default_rng(k).choice(rest, size, replace=False))
            tested = outcomes.rows(here)
            assert tested.cost_nusd is not None
            estimate = fit_model(part, seed=k).estimate_encoded(tested.encoded)
            router = Router(estimate.mean, expected_cost(part, tested.input_tokens, estimate.output_tokens))
            cost = tested.cost_nusd * USD_PER_THOUSAND
            line = frontier(router.mean, router.cost, tested.quality, cost)
            score = measures.scores(line, tested.quality, cost)
            made.append(
                (
                    score["cost_at_best"],
                    score["aiq"],
                    brier(router.mean, tested.quality),
                    measures.gaps(router, tested.quality, cost)["0.01"],
                )
            )
        if made:
            reached = [m[0] for m in made if m[0] is not None]
            rows.append(
                {
                    "prompts": size,
                    "draws": len(made),
                    "reached": len(reached),
                    "cost_at_best": statistics.mean(reached) if reached else None,
                    **{
                        n: statistics.mean(float(m[i] or 0.0) for m in made)
                        for i, n in ((1, "aiq"), (2, "brier"), (3, "gap_0.01"))
                    },
                }
            )
    return rows


def decision_time(outcomes: Outcomes, texts: list[str], rounds: int = 5) -> dict[str, float]:
    """One estimate over all models from the mapped file, one thread; of each prompt the best round counts.

    The best round is free of other programs' turns on the processor; what is left is the prompt's own work.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "quality.model"
        size = fit_model(outcomes).save(path)
        model = load_model(path)
        times = np.empty((rounds, len(texts)))
        for turn in range(rounds):
            for number, text in enumerate(texts):
                began = time.perf_counter()
                model.estimate_prompt(text, model.models)
                times[turn, number] = time.perf_counter() - began
    p50, p99 = np.quantile(times.min(axis=0), [0.5, 0.99]) * 1e3
    return {"p50_ms": float(p50), "p99_ms": float(p99), "file_mb": size / 1e6}


def _texts(path: Path | None) -> list[str]:
    if path is None:
        return [f"{i}: " + "integer equation polynomial triangle prime " * 8 for i in range(500)]
    import pyarrow.parquet as parquet

    return [str(text) for text in parquet.read_table(path, columns=["prompt"])["prompt"].to_pylist()[:1_500]]


def _say(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    """Examine every file and write the report."""
    given = os.environ.get("NEGOTIATOR_DATA")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(given) if given else None)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument(
        "--seeds", type=int, default=5, help="splits into folds, of files below 4,000 prompts"
    )
    parser.add_argument("--quick", action="store_true", help="no learning curves, one split")
    parser.add_argument("--time-only", action="store_true", help="measure time again, keep the other tables")
    options = parser.parse_args()
    paths: list[Path | None] = [*find_files(options.data)] or [None]
    if paths == [None]:
        _say(
            "no outcome files (--data DIR or NEGOTIATOR_DATA): a synthetic set of 1,500 prompts and 6 models is used"
        )
    seeds = 1 if options.quick else options.seeds
    results: dict[str, Any] = {
        "published": paths != [None],
        "seeds": f"{seeds} for files below {SMALL_FILE:,} prompts, 1 for larger ones",
        "files": {},
        "time": {},
    }
    if options.time_only:
        results = json.loads((options.out / "routing.json").read_text())
    for path in paths:
        outcomes = load(path) if path else synthetic()
        if not options.time_only:
            tables = examine(outcomes, seeds if len(outcomes) < SMALL_FILE else 1, curve=not options.quick)
            results["files"][outcomes.name] = tables
        results["time"][outcomes.name] = decision_time(outcomes, _texts(path))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "routing.json").write_text(json.dumps(results, indent=1) + "\n")
    (options.out / "routing.md").write_text(page(results))
    plots(results, options.out)
    _say(f"written: {options.out / 'routing.md'}")


if __name__ == "__main__":
    main()
