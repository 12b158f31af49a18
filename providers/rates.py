"""Prices and bills: rates of token classes, the usage of a call, and the lines of its bill.

Money is integer nano-dollars (``_nusd``); a rate is nano-dollars per million tokens, so a list price times a tier's
factor stays exact. Users of these words take them from :mod:`providers.terms`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from .records import record

__all__ = [
    "NO_TOKENS",
    "TOKENS_PER_RATE",
    "LineKind",
    "PriceLine",
    "PriceStep",
    "Rates",
    "Usage",
    "price_lines",
    "price_nusd",
]

TOKENS_PER_RATE: Final = 1_000_000
"""A rate is for this many tokens."""


class LineKind(StrEnum):
    """What a price line charges for."""

    INPUT = "input"
    CACHE_READ = "cache_read"
    CACHE_WRITE = "cache_write"
    OUTPUT = "output"
    REQUEST = "request"


@dataclass(frozen=True, slots=True)
class Rates:
    """Prices of the token classes, nano-dollars per million tokens, and of a call, nano-dollars."""

    input_nusd_per_mtok: int
    output_nusd_per_mtok: int
    cache_read_nusd_per_mtok: int
    cache_write_nusd_per_mtok: int
    cache_write_1h_nusd_per_mtok: int
    request_nusd: int = 0

    def scaled(self, numerator: int, denominator: int) -> Rates:
        """These rates times a tier's factor; raises ValueError where that is not a whole nano-dollar."""
        values = []
        for name in self.__slots__:
            value, rest = divmod(getattr(self, name) * numerator, denominator)
            if rest:
                raise ValueError(
                    f"{name} x {numerator}/{denominator}: expected a whole nano-dollar, rest {rest}"
                )
            values.append(value)
        return Rates(*values)


@dataclass(frozen=True, slots=True)
class PriceStep:
    """Rates of a whole request whose input has at least ``from_input_tokens`` tokens (a cliff, not a bracket)."""

    from_input_tokens: int
    rates: Rates


@record(frozen=True, slots=True)
class Usage:
    """Tokens of one call. Kinds nest: cache parts are part of input, reasoning is part of output.

    estimated: counted from what was relayed because the seller's own usage never came.
    Raises ValueError when a part exceeds its whole, naming both numbers.
    """

    input_tokens: int
    output_tokens: int
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False

    def __post_init__(self) -> None:
        if min(self.input_tokens, self.output_tokens, self.cache_read_tokens, self.cache_write_tokens) < 0:
            raise ValueError(f"usage: expected token counts >= 0, found {self}")
        cached = self.cache_read_tokens + self.cache_write_tokens + self.cache_write_1h_tokens
        if min(self.cache_write_1h_tokens, self.reasoning_tokens) < 0 or cached > self.input_tokens:
            raise ValueError(f"usage: expected cached parts <= input {self.input_tokens}, found {cached}")
        if self.reasoning_tokens > self.output_tokens:
            raise ValueError(
                f"usage: expected reasoning <= output {self.output_tokens}, found {self.reasoning_tokens}"
            )


NO_TOKENS: Final = Usage(0, 0)
"""Nothing was delivered."""


class PriceLine(NamedTuple):
    """One line of a bill: ``tokens`` at ``nusd_per_mtok`` (for a request line: the call's price)."""

    kind: LineKind
    tokens: int
    nusd_per_mtok: int
    nusd: int


def price_lines(rates: Rates, usage: Usage, *, ceiling: bool = False) -> tuple[PriceLine, ...]:
    """The bill for ``usage`` at ``rates``: one rounding per line, up for a ceiling, else half to even."""
    fresh = (
        usage.input_tokens - usage.cache_read_tokens - usage.cache_write_tokens - usage.cache_write_1h_tokens
    )
    lines = []
    for kind, tokens, rate in (
        (LineKind.INPUT, fresh, rates.input_nusd_per_mtok),
        (LineKind.CACHE_READ, usage.cache_read_tokens, rates.cache_read_nusd_per_mtok),
        (LineKind.CACHE_WRITE, usage.cache_write_tokens, rates.cache_write_nusd_per_mtok),
        (LineKind.CACHE_WRITE, usage.cache_write_1h_tokens, rates.cache_write_1h_nusd_per_mtok),
        (LineKind.OUTPUT, usage.output_tokens, rates.output_nusd_per_mtok),
    ):
        if tokens:
            lines.append(PriceLine(kind, tokens, rate, _per_million(tokens * rate, ceiling)))
    if rates.request_nusd:
        lines.append(PriceLine(LineKind.REQUEST, 1, rates.request_nusd, rates.request_nusd))
    return tuple(lines)


def price_nusd(rates: Rates, usage: Usage, *, ceiling: bool = False) -> int:
    """The sum of :func:`price_lines`, nano-dollars."""
    written, written_1h, read = usage.cache_write_tokens, usage.cache_write_1h_tokens, usage.cache_read_tokens
    fresh = usage.input_tokens - read - written - written_1h
    nusd = (
        _per_million(fresh * rates.input_nusd_per_mtok, ceiling)
        + _per_million(usage.output_tokens * rates.output_nusd_per_mtok, ceiling)
        + rates.request_nusd
    )
    if read:
        nusd += _per_million(read * rates.cache_read_nusd_per_mtok, ceiling)
    if written:
        nusd += _per_million(written * rates.cache_write_nusd_per_mtok, ceiling)
    if written_1h:
        nusd += _per_million(written_1h * rates.cache_write_1h_nusd_per_mtok, ceiling)
    return nusd


def _per_million(product: int, ceiling: bool) -> int:
    whole, rest = divmod(product, TOKENS_PER_RATE)
    if ceiling:
        return whole + (rest > 0)
    half = TOKENS_PER_RATE // 2
    return whole + (rest > half or (rest == half and whole % 2 == 1))
