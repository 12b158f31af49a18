"""Anthropic's messages request as a chat body. Pure; what has no form in a chat is refused by name.

Cache marks of five minutes are the house's own business (it marks what a seller's cache should keep) and are taken
off; one of an hour costs more than a quote covers and is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from ..dialects import documented, objects, only, strange
from .schemas import MessagesRequest

__all__ = ["chat_body"]

_TOOL_CHOICES: Final = {"auto": "auto", "any": "required", "none": "none"}

Body = dict[str, Any]


@documented
def chat_body(asked: MessagesRequest) -> Body:
    """The chat body. Raises InputInvalid."""
    body: Body = {"model": asked.model, "max_tokens": asked.max_tokens, "messages": _messages(asked)}
    for name in ("temperature", "top_k", "top_p"):
        if getattr(asked, name) is not None:
            body[name] = getattr(asked, name)
    if asked.stop_sequences:
        body["stop"] = asked.stop_sequences
    if asked.thinking is not None and asked.thinking.get("type") != "disabled":
        body["thinking"] = asked.thinking
    if asked.metadata:
        only(asked.metadata, "metadata", ("user_id",))
        body["user"] = asked.metadata.get("user_id")
    if asked.tools:
        body["tools"] = [_tool(tool, f"tools.{number}") for number, tool in enumerate(asked.tools)]
    if asked.tool_choice is not None:
        body |= _tool_choice(asked.tool_choice)
    return body | _output(asked)


def _output(asked: MessagesRequest) -> Body:
    config = dict(asked.output_config or {})
    only(config, "output_config", ("effort", "format"))
    wanted = config.get("format") or asked.output_format
    body: Body = {} if config.get("effort") is None else {"reasoning_effort": config["effort"]}
    if wanted is not None:
        if wanted.get("type") != "json_schema":
            raise strange("output_config.format.type", "json_schema", wanted.get("type"))
        schema = {"name": "answer", "schema": wanted.get("schema"), "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body


def _tool(tool: Mapping[str, Any], where: str) -> Body:
    if tool.get("type", "custom") not in ("custom", None):
        raise strange(f"{where}.type", "custom", tool["type"])
    only(tool, where, ("type", "name", "description", "input_schema", "strict", "cache_control"))
    _check_cache(tool, where)
    function: Body = {"name": tool.get("name"), "parameters": tool.get("input_schema")}
    function |= {name: tool[name] for name in ("description", "strict") if tool.get(name) is not None}
    return {"type": "function", "function": function}


def _tool_choice(choice: Mapping[str, Any]) -> Body:
    only(choice, "tool_choice", ("type", "name", "disable_parallel_tool_use"))
    kind = choice.get("type")
    body: Body = {"parallel_tool_calls": False} if choice.get("disable_parallel_tool_use") else {}
    if kind == "tool":
        return body | {"tool_choice": {"type": "function", "function": {"name": choice.get("name")}}}
    if kind not in _TOOL_CHOICES:
        raise strange("tool_choice.type", "auto, any, none or tool", kind)
    return body | {"tool_choice": _TOOL_CHOICES[kind]}


def _messages(asked: MessagesRequest) -> list[Body]:
    messages: list[Body] = []
    if asked.system:
        messages.append({"role": "system", "content": _text_only(asked.system, "system")})
    for number, turn in enumerate(asked.messages):
        where = f"messages.{number}"
        only(turn, where, ("role", "content"))
        role, content = turn.get("role"), turn.get("content")
        if role == "user":
            messages += _user(content, f"{where}.content")
        elif role == "assistant":
            messages.append(_assistant(content, f"{where}.content"))
        elif role == "system":
            messages.append({"role": "system", "content": _text_only(content, f"{where}.content")})
        else:
            raise strange(f"{where}.role", "user, assistant or system", role)
    return messages


def _text_only(content: Any, where: str) -> str | list[Body]:
    if isinstance(content, str):
        return content
    return [_part(block, f"{where}.{number}") for number, block in enumerate(objects(content, where))]


def _user(content: Any, where: str) -> list[Body]:
    """Tool results first, each its own message, then what the user says: the order Anthropic asks for."""
    if isinstance(content, str):
        return [{"role": "user", "content": content}]
    results: list[Body] = []
    parts: list[Body] = []
    for number, block in enumerate(objects(content, where)):
        at = f"{where}.{number}"
        if block.get("type") == "tool_result":
            only(block, at, ("type", "tool_use_id", "content", "is_error", "cache_control"))
            said = _text_only(block.get("content") or "", f"{at}.content")
            if block.get("is_error"):
                said = (
                    f"Error: {said}" if isinstance(said, str) else [{"type": "text", "text": "Error:"}, *said]
                )
            results.append({"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": said})
        else:
            parts.append(_part(block, at))
    return [*results, {"role": "user", "content": parts}] if parts else results


def _assistant(content: Any, where: str) -> Body:
    if isinstance(content, str):
        return {"role": "assistant", "content": content}
    texts: list[Body] = []
    thoughts: list[Mapping[str, Any]] = []
    calls: list[Body] = []
    for number, block in enumerate(objects(content, where)):
        kind = block.get("type")
        if kind in ("thinking", "redacted_thinking"):
            thoughts.append(block)
        elif kind == "tool_use":
            arguments = orjson.dumps(block.get("input") or {}).decode()
            function = {"name": block.get("name"), "arguments": arguments}
            calls.append({"id": block.get("id"), "type": "function", "function": function})
        else:
            texts.append(_part(block, f"{where}.{number}"))
    message: Body = {"role": "assistant", "content": texts or None}
    if calls:
        message["tool_calls"] = calls
    if thoughts:
        message["thinking_blocks"] = thoughts
    return message


def _part(block: Mapping[str, Any], where: str) -> Body:
    _check_cache(block, where)
    kind, source = block.get("type"), block.get("source") or {}
    if kind == "text":
        return {"type": "text", "text": block.get("text", "")}
    if kind == "image" and source.get("type") == "url":
        return {"type": "image_url", "image_url": {"url": source.get("url")}}
    if kind == "image" and source.get("type") == "base64":
        return {"type": "image_url", "image_url": {"url": _data_url(source)}}
    if kind == "document" and source.get("type") == "base64":
        file = {"file_data": _data_url(source), "filename": block.get("title") or "document.pdf"}
        return {"type": "file", "file": file}
    raise strange(f"{where}.type", "text, image (base64 or url) or document (base64)", kind)


def _data_url(source: Mapping[str, Any]) -> str:
    return f"data:{source.get('media_type')};base64,{source.get('data')}"


def _check_cache(block: Mapping[str, Any], where: str) -> None:
    ttl = (block.get("cache_control") or {}).get("ttl", "5m")
    if ttl != "5m":
        raise strange(f"{where}.cache_control.ttl", "5m", ttl)
