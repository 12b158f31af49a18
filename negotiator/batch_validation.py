"""Whether a batch's file can be run: every line a request of its own for the batch's endpoint. Nothing is priced."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .errors import InputInvalid
from .plan_lines import LineFault, PlanLine, RequestFile

__all__ = ["MAX_ERRORS", "Validated", "validate"]

MAX_ERRORS: Final = 100
"""Errors that are told of one file."""

YIELD: Final = 64

_FOREIGN: Final = ("account", "order_id")
"""Terms that a line cannot have: the batch's account pays, and the batch makes the ids."""


@dataclass(frozen=True, slots=True)
class Validated:
    """How many requests a file has, and what is wrong with it, at most ``MAX_ERRORS``."""

    requests: int
    errors: tuple[Mapping[str, Any], ...]


async def validate(path: Path, endpoint: str, *, max_lines: int) -> Validated:
    """Read a file of requests to one endpoint from end to end, some lines at a time. Stops where it has too many errors or too many lines."""
    requests = 0
    errors: list[Mapping[str, Any]] = []
    try:
        for number, line in enumerate(RequestFile(path)):
            if number % YIELD == 0:
                await asyncio.sleep(0)
            errors += _errors(line, endpoint)
            requests += isinstance(line, PlanLine)
            if requests > max_lines:
                message = f"expected at most {max_lines} requests, found more"
                return Validated(requests, (_error("too_many_requests", message),))
            if len(errors) >= MAX_ERRORS:
                break
    except InputInvalid as error:
        found = str(error).removeprefix(f"{path}: ")
        errors.append(_error("empty_file" if "empty" in found else "unreadable_file", found))
    return Validated(requests, tuple(errors[:MAX_ERRORS]))


def _errors(line: PlanLine | LineFault, endpoint: str) -> Iterator[Mapping[str, Any]]:
    if isinstance(line, LineFault):
        where, mark, _ = line.message.partition(": ")
        param = where if mark and where.replace(".", "").replace("_", "").isalnum() else None
        code = "invalid_json_line" if "JSON" in line.message else "invalid_request"
        if "custom_id" in line.message and "again" in line.message:
            code = "duplicate_custom_id"
        yield _error(code, line.message, line.number, param)
        return
    if line.request.url != endpoint:
        found = repr(line.request.url) if "url" in line.request.model_fields_set else "none"
        message = f"url: expected {endpoint!r}, the batch's endpoint, found {found}"
        yield _error("url_mismatch", message, line.number, "url")
    for name in _FOREIGN:
        if getattr(line.request.terms, name) is not None:
            message = f"terms.{name}: expected none in a batch, found one"
            yield _error("invalid_request", message, line.number, f"terms.{name}")


def _error(code: str, message: str, line: int | None = None, param: str | None = None) -> Mapping[str, Any]:
    return {"code": code, "line": line, "message": message, "param": param}
