"""``negotiator report``: what the orders of a log cost, against other ways, and the regret against hindsight."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from negotiator.errors import InputInvalid
from negotiator.order_log import read_log
from negotiator.report import FAR_MS
from negotiator.report_page import report_page
from negotiator.report_summary import GROUPINGS, report_of
from negotiator.report_text import headline, report_markdown, report_tables

from .market import json_option
from .terminal import console, note, print_json, table

__all__ = ["command", "instant_ms"]


@click.command()
@click.argument("log", type=click.Path(path_type=Path))
@click.option("--since", help="Only orders received from then on: a date or instant (RFC 3339).")
@click.option("--until", help="Only orders received before.")
@click.option("--account", "accounts", multiple=True, help="Only of this account; may be repeated.")
@click.option(
    "--by",
    multiple=True,
    type=click.Choice(GROUPINGS),
    help="Group by this alone; may be repeated. Default: all four.",
)
@click.option(
    "--time-limit-s",
    type=click.FloatRange(0, 3600),
    default=20.0,
    show_default=True,
    help="For solving in hindsight; 0 leaves regret out.",
)
@click.option(
    "--html",
    type=click.Path(path_type=Path),
    help="Write one self-contained page with plots here.",
)
@click.option("--md", type=click.Path(path_type=Path), help="Write Markdown here.")
@json_option
def command(
    log: Path,
    since: str | None,
    until: str | None,
    accounts: tuple[str, ...],
    by: tuple[str, ...],
    time_limit_s: float,
    html: Path | None,
    md: Path | None,
    as_json: bool,
) -> None:
    """Spend, savings and regret of the orders in LOG, which `negotiator run --log` or `serve --log` wrote.

    Savings are against four simple ways of routing, played on the same quotes and limits. For the regret the recorded
    book is solved again with full knowledge; its parts, what was not known, sum to it.

    Example: negotiator report orders.jsonl --html report.html
    """
    told = report_of(
        read_log(log),
        since_ms=0 if since is None else instant_ms(since, "--since"),
        until_ms=FAR_MS if until is None else instant_ms(until, "--until"),
        accounts=frozenset(accounts) or None,
        by=by or GROUPINGS,
        time_limit_s=time_limit_s,
    )
    for path, text in ((html, report_page), (md, report_markdown)):
        if path is not None:
            _write(path, text(told))
    if as_json:
        print_json(told)
    else:
        _show(told)


def instant_ms(text: str, option: str) -> int:
    """Milliseconds since 1970 of an RFC 3339 date or instant, or of that number itself; UTC where no zone is given."""
    try:
        if text.isdigit():
            return int(text)
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(
            f"expected a date or instant such as 2026-11-24T08:00:00Z, found {text!r}", param_hint=option
        ) from None
    return round((instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp() * 1000)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputInvalid(f"{path}: expected a writable file, found: {error.strerror}") from None
    note(f"report in {path}")


def _show(told: dict[str, Any]) -> None:
    out = console()
    out.print(headline(told), style="bold")
    for shown in report_tables(told):
        columns = [name if name.startswith(">") else f"={name}" for name in shown.columns[:-1]]
        out.print()
        out.print(table(shown.title, [*columns, shown.columns[-1]], shown.rows))
