"""US dollars at the edges, integer nano-dollars inside."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Final

__all__ = ["MAX_NUSD", "NUSD_PER_USD", "format_usd", "parse_usd"]

NUSD_PER_USD: Final = 1_000_000_000
"""Nano-dollars in a dollar."""

MAX_NUSD: Final = 2**53
"""The largest amount an order may name (about nine million dollars): exact in every JSON reader."""


def parse_usd(value: object) -> int:
    """Nano-dollars of a decimal string or number of dollars.

    Raises ValueError for what is no number, NaN, negative, finer than a nano-dollar or above :data:`MAX_NUSD`.
    """
    if isinstance(value, bool) or not isinstance(value, (str, int, float, Decimal)):
        raise ValueError(  # noqa: TRY004 - pydantic turns only ValueError into a field error
            f"expected US dollars as a decimal string or number, found {value!r}"
        )
    try:
        amount = Decimal(str(value)) if isinstance(value, float) else Decimal(value)
    except InvalidOperation:
        raise ValueError(f"expected US dollars as a decimal string or number, found {value!r}") from None
    if not amount.is_finite() or amount < 0:
        raise ValueError(f"expected US dollars >= 0, found {value!r}")
    if amount.adjusted() > 9:
        raise ValueError(f"expected at most {format_usd(MAX_NUSD)} US dollars, found {value!r}")
    nusd = amount * NUSD_PER_USD
    if nusd != nusd.to_integral_value():
        raise ValueError(f"expected at most 9 decimals (a nano-dollar), found {value!r}")
    if nusd > MAX_NUSD:
        raise ValueError(f"expected at most {format_usd(MAX_NUSD)} US dollars, found {value!r}")
    return int(nusd)


@lru_cache(maxsize=8192)  # prices come again and again
def format_usd(nusd: int) -> str:
    """Dollars as a decimal string, exact: ``1_500_000`` → ``"0.0015"``."""
    sign, amount = ("-", -nusd) if nusd < 0 else ("", nusd)
    whole, rest = divmod(amount, NUSD_PER_USD)
    return f"{sign}{whole}.{rest:09d}".rstrip("0").rstrip(".") if rest else f"{sign}{whole}"
