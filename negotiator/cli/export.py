"""``negotiator export``: what a log's orders came to, in the columns that ``negotiator train`` reads."""

from __future__ import annotations

from pathlib import Path

import click

from negotiator.export import outcome_rows, write_outcomes
from negotiator.order_log import read_log
from negotiator.quality import bare_name

from .market import json_option
from .report import instant_ms
from .terminal import note, print_json

__all__ = ["command"]


@click.command()
@click.argument("log", type=click.Path(path_type=Path))
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file: .parquet, or JSON lines by any other ending.",
)
@click.option("--text", is_flag=True, help="Prompts as text; the log must have been told to keep them.")
@click.option("--unscored", is_flag=True, help="Answers that nobody judged too, for their length.")
@click.option("--since", help="Only orders received from then on: a date or instant (RFC 3339).")
@click.option("--account", "accounts", multiple=True, help="Only of this account; may be repeated.")
@json_option
def command(
    log: Path,
    out: Path,
    text: bool,
    unscored: bool,
    since: str | None,
    accounts: tuple[str, ...],
    as_json: bool,
) -> None:
    """Write the outcomes in LOG, which `serve --log` or `run --log` wrote: one row per prompt, a column per model.

    Prompts leave as hashed features, never as text unless --text asks for it. Scores are what POST /v1/feedback, checks and
    escalations said. The columns are those that `negotiator train` reads.

    Example: negotiator export orders.jsonl --out outcomes.parquet
    """
    found = outcome_rows(
        read_log(log),
        name_of=bare_name,
        text=text,
        unscored=unscored,
        since_ms=0 if since is None else instant_ms(since, "--since"),
        accounts=frozenset(accounts) or None,
    )
    size = write_outcomes(found, out)
    told = {
        "out": str(out),
        "bytes": size,
        "prompts": len(found.rows),
        "models": list(found.models),
        "scored": found.scored,
        "left_out": {"without_score": found.unscored, "without_prompt": found.unread},
    }
    if as_json:
        print_json(told)
        return
    note(
        f"{len(found.rows)} prompts, {found.scored} scored answers of {len(found.models)} models in {out};"
        f" left out: {found.unscored} without a score, {found.unread} of whose prompt the log has nothing"
    )
