"""What clients say to a house: bodies of requests, and how answers and errors are read."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import quote

import orjson

from providers.terms import Usage

from .errors import InputInvalid, RejectCode, Rejected, ServerRefused, ServerUnreachable
from .wire import Terms

__all__ = ["answered", "id_out", "known", "line_out", "messages_out", "order_out", "terms_out", "usage_out"]

T = TypeVar("T")


def order_out(
    messages: str | Sequence[Mapping[str, Any]],
    terms: Terms | None,
    quote_id: str | None,
    body: Mapping[str, Any],
) -> dict[str, Any]:
    """The body of ``POST /v1/orders``, with an order id in any case: what is sent again is the same order."""
    order = {**body, "messages": messages_out(messages)}
    order["terms"] = {"order_id": f"ord_{uuid.uuid4().hex}", **terms_out(terms)}
    if quote_id is not None:
        order["quote_id"] = quote_id
    return order


def messages_out(messages: str | Sequence[Mapping[str, Any]]) -> list[Any]:
    """Messages; a text is one of the user's."""
    return [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)


def terms_out(terms: Terms | None) -> dict[str, Any]:
    """The terms that were given."""
    return {} if terms is None else terms.model_dump(mode="json", exclude_none=True)


def usage_out(usage: Usage) -> dict[str, Any]:
    """What a call used, as OpenAI's usage object."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cache_read_tokens,
            "cache_write_tokens": usage.cache_write_tokens + usage.cache_write_1h_tokens,
        },
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def id_out(name: str) -> str:
    """An id as a part of a path."""
    return quote(name, safe="")


def line_out(line: Any) -> bytes:
    """One line of a batch; a text that is no JSON goes as it is, for the house to say so."""
    if not isinstance(line, (bytes, str)):
        return orjson.dumps(line)
    data = line.encode() if isinstance(line, str) else line
    return b" ".join(data.splitlines())


def answered(read: Callable[[Any], T], data: bytes) -> T:
    """What ``read`` makes of an answer's JSON. Raises ServerUnreachable for what no house says."""
    try:
        return read(orjson.loads(data))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        found = data[:200].decode("utf-8", "replace")
        raise ServerUnreachable(f"expected a house's answer ({error!r}), found {found!r}") from error


@contextmanager
def known() -> Iterator[None]:
    """Raises InputInvalid, as the market in-process does, for what the house finds invalid or does not know."""
    try:
        yield
    except Rejected as refused:
        if refused.reject.code is RejectCode.INVALID:
            raise InputInvalid(refused.reject.message) from None
        raise
    except ServerRefused as refused:
        if refused.code in ("UNKNOWN_ORDER", "UNKNOWN_RESERVATION"):
            raise InputInvalid(str(refused)) from None
        raise
