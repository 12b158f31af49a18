"""Between the words of :mod:`providers.terms` and the shapes of :mod:`providers.protocol`, both ways."""

from __future__ import annotations

from collections.abc import Sequence

from .protocol import (
    DeclineWire,
    DiscountWire,
    LineWire,
    PrefixWire,
    QuantilesWire,
    QuoteAnswer,
    QuoteRequest,
    QuoteWire,
    RatesWire,
    TargetWire,
    usd_text,
)
from .terms import (
    RFQ,
    Decline,
    Discount,
    LineKind,
    PrefixMark,
    PriceLine,
    Quantiles,
    Quote,
    Rates,
    Target,
    Usage,
    price_lines,
)

__all__ = ["Inconsistent", "answer_out", "quote_in", "request_out", "rfq_in"]

ROUNDING_NUSD = 16
"""How far a seller's own sums may be from ours: one rounding a line, ours or theirs."""


class Inconsistent(ValueError):
    """A quote contradicts itself; the message says what was expected and what was found."""


def request_out(rfq: RFQ, provider: str) -> QuoteRequest:
    """An RFQ as it goes to the remote seller that the house calls ``provider``: it knows its models without that."""
    target = rfq.target
    return QuoteRequest.model_construct(
        rfq_id=rfq.rfq_id,
        input_tokens=rfq.input_tokens,
        max_tokens=rfq.max_output_tokens,
        expected_output_tokens=rfq.expected_output_tokens,
        prefix=[PrefixWire.model_construct(tokens=mark.tokens, key=mark.key) for mark in rfq.prefix],
        capabilities=sorted(rfq.capabilities),
        parameters=sorted(rfq.parameters),
        tiers=list(rfq.tiers),
        models=None
        if rfq.models is None
        else sorted({name.removeprefix(f"{provider}/") for name in rfq.models}),
        answer_within_ms=rfq.answer_within_ms,
        round=rfq.round,
        target=None
        if target is None
        else TargetWire.model_construct(usd=target.nusd, latency_ms=target.latency_ms),
    )


def rfq_in(asked: QuoteRequest) -> RFQ:
    """A request as the seller's RFQ."""
    target = asked.target
    return RFQ(
        rfq_id=asked.rfq_id,
        input_tokens=asked.input_tokens,
        max_output_tokens=asked.max_tokens,
        expected_output_tokens=asked.expected_output_tokens,
        prefix=tuple(PrefixMark(mark.tokens, mark.key) for mark in asked.prefix),
        capabilities=frozenset(asked.capabilities),
        parameters=frozenset(asked.parameters),
        tiers=tuple(asked.tiers),
        models=None if asked.models is None else frozenset(asked.models),
        answer_within_ms=asked.answer_within_ms,
        round=asked.round,
        target=None if target is None else Target(target.usd, target.latency_ms),
    )


def answer_out(answer: Sequence[Quote | Decline]) -> QuoteAnswer:
    """A seller's answer as it goes to the house."""
    quotes = [_quote_out(item) for item in answer if isinstance(item, Quote)]
    declines = [
        DeclineWire.model_construct(code=item.code, detail=item.detail[:300], model=item.model)
        for item in answer
        if isinstance(item, Decline)
    ]
    return QuoteAnswer.model_construct(
        quotes=quotes, decline=declines[0] if declines and not quotes else None, declines=declines
    )


def _quote_out(quote: Quote) -> QuoteWire:
    rates = quote.rates
    return QuoteWire.model_construct(
        seller_quote_id=quote.quote_id,
        model=quote.model,
        tier=quote.tier,
        firm=quote.firm,
        rates=RatesWire.model_construct(
            input_usd_per_million=rates.input_nusd_per_mtok,
            output_usd_per_million=rates.output_nusd_per_mtok,
            cache_read_usd_per_million=rates.cache_read_nusd_per_mtok,
            cache_write_usd_per_million=rates.cache_write_nusd_per_mtok,
            request_usd=rates.request_nusd,
        ),
        expected_usd=quote.expected_nusd,
        ceiling_usd=quote.ceiling_nusd,
        lines=[LineWire.model_construct(kind=line.kind, tokens=line.tokens) for line in quote.lines],
        input_tokens=quote.input_tokens,
        expected_output_tokens=quote.expected_output_tokens,
        max_output_tokens=quote.max_output_tokens,
        latency_ms=_quantiles_out(quote.latency_ms),
        ttft_ms=_quantiles_out(quote.ttft_ms),
        discounts=[
            DiscountWire.model_construct(kind=d.kind, saves_usd=d.saves_nusd, basis=d.basis[:300])
            for d in quote.discounts
        ],
        valid_for_ms=quote.valid_for_ms,
        capacity=quote.capacity,
        tags=sorted(quote.tags),
    )


