"""What the orders of this process came to, hour by hour: spend, savings and refusals by account, offer and cause."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from ..events import Event
from ..money import format_usd

__all__ = ["Tally"]

HOUR_MS: Final = 3_600_000
MAX_ROWS: Final = 50_000
"""Rows kept; the oldest hour's go first."""


@dataclass(slots=True)
class _Sums:
    orders: int = 0
    spend_nusd: int = 0
    saved_nusd: int = 0
    house_nusd: int = 0

    def add(self, other: _Sums) -> None:
        self.orders += other.orders
        self.spend_nusd += other.spend_nusd
        self.saved_nusd += other.saved_nusd
        self.house_nusd += other.house_nusd

    def out(self) -> dict[str, Any]:
        return {
            "orders": self.orders,
            "spend_usd": format_usd(self.spend_nusd),
            "saved_usd": format_usd(self.saved_nusd),
            "house_usd": format_usd(self.house_nusd),
        }


class Tally:
    """Subscribe :meth:`note` to the bus."""

    def __init__(self, started_ms: int) -> None:
        self._started_ms = started_ms
        self._rows: OrderedDict[tuple[int, str, str, str], _Sums] = OrderedDict()

    def note(self, event: Event) -> None:
        """Count an order that ended."""
        facts = event.facts
        if event.name == "order.settled":
            offer = f"{facts['provider']}/{facts['model']}" if facts["provider"] else ""
            sums = _Sums(1, facts["posted_nusd"], facts["saved_nusd"], facts["house_nusd"])
            self._add(event.at_ms, facts["account"], offer, facts["reject"] or facts["state"], sums)
        elif event.name == "order.rejected":
            self._add(event.at_ms, facts["account"], "", facts["reject"], _Sums(1))

    def accounts(self) -> tuple[str, ...]:
        """Accounts that had an order."""
        return tuple(dict.fromkeys(account for _, account, _, _ in self._rows))

    def report(self, since_ms: int, accounts: frozenset[str]) -> tuple[dict[str, Any], int]:
        """The sums of ``accounts`` since the hour of ``since_ms``, and the instant they begin at."""
        since_ms = max(since_ms, self._started_ms)
        hour = since_ms // HOUR_MS
        chosen = [(row, sums) for row, sums in self._rows.items() if row[0] >= hour and row[1] in accounts]
        whole = _Sums()
        for _, sums in chosen:
            whole.add(sums)
        report = {
            **whole.out(),
            "by_account": _grouped((row[1], sums) for row, sums in chosen),
            "by_model": _grouped((row[2], sums) for row, sums in chosen if row[2]),
            "by_cause": _grouped((row[3], sums) for row, sums in chosen),
        }
        return report, max(hour * HOUR_MS, self._started_ms)

    def _add(self, at_ms: int, account: str, offer: str, cause: str, sums: _Sums) -> None:
        row = (at_ms // HOUR_MS, account, offer, cause)
        known = self._rows.get(row)
        if known is not None:
            known.add(sums)
            return
        self._rows[row] = sums
        if len(self._rows) > MAX_ROWS:
            self._rows.popitem(last=False)


def _grouped(rows: Iterable[tuple[str, _Sums]]) -> dict[str, dict[str, Any]]:
    groups: dict[str, _Sums] = {}
    for name, sums in rows:
        groups.setdefault(name, _Sums()).add(sums)
    return {name: groups[name].out() for name in sorted(groups)}
