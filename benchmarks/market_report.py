"""The results of ``benchmarks/market.py`` as Markdown and as a picture."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

__all__ = ["plot", "report"]


def _middle(runs: Iterable[dict[str, Any]], policy: str, key: str) -> tuple[float, float]:
    """The median over seeds, and half the span."""
    values = [run[policy][key] for run in runs]
    return statistics.median(values), (max(values) - min(values)) / 2


def report(found: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        "# Market efficiency in simulation",
        "",
        f"`python -m benchmarks.market`: {len(found['seeds'])} seeds, {found['minutes'] - found['warm_minutes']} minutes each"
        f" after {found['warm_minutes']} to warm up, sliding windows, prices every {found['reprice_ms'] / 1000:g} s. Median over seeds.",
        "Cost per served order and served orders are relative to the optimum in hindsight of the same minutes.",
        "",
        "| scenario | hindsight serves | cheapest-first cost | served | prices: cost | served | 429s | gap of hindsight |",
        "|---|---|---|---|---|---|---|---|",
    ]
    titles = list(dict.fromkeys(run["scenario"] for run in found["runs"]))
    for title in titles:
        runs = [run for run in found["runs"] if run["scenario"] == title]
        served, gap = (_middle(runs, "hindsight", key)[0] for key in ("served", "gap"))
        cells = [title, f"{served:.3f}"]
        for name in ("cheapest first", "prices"):
            cost, spread = _middle(runs, name, "cost_ratio")
            share, _ = _middle(runs, name, "served_ratio")
            cells += [f"{cost:.3f} ± {spread:.3f}", f"{share:.3f}"]
        refused = sum(run["prices"]["refused_by_sellers"] for run in runs)
        lines.append("| " + " | ".join([*cells, str(refused), f"{gap:.1e}"]) + " |")
    decisions = [run["prices"]["decision_us"] for run in found["runs"]]
    reprices = [run["prices"]["reprice_ms"] for run in found["runs"]]
    lines += [
        "",
        f"One decision over {statistics.fmean(run['offers'] for run in found['runs']):.0f} eligible offers on average:"
        f" median {statistics.median(d['p50'] for d in decisions):.0f} us,"
        f" p99 {statistics.median(d['p99'] for d in decisions):.0f} us. One repricing: median"
        f" {statistics.median(d['p50'] for d in reprices):.0f} ms, p99 {statistics.median(d['p99'] for d in reprices):.0f} ms.",
        "",
        "429s: calls, of all that were made, which a seller's own strict window would have refused.",
        "",
        "The optimum in hindsight knows every order of its minute in advance, ignores the windows of the minutes beside it"
        " and packs calls in flight without a gap, so part of its lead is out of reach. In a burst orders come faster than"
        " a sliding window lets any policy serve them. Where the gap of hindsight is large, its own cost is not proven.",
        "",
        "![cost and served share](market.png)",
        "",
    ]
    return "\n".join(lines)


def plot(found: dict[str, Any], path: Path) -> None:
    """Cost and served share over load."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plain = [run for run in found["runs"] if run["scenario"] == f"load {run['load']:g}"]
    loads = sorted({run["load"] for run in plain})
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axis, key in zip(axes, ("cost_ratio", "served_ratio"), strict=True):
        for name in ("cheapest first", "prices"):
            middle = [_middle([run for run in plain if run["load"] == x], name, key)[0] for x in loads]
            axis.plot(loads, middle, marker="o", label=name)
        axis.axhline(1.0, color="grey", linewidth=0.8)
        axis.set_xlabel("load")
        axis.set_ylabel(f"{'cost per served' if key == 'cost_ratio' else 'served'} / hindsight")
        axis.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)
