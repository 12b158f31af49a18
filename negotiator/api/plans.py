"""Plans: the cheapest feasible assignment of a batch, solved beside the server, not in it; nothing is executed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import orjson
from aiohttp import web

from ..plan_lines import LineFault, PlanLine, read_lines
from ..wire import PlanOptions
from .faults import ApiFault
from .routes import NDJSON_TYPES, Answer, Call, route
from .schemas import PlanRequest
from .schemas_out import PlanOut

if TYPE_CHECKING:
    from ..planning import PlannedBatch

__all__ = ["create_plan"]

MAX_LINES: Final = 1_000_000
LARGE: Final = 2_000
"""Plans of more lines are always streamed back line by line."""

MAX_WAITING: Final = 8
FLUSH_BYTES: Final = 65_536


@route(
    "POST",
    "/v1/plans",
    req=PlanRequest,
    query=PlanOptions,
    res=PlanOut,
    ndjson=True,
    errors=(403, 404, 429),
)
async def create_plan(call: Call) -> Answer:
    """Plan a batch: which model serves which line, within all limits, at the least cost, with its proof.

    Takes ``{requests, options}``, or lines in OpenAI's batch format with the options in the query. Lines, and plans
    of more than 2,000, come back as lines: one per request in their order, then ``{"summary": ...}``.
    """
    from ..planning import plan_requests  # most servers make no plan

    lines, options = await _asked(call)
    house = call.house
    if house.planning >= MAX_WAITING:
        raise ApiFault(429, "PLANNER_BUSY", "other plans are being made", retry_after_ms=2_000)
    house.planning += 1
    try:
        plan = await plan_requests(
            call.engine, iter(lines), options, account=call.caller.account, apart=house.planner
        )
    finally:
        house.planning -= 1
    as_lines = call.body is None or "ndjson" in call.request.headers.get("Accept", "")
    if as_lines or len(lines) > LARGE:
        return await _streamed(call, plan)
    return {"summary": plan.summary(), "lines": list(plan.rows())}


async def _asked(call: Call) -> tuple[list[PlanLine | LineFault], PlanOptions]:
    """The lines and options of a request, each line's account checked. Raises ApiFault."""
    if call.body is None:
        lines, options = list(read_lines(call.raw.splitlines())), call.query
    else:
        asked: PlanRequest = call.body
        lines = list(read_lines(call.raw["requests"]))
        options = asked.options if "options" in asked.model_fields_set else call.query
    if not lines or len(lines) > MAX_LINES:
        raise ApiFault.invalid(f"requests: expected 1 to {MAX_LINES} lines, found {len(lines)}")
    named = {line.request.terms.account for line in lines if isinstance(line, PlanLine)}
    for account in named - {None, call.caller.account}:
        if not call.caller.allows("admin"):
            raise ApiFault(403, "SCOPE_MISSING", "account: the key lacks the scope 'admin'", param="account")
        await call.reach(account)
    return lines, options


async def _streamed(call: Call, plan: PlannedBatch) -> web.StreamResponse:
    response = web.StreamResponse(
        headers={
            **call.headers,
            "content-type": sorted(NDJSON_TYPES)[-1],
            "x-request-id": call.request_id,
        }
    )
    await response.prepare(call.request)
    call.stream = response
    for part in _parts(plan):
        await response.write(part)
    await response.write_eof()
    return response


def _parts(plan: PlannedBatch) -> Iterator[bytes]:
    rows: list[bytes] = []
    size = 0
    values: Iterator[dict[str, Any]] = iter((*plan.rows(), {"summary": plan.summary()}))
    for row in values:
        rows.append(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
        size += len(rows[-1])
        if size > FLUSH_BYTES:
            yield b"".join(rows)
            rows, size = [], 0
    yield b"".join(rows)