def _quantiles_out(quantiles: Quantiles) -> QuantilesWire:
    return QuantilesWire.model_construct(p50=max(1, quantiles.p50), p95=max(1, quantiles.p95))


def quote_in(
    said: QuoteWire, rfq: RFQ, provider: str, *, quote_id: str, firm: bool, tags: frozenset[str] = frozenset()
) -> Quote:
    """A remote seller's offer as a quote of ``provider``; raises :class:`Inconsistent` where it contradicts itself.

    The expected price is what its rates make of its lines, and must be what it says; a ceiling below it is refused.
    """
    rates = _rates_in(said.rates)
    usage, lines = _expected(said, rfq, rates)
    expected_nusd = sum(line.nusd for line in lines)
    if abs(expected_nusd - said.expected_usd) > ROUNDING_NUSD:
        raise Inconsistent(
            f"expected_usd: expected {usd_text(expected_nusd)}, which its rates make of its tokens, "
            f"found {usd_text(said.expected_usd)}"
        )
    if said.ceiling_usd < expected_nusd - ROUNDING_NUSD:
        raise Inconsistent(
            f"ceiling_usd: expected at least {usd_text(expected_nusd)}, found {usd_text(said.ceiling_usd)}"
        )
    max_output = said.max_output_tokens or rfq.max_output_tokens
    if max_output is None:
        raise Inconsistent("max_output_tokens: expected one where the request has no max_tokens, found none")
    if rfq.max_output_tokens is not None:
        max_output = min(max_output, rfq.max_output_tokens)
    latency = Quantiles(said.latency_ms.p50, max(said.latency_ms.p50, said.latency_ms.p95))
    first = said.ttft_ms or said.latency_ms
    return Quote(
        quote_id=quote_id,
        rfq_id=rfq.rfq_id,
        provider=provider,
        model=said.model,
        tier=said.tier,
        firm=firm and said.firm,
        rates=rates,
        lines=lines,
        expected_nusd=expected_nusd,
        ceiling_nusd=max(said.ceiling_usd, expected_nusd),
        input_tokens=max(usage.input_tokens, said.input_tokens or 0),
        expected_output_tokens=usage.output_tokens,
        max_output_tokens=max_output,
        latency_ms=latency,
        ttft_ms=Quantiles(first.p50, max(first.p50, first.p95)),
        valid_for_ms=said.valid_for_ms,
        discounts=tuple(Discount(d.kind, d.saves_usd, d.basis) for d in said.discounts),
        tags=tags | frozenset(said.tags),
        capacity=said.capacity,
    )


def _rates_in(said: RatesWire) -> Rates:
    """A remote seller's rates; a class it left out costs what input costs."""
    fresh = said.input_usd_per_million
    written = fresh if said.cache_write_usd_per_million is None else said.cache_write_usd_per_million
    return Rates(
        input_nusd_per_mtok=fresh,
        output_nusd_per_mtok=said.output_usd_per_million,
        cache_read_nusd_per_mtok=fresh
        if said.cache_read_usd_per_million is None
        else said.cache_read_usd_per_million,
        cache_write_nusd_per_mtok=written,
        cache_write_1h_nusd_per_mtok=written,
        request_nusd=said.request_usd,
    )


def _expected(said: QuoteWire, rfq: RFQ, rates: Rates) -> tuple[Usage, tuple[PriceLine, ...]]:
    """The tokens a quote expects, from its lines or else the request, and what they cost line by line."""
    tokens = dict.fromkeys(LineKind, 0)
    for line in said.lines:
        tokens[line.kind] += line.tokens
    cached = tokens[LineKind.CACHE_READ] + tokens[LineKind.CACHE_WRITE]
    output = tokens[LineKind.OUTPUT] if said.lines else said.expected_output_tokens
    usage = Usage(
        tokens[LineKind.INPUT] + cached if said.lines else said.input_tokens or rfq.input_tokens,
        rfq.expected_output_tokens if output is None else output,
        cache_read_tokens=tokens[LineKind.CACHE_READ],
        cache_write_tokens=tokens[LineKind.CACHE_WRITE],
    )
    return usage, price_lines(rates, usage)
