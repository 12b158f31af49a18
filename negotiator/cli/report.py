"""``negotiator report``: what the orders of a log cost, and the regret against hindsight, part by part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from negotiator.order_log import read_log
from negotiator.report import hindsight, read_market, summary

from .market import json_option
from .terminal import console, print_json, table

__all__ = ["command"]

_SAYS = {
    "prices": "answers were longer or shorter than expected",
    "quality": "floors were met or missed other than estimated",
    "capacity": "sellers were out while they were counted on",
    "decisions": "deciding one order at a time, not all at once",
}


@click.command()
@click.argument("log", type=click.Path(path_type=Path))
@click.option(
    "--since-ms", type=int, default=0, help="Only orders received from then on (milliseconds since 1970)."
)
@click.option(
    "--time-limit-s", type=click.FloatRange(0.5, 3600), default=20.0, help="For solving in hindsight."
)
@json_option
def command(log: Path, since_ms: int, time_limit_s: float, as_json: bool) -> None:
    """Spend, savings and regret of the orders in LOG, which `negotiator run --log` or `serve --log` wrote.

    The recorded book is solved again with full knowledge; the regret is split by what was not known, and its parts
    sum.

    Example: negotiator report orders.jsonl
    """
    market = read_market(read_log(log), since_ms)
    found = hindsight(market, time_limit_s=time_limit_s) if market.orders else None
    told = summary(market, found)
    if as_json:
        print_json(told)
    else:
        _show(console(), told)


def _show(out: Console, told: dict[str, Any]) -> None:
    out.print(
        f"[bold]{told['orders']}[/] orders served for [bold]${told['spent_usd']}[/], {told['refused']} refused\n"
    )
    for title in ("by_account", "by_model", "by_task"):
        rows = [[name, str(one["orders"]), f"${one['spent_usd']}"] for name, one in told[title].items()]
        out.print(table(title.replace("_", " ").capitalize(), ["=", ">orders", ">spent"], rows))
        out.print()
    regret = told["regret"]
    if regret is None:
        return
    rows = [["optimum as it looked beforehand", f"${regret['optimum_beforehand_usd']}", ""]]
    rows += [[f"+ {name}", f"${usd}", _SAYS[name]] for name, usd in regret["parts_usd"].items()]
    rows.append(["paid", f"${regret['paid_usd']}", f"regret ${regret['regret_usd']}, the sum of the parts"])
    out.print(table("Regret in hindsight", ["=", ">dollars", "because"], rows))
    greedy = regret["cheapest_first"]
    out.print(
        f"\nCheapest-first: {greedy['served']} served for ${greedy['cost_usd']}, as expected beforehand."
    )
