"""Outcomes out of an order log, as ``negotiator train`` reads them: hashed features, who answered, how well, for how much.

One row per prompt; orders with the same prompt are one row, so an escalation, or the same question asked of another
model, says how two models compare. A prompt's words leave only when asked for, and only where the log kept them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from .errors import InputInvalid
from .money import NUSD_PER_USD

__all__ = ["Exported", "call_rows", "outcome_rows", "write_outcomes"]

_SERVED: Final = frozenset({"SETTLED", "PARTIAL"})


@dataclass(slots=True)
class _Answers:
    """What one model made of one prompt, over all the times it was asked."""

    scores: list[float] = field(default_factory=list)
    output_tokens: list[int] = field(default_factory=list)
    cost_nusd: list[int] = field(default_factory=list)


@dataclass(slots=True)
class _Prompt:
    task: str | None
    input_tokens: int
    models: dict[str, _Answers] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Exported:
    """rows: as they are written. scored: answers with a score. unscored, unread: orders left out, for nobody judged
    them, or for the log has nothing of their prompt."""

    rows: list[dict[str, Any]]
    models: tuple[str, ...]
    scored: int
    unscored: int
    unread: int


def outcome_rows(
    lines: Iterable[Mapping[str, Any]],
    *,
    name_of: Callable[[str], str] = lambda key: key.partition("/")[2],
    text: bool = False,
    unscored: bool = False,
    since_ms: int = 0,
    accounts: frozenset[str] | None = None,
) -> Exported:
    """The rows of a log's lines.

    name_of: what a ``provider/model`` is called in the columns. text: ``prompt`` instead of ``features``. unscored:
    orders nobody judged too, for the length of their answers. Raises InputInvalid where text is asked for and none kept.
    """
    orders: dict[str, Mapping[str, Any]] = {}
    scores: dict[str, list[float]] = {}
    for line in lines:
        if line["type"] == "judged":
            scores.setdefault(line["order_id"], []).append(float(line["score"]))
        elif line["type"] != "order" or line["state"] not in _SERVED or line["received_ms"] < since_ms:
            continue
        elif accounts is None or line["account"] in accounts:
            orders[line["order_id"]] = _slim(line)
    column = "prompt" if text else "features"
    if text and orders and not any("prompt" in order for order in orders.values()):
        raise InputInvalid(
            'order log: expected prompts, found none; [store] order_log_prompts = "text" keeps them from then on'
        )
    prompts: dict[tuple[str, str | None], _Prompt] = {}
    left_out, unread = 0, 0
    for order_id, order in orders.items():
        given = scores.get(order_id, [])
        if order.get(column) is None or order["used"] is None:
            unread += 1
        elif not given and not unscored:
            left_out += 1
        else:
            _add(prompts, order, order[column], given, name_of)
    models = sorted({model for prompt in prompts.values() for model in prompt.models})
    return Exported(
        rows=[_row(column, key[0], prompt, models) for key, prompt in prompts.items()],
        models=tuple(models),
        scored=sum(len(one.scores) for prompt in prompts.values() for one in prompt.models.values()),
        unscored=left_out,
        unread=unread,
    )


def call_rows(lines: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A log's served orders as ``negotiator advise`` reads calls: model, tokens, dollars, mean score or None, when."""
    orders: dict[str, dict[str, Any]] = {}
    scores: dict[str, list[float]] = {}
    for line in lines:
        if line["type"] == "judged":
            scores.setdefault(line["order_id"], []).append(float(line["score"]))
        elif line["type"] == "order" and line["state"] in _SERVED:
            order = _slim(line)
            if order["used"] is not None:
                orders[line["order_id"]] = {
                    "model": order["answered"],
                    "input_tokens": order["used"]["input_tokens"],
                    "output_tokens": order["used"]["output_tokens"],
                    "cost_usd": order["billed_nusd"] / NUSD_PER_USD,
                    "at": line["received_ms"],
                }
    return [
        {**row, "score": sum(given) / len(given) if (given := scores.get(order_id)) else None}
        for order_id, row in orders.items()
    ]


def _slim(line: Mapping[str, Any]) -> dict[str, Any]:
    """What is needed of an order: a log holds every quote, and all orders are held at once here."""
    done = [attempt for attempt in line["attempts"] if attempt["billed_nusd"] or attempt["outcome"] == "ok"]
    asked = line.get("asked") or {}
    kept = {name: line[name] for name in ("prompt", "features") if name in line}
    return kept | {
        "task": line["task"],
        "input_tokens": asked.get("input_tokens") or 0,
        "answered": f"{done[-1]['provider']}/{done[-1]['model']}" if done else None,
        "billed_nusd": done[-1]["billed_nusd"] if done else 0,
        "used": line.get("used") if done else None,
    }


def _add(
    prompts: dict[tuple[str, str | None], _Prompt],
    order: Mapping[str, Any],
    key: str,
    given: Sequence[float],
    name_of: Callable[[str], str],
) -> None:
    prompt = prompts.setdefault((key, order["task"]), _Prompt(order["task"], order["input_tokens"]))
    answers = prompt.models.setdefault(name_of(order["answered"]), _Answers())
    answers.scores += given
    answers.output_tokens.append(order["used"]["output_tokens"])
    answers.cost_nusd.append(order["billed_nusd"])


def _row(column: str, key: str, prompt: _Prompt, models: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {column: key, "task": prompt.task, "input_tokens": prompt.input_tokens}
    for model in models:
        one = prompt.models.get(model)
        scores = [] if one is None else one.scores
        row[f"quality.{model}"] = sum(scores) / len(scores) if scores else None
        row[f"output_tokens.{model}"] = None if one is None else _mean(one.output_tokens)
        row[f"cost_usd.{model}"] = None if one is None else _mean(one.cost_nusd) / NUSD_PER_USD
    return row


def _mean(values: Sequence[int]) -> int:
    return round(sum(values) / len(values))


def write_outcomes(exported: Exported, path: Path) -> int:
    """Write Parquet or, by any other ending, JSON lines; gives the bytes. Raises InputInvalid."""
    if not exported.rows:
        raise InputInvalid(
            f"order log: expected answers that were judged and prompts' features, found none"
            f" ({exported.unscored} without a score, {exported.unread} without features)"
        )
    try:
        if path.suffix == ".parquet":
            _write_parquet(exported.rows, path)
        else:
            lines = (orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in exported.rows)
            with path.open("wb") as file:
                file.writelines(lines)
        return path.stat().st_size
    except OSError as error:
        raise InputInvalid(f"{path}: expected a writable file, found: {error.strerror or error}") from None


def _write_parquet(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise InputInvalid(
            f"{path}: writing Parquet needs pyarrow; pip install 'negotiator[train]'"
        ) from None
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    kinds = {"features": "string", "prompt": "string", "task": "string", "input_tokens": "int64"}
    arrays = {
        name: pyarrow.array(values, pyarrow.type_for_alias(kinds.get(name, "float64")))
        for name, values in columns.items()
    }
    parquet.write_table(pyarrow.table(arrays), path, compression="zstd")
