"""Batches on disk: what was asked, how far it is, and a mark for each that has not ended.

One process writes a batch's record, the one that runs it; to cancel is a mark beside it, which any process may set.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from providers.clock import Clock

from .batch_disk import account_folder, known_id, made_ms, new_id, read_json, write_json
from .batch_files import StoredFile, StoredFiles

__all__ = ["ENDED", "BatchRecord", "BatchRecords"]

ENDED: Final = frozenset({"completed", "failed", "expired", "cancelled"})
"""States from which a batch does not move."""

KEPT_MS: Final = 30 * 86_400_000
"""How long a batch that has ended is remembered."""

UNMADE_MS: Final = 60_000
"""A mark without a batch for so long is of one that was never made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRecord:
    """A batch. moments: state -> when it was reached. ending: how it will end, once nothing more is begun.

    terms: of lines that say nothing; options: of its plans. progress, plan: as they are shown. restarts: how often a process took it up again.
    """

    batch_id: str
    account: str
    input_file_id: str
    endpoint: str
    completion_window: str
    window_ms: int
    created_ms: int
    metadata: Mapping[str, str] | None = None
    terms: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    output_kept_s: int
    status: str = "validating"
    moments: Mapping[str, int] = field(default_factory=dict)
    ending: str | None = None
    total: int = 0
    completed: int = 0
    failed: int = 0
    errors: tuple[Mapping[str, Any], ...] = ()
    output_file_id: str | None = None
    error_file_id: str | None = None
    usage: Mapping[str, int] | None = None
    progress: Mapping[str, Any] = field(default_factory=dict)
    plan: Mapping[str, Any] | None = None
    restarts: int = 0

    @property
    def expires_ms(self) -> int:
        """When what is not done is given up."""
        return self.created_ms + self.window_ms

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.status in ENDED

    def moved(self, status: str, now_ms: int, **changed: Any) -> BatchRecord:
        """In another state from now on."""
        return replace(self, status=status, moments={**self.moments, status: now_ms}, **changed)

    def out(self) -> dict[str, Any]:
        """OpenAI's batch object, and what it costs so far in ``negotiator``."""
        errors = {"object": "list", "data": [dict(error) for error in self.errors]} if self.errors else None
        return {
            "id": self.batch_id,
            "object": "batch",
            "endpoint": self.endpoint,
            "errors": errors,
            "input_file_id": self.input_file_id,
            "completion_window": self.completion_window,
            "status": self.status,
            "output_file_id": self.output_file_id,
            "error_file_id": self.error_file_id,
            "created_at": self.created_ms // 1000,
            "expires_at": self.expires_ms // 1000,
            **{f"{name}_at": self._at(name) for name in _MOMENTS},
            "request_counts": {"total": self.total, "completed": self.completed, "failed": self.failed},
            "usage": _usage_out(self.usage),
            "metadata": None if self.metadata is None else dict(self.metadata),
            "negotiator": {**self.progress, "restarts": self.restarts, "plan": self.plan},
        }

    def _at(self, name: str) -> int | None:
        at_ms = self.moments.get(name)
        return None if at_ms is None else at_ms // 1000


_MOMENTS: Final = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")


def _usage_out(usage: Mapping[str, int] | None) -> dict[str, Any] | None:
    if usage is None:
        return None
    return {
        "input_tokens": usage["input"],
        "input_tokens_details": {"cached_tokens": usage["cached"]},
        "output_tokens": usage["output"],
        "output_tokens_details": {"reasoning_tokens": usage["reasoning"]},
        "total_tokens": usage["input"] + usage["output"],
    }


