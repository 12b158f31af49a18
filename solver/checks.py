"""Arguments checked where they come in: each of these gives the value in the type wanted, or says what was found."""

from __future__ import annotations

import operator
import sys
from numbers import Real
from typing import Any, TypeGuard, TypeVar

import numpy as np
import numpy.typing as npt

__all__ = [
    "InvalidProblem",
    "amounts",
    "array",
    "finite_number",
    "instance",
    "is_finite",
    "is_number",
    "numbers",
    "whole_number",
]

Wanted = TypeVar("Wanted")


class InvalidProblem(ValueError):
    """The arguments do not describe a problem; the message names the field, what was expected and found."""


def array(name: str, given: object, dimensions: int, length: int | None = None) -> npt.NDArray[Any]:
    """The argument as an array of so many dimensions; length: of the first one."""
    try:
        found = np.asarray(given)
    except ValueError as wrong:
        raise InvalidProblem(f"{name}: expected an array, found rows of different lengths") from wrong
    if found.ndim != dimensions:
        raise InvalidProblem(f"{name}: expected {dimensions} dimension(s), found shape {found.shape}")
    if length is not None and found.shape[0] != length:
        raise InvalidProblem(f"{name}: expected length {length}, found {found.shape[0]}")
    return found


def numbers(name: str, given: object, length: int) -> npt.NDArray[np.float64]:
    """float64[length], none of them NaN."""
    return _numbers(name, given, length, "numbers")


def amounts(name: str, given: object, length: int) -> npt.NDArray[np.float64]:
    """float64[length], each finite and >= 0."""
    words = "finite numbers >= 0"
    found = _numbers(name, given, length, words)
    if not np.all((found >= 0) & (found < np.inf)):
        raise InvalidProblem(f"{name}: expected {length} {words}, found another")
    return found


def _numbers(name: str, given: object, length: int, words: str) -> npt.NDArray[np.float64]:
    found = array(name, given, 1)
    if found.shape != (length,):
        raise InvalidProblem(f"{name}: expected {length} {words}, found shape {found.shape}")
    if length and found.dtype.kind not in "iuf":
        raise InvalidProblem(f"{name}: expected {length} {words}, found dtype {found.dtype}")
    found = found.astype(np.float64, copy=False)
    if np.any(np.isnan(found)):
        raise InvalidProblem(f"{name}: expected {length} {words}, found NaN")
    return found


def finite_number(name: str, given: object, low: float, *, above: bool = False) -> float:
    """A finite number >= low, or > low with ``above``."""
    if not (is_number(given) and is_finite(given) and (given > low if above else given >= low)):
        raise InvalidProblem(f"{name}: expected a number {'>' if above else '>='} {low:g}, found {given!r}")
    return float(given)


def whole_number(name: str, given: object, low: int) -> int:
    """A whole number >= low."""
    try:
        found = operator.index(given)  # type: ignore[arg-type]
    except TypeError:
        found = low - 1
    if found < low or isinstance(given, bool):
        raise InvalidProblem(f"{name}: expected a whole number >= {low}, found {given!r}")
    return found


def is_number(given: object) -> TypeGuard[float]:
    """Whether it is one real number: no truth value, no array, no text."""
    return isinstance(given, Real) and not isinstance(given, bool)


def is_finite(given: float) -> bool:
    """Whether a float64 can hold it."""
    return abs(given) <= sys.float_info.max


def instance(name: str, given: object, wanted: type[Wanted]) -> Wanted:
    """The argument, which must be of the class ``wanted``."""
    if not isinstance(given, wanted):
        raise InvalidProblem(f"{name}: expected a {wanted.__name__}, found {type(given).__name__}")
    return given
