"""A report as plain values: spend, savings against every way, regret by part, by account, model, task and cause."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from .money import format_usd
from .order_log import read_log
from .report import FAR_MS, LoggedMarket, LoggedOrder, read_market
from .report_hindsight import Hindsight, hindsight
from .report_ways import ways
from .wire_out import instant_out

__all__ = ["GROUPINGS", "accounts_in", "report_from", "report_of", "summary"]

GROUPINGS: Final = ("account", "model", "task", "cause")
BUCKETS: Final = 48
"""Points in time of a report's picture."""

Values = dict[str, Any]


def report_of(
    lines: Iterable[Mapping[str, Any]],
    *,
    since_ms: int = 0,
    until_ms: int = FAR_MS,
    accounts: frozenset[str] | None = None,
    by: Sequence[str] = GROUPINGS,
    time_limit_s: float = 20.0,
    seed: int = 0,
) -> Values:
    """The whole report of an order log's lines; regret is None where nothing was served or ``time_limit_s`` is 0."""
    market = read_market(lines, since_ms, until_ms, accounts)
    found = None
    if market.served and time_limit_s > 0:
        found = hindsight(market, time_limit_s=time_limit_s, seed=seed)
    return summary(market, found, by)


def report_from(path: str, **asked: Any) -> Values:
    """The same from a log's file: what a server lets another process do, for it takes time."""
    return report_of(read_log(path), **asked)


def accounts_in(path: str) -> list[str]:
    """The accounts that a log has orders of."""
    return sorted({line["account"] for line in read_log(path) if line["type"] == "order"})


def summary(market: LoggedMarket, found: Hindsight | None, by: Sequence[str] = GROUPINGS) -> Values:
    """Spend and savings; by groupings; refusals by code; regret by part; as plain values."""
    orders, served = market.orders, market.served
    key: dict[str, Callable[[LoggedOrder], str]] = {
        "account": lambda order: order.account,
        "model": market.model_of,
        "task": lambda order: order.task,
        "cause": lambda order: order.cause,
    }
    return {
        "from": instant_out(orders[0].at_ms) if orders else None,
        "until": instant_out(orders[-1].at_ms) if orders else None,
        "orders": len(orders),
        "served": len(served),
        "refused": len(orders) - len(served),
        "spend_usd": format_usd(sum(order.billed_nusd for order in orders)),
        "house_usd": format_usd(sum(order.house_nusd for order in orders)),
        "saved_usd": format_usd(sum(order.saved_nusd for order in orders)),
        "quality": _mean([order.quality for order in served]),
        "ways": {name: way.out() for name, way in ways(market).items()},
        **{f"by_{name}": _grouped(orders, key[name], found) for name in by},
        "rejects": dict(sorted(Counter(order.cause for order in orders if not order.served).items())),
        "over_time": _over_time(orders),
        "regret": None if found is None else _regret_out(found),
    }


def _regret_out(found: Hindsight) -> Values:
    return {
        "orders": len(found.orders),
        "paid_usd": format_usd(found.paid_nusd),
        "optimum_beforehand_usd": format_usd(found.beforehand_nusd),
        "regret_usd": format_usd(found.regret_nusd),
        "parts_usd": {name: format_usd(nusd) for name, nusd in found.parts_nusd.items()},
        "gap": found.gap,
        "could_serve": found.could_serve,
    }


def _grouped(
    orders: Sequence[LoggedOrder], key: Callable[[LoggedOrder], str], found: Hindsight | None
) -> dict[str, Values]:
    """By name, dearest first: orders, refusals, spend, savings, quality, and the regret's parts."""
    members: dict[str, list[LoggedOrder]] = {}
    for order in orders:
        members.setdefault(key(order), []).append(order)
    regret = {} if found is None else _regret_by(found, key)
    groups = {name: _sums(group) | regret.get(name, {}) for name, group in members.items()}
    spent = {name: sum(order.billed_nusd for order in group) for name, group in members.items()}
    return dict(sorted(groups.items(), key=lambda item: (-spent[item[0]], item[0])))


def _sums(group: Sequence[LoggedOrder]) -> Values:
    served = [order for order in group if order.served]
    return {
        "orders": len(group),
        "served": len(served),
        "refused": len(group) - len(served),
        "spend_usd": format_usd(sum(order.billed_nusd for order in group)),
        "saved_usd": format_usd(sum(order.saved_nusd for order in group)),
        "quality": _mean([order.quality for order in served]),
    }


def _regret_by(found: Hindsight, key: Callable[[LoggedOrder], str]) -> dict[str, Values]:
    names = [key(order) for order in found.orders]
    ordered = sorted(set(names))
    number = {name: k for k, name in enumerate(ordered)}
    group = np.array([number[name] for name in names])
    totals = {}
    for part, values in found.parts.items():
        sums = np.zeros(len(ordered), dtype=np.int64)
        np.add.at(sums, group, values)
        totals[part] = sums.tolist()
    return {
        name: {
            "regret_usd": format_usd(sum(sums[k] for sums in totals.values())),
            "parts_usd": {part: format_usd(sums[k]) for part, sums in totals.items()},
        }
        for name, k in number.items()
    }


def _over_time(orders: Sequence[LoggedOrder]) -> list[Values]:
    """Served, refused and spent in equal stretches of the log's time."""
    if not orders:
        return []
    first_ms, last_ms = orders[0].at_ms, orders[-1].at_ms
    step_ms = max(1_000, -(-(last_ms - first_ms + 1) // BUCKETS))
    buckets = [[0, 0, 0] for _ in range((last_ms - first_ms) // step_ms + 1)]
    for order in orders:
        bucket = buckets[(order.at_ms - first_ms) // step_ms]
        bucket[0 if order.served else 1] += 1
        bucket[2] += order.billed_nusd
    return [
        {
            "at": instant_out(first_ms + k * step_ms),
            "served": served,
            "refused": refused,
            "spend_usd": format_usd(nusd),
        }
        for k, (served, refused, nusd) in enumerate(buckets)
    ]


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None
