"""What an OpenAI-shaped error means: status, code, type and message to one leaf of :mod:`providers.errors`.

The status alone misleads: an empty purse comes as 429, a prompt that is too long and a refused content as 400,
and errors arrive inside 200 answers and streams.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from .errors import (
    AuthFailed,
    ContentRefused,
    ContextTooLong,
    Overloaded,
    ProviderError,
    RateLimited,
    error_for,
)
from .limit_headers import retry_after_ms, retry_hint_ms
from .vendor_json import error_body, redirect

__all__ = ["MAX_DETAIL_CHARS", "fault_in_answer", "fault_of", "leaf_for", "safe_detail"]

MAX_DETAIL_CHARS: Final = 300

_BY_CODE: Final[Mapping[str, type[ProviderError]]] = {
    "access_terminated": AuthFailed,
    "account_deactivated": AuthFailed,
    "arrearage": AuthFailed,
    "authentication_error": AuthFailed,
    "billing_hard_limit_reached": AuthFailed,
    "billing_not_active": AuthFailed,
    "credits_exhausted": AuthFailed,
    "insufficient_balance": AuthFailed,
    "insufficient_quota": AuthFailed,
    "invalid_api_key": AuthFailed,
    "invalid_authentication": AuthFailed,
    "capacity_exceeded": Overloaded,
    "engine_overloaded": Overloaded,
    "model_overloaded": Overloaded,
    "overloaded": Overloaded,
    "overloaded_error": Overloaded,
    "resource_unavailable": Overloaded,
    "server_overloaded": Overloaded,
    "service_unavailable": Overloaded,
    "context_length_exceeded": ContextTooLong,
    "exceed_context_size_error": ContextTooLong,
    "request_too_large": ContextTooLong,
    "string_above_max_length": ContextTooLong,
    "content_filter": ContentRefused,
    "content_policy_violation": ContentRefused,
    "data_inspection_failed": ContentRefused,
    "datainspectionfailed": ContentRefused,
    "moderation_blocked": ContentRefused,
    "responsibleaipolicyviolation": ContentRefused,
    "rate_limit_error": RateLimited,
    "rate_limit_exceeded": RateLimited,
    "rate_limit_reached_error": RateLimited,
    "tokens_exceeded": RateLimited,
}

_BY_WORDS: Final[tuple[tuple[re.Pattern[str], type[ProviderError]], ...]] = (
    (
        re.compile(
            r"context (length|window|size)|maximum (input|prompt|context) (length|size)|prompt is too long"
            r"|too many (input )?tokens|input token count .*exceeds|exceeds? the (model's )?max(imum)? "
            r"(number of tokens|context|input)",
            re.I,
        ),
        ContextTooLong,
    ),
    (
        re.compile(
            r"content (management |usage )?(policy|filter)|safety system|flagged by moderation"
            r"|violates? (our |the )?(usage|content|safety)",
            re.I,
        ),
        ContentRefused,
    ),
    (
        re.compile(
            r"insufficient (balance|credits?|funds|quota)|credit balance is too low|out of credits"
            r"|spending limit|exceeded your current quota|billing",
            re.I,
        ),
        AuthFailed,
    ),
    (re.compile(r"overloaded|at capacity|no healthy upstream", re.I), Overloaded),
)
_SECRETISH = re.compile(r"\b(?:sk|gsk|xai|pk|key|AIza)[-_A-Za-z0-9*.]{6,}")


def safe_detail(message: object) -> str:
    """A vendor's message fit for logs and answers: one line, bounded, anything like a key masked."""
    text = " ".join(str(message).split())
    return _SECRETISH.sub("***", text)[:MAX_DETAIL_CHARS] or "no message"


def leaf_for(status: int, codes: tuple[str, ...], message: str) -> type[ProviderError]:
    """The leaf for an error: by its codes, then (for refusals and limits) by its words, then by its status."""
    for code in codes:
        if found := _BY_CODE.get(code.lower()):
            return found
    if status in (400, 402, 403, 413, 422, 429, 500, 503):
        for pattern, leaf in _BY_WORDS:
            # A server's own failure that speaks of tokens is still its failure.
            if pattern.search(message) and (status < 500 or leaf in (ContextTooLong, Overloaded)):
                return leaf
    return error_for(status)


def fault_of(status: int, headers: Mapping[str, str], data: bytes) -> ProviderError:
    """The failure that an HTTP error answer stands for."""
    if moved := redirect(status):
        return moved
    fault = _fault(status, error_body(data))
    if headers.get("x-ratelimit-limit-req-minute") == "0":  # Mistral's window that will never open
        return AuthFailed("the account has no quota for this model", status=403)
    asked_ms = retry_after_ms(headers)
    if asked_ms is not None:
        fault.retry_after_ms = asked_ms
    return fault


def fault_in_answer(body: Mapping[str, Any]) -> ProviderError:
    """The failure inside an answer or stream that had begun with status 200."""
    error = body.get("error")
    given = error.get("code") if isinstance(error, Mapping) else None
    for value in (given, error.get("status") if isinstance(error, Mapping) else None, body.get("status")):
        if str(value).isdigit() and 400 <= int(str(value)) < 600:
            return _fault(int(str(value)), body)
    return _fault(500, body)


def _fault(status: int, body: Any) -> ProviderError:
    error: Any = body.get("error", body) if isinstance(body, Mapping) else body
    codes: tuple[str, ...] = ()
    message = error
    if isinstance(error, Mapping):
        inner = error.get("innererror")
        inner_code = inner.get("code") if isinstance(inner, Mapping) else None
        codes = tuple(
            code for code in (error.get("code"), error.get("type"), inner_code) if isinstance(code, str)
        )
        message = error.get("message") or error.get("detail") or " ".join(codes)
    detail = safe_detail(message if message else "no message")
    leaf = leaf_for(status, codes, detail)
    if leaf is AuthFailed and status == 401:
        detail = "its key was refused"  # what vendors write here quotes the key
    return leaf(detail, status=status, retry_after_ms=retry_hint_ms(detail))
