"""Errors as callers see them: a status, OpenAI's shape (Anthropic's on its route), and when to try again.

A reject keeps its code, facts and counter-offers; everything else the server refuses has a name of its own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final

import orjson

from ..errors import Reject, RejectCode
from ..wire_out import reject_out

__all__ = ["ApiFault", "fault_bytes", "fault_headers", "fault_out"]

_TYPES: Final = {
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    429: "rate_limit_error",
    499: "cancelled_error",
}
_ANTHROPIC_TYPES: Final = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_PARAM: Final = re.compile(r"^([a-z_]+(?:\.\w+)*): ")

_NAMES_FIELD: Final = frozenset({RejectCode.INVALID, RejectCode.UNPRICEABLE})

FINAL_STATUSES: Final = frozenset({402, 422})
"""SDKs must not repeat these, whatever they think of the status."""


class ApiFault(Exception):
    """What a request is refused with. code: a NAME programs may test; reject: the market's own no, if it is one."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        reject: Reject | None = None,
        retry_after_ms: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.reject = reject
        self.retry_after_ms = retry_after_ms
        self.headers = headers or {}

    @classmethod
    def of(cls, reject: Reject) -> ApiFault:
        """The fault that carries a reject."""
        code = reject.code
        param = reject.facts.get("field")
        if param is None and code in _NAMES_FIELD and (named := _PARAM.match(reject.message)):
            param = named[1]
        return cls(
            code.http_status,
            code.name,
            reject.spoken,
            param=param,
            reject=reject,
            retry_after_ms=reject.retry_after_ms,
        )

    @classmethod
    def invalid(cls, message: str) -> ApiFault:
        """INVALID: ``message`` starts with the field it is about."""
        return cls.of(Reject(code=RejectCode.INVALID, message=message))


def fault_out(fault: ApiFault, request_id: str, *, anthropic: bool = False) -> dict[str, Any]:
    """The body of a fault."""
    reject = None if fault.reject is None else reject_out(fault.reject)
    if anthropic:
        default = "invalid_request_error" if fault.status < 500 else "api_error"
        error = {
            "type": _ANTHROPIC_TYPES.get(fault.status, default),
            "message": fault.message,
            "code": fault.code,
            "param": fault.param,
            "reject": reject,
        }
        return {"type": "error", "error": error, "request_id": request_id}
    default = "invalid_request_error" if fault.status < 500 else "server_error"
    return {
        "error": {
            "message": fault.message,
            "type": _TYPES.get(fault.status, default),
            "param": fault.param,
            "code": fault.code,
            "reject": reject,
        }
    }


def fault_bytes(fault: ApiFault, request_id: str, *, anthropic: bool = False) -> bytes:
    """The body of a fault, as JSON."""
    return orjson.dumps(fault_out(fault, request_id, anthropic=anthropic))


def fault_headers(fault: ApiFault) -> dict[str, str]:
    """What SDKs read: whether to try again, and when."""
    headers = dict(fault.headers)
    if fault.status in FINAL_STATUSES:
        headers["x-should-retry"] = "false"
    elif fault.retry_after_ms is not None:
        headers["retry-after-ms"] = str(fault.retry_after_ms)
        headers["retry-after"] = str(math.ceil(fault.retry_after_ms / 1000))
    return headers
