"""JSON as vendors send it: an answer must be an object, the body of an error may be anything."""

from __future__ import annotations

from typing import Any

import orjson

from .errors import MalformedAnswer

__all__ = ["error_body", "object_of", "redirect"]


def object_of(data: bytes) -> dict[str, Any]:
    """The object of an answer or an event; raises MalformedAnswer for anything else."""
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise MalformedAnswer(f"expected JSON, found {data[:60]!r}") from error
    if not isinstance(body, dict):
        raise MalformedAnswer(f"expected a JSON object, found {type(body).__name__}")
    return body


def redirect(status: int) -> MalformedAnswer | None:
    """The failure of a vendor that sends elsewhere, None for any other status."""
    if 300 <= status < 400:
        return MalformedAnswer("answered with a redirect, which is never followed", status=status)
    return None


def error_body(data: bytes) -> Any:
    """What the body of an HTTP error says, None where it is no JSON."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