class BatchRecords:
    """All batches under one folder."""

    def __init__(self, root: Path, clock: Clock, files: StoredFiles) -> None:
        self._root = root
        self._clock = clock
        self._files = files

    def create(self, file: StoredFile, *, key: str | None = None, **asked: Any) -> BatchRecord:
        """A new batch of an uploaded file. key: the same one of the same account again gives the same batch."""
        now_ms = self._clock.now_ms()
        batch_id = new_id("batch", now_ms)
        if key is not None:
            batch_id = self._claimed(file.account, key, batch_id)
            known = self.find(file.account, batch_id)
            if known is not None:
                return known
        record = BatchRecord(
            batch_id=batch_id, account=file.account, input_file_id=file.file_id, created_ms=now_ms, **asked
        )
        folder = self.folder(record)
        self._mark(record).parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        # the mark first: what is on record is then found by whoever runs batches
        write_json(self._mark(record), {"account": record.account, "batch_id": batch_id}, durable=True)
        if not self.input(record).exists():
            self._files.link(file, self.input(record))
        self.save(record, durable=True)
        return record

    def find(self, account: str, batch_id: str) -> BatchRecord | None:
        """A batch of this account as it stands, None = it has no such batch."""
        if not known_id("batch", batch_id):
            return None
        folder = account_folder(self._root, account) / "batches" / batch_id
        kept = read_json(folder / "batch.json")
        if kept is None:
            return None
        record = BatchRecord(**{**kept, "errors": tuple(kept["errors"])})
        asked = None if record.ended or record.ending is not None else read_json(folder / "cancel.json")
        return record if asked is None else record.moved("cancelling", asked["at_ms"])

    def page(self, account: str, *, after: str | None, limit: int) -> tuple[list[BatchRecord], bool]:
        """Batches of an account, the latest first, from behind ``after`` on; and whether there are more."""
        folder = account_folder(self._root, account) / "batches"
        names = sorted((path.name for path in folder.glob("batch_*")), reverse=True)
        if after is not None:
            names = [name for name in names if name < after]
        found = (self.find(account, name) for name in names[: limit + 1])
        records = [record for record in found if record is not None]
        return records[:limit], len(records) > limit

    def open(self) -> Iterator[BatchRecord]:
        """All batches that have not ended."""
        for path in sorted(self._root.glob("open/batch_*")):
            mark = read_json(path)
            record = None if mark is None else self.find(mark["account"], mark["batch_id"])
            if record is not None and not record.ended:
                yield record
            elif record is not None or self._clock.now_ms() - made_ms(path.name) > UNMADE_MS:
                path.unlink(missing_ok=True)

    def open_of(self, account: str) -> int:
        """How many batches of an account have not ended."""
        return sum(record.account == account for record in self.open())

    def cancel(self, record: BatchRecord) -> BatchRecord:
        """Ask for its end; a batch that is about to end anyway does so."""
        path = self.folder(record) / "cancel.json"
        if not record.ended and record.ending is None and not path.exists():
            write_json(path, {"at_ms": self._clock.now_ms()}, durable=True)
        return self.find(record.account, record.batch_id) or record

    def save(self, record: BatchRecord, *, durable: bool) -> None:
        """Write it down; one that has ended loses its mark."""
        values = asdict(record)
        write_json(self.folder(record) / "batch.json", values, durable=durable)
        if record.ended:
            self._mark(record).unlink(missing_ok=True)

    def folder(self, record: BatchRecord) -> Path:
        """Where everything of it lies."""
        return account_folder(self._root, record.account) / "batches" / record.batch_id

    def input(self, record: BatchRecord) -> Path:
        """Its lines."""
        return self.folder(record) / "input.jsonl"

    def results(self, record: BatchRecord) -> Path:
        """Results while it runs, one per line."""
        return self.folder(record) / "results.jsonl"

    def sweep(self) -> None:
        """Forget batches that ended long ago, and keys that nobody will send again."""
        now_ms = self._clock.now_ms()
        for path in self._root.glob("accounts/*/keys/*"):
            batch_id = read_json(path)
            if batch_id is None or made_ms(batch_id) <= now_ms - KEPT_MS:
                path.unlink(missing_ok=True)
        for path in self._root.glob("accounts/*/batches/batch_*/batch.json"):
            kept = read_json(path)
            if (
                kept is not None
                and kept["status"] in ENDED
                and kept["moments"][kept["status"]] <= now_ms - KEPT_MS
            ):
                shutil.rmtree(path.parent, ignore_errors=True)

    def _mark(self, record: BatchRecord) -> Path:
        return self._root / "open" / record.batch_id

    def _claimed(self, account: str, key: str, batch_id: str) -> str:
        """The id of the batch that this key made first."""
        claims = account_folder(self._root, account) / "keys"
        claims.mkdir(parents=True, exist_ok=True)
        part, path = claims / f".{batch_id}", claims / key
        write_json(part, batch_id, durable=True)
        try:
            os.link(part, path)
        except FileExistsError:
            return str(read_json(path))
        finally:
            part.unlink(missing_ok=True)
        return batch_id
