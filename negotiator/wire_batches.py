"""What a batch says of itself beside its lines: terms in its metadata, and how long it may take."""

from __future__ import annotations

import re
from typing import Final

import orjson
from pydantic import ValidationError

from .errors import InputInvalid
from .wire import PlanOptions, Terms, describe_invalid

__all__ = ["BatchTerms", "batch_terms_from", "window_ms_from"]

MAX_WINDOW_MS: Final = 7 * 86_400_000
_WINDOW: Final = re.compile(r"([1-9]\d{0,4})([hm])")
_UNIT_MS: Final = {"h": 3_600_000, "m": 60_000}
_OF_LINES: Final = ("account", "order_id")


class BatchTerms(Terms):
    """Terms of every line that does not say otherwise, and how the batch is planned."""

    options: PlanOptions | None = None

    def plain(self) -> Terms:
        """The terms alone."""
        return Terms.model_construct(**{name: getattr(self, name) for name in Terms.model_fields})


def batch_terms_from(text: str) -> BatchTerms:
    """Terms from the JSON text in a batch's metadata; raises :class:`InputInvalid` with one sentence."""
    try:
        values = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InputInvalid(f"metadata.negotiator: expected a JSON object as text, found: {error}") from None
    if not isinstance(values, dict):
        raise InputInvalid(f"metadata.negotiator: expected an object, found {type(values).__name__}")
    for name in _OF_LINES:
        if values.get(name) is not None:
            raise InputInvalid(f"metadata.negotiator: {name}: expected none in a batch, found one")
    try:
        return BatchTerms.model_validate(values)
    except ValidationError as error:
        raise InputInvalid(f"metadata.negotiator: {describe_invalid(error)}") from None


def window_ms_from(text: str) -> int:
    """How long ``24h`` or ``90m`` is; raises :class:`InputInvalid` for anything else and for more than seven days."""
    found = _WINDOW.fullmatch(text)
    window_ms = int(found[1]) * _UNIT_MS[found[2]] if found is not None else 0
    if not 0 < window_ms <= MAX_WINDOW_MS:
        raise InputInvalid(
            f"completion_window: expected hours or minutes as in '24h' or '90m', at most 168h, found {text[:40]!r}"
        )
    return window_ms
