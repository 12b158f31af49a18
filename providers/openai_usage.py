"""OpenAI-shaped usage reports, read into the five token classes, whichever way a vendor counts them.

Vendors differ in whether cached tokens are part of the prompt count and whether reasoning is part of the completion
count; ``total_tokens`` or plain arithmetic tells. A report without input tokens is no report: no call has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_CEILING, Decimal
from typing import Any, Final

from .terms import Usage

__all__ = ["billed_of", "count_of", "usage_of"]

NUSD_PER_USD: Final = 1_000_000_000
TICKS_PER_NUSD: Final = 10  # xAI bills in ticks of 1e-10 dollars
_NONE: Final[Mapping[str, Any]] = {}


def count_of(report: Mapping[str, Any], *names: str) -> int:
    """The first of these counts that is there and a whole number above zero; else 0."""
    for name in names:
        value = report.get(name)
        if type(value) is int and value > 0:
            return value
    return 0


def _details(report: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    for name in names:
        value = report.get(name)
        if value and isinstance(value, dict):
            return value
    return _NONE


def usage_of(report: object) -> Usage | None:
    """The usage in a vendor's report (chat, embeddings or responses shape); None where it says nothing usable."""
    if not isinstance(report, dict):
        return None
    input_tokens = count_of(report, "prompt_tokens", "input_tokens")
    if not input_tokens:
        return None
    output_tokens = count_of(report, "completion_tokens", "output_tokens")
    if output_tokens and len(report) == 3 and report.get("total_tokens") == input_tokens + output_tokens:
        return Usage(input_tokens, output_tokens)  # the two and their total
    beside = count_of(report, "total_tokens") - input_tokens - output_tokens
    of_input = _details(report, "prompt_tokens_details", "input_tokens_details")
    of_output = _details(report, "completion_tokens_details", "output_tokens_details")
    read = count_of(of_input, "cached_tokens") or count_of(report, "prompt_cache_hit_tokens", "cached_tokens")
    written = count_of(of_input, "cache_write_tokens", "cache_creation_input_tokens", "cache_creation_tokens")
    reasoning = count_of(of_output, "reasoning_tokens") or count_of(report, "reasoning_tokens")
    cached = read + written
    if cached > input_tokens or (cached and beside in (cached, cached + reasoning)):
        input_tokens += cached
        beside -= cached
    if reasoning > output_tokens:
        output_tokens += reasoning
    elif beside > 0:  # the total is billed: what no class names is output the answer does not show
        output_tokens += beside
    return Usage(input_tokens, output_tokens, read, written, reasoning_tokens=reasoning)


def billed_of(report: object) -> int | None:
    """The seller's own bill in a usage report, nano-dollars, rounded up; None where it sends none (or zero)."""
    if not isinstance(report, dict):
        return None
    ticks = count_of(report, "cost_in_usd_ticks")
    if ticks:
        return -(-ticks // TICKS_PER_NUSD)
    cost = report.get("cost")
    if isinstance(cost, dict):
        cost = cost.get("total_cost")
    if isinstance(cost, (int, float, str)) and not isinstance(cost, bool):
        try:
            nusd = Decimal(str(cost)) * NUSD_PER_USD
        except ArithmeticError:
            return None
        if nusd.is_finite() and nusd > 0:
            return int(nusd.to_integral_value(ROUND_CEILING))
    return None
