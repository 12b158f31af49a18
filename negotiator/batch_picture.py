"""A batch's report as one picture: what was spent beside what other ways would have cost, and how the lines ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from xml.sax.saxutils import escape

from .money import format_usd, parse_usd

__all__ = ["report_picture"]

WIDTH: Final = 720
LEFT: Final = 190
RIGHT: Final = 130
BAR: Final = 22
STEP: Final = 34
TOP: Final = 84

Values = Mapping[str, Any]


def report_picture(report: Values) -> str:
    """The picture as SVG; it needs no font, script or file beside it."""
    bars = _bars(report)
    rows = [(name, nusd, _short(nusd)) for name, nusd in bars]
    total = report["served"] + report["refused"]
    height = TOP + STEP * len(rows) + 84
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
        ' font-family="system-ui, sans-serif" font-size="14" role="img">',
        f"<title>{escape(_sentence(report))}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        _text(24, 34, "What this batch cost", size=19, weight=600),
        _text(24, 58, _sentence(report), fill="#555555"),
        *_row_parts(rows),
        *_outcome(report, total, TOP + STEP * len(rows) + 18),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _bars(report: Values) -> list[tuple[str, int]]:
    spent_nusd = parse_usd(report["spent_usd"])
    others = [
        (name.replace("_", " "), max(0, spent_nusd + _signed_nusd(usd)))
        for name, usd in report["saved_usd"].items()
        if usd is not None
    ]
    return [("this batch", spent_nusd), *others]


def _row_parts(rows: Sequence[tuple[str, int, str]]) -> list[str]:
    dearest_nusd = max((nusd for _, nusd, _ in rows), default=0) or 1
    parts = []
    for number, (name, nusd, label) in enumerate(rows):
        y = TOP + STEP * number
        length = max(2, (WIDTH - LEFT - RIGHT) * nusd // dearest_nusd)
        colour = "#1f6feb" if number == 0 else "#b8c0cc"
        parts.append(_text(LEFT - 12, y + 16, name, anchor="end"))
        parts.append(f'<rect x="{LEFT}" y="{y}" width="{length}" height="{BAR}" rx="3" fill="{colour}"/>')
        parts.append(_text(LEFT + length + 8, y + 16, label, weight=600 if number == 0 else 400))
    return parts


def _outcome(report: Values, total: int, y: int) -> list[str]:
    """One strip: the served, then each kind of refusal."""
    width = WIDTH - 48
    shares = [("served", report["served"], "#2da44e")]
    shares += [(code, count, "#cf222e") for code, count in report["rejects"].items()]
    parts, x = [_text(24, y + 4, f"{total} requests")], 24.0
    for name, count, colour in shares:
        length = width * count / total if total else 0.0
        parts.append(
            f'<rect x="{x:.1f}" y="{y + 12}" width="{max(0.0, length - 1):.1f}" height="14" fill="{colour}">'
            f"<title>{escape(f'{name}: {count}')}</title></rect>"
        )
        x += length
    told = ", ".join(f"{name} {count}" for name, count, _ in shares)
    parts.append(_text(24, y + 46, told if len(told) <= 95 else told[:94] + "…", fill="#555555", size=12))
    return parts


def _sentence(report: Values) -> str:
    return f"{report['served']} served for {_short(parse_usd(report['spent_usd']))}, {report['refused']} not served"


def _text(
    x: float,
    y: float,
    text: str,
    *,
    fill: str = "#1f2328",
    size: int = 14,
    weight: int = 400,
    anchor: str = "start",
) -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" fill="{fill}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}">'
        f"{escape(text)}</text>"
    )


def _short(nusd: int) -> str:
    """Dollars to about four digits."""
    whole = len(str(nusd // 10**9)) if nusd >= 10**9 else 0
    keep = 4 - whole if whole else 13 - len(str(nusd))
    unit = 10 ** max(0, 9 - max(2, keep))
    return f"${format_usd((nusd + unit // 2) // unit * unit)}"


def _signed_nusd(usd: str) -> int:
    return -parse_usd(usd[1:]) if usd.startswith("-") else parse_usd(usd)
