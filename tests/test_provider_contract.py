"""What every seller promises, asked of each of them: quotes that can be trusted, answers that can be settled."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Mapping
from dataclasses import fields, replace
from typing import Any

import pytest
from contract_sellers import ANSWER_KEY, SELLERS

from providers.assembly import MessageBuilder
from providers.base import Provider
from providers.errors import ProviderError
from providers.terms import (
    RFQ,
    TIERS,
    Decline,
    DeclineCode,
    Delta,
    Quote,
    RateLimit,
    Target,
    Ticket,
    price_nusd,
)
from providers.tokens import read_chat

BODY: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "You answer in one sentence."},
        {"role": "user", "content": "What does a quote promise?"},
    ]
}
READ = read_chat(BODY, key=b"tenant")
ASK = RFQ(
    rfq_id="r1",
    input_tokens=READ.input_tokens,
    prefix=READ.prefix,
    expected_output_tokens=60,
    tiers=TIERS,
    answer_key=ANSWER_KEY,
)


@pytest.fixture(params=SELLERS)
async def seller(request: pytest.FixtureRequest) -> AsyncIterator[Provider]:
    """Each seller in turn."""
    async with SELLERS[request.param]() as opened:
        yield opened


async def answers(seller: Provider, rfq: RFQ) -> tuple[Quote | Decline, ...]:
    """What a seller answers, at once or later."""
    answer = seller.quote(rfq)
    return await answer if inspect.isawaitable(answer) else answer


async def quotes(seller: Provider, rfq: RFQ = ASK) -> list[Quote]:
    """The quotes among them."""
    return [item for item in await answers(seller, rfq) if isinstance(item, Quote)]


def ticket_of(quote: Quote, *, stream: bool = False, body: Mapping[str, Any] = BODY) -> Ticket:
    """A ticket for a quote."""
    return Ticket(
        reservation_id="v1",
        order_id="o1",
        quote=quote,
        body=body,
        max_output_tokens=quote.max_output_tokens,
        deadline_ms=20_000,
        stream=stream,
        prefix=READ.prefix,
        answer_key=ANSWER_KEY,
    )


async def serve(seller: Provider, ticket: Ticket) -> tuple[Mapping[str, Any], list[Delta]]:
    """The whole message and all deltas."""
    builder, deltas = MessageBuilder(), []
    async for delta in seller.execute(ticket):
        builder.add(delta.delta)
        deltas.append(delta)
    return builder.message(), deltas


async def test_it_is_a_provider_with_a_name_and_limits(seller: Provider) -> None:
    """The members of the protocol are there, and limits are data above zero."""
    assert isinstance(seller, Provider)
    assert seller.name
    assert "/" not in seller.name
    assert all(isinstance(limit, RateLimit) and limit.amount > 0 < limit.per_ms for limit in seller.limits)


async def test_offers_are_priced_from_the_first_token(seller: Provider) -> None:
    """Steps begin at zero and ascend; each offer has a known tier, its seller's name, and the source of its price."""
    for offer in seller.offers():
        starts = [step.from_input_tokens for step in offer.steps]
        assert starts[0] == 0
        assert starts == sorted(set(starts))
        assert offer.provider == seller.name
        assert offer.tier in TIERS
        assert offer.price_source
        assert 0 < offer.max_output_tokens <= offer.context_tokens
        assert 1 <= offer.token_factor <= offer.token_margin


async def test_quotes_add_up(seller: Provider) -> None:
    """Lines sum to the expected price, which is at most the ceiling; savings are positive and say why."""
    found = await quotes(seller)
    assert found
    assert len({quote.quote_id for quote in found}) == len(found)
    for quote in found:
        assert (quote.provider, quote.rfq_id) == (seller.name, "r1")
        assert sum(line.nusd for line in quote.lines) == quote.expected_nusd <= quote.ceiling_nusd
        assert quote.valid_for_ms > 0
        assert 1 <= quote.expected_output_tokens <= quote.max_output_tokens
        assert quote.latency_ms.p50 <= quote.latency_ms.p95
        assert quote.ttft_ms.p50 <= quote.latency_ms.p50
        assert all(saved.saves_nusd > 0 and saved.basis for saved in quote.discounts)


async def test_every_offer_in_an_accepted_tier_is_answered(seller: Provider) -> None:
    """A quote or a decline for each, and nothing in a tier that the buyer does not accept."""
    accepted = {(offer.model, offer.tier) for offer in seller.offers() if offer.tier == "standard"}
    found = {(quote.model, quote.tier) for quote in await quotes(seller, replace(ASK, tiers=("standard",)))}
    assert {tier for _, tier in found} <= {"standard"}
    assert found == accepted or not seller.offers()  # one that prices each request apart offers nothing ahead


