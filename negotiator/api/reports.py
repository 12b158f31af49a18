"""Feedback in, and what it all came to out: spend, savings and refusals by account, model and cause."""

from __future__ import annotations

from datetime import UTC, datetime

from ..wire_out import instant_out
from .faults import ApiFault
from .routes import Answer, Call, route
from .schemas import FeedbackRequest, ReportQuery
from .schemas_out import FeedbackOut, ReportOut

__all__ = ["create_feedback", "read_report"]


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
    """Spend, savings and refusals since an instant, by account, model and cause, of the accounts in reach."""
    query: ReportQuery = call.query
    now_ms = call.engine.rooms.clock.now_ms()
    since_ms = 0 if query.since is None else _instant_ms(query.since)
    tally = call.house.tally
    if query.account is not None:
        accounts = [await call.reach(query.account)]
    else:
        doorman = call.house.doorman
        accounts = [name for name in tally.accounts() if await doorman.within_reach(call.caller, name)]
    report, from_ms = tally.report(since_ms, frozenset(accounts))
    return {"since": instant_out(from_ms), "until": instant_out(now_ms), **report}


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
