"""What an agent answers a call with: OpenAI chat completions, stream events and errors, made from deltas."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import orjson

from .errors import (
    AuthFailed,
    ContentRefused,
    ContextTooLong,
    Overloaded,
    ProviderError,
    ProviderTimeout,
    QuoteDishonoured,
    RateLimited,
    RequestRefused,
)
from .protocol import usd_text
from .sse import DONE, encode_event
from .terms import Delta, Ticket, Usage

__all__ = ["answer_body", "error_body", "status_of", "stream_events", "usage_body"]

_STATUS: Final[tuple[tuple[type[ProviderError], int, str], ...]] = (
    (QuoteDishonoured, 410, "quote_dishonoured"),
    (RateLimited, 429, "rate_limit_exceeded"),
    (Overloaded, 503, "overloaded"),
    (ProviderTimeout, 504, "timeout"),
    (ContextTooLong, 400, "context_length_exceeded"),
    (ContentRefused, 400, "content_filter"),
    (RequestRefused, 400, "request_refused"),
    (AuthFailed, 502, "seller_unauthorised"),  # ours with the vendor, not the caller's with us
    (ProviderError, 502, "seller_failed"),
)


def status_of(error: ProviderError) -> int:
    """The HTTP status that a failure is answered with."""
    return next(status for leaf, status, _ in _STATUS if isinstance(error, leaf))


def error_body(error: ProviderError) -> dict[str, Any]:
    """An OpenAI-shaped error."""
    code = next(code for leaf, _, code in _STATUS if isinstance(error, leaf))
    return {"error": {"message": error.detail, "type": type(error).__name__, "param": None, "code": code}}


def usage_body(usage: Usage, billed_nusd: int | None) -> dict[str, Any]:
    """Usage in OpenAI's shape, with cache writes and the seller's own bill where there are any."""
    body: dict[str, Any] = {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cache_read_tokens,
            "cache_write_tokens": usage.cache_write_tokens + usage.cache_write_1h_tokens,
        },
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }
    if billed_nusd is not None:
        body["cost"] = usd_text(billed_nusd)
    return body


def answer_body(ticket: Ticket, message: Mapping[str, Any], last: Delta, created_s: int) -> dict[str, Any]:
    """A whole answer: a chat completion, or the list of embeddings."""
    usage = None if last.usage is None else usage_body(last.usage, last.billed_nusd)
    if "messages" not in ticket.body:
        return {
            "object": "list",
            "model": ticket.quote.model,
            "data": message.get("data", []),
            "usage": usage,
        }
    choice = {"index": 0, "message": message, "finish_reason": last.finish_reason, "logprobs": None}
    return {**_head(ticket, "chat.completion", created_s), "choices": [choice], "usage": usage}


async def stream_events(ticket: Ticket, deltas: AsyncIterator[Delta], created_s: int) -> AsyncIterator[bytes]:
    """The bytes of a stream, piece by piece: the seller's own where it has them, then finish, usage and end."""
    head = _head(ticket, "chat.completion.chunk", created_s)
    async for delta in deltas:
        if delta.finish_reason is None:
            yield delta.raw or _chunk(head, delta.delta, None)
            continue
        end = delta.raw or _chunk(head, delta.delta, delta.finish_reason)
        if delta.usage is not None:
            counted = {**head, "choices": [], "usage": usage_body(delta.usage, delta.billed_nusd)}
            end += encode_event(orjson.dumps(counted))
        yield end + encode_event(DONE)


def _head(ticket: Ticket, kind: str, created_s: int) -> dict[str, Any]:
    quote = ticket.quote
    return {"id": f"chatcmpl-{quote.quote_id}", "object": kind, "created": created_s, "model": quote.model}


def _chunk(head: Mapping[str, Any], delta: Mapping[str, Any], finish_reason: str | None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
    return encode_event(orjson.dumps({**head, "choices": [choice]}))
