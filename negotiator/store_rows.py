"""The ledger's rows: one immutable record per thing that happened to money, the same in every store.

A row says how its own account stands after it (``posted_nusd``, ``pending_nusd``, in the account's period), so a
recomputation can name the first row that does not fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple

import orjson

from .errors import InputInvalid
from .money import MAX_NUSD
from .store import Account, Period

__all__ = [
    "NEVER_MS",
    "Row",
    "RowKind",
    "account_from",
    "account_text",
    "check_account",
    "check_amounts",
    "period_key",
    "period_start_ms",
    "rolls_at_ms",
]

DAY_MS: Final = 86_400_000
NEVER_MS: Final = 2**53
"""An instant that does not come: when a total rolls over."""


class RowKind(StrEnum):
    """What happened. POST, HOUSE and SUSPENSE move money to sellers, DEPOSIT raises a budget, the rest moves none."""

    ACCOUNT = "account"
    DEPOSIT = "deposit"
    HOLD = "hold"
    BEGIN = "begin"
    RELAYED = "relayed"
    POST = "post"
    VOID = "void"
    EXPIRE = "expire"
    HOUSE = "house"
    SUSPENSE = "suspense"


class Row(NamedTuple):
    """One row. seq grows by one per store (embedded) or per account tree (Redis).

    nusd: the amount held, posted, released or deposited. reference: order id of a hold, reference of a deposit.
    until_ms: when a hold expires, or stops being in doubt. detail: JSON, an account's terms or a hold's digests.
    """

    seq: int
    at_ms: int
    kind: str
    account: str
    reservation_id: str
    nusd: int
    posted_nusd: int
    pending_nusd: int
    until_ms: int
    reference: str
    detail: str


def check_account(account: Account) -> None:
    """Raises InputInvalid for an id, budget or default that no account may have."""
    name = account.account_id
    if not 0 < len(name) <= 255 or not name.isprintable():
        raise InputInvalid(f"expected an account id of 1 to 255 printable characters, found {name!r}")
    if name.startswith("~"):
        raise InputInvalid(f"expected an account id without a leading ~ (the house's own), found {name!r}")
    for what, nusd in (("budget", account.budget_nusd), ("default budget", account.default_budget_nusd)):
        if nusd is not None and not 0 <= nusd <= MAX_NUSD:
            raise InputInvalid(f"expected a {what} of 0 to {MAX_NUSD} nano-dollars, found {nusd}")


def check_amounts(**amounts_nusd: int) -> None:
    """Raises ValueError for an amount that nobody can hold or owe; names say which it is."""
    for what, nusd in amounts_nusd.items():
        if not 0 <= nusd <= MAX_NUSD:
            raise ValueError(f"expected {what} of 0 to {MAX_NUSD} nano-dollars, found {nusd}")


def account_text(account: Account) -> str:
    """An account's terms as the ``detail`` of its row."""
    return orjson.dumps(
        {
            "parent": account.parent,
            "budget_nusd": account.budget_nusd,
            "period": account.period,
            "default_budget_nusd": account.default_budget_nusd,
        }
    ).decode()


def account_from(account_id: str, detail: str | bytes) -> Account:
    """The account that :func:`account_text` wrote."""
    terms: Mapping[str, Any] = orjson.loads(detail)
    return Account(
        account_id=account_id,
        parent=terms["parent"],
        budget_nusd=terms["budget_nusd"],
        period=Period(terms["period"]),
        default_budget_nusd=terms["default_budget_nusd"],
    )


def period_start_ms(period: Period, at_ms: int) -> int:
    """When the period that contains ``at_ms`` began (UTC); 0 for a total."""
    if period is Period.TOTAL:
        return 0
    if period is Period.DAY:
        return at_ms - at_ms % DAY_MS
    day = datetime.fromtimestamp(at_ms // 1000, UTC)
    return int(datetime(day.year, day.month, 1, tzinfo=UTC).timestamp()) * 1000


def rolls_at_ms(period: Period, at_ms: int) -> int:
    """When the period that contains ``at_ms`` ends (UTC)."""
    if period is Period.TOTAL:
        return NEVER_MS
    start_ms = period_start_ms(period, at_ms)
    if period is Period.DAY:
        return start_ms + DAY_MS
    return period_start_ms(period, start_ms + 32 * DAY_MS)


def period_key(period: Period, start_ms: int) -> str:
    """How people write the period that began at ``start_ms``: ``total``, ``2026-11-24``, ``2026-11``."""
    if period is Period.TOTAL:
        return "total"
    day = datetime.fromtimestamp(start_ms // 1000, UTC)
    return day.strftime("%Y-%m-%d" if period is Period.DAY else "%Y-%m")
