"""OpenAI's responses request as a chat body. Pure; what has no form in a chat is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from .dialects import documented, objects, only, strange
from .wire_bodies import ResponsesRequest

__all__ = ["chat_body"]

_SAME: Final = (
    "parallel_tool_calls",
    "prompt_cache_key",
    "safety_identifier",
    "temperature",
    "top_p",
    "user",
)
_ROLES: Final = ("assistant", "developer", "system", "user")

Body = dict[str, Any]


@documented
def chat_body(asked: ResponsesRequest) -> Body:
    """The chat body. Raises InputInvalid."""
    if asked.store:
        raise strange("store", "false, for nothing is stored", True)
    body: Body = {"model": asked.model, "messages": _messages(asked)}
    body |= {name: value for name in _SAME if (value := getattr(asked, name)) is not None}
    if asked.max_output_tokens is not None:
        body["max_completion_tokens"] = asked.max_output_tokens
    if asked.top_logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": asked.top_logprobs}
    if asked.reasoning:
        only(asked.reasoning, "reasoning", ("effort",))
        if asked.reasoning.get("effort") is not None:
            body["reasoning_effort"] = asked.reasoning["effort"]
    if asked.tools:
        body["tools"] = [_tool(tool, f"tools.{number}") for number, tool in enumerate(asked.tools)]
    if asked.tool_choice is not None:
        body["tool_choice"] = _tool_choice(asked.tool_choice)
    return body | _text(asked.text)


def _text(text: Mapping[str, Any] | None) -> Body:
    if not text:
        return {}
    only(text, "text", ("format", "verbosity"))
    body: Body = {} if text.get("verbosity") is None else {"verbosity": text["verbosity"]}
    wanted = text.get("format") or {"type": "text"}
    kind = wanted.get("type") if isinstance(wanted, Mapping) else None
    if kind == "json_schema":
        schema = {name: value for name, value in wanted.items() if name != "type" and value is not None}
        body["response_format"] = {"type": kind, "json_schema": schema}
    elif kind == "json_object":
        body["response_format"] = {"type": kind}
    elif kind != "text":
        raise strange("text.format.type", "text, json_object or json_schema", kind)
    return body


def _tool(tool: Mapping[str, Any], where: str) -> Body:
    if tool.get("type") != "function":
        raise strange(f"{where}.type", "function", tool.get("type"))
    only(tool, where, ("type", "name", "description", "parameters", "strict"))
    function = {name: value for name, value in tool.items() if name != "type" and value is not None}
    return {"type": "function", "function": function}


def _tool_choice(choice: str | Mapping[str, Any]) -> str | Body:
    if isinstance(choice, str):
        return choice
    if choice.get("type") != "function":
        raise strange("tool_choice.type", "function", choice.get("type"))
    return {"type": "function", "function": {"name": choice.get("name")}}


def _messages(asked: ResponsesRequest) -> list[Body]:
    messages: list[Body] = []
    if asked.instructions:
        messages.append({"role": "system", "content": asked.instructions})
    if isinstance(asked.input, str):
        return [*messages, {"role": "user", "content": asked.input}]
    for number, item in enumerate(asked.input):
        _add(messages, item, f"input.{number}")
    return messages


def _add(messages: list[Body], item: Mapping[str, Any], where: str) -> None:
    kind = item.get("type", "message")
    if kind == "message":
        role = item.get("role")
        if role not in _ROLES:
            raise strange(f"{where}.role", f"one of {', '.join(_ROLES)}", role)
        messages.append({"role": role, "content": _content(item.get("content"), f"{where}.content")})
    elif kind == "function_call":
        function = {"name": item.get("name"), "arguments": item.get("arguments", "{}")}
        call = {"id": item.get("call_id"), "type": "function", "function": function}
        if not messages or messages[-1]["role"] != "assistant":
            messages.append({"role": "assistant", "content": None})
        messages[-1].setdefault("tool_calls", []).append(call)
    elif kind == "function_call_output":
        said = _content(item.get("output"), f"{where}.output")
        messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": said})
    else:
        raise strange(f"{where}.type", "message, function_call or function_call_output", kind)


def _content(content: Any, where: str) -> str | list[Body]:
    if isinstance(content, str):
        return content
    parts = objects(content, where)
    return [_part(part, f"{where}.{number}") for number, part in enumerate(parts)]


def _part(part: Mapping[str, Any], where: str) -> Body:
    kind = part.get("type")
    if kind in ("input_text", "output_text", "text"):
        return {"type": "text", "text": part.get("text", "")}
    if kind == "refusal":
        return {"type": "refusal", "refusal": part.get("refusal", "")}
    if kind == "input_image" and part.get("image_url"):
        image = {"url": part["image_url"]}
        if part.get("detail") not in (None, "auto"):
            image["detail"] = part["detail"]
        return {"type": "image_url", "image_url": image}
    if kind == "input_file" and part.get("file_data"):
        file = {name: part[name] for name in ("file_data", "filename") if part.get(name)}
        return {"type": "file", "file": file}
    raise strange(f"{where}.type", "input_text, input_image with image_url, input_file with file_data", kind)
