"""``negotiator replay``: a log's traffic under another configuration, and what that changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from negotiator.config import Config, load_config
from negotiator.order_log import read_log
from negotiator.replay import read_recorded, replay
from negotiator.report import FAR_MS
from negotiator.report_text import dollars
from negotiator.wire import terms_from

from .market import json_option, options_checked
from .report import instant_ms
from .terminal import console, note, print_json, progress_bar, table

__all__ = ["command"]


@click.command()
@click.argument("log", type=click.Path(path_type=Path))
@click.option(
    "--config",
    "other",
    type=click.Path(path_type=Path),
    help="The other market; what it leaves out is as it was.",
)
@click.option(
    "--base", type=click.Path(path_type=Path), help="The market as it was; default: what the log tells of it."
)
@click.option(
    "--term",
    "terms",
    multiple=True,
    metavar="NAME=VALUE",
    help="Change a term of every order, such as policy=two_tier or budget_usd=0.001; may be repeated.",
)
@click.option("--since", help="Only orders received from then on: a date or instant (RFC 3339).")
@click.option("--until", help="Only orders received before.")
@click.option("--account", "accounts", multiple=True, help="Only of this account; may be repeated.")
@click.option(
    "--seed",
    type=click.IntRange(0, 2**31 - 1),
    default=0,
    show_default=True,
    help="Of sellers' luck with latency.",
)
@json_option
def command(
    log: Path,
    other: Path | None,
    base: Path | None,
    terms: tuple[str, ...],
    since: str | None,
    until: str | None,
    accounts: tuple[str, ...],
    seed: int,
    as_json: bool,
) -> None:
    """Play the traffic in LOG again under other budgets, limits, sellers or policies, beside the same traffic as it was.

    Nothing is called and nothing is spent: stand-ins sell at the sellers' real prices, in virtual time. Where a model was
    not called then, the quality and length that were estimated then stand in for its answer.

    Example: negotiator replay orders.jsonl --config other.toml --term policy=two_tier
    """
    changes = _changes(terms)
    if other is None and not changes:
        raise click.UsageError("expected --config or --term: something must be other than it was")
    recorded = read_recorded(
        read_log(log),
        0 if since is None else instant_ms(since, "--since"),
        FAR_MS if until is None else instant_ms(until, "--until"),
        frozenset(accounts) or None,
    )
    with progress_bar() as bar:
        task = bar.add_task("playing both markets", total=2 * len(recorded.orders), facts="")
        told = replay(
            recorded,
            Config() if other is None else load_config(other),
            base=None if base is None else load_config(base),
            terms=changes,
            seed=seed,
            progress=lambda done, total: bar.update(task, completed=done),
        )
    if as_json:
        print_json(told)
    else:
        _show(told)


def _changes(terms: tuple[str, ...]) -> dict[str, Any]:
    """Terms by name; a value that is JSON is what it says, else text."""
    changes: dict[str, Any] = {}
    for term in terms:
        name, mark, text = term.partition("=")
        if not mark:
            raise click.BadParameter(f"expected NAME=VALUE, found {term!r}", param_hint="--term")
        try:
            changes[name] = json.loads(text)
        except ValueError:
            changes[name] = text
    with options_checked():
        terms_from(changes, "--term")
    return changes


def _show(told: dict[str, Any]) -> None:
    out = console()
    out.print(
        f"[bold]{told['orders']} orders played twice[/], {told['left_out']} left out, seed {told['seed']}\n"
    )
    rows = [[name.replace("_", " "), *_cells(told[name])] for name in ("recorded", "as_it_was", "other")]
    change = told["change"]
    quality = "-" if change["quality"] is None else f"{change['quality']:+.4f}"
    rows.append(["change", f"{change['served']:+d}", dollars(change["cost_usd"]), quality, ""])
    out.print(table(None, ["=", ">served", ">cost", ">quality", ">latency"], rows))
    both = told["served_by_both"]
    out.print(
        f"\nThe {both['orders']} orders that both serve: {dollars(both['as_it_was_usd'])} as it was,"
        f" {dollars(both['other_usd'])} in the other."
    )
    for title in ("account", "model"):
        shown = [[name, *_pair(one["as_it_was"], one["other"])] for name, one in told[f"by_{title}"].items()]
        out.print()
        out.print(table(f"By {title}", [f"={title}", ">served", ">then", ">cost", ">then"], shown))
    if told["rejects"]:
        shown = [[name, str(one["as_it_was"]), str(one["other"])] for name, one in told["rejects"].items()]
        out.print()
        out.print(table("Refused", ["=", ">as it was", ">other"], shown))
    for words in told["not_known"]:
        note(f"not known: {words}")


def _cells(sums: dict[str, Any]) -> list[str]:
    quality, latency_ms = sums["quality"], sums.get("latency_ms")
    return [
        str(sums["served"]),
        dollars(sums["cost_usd"]),
        "-" if quality is None else f"{quality:.4f}",
        "" if latency_ms is None else f"{latency_ms / 1000:.1f} s",
    ]


def _pair(was: dict[str, Any], now: dict[str, Any]) -> list[str]:
    return [str(was["served"]), str(now["served"]), dollars(was["cost_usd"]), dollars(now["cost_usd"])]
