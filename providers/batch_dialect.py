"""What a vendor's batch API is to the house: pure translation, no sockets. The driver is :mod:`providers.batch_http`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import blake2b
from typing import Any, Final, Protocol

import orjson

from .batch import BATCH_TIER, BatchLine, BatchResult, BatchStatus
from .dialect import Call, Dialect, Want
from .errors import ProviderError, ProviderTimeout, ProviderUnavailable, RequestRefused
from .terms import Delta

__all__ = [
    "DAY_MS",
    "BatchDialect",
    "Request",
    "call_of",
    "dropped",
    "instant_ms",
    "read_answer",
    "upload",
]

DAY_MS: Final = 24 * 3_600_000


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request: path below the base URL, headers beyond the key."""

    method: str
    path: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


class BatchDialect(Protocol):
    """The pure functions of one vendor's batch API. Limits as in :class:`providers.batch.BatchDriver`."""

    @property
    def chat(self) -> Dialect:
        """How it speaks of single calls: keys, answers, faults."""
        ...

    @property
    def max_lines(self) -> int:
        """Of one batch."""
        ...

    @property
    def max_bytes(self) -> int:
        """Of one batch."""
        ...

    @property
    def window_ms(self) -> int:
        """Within which it ends."""
        ...

    @property
    def findable(self) -> bool:
        """Whether its batches carry their names."""
        ...

    def encode(self, model: str, line: BatchLine) -> bytes:
        """A line as it is handed in."""
        ...

    def upload(self, name: str, lines: Sequence[bytes]) -> Request | None:
        """What brings the lines there first, None = they travel with the batch."""
        ...

    def create(self, name: str, model: str, lines: Sequence[bytes], file_id: str | None) -> Request:
        """What starts the batch."""
        ...

    def id_of(self, body: Mapping[str, Any]) -> str:
        """The id in the answer to an upload or a create."""
        ...

    def look(self, batch_id: str) -> Request:
        """What asks how far it is."""
        ...

    def status(self, body: Mapping[str, Any]) -> BatchStatus:
        """What the answer to :meth:`look` says."""
        ...

    def cancel(self, batch_id: str) -> Request:
        """What stops it."""
        ...

    def listing(self, page: int, after: str | None) -> Request:
        """What asks for a page (from 0) of all batches, the newest first; ``after`` is what the last one gave."""
        ...

    def listed(self, body: Mapping[str, Any]) -> tuple[Sequence[Mapping[str, Any]], str | None]:
        """The batches of a page, and what asks for the next one."""
        ...

    def is_named(self, row: Mapping[str, Any], name: str, lines: int, since_ms: int) -> bool:
        """Whether a listed batch is the one of that name, or (where names are not kept) could be."""
        ...

    def fetch(self, place: str) -> Request:
        """What fetches results."""
        ...

    def rows(self, body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]] | None:
        """The results inside one JSON answer; None = results come as lines, and this is one."""
        ...

    def result(self, row: Mapping[str, Any]) -> BatchResult:
        """What one result says."""
        ...


def call_of(chat: Dialect, model: str, line: BatchLine) -> Call:
    """The vendor's single call for a line; raises RequestRefused for what it cannot honour."""
    if name := chat.unsupported(line.body):
        raise RequestRefused(f"cannot honour {name}")
    return chat.call(line.body, Want(model, BATCH_TIER, line.max_output_tokens, stream=False))


def upload(path: str, name: str, lines: Sequence[bytes]) -> Request:
    """A JSONL file for a batch, as multipart/form-data."""
    boundary = blake2b(name.encode(), digest_size=16).hexdigest()
    head = (
        f'--{boundary}\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        f'--{boundary}\r\ncontent-disposition: form-data; name="file"; filename="{name}.jsonl"\r\n'
        "content-type: application/jsonl\r\n\r\n"
    )
    body = b"".join((head.encode(), b"\n".join(lines), f"\r\n--{boundary}--\r\n".encode()))
    return Request("POST", path, body, {"content-type": f"multipart/form-data; boundary={boundary}"})


def read_answer(chat: Dialect, line_id: str, status: int, body: object) -> BatchResult:
    """The result of a line that was answered with an HTTP status and a body."""
    data = orjson.dumps(body)
    try:
        if not 200 <= status < 300:
            raise chat.fault(status, {}, data)
        delta: Delta = chat.answer(data)
    except ProviderError as error:
        return BatchResult(line_id=line_id, error=error)
    return BatchResult(line_id=line_id, delta=delta)


def dropped(line_id: str, why: str) -> BatchResult:
    """The result of a line that was not run: ``why`` is ``expired``, ``canceled`` or another word of the vendor's."""
    kind = ProviderTimeout if "expired" in why else ProviderUnavailable
    return BatchResult(line_id=line_id, error=kind(f"the batch ended before this line was run: {why}"))


def instant_ms(text: object) -> int:
    """An RFC 3339 instant as milliseconds since 1970; 0 where it is none."""
    try:
        return round(datetime.fromisoformat(str(text)).timestamp() * 1000)
    except ValueError:
        return 0
