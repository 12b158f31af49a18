"""``negotiator train``: a quality model from recorded outcomes, judged on prompts it did not see."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from negotiator.quality import Evaluation, read_outcomes, train
from negotiator.quality.fit import LEAST_PROMPTS
from negotiator.quality.outcomes import LEAST_ANSWERS

from .market import json_option
from .terminal import console, note, print_json, progress_bar, table

__all__ = ["command"]


@click.command()
@click.argument("outcomes", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The model file.")
@click.option(
    "--seed", default=0, show_default=True, help="Of folds and basis: the same gives the same file."
)
@json_option
def command(outcomes: tuple[Path, ...], out: Path, seed: int, as_json: bool) -> None:
    """Learn quality estimates from OUTCOMES (Parquet or JSON lines) and write one small file.

    One row per prompt: prompt (or features, as `negotiator export` writes them), quality.MODEL in [0, 1] for at least
    two models; where known output_tokens.MODEL, cost_usd.MODEL, input_tokens, task. Five-fold cross-validation says how
    well it chooses; a model that is worse than the best single model is not written (exit 1).

    Example: negotiator train outcomes.parquet --out quality.model
    """
    rows = read_outcomes(outcomes)
    if rows.left_out:
        few = ", ".join(f"{model} ({count})" for model, count in rows.left_out)
        note(f"left out, with fewer than {LEAST_ANSWERS} recorded outcomes: {few}")
    with progress_bar() as bar:
        task = bar.add_task(f"{len(rows)} prompts x {len(rows.models)} models", total=5, facts="")
        model, found = train(
            rows, seed=seed, progress=lambda done, of: bar.update(task, completed=done, total=of)
        )
    size = model.save(out) if found.accepted else 0
    if as_json:
        print_json({**asdict(found), "accepted": found.accepted, "out": str(out), "bytes": size})
    else:
        _show(found)
    if not found.accepted:
        note(f"not written: {'; '.join(found.reasons)}")
        raise SystemExit(1)
    if len(rows) < LEAST_PROMPTS:
        note(
            f"{len(rows)} prompts: differences between models are not learnt below {LEAST_PROMPTS}; "
            "about 1,000 with all models' outcomes pay"
        )
    note(f"written: {out}, {size / 1e6:.1f} MB; use it with [quality] model = {str(out)!r}")


def _show(found: Evaluation) -> None:
    """The router beside single models, then its frontier and calibration."""
    rows: list[list[str]] = [
        ["always the best", found.best_model, f"{found.best_quality:.4f}", _usd(found.best_cost)],
        [
            "always the cheapest",
            found.cheapest_model,
            f"{found.cheapest_quality:.4f}",
            _usd(found.cheapest_cost),
        ],
        ["this model, at most at the best's cost", "", f"{found.quality:.4f}", _usd(found.best_cost)],
    ]
    if found.matching_cost is not None:
        rows.append(
            ["this model, at the best's quality", "", f"{found.best_quality:.4f}", _usd(found.matching_cost)]
        )
    out = console()
    title = (
        f"{found.prompts:,} prompts, {found.models} models, each prompt judged by a model that did not see it"
    )
    if found.complete:
        out.print(table(title, ["choice", "model", ">quality", ">$ per 1,000"], rows))
    else:
        out.print(f"{title}; no prompt has every model's outcome, so choices are not compared")
    if found.points:
        shown = found.points[:: -max(1, len(found.points) // 8)][::-1]
        pairs: list[Any] = [[_usd(cost), f"{quality:.4f}"] for cost, quality in shown]
        out.print()
        out.print(table("Frontier", [">$ per 1,000", ">quality"], pairs))
    out.print()
    if found.aiq is not None and found.singles_aiq is not None:
        out.print(f"AIQ {found.aiq:.4f}, single models {found.singles_aiq:.4f}")
    out.print(
        f"Brier {found.brier:.4f}, each model's mean {found.usual_brier:.4f}; "
        f"calibration error {found.calibration_error:.3f}"
    )


def _usd(cost: float | None) -> str:
    return "-" if cost is None else f"{cost:.4f}"
