"""The lines of a batch's result file: OpenAI's output shape, with what each line cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .errors import Reject
from .money import format_usd
from .order import Completion
from .wire_out import reject_out

__all__ = ["ended_line", "refused_line", "served_line"]


def served_line(
    custom_id: str, done: Completion, body: Mapping[str, Any], *, cost_nusd: int, in_doubt_nusd: int = 0
) -> dict[str, Any]:
    """An answer, ``body`` in its endpoint's shape. cost_nusd: all tries included. in_doubt_nusd: held for a call that a crash cut off."""
    return {
        "id": done.order_id,
        "custom_id": custom_id,
        **_money(cost_nusd, in_doubt_nusd),
        "response": {"status_code": 200, "request_id": done.order_id, "body": body},
        "error": None,
    }


def refused_line(
    line_id: str, custom_id: str, reject: Reject, *, cost_nusd: int, in_doubt_nusd: int = 0
) -> dict[str, Any]:
    """The market's no: as the answer that the same request alone would have had, and as an error."""
    said = reject_out(reject)
    body = {"message": reject.message, "type": "refused", "param": None, "code": reject.code.name}
    return {
        "id": line_id,
        "custom_id": custom_id,
        **_money(cost_nusd, in_doubt_nusd),
        "response": {
            "status_code": reject.code.http_status,
            "request_id": line_id,
            "body": {"error": {**body, "reject": said}},
        },
        "error": {"code": reject.code.name, "message": reject.message, "reject": said},
    }


def ended_line(
    line_id: str, custom_id: str, code: str, message: str, *, cost_nusd: int, in_doubt_nusd: int = 0
) -> dict[str, Any]:
    """A line that was not answered before its batch ended."""
    return {
        "id": line_id,
        "custom_id": custom_id,
        **_money(cost_nusd, in_doubt_nusd),
        "response": None,
        "error": {"code": code, "message": message},
    }


def _money(cost_nusd: int, in_doubt_nusd: int) -> dict[str, str]:
    cost = {"cost_usd": format_usd(cost_nusd)}
    return {**cost, "in_doubt_usd": format_usd(in_doubt_nusd)} if in_doubt_nusd else cost
