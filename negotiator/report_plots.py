"""Pictures of a report as inline SVG: bars, a waterfall, columns over time, points. Colours are the page's variables."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

__all__ = ["bars", "columns_over_time", "points", "waterfall"]

WIDTH: Final = 680
LABEL: Final = 170  # room for names at the left
DIGIT: Final = 7  # a number's room for each of its characters
ROW: Final = 30
BAR: Final = 18


def bars(title: str, rows: Sequence[tuple[str, float, str]]) -> str:
    """Horizontal bars: name, length, the number before it; the first is ours and drawn as such."""
    left = _left(rows)
    most = max((value for _, value, _ in rows), default=0.0) or 1.0
    parts = []
    for k, (name, value, text) in enumerate(rows):
        length = (WIDTH - left) * value / most
        parts.append(_row(k, name, left, length, text, "a" if k == 0 else "b"))
    return _svg(title, ROW * len(rows) + 4, parts)


def waterfall(title: str, rows: Sequence[tuple[str, float, str]]) -> str:
    """From a first total by steps up or down to a last total; name, height or step, the number before it."""
    left = _left(rows)
    totals, at = [], 0.0
    for k, (_, value, _) in enumerate(rows):
        begin, end = (0.0, value) if k in (0, len(rows) - 1) else (at, at + value)
        totals.append((begin, end))
        at = end
    low = min((min(pair) for pair in totals), default=0.0)
    high = max((max(pair) for pair in totals), default=0.0)
    scale = (WIDTH - left) / ((high - low) or 1.0)
    parts = []
    for k, ((name, _, text), (begin, end)) in enumerate(zip(rows, totals, strict=True)):
        x = left + (min(begin, end) - low) * scale
        kind = "b" if k in (0, len(rows) - 1) else "up" if end >= begin else "down"
        parts.append(_row(k, name, x, abs(end - begin) * scale, text, kind))
    return _svg(title, ROW * len(rows) + 4, parts)


def columns_over_time(
    title: str, labels: tuple[str, str], values: Sequence[tuple[float, str]], height: int = 160
) -> str:
    """Columns of equal stretches of time: height and its words; the first and last instant below."""
    most = max((value for value, _ in values), default=0.0) or 1.0
    step = WIDTH / max(1, len(values))
    parts = []
    for k, (value, text) in enumerate(values):
        tall = (height - 24) * value / most
        x, y = k * step, height - 20 - tall
        shape = f'x="{x:.1f}" y="{y:.1f}" width="{max(1.0, step - 2):.1f}" height="{tall:.1f}" rx="2"'
        parts.append(f'<rect class="a" {shape}><title>{escape(text)}</title></rect>')
    foot = height - 5
    parts.append(f'<line class="axis" x1="0" x2="{WIDTH}" y1="{height - 20}" y2="{height - 20}"/>')
    parts.append(f'<text class="muted" x="0" y="{foot}">{escape(labels[0])}</text>')
    parts.append(f'<text class="muted" x="{WIDTH}" y="{foot}" text-anchor="end">{escape(labels[1])}</text>')
    return _svg(title, height, parts)


def points(
    title: str, axes: tuple[str, str], rows: Sequence[tuple[str, float, float, str]], height: int = 260
) -> str:
    """Named points: name, x, y, words; the first is ours. Both axes begin a little below the least value."""
    left, bottom = 46, height - 34
    spans = [_span([row[at] for row in rows]) for at in (1, 2)]  # type: ignore[misc]
    (low_x, high_x), (low_y, high_y) = spans
    parts = [
        f'<line class="axis" x1="{left}" x2="{WIDTH}" y1="{bottom}" y2="{bottom}"/>',
        f'<line class="axis" x1="{left}" x2="{left}" y1="6" y2="{bottom}"/>',
        f'<text class="muted" x="{WIDTH}" y="{height - 6}" text-anchor="end">{escape(axes[0])} →</text>',
        f'<text class="muted" x="{left + 6}" y="14">↑ {escape(axes[1])}</text>',
        f'<text class="muted" x="{left - 6}" y="{bottom}" text-anchor="end">{low_y:.2f}</text>',
        f'<text class="muted" x="{left - 6}" y="16" text-anchor="end">{high_y:.2f}</text>',
    ]
    taken: list[tuple[float, float]] = []
    for k, (name, x, y, text) in enumerate(rows):
        at_x = left + 10 + (WIDTH - left - 150) * (x - low_x) / (high_x - low_x)
        at_y = bottom - 8 - (bottom - 30) * (y - low_y) / (high_y - low_y)
        label_y = at_y + 4
        while any(abs(label_y - other_y) < 14 and abs(at_x - other_x) < 130 for other_x, other_y in taken):
            label_y += 14
        taken.append((at_x, label_y))
        kind = "a" if k == 0 else "b"
        parts.append(
            f'<circle class="{kind}" cx="{at_x:.1f}" cy="{at_y:.1f}" r="6"><title>{escape(text)}</title></circle>'
        )
        parts.append(f'<text x="{at_x + 11:.1f}" y="{label_y:.1f}">{escape(name)}</text>')
    return _svg(title, height, parts)


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    margin = (high - low) * 0.08 or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def _left(rows: Sequence[tuple[str, float, str]]) -> int:
    """Where bars begin: names and numbers come before them, so that neither is cut off however long a bar is."""
    return LABEL + DIGIT * max((len(text) for _, _, text in rows), default=0) + 12


def _row(number: int, name: str, x: float, length: float, text: str, kind: str) -> str:
    y = number * ROW + 4
    middle = y + BAR / 2 + 4
    return (
        f'<text x="{LABEL - 10}" y="{middle}" text-anchor="end">{escape(name)}</text>'
        f'<rect class="{kind}" x="{x:.1f}" y="{y}" width="{max(1.5, length):.1f}" height="{BAR}" rx="3">'
        f"<title>{escape(name)}: {escape(text)}</title></rect>"
        f'<text class="number" x="{LABEL}" y="{middle}">{escape(text)}</text>'
    )


def _svg(title: str, height: int, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )
