"""The results of ``benchmarks/load.py`` as Markdown."""

from __future__ import annotations

from typing import Any

__all__ = ["page"]

KB = 1024


def page(found: dict[str, Any]) -> str:
    """Three short parts."""
    return "\n".join([*_steady(found["steady"]), *_burst(found["burst"]), *_days(found["days"]), ""])


def _steady(run: dict[str, Any]) -> list[str]:
    lines = [
        "# Load",
        "",
        "`python -m benchmarks.load`.",
        "",
        f"## At {100 * run['share']:.0f} % of capacity",
        "",
        f"{run['minutes']:g} minutes at {run['per_second']:.0f} orders a second, a share of what it served flat out for five"
        " seconds before; whatever else the machine does meanwhile shows in p99. One worker, the ledger in a file:"
        f" {run['orders']:,} orders answered, {run['lost']} lost, {run['refused']} refused; pending afterwards"
        f" {run['pending_usd']} USD; audit: {run['audit'] or 'fits'}. Memory grows by"
        f" {run['memory_slope_mib_per_100k']:.1f} MiB per 100,000 orders over the second half, the ledger by"
        f" {run['bytes_per_order']:.0f} bytes an order until these are 24 hours (orders) and 7 days (rows) old.",
        "",
        "| segment | orders | p50 ms | p99 ms | memory MiB | ledger KB |",
        "|---|---|---|---|---|---|",
    ]
    for number, each in enumerate(run["segments"], start=1):
        lines.append(
            f"| {number} | {each['orders']:,} | {each['p50_ms']:.1f} | {each['p99_ms']:.1f} | {each['memory_mib']:.1f}"
            f" | {each['store_bytes'] / KB:,.0f} |"
        )
    return lines


def _burst(run: dict[str, Any]) -> list[str]:
    return [
        "",
        "## Ten times capacity",
        "",
        f"A seller with room for {run['per_second'] / 10:.0f} calls a second gets {run['per_second']:.0f} for two seconds,"
        f" between calm ones: {run['statuses']['200']} served, {run['statuses']['429']} refused with 429,"
        f" {run['others']} otherwise. A refusal takes {run['refused_p50_ms']:.1f} ms (p99 {run['refused_p99_ms']:.1f} ms);"
        f" {100 * run['advised']:.0f} % of them say `retry-after-ms`. The last refusal was for a call"
        f" {run['recovered_s']:.2f} s after the burst's end.",
    ]


def _days(run: dict[str, Any]) -> list[str]:
    lines = [
        "",
        "## Days in virtual time",
        "",
        f"{run['days']} days, {run['orders']:,} orders at simulated sellers, in {run['cpu_s']:.0f} s of processor time; the"
        " ledger in a file. Orders are kept 24 hours.",
        "",
        "| quarter of a day | served | refused | memory MiB | ledger KB | pending |",
        "|---|---|---|---|---|---|",
    ]
    for number, each in enumerate(run["quarters"], start=1):
        lines.append(
            f"| {number} | {each['served']:,} | {each['refused']} | {each['memory_mib']:.1f}"
            f" | {each['store_bytes'] / KB:,.0f} | {each['pending_nusd']} |"
        )
    return lines
