"""What the translations of other APIs share: naming the place of a fault, and what a finish reason means there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any, Final, TypeVar

from .errors import InputInvalid

__all__ = ["documented", "objects", "only", "strange"]

T = TypeVar("T")
R = TypeVar("R")

_SHAPES: Final = (AttributeError, IndexError, KeyError, TypeError, ValueError)
"""What a translation raises where JSON is not shaped as documented."""


def documented(translate: Callable[[T], R]) -> Callable[[T], R]:
    """A translation that refuses a body of another shape than its API documents."""

    @wraps(translate)
    def translated(asked: T) -> R:
        try:
            return translate(asked)
        except _SHAPES as error:
            raise InputInvalid(f"body: expected the documented shape, found another: {error}") from None

    return translated


def strange(where: str, expected: str, found: object) -> InputInvalid:
    """For something this API's translation has no word for: it is refused by name, never dropped."""
    return InputInvalid(f"{where}: expected {expected}, found {found!r}")


def only(values: Mapping[str, Any], where: str, known: Iterable[str]) -> None:
    """Refuse the first field of ``values`` that is not ``known`` and asks for something."""
    taken = frozenset(known)
    for name, value in values.items():
        if name not in taken and value is not None:
            raise strange(f"{where}.{name}", f"one of {', '.join(sorted(taken))}", name)


def objects(values: Any, where: str) -> list[Mapping[str, Any]]:
    """A list of objects. Raises InputInvalid."""
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise InputInvalid(f"{where}: expected a list of objects, found something else")
    return values
