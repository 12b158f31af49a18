"""Accounts: made and changed below one's own, raised by deposits, and read where they are in reach."""

from __future__ import annotations

from typing import Any

from ..errors import InputInvalid
from ..money import format_usd
from ..store import Account, Balance, Period
from .faults import ApiFault
from .routes import Answer, Call, route
from .schemas import AccountRequest, DepositRequest
from .schemas_out import AccountOut, AccountsOut

__all__ = ["create_deposit", "list_accounts", "put_account", "read_account"]


@route("PUT", "/v1/accounts/{account_id}", scope="admin", req=AccountRequest, res=AccountOut, errors=(404,))
async def put_account(call: Call) -> Answer:
    """Make an account, or change its budget, period or default. A key manages accounts below its own."""
    asked: AccountRequest = call.body
    account_id = call.request.match_info["account_id"]
    parent = asked.parent
    before = await _balance(call, account_id)
    if not call.caller.everywhere:
        if account_id == call.caller.account:
            raise ApiFault(403, "OUT_OF_REACH", "a key cannot change its own account, only those below")
        if before is not None:
            await call.reach(account_id)
        parent = await call.reach(parent)
    if before is not None and asked.parent is None:
        parent = before.account.parent
    await call.engine.rooms.store.put_account(
        Account(
            account_id=account_id,
            parent=parent,
            budget_nusd=asked.budget_usd,
            period=Period(asked.period),
            default_budget_nusd=asked.default_budget_usd,
        )
    )
    return await _read(call, account_id)


@route("GET", "/v1/accounts/{account_id}", scope="any", res=AccountOut, errors=(404,))
async def read_account(call: Call) -> Answer:
    """An account and where it stands: posted, pending and available, all that is below it included."""
    return await _read(call, await call.reach(call.request.match_info["account_id"]))


@route("GET", "/v1/accounts", scope="read", res=AccountsOut, watch=True)
async def list_accounts(call: Call) -> Answer:
    """The accounts in reach."""
    known = [name for name in await call.engine.rooms.store.accounts() if not name.startswith("~")]
    doorman = call.house.doorman
    reached = [name for name in known if await doorman.within_reach(call.caller, name)]
    return {"accounts": [await _read(call, name) for name in reached]}


@route(
    "POST",
    "/v1/accounts/{account_id}/deposits",
    scope="admin",
    req=DepositRequest,
    res=AccountOut,
    errors=(404,),
)
async def create_deposit(call: Call) -> Answer:
    """Raise an account's budget; the same reference twice counts once."""
    asked: DepositRequest = call.body
    account_id = await call.reach(call.request.match_info["account_id"])
    if account_id == call.caller.account and not call.caller.everywhere:
        raise ApiFault(403, "OUT_OF_REACH", "a key cannot raise its own account, only those below")
    rooms = call.engine.rooms
    if await _balance(call, account_id) is None:
        raise _unknown(account_id)
    await rooms.store.deposit(account_id, asked.amount_usd, asked.reference, rooms.clock.now_ms())
    return await _read(call, account_id)


async def _balance(call: Call, account_id: str) -> Balance | None:
    rooms = call.engine.rooms
    try:
        chain = await rooms.store.balances(account_id, rooms.clock.now_ms())
    except InputInvalid:
        return None
    return chain[0] if chain else None


async def _read(call: Call, account_id: str) -> dict[str, Any]:
    balance = await _balance(call, account_id)
    if balance is None:
        raise _unknown(account_id)
    account = balance.account
    return {
        "account": account.account_id,
        "parent": account.parent,
        "budget_usd": _usd(account.budget_nusd),
        "period": account.period.value,
        "period_key": balance.period_key,
        "default_budget_usd": _usd(account.default_budget_nusd),
        "deposits_usd": format_usd(balance.deposits_nusd),
        "posted_usd": format_usd(balance.posted_nusd),
        "pending_usd": format_usd(balance.pending_nusd),
        "available_usd": _usd(balance.available_nusd),
    }


def _usd(nusd: int | None) -> str | None:
    return None if nusd is None else format_usd(nusd)


def _unknown(account_id: str) -> ApiFault:
    return ApiFault(404, "ACCOUNT_UNKNOWN", f"account {account_id!r} does not exist or is out of reach")
