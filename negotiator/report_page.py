"""A report as one page of HTML: its tables and pictures, no script, nothing loaded from elsewhere, light and dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from html import escape
from typing import Any, Final

from .report_plots import bars, columns_over_time, points, waterfall
from .report_text import Table, dollars, headline, report_tables

__all__ = ["report_page"]

Values = Mapping[str, Any]

STYLE: Final = """
:root { color-scheme: light dark; --ink:#1b1b19; --muted:#62615c; --line:#dddcd5; --paper:#fcfcfb; --card:#fff;
  --a:#2a78d6; --b:#a9a79c; --up:#d9622b; --down:#1a9870; }
@media (prefers-color-scheme: dark) { :root { --ink:#ecebe4; --muted:#a3a199; --line:#3a3935; --paper:#1a1a19;
  --card:#232321; --a:#4b93ea; --b:#7b7970; --up:#e6783f; --down:#2fae84; } }
body { margin:0 auto; max-width:60rem; padding:2rem 1rem 4rem; background:var(--paper); color:var(--ink);
  font:16px/1.5 system-ui, sans-serif; }
h1 { font-size:1.5rem; margin:0 0 .25rem; } h2 { font-size:1.05rem; margin:2.2rem 0 .5rem; }
p { margin:.25rem 0; } .muted, figcaption { color:var(--muted); font-size:.85rem; }
.tiles { display:grid; grid-template-columns:repeat(3,1fr); gap:.75rem; margin:1.25rem 0; }
@media (max-width:34rem) { .tiles { grid-template-columns:repeat(2,1fr); } }
.tiles div { background:var(--card); border:1px solid var(--line); border-radius:.5rem; padding:.6rem .8rem; }
.tiles b { display:block; font-size:1.15rem; font-variant-numeric:tabular-nums; white-space:nowrap; }
figure { margin:.75rem 0; overflow-x:auto; } svg { width:100%; min-width:34rem; font:13px system-ui, sans-serif; }
svg text { fill:var(--ink); } svg text.muted { fill:var(--muted); font-size:12px; } .number { font-size:12px; }
svg .axis { stroke:var(--line); } svg .a { fill:var(--a); } svg .b { fill:var(--b); }
svg .up { fill:var(--up); } svg .down { fill:var(--down); }
.wide { overflow-x:auto; } table { border-collapse:collapse; width:100%; font-size:.9rem; }
th, td { text-align:left; padding:.3rem .75rem .3rem 0; border-bottom:1px solid var(--line); }
th { color:var(--muted); font-weight:500; }
td:last-child:not(.right) { min-width:14rem; } .right { text-align:right; white-space:nowrap; font-variant-numeric:tabular-nums; }
"""


def report_page(report: Values) -> str:
    """The page, whole."""
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>negotiator report</title>',
        f"<style>{STYLE}</style></head><body><main>",
        f"<h1>What the orders cost</h1><p>{escape(headline(report))}</p>",
        _tiles(report),
    ]
    for title, picture, says in _pictures(report):
        parts.append(
            f"<h2>{escape(title)}</h2><figure>{picture}<figcaption>{escape(says)}</figcaption></figure>"
        )
    parts += [_table(table) for table in report_tables(report)]
    parts.append("</main></body></html>")
    return "\n".join(parts)


def _tiles(report: Values) -> str:
    cheapest = report["ways"].get("cheapest_first") or {"saved_share": None}
    regret = report["regret"]
    tiles = [
        ("spent", _short(report["spend_usd"])),
        ("served", str(report["served"])),
        ("refused", str(report["refused"])),
        ("mean quality", "-" if report["quality"] is None else f"{report['quality']:.3f}"),
        (
            "saved against cheapest-first",
            "-" if cheapest["saved_share"] is None else f"{100 * cheapest['saved_share']:.1f}%",
        ),
        ("regret", "-" if regret is None else _short(regret["regret_usd"])),
    ]
    return (
        f'<div class="tiles">{"".join(f"<div>{escape(n)}<b>{escape(v)}</b></div>" for n, v in tiles)}</div>'
    )


def _short(usd: str) -> str:
    """Four digits are enough for a picture."""
    return dollars(format(Decimal(f"{float(usd):.4g}"), "f"))


def _pictures(report: Values) -> Sequence[tuple[str, str, str]]:
    """Title, picture, caption of each that there is something to draw for."""
    found = []
    serving = [
        (name.replace("_", " "), 1 / (1 - way["saved_share"]), way)
        for name, way in report["ways"].items()
        if way["served_by_both"] and way["saved_share"] is not None and way["saved_share"] < 1
    ]
    if serving:
        shown = [(name, times, f"{times:.2f} × ours, {way['served']} served") for name, times, way in serving]
        says = "What each way costs on the orders that both it and we served, as a multiple of what they cost us."
        found.append(("Cost against other ways", bars("Cost against other ways", shown), says))
        dots = [
            (name, times, way["quality"], f"{name}: {times:.2f} × ours, quality {way['quality']:.3f}")
            for name, times, way in serving
        ]
        picture = points("Cost and quality", ("cost, as a multiple of ours", "quality"), dots)
        says = "Right is dearer, up is better. Quality is the estimate made beforehand."
        found.append(("Cost and quality", picture, says))
    regret = report["regret"]
    if regret is not None:
        steps = [("optimum beforehand", regret["optimum_beforehand_usd"]), *regret["parts_usd"].items()]
        steps.append(("paid", regret["paid_usd"]))
        rows = [(name, float(usd), _short(usd)) for name, usd in steps]
        says = "What was not known beforehand, replaced one after the other by what turned out."
        found.append(
            ("From the optimum to what was paid", waterfall("Regret in hindsight, by part", rows), says)
        )
    times = report["over_time"]
    if times:
        values = [
            (
                float(one["spend_usd"]),
                f"{one['at']}: ${one['spend_usd']}, {one['served']} served, {one['refused']} refused",
            )
            for one in times
        ]
        says = f"At most ${max(value for value, _ in values):.4g} in one of {len(values)} stretches."
        picture = columns_over_time("Spend over time", (times[0]["at"], times[-1]["at"]), values)
        found.append(("Spend over time", picture, says))
    return found


def _table(table: Table) -> str:
    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=right' if name.startswith('>') else ''}>{escape(cell.lstrip('>') if tag == 'th' else cell)}</{tag}>"
            for name, cell in zip(table.columns, row, strict=True)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in table.rows)
    head = f"<thead><tr>{cells('th', table.columns)}</tr></thead>"
    return f'<h2>{escape(table.title)}</h2><div class="wide"><table>{head}<tbody>{body}</tbody></table></div>'
