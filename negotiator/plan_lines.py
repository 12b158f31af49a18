"""A file of requests, line by line: each is a request or a fault with its line number; the others go on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import orjson

from .errors import InputInvalid
from .wire import RequestLine, request_line_from

__all__ = ["LineFault", "PlanLine", "RequestFile", "read_file", "read_lines"]

MAX_LINE_BYTES: Final = 32 * 2**20


@dataclass(frozen=True, slots=True)
class PlanLine:
    """A request of a file and the number of its line, from 1. offset: of its first byte, -1 = not from a file."""

    number: int
    request: RequestLine
    offset: int = -1


@dataclass(frozen=True, slots=True)
class LineFault:
    """A line that is no request: which, and what was expected and found. custom_id: None = it has none to go by."""

    number: int
    message: str
    custom_id: str | None = None


@dataclass(frozen=True, slots=True)
class RequestFile:
    """A JSONL file of requests that is never held: its lines are streamed, and read again where they lie."""

    path: Path

    def __iter__(self) -> Iterator[PlanLine | LineFault]:
        return read_file(self.path)

    def at(self, offsets: Iterable[int]) -> Iterator[PlanLine]:
        """The requests whose lines begin at these bytes. Raises InputInvalid when the file has changed."""
        try:
            with open(self.path, "rb") as file:
                for offset in offsets:
                    file.seek(offset)
                    read = _read(0, file.readline(MAX_LINE_BYTES + 1))
                    if isinstance(read, LineFault):
                        raise InputInvalid(
                            f"{self.path}: expected the file as it was first read, found it changed"
                        )
                    yield read
        except OSError as error:
            raise _unreadable(self.path, error) from None


def read_file(path: str | Path) -> Iterator[PlanLine | LineFault]:
    """The lines of a JSONL file. Raises InputInvalid when it cannot be read or holds no line at all."""
    empty = True
    at = [0, 0]  # where the line just read begins, and where the next one does

    def tracked(file: BinaryIO) -> Iterator[bytes]:
        while line := file.readline(MAX_LINE_BYTES + 1):
            at[0], size = at[1], len(line)
            if not line.endswith(b"\n") and size > MAX_LINE_BYTES:  # the rest is counted, not kept
                while part := file.readline(MAX_LINE_BYTES):
                    size += len(part)
                    if part.endswith(b"\n"):
                        break
            at[1] += size
            yield line

    try:
        with open(path, "rb") as file:
            for line in read_lines(tracked(file)):
                empty = False
                yield PlanLine(line.number, line.request, at[0]) if isinstance(line, PlanLine) else line
    except OSError as error:
        raise _unreadable(path, error) from None
    if empty:
        raise InputInvalid(f"{path}: expected at least one request, found an empty file")


def _unreadable(path: str | Path, error: OSError) -> InputInvalid:
    return InputInvalid(f"{path}: expected a readable file, found: {error.strerror}")


def read_lines(lines: Iterable[bytes | str | dict[str, Any]]) -> Iterator[PlanLine | LineFault]:
    """Requests of lines in OpenAI's batch format, plus ``terms``; blank lines are passed over."""
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if isinstance(line, (bytes, str)) and not line.strip():
            continue
        read = _read(number, line)
        if isinstance(read, PlanLine):
            custom_id = read.request.custom_id
            first = seen.setdefault(custom_id, number)
            if first != number:
                read = LineFault(
                    number, f"custom_id: expected each once, found {custom_id!r} of line {first} again"
                )
        yield read


def _read(number: int, line: bytes | str | dict[str, Any]) -> PlanLine | LineFault:
    if not isinstance(line, dict):
        if len(line) > MAX_LINE_BYTES:
            return LineFault(number, f"expected at most {MAX_LINE_BYTES} bytes, found more")
        try:
            line = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            return LineFault(number, f"expected a JSON object, found: {error}")
    try:
        return PlanLine(number, request_line_from(line))
    except InputInvalid as error:
        return LineFault(number, str(error))
