"""Feedback in, and what it all came to out: spend, savings and refusals by account, model and cause."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from ..wire_out import instant_out
from .faults import ApiFault
from .routes import Answer, Call, route
from .schemas import FeedbackRequest, ReportQuery
from .schemas_out import FeedbackOut, ReportOut

__all__ = ["create_feedback", "read_report"]

SOLVE_S: Final = 5.0
"""How long the optimum in hindsight may be looked for while somebody waits."""


@route("POST", "/v1/feedback", req=FeedbackRequest, res=FeedbackOut, errors=(403, 404))
async def create_feedback(call: Call) -> Answer:
    """Say how good an answer was, 0 to 1: it teaches what is expected of that model."""
    asked: FeedbackRequest = call.body
    account = await call.reach(asked.account)
    call.order_id = asked.order_id
    if await call.engine.history(asked.order_id, account) is None:
        raise ApiFault(404, "UNKNOWN_ORDER", f"there is no order {asked.order_id!r} of this account")
    provider, model = await call.engine.feedback(
        asked.order_id, asked.score, source=asked.source, account=account
    )
    return {"order_id": asked.order_id, "provider": provider, "model": model}


@route("GET", "/v1/report", scope="read", query=ReportQuery, res=ReportOut, errors=(404,))
async def read_report(call: Call) -> Answer:
    """Spend, savings against other ways, regret, refusals since an instant, of the accounts in reach.

    From the order log where one is kept, so of all workers and earlier runs; else what this process saw.
    """
    from ..report_summary import GROUPINGS  # with NumPy's side of reports: most servers are asked for none

    query: ReportQuery = call.query
    since_ms = 0 if query.since is None else _instant_ms(query.since)
    groupings = tuple(query.by.split(",")) if query.by else GROUPINGS
    if strange := set(groupings) - set(GROUPINGS):
        raise ApiFault.invalid(f"by: expected of {', '.join(GROUPINGS)}, found {min(strange)!r}")
    if call.engine.config.store.order_log is not None:
        return await _from_log(call, query.account, since_ms, groupings)
    call.house.counting.catch_up()
    now_ms, tally = call.engine.rooms.clock.now_ms(), call.house.tally
    accounts = await _in_reach(call, query.account, tally.accounts())
    told, from_ms = tally.report(since_ms, frozenset(accounts))
    kept = {
        name: value for name, value in told.items() if not name.startswith("by_") or name[3:] in groupings
    }
    window = {"since": instant_out(from_ms), "until": instant_out(now_ms), "scope": "process"}
    return {**window, "ways": None, "regret": None, **kept}


async def _from_log(
    call: Call, account: str | None, since_ms: int, groupings: Sequence[str]
) -> dict[str, Any]:
    """What the log of all workers tells; reading and solving happen in a process beside."""
    from ..report_summary import accounts_in, report_from

    path, now_ms = str(call.engine.config.store.order_log), call.engine.rooms.clock.now_ms()
    call.engine.flush_log()
    loop, beside = asyncio.get_running_loop(), call.house.planner
    accounts: frozenset[str] | None = None
    if account is not None or not call.caller.everywhere:
        found = () if account is not None else await loop.run_in_executor(beside, accounts_in, path)
        accounts = frozenset(await _in_reach(call, account, found))
    work = partial(
        report_from, path, since_ms=since_ms, accounts=accounts, by=groupings, time_limit_s=SOLVE_S
    )
    told = await loop.run_in_executor(beside, work)
    window = {"since": instant_out(since_ms), "until": instant_out(now_ms), "scope": "log"}
    return told | window


async def _in_reach(call: Call, account: str | None, known: Iterable[str]) -> list[str]:
    if account is not None:
        return [await call.reach(account)]
    return [name for name in known if await call.house.doorman.within_reach(call.caller, name)]


def _instant_ms(text: str) -> int:
    try:
        if text.isdigit():
            return int(text)
        instant = datetime.fromisoformat(text)
        return round((instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise ApiFault.invalid(
            f"since: expected an RFC 3339 date or instant, or milliseconds, found {text!r}"
        ) from None
