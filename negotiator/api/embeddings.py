"""OpenAI's embeddings, bought on the same market and the same terms."""

from __future__ import annotations

import orjson

from ..wire_bodies import HOUSE_FIELDS, EmbeddingsRequest
from ..wire_out import embeddings_out
from .buying import buy, order_of, terms_of
from .routes import Answer, Call, route
from .schemas_out import EmbeddingsOut

__all__ = ["create_embeddings"]


@route(
    "POST",
    "/v1/embeddings",
    req=EmbeddingsRequest,
    res=EmbeddingsOut,
    errors=(402, 403, 404, 409, 422, 429, 499, 502, 503, 504),
)
async def create_embeddings(call: Call) -> Answer:
    """Buy embeddings of a text or of many."""
    asked: EmbeddingsRequest = call.body
    terms = await terms_of(call, asked.negotiator)
    body = call.raw
    for name in HOUSE_FIELDS:
        body.pop(name, None)
    done, _ = await buy(call, await order_of(call, body, terms, stream=False))
    return orjson.dumps(embeddings_out(done))
