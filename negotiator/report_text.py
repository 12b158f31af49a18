"""A report for people: the tables that a page, Markdown and the terminal show, in words that say what they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["SAYS", "WAYS", "Table", "dollars", "headline", "report_markdown", "report_tables"]

Values = Mapping[str, Any]

SAYS: Final = {
    "quotes": "answers were billed other than expected",
    "quality": "floors were met or missed other than estimated",
    "capacity": "sellers were out while they were counted on",
    "decisions": "deciding one order at a time, not all at once",
}
"""Why each part of the regret is."""

WAYS: Final = {
    "negotiator": "what was done",
    "cheapest_first": "terms kept, the cheapest offer with room",
    "always_best": "everything to the one model of best mean quality",
    "as_requested": "the model that was named, else the best",
    "two_tier": "the cheapest model first, what it fails again on the best",
}
"""What each way of routing is."""


@dataclass(frozen=True, slots=True)
class Table:
    """A title, column names (``>`` at the front: numbers, right-aligned), rows of text."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def headline(report: Values) -> str:
    """One sentence: served, spent, refused, when."""
    when = f" from {report['from']} to {report['until']}" if report["from"] else ""
    return f"{report['served']} of {report['orders']} orders served for ${report['spend_usd']}, {report['refused']} refused{when}."


def report_tables(report: Values) -> list[Table]:
    """What there is to show, in order; empty tables are left out."""
    tables = [_ways(report["ways"])]
    if report["regret"] is not None:
        tables.append(_regret(report["regret"]))
    tables += [
        _grouped(name, report[f"by_{name}"])
        for name in ("account", "model", "task", "cause")
        if f"by_{name}" in report
    ]
    rejects = [(name, str(count)) for name, count in report["rejects"].items()]
    tables.append(Table("Refused", ("code", ">orders"), rejects))
    return [table for table in tables if table.rows]


def _ways(found: Values) -> Table:
    columns = ("way", ">served", ">cost", ">quality", ">saved", "what it is")
    rows = []
    for name, way in found.items():
        share = way["saved_share"]
        rows.append(
            (
                name.replace("_", " "),
                str(way["served"]),
                dollars(way["cost_usd"]),
                _quality(way["quality"]),
                "" if name == "negotiator" else "-" if share is None else f"{100 * share:.1f}%",
                WAYS[name],
            )
        )
    return Table(
        "Against other ways, on the same quotes and limits; saved on the orders that both served",
        columns,
        rows,
    )


def _regret(regret: Values) -> Table:
    rows = [("optimum as it looked beforehand", dollars(regret["optimum_beforehand_usd"]), "")]
    rows += [(f"+ {name}", dollars(usd), SAYS[name]) for name, usd in regret["parts_usd"].items()]
    rows.append(
        ("paid", dollars(regret["paid_usd"]), f"regret {dollars(regret['regret_usd'])}, the sum of the parts")
    )
    if regret["could_serve"]:
        rows.append(("refused", str(regret["could_serve"]), "that the optimum has room for"))
    return Table("Regret in hindsight", ("", ">dollars", "because"), rows)


def _grouped(name: str, groups: Values) -> Table:
    split = any("parts_usd" in one for one in groups.values())
    columns = (name, ">served", ">refused", ">spent", ">quality", *((">regret",) if split else ()))
    rows = [
        (
            key,
            str(one["served"]),
            str(one["refused"]),
            dollars(one["spend_usd"]),
            _quality(one["quality"]),
            *((dollars(one["regret_usd"]) if "regret_usd" in one else "",) if split else ()),
        )
        for key, one in groups.items()
    ]
    return Table(f"By {name}", columns, rows)


def dollars(text: str) -> str:
    """A decimal string of dollars as people write it, the sign in front."""
    return f"-${text[1:]}" if text.startswith("-") else f"${text}"


def _quality(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def report_markdown(report: Values) -> str:
    """The report as Markdown."""
    text = ["# Report", "", headline(report), ""]
    for table in report_tables(report):
        names = [name.lstrip(">") for name in table.columns]
        text += [f"## {table.title}", "", f"| {' | '.join(names)} |"]
        text.append(f"|{'|'.join('---:' if name.startswith('>') else '---' for name in table.columns)}|")
        text += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in table.rows]
        text.append("")
    return "\n".join(text)
