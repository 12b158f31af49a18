"""Anthropic's message batches: all lines in one request, results as lines. They carry no name of ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import orjson

from .anthropic import API_VERSION
from .batch import BatchLine, BatchResult, BatchState, BatchStatus
from .batch_dialect import DAY_MS, Request, call_of, dropped, instant_ms, read_answer
from .dialect import Dialect
from .errors import MalformedAnswer

__all__ = ["AnthropicBatches"]

PATH: Final = "/messages/batches"
PAGE: Final = 100
CLOCKS_APART_MS: Final = 60_000
"""How far the vendor's clock may be behind ours."""

_HEADERS: Final = {"anthropic-version": API_VERSION}
_REFUSED: Final = frozenset({"invalid_request_error", "not_found_error", "request_too_large"})


class AnthropicBatches:
    """The Message Batches API."""

    max_lines: int = 50_000
    max_bytes: int = 50_000_000
    window_ms: int = DAY_MS
    findable: bool = False

    def __init__(self, chat: Dialect) -> None:
        self.chat = chat

    def encode(self, model: str, line: BatchLine) -> bytes:
        """A line: its id and the parameters of one message."""
        params = orjson.Fragment(call_of(self.chat, model, line).body)
        return orjson.dumps({"custom_id": line.line_id, "params": params})

    def upload(self, name: str, lines: Sequence[bytes]) -> Request | None:
        """Nothing: the lines travel with the batch."""
        return None

    def create(self, name: str, model: str, lines: Sequence[bytes], file_id: str | None) -> Request:
        """``POST /messages/batches``."""
        return Request("POST", PATH, b'{"requests":[' + b",".join(lines) + b"]}", _HEADERS)

    def id_of(self, body: Mapping[str, Any]) -> str:
        """The batch's id."""
        found = body.get("id")
        if not isinstance(found, str) or not found:
            raise MalformedAnswer(f"expected an id, found {found!r}")
        return found

    def look(self, batch_id: str) -> Request:
        """``GET /messages/batches/ID``."""
        return Request("GET", f"{PATH}/{batch_id}", headers=_HEADERS)

    def status(self, body: Mapping[str, Any]) -> BatchStatus:
        """Its state and counts. Results are fetched by id: an address in an answer is not followed."""
        counts = {name: int(count) for name, count in (body.get("request_counts") or {}).items()}
        ended = body["processing_status"] == "ended"
        done = counts.get("succeeded", 0)
        return BatchStatus(
            state=BatchState.ENDED if ended else BatchState.RUNNING,
            total=sum(counts.values()),
            done=done,
            failed=sum(counts.values()) - done - counts.get("processing", 0),
            detail=str(body["processing_status"]),
            results=(self.id_of(body),) if ended else (),
        )

    def cancel(self, batch_id: str) -> Request:
        """``POST /messages/batches/ID/cancel``."""
        return Request("POST", f"{PATH}/{batch_id}/cancel", headers=_HEADERS)

    def listing(self, page: int, after: str | None) -> Request:
        """``GET /messages/batches``."""
        more = f"&after_id={after}" if after else ""
        return Request("GET", f"{PATH}?limit={PAGE}{more}", headers=_HEADERS)

    def listed(self, body: Mapping[str, Any]) -> tuple[Sequence[Mapping[str, Any]], str | None]:
        """A page, and its last id where there are more."""
        rows = body.get("data") or []
        return rows, str(body.get("last_id")) if rows and body.get("has_more") else None

    def is_named(self, row: Mapping[str, Any], name: str, lines: int, since_ms: int) -> bool:
        """Whether it is as large and was made since: it could be ours. The ids in its results will tell."""
        total = sum(int(count) for count in (row.get("request_counts") or {}).values())
        return total == lines and instant_ms(row.get("created_at")) >= since_ms - CLOCKS_APART_MS

    def fetch(self, place: str) -> Request:
        """``GET /messages/batches/ID/results``."""
        return Request("GET", f"{PATH}/{place}/results", headers=_HEADERS)

    def rows(self, body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]] | None:
        """Results come as lines."""
        return None

    def result(self, row: Mapping[str, Any]) -> BatchResult:
        """The message of a line, the error it met, or why it was not run."""
        line_id, told = str(row["custom_id"]), row["result"]
        kind = str(told["type"])
        if kind == "succeeded":
            return read_answer(self.chat, line_id, 200, told["message"])
        if kind == "errored":
            error = told["error"]
            inner = error.get("error") or error
            status = 400 if inner.get("type") in _REFUSED else 500
            return read_answer(self.chat, line_id, status, {"type": "error", "error": inner})
        return dropped(line_id, kind)
