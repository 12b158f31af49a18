"""A file of requests, line by line: each is a request or a fault with its line number; the others go on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import orjson

from .errors import InputInvalid
from .wire import RequestLine, request_line_from

__all__ = ["MAX_LINE_BYTES", "LineFault", "PlanLine", "RequestFile", "read_file", "read_lines", "repeated"]

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

    @property
    def size(self) -> int:
        """Bytes. Raises InputInvalid when it cannot be read or holds nothing."""
        try:
            size = self.path.stat().st_size
            with self.path.open("rb"):
                pass
        except OSError as error:
            raise _unreadable(self.path, error) from None
        if not size:
            raise _empty(self.path)
        return size

    def ranges(self, size: int) -> list[tuple[int, int]]:
        """The file in parts of about so many bytes, for :meth:`lines`."""
        whole = self.size
        return [(start, min(start + size, whole)) for start in range(0, whole, size)]

    @property
    def whole(self) -> tuple[int, int]:
        """All of it, for :meth:`lines`."""
        return 0, self.size

    def lines(self, start: int, end: int) -> Iterator[tuple[int, int, Any]]:
        """``(number, offset, bytes)`` of the lines that begin at bytes ``start`` to ``end``, numbered from 1 there.

        Of an over-long line one byte more than :data:`MAX_LINE_BYTES` is read and the rest passed over.
        """
        try:
            with self.path.open("rb") as file:
                if start:
                    file.seek(start - 1)
                    start += _passed(file) - 1
                for number, (offset, line) in enumerate(_raw(file, start), start=1):
                    if offset >= end:
                        return
                    yield number, offset, line
        except OSError as error:
            raise _unreadable(self.path, error) from None

    def sample(self, most: int) -> Iterator[tuple[int, int, Any]]:
        """At most so many lines, as :meth:`lines` gives them, spread evenly over the file."""
        size, last = self.size, -1
        try:
            with self.path.open("rb") as file:
                for k in range(most):
                    at = k * size // most
                    if at:
                        file.seek(at - 1)
                        at += _passed(file) - 1
                    line = file.readline(MAX_LINE_BYTES + 1)
                    if line and at > last:
                        last = at
                        yield k, at, line
        except OSError as error:
            raise _unreadable(self.path, error) from None

    def lines_about(self, most: int) -> int:
        """How many lines there are, from the lengths of so many."""
        lengths = [len(line) for _, _, line in self.sample(most)]
        return self.size * len(lengths) // max(1, sum(lengths))

    def raw(self, offsets: Iterable[int]) -> Iterator[Any]:
        """The lines that begin at these bytes."""
        try:
            with self.path.open("rb") as file:
                for offset in offsets:
                    file.seek(offset)
                    yield file.readline(MAX_LINE_BYTES + 1)
        except OSError as error:
            raise _unreadable(self.path, error) from None

    def at(self, offsets: Iterable[int]) -> Iterator[PlanLine]:
        """The requests whose lines begin at these bytes. Raises InputInvalid when the file has changed."""
        for line in self.raw(offsets):
            read = _read(0, line)
            if isinstance(read, LineFault):
                raise InputInvalid(f"{self.path}: expected the file as it was first read, found it changed")
            yield read

    def changed(self, expected: str, found: str) -> InputInvalid:
        """What is said where a line is not the one that was first read there."""
        return InputInvalid(f"{self.path}: expected {expected!r} where it was first read, found {found!r}")


def read_file(path: str | Path) -> Iterator[PlanLine | LineFault]:
    """The lines of a JSONL file. Raises InputInvalid when it cannot be read or holds no line at all."""
    empty, at = True, 0

    def tracked(file: BinaryIO) -> Iterator[bytes]:
        nonlocal at
        for offset, line in _raw(file, 0):
            at = offset
            yield line

    try:
        with open(path, "rb") as file:
            for line in read_lines(tracked(file)):
                empty = False
                yield PlanLine(line.number, line.request, at) if isinstance(line, PlanLine) else line
    except OSError as error:
        raise _unreadable(path, error) from None
    if empty:
        raise _empty(path)


def _raw(file: BinaryIO, start: int) -> Iterator[tuple[int, bytes]]:
    """Where each line begins, and the line; of an over-long one the rest is counted, not kept."""
    offset = start
    while line := file.readline(MAX_LINE_BYTES + 1):
        size = len(line)
        if not line.endswith(b"\n") and size > MAX_LINE_BYTES:
            size += _passed(file)
        yield offset, line
        offset += size


def _passed(file: BinaryIO) -> int:
    """Bytes to the end of a line, which are read and let go."""
    size = 0
    while part := file.readline(MAX_LINE_BYTES):
        size += len(part)
        if part.endswith(b"\n"):
            break
    return size


def _empty(path: str | Path) -> InputInvalid:
    return InputInvalid(f"{path}: expected at least one request, found an empty file")


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
                read = repeated(number, custom_id, first)
        yield read


def repeated(number: int, custom_id: str, first: int) -> LineFault:
    """The fault of a line whose id an earlier one has."""
    return LineFault(number, f"custom_id: expected each once, found {custom_id!r} of line {first} again")


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
