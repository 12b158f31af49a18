"""What if: a log's traffic again under other budgets, limits, sellers or policies, beside the same traffic as it was.

Both are played the same way, so what differs between them is the configuration; how far the played market is from what
really happened stands beside them. What the log does not know is said in :data:`NOT_KNOWN`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from providers.clock import run_virtual

from .config import Config
from .engine_replay import Played, RecordedOrder, play
from .errors import ConfigInvalid, InputInvalid
from .limits import LimitRow
from .money import format_usd
from .order import Order
from .report import FAR_MS, limit_row_from

__all__ = ["NOT_KNOWN", "Recorded", "merged", "read_recorded", "replay"]

NOT_KNOWN: Final = (
    "answers of models that were not called then: their quality and length are the estimates made then",
    "whether buyers would have come again, or asked less, had they been refused or served otherwise",
    "warm prompt caches, sellers' faults, a batch's plan: not played; a line of a batch waits for room and buys by itself",
)

BATCH: Final = "batch_"
"""Ids of batches' orders begin so."""

_SERVED: Final = frozenset({"SETTLED", "PARTIAL"})

Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Recorded:
    """A log that can be played: its orders, its market's limits and configuration (None: an older log), and how many
    orders were left out, for the log has no size of theirs."""

    orders: tuple[RecordedOrder, ...]
    limits: tuple[LimitRow, ...]
    config: Config | None
    left_out: int


def read_recorded(
    lines: Iterable[Mapping[str, Any]],
    since_ms: int = 0,
    until_ms: int = FAR_MS,
    accounts: frozenset[str] | None = None,
) -> Recorded:
    """The orders of a log's lines in the order they came. Raises InputInvalid where there is none to play."""
    limits: tuple[LimitRow, ...] = ()
    config, left_out = None, 0
    found: list[RecordedOrder] = []
    for line in lines:
        if line["type"] == "market":
            limits = tuple(limit_row_from(row) for row in line["limits"])
            config = Config.model_validate(line["config"]) if line.get("config") else None
        elif line["type"] != "order" or not since_ms <= line["received_ms"] < until_ms:
            continue
        elif accounts is None or line["account"] in accounts:
            one = _recorded(line)
            left_out += one is None
            found += [] if one is None else [one]
    if not found:
        raise InputInvalid(
            f"order log: expected orders with their sizes and terms, found none ({left_out} without)"
        )
    found.sort(key=lambda one: one.at_ms)
    orders = tuple(_numbered(one, number) for number, one in enumerate(found))
    return Recorded(orders, limits, config, left_out)


def merged(base: Config, other: Config) -> Config:
    """The market of ``other``, and what it does not say as it is in ``base``."""
    return base.model_copy(update={name: getattr(other, name) for name in other.model_fields_set})


def replay(
    recorded: Recorded,
    other: Config,
    *,
    base: Config | None = None,
    terms: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Values:
    """Both markets played, what changed between them, and what was recorded; as plain values.

    other: what it does not say is as it was. base: the market as it was, None = the log's own. terms: changes to every
    order's, in the other market alone. The same seed gives the same result. Raises ConfigInvalid.
    """
    was = base or recorded.config
    if was is None:
        raise ConfigInvalid("order log: expected the market's configuration, found none; name it with --base")
    orders, total = recorded.orders, 2 * len(recorded.orders)
    limits = recorded.limits if base is None else None
    own_sellers = "providers" in other.model_fields_set
    before = run_virtual(
        play(orders, was, limits=limits, seed=seed, progress=lambda done: progress(done, total))
    )
    after = run_virtual(
        play(
            orders,
            merged(was, other),
            limits=None if own_sellers else limits,
            terms=terms,
            seed=seed,
            progress=lambda done: progress(len(orders) + done, total),
        )
    )
    return _compared(recorded, before, after, seed)


def _recorded(line: Mapping[str, Any]) -> RecordedOrder | None:
    """An order of the log without its number; None where its size is not known, or it asked for embeddings."""
    asked, used = line.get("asked"), line.get("used")
    if not asked or not asked["input_tokens"] or "embeddings" in asked["capabilities"]:
        return None
    rows = line["rounds"][-1][1] if line["rounds"] else []
    quotes = {row[0]: row for row in rows}
    done = [attempt for attempt in line["attempts"] if attempt["outcome"] == "ok"]
    award = quotes.get(done[-1]["quote_id"]) if done else None
    served = line["state"] in _SERVED and award is not None
    ratio = 1.0
    if served and award is not None and used is not None:
        ratio = used["output_tokens"] / max(1, award[11])
    return RecordedOrder(
        at_ms=line["received_ms"],
        order=_order(line, asked),
        quality={row[2]: row[7] for row in rows},
        output_tokens={row[2]: max(1, row[11]) for row in rows},
        ratio=ratio,
        patient=line["order_id"].startswith(BATCH),
        served=served,
        cost_nusd=line["billed_nusd"],
        mean_quality=award[7] if served and award is not None else 0.0,
        model=f"{award[1]}/{award[2]}" if served and award is not None else "",
        reject=(line["reject"] or {}).get("name"),
    )


def _order(line: Mapping[str, Any], asked: Mapping[str, Any]) -> Order:
    kept = {
        name: asked[name]
        for name in (
            *("input_tokens", "max_output_tokens", "named", "budget_nusd", "value_nusd", "quality_margin"),
            *("deadline_ms", "ttft_ms", "session", "session_premium", "rounds"),
        )
    }
    return Order(
        order_id="",
        account=line["account"],
        body=_body("", asked["capabilities"]),
        tiers=tuple(asked["tiers"]),
        models=tuple(asked["models"]),
        exclude=tuple(asked["exclude"]),
        require=frozenset(asked["require"]),
        min_quality=line["min_quality"],
        task=line["task"],
        policy=line["policy"],
        **kept,
    )


def _body(text: str, capabilities: Sequence[str]) -> Values:
    """A body that asks for the same abilities and says nothing but a number."""
    content: Any = text
    if "vision" in capabilities:
        content = [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": ""}}]
    body: Values = {"messages": [{"role": "user", "content": content}]}
    if "tools" in capabilities:
        body["tools"] = [{"type": "function", "function": {"name": "any"}}]
    if "json_schema" in capabilities:
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "any", "schema": {}}}
    return body


