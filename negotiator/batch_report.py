"""What became of a batch that was run: spent, saved, regret, refused, slowest and dearest; JSON, Markdown, a picture.

Read from the result file, line by line, and from the plan of the first round. Comparisons are with that plan's
baselines and bound, which are of the lines it planned: where a batch took several plans they are scaled per request
or left out, and the report says so.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import orjson

from .batch_picture import report_picture
from .errors import InputInvalid
from .money import format_usd, parse_usd

__all__ = ["batch_report", "report_markdown", "write_report"]

SHOWN: Final = 10
"""Slowest, dearest and refused lines that are named."""

Values = Mapping[str, Any]


def batch_report(results: Path, planned: Values | None) -> dict[str, Any]:
    """The report as plain values. planned: the summary of the batch's first plan, None = there is none.

    Reads ``results``, of which one line is held at a time.
    """
    spent, served = 0, 0
    codes: Counter[str] = Counter()
    refused: list[dict[str, Any]] = []
    slowest: list[tuple[int, str, str]] = []
    dearest: list[tuple[int, str, str]] = []
    for line in _lines(results):
        custom_id, nusd = line["custom_id"], parse_usd(line["cost_usd"])
        spent += nusd
        if line["error"] is not None:
            codes[line["error"]["code"]] += 1
            if len(refused) < SHOWN:
                offers = line["error"].get("reject", {}).get("counter_offers", [])
                error = line["error"]
                refused.append(
                    {
                        "custom_id": custom_id,
                        "code": error["code"],
                        "message": error["message"],
                        "counter_offers": offers,
                    }
                )
            continue
        served += 1
        bill = line["response"]["body"]["negotiator"]
        seller = f"{bill['provider']}/{bill['model']}"
        _keep(slowest, (bill["latency_ms"], custom_id, seller))
        _keep(dearest, (nusd, custom_id, seller))
    return {
        "served": served,
        "refused": sum(codes.values()),
        "spent_usd": format_usd(spent),
        **_compared(planned, spent, served, served + sum(codes.values())),
        "rejects": dict(sorted(codes.items())),
        "refused_lines": refused,
        "slowest": [
            {"custom_id": i, "latency_ms": ms, "model": m} for ms, i, m in sorted(slowest, reverse=True)
        ],
        "dearest": [
            {"custom_id": i, "cost_usd": format_usd(nusd), "model": m}
            for nusd, i, m in sorted(dearest, reverse=True)
        ],
    }


def _compared(planned: Values | None, spent: int, served: int, requests: int) -> dict[str, Any]:
    """Saved against every baseline, and regret: what was spent above the least that serving as many can cost."""
    if planned is None:
        return {"saved_usd": {}, "regret_usd": None, "compared": "nothing was planned in this run"}
    saved: dict[str, str | None] = {}
    for name, baseline in planned["baselines"].items():
        cost_nusd = parse_usd(baseline["cost_usd"])
        would = cost_nusd * served // baseline["served"] if baseline["served"] else None
        saved[name] = None if would is None else _signed(would - spent)
    whole = planned["requests"] == requests and planned["served"] == served
    words = "each way's cost per request it serves, times the requests served here"
    return {
        "saved_usd": saved,
        "regret_usd": _signed(spent - parse_usd(planned["cost_bound_usd"])) if whole else None,
        "compared": words if whole else f"{words}; no regret, for the first plan is not of the same requests",
    }


def report_markdown(report: Values) -> str:
    """The report for people."""
    text = [
        "# Batch report",
        "",
        f"{report['served']} requests served for ${report['spent_usd']}, {report['refused']} refused.",
    ]
    if report["regret_usd"] is not None:
        text.append(
            f"Regret: ${report['regret_usd']} above the least that serving as many was proven to cost."
        )
    text += ["", f"Compared: {report['compared']}.", ""]
    text += _table(
        "Saved",
        ("against", "US dollars"),
        [(n.replace("_", " "), s or "-") for n, s in report["saved_usd"].items()],
    )
    text += _table("Refused", ("code", "requests"), list(report["rejects"].items()))
    offers = [
        (one["custom_id"], one["code"], "; ".join(_offer(offer) for offer in one["counter_offers"]) or "-")
        for one in report["refused_lines"]
    ]
    text += _table("The first refused", ("request", "code", "would be served with"), offers)
    slowest = [(one["custom_id"], one["model"], one["latency_ms"]) for one in report["slowest"]]
    text += _table("Slowest", ("request", "model", "ms"), slowest)
    dearest = [(one["custom_id"], one["model"], one["cost_usd"]) for one in report["dearest"]]
    text += _table("Dearest", ("request", "model", "US dollars"), dearest)
    return "\n".join(text)


def write_report(report: Values, folder: Path) -> list[Path]:
    """Write report.json, report.md and report.svg. Raises InputInvalid."""
    texts = {
        "report.json": orjson.dumps(report, option=orjson.OPT_INDENT_2),
        "report.md": report_markdown(report).encode(),
        "report.svg": report_picture(report).encode(),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_bytes(text)
    except OSError as error:
        raise InputInvalid(f"{folder}: expected a writable folder, found: {error.strerror}") from None
    return [folder / name for name in texts]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        yield from map(orjson.loads, file)


def _keep(most: list[tuple[int, str, str]], one: tuple[int, str, str]) -> None:
    if len(most) < SHOWN:
        heapq.heappush(most, one)
    else:
        heapq.heappushpop(most, one)


def _signed(nusd: int) -> str:
    return f"-{format_usd(-nusd)}" if nusd < 0 else format_usd(nusd)


def _offer(offer: Values) -> str:
    terms = ", ".join(f"{term}={value}" for term, value in offer["terms"].items())
    return f"{terms} ({offer['model']}, ${offer['expected_usd']})"


def _table(title: str, columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> list[str]:
    if not rows:
        return []
    cells = (" | ".join(str(cell).replace("|", "\\|") for cell in row) for row in rows)
    rule = "|".join("---" for _ in columns)
    return [
        f"## {title}",
        "",
        f"| {' | '.join(columns)} |",
        f"|{rule}|",
        *(f"| {row} |" for row in cells),
        "",
    ]
