"""Rows too old for a store, in append-only files: one JSON array per line, in order, each row once."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import orjson

from .store_rows import Row

__all__ = ["RowArchive"]

MAX_FILE_BYTES: Final = 64 * 2**20
"""Where a new file begins."""


class RowArchive:
    """The files ``rows-000001.jsonl`` and on in one directory; a second process that appends does no harm."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._last_seq: int | None = None

    @property
    def last_seq(self) -> int:
        """The newest row that is safe here, 0 = none."""
        if self._last_seq is None:
            self._mend()
            newest = (max((row.seq for row in self._rows([file])), default=0) for file in self._files()[::-1])
            self._last_seq = next(filter(None, newest), 0)
        return self._last_seq

    def append(self, rows: Sequence[Row]) -> None:
        """Write rows that follow :attr:`last_seq` and wait until the disk has them; older ones are skipped.

        Raises OSError; what was cut off is mended at the next use.
        """
        fresh = [row for row in rows if row.seq > self.last_seq]
        if not fresh:
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        data = b"".join(orjson.dumps(list(row)) + b"\n" for row in fresh)
        self._last_seq = None
        with self._current().open("ab", buffering=0) as file:
            if file.write(data) != len(data):  # one write: never mixed with another process's
                raise OSError(errno.ENOSPC, "the rows were cut off")
            os.fsync(file.fileno())
        self._last_seq = fresh[-1].seq

    def read(self) -> Iterator[Row]:
        """All rows, oldest first."""
        seq = 0
        for row in self._rows(self._files()):
            if row.seq > seq:
                seq = row.seq
                yield row

    def _files(self) -> list[Path]:
        return sorted(self._directory.glob("rows-*.jsonl"))

    def _current(self) -> Path:
        files = self._files()
        if files and files[-1].stat().st_size < MAX_FILE_BYTES:
            return files[-1]
        return self._directory / f"rows-{len(files) + 1:06d}.jsonl"

    def _rows(self, files: Sequence[Path]) -> Iterator[Row]:
        for path in files:
            with path.open("rb") as file:
                for line in file:
                    if line.endswith(b"\n"):
                        yield Row(*orjson.loads(line))

    def _mend(self) -> None:
        """Cut off a last line that a crash left half-written; its rows are still in the store."""
        for path in self._files()[-1:]:
            text = path.read_bytes()
            whole = text.rfind(b"\n") + 1
            if whole < len(text):
                with path.open("r+b") as file:
                    file.truncate(whole)
