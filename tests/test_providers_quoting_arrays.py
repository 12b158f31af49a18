"""Quotes as arrays are the same numbers as quotes one by one."""

from __future__ import annotations

import numpy as np
import pytest

from providers.clock import LoopClock
from providers.prefix_cache import PrefixCache
from providers.quoting import Quoter
from providers.quoting_arrays import quote_arrays
from providers.simulated import default_sellers
from providers.terms import RFQ, Offer, PrefixMark, Quote

OFFERS = [offer for seller in default_sellers(LoopClock(), seed=1) for offer in seller.offers()]


@pytest.mark.parametrize("offer", OFFERS, ids=lambda offer: f"{offer.key}-{offer.tier}")
@pytest.mark.parametrize("counted", [False, True], ids=["estimated", "counted"])
def test_arrays_equal_single_quotes(offer: Offer, counted: bool) -> None:
    """Every number of every quote, across long-context cliffs, bounded and unbounded answers."""
    rng = np.random.default_rng(7)
    n = 200
    tokens = np.exp(rng.uniform(0, np.log(1.3e6), n)).astype(np.int64) + 1
    asked = np.where(rng.random(n) < 0.5, 0, np.exp(rng.uniform(0, 12, n)).astype(np.int64))
    wanted = np.where(rng.random(n) < 0.2, 0, np.exp(rng.uniform(0, 9, n)).astype(np.int64))
    many = quote_arrays(offer, tokens, tokens if counted else None, asked, wanted)
    quoter = Quoter(offer, lambda: "q")
    for i in range(n):
        rfq = RFQ(
            rfq_id="r",
            input_tokens=int(tokens[i]),
            max_output_tokens=int(asked[i]) or None,
            expected_output_tokens=int(wanted[i]),
            tokens_by_vocabulary={offer.vocabulary: int(tokens[i])} if counted else {},
            capabilities=offer.tags & {"embeddings"},
        )
        own = int(tokens[i]) if counted else int(tokens[i] * offer.token_factor)
        mark = (PrefixMark(int(tokens[i]), "never sent"),)
        cold = PrefixCache().hope(offer.model, offer.cache, mark, 0, input_tokens=own)
        quote = quoter.quote(rfq, ttl_ms=1000, cache=cold)
        assert isinstance(quote, Quote) == many.quoted[i]
        if isinstance(quote, Quote):
            single = (
                quote.expected_nusd, quote.ceiling_nusd, quote.input_tokens, quote.max_output_tokens,
                quote.expected_output_tokens, quote.latency_ms.p50, quote.latency_ms.p95, quote.ttft_ms.p95,
            )  # fmt: skip
            assert single == (
                many.expected_nusd[i], many.ceiling_nusd[i], many.covered_tokens[i], many.max_output_tokens[i],
                many.output_tokens[i], many.latency_ms_p50[i], many.latency_ms_p95[i], many.ttft_ms_p95,
            )  # fmt: skip
