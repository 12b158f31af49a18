"""``negotiator plan``: a JSONL file of requests in, the cheapest feasible plan out, with a proof and baselines."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import orjson
from rich.console import Console

from negotiator.engine import Engine
from negotiator.errors import InputInvalid
from negotiator.plan_parquet import is_parquet, requests_in, write_plan
from negotiator.plan_ray import on_ray
from negotiator.plan_shards import on_this_machine
from negotiator.planning import PlannedBatch, plan_requests
from negotiator.wire import PlanOptions, options_from

from .market import config_option, json_option, options_checked, with_market
from .terminal import console, note, print_json, progress_bar, table, usd

__all__ = ["command", "plan_options", "show_plan"]


def plan_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The plan's options as flags, the same names as in HTTP and the SDK."""
    for flag in reversed(_FLAGS):
        function = flag(function)
    return function


_FLAGS = (
    click.option(
        "--objective",
        type=click.Choice(["served_then_cost", "surplus"]),
        help="Serve as many as possible, then cheapest (default); or most value minus cost.",
    ),
    click.option("--gap", type=float, help="Stop at this proven gap (default 1e-4)."),
    click.option("--time-limit-s", type=float, help="Seconds the solver may take (default 30)."),
    click.option("--horizon-ms", type=int, help="Limits count over this time (default 60000)."),
    click.option("--total-budget-usd", help="What the whole batch may be expected to cost."),
    click.option("--min-mean-quality", type=float, help="Floor for the mean quality of the served."),
    click.option(
        "--usage-quantile", type=float, help="Output counted against limits at this quantile (0.9)."
    ),
    click.option(
        "--slots", type=int, help="Parts of the horizon with limits and prices of their own, at most (1)."
    ),
    click.option(
        "--tokens",
        type=click.Choice(["auto", "counted"]),
        help="Estimate tokens of large files where a count changes nothing (default), or count all.",
    ),
    click.option("--seed", type=int, help="Seed of the solver (default 0)."),
)
OPTION_NAMES = tuple(PlanOptions.model_fields)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Write the plan's lines here: JSONL, or Parquet by its name.",
)
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    help="Who reads and prices a large file: this machine's processors, or a Ray cluster (RAY_ADDRESS).",
)
@config_option
@json_option
@plan_options
def command(
    file: Path, out: Path | None, engine: str, config_path: Path | None, as_json: bool, **options: Any
) -> None:
    """Plan FILE (.jsonl or .parquet): which seller, model and tier each request goes to, at the least cost within every limit.

    Lines are in OpenAI's batch format plus "terms". Nothing is spent. Exit 1 when lines were broken.

    Example: negotiator plan examples/workload.jsonl --out plan.jsonl
    """
    with options_checked():
        given = options_from({name: value for name, value in options.items() if value is not None})
    engines = on_ray if engine == "ray" else partial(on_this_machine, processes=os.cpu_count() or 1)
    with progress_bar() as bar:
        task = bar.add_task("planning", total=None, facts="")

        def progress(stage: str, done: int) -> None:
            speed = bar.tasks[task].speed
            facts = f"{speed:,.0f} lines/s" if speed and stage == "read" else ""
            bar.update(task, description=stage, completed=done, facts=facts)

        async def work(market: Engine) -> PlannedBatch:
            return await plan_requests(market, requests_in(file), given, progress, engines=engines)

        planned = with_market(config_path, work, quiet=as_json)
    if out is not None:
        _write(planned, out)
    if as_json:
        print_json(planned.summary())
    else:
        show_plan(console(), planned)
        if out is not None:
            note(f"plan written to {out}")
    _report_errors(planned, file)


