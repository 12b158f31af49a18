"""The output file of a batch: one line per request, whole or not there, also after ``kill -9``."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self

import orjson

from .errors import InputInvalid
from .money import parse_usd

__all__ = ["ResultFile", "ResultTally", "batch_id_of"]

HASHED_BYTES: Final = 2**20


def batch_id_of(content: bytes | BinaryIO) -> str:
    """The id of a batch, from its bytes or its open file: the same has the same, so running it again continues it."""
    digest = hashlib.blake2b(digest_size=8)
    blocks = (content,) if isinstance(content, bytes) else iter(lambda: content.read(HASHED_BYTES), b"")
    for block in blocks:
        digest.update(block)
    return f"batch_{digest.hexdigest()}"


@dataclass(slots=True)
class ResultTally:
    """What the lines of a result file come to. saved_nusd: against the dearest offer that met each line's terms.

    in_doubt_nusd: held for calls that a crash cut off, beside what the lines cost.
    """

    served: int = 0
    refused: int = 0
    cost_nusd: int = 0
    saved_nusd: int = 0
    in_doubt_nusd: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def finished(self) -> int:
        """Lines that have a result."""
        return self.served + self.refused

    def add(self, result: Mapping[str, Any]) -> None:
        """Count one line. Raises KeyError, TypeError or ValueError for what is none."""
        self.cost_nusd += parse_usd(result["cost_usd"])
        self.in_doubt_nusd += parse_usd(result.get("in_doubt_usd", "0"))
        if result["error"] is not None:
            self.refused += 1
            return
        self.served += 1
        body = result["response"].get("body", {})
        self.saved_nusd += parse_usd(body.get("negotiator", {}).get("saved_usd", "0"))
        usage = body.get("usage", {})
        given, made = ("input", "output") if "input_tokens" in usage else ("prompt", "completion")
        self.input_tokens += usage.get(f"{given}_tokens", 0)
        self.output_tokens += usage.get(f"{made}_tokens", 0)
        self.cached_tokens += usage.get(f"{given}_tokens_details", {}).get("cached_tokens", 0)
        self.reasoning_tokens += usage.get(f"{made}_tokens_details", {}).get("reasoning_tokens", 0)


class ResultFile:
    """Appends results, each in one write; opening it again drops a torn last line and knows what is done.

    One process at a time: a second is refused for as long as the first lives.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.done: set[str] = set()
        self.tally = ResultTally()
        self._fd = -1

    @property
    def cost_nusd(self) -> int:
        """What all lines cost."""
        return self.tally.cost_nusd

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            self._lock()
            self._recover()
        except BaseException as error:
            if self._fd >= 0:
                os.close(self._fd)
            if not isinstance(error, OSError):
                raise
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

    def _lock(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputInvalid(
                f"{self.path}: expected a file for this run alone, found another run that writes it"
            ) from None

    def _recover(self) -> None:
        whole = 0
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                whole += len(line)
                try:
                    self._count(orjson.loads(line))
                except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError, ValueError) as error:
                    raise InputInvalid(
                        f"{self.path}:{number}: expected a result of an earlier run, found another line: {error}"
                    ) from None
        os.ftruncate(self._fd, whole)

    def _count(self, result: Mapping[str, Any]) -> None:
        custom_id = result["custom_id"]
        if custom_id in self.done:
            raise ValueError(f"custom_id {custom_id!r} is there twice")
        self.tally.add(result)
        self.done.add(custom_id)
