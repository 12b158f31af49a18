"""The results of ``benchmarks/overspend.py`` as Markdown."""

from __future__ import annotations

from typing import Any

__all__ = ["page"]


def page(found: dict[str, Any]) -> str:
    """One row per gateway, store and seed."""
    lines = [
        "# The money test",
        "",
        f"`python -m benchmarks.overspend`: {found['calls']:,} concurrent calls over HTTP on a budget for"
        f" {found['budget_for']}, in an account tree three levels deep; half of them streamed, a third hanging up at"
        " random moments; one process killed with `kill -9` while calls are in flight.",
        "",
        "| gateway | store | seed | whole answers at the vendor | vendor's bill / budget | booked / vendor's bill | over budget in the"
        " books | left held | refused though it fitted | served afterwards | audit |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for run in found["runs"]:
        cells = [
            run["gateway"],
            run["store"],
            str(run["seed"]),
            str(run["vendor_whole"]),
            f"{run['billed_at_end_nusd'] / run['budget_nusd']:.3f}",
            f"{run['booked_at_end_nusd'] / max(1, run['billed_at_end_nusd']):.3f}",
            _usd(run["peak_over_nusd"]),
            _usd(run["leaked_nusd"]),
            str(run["refused_falsely"]),
            str(run["served_after"]),
            "-" if "audit" not in run else run["audit"] or "fits",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "*Over budget in the books*: the most by which posted and pending of any of the seven accounts exceeded its budget,"
        " sampled all the time. *Left held*: pending when every timeout had passed. *Refused though it fitted*: after"
        " settling, one call after the other on every run until it is refused; refusals while the call fitted every"
        " account of its line. *Booked / vendor's bill*: above 1, calls of the killed process were booked at their ceiling,"
        " for nobody knows their usage; below 1, buyers who hung up were charged for what was relayed, and the vendor"
        " had generated a little more, or went on. The counter cannot see what its killed process had running.",
        "",
        "What became of the calls:",
        "",
    ]
    for run in found["runs"]:
        told = ", ".join(f"{count} {name}" for name, count in sorted(run["outcomes"].items()))
        lines.append(f"* {run['gateway']}, {run['store']}, seed {run['seed']}: {told}")
    return "\n".join([*lines, ""])


def _usd(nusd: int) -> str:
    return f"${nusd / 1e9:.6f}" if nusd else "0"
