"""Quotes: what every seller would do it for, ranked, each with what it misses; nothing is held or spent."""

from __future__ import annotations

from dataclasses import replace

from ..order import Order
from ..wire import Terms
from ..wire_bodies import HOUSE_FIELDS
from ..wire_out import book_out
from .buying import order_of, terms_of
from .faults import ApiFault
from .routes import Answer, Call, route
from .schemas import QuoteRequest
from .schemas_words import BookOut

__all__ = ["create_quotes", "joined_terms"]


@route("POST", "/v1/quotes", req=QuoteRequest, res=BookOut, errors=(403, 404))
async def create_quotes(call: Call) -> Answer:
    """Ask all sellers for a price.

    The body is a chat request, or only its size as ``input_tokens`` and ``max_tokens``. When no quote meets the
    terms, ``best`` is null and ``reject`` says why, with what would.
    """
    asked: QuoteRequest = call.body
    terms = await terms_of(call, joined_terms(asked.terms, asked.negotiator), asked.service_tier)
    book = await call.engine.book(await _order(call, asked, terms))
    return book_out(book)


def joined_terms(terms: Terms | None, negotiator: Terms | None) -> Terms | None:
    """``terms``, or the same under the name chat requests have for them; raises ApiFault when both are there."""
    if terms is not None and negotiator is not None:
        raise ApiFault.invalid("negotiator: expected terms once, found them in 'terms' as well")
    return terms or negotiator


async def _order(call: Call, asked: QuoteRequest, terms: Terms | None) -> Order:
    body = call.raw
    for name in (*HOUSE_FIELDS, "terms", "input_tokens"):
        body.pop(name, None)
    if asked.messages is not None:
        if asked.input_tokens is not None:
            raise ApiFault.invalid("input_tokens: expected a size or messages, found both")
        return await order_of(call, body, terms, stream=bool(asked.stream))
    if asked.input_tokens is None:
        raise ApiFault.invalid("messages: expected messages, or input_tokens, found neither")
    body["messages"] = [{"role": "user", "content": ""}]
    order = await order_of(call, body, terms, stream=bool(asked.stream))
    return replace(order, input_tokens=asked.input_tokens, digests={"input_tokens": str(asked.input_tokens)})
