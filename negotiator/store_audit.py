"""Recount a ledger from its rows, apart from the stores' own arithmetic, and name the first row that does not fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .money import format_usd
from .store import HOUSE, SUSPENSE, Account
from .store_rows import Row, RowKind, account_from, account_text, period_start_ms, rolls_at_ms

__all__ = ["Recount", "Sums"]

_OUT = frozenset({RowKind.POST, RowKind.HOUSE, RowKind.SUSPENSE})
_RESOLVES = frozenset({RowKind.POST, RowKind.VOID, RowKind.EXPIRE})


@dataclass(slots=True)
class Sums:
    """An account's sums: posted, pending and deposits with all descendants', in its period; spent alone and ever."""

    posted_nusd: int = 0
    pending_nusd: int = 0
    deposits_nusd: int = 0
    spent_nusd: int = 0


@dataclass(slots=True)
class _Part:
    account: Account
    sums: Sums = field(default_factory=Sums)
    start_ms: int = 0


class Recount:
    """Sums of all accounts as the rows say, from the beginning or from a checkpoint."""

    def __init__(self, checkpoint: Mapping[str, Any] | None = None) -> None:
        self._parts = {name: _Part(Account(account_id=name)) for name in (HOUSE, SUSPENSE)}
        self._holds: dict[str, tuple[str, int]] = {}
        self._sellers_nusd = 0
        self.seq = 0
        self.misfit: str | None = None
        if checkpoint is not None:
            self._start_from(checkpoint)

    def _start_from(self, checkpoint: Mapping[str, Any]) -> None:
        self.seq = checkpoint["seq"]
        for name, (terms, posted, pending, deposits, spent, rolls_ms, *_) in checkpoint["accounts"].items():
            account = account_from(name, terms)
            start_ms = period_start_ms(account.period, rolls_ms - 1)
            self._parts[name] = _Part(account, Sums(posted, pending, deposits, spent), start_ms)
            self._sellers_nusd += spent
        for reservation_id, account_id, _order_id, hold_nusd, *_ in checkpoint["holds"]:
            self._holds[reservation_id] = (account_id, hold_nusd)

    def save(self) -> dict[str, Any]:
        """A checkpoint to start another recount from."""
        accounts = {}
        for name, part in self._parts.items():
            sums, period = part.sums, part.account.period
            accounts[name] = [
                account_text(part.account),
                sums.posted_nusd,
                sums.pending_nusd,
                sums.deposits_nusd,
                sums.spent_nusd,
                rolls_at_ms(period, part.start_ms),
            ]
        holds = [[rid, account, "", nusd] for rid, (account, nusd) in self._holds.items()]
        return {"seq": self.seq, "accounts": accounts, "holds": holds}

    def feed(self, rows: Iterable[Row]) -> str | None:
        """Count more rows, in order; the first misfit so far, in words."""
        for row in rows:
            if self.misfit is not None:
                break
            fault = self._sequence(row) or self._count(row) or self._standing(row)
            if fault is not None:
                self.misfit = f"row {row.seq} ({row.kind} on {row.account!r}): {fault}"
        return self.misfit

    def compare(self, sums: Mapping[str, Sums]) -> str | None:
        """The first misfit in the rows, else the first account that stands otherwise than the rows say."""
        if self.misfit is not None:
            return self.misfit
        for name in sorted(sums.keys() | self._parts.keys()):
            counted = self._parts[name].sums if name in self._parts else None
            if counted != sums.get(name):
                return f"account {name!r}: the rows give {counted}, the store has {sums.get(name)}"
        debits_nusd = sum(part.sums.spent_nusd for part in self._parts.values())
        if debits_nusd != self._sellers_nusd:
            return (
                f"accounts paid {format_usd(debits_nusd)} USD, sellers got {format_usd(self._sellers_nusd)}"
            )
        return None

    def _sequence(self, row: Row) -> str | None:
        if row.seq != self.seq + 1:
            return f"expected row {self.seq + 1} here"
        self.seq = row.seq
        return None

    def _count(self, row: Row) -> str | None:
        if row.kind == RowKind.ACCOUNT:
            return self._define(account_from(row.account, row.detail))
        if row.account not in self._parts:
            return "no row made this account"
        part = self._parts[row.account]
        if row.kind == RowKind.HOLD:
            if row.reservation_id in self._holds:
                return f"reservation {row.reservation_id} is held already"
            self._holds[row.reservation_id] = (row.account, row.nusd)
            self._draw(part, 0, row.nusd, row.at_ms)
        elif row.kind in _RESOLVES:
            return self._resolve(part, row)
        elif row.kind == RowKind.DEPOSIT:
            self._roll(part, row.at_ms)
            part.sums.deposits_nusd += row.nusd
        elif row.kind in _OUT:
            part.sums.posted_nusd += row.nusd
            part.sums.spent_nusd += row.nusd
            self._sellers_nusd += row.nusd
        return None

    def _define(self, account: Account) -> str | None:
        if account.parent is not None and account.parent not in self._parts:
            return f"no row made its parent {account.parent!r}"
        part = self._parts.setdefault(account.account_id, _Part(account))
        if part.account.period != account.period:
            part.sums.posted_nusd = part.sums.deposits_nusd = part.start_ms = 0
        part.account = account
        return None

    def _resolve(self, part: _Part, row: Row) -> str | None:
        account_id, hold_nusd = self._holds.pop(row.reservation_id, ("", 0))
        if account_id != row.account:
            return f"reservation {row.reservation_id} is not held here, or resolved before"
        if not 0 <= row.nusd <= (hold_nusd if row.kind == RowKind.POST else 0):
            return f"posts {row.nusd} on a hold of {hold_nusd}"
        self._draw(part, row.nusd, -hold_nusd, row.at_ms)
        part.sums.spent_nusd += row.nusd
        self._sellers_nusd += row.nusd
        return None

    def _draw(self, part: _Part, posted_nusd: int, pending_nusd: int, at_ms: int) -> None:
        above: _Part | None = part
        while above is not None:
            self._roll(above, at_ms)
            above.sums.posted_nusd += posted_nusd
            above.sums.pending_nusd += pending_nusd
            above = self._parts[above.account.parent] if above.account.parent is not None else None

    def _roll(self, part: _Part, at_ms: int) -> None:
        start_ms = period_start_ms(part.account.period, at_ms)
        if start_ms > part.start_ms:
            part.start_ms = start_ms
            part.sums.posted_nusd = part.sums.deposits_nusd = 0

    def _standing(self, row: Row) -> str | None:
        sums = self._parts[row.account].sums
        if (row.posted_nusd, row.pending_nusd) == (sums.posted_nusd, sums.pending_nusd):
            return None
        return (
            f"says posted {row.posted_nusd} and pending {row.pending_nusd},"
            f" counted {sums.posted_nusd} and {sums.pending_nusd}"
        )
