"""A market's orders as its log tells them: who asked, what was quoted, who won, what it cost, how good it was.

``report_book`` makes arrays of them, ``report_hindsight`` solves those again, ``report_ways`` plays what others would
have done, ``report_summary`` says what it all came to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from providers.terms import RateKind

from .limits import LimitRow

__all__ = ["FAR_MS", "LoggedMarket", "LoggedOrder", "Offer", "Quoted", "limit_row_from", "read_market"]

Offer = tuple[str, str, str]
"""Provider, model, tier."""

MET_EVERY_TERM: Final = frozenset({0, 1, 6, 9})
"""Losses of quotes that met the order's own terms: none, pricier, a limit that binds, a seller that was out."""

FAR_MS: Final = 2**62
"""Later than any order."""

_SERVED: Final = frozenset({"SETTLED", "PARTIAL"})


@dataclass(frozen=True, slots=True, eq=False)
class Quoted:
    """The quotes of one order's last round, as arrays over them.

    offer: its number in :attr:`LoggedMarket.offers`. expected_nusd, ceiling_nusd: int64. eligible: it met every term.
    """

    offer: npt.NDArray[np.int32]
    expected_nusd: npt.NDArray[np.int64]
    ceiling_nusd: npt.NDArray[np.int64]
    quality: npt.NDArray[np.float32]
    eligible: npt.NDArray[np.bool_]
    input_tokens: npt.NDArray[np.int32]
    output_tokens: npt.NDArray[np.int32]
    latency_ms: npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedOrder:
    """An order of a log. award: the offer that delivered, -1 = none did. named: the one model its body asked for.

    cause: its state, or the reject it heard. quoted_nusd: what the award was expected to cost. saved_nusd: against the
    dearest quote that met its terms.
    """

    order_id: str
    account: str
    task: str
    cause: str
    at_ms: int
    served: bool
    named: str | None
    min_quality: float
    award: int
    quoted_nusd: int
    billed_nusd: int
    house_nusd: int
    saved_nusd: int
    quality: float
    quoted: Quoted


@dataclass(slots=True)
class LoggedMarket:
    """Orders and sellers of a log. scores: judgements by (provider, model). ejected: (provider, model, from, until)."""

    limits: list[LimitRow] = field(default_factory=list)
    offers: dict[Offer, int] = field(default_factory=dict)
    orders: list[LoggedOrder] = field(default_factory=list)
    scores: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    ejected: list[tuple[str, str, int, int]] = field(default_factory=list)

    @property
    def served(self) -> list[LoggedOrder]:
        """Those that were answered."""
        return [order for order in self.orders if order.served]

    def model_of(self, order: LoggedOrder) -> str:
        """``provider/model`` that answered, ``-`` = none did."""
        return "-" if order.award < 0 else "/".join(self.names[order.award][:2])

    @property
    def names(self) -> list[Offer]:
        """The offers by number."""
        return list(self.offers)


def read_market(
    lines: Iterable[Mapping[str, Any]],
    since_ms: int = 0,
    until_ms: int = FAR_MS,
    accounts: frozenset[str] | None = None,
) -> LoggedMarket:
    """The market behind the lines of an order log; only orders received in the time, of the accounts (None: all)."""
    market = LoggedMarket()
    for line in lines:
        kind = line["type"]
        if kind == "market":
            market.limits = [limit_row_from(row) for row in line["limits"]]
        elif kind == "judged":
            market.scores.setdefault((line["provider"], line["model"]), []).append(float(line["score"]))
        elif kind == "ejected":
            until = line["at_ms"] + line["ejection_ms"]
            market.ejected.append((line["provider"], line["model"], line["at_ms"], until))
        elif kind == "recovered":
            _recovered(market, line["provider"], line["model"], line["at_ms"])
        elif kind == "order" and since_ms <= line["received_ms"] < until_ms and _of(line, accounts):
            market.orders.append(_order(market, line))
    market.orders.sort(key=lambda order: order.at_ms)
    return market


def _of(line: Mapping[str, Any], accounts: frozenset[str] | None) -> bool:
    return accounts is None or line["account"] in accounts


def _recovered(market: LoggedMarket, provider: str, model: str, at_ms: int) -> None:
    """A seller that was out answered again: from then on it is not counted as out."""
    for number, (name, sold, from_ms, until_ms) in enumerate(market.ejected):
        if (name, sold) == (provider, model) and from_ms <= at_ms < until_ms:
            market.ejected[number] = (name, sold, from_ms, at_ms)


def _order(market: LoggedMarket, line: Mapping[str, Any]) -> LoggedOrder:
    rows = line["rounds"][-1][1] if line["rounds"] else []
    served = line["state"] in _SERVED and bool(line["award"])
    award = _award(line, rows) if served else None
    dearest_nusd = max((row[4] for row in rows if row[8] in MET_EVERY_TERM), default=0) if served else 0
    offer_of = market.offers
    numbers = [offer_of.setdefault((row[1], row[2], row[3]), len(offer_of)) for row in rows]
    return LoggedOrder(
        order_id=line["order_id"],
        account=line["account"],
        task=line["task"] or "-",
        cause=(line["reject"] or {}).get("name") or line["state"],
        at_ms=line["received_ms"],
        served=served,
        named=(line.get("asked") or {}).get("named"),
        min_quality=line.get("min_quality", 0.0),
        award=-1 if award is None else offer_of[award[1], award[2], award[3]],
        quoted_nusd=0 if award is None else award[4],
        billed_nusd=line["billed_nusd"],
        house_nusd=line["house_nusd"],
        saved_nusd=max(0, dearest_nusd - line["billed_nusd"]),
        quality=0.0 if award is None else award[7],
        quoted=_quoted(rows, numbers),
    )


def _quoted(rows: Sequence[Sequence[Any]], numbers: Sequence[int]) -> Quoted:
    def column(at: int, kind: type) -> npt.NDArray[Any]:
        return np.array([row[at] for row in rows], dtype=kind)

    return Quoted(
        offer=np.array(numbers, dtype=np.int32),
        expected_nusd=column(4, np.int64),
        ceiling_nusd=column(5, np.int64),
        quality=column(7, np.float32),
        eligible=np.array([row[8] in MET_EVERY_TERM for row in rows], dtype=bool),
        input_tokens=column(10, np.int32),
        output_tokens=column(11, np.int32),
        latency_ms=column(12, np.int32),
    )


def _award(line: Mapping[str, Any], rows: Sequence[Sequence[Any]]) -> Sequence[Any]:
    """The quote that delivered: the last attempt's that was billed, else the award."""
    quotes = {row[0]: row for row in rows}
    done = [attempt for attempt in line["attempts"] if attempt["billed_nusd"]]
    found = quotes.get(done[-1]["quote_id"]) if done else None
    return found if found is not None else quotes[line["award"]]


def limit_row_from(row: Mapping[str, Any]) -> LimitRow:
    """A seller's limit as a log keeps it."""
    models = None if row["models"] is None else frozenset(row["models"])
    return LimitRow(row["name"], row["provider"], RateKind(row["kind"]), row["amount"], row["per_ms"], models)
