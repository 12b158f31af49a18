"""A completion as OpenAI's response object: output items, status, usage."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from .errors import Reject
from .order import Completion
from .wire_bodies import ResponsesRequest
from .wire_out import completion_out

__all__ = ["call_item", "frame_of", "message_item", "response_out", "text_part"]

_INCOMPLETE: Final = {"length": "max_output_tokens", "content_filter": "content_filter"}

Out = dict[str, Any]


def frame_of(asked: ResponsesRequest, order_id: str, created_s: int) -> Out:
    """What is known of a response before anybody answered."""
    return {
        "id": f"resp_{order_id}",
        "object": "response",
        "created_at": created_s,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": asked.instructions,
        "max_output_tokens": asked.max_output_tokens,
        "metadata": asked.metadata or {},
        "model": asked.model,
        "output": [],
        "parallel_tool_calls": asked.parallel_tool_calls is not False,
        "previous_response_id": None,
        "reasoning": asked.reasoning or {"effort": None, "summary": None},
        "service_tier": asked.service_tier or "auto",
        "store": False,
        "temperature": asked.temperature,
        "text": asked.text or {"format": {"type": "text"}},
        "tool_choice": asked.tool_choice or "auto",
        "tools": asked.tools or [],
        "top_p": asked.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": asked.user,
    }


def response_out(frame: Out, done: Completion, broken: Reject | None = None) -> Out:
    """The whole response; ``broken``: why the answer is not whole."""
    reason = _INCOMPLETE.get(done.finish_reason)
    status = "failed" if broken is not None else "completed" if reason is None else "incomplete"
    usage = done.usage
    return {
        **frame,
        "status": status,
        "error": None if broken is None else {"code": "server_error", "message": broken.message},
        "incomplete_details": {"reason": reason} if status == "incomplete" else None,
        "model": f"{done.provider}/{done.model}",
        "output": list(_items(frame["id"], done, "completed" if status == "completed" else "incomplete")),
        "usage": {
            "input_tokens": usage.input_tokens,
            "input_tokens_details": {
                "cached_tokens": usage.cache_read_tokens,
                "cache_write_tokens": usage.cache_write_tokens + usage.cache_write_1h_tokens,
            },
            "output_tokens": usage.output_tokens,
            "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
            "total_tokens": usage.input_tokens + usage.output_tokens,
        },
        "negotiator": completion_out(done),
    }


def _items(response_id: str, done: Completion, status: str) -> Iterator[Out]:
    message = done.message
    parts = []
    if message.get("content"):
        parts.append(text_part(message["content"]))
    if message.get("refusal"):
        parts.append({"type": "refusal", "refusal": message["refusal"]})
    if parts:
        yield message_item(response_id, status, parts)
    for number, call in enumerate(message.get("tool_calls") or ()):
        function = call.get("function") or {}
        yield call_item(
            response_id,
            number,
            status,
            call.get("id", ""),
            function.get("name", ""),
            function.get("arguments", ""),
        )


def text_part(text: str) -> Out:
    """A part of a message that is text."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def message_item(response_id: str, status: str, parts: list[Out]) -> Out:
    """The message of a response; it has at most one."""
    return {
        "id": f"msg_{response_id}",
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": parts,
    }


def call_item(response_id: str, number: int, status: str, call_id: str, name: str, arguments: str) -> Out:
    """One call of a tool."""
    return {
        "id": f"fc_{response_id}_{number}",
        "type": "function_call",
        "status": status,
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
    }
