"""What a line of a batch asks and is answered, by its ``url``: as the endpoint of that name would take and give it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from providers.embeddings import encoded

from .errors import InputInvalid, Reject, RejectCode, Rejected
from .order import Completion
from .responses_chat import chat_body
from .responses_out import frame_of, response_out
from .wire import EMBEDDINGS, RESPONSES, RequestLine, Terms
from .wire_bodies import HOUSE_FIELDS, embeddings_from, responses_from, tiered
from .wire_out import chat_completion_out, embeddings_out

__all__ = ["answer_out", "asked_of"]


def asked_of(request: RequestLine) -> tuple[Mapping[str, Any], Terms]:
    """The body of a line as an order has it, and its terms. Raises Rejected for a body that its endpoint does not take."""
    body, terms = request.body, request.terms
    try:
        if request.url == RESPONSES:
            asked = responses_from(body)
            _no_terms(asked.negotiator)
            if asked.stream:
                raise InputInvalid("stream: expected none in a batch, found true")
            return chat_body(asked), tiered(terms, asked.service_tier) or terms
        if request.url == EMBEDDINGS:
            _no_terms(embeddings_from(body).negotiator)
            return {name: value for name, value in body.items() if name not in HOUSE_FIELDS}, terms
        if "messages" not in body:
            raise InputInvalid("messages: expected a list of at least one message, found nothing")
    except InputInvalid as error:
        raise Rejected(Reject(code=RejectCode.INVALID, message=str(error))) from None
    return body, terms


def _no_terms(given: Terms | None) -> None:
    if given is not None:
        raise InputInvalid("negotiator: expected a line's terms beside its body as terms, found them in it")


def answer_out(request: RequestLine, done: Completion, created_s: int) -> dict[str, Any]:
    """The answer to a line in its endpoint's shape."""
    if request.url == RESPONSES:
        return response_out(frame_of(responses_from(request.body), done.order_id, created_s), done)
    if request.url == EMBEDDINGS:
        return embeddings_out(replace(done, message=encoded(done.message, request.body)))
    return chat_completion_out(done, created_s)
