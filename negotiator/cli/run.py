"""``negotiator run``: execute a batch within the limits, resumable, every line exactly one result."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console

from negotiator.batch_counts import RunReport
from negotiator.batch_progress import Pace, Progress
from negotiator.batch_report import batch_report, write_report
from negotiator.batch_results import ResultFile
from negotiator.batches import BatchRun, batch_id_of
from negotiator.engine import Engine
from negotiator.errors import InputInvalid
from negotiator.money import format_usd
from negotiator.plan_parquet import requests_in
from negotiator.wire import options_from

from .market import config_option, json_option, options_checked, store_option, with_market
from .plan import plan_options
from .terminal import console, note, print_json, progress_bar, table, usd

__all__ = ["command", "progress_facts", "show_run"]

INTERRUPTED: Final = 130
"""Exit status of a run that Ctrl-C stopped, as shells have it."""


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Results, one line per request.")
@click.option(
    "--log", type=click.Path(path_type=Path), help="Write every order here, for `negotiator report`."
)
@click.option(
    "--report",
    "report_to",
    type=click.Path(path_type=Path),
    help="Write a report here: JSON, Markdown, a picture.",
)
@config_option
@store_option
@json_option
@plan_options
def command(
    file: Path,
    out: Path,
    log: Path | None,
    report_to: Path | None,
    config_path: Path | None,
    store: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Execute FILE (.jsonl or .parquet) within every seller's limits and write one result per line to --out.

    Interrupted or killed, the same command goes on where it stopped: no line is lost, none is paid twice without
    saying so. The first Ctrl-C waits for the calls in flight, the second cuts them off. Exit 1 when lines were
    broken, 130 when interrupted.

    Example: negotiator run examples/workload.jsonl --out answers.jsonl
    """
    with options_checked():
        given = options_from({name: value for name, value in options.items() if value is not None})
    try:
        with file.open("rb") as content:
            batch_id = batch_id_of(content)
    except OSError as error:
        raise InputInvalid(f"{file}: expected a readable file, found: {error.strerror}") from None
    with progress_bar() as bar, ResultFile(out) as results:
        task = bar.add_task("running", total=None, facts="")
        pace = Pace(_now_ms(), results.tally.finished)

        def progress(report: RunReport) -> None:
            stands = Progress.of(pace, results.tally, report.requests, _now_ms())
            bar.update(task, total=report.requests, completed=report.finished, facts=progress_facts(stands))

        interrupted = asyncio.Event()

        async def work(market: Engine) -> RunReport:
            run = BatchRun(market, batch_id, results, given, progress)
            _stop_first(run, interrupted)
            return await run.run(requests_in(file))

        report = with_market(config_path, work, store=store, quiet=as_json, order_log=log)
    if as_json:
        print_json({**report.out(), "total_cost_usd": format_usd(results.cost_nusd), "out": str(out)})
    else:
        show_run(console(), report, results.cost_nusd)
        note(f"results in {out}")
    if report_to is not None:
        planned = None if report.first_plan is None else report.first_plan.summary()
        written = write_report(batch_report(out, planned), report_to)
        note(f"report in {', '.join(map(str, written))}")
    for fault in report.errors:
        note(f"{file}:{fault.number}: {fault.message}")
    if interrupted.is_set():
        note("stopped: the same command goes on where it is")
        raise click.exceptions.Exit(INTERRUPTED)
    if report.errors:
        raise click.exceptions.Exit(1)


def _stop_first(run: BatchRun, interrupted: asyncio.Event) -> None:
    """The first Ctrl-C lets the calls in flight come to their end, for they are paid; the next cuts them off."""
    loop = asyncio.get_running_loop()

    def first() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        note("stopping after the calls in flight; Ctrl-C again cuts them off")
        interrupted.set()
        run.stop()

    loop.add_signal_handler(signal.SIGINT, first)


def progress_facts(stands: Progress) -> str:
    """Rate, spent and saved so far, as the bar shows them before the time that is left."""
    return f"{stands.per_second:.1f}/s, {usd(stands.tally.cost_nusd)} spent, {usd(stands.tally.saved_nusd)} saved"


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def show_run(out: Console, report: RunReport, total_nusd: int) -> None:
    """What was done, for people."""
    rows = [
        ["served now", str(report.served), usd(report.cost_nusd)],
        ["of them paid earlier, found in the ledger", str(report.replayed), ""],
        ["refused", str(report.refused), "$0"],
        ["done by an earlier run", str(report.skipped), ""],
        ["in the whole result file", str(report.finished), usd(total_nusd)],
    ]
    out.print(table(None, ["requests", ">number", ">cost"], rows))
    if report.in_doubt:
        out.print(
            f"\n{report.in_doubt} requests were in flight when an earlier run died: they ran again, and their first "
            f"holds, {usd(report.in_doubt_nusd)} together, count until the sellers' usage is known or the ledger posts them."
        )
    if report.rejects:
        out.print()
        out.print(
            table("Refused", ["reject", ">requests"], [[n, str(c)] for n, c in report.rejects.most_common()])
        )
