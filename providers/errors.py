"""What can go wrong at a seller. Raised by sellers, caught by the house's execution room.

::

    ProviderError                 .provider .model .status .retry_after_ms
    ├── ProviderUnavailable       cannot be reached, or answered 5xx
    │   ├── Overloaded            says it has no room just now (503, 529, 498)
    │   └── ProviderTimeout       did not answer in time
    ├── RateLimited               429: our account's window is full
    ├── StreamCut                 the stream ended before its last chunk
    ├── MalformedAnswer           what came is not what its API promises
    ├── QuoteDishonoured          refused a quote that was still firm (410)
    ├── AuthFailed                our key was refused (401, 403) or its money is gone (402)
    └── RequestRefused            this request, at this seller, will never succeed (400, 404, 422)
        ├── ContextTooLong        longer than the model's context
        └── ContentRefused        its content policy said no

``retryable`` tells whether another call, to this seller or another, may succeed. One table, :func:`error_for`,
maps a status to its leaf.
"""

from __future__ import annotations

__all__ = [
    "AuthFailed",
    "ContentRefused",
    "ContextTooLong",
    "MalformedAnswer",
    "Overloaded",
    "ProviderError",
    "ProviderTimeout",
    "ProviderUnavailable",
    "QuoteDishonoured",
    "RateLimited",
    "RequestRefused",
    "StreamCut",
    "error_for",
]


class ProviderError(Exception):
    """A seller's failure. ``retry_after_ms``: when it asked to be left alone for, None = it did not say."""

    retryable = True  # elsewhere, at least: the next seller may do it
    seller_fault = True  # counts against the seller's health

    def __init__(
        self,
        detail: str,
        *,
        provider: str = "",
        model: str = "",
        status: int | None = None,
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.provider = provider
        self.model = model
        self.status = status
        self.retry_after_ms = retry_after_ms

    def __str__(self) -> str:
        where = "/".join(part for part in (self.provider, self.model) if part)
        status = f" (status {self.status})" if self.status is not None else ""
        return f"{where or 'seller'}: {self.detail}{status}"


class ProviderUnavailable(ProviderError):
    """It cannot be reached, or it answered 5xx."""


class Overloaded(ProviderUnavailable):
    """It says it has no room just now."""


class ProviderTimeout(ProviderUnavailable):
    """It did not answer in time."""


class RateLimited(ProviderError):
    """Our account's window at this seller is full."""

    seller_fault = False


class StreamCut(ProviderError):
    """The stream ended before its last chunk."""


class MalformedAnswer(ProviderError):
    """What came is not what its API promises."""


class QuoteDishonoured(ProviderError):
    """It refused a quote that was still firm."""


class AuthFailed(ProviderError):
    """Our key was refused, or the account behind it has no money left."""


class RequestRefused(ProviderError):
    """This request will never succeed at this seller; another seller may take it."""

    seller_fault = False


class ContextTooLong(RequestRefused):
    """The request is longer than the model's context."""


class ContentRefused(RequestRefused):
    """The seller's content policy said no."""

    retryable = False


_BY_STATUS: dict[int, type[ProviderError]] = {
    400: RequestRefused,
    401: AuthFailed,
    402: AuthFailed,
    403: AuthFailed,
    404: RequestRefused,
    408: ProviderTimeout,
    410: QuoteDishonoured,
    413: ContextTooLong,
    422: RequestRefused,
    429: RateLimited,
    498: Overloaded,
    503: Overloaded,
    504: ProviderTimeout,
    529: Overloaded,
}


def error_for(status: int) -> type[ProviderError]:
    """The leaf for an HTTP status: by the table, else 5xx is unavailable and any other is a refusal."""
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    return ProviderUnavailable if status >= 500 else RequestRefused
