"""What commands print: aligned tables for people, one JSON object for machines, progress on a terminal only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click
import orjson

if TYPE_CHECKING:  # a server prints no table and draws no bar: it starts without them
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

__all__ = ["console", "note", "print_json", "progress_bar", "table", "usd"]


def console() -> Console:
    """Standard output, as wide as the terminal, 110 columns in a pipe."""
    from rich.console import Console

    out = Console(highlight=False, soft_wrap=False)
    return out if out.is_terminal else Console(highlight=False, width=110)


def note(text: str) -> None:
    """A line for people, on stderr, so that standard output stays the answer alone."""
    click.echo(text, err=True)


def print_json(value: Any) -> None:
    """One JSON object on standard output."""
    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())


def table(title: str | None, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table. Columns that start with ``>`` are right-aligned, with ``=`` are never broken; cells are shown as they are."""
    from rich.markup import escape
    from rich.table import Table

    made = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        show_header=any(columns),
        padding=(0, 2, 0, 0),
    )
    for name in columns:
        right = name.startswith(">")
        made.add_column(
            name.lstrip(">="),
            justify="right" if right else "left",
            no_wrap=right or name.startswith("="),
            header_style="dim",
        )
    for row in rows:
        made.add_row(*map(escape, row))
    return made


def progress_bar() -> Progress:
    """A bar on stderr's terminal; nothing in a pipe."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    err = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[facts]}"),
        TimeRemainingColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )


def usd(nusd: int) -> str:
    """Nano-dollars for people: at least five significant digits and never rounded to nothing."""
    dollars = nusd / 1e9
    if dollars == 0:
        return "$0"
    digits = 2 if abs(dollars) >= 100 else 4 if abs(dollars) >= 1 else 6 if abs(dollars) >= 0.01 else 9
    return f"${dollars:,.{digits}f}"
