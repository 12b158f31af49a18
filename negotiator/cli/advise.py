"""``negotiator advise``: does routing pay for the traffic in a log? Two tiers? Or nothing?"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from negotiator.errors import InputInvalid
from negotiator.export import call_rows
from negotiator.order_log import read_log
from negotiator.quality import load_priors
from negotiator.quality.advice import Advice, Call, advise

from .market import json_option
from .terminal import console, print_json, table

__all__ = ["command"]

MONTH_MS = 30 * 24 * 3_600_000
ERRORS_SHOWN = 5


@click.command()
@click.argument("log", type=click.Path(path_type=Path))
@click.option("--calls-per-month", type=click.IntRange(1), help="Volume; default: from the log's times.")
@click.option(
    "--own-usd-per-month",
    type=click.FloatRange(0),
    default=150.0,
    show_default=True,
    help="What running negotiator costs you: a small server, its store, a look at it now and then.",
)
@click.option(
    "--check-right",
    type=click.FloatRange(0.5, 1.0),
    default=0.8,
    show_default=True,
    help="How often your check of a cheap answer is right.",
)
@click.option(
    "--also",
    multiple=True,
    metavar="MODEL=IN,OUT",
    help="Another model you could buy, with US dollars per million tokens; may be repeated.",
)
@json_option
def command(
    log: Path,
    calls_per_month: int | None,
    own_usd_per_month: float,
    check_right: float,
    also: tuple[str, ...],
    as_json: bool,
) -> None:
    """Say whether routing pays for the traffic in LOG, two tiers suffice, or nothing is needed.

    LOG is an order log that `serve --log` or `run --log` wrote, or JSON lines, one per call: model, input_tokens, output_tokens, cost_usd; where known score (0 to 1: how good the
    answer was) and at (ISO 8601 or milliseconds). Quality without scores comes from published priors.

    Example: negotiator advise calls.jsonl --also gpt-4o-mini=0.15,0.60
    """
    others = dict(_other(text) for text in also)
    calls, times = _read(log)
    found = advise(
        calls,
        load_priors(),
        calls_per_month=calls_per_month or _volume(log, times, len(calls)),
        own_usd_per_month=own_usd_per_month,
        check_right=check_right,
        also=others,
    )
    if as_json:
        print_json(_out(found))
    else:
        _show(found)


def _read(log: Path) -> tuple[list[Call], list[float]]:
    """All calls and their times; InputInvalid naming the lines that are none."""
    calls, times, wrong = [], [], []
    try:
        with log.open(encoding="utf-8", errors="replace") as file:
            own = _is_order_log(file.readline())
            file.seek(0)
            lines = map(json.dumps, call_rows(read_log(log))) if own else file
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                    calls.append(_call(row))
                    if row.get("at") is not None:
                        times.append(_at_ms(row["at"]))
                except (ValueError, TypeError, KeyError, AttributeError) as error:
                    what = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
                    wrong.append(f"line {number}: {what}")
    except OSError as error:
        raise InputInvalid(
            f"{log}: expected a readable order log or JSON lines of calls, found: {error.strerror}"
        ) from None
    if wrong:
        more = f" and {len(wrong) - ERRORS_SHOWN} more lines" if len(wrong) > ERRORS_SHOWN else ""
        raise InputInvalid(f"{log}: {'; '.join(wrong[:ERRORS_SHOWN])}{more}")
    if not calls:
        raise InputInvalid(f"{log}: expected at least one call, found none")
    return calls, times


def _is_order_log(line: str) -> bool:
    """Whether a log begins as the house's own does."""
    try:
        return str(json.loads(line).get("type")) in ("market", "order", "judged")
    except (ValueError, AttributeError):
        return False


def _call(row: Mapping[str, Any]) -> Call:
    score = row.get("score")
    call = Call(
        str(row["model"]),
        int(row["input_tokens"]),
        int(row["output_tokens"]),
        float(row["cost_usd"]),
        None if score is None else float(score),
    )
    if min(call.input_tokens, call.output_tokens, call.cost_usd) < 0 or not math.isfinite(call.cost_usd):
        raise ValueError("expected tokens and cost_usd of 0 or more")
    if call.score is not None and not 0.0 <= call.score <= 1.0:
        raise ValueError(f"score: expected 0 to 1, was {call.score:g}")
    return call


def _at_ms(value: Any) -> float:
    if isinstance(value, str):
        return datetime.fromisoformat(value).timestamp() * 1000
    return float(value)


def _volume(log: Path, times: list[float], calls: int) -> int:
    """Calls a month at the log's own pace."""
    span_ms = max(times) - min(times) if times else 0.0
    if span_ms < 60_000:
        raise InputInvalid(
            f"{log}: no times (at) a minute apart to tell the volume by; give --calls-per-month"
        )
    return max(1, round(calls / span_ms * MONTH_MS))


def _other(text: str) -> tuple[str, tuple[float, float]]:
    name, _, prices = text.partition("=")
    try:
        first, second = (float(price) for price in prices.split(","))
        if not name or min(first, second) < 0.0:
            raise ValueError
    except ValueError:
        raise click.BadParameter(
            f"expected MODEL=IN,OUT in US dollars per million tokens, was {text!r}"
        ) from None
    return name, (first, second)


def _show(found: Advice) -> None:
    """The ways beside today's, then the sentence."""
    rows = [
        [
            way.name,
            ", then ".join(way.models) if way.name == "two tiers" else ", ".join(way.models),
            f"{way.quality:.3f}",
            f"{way.cost_usd * 1000:.4f}",
            f"{way.saved_usd:,.0f}",
            f"{way.net_usd:,.0f}",
            "-" if way.break_even_calls is None else f"{way.break_even_calls:,}",
        ]
        for way in (found.today, *found.ways)
    ]
    columns = [
        "way",
        "models",
        ">quality",
        ">$ per 1,000",
        ">saves $/month",
        ">net $/month",
        ">pays from calls/month",
    ]
    out = console()
    title = (
        f"{found.calls:,} calls, {found.calls_per_month:,} a month; prices {100 * found.spread:.0f} % apart"
    )
    out.print(table(title, columns, rows))
    out.print()
    out.print(found.reason[0].upper() + found.reason[1:] + ".", style="bold")
    scored = sum(found.scored.values())
    basis = (
        f"{scored:,} scores in the log"
        if scored
        else "published priors only; put scores into the log to be sure"
    )
    out.print(f"Quality is estimated from {basis}.")


def _out(found: Advice) -> dict[str, Any]:
    values = asdict(found)
    return {**values, "way": found.best.name if found.best else "nothing"}
