"""The routing report: one Markdown page and the plots, from the figures alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["page", "plots"]

MUST = {
    "mmlu_pro": {"cost_at_best": 0.68, "aiq": 0.690, "gap_0.1": 8.0, "brier": 0.213, "ece": 0.02},
    "zeroeval3": {
        "cost_at_best": 0.78,
        "aiq": 0.814,
        "gap_0.03": 4.0,
        "gap_0.1": -1.0,
        "brier": 0.148,
        "ece": 0.035,
    },
    "routellm_pair": {"cost_at_best": 0.91, "aiq": 0.773, "gap_0.1": 23.0, "brier": 0.160, "ece": 0.02},
}
EXTREME = {
    "mmlu_pro": {"cost_at_best": 0.56, "aiq": 0.697, "gap_0.1": 11.0, "brier": 0.210, "ece": 0.01},
    "zeroeval3": {
        "cost_at_best": 0.65,
        "aiq": 0.820,
        "gap_0.03": 8.0,
        "gap_0.1": 3.0,
        "brier": 0.143,
        "ece": 0.02,
    },
    "routellm_pair": {"cost_at_best": 0.86, "aiq": 0.777, "gap_0.1": 27.0, "brier": 0.157, "ece": 0.01},
}
LOWER = {"cost_at_best", "brier", "ece"}


def page(results: Mapping[str, Any]) -> str:
    """Markdown."""
    parts = [_head(results)]
    for name, found in results["files"].items():
        parts += [f"## {name}\n", _about(found), _routers(found), _gaps(found), _floors(found)]
        parts += [_targets(name, found), _budget(found), _curve(found)]
        parts.append(f"![frontier](routing_{name}.png)\n")
    parts += [_time(results), _misses(results)]
    return "\n".join(parts)


def _head(results: Mapping[str, Any]) -> str:
    note = "" if results["published"] else "\n**The data is synthetic** (no outcome files were given).\n"
    return f"""# Routing on recorded outcomes

