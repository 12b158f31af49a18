"""One offer's quotes for many requests at once: the numbers of :class:`providers.quoting.Quoter`, as arrays.

For batches: no quote objects, no warm caches, no second round. Equal to the nano-dollar, and tested to be.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .quoting import DEFAULT_OUTPUT_TOKENS, Quoter
from .terms import TOKENS_PER_RATE, CacheWrites, Offer

__all__ = ["QuoteArrays", "quote_arrays"]

Ints = npt.NDArray[np.int64]
LONGEST_MS = 2**31 - 1


@dataclass(frozen=True, slots=True, eq=False)
class QuoteArrays:
    """n requests at one offer, int64[n] each but ``quoted`` (bool[n]: the request fits the context).

    ceiling_input_nusd: the ceiling without output. covered_tokens, input_tokens: with and without margin.
    """

    quoted: npt.NDArray[np.bool_]
    expected_nusd: Ints
    ceiling_nusd: Ints
    ceiling_input_nusd: Ints
    input_tokens: Ints
    covered_tokens: Ints
    max_output_tokens: Ints
    output_tokens: Ints
    latency_ms_p50: Ints
    latency_ms_p95: Ints
    ttft_ms_p95: int


def quote_arrays(
    offer: Offer,
    reference_tokens: Ints,
    counted_tokens: Ints | None,
    asked_output: Ints,
    expected_output: Ints,
) -> QuoteArrays:
    """Quotes for requests of so many tokens.

    reference_tokens: input in the reference vocabulary. counted_tokens: in the offer's own, None = not counted.
    asked_output: the buyer's own bound, 0 = none. expected_output: the house's estimate, 0 = none.
    """
    quoter = Quoter(offer, str)
    own = reference_tokens
    if counted_tokens is None:
        own = (reference_tokens * offer.token_factor).astype(np.int64)
        inputs = np.ceil(reference_tokens * offer.token_factor).astype(np.int64)
        covered = np.ceil(reference_tokens * offer.token_margin).astype(np.int64)
    else:
        inputs = own = counted_tokens
        covered = counted_tokens + (counted_tokens + 49) // 50
    covered = np.maximum(covered, inputs)
    room = np.minimum(offer.max_output_tokens, offer.context_tokens - covered)
    longest = np.where(asked_output > 0, np.minimum(asked_output, room), room)
    wanted = np.where(expected_output > 0, expected_output, DEFAULT_OUTPUT_TOKENS)
    needed = np.where(asked_output > 0, np.minimum(wanted, asked_output), wanted)
    quoted = (longest >= 1) & ((room >= offer.max_output_tokens) | (longest >= needed))
    longest = np.maximum(longest, 1)
    output = np.minimum(wanted, longest)
    step = np.zeros(len(covered), dtype=np.int64)
    for number, later in enumerate(offer.steps[1:], start=1):
        step[covered >= later.from_input_tokens] = number
    rates = [one.rates for one in offer.steps]
    input_rate = np.array([one.input_nusd_per_mtok for one in rates])[step]
    write_rate = np.array([one.cache_write_nusd_per_mtok for one in rates])[step]
    output_rate = np.array([one.output_nusd_per_mtok for one in rates])[step]
    request_nusd = np.array([one.request_nusd for one in rates])[step]
    worst_rate = np.array(quoter.worst_input_rates)[step]
    written = np.minimum(_written(offer, own), inputs)
    expected = _even((inputs - written) * input_rate) + _even(written * write_rate)
    speed = quoter.speed
    median = speed.ttft_ms_p50 + speed.ms_per_output_token_p50 * output
    ceiling_input = _up(covered * worst_rate) + request_nusd + quoter.slack_nusd
    return QuoteArrays(
        quoted=quoted,
        expected_nusd=expected + _even(output * output_rate) + request_nusd,
        ceiling_nusd=ceiling_input + _up(longest * output_rate),
        ceiling_input_nusd=ceiling_input,
        input_tokens=inputs,
        covered_tokens=covered,
        max_output_tokens=longest,
        output_tokens=output,
        latency_ms_p50=_ms(median),
        latency_ms_p95=_ms(median * quoter.late),
        ttft_ms_p95=quoter.ttft_ms.p95,
    )


def _written(offer: Offer, tokens: Ints) -> Ints:
    """What a seller that charges every write stores of a prompt it has not seen: its whole blocks."""
    cache = offer.cache
    if cache is None or cache.writes is not CacheWrites.CHARGED:
        return np.zeros_like(tokens)
    return np.where(tokens >= cache.min_tokens, tokens - tokens % cache.block_tokens, 0)


def _up(product: Ints) -> Ints:
    return -(-product // TOKENS_PER_RATE)


def _even(product: Ints) -> Ints:
    whole, rest = np.divmod(product, TOKENS_PER_RATE)
    twice = 2 * rest
    return np.asarray(
        whole + ((twice > TOKENS_PER_RATE) | ((twice == TOKENS_PER_RATE) & (whole & 1 == 1))), dtype=np.int64
    )


def _ms(values: npt.NDArray[np.float64]) -> Ints:
    return np.clip(np.rint(values), 1, LONGEST_MS).astype(np.int64)
