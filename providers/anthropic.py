"""Anthropic's Messages API: a chat body to its call, and the dialect that binds call, answers and faults.

Checked against the vendor's own SDK types (2.12.0). What the API has no word for is refused by name. A reader's
``thinking_blocks`` go back unchanged, since their signatures make the next turn valid.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from .anthropic_answers import MessageReader, delta_of_message, fault_of
from .dialect import HOUSE_FIELDS, Call, Want, Window, is_neutral
from .errors import ProviderError, RequestRefused
from .limit_headers import LIMIT_HEADERS
from .terms import Delta, Parameters

__all__ = ["API_VERSION", "Anthropic", "messages_call"]

API_VERSION: Final = "2023-06-01"
FAST_MODE: Final = "fast-mode-2026-02-01"
MAX_BREAKPOINTS: Final = 4

_TAKES: Final = HOUSE_FIELDS | {
    "messages",
    "metadata",
    "parallel_tool_calls",
    "reasoning_effort",
    "response_format",
    "stop",
    "temperature",
    "thinking",
    "tool_choice",
    "tools",
    "top_k",
    "top_p",
    "user",
}
_PARAMETERS: Final = Parameters(only=frozenset(_TAKES))
_PARTS: Final = frozenset({"file", "image_url", "refusal", "text"})
_EFFORT: Final = {
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "xhigh",
    "max": "max",
}
_EPHEMERAL: Final = {"type": "ephemeral"}

Block = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Anthropic:
    """The dialect of the Messages API."""

    @property
    def tags(self) -> frozenset[str]:
        """Capabilities the API has."""
        return frozenset({"files", "json_schema", "streaming", "tools", "vision"})

    @property
    def tiers(self) -> frozenset[str]:
        """Tiers that a call can ask for."""
        return frozenset({"standard", "priority"})

    def unsupported(self, body: Mapping[str, Any]) -> str | None:
        """The first parameter, tool or content part that the API has no word for, None = it has one for each."""
        return next(_unsupported(body), None)

    @property
    def parameters(self) -> Parameters:
        """Those that the API has a word for."""
        return _PARAMETERS

    def call(self, body: Mapping[str, Any], want: Want) -> Call:
        """``POST /messages``."""
        headers = {"anthropic-version": API_VERSION}
        if want.tier == "priority":
            headers["anthropic-beta"] = FAST_MODE
        return Call("/messages", orjson.dumps(messages_call(body, want)), headers)

    def authorise(self, key: str) -> dict[str, str]:
        """The header that carries the key."""
        return {"x-api-key": key}

    def answer(self, data: bytes) -> Delta:
        """The one delta of a buffered message."""
        return delta_of_message(data)

    def reader(self) -> MessageReader:
        """A reader for one stream."""
        return MessageReader()

    def fault(self, status: int, headers: Mapping[str, str], data: bytes) -> ProviderError:
        """The failure an HTTP error stands for."""
        return fault_of(status, headers, data)

    def windows(self, headers: Mapping[str, str]) -> tuple[Window, ...]:
        """The rate-limit windows in an answer's headers."""
        return LIMIT_HEADERS["anthropic"](headers)


def _unsupported(body: Mapping[str, Any]) -> Iterator[str]:
    for name, value in body.items():
        if name not in _TAKES and not is_neutral(name, value):
            yield name
    if "messages" not in body:
        yield "input"
        return
    if (body.get("temperature") or 0) > 1:
        yield "temperature above 1"
    kind = (body.get("response_format") or {}).get("type", "text")
    if kind not in ("text", "json_schema"):
        yield f"response_format {kind}"
    effort = body.get("reasoning_effort")
    if effort is not None and effort != "none" and effort not in _EFFORT:
        yield f"reasoning_effort {effort}"
    for tool in body.get("tools") or ():
        if tool.get("type") != "function":
            yield f"tool type {tool.get('type')}"
    for message in body["messages"]:
        for part in _parts(message.get("content")):
            if part.get("type") not in _PARTS:
                yield f"content part {part.get('type')}"
            elif (part.get("cache_control") or {}).get("ttl", "5m") != "5m":
                yield "cache_control ttl"  # an hour costs more to write than a quote covers


def messages_call(body: Mapping[str, Any], want: Want) -> dict[str, Any]:
    """The Messages API's body for a chat body. Pure.

    Raises :class:`RequestRefused` for content that has no form there (an image that is neither data nor URL).
    """
    system, messages = _conversation(body["messages"], want.cache_after)
    asked: dict[str, Any] = {"model": want.model, "max_tokens": want.max_output_tokens, "messages": messages}
    if system:
        asked["system"] = system
    for name in ("temperature", "top_p", "top_k", "thinking"):
        if body.get(name) is not None:
            asked[name] = body[name]
    if stop := body.get("stop"):
        asked["stop_sequences"] = [stop] if isinstance(stop, str) else list(stop)
    if tools := body.get("tools"):
        asked["tools"] = [_tool(tool["function"]) for tool in tools]
        if -1 in want.cache_after:
            asked["tools"][-1]["cache_control"] = _EPHEMERAL
        asked |= _tool_choice(body)
    asked |= _output_config(body)
    user = body.get("user") or (body.get("metadata") or {}).get("user_id")
    if user:
        asked["metadata"] = {"user_id": user}
    if want.tier == "priority":
        asked["speed"] = "fast"
    else:
        asked["service_tier"] = "standard_only"  # capacity bought by contract has no list price
    if want.stream:
        asked["stream"] = True
    return asked