async def test_only_asked_for_models_answer(seller: Provider) -> None:
    """By name or by provider/model; another model's name gets silence."""
    for quote in (await quotes(seller))[:1]:
        if quote.tier == "cached":
            return  # its key already holds the buyer's choice of models
        assert await quotes(seller, replace(ASK, models=frozenset({quote.model})))
        assert await quotes(seller, replace(ASK, models=frozenset({quote.key})))
    assert await answers(seller, replace(ASK, models=frozenset({"another model"}), answer_key=None)) == ()


async def test_what_it_cannot_do_is_a_coded_decline(seller: Provider) -> None:
    """An unknown capability and a prompt longer than any context; it never raises."""
    for rfq, code in (
        (replace(ASK, capabilities=frozenset({"time travel"}), answer_key=None), DeclineCode.UNSUPPORTED),
        (replace(ASK, input_tokens=50_000_000, answer_key=None), DeclineCode.TOO_LONG),
    ):
        found = await answers(seller, rfq)
        assert all(isinstance(item, Decline) and item.code is code and item.detail for item in found)
        assert len(found) == len(seller.offers()) or not seller.offers()


async def test_an_answer_can_be_settled(seller: Provider) -> None:
    """The last delta has a finish reason and a usage whose price at the quoted rates is within the ceiling."""
    for quote in await quotes(seller):
        message, deltas = await serve(seller, ticket_of(quote))
        assert message["content"]
        assert [delta.finish_reason for delta in deltas[:-1]] == [None] * (len(deltas) - 1)
        last = deltas[-1]
        assert last.finish_reason == "stop"
        assert last.usage is not None
        assert last.usage.output_tokens <= quote.max_output_tokens
        assert price_nusd(quote.rates, last.usage) <= quote.ceiling_nusd
        assert last.billed_nusd is None or last.billed_nusd <= quote.ceiling_nusd


@pytest.mark.parametrize("name", SELLERS)
async def test_streamed_equals_buffered(name: str) -> None:
    """Two fresh sellers, one streaming: the same message, finish, usage and bill."""
    seen = []
    for stream in (True, False):
        async with SELLERS[name]() as seller:
            (quote, *_) = await quotes(seller)
            message, deltas = await serve(seller, ticket_of(quote, stream=stream))
            last = deltas[-1]
            assert last.usage is not None
            seen.append((message, last.finish_reason, last.usage, last.billed_nusd))
    assert seen[0] == seen[1]


async def test_hanging_up_leaves_the_seller_able_to_serve(seller: Provider) -> None:
    """Ten streams closed after their first piece hold no slot: the eleventh call is served."""
    for _ in range(10):
        (quote, *_) = await quotes(seller)
        stream = seller.execute(ticket_of(quote, stream=True))
        async for _ in stream:
            break
        await stream.aclose()  # type: ignore[attr-defined]
    (quote, *_) = await quotes(seller)
    message, _ = await serve(seller, ticket_of(quote, stream=True))
    assert message["content"]


async def test_a_second_round_is_never_dearer(seller: Provider) -> None:
    """Asked to meet a target, each offer's ceiling stays or falls; one already met stays as it was."""
    first = {(quote.model, quote.tier): quote for quote in await quotes(seller)}
    lowest = min(quote.ceiling_nusd for quote in first.values())
    for target in (lowest // 2, 10**15):
        for quote in await quotes(seller, replace(ASK, round=2, target=Target(nusd=target))):
            before = first[quote.model, quote.tier]
            assert quote.ceiling_nusd <= before.ceiling_nusd
            if target == 10**15:
                assert quote.ceiling_nusd == before.ceiling_nusd


async def test_what_it_no_longer_sells_raises_only_its_own_errors(seller: Provider) -> None:
    """A ticket for something else ends in a ProviderError or an answer, never in another exception."""
    (quote, *_) = await quotes(seller)
    odd = replace(ticket_of(replace(quote, model="gone", quote_id="q_gone")), answer_key="gone")
    try:
        await serve(seller, odd)
    except ProviderError as error:
        assert error.detail  # noqa: PT017 - not raising is as good


def test_no_seller_sees_the_budget() -> None:
    """Nothing in an RFQ or a ticket names a budget or a value; a second round has a target."""
    words = {entry.name for kind in (RFQ, Ticket, Target) for entry in fields(kind)}
    assert not {word for word in words if "budget" in word or "value" in word or "account" in word}


async def test_closing_twice_is_once(seller: Provider) -> None:
    """``aclose`` may be called again."""
    await seller.aclose()
    await seller.aclose()