def _numbered(one: RecordedOrder, number: int) -> RecordedOrder:
    """Its number is its id, and all that its prompt says: by it what is recorded is found again."""
    body = dict(one.order.body)
    content = body["messages"][0]["content"]
    text = str(number) if isinstance(content, str) else [{"type": "text", "text": str(number)}, content[1]]
    body["messages"] = [{"role": "user", "content": text}]
    return replace(one, order=replace(one.order, order_id=f"replay-{number}", body=body))


def _compared(recorded: Recorded, before: Played, after: Played, seed: int) -> Values:
    orders = recorded.orders
    everything = range(len(orders))
    accounts = sorted({one.order.account for one in orders})
    models = sorted({*before.model.values(), *after.model.values()})
    both = before.cost_nusd.keys() & after.cost_nusd.keys()
    return {
        "orders": len(orders),
        "left_out": recorded.left_out,
        "seed": seed,
        "recorded": _recorded_sums(orders),
        "as_it_was": _sums(before, everything),
        "other": _sums(after, everything),
        "change": _change(before, after, everything),
        "served_by_both": {
            "orders": len(both),
            "as_it_was_usd": format_usd(sum(before.cost_nusd[number] for number in both)),
            "other_usd": format_usd(sum(after.cost_nusd[number] for number in both)),
        },
        "by_account": {
            name: _both(before, after, [n for n in everything if orders[n].order.account == name])
            for name in accounts
        },
        "by_model": {
            name: {
                "as_it_was": _sums(before, [n for n in everything if before.model.get(n) == name]),
                "other": _sums(after, [n for n in everything if after.model.get(n) == name]),
            }
            for name in models
        },
        "rejects": {
            name: {"as_it_was": before.codes[name], "other": after.codes[name]}
            for name in sorted({*before.codes, *after.codes})
        },
        "not_known": list(NOT_KNOWN),
    }


def _both(before: Played, after: Played, numbers: Sequence[int]) -> Values:
    return {
        "as_it_was": _sums(before, numbers),
        "other": _sums(after, numbers),
        "change": _change(before, after, numbers),
    }


def _sums(played: Played, numbers: Iterable[int]) -> Values:
    served = [number for number in numbers if number in played.cost_nusd]
    return {
        "served": len(served),
        "cost_usd": format_usd(sum(played.cost_nusd[number] for number in served)),
        "quality": _mean([played.quality[number] for number in served]),
        "latency_ms": _mean([played.latency_ms[number] for number in served]),
    }


def _recorded_sums(orders: Sequence[RecordedOrder]) -> Values:
    served = [one for one in orders if one.served]
    return {
        "served": len(served),
        "cost_usd": format_usd(sum(one.cost_nusd for one in orders)),
        "quality": _mean([one.mean_quality for one in served]),
    }


def _change(before: Played, after: Played, numbers: Iterable[int]) -> Values:
    numbers = list(numbers)
    was, now = _sums(before, numbers), _sums(after, numbers)
    costs = [sum(played.cost_nusd.get(number, 0) for number in numbers) for played in (before, after)]
    quality = None
    if was["quality"] is not None and now["quality"] is not None:
        quality = round(now["quality"] - was["quality"], 4)
    return {
        "served": now["served"] - was["served"],
        "cost_usd": format_usd(costs[1] - costs[0]),
        "quality": quality,
    }


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None
