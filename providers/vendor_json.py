"""JSON as vendors send it: an answer must be an object, the body of an error may be anything."""

from __future__ import annotations

from typing import Any

import orjson

from .errors import MalformedAnswer

__all__ = ["error_body", "object_of"]


def object_of(data: bytes) -> dict[str, Any]:
    """The object of an answer or an event; raises MalformedAnswer for anything else."""
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise MalformedAnswer(f"expected JSON, found {data[:60]!r}") from error
    if not isinstance(body, dict):
        raise MalformedAnswer(f"expected a JSON object, found {type(body).__name__}")
    return body


def error_body(status: int, data: bytes) -> Any:
    """What the body of an HTTP error says, None where it is no JSON. Raises MalformedAnswer for a redirect."""
    if 300 <= status < 400:
        raise MalformedAnswer("answered with a redirect, which is never followed", status=status)
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