Run `python -m benchmarks.routing --data DIR`. Every estimate is held out: five folds by prompt, equal prompts in one
fold, everything fitted on the other four. Costs are dollars per 1,000 prompts; *expected* ones decide, recorded ones
count. "Best single" is the best model in hindsight. cost@best: cost at its quality as a share of its cost, on the
router's own frontier (`-` = never reached); q@cost: quality at its cost; AIQ: mean height of the frontier between the
cheapest and the best single model; arena: RouterArena's formula at the best point. Rows marked \\* know the outcomes
and are bounds, not routers; cascades need a check of every answer, which the others do not. Figures of negotiator in the
first two tables are medians over splits into folds: {results["seeds"]} (Brier and ECE: of the first). A split more or
less moves cost@best by its bootstrap spread: compare AIQ.
{note}"""


def _about(found: Mapping[str, Any]) -> str:
    best, cheap = found["best"], found["cheapest"]
    return (
        f"{found['prompts']:,} prompts, {found['models']} models. Always best: {best['model']} {best['quality']:.4f} at "
        f"{best['cost']:.4f}; always cheapest: {cheap['model']} {cheap['quality']:.4f} at {cheap['cost']:.4f}; "
        f"uniform random: {found['random']['quality']:.4f} at {found['random']['cost']:.4f}.\n"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def _number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None or value != value else f"{value:.{digits}f}"


def _routers(found: Mapping[str, Any]) -> str:
    rows = []
    for name, router in found["routers"].items():
        calibrated = router.get("calibration")
        rows.append(
            [
                f"**{name}**" if name == "negotiator" else name,
                _number(router["cost_at_best"], 3),
                _number(router["quality_at_cost"]),
                _number(router["aiq"]),
                _number(router["arena"], 2),
                _number(calibrated["brier"] if calibrated else None),
                _number(calibrated["ece"] if calibrated else None, 3),
            ]
        )
    gain = found["spread"]
    text = _table(["router", "cost@best", "q@cost", "AIQ", "arena", "Brier", "ECE"], rows)
    text += (
        f"\nPaired bootstrap over prompts: AIQ {gain['aiq_mean']:.4f} (sd {gain['aiq_sd']:.4f}); minus TF-IDF logistic "
        f"{gain['aiq_gain_mean']:+.4f} (sd {gain['aiq_gain_sd']:.4f}); quality at the best single's cost minus its "
        f"quality {gain['quality_gain_over_best_mean']:+.4f} (sd {gain['quality_gain_over_best_sd']:.4f}); "
        f"cost@best {gain['cost_at_best_mean']:.3f} (sd {gain['cost_at_best_sd']:.3f}).\n"
    )
    if "pair" in found:
        pairs = [
            [name, f"{p['apgr']:.3f}", f"{p['cpt50']:.1f} %", f"{p['cpt80']:.1f} %"]
            for name, p in found["pair"].items()
        ]
        text += "\n" + _table(["two models", "APGR", "CPT(50 %)", "CPT(80 %)"], pairs)
    return text


def _gaps(found: Mapping[str, Any]) -> str:
    head = ["share of the oracle's gap closed, %, at lambda", *next(iter(found["gaps"].values()))]
    rows = [[name, *(f"{gap:.1f}" for gap in gaps.values())] for name, gaps in found["gaps"].items()]
    sd = ", ".join(f"{found['spread'][f'gap_{weight}_sd']:.1f} at {weight}" for weight in ("0.03", "0.1"))
    return _table(head, rows) + f"\nStandard deviation of negotiator's over prompts (bootstrap): {sd}.\n"


def _floors(found: Mapping[str, Any]) -> str:
    rows = [
        [
            f"{row['floor']:.1f}",
            f"{100 * row['served']:.1f} %",
            _number(row["realised"]),
            _number(row["standard_error"]),
            _number(row["cost"]),
            "yes" if row["realised"] >= row["floor"] - 0.02 else "**no**",
        ]
        for row in found["floors"]
    ]
    return _table(["floor", "served", "realised mean quality", "standard error", "cost", "kept"], rows)


def _targets(name: str, found: Mapping[str, Any]) -> str:
    key = name.removesuffix("_public")
    if key not in MUST:
        return ""
    ours = found["routers"]["negotiator"]
    have = {
        **{k: ours[k] for k in ("cost_at_best", "aiq")},
        **{k: ours["calibration"][k] for k in ("brier", "ece")},
        **{f"gap_{weight}": gap for weight, gap in found["gaps"]["negotiator"].items()},
    }
    rows = []
    for what, must in MUST[key].items():
        extreme, value = EXTREME[key][what], have[what]
        sign = -1 if what in LOWER else 1
        met = "missed" if value is None or sign * value < sign * must else "met"
        if value is not None and sign * value >= sign * extreme:
            met = "extreme"
        rows.append([what, _number(value, 4), f"{must:g}", f"{extreme:g}", met])
    return _table(["target", "measured", "must", "extreme", ""], rows)


def _budget(found: Mapping[str, Any]) -> str:
    budget = found.get("budget")
    if budget is None:
        return ""
    rows = [
        [name, f"{rule['performance']:.0f}", f"{rule['sd']:.0f}", f"{100 * rule['share_of_bound']:.1f}"]
        for name, rule in budget["rules"].items()
    ]
    return (
        _table(["budgets per model, PORT's protocol", "performance", "sd of 5 orders", "% of bound"], rows)
        + f"\nRe-solved on ours over PORT as published on ours: {budget['over_port_on_ours']:.2f}; "
        f"on its 5 neighbours: {budget['over_port_on_neighbours']:.2f}.\n"
    )


def _curve(found: Mapping[str, Any]) -> str:
    if not found.get("curve"):
        return ""
    rows = [
        [
            f"{row['prompts']:,}",
            _number(row["cost_at_best"], 2) + f" ({row['reached']} of {row['draws']})",
            _number(row["aiq"]),
            _number(row["brier"]),
            f"{row['gap_0.01']:.1f}",
        ]
        for row in found["curve"]
    ]
    return _table(["labelled prompts", "cost@best (reached)", "AIQ", "Brier", "gap at .01, %"], rows)


def _time(results: Mapping[str, Any]) -> str:
    rows = [
        [name, f"{t['p50_ms']:.3f}", f"{t['p99_ms']:.3f}", f"{t['file_mb']:.1f}"]
        for name, t in results["time"].items()
    ]
    return "## One estimate, all models (best of five rounds per prompt)\n\n" + _table(
        ["file", "p50 ms", "p99 ms", "model file MB"], rows
    )


def _misses(results: Mapping[str, Any]) -> str:
    """Where it does not win, said by the figures themselves."""
    lines = []
    for name, found in results["files"].items():
        ours = found["routers"]["negotiator"]
        for other, router in found["routers"].items():
            if other.endswith("*") or other.startswith("cascade"):
                continue
            lines += [
                f"- {name}: {other} has the better {what} ({router[what]:.4f} against {ours[what]:.4f})."
                for what in ("aiq", "quality_at_cost")
                if router[what] > ours[what]
            ]
        if found["spread"]["aiq_gain_mean"] < 2 * found["spread"]["aiq_gain_sd"]:
            lines.append(f"- {name}: the gain in AIQ over TF-IDF logistic is within two standard deviations.")
        if found["spread"]["quality_gain_over_best_mean"] < found["spread"]["quality_gain_over_best_sd"]:
            lines.append(
                f"- {name}: no proven gain in quality over the best single model at its cost; cost is what falls."
            )
        lines += [
            f"- {name}: at lambda {weight} the best single model, chosen in hindsight, is better (gap {gap:.1f} %)."
            for weight, gap in found["gaps"]["negotiator"].items()
            if gap < -0.05
        ]
        checked = found["routers"]["cascade, check right 80 %"]["aiq"]
        if checked > ours["aiq"]:
            lines.append(
                f"- {name}: a cascade with a check of the answer that is right 80 % of the time has the better AIQ "
                f"({checked:.4f}); where such a check exists use policy `two_tier`."
            )
    return "## Where it does not win\n\n" + "\n".join(lines) + "\n"


def plots(results: Mapping[str, Any], folder: Path) -> list[Path]:
    """Frontier and reliability of every file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    made = []
    for name, found in results["files"].items():
        figure, (left, right) = pyplot.subplots(1, 2, figsize=(14, 5.5), gridspec_kw={"width_ratios": [2, 1]})
        colours = iter(pyplot.get_cmap("tab10").colors)
        for label, line in found["lines"].items():
            cost, quality = (np.array(values) for values in zip(*line, strict=True))
            grid = np.geomspace(cost[0], cost[-1], 300)
            style: dict[str, Any] = (
                {"lw": 1.1, "c": next(colours)} if not label.endswith("*") else {"lw": 1, "c": "grey"}
            )
            if label.endswith("*"):
                style["ls"] = "--" if label.startswith("oracle") else ":"
            if label == "negotiator":
                style |= {"lw": 2.5, "zorder": 5}
            left.plot(grid, np.interp(grid, cost, quality), label=label, **style)
        left.scatter(*zip(*found["single_points"], strict=True), s=14, c="black", label="each model alone")
        left.set(xscale="log", xlabel="dollars per 1,000 prompts", ylabel="mean quality", title=name)
        left.legend(fontsize=7, loc="lower right")
        points = found["routers"]["negotiator"]["calibration"]["reliability"]
        right.plot([0, 1], [0, 1], c="grey", lw=0.8)
        right.plot([p[0] for p in points], [p[1] for p in points], marker="o")
        right.set(xlabel="estimated quality", ylabel="realised quality", title="reliability, all models")
        figure.tight_layout()
        made.append(folder / f"routing_{name}.png")
        figure.savefig(made[-1], dpi=80, metadata={"Software": None})
        pyplot.close(figure)
    return made
