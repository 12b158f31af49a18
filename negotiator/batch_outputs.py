"""The files a batch ends with: what was answered, and what was not, each line as OpenAI writes it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import orjson

from .batch_files import StoredFiles, Upload
from .batch_records import BatchRecord

__all__ = ["write_outputs"]

YIELD = 64


@dataclass(slots=True)
class _Half:
    """One of the two files: made when it gets its first line."""

    upload: Upload
    lines: int = 0

    def add(self, line: bytes) -> None:
        self.upload.write(line)
        self.lines += 1


async def write_outputs(files: StoredFiles, record: BatchRecord, results: Path) -> BatchRecord:
    """Split the results into output and error file, under the ids that the record names; a half without lines is none.

    Doing it again, after a crash in the middle, gives the same files. Raises InputInvalid when the disk is full.
    """
    assert record.output_file_id is not None
    assert record.error_file_id is not None
    with ExitStack() as stack:
        good, bad = (_Half(stack.enter_context(files.begin(record.account, own=True))) for _ in range(2))
        for number, line in enumerate(_lines(results)):
            (bad if orjson.loads(line)["error"] is not None else good).add(line)
            if number % YIELD == 0:
                await asyncio.sleep(0)
        output = _kept(good, record, "output", record.output_file_id)
        errors = _kept(bad, record, "error", record.error_file_id)
    return replace(record, output_file_id=output, error_file_id=errors)


def _kept(half: _Half, record: BatchRecord, name: str, file_id: str) -> str | None:
    if not half.lines:
        return None
    filename = f"{record.batch_id}_{name}.jsonl"
    return half.upload.keep(filename, "batch_output", kept_s=record.output_kept_s, file_id=file_id).file_id


def _lines(results: Path) -> Iterator[bytes]:
    with open(results, "rb") as file:
        yield from file