def _tool(function: Mapping[str, Any]) -> Block:
    tool: Block = {
        "name": function["name"],
        "input_schema": function.get("parameters") or {"type": "object", "properties": {}},
    }
    for name in ("description", "strict"):
        if function.get(name) is not None:
            tool[name] = function[name]
    return tool


def _tool_choice(body: Mapping[str, Any]) -> dict[str, Any]:
    choice = body.get("tool_choice")
    one_at_a_time = body.get("parallel_tool_calls") is False
    if choice is None and not one_at_a_time:
        return {}
    if isinstance(choice, Mapping):
        told: Block = {"type": "tool", "name": choice["function"]["name"]}
    else:
        told = {"type": {"required": "any", "none": "none"}.get(choice or "auto", "auto")}
    if one_at_a_time and told["type"] != "none":
        told["disable_parallel_tool_use"] = True
    return {"tool_choice": told}


def _output_config(body: Mapping[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = {}
    effort = body.get("reasoning_effort")
    wanted = body.get("response_format") or {}
    if wanted.get("type") == "json_schema":
        config["format"] = {"type": "json_schema", "schema": wanted["json_schema"]["schema"]}
    if effort is None:
        return {"output_config": config} if config else {}
    if effort == "none":
        off = {"thinking": {"type": "disabled"}}
        return {"output_config": config, **off} if config else off
    thinking = {} if body.get("thinking") is not None else {"thinking": {"type": "adaptive"}}
    return {"output_config": config | {"effort": _EFFORT[effort]}, **thinking}


def _conversation(
    given: Sequence[Mapping[str, Any]], cache_after: Sequence[int]
) -> tuple[list[Block], list[Block]]:
    """System blocks and turns; neighbours of one role become one turn, tool results belong to the user's."""
    system: list[Block] = []
    turns: list[Block] = []
    marked = set(sorted(cache_after)[-MAX_BREAKPOINTS:])
    for index, message in enumerate(given):
        role = message["role"]
        if role in ("system", "developer"):
            blocks, target = _content(message), system
        else:
            blocks = _turn(message)
            speaker = "assistant" if role == "assistant" else "user"
            if not turns or turns[-1]["role"] != speaker:
                turns.append({"role": speaker, "content": []})
            target = turns[-1]["content"]
        target += blocks
        if index in marked and target and target[-1]["type"] != "thinking":
            target[-1] = target[-1] | {"cache_control": _EPHEMERAL}
    return system, [turn for turn in turns if turn["content"]]


def _turn(message: Mapping[str, Any]) -> list[Block]:
    if message["role"] in ("tool", "function"):
        result: Block = {
            "type": "tool_result",
            "tool_use_id": message.get("tool_call_id") or message.get("name", ""),
        }
        content = _content(message)
        plain = len(content) == 1 and set(content[0]) == {"type", "text"}
        if content:
            result["content"] = content[0]["text"] if plain else content
        return [result]
    blocks = [dict(block) for block in message.get("thinking_blocks") or ()] + _content(message)
    for call in message.get("tool_calls") or ():
        function = call["function"]
        blocks.append(
            {"type": "tool_use", "id": call["id"], "name": function["name"], "input": _arguments(function)}
        )
    return blocks


def _arguments(function: Mapping[str, Any]) -> Any:
    text = function.get("arguments") or "{}"
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        raise RequestRefused(
            f"tool call {function.get('name')}: expected JSON arguments, found other text"
        ) from None


def _parts(content: object) -> Sequence[Mapping[str, Any]]:
    return content if isinstance(content, list) else ()


def _content(message: Mapping[str, Any]) -> list[Block]:
    content = message.get("content")
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    blocks = []
    for part in _parts(content):
        block = _block(part)
        if part.get("cache_control"):
            block["cache_control"] = part["cache_control"]
        blocks.append(block)
    return blocks


def _block(part: Mapping[str, Any]) -> Block:
    kind = part["type"]
    if kind == "image_url":
        image = part["image_url"]
        url = image if isinstance(image, str) else image["url"]
        if url.startswith("data:"):
            media_type, data = _data_url(url)
            return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}
        return {"type": "image", "source": {"type": "url", "url": url}}
    if kind == "file":
        file = part["file"]
        if not str(file.get("file_data", "")).startswith("data:"):
            raise RequestRefused(
                "file: expected file_data as a data URL, found a reference to another vendor"
            )
        media_type, data = _data_url(file["file_data"])
        source = {"type": "base64", "media_type": media_type, "data": data}
        title = {"title": file["filename"]} if file.get("filename") else {}
        return {"type": "document", "source": source, **title}
    return {"type": "text", "text": part.get("text") or part.get("refusal") or ""}


def _data_url(url: str) -> tuple[str, str]:
    head, _, data = url.partition(",")
    media_type, _, encoding = head.removeprefix("data:").partition(";")
    if encoding != "base64" or not media_type or not data:
        raise RequestRefused(f"expected a data URL in base64, found {url[:30]!r}")
    return media_type, data
