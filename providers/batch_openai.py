"""Batches as OpenAI has them (Azure and Groq alike) and as Mistral has them: a JSONL file, a job, result files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import orjson

from .batch import BatchLine, BatchResult, BatchState, BatchStatus
from .batch_dialect import DAY_MS, Request, call_of, dropped, read_answer, upload
from .dialect import Dialect
from .errors import MalformedAnswer

__all__ = ["MistralBatches", "OpenAIBatches"]

NAME: Final = "negotiator"
"""The field of a batch's metadata that has its name."""

CHAT: Final = "/v1/chat/completions"
EMBEDDINGS: Final = "/v1/embeddings"
PAGE: Final = 100

_OPENAI_ENDED: Final = frozenset({"cancelled", "completed", "expired"})
_MISTRAL_ENDED: Final = frozenset({"CANCELLED", "FAILED", "SUCCESS", "TIMEOUT_EXCEEDED"})


class _Files:
    """What both have in common: files in, files out, names in the metadata."""

    max_lines: int = 50_000
    max_bytes: int = 50_000_000
    window_ms: int = DAY_MS
    findable: bool = True

    def __init__(self, chat: Dialect) -> None:
        self.chat = chat

    def upload(self, name: str, lines: Sequence[bytes]) -> Request:
        """``POST /files``."""
        return upload("/files", name, lines)

    def id_of(self, body: Mapping[str, Any]) -> str:
        """The id of a file or a batch."""
        return _id(body)

    def is_named(self, row: Mapping[str, Any], name: str, lines: int, since_ms: int) -> bool:
        """Whether it carries the name."""
        return (row.get("metadata") or {}).get(NAME) == name

    def fetch(self, place: str) -> Request:
        """``GET /files/ID/content``."""
        return Request("GET", f"/files/{place}/content")

    def rows(self, body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]] | None:
        """Results come as lines."""
        return None

    def result(self, row: Mapping[str, Any]) -> BatchResult:
        """The answer of a line, the error it was answered with, or why it was not run."""
        line_id, answered = str(row["custom_id"]), row.get("response")
        if isinstance(answered, Mapping):
            return read_answer(self.chat, line_id, int(answered["status_code"]), answered.get("body"))
        error = row.get("error")
        code = error.get("code") or error.get("message") if isinstance(error, Mapping) else error
        return dropped(line_id, str(code or "no reason given"))


class OpenAIBatches(_Files):
    """OpenAI's Batch API."""

    def encode(self, model: str, line: BatchLine) -> bytes:
        """A line with its own method and URL."""
        call = call_of(self.chat, model, line)
        return orjson.dumps(
            {
                "custom_id": line.line_id,
                "method": "POST",
                "url": f"/v1{call.path}",
                "body": orjson.Fragment(call.body),
            }
        )

    def create(self, name: str, model: str, lines: Sequence[bytes], file_id: str | None) -> Request:
        """``POST /batches``."""
        asked = {
            "input_file_id": file_id,
            "endpoint": _endpoint(lines),
            "completion_window": "24h",
            "metadata": {NAME: name},
        }
        return Request("POST", "/batches", orjson.dumps(asked))

    def look(self, batch_id: str) -> Request:
        """``GET /batches/ID``."""
        return Request("GET", f"/batches/{batch_id}")

    def status(self, body: Mapping[str, Any]) -> BatchStatus:
        """Its state, counts and result files: answers in one, errors in the other."""
        word, counts = str(body["status"]), body.get("request_counts") or {}
        files = tuple(str(body[key]) for key in ("output_file_id", "error_file_id") if body.get(key))
        state, detail = BatchState.RUNNING, word
        if word in _OPENAI_ENDED:
            state = BatchState.ENDED
        elif word == "failed":
            state = BatchState.FAILED
            faults = (body.get("errors") or {}).get("data") or ()
            detail = "; ".join(str(fault.get("message", "")) for fault in faults[:3]) or word
        return BatchStatus(
            state=state,
            total=int(counts.get("total") or 0),
            done=int(counts.get("completed") or 0),
            failed=int(counts.get("failed") or 0),
            detail=detail,
            results=files,
        )

    def cancel(self, batch_id: str) -> Request:
        """``POST /batches/ID/cancel``."""
        return Request("POST", f"/batches/{batch_id}/cancel")

    def listing(self, page: int, after: str | None) -> Request:
        """``GET /batches``."""
        return Request("GET", f"/batches?limit={PAGE}" + (f"&after={after}" if after else ""))

    def listed(self, body: Mapping[str, Any]) -> tuple[Sequence[Mapping[str, Any]], str | None]:
        """A page, and its last id where there are more."""
        rows = body.get("data") or []
        return rows, str(rows[-1]["id"]) if rows and body.get("has_more") else None


class MistralBatches(_Files):
    """Mistral's batch jobs: the model is the job's, the states have names of their own."""

    def encode(self, model: str, line: BatchLine) -> bytes:
        """A line without the model."""
        body = orjson.loads(call_of(self.chat, model, line).body)
        body.pop("model", None)
        return orjson.dumps({"custom_id": line.line_id, "body": body})

    def create(self, name: str, model: str, lines: Sequence[bytes], file_id: str | None) -> Request:
        """``POST /batch/jobs``."""
        asked = {
            "input_files": [file_id],
            "model": model,
            "endpoint": _endpoint(lines),
            "timeout_hours": DAY_MS // 3_600_000,
            "metadata": {NAME: name},
        }
        return Request("POST", "/batch/jobs", orjson.dumps(asked))

    def look(self, batch_id: str) -> Request:
        """``GET /batch/jobs/ID``."""
        return Request("GET", f"/batch/jobs/{batch_id}")

    def status(self, body: Mapping[str, Any]) -> BatchStatus:
        """Its state, counts and result files."""
        word = str(body["status"])
        files = tuple(str(body[key]) for key in ("output_file", "error_file") if body.get(key))
        state, detail = BatchState.RUNNING, word.lower()
        if word in _MISTRAL_ENDED:
            state = BatchState.FAILED if word == "FAILED" and not files else BatchState.ENDED
            faults = body.get("errors") or ()
            detail = "; ".join(str(fault.get("message", "")) for fault in faults[:3]) or detail
        return BatchStatus(
            state=state,
            total=int(body.get("total_requests") or 0),
            done=int(body.get("succeeded_requests") or 0),
            failed=int(body.get("failed_requests") or 0),
            detail=detail,
            results=files,
        )

    def cancel(self, batch_id: str) -> Request:
        """``POST /batch/jobs/ID/cancel``."""
        return Request("POST", f"/batch/jobs/{batch_id}/cancel")

    def listing(self, page: int, after: str | None) -> Request:
        """``GET /batch/jobs``, page by page."""
        return Request("GET", f"/batch/jobs?page={page}&page_size={PAGE}&order_by=-created")

    def listed(self, body: Mapping[str, Any]) -> tuple[Sequence[Mapping[str, Any]], str | None]:
        """A page; that there may be another one is known by its being full."""
        rows = body.get("data") or []
        return rows, "more" if len(rows) >= PAGE else None


def _endpoint(lines: Sequence[bytes]) -> str:
    """The endpoint of a batch: its lines are for one model, which chats or embeds."""
    return CHAT if "messages" in orjson.loads(lines[0])["body"] else EMBEDDINGS


def _id(body: Mapping[str, Any]) -> str:
    found = body.get("id")
    if not isinstance(found, str) or not found:
        raise MalformedAnswer(f"expected an id, found {found!r}")
    return found
