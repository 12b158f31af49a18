"""Gemini's batches: lines travel inside the request, results inside the answer; the name is its display name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import orjson

from .batch import BatchLine, BatchResult, BatchState, BatchStatus
from .batch_dialect import DAY_MS, Request, call_of, read_answer
from .dialect import Dialect
from .errors import MalformedAnswer

__all__ = ["GeminiBatches"]

PAGE: Final = 100
_ENDED: Final = frozenset({"CANCELLED", "EXPIRED", "SUCCEEDED"})


class GeminiBatches:
    """``batchGenerateContent`` with inlined requests, which the API takes up to 20 MB."""

    max_lines: int = 10_000
    max_bytes: int = 18_000_000
    window_ms: int = 2 * DAY_MS
    findable: bool = True

    def __init__(self, chat: Dialect) -> None:
        self.chat = chat

    def encode(self, model: str, line: BatchLine) -> bytes:
        """A line: one request and its key."""
        request = orjson.Fragment(call_of(self.chat, model, line).body)
        return orjson.dumps({"request": request, "metadata": {"key": line.line_id}})

    def upload(self, name: str, lines: Sequence[bytes]) -> Request | None:
        """Nothing: the lines travel with the batch."""
        return None

    def create(self, name: str, model: str, lines: Sequence[bytes], file_id: str | None) -> Request:
        """``POST /models/MODEL:batchGenerateContent``."""
        requests = orjson.Fragment(b'{"requests":[' + b",".join(lines) + b"]}")
        asked = {"batch": {"displayName": name, "inputConfig": {"requests": requests}}}
        return Request("POST", f"/models/{model}:batchGenerateContent", orjson.dumps(asked))

    def id_of(self, body: Mapping[str, Any]) -> str:
        """The operation's name, ``batches/ID``."""
        found = body.get("name")
        if not isinstance(found, str) or not found.startswith("batches/"):
            raise MalformedAnswer(f"expected the name of a batch, found {found!r}")
        return found

    def look(self, batch_id: str) -> Request:
        """``GET /batches/ID``."""
        return Request("GET", f"/{batch_id}")

    def status(self, body: Mapping[str, Any]) -> BatchStatus:
        """Its state and counts; results are in the same answer once it has ended."""
        about = body.get("metadata") or {}
        word, stats = str(about.get("state", "")).rpartition("STATE_")[2], about.get("batchStats") or {}
        state = BatchState.ENDED if word in _ENDED else BatchState.RUNNING
        detail = word.lower()
        if word == "FAILED" or "error" in body:
            state, detail = BatchState.FAILED, str((body.get("error") or {}).get("message") or detail)
        return BatchStatus(
            state=state,
            total=int(stats.get("requestCount") or 0),
            done=int(stats.get("successfulRequestCount") or 0),
            failed=int(stats.get("failedRequestCount") or 0),
            detail=detail,
            results=(self.id_of(body),) if state is BatchState.ENDED else (),
        )

    def cancel(self, batch_id: str) -> Request:
        """``POST /batches/ID:cancel``."""
        return Request("POST", f"/{batch_id}:cancel")

    def listing(self, page: int, after: str | None) -> Request:
        """``GET /batches``."""
        return Request("GET", f"/batches?pageSize={PAGE}" + (f"&pageToken={after}" if after else ""))

    def listed(self, body: Mapping[str, Any]) -> tuple[Sequence[Mapping[str, Any]], str | None]:
        """A page, and the token of the next."""
        return body.get("operations") or [], body.get("nextPageToken") or None

    def is_named(self, row: Mapping[str, Any], name: str, lines: int, since_ms: int) -> bool:
        """Whether it carries the name."""
        return (row.get("metadata") or {}).get("displayName") == name

    def fetch(self, place: str) -> Request:
        """``GET /batches/ID``."""
        return self.look(place)

    def rows(self, body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]] | None:
        """The inlined responses; a batch that was cut short may have none."""
        output = body.get("response") or (body.get("metadata") or {}).get("output") or {}
        inlined = output.get("inlinedResponses") or {}
        return iter(inlined.get("inlinedResponses") or ())

    def result(self, row: Mapping[str, Any]) -> BatchResult:
        """The answer of a line, or the error it met."""
        line_id = str((row.get("metadata") or {})["key"])
        if "response" in row:
            return read_answer(self.chat, line_id, 200, row["response"])
        error = row["error"]
        code = error.get("code")
        # codes are google.rpc's where they are small, HTTP's where they are large
        status = code if isinstance(code, int) and code >= 400 else _HTTP.get(code, 500)
        return read_answer(self.chat, line_id, status, {"error": error | {"code": status}})


_HTTP: Final = {3: 400, 5: 404, 7: 403, 8: 429, 13: 500, 14: 503, 16: 401}
