"""What the dashboard shows, as data: the last orders, where this process stands, and a stream of both.

All of it is of accounts in the caller's reach, and needs the scope ``read``.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import orjson

from ..wire_out import instant_out
from .dashboard_schemas import OrdersOut, OrdersQuery, SummaryOut, TapeQuery
from .faults import ApiFault
from .market import market_out
from .openai_stream import open_stream
from .routes import Answer, Call, route

__all__ = ["list_orders", "read_summary", "stream_tape"]

TICK_S: Final = 0.25
"""Orders are sent at most this often, together."""

EVERY_S: Final = 2.0
"""How often summary and market are sent, and whether the key still holds is asked."""

LONGEST_STREAM_S: Final = 3_600.0
MAX_KNOWN: Final = 10_000
SCOPES: Final = ("read", "use", "admin")
BATCHES: Final = "/v1/batches"


class _Reach:
    """Which accounts a caller may see, asked of the store once for each; an account's parents never change."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._known: dict[str, bool] = {}

    def concerns(self, account: str) -> bool:
        """Whether it may be in reach: False only when it is known not to be."""
        return self._call.caller.everywhere or self._known.get(account, True)

    async def has(self, account: str) -> bool:
        """Whether it is in reach."""
        if account not in self._known:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            doorman = self._call.house.doorman
            self._known[account] = await doorman.within_reach(self._call.caller, account)
        return self._known[account]


@route("GET", "/v1/orders", scope="read", query=OrdersQuery, res=OrdersOut, errors=(404,), watch=True)
async def list_orders(call: Call) -> Answer:
    """The last orders that ended in this process, newest first: who won at what price, who lost and why."""
    query: OrdersQuery = call.query
    account = None if query.account is None else await call.reach(query.account)
    reach, found = _Reach(call), []
    call.house.counting.catch_up()
    for ended in call.house.tape.latest():
        if (ended.account == account) if account is not None else await reach.has(ended.account):
            found.append(ended.out())
            if len(found) == query.limit:
                break
    return {"orders": found}


@route("GET", "/v1/summary", scope="read", res=SummaryOut, watch=True)
async def read_summary(call: Call) -> Answer:
    """Spend, savings, refusals and latency in this process: since its start, and step by step for half an hour."""
    return await _summary(call, _Reach(call))


@route(
    "GET",
    "/v1/tape/stream",
    scope="read",
    query=TapeQuery,
    streams=True,
    produces="text/event-stream",
    watch=True,
)
async def stream_tape(call: Call) -> Answer:
    """Orders of this process as they end, as server-sent events; also ``summary`` and ``market`` where asked for.

    An ``orders`` event has all that ended in the last quarter of a second, oldest first, and how many were
    ``missed`` because they came faster than they were read. A key that is removed or expires ends the stream.
    """
    house, reach = call.house, _Reach(call)
    if house.tape.full:
        raise ApiFault(503, "TOO_MANY_STREAMS", "too many listeners at once", retry_after_ms=5_000)
    events = set(call.query.events.split(","))
    loop = asyncio.get_running_loop()
    house.counting.catch_up()  # what ended before is no news
    with house.tape.listen(reach.concerns) as listener:
        response = await open_stream(call, {})
        end_s, due_s = loop.time() + LONGEST_STREAM_S, 0.0
        while loop.time() < end_s and not house.draining:
            if loop.time() >= due_s:
                due_s = loop.time() + EVERY_S
                if not await _still_admitted(call):
                    break
                if "summary" in events:
                    await response.write(_event("summary", await _summary(call, reach)))
                if "market" in events:
                    await response.write(_event("market", market_out(call.engine.rooms)))
                await response.write(b": here\n\n")
            house.counting.catch_up()
            taken, missed = listener.take()
            orders = [ended.out() for ended in taken if await reach.has(ended.account)]
            if "orders" in events and (orders or missed):
                await response.write(_event("orders", {"orders": orders, "missed": missed}))
            await asyncio.sleep(TICK_S)
        await response.write_eof()
        return response


async def _still_admitted(call: Call) -> bool:
    try:
        caller = await call.house.doorman.admit(call.request.headers, call.request.host)
    except ApiFault:
        return False
    return caller.account == call.caller.account and caller.allows("read")


async def _summary(call: Call, reach: _Reach) -> dict[str, Any]:
    house, rooms, caller = call.house, call.engine.rooms, call.caller
    now_ms = rooms.clock.now_ms()
    house.counting.catch_up()
    names = {*house.tally.accounts(), *house.pulse.accounts()}
    accounts = frozenset([name for name in names if await reach.has(name)])
    report, since_ms = house.tally.report(0, accounts)
    return {
        "at": instant_out(now_ms),
        "caller": {
            "account": caller.account,
            "everywhere": caller.everywhere,
            "scopes": [scope for scope in SCOPES if caller.allows(scope)],
        },
        "workers": rooms.config.server.workers,
        "simulated": rooms.simulated,
        "batches": any(one.path == BATCHES for one in house.routes),
        "totals": {"since": instant_out(since_ms), "until": instant_out(now_ms), **report},
        "window": house.pulse.window(now_ms, accounts),
        "refusals": house.pulse.refusals(accounts),
    }


def _event(name: str, values: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), orjson.dumps(values))
