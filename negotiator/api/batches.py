"""OpenAI's Batch API: a file of requests, planned as one, run within every limit beside other traffic."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import orjson
from aiohttp import web

from ..batch_files import FILE_KEPT_S
from ..batch_picture import report_picture
from ..batch_records import BatchRecord
from ..batch_report import batch_report, report_markdown
from ..wire import PlanOptions, Terms
from ..wire_batches import batch_terms_from, window_ms_from
from .buying import terms_of
from .faults import ApiFault
from .files import found_file, paying_account
from .openai_stream import open_stream
from .routes import Answer, Call, route
from .schemas import AccountQuery
from .schemas_batches import (
    BatchesOut,
    BatchListQuery,
    BatchOut,
    BatchReportOut,
    BatchReportQuery,
    BatchRequest,
)

__all__ = ["cancel_batch", "create_batch", "list_batches", "read_batch", "read_batch_report", "stream_batch"]

MAX_OPEN: Final = 100
"""Batches of one account that have not ended."""

EVERY_S: Final = 1.0
LONGEST_SILENCE_S: Final = 15.0
LONGEST_STREAM_S: Final = 3_600.0
TERMS_KEY: Final = "negotiator"

_TYPES: Final = {"json": "application/json", "markdown": "text/markdown", "svg": "image/svg+xml"}
_NAMES: Final = {"json": "report.json", "markdown": "report.md", "svg": "report.svg"}


@route("POST", "/v1/batches", req=BatchRequest, query=AccountQuery, res=BatchOut, errors=(404,))
async def create_batch(call: Call) -> Answer:
    """Run a file of requests within ``completion_window``.

    Terms of all lines: in metadata ``negotiator``, JSON as text; a line's own ``terms`` come first. What is not done in
    time is given up as ``batch_expired``; what was spent stays spent. The same ``idempotency-key`` again answers the
    batch it made first.
    """
    asked: BatchRequest = call.body
    account, office = await paying_account(call), call.house.office
    terms, options = await _terms(call, asked)
    file = found_file(call, account, asked.input_file_id, param="input_file_id")
    if file.purpose != "batch":
        raise ApiFault.invalid(f"input_file_id: expected a file of purpose 'batch', found {file.purpose!r}")
    if office.records.open_of(account) >= MAX_OPEN:
        message = f"{MAX_OPEN} batches of this account have not ended"
        raise ApiFault(429, "TOO_MANY_BATCHES", message, retry_after_ms=60_000)
    kept = asked.output_expires_after
    record = office.records.create(
        file,
        key=_key(call),
        endpoint=asked.endpoint,
        completion_window=asked.completion_window,
        window_ms=window_ms_from(asked.completion_window),
        metadata=asked.metadata,
        terms=_values(terms),
        options=_values(options),
        output_kept_s=FILE_KEPT_S if kept is None else kept.seconds,
    )
    office.desk.wake()
    return record.out()


@route("GET", "/v1/batches", scope="any", query=BatchListQuery, res=BatchesOut, errors=(404,), watch=True)
async def list_batches(call: Call) -> Answer:
    """An account's batches, the latest first."""
    asked: BatchListQuery = call.query
    account = await call.reach(asked.account)
    records, more = call.house.office.records.page(account, after=asked.after, limit=asked.limit)
    return {
        "object": "list",
        "data": [record.out() for record in records],
        "first_id": records[0].batch_id if records else None,
        "last_id": records[-1].batch_id if records else None,
        "has_more": more,
    }


@route("GET", "/v1/batches/{batch_id}", scope="any", query=AccountQuery, res=BatchOut, errors=(404,))
async def read_batch(call: Call) -> Answer:
    """How a batch stands: its state and counts, what it has spent and saved, how fast it goes, when it will be done."""
    return (await _batch(call)).out()


@route("POST", "/v1/batches/{batch_id}/cancel", query=AccountQuery, res=BatchOut, errors=(404, 409))
async def cancel_batch(call: Call) -> Answer:
    """Begin nothing more of it. What is in flight may end for ten seconds; every hold is returned or settled."""
    record = await _batch(call)
    if record.ended:
        message = f"the batch cannot be cancelled: it is {record.status}"
        raise ApiFault(409, "BATCH_ENDED", message)
    record = call.house.office.records.cancel(record)
    call.house.office.desk.wake()
    return record.out()


