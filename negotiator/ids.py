"""Ids that the house makes: some that nobody can guess, and some that are only unlike all others."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import count

__all__ = ["numbered", "secret_id"]


def secret_id(kind: str, size: int) -> str:
    """``KIND_`` and so many random bytes in hexadecimal: nobody can guess or repeat it."""
    return f"{kind}_{os.urandom(size).hex()}"


def numbered(kind: str) -> Callable[[], str]:
    """A maker of ids that are unlike all others but easy to guess: what is random of them is drawn once."""
    prefix, numbers = secret_id(kind, 6), count(1)
    return lambda: f"{prefix}{next(numbers):06x}"
