"""What the ledger answers when a store gives no reservation: an earlier answer, or a reject with its numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import orjson

from .errors import Reject, RejectCode, StoreUnavailable
from .money import format_usd
from .order import HoldState, Order, Replayed
from .store import OrderRecord, Shortfall

__all__ = ["again", "away", "short", "unknown_account"]

BUSY_RETRY_MS: Final = 1_000
"""When to come again for money that is held, or for an order that is still running."""

AWAY_RETRY_MS: Final = 2_000
"""When to come again while the store is away."""


def again(order: Order, record: OrderRecord) -> Replayed | Reject:
    """To an order id that is taken: the first answer, else DUPLICATE_DIFFERENT or IN_PROGRESS."""
    facts = {"order_id": order.order_id, "reservation_id": record.reservation_id, "state": record.state.value}
    kept = record.digests  # none of an id that the house made: its answer is not kept either
    names = order.digests.keys() | kept.keys() if kept else ()
    changed = sorted(name for name in names if order.digests.get(name) != kept.get(name))
    if changed:
        return Reject(
            code=RejectCode.DUPLICATE_DIFFERENT,
            message=f"order {order.order_id!r} came before with another {changed[0]}",
            facts={**facts, "field": changed[0], "fields": changed},
        )
    if record.state in (HoldState.PENDING, HoldState.IN_DOUBT):
        return Reject(
            code=RejectCode.IN_PROGRESS,
            message=f"order {order.order_id!r} is still running",
            facts=facts,
            retry_after_ms=BUSY_RETRY_MS,
        )
    if record.response is None:
        return Reject(
            code=RejectCode.DUPLICATE_DIFFERENT,
            message=f"order {order.order_id!r} was charged before and its answer was not kept: use a new order_id",
            facts=facts,
        )
    return Replayed(orjson.loads(record.response))


def short(shortfall: Shortfall) -> Reject:
    """To a hold the money does not suffice for: FUNDS_HELD when it may come free, else FUNDS_INSUFFICIENT."""
    balance = shortfall.balance
    if balance is None:
        return unknown_account(shortfall.account)
    needed, available = format_usd(shortfall.needed_nusd), format_usd(balance.available_nusd or 0)
    facts = {
        "account": shortfall.account,
        "needed_usd": needed,
        "available_usd": available,
        "budget_usd": format_usd(balance.limit_nusd or 0),
        "posted_usd": format_usd(balance.posted_nusd),
        "pending_usd": format_usd(balance.pending_nusd),
        "period": balance.period_key,
    }
    reject = Reject(
        code=RejectCode.FUNDS_INSUFFICIENT,
        message=f"account {shortfall.account!r} has {available} USD left, {needed} are needed",
        facts=facts,
    )
    if not shortfall.held:
        return reject
    message = f"{reject.message}: {facts['pending_usd']} are held by orders still running"
    return replace(reject, code=RejectCode.FUNDS_HELD, message=message, retry_after_ms=BUSY_RETRY_MS)


def unknown_account(account: str) -> Reject:
    """To an account nobody made."""
    return Reject(
        code=RejectCode.ACCOUNT_UNKNOWN,
        message=f"account {account!r} does not exist; accounts are made explicitly",
        facts={"account": account},
    )


def away(error: StoreUnavailable) -> Reject:
    """To anything while the store does not answer."""
    return Reject(
        code=RejectCode.LEDGER_UNAVAILABLE,
        message=f"the ledger does not answer, nothing was spent: {error}",
        retry_after_ms=AWAY_RETRY_MS,
    )
