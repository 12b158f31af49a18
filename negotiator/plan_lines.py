"""A file of requests, line by line: each is a request or a fault with its line number; the others go on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from .errors import InputInvalid
from .wire import RequestLine, request_line_from

__all__ = ["LineFault", "PlanLine", "read_file", "read_lines"]

MAX_LINE_BYTES: Final = 32 * 2**20


@dataclass(frozen=True, slots=True)
class PlanLine:
    """A request of a file and the number of its line, from 1."""

    number: int
    request: RequestLine


@dataclass(frozen=True, slots=True)
class LineFault:
    """A line that is no request: which, and what was expected and found."""

    number: int
    message: str


def read_file(path: str | Path) -> Iterator[PlanLine | LineFault]:
    """The lines of a JSONL file. Raises InputInvalid when it cannot be read or holds no line at all."""
    empty = True
    try:
        with open(path, "rb") as file:
            for line in read_lines(file):
                empty = False
                yield line
    except OSError as error:
        raise InputInvalid(f"{path}: expected a readable file, found: {error.strerror}") from None
    if empty:
        raise InputInvalid(f"{path}: expected at least one request, found an empty file")


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
            return LineFault(number, f"expected at most {MAX_LINE_BYTES} bytes, found {len(line)}")
        try:
            line = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            return LineFault(number, f"expected a JSON object, found: {error}")
    try:
        return PlanLine(number, request_line_from(line))
    except InputInvalid as error:
        return LineFault(number, str(error))