@route(
    "GET",
    "/v1/batches/{batch_id}/events",
    scope="any",
    query=AccountQuery,
    streams=True,
    produces="text/event-stream",
    errors=(404,),
)
async def stream_batch(call: Call) -> Answer:
    """The batch as server-sent events, one ``batch`` event a second while it changes; ends when the batch does."""
    record = await _batch(call)
    response = await open_stream(call, {})
    loop = asyncio.get_running_loop()
    end_s, told_s, told = loop.time() + LONGEST_STREAM_S, float("-inf"), b""
    while True:
        data, now_s = orjson.dumps(record.out()), loop.time()
        if data != told or now_s - told_s > LONGEST_SILENCE_S:
            await response.write(b"event: batch\ndata: %b\n\n" % data)
            told, told_s = data, now_s
        if record.ended or now_s > end_s or call.house.draining:
            break
        await asyncio.sleep(EVERY_S)
        found = call.house.office.records.find(record.account, record.batch_id)
        if found is None:
            break
        record = found
    await response.write_eof()
    return response


@route(
    "GET",
    "/v1/batches/{batch_id}/report",
    scope="any",
    query=BatchReportQuery,
    res=BatchReportOut,
    errors=(404,),
)
async def read_batch_report(call: Call) -> Answer:
    """What a batch came to, or has come to so far: spent, saved against each baseline, regret, refused, slowest, dearest.

    ``format``: ``json``, ``markdown``, or ``svg`` for a picture.
    """
    record, wanted = await _batch(call), call.query.format
    records = call.house.office.records
    body = await asyncio.to_thread(_report, records.folder(record), records.results(record), record, wanted)
    if body is None:
        raise ApiFault(404, "NO_REPORT", f"the batch has no results to report: it is {record.status}")
    headers = {
        **call.headers,
        "content-type": f"{_TYPES[wanted]}; charset=utf-8",
        "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'",
        "x-content-type-options": "nosniff",
    }
    return web.Response(body=body, headers=headers)


def _report(folder: Path, results: Path, record: BatchRecord, wanted: str) -> bytes | None:
    """The report as it was written at the end, else of the results so far."""
    try:
        return (folder / _NAMES[wanted]).read_bytes()
    except FileNotFoundError:
        pass
    try:
        report = {"batch_id": record.batch_id, **batch_report(results, record.plan)}
    except FileNotFoundError:
        return None
    if wanted == "json":
        return orjson.dumps(report)
    return (report_markdown(report) if wanted == "markdown" else report_picture(report)).encode()


async def _batch(call: Call) -> BatchRecord:
    account = await call.reach(call.query.account)
    batch_id = call.request.match_info["batch_id"]
    record = call.house.office.records.find(account, batch_id)
    if record is None:
        raise ApiFault(404, "UNKNOWN_BATCH", f"there is no batch {batch_id[:64]!r} of this account")
    return record


async def _terms(call: Call, asked: BatchRequest) -> tuple[Terms | None, PlanOptions | None]:
    """A batch's default terms: its metadata's before the headers' before the key's profile."""
    text = (asked.metadata or {}).get(TERMS_KEY)
    given = None if text is None else batch_terms_from(text)
    terms = await terms_of(call, None if given is None else given.plain())
    if terms is not None:
        terms = terms.model_copy(update={"order_id": None, "account": None})
        if terms.profile is not None and terms.profile not in call.engine.config.profiles:
            known = ", ".join(sorted(call.engine.config.profiles)) or "none configured"
            raise ApiFault.invalid(f"profile: expected one of: {known}; found {terms.profile!r}")
    return terms, None if given is None else given.options


def _values(model: Terms | PlanOptions | None) -> Mapping[str, Any]:
    return {} if model is None else model.model_dump(mode="json", exclude_unset=True, exclude_none=True)


def _key(call: Call) -> str | None:
    text = call.request.headers.get("idempotency-key")
    return None if not text else hashlib.blake2s(text.encode(), digest_size=16).hexdigest()