def show_plan(out: Console, planned: PlannedBatch, *, max_refused: int = 20) -> None:
    """The plan for people: what is served at what cost, beside what others would pay; limits that bind."""
    if not len(planned.batch):
        out.print("nothing to plan: no line is a request")
        return
    plan, quality = planned.plan, planned.mean_quality
    out.print(
        f"[bold]{plan.served}[/] of {len(planned.batch)} requests served for [bold]{usd(plan.cost_nusd)}[/]; "
        f"no plan serves more than {plan.served_bound}, none that serves as many costs less than "
        f"{usd(plan.cost_bound_nusd)} (gap {plan.gap:.2%}, {plan.termination})"
    )
    out.print()
    rows = [["negotiator", str(plan.served), usd(plan.cost_nusd), f"{quality:.3f}" if quality else "-", ""]]
    for name, baseline in planned.baselines.items():
        cheaper = 1 - _per_request(plan.cost_nusd, plan.served) / max(
            _per_request(baseline.cost_nusd, baseline.served), 1e-9
        )
        mean = f"{baseline.quality:.3f}" if baseline.quality is not None else "-"
        saved = f"{cheaper:.1%}" if baseline.served and plan.served else "-"
        rows.append([name.replace("_", " "), str(baseline.served), usd(baseline.cost_nusd), mean, saved])
    out.print(
        table(
            "Beside what others would do", ["way", ">served", ">cost", ">quality", ">saved per request"], rows
        )
    )
    out.print()
    out.print(table("Where they go", ["seller", "model", "tier", ">requests", ">cost"], _by_offer(planned)))
    slots = planned.summary()["slots"]
    if len(slots) > 1:
        out.print()
        rows = [
            [f"{slot['start_ms'] / 1000:,.0f} s", f"{slot['end_ms'] / 1000:,.0f} s", str(slot["served"])]
            for slot in slots
        ]
        out.print(table("When they start", [">from", ">to", ">requests"], rows))
    binding = [
        limit for limit in plan.limits if limit.nusd_per_million > 0 and _is_short(limit.used, limit.cap)
    ]
    if binding:
        out.print()
        rows = [
            [limit.name, f"{limit.used:,.0f}", f"{limit.cap:,.0f}", f"${limit.shadow_price_usd}"]
            for limit in binding
        ]
        out.print(table("Limits that bind", ["limit", ">used", ">cap", ">one more unit saves"], rows))
    estimated = int((~planned.book.counted).sum())
    if estimated:
        out.print(
            f"\nTokens of {estimated:,} requests are estimated, 99 of 100 to within {planned.off_p99:.0%}: a count would "
            "have decided nothing."
        )
    if planned.rejects:
        out.print()
        out.print(
            table(
                "Refused",
                ["=request", "=reject", "why, and what would be served"],
                _refused(planned, max_refused),
            )
        )


def _per_request(nusd: int, served: int) -> float:
    return nusd / served if served else 0.0


def _by_offer(planned: PlannedBatch) -> list[list[str]]:
    count: dict[int, list[int]] = {}
    for row in np.flatnonzero(planned.plan.choice >= 0).tolist():
        so_far = count.setdefault(planned.offer(row), [0, 0])
        so_far[0] += 1
        so_far[1] += planned.cost_nusd(row)
    ranked = sorted(count.items(), key=lambda item: -item[1][0])
    offers = planned.offers
    return [
        [offers[j].provider, offers[j].model, offers[j].tier, str(n), usd(nusd)] for j, (n, nusd) in ranked
    ]


def _refused(planned: PlannedBatch, most: int) -> list[list[str]]:
    rows = []
    for i, reject in list(planned.rejects.items())[:most]:
        offers = "; or ".join(
            f"{', '.join(f'{term}={value}' for term, value in offer.terms.items())} → {offer.model} for "
            f"{usd(offer.expected_nusd)}"
            for offer in reject.counter_offers
        )
        why = f"{reject.message}. Would serve: {offers}" if offers else reject.message
        rows.append([planned.batch.ids[i], reject.code.name, why])
    left = len(planned.rejects) - most
    if left > 0:
        rows.append(["…", "", f"and {left} more"])
    return rows


def _write(planned: PlannedBatch, path: Path) -> None:
    if is_parquet(path):
        write_plan(planned, path)
        return
    try:
        with path.open("wb") as file:
            for row in planned.rows():
                file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
    except OSError as error:
        raise InputInvalid(f"{path}: expected a writable file, found: {error.strerror}") from None


def _report_errors(planned: PlannedBatch, file: Path) -> None:
    faults = planned.batch.faults
    for fault in faults:
        note(f"{file}:{fault.number}: {fault.message}")
    if faults:
        raise click.exceptions.Exit(1)


def _is_short(used: float, cap: float) -> bool:
    """Whether a limit is nearly used up: the others' prices are what rounding left of nothing."""
    return used >= cap - 0.1 * abs(cap)
