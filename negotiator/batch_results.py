"""The output file of a batch: one line per request, whole or not there, also after ``kill -9``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from .errors import InputInvalid
from .money import parse_usd

__all__ = ["ResultFile"]


class ResultFile:
    """Appends results, each in one write; opening it again drops a torn last line and knows what is done."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.done: set[str] = set()
        self.cost_nusd = 0
        self._fd = -1

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            self._recover()
        except OSError as error:
            raise InputInvalid(f"{self.path}: expected a writable file, found: {error.strerror}") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)

    def write(self, result: Mapping[str, Any]) -> None:
        """Append one result. Raises InputInvalid when the disk does not take it."""
        line = orjson.dumps(result, option=orjson.OPT_APPEND_NEWLINE)
        try:
            written = os.write(self._fd, line)
            while written < len(line):
                written += os.write(self._fd, line[written:])
        except OSError as error:
            raise InputInvalid(f"{self.path}: cannot be written: {error.strerror}") from None
        self._count(result)

    def _recover(self) -> None:
        whole = 0
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                whole += len(line)
                try:
                    self._count(orjson.loads(line))
                except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
                    raise InputInvalid(
                        f"{self.path}:{number}: expected a result of an earlier run, found another line: {error}"
                    ) from None
        os.ftruncate(self._fd, whole)

    def _count(self, result: Mapping[str, Any]) -> None:
        custom_id = result["custom_id"]
        if custom_id in self.done:
            raise ValueError(f"custom_id {custom_id!r} is there twice")
        self.done.add(custom_id)
        self.cost_nusd += parse_usd(result["cost_usd"])
