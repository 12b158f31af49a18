"""The page and the plot of the online benchmark."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["plot", "report"]


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Medians over the seeds, the worst of them in brackets."""
    yield (
        "| limits, arrivals | load | policy | cost per served / hindsight | served / hindsight"
        " | cost / least cost of the same requests |"
    )
    yield "|---|---|---|---|---|---|"
    groups: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["scenario"], row["load"]), []).append(row)
    for (title, load), own in groups.items():
        for name in own[0]["policies"]:
            costs = [row["policies"][name]["cost_ratio"] for row in own]
            served = [row["policies"][name]["served_ratio"] for row in own]
            same = [row["policies"][name]["same_served_ratio"] for row in own]
            yield (
                f"| {title} | {load:g} | {name} | {statistics.median(costs):.3f} ({max(costs):.3f})"
                f" | {statistics.median(served):.3f} ({min(served):.3f})"
                f" | {statistics.median(same):.3f} ({max(same):.3f}) |"
            )


def report(found: dict[str, Any]) -> str:
    """The Markdown page."""
    gaps = [
        row["hindsight"]["served_bound"] - row["hindsight"]["served"]
        for row in found["runs"]
        if row["load"] <= 1
    ]
    lines = [
        "# Online: one request at a time by prices",
        "",
        "Synthetic market; `python -m benchmarks.online` makes this page. Median over seeds"
        f" {found['seeds']}, worst in brackets; about {found['per_window']} requests a minute over"
        f" {found['offers']} offers, re-priced every {found['reprice_s']:g} s from {found['sample']} requests.",
        "",
        "Hindsight knows every arrival. Ratios are to its proven bounds (least cost, most served), so they are"
        " never better than the truth. A few dear requests that one policy serves and the other does not move cost"
        " per served by several percent either way; the last column compares each policy with the least cost of"
        " serving exactly the requests that it served. On sliding windows and buckets the bound relaxes the limits"
        " to their total per minute.",
        f"At load 1 and below the hindsight plan serves at most {max(gaps, default=0):.0f} requests fewer than its bound.",
        "",
        *table(found["runs"]),
        "",
        "One decision, microseconds: "
        + "; ".join(
            f"{m} offers p50 {t['p50']:.1f}, p99 {t['p99']:.1f}" for m, t in found["decision_us"].items()
        )
        + ".",
        "",
        "Re-pricing 10,000 expected requests over 20 offers, milliseconds:",
        "",
        "| load | from nothing | warm, median | warm, most | warm, processor time |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['load']:g} | {row['cold_ms_p50']:.0f} | {row['warm_ms_p50']:.0f} | {row['warm_ms_max']:.0f}"
        f" | {row['warm_cpu_ms_p50']:.0f} |"
        for row in found["reprice"]
    ]
    return "\n".join([*lines, "", "![cost and served against load](online.png)", ""])


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Cost per served and served share against load, fixed windows."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    own = [row for row in rows if row["scenario"] == "fixed window"]
    loads = sorted({row["load"] for row in own})
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name in own[0]["policies"] if own else ():
        for axis, key in zip(axes, ("same_served_ratio", "served_ratio"), strict=True):
            middle = [
                statistics.median(row["policies"][name][key] for row in own if row["load"] == load)
                for load in loads
            ]
            axis.plot(loads, middle, marker="o", label=name)
    for axis, words in zip(
        axes, ("cost / least cost of the same requests", "served / hindsight"), strict=True
    ):
        axis.axhline(1.0, color="grey", linewidth=0.8)
        axis.set_xlabel("load")
        axis.set_ylabel(words)
        axis.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)
