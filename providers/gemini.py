"""Google's Gemini API: a chat body to ``generateContent``, and the dialect that binds call, answers and faults.

Signatures of thoughts travel in a tool call's ``extra_content.google.thought_signature``, where Google's own
OpenAI-shaped endpoint puts them, and go back unchanged. What the API has no word for is refused by name.
"""

from __future__ import annotations

import mimetypes
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from .dialect import HOUSE_FIELDS, Call, Want, Window, is_neutral
from .errors import ProviderError, RequestRefused
from .gemini_answers import ContentReader, delta_of_answer, fault_of
from .terms import Delta, Parameters

__all__ = ["Gemini", "content_call", "embed_call"]

_CONFIG: Final = {
    "frequency_penalty": "frequencyPenalty",
    "presence_penalty": "presencePenalty",
    "seed": "seed",
    "temperature": "temperature",
    "top_k": "topK",
    "top_p": "topP",
}
_TAKES: Final = (
    HOUSE_FIELDS
    | set(_CONFIG)
    | {
        "dimensions",
        "encoding_format",
        "input",
        "messages",
        "reasoning_effort",
        "response_format",
        "stop",
        "tool_choice",
        "tools",
    }
)
_PARAMETERS: Final = Parameters(only=frozenset(_TAKES))
_PARTS: Final = frozenset({"file", "image_url", "input_audio", "refusal", "text"})
_LEVELS: Final = frozenset({"high", "low", "medium", "minimal"})
_MODES: Final = {"auto": "AUTO", "none": "NONE", "required": "ANY"}
_TIERS: Final = {"flex": "flex", "priority": "priority"}

Part = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Gemini:
    """The dialect of the Gemini API."""

    @property
    def tags(self) -> frozenset[str]:
        """Capabilities the API has."""
        return frozenset({"audio", "embeddings", "files", "json_schema", "streaming", "tools", "vision"})

    @property
    def tiers(self) -> frozenset[str]:
        """Tiers that a call can ask for."""
        return frozenset({"standard", *_TIERS})

    def unsupported(self, body: Mapping[str, Any]) -> str | None:
        """The first parameter, tool or content part that the API has no word for, None = it has one for each."""
        return next(_unsupported(body), None)

    @property
    def parameters(self) -> Parameters:
        """Those that the API has a word for."""
        return _PARAMETERS

    def call(self, body: Mapping[str, Any], want: Want) -> Call:
        """``POST /models/MODEL:generateContent``, its streaming form, or ``:batchEmbedContents``."""
        if "messages" not in body:
            return Call(f"/models/{want.model}:batchEmbedContents", orjson.dumps(embed_call(body, want)))
        method = ":streamGenerateContent?alt=sse" if want.stream else ":generateContent"
        return Call(f"/models/{want.model}{method}", orjson.dumps(content_call(body, want)))

    def authorise(self, key: str) -> dict[str, str]:
        """The header that carries the key."""
        return {"x-goog-api-key": key}

    def answer(self, data: bytes) -> Delta:
        """The one delta of a buffered answer, or the embeddings' list."""
        return delta_of_answer(data)

    def reader(self) -> ContentReader:
        """A reader for one stream."""
        return ContentReader()

    def fault(self, status: int, headers: Mapping[str, str], data: bytes) -> ProviderError:
        """The failure an HTTP error stands for."""
        return fault_of(status, headers, data)

    def windows(self, headers: Mapping[str, str]) -> tuple[Window, ...]:
        """Nothing: the API reports no windows."""
        return ()


def _unsupported(body: Mapping[str, Any]) -> Iterator[str]:
    for name, value in body.items():
        if name not in _TAKES and not (is_neutral(name, value) or (name == "parallel_tool_calls" and value)):
            yield name
    if body.get("encoding_format") not in (None, "base64", "float"):
        yield f"encoding_format {body['encoding_format']}"
    kind = (body.get("response_format") or {}).get("type", "text")
    if kind not in ("json_object", "json_schema", "text"):
        yield f"response_format {kind}"
    effort = body.get("reasoning_effort")
    if effort is not None and effort not in _LEVELS:
        yield f"reasoning_effort {effort}"
    for tool in body.get("tools") or ():
        if tool.get("type") != "function":
            yield f"tool type {tool.get('type')}"
    for message in body.get("messages") or ():
        for part in _parts_of(message.get("content")):
            if part.get("type") not in _PARTS:
                yield f"content part {part.get('type')}"


def content_call(body: Mapping[str, Any], want: Want) -> dict[str, Any]:
    """The ``generateContent`` body for a chat body. Pure; raises RequestRefused for content without a form there."""
    system, contents = _conversation(body["messages"])
    asked: dict[str, Any] = {"contents": contents, "generationConfig": _config(body, want)}
    if system:
        asked["systemInstruction"] = {"parts": system}
    if tools := body.get("tools"):
        asked["tools"] = [{"functionDeclarations": [_declaration(tool["function"]) for tool in tools]}]
        if (choice := body.get("tool_choice")) is not None:
            asked["toolConfig"] = {"functionCallingConfig": _calling(choice)}
    if tier := _TIERS.get(want.tier):
        asked["serviceTier"] = tier
    return asked


def embed_call(body: Mapping[str, Any], want: Want) -> dict[str, Any]:
    """The ``batchEmbedContents`` body for an embeddings body."""
    given = body["input"]
    texts = [given] if isinstance(given, str) else given
    if not texts or not all(isinstance(text, str) for text in texts):
        raise RequestRefused("input: expected texts, found tokens or nothing")
    more = {"outputDimensionality": body["dimensions"]} if body.get("dimensions") else {}
    return {
        "requests": [
            {"model": f"models/{want.model}", "content": {"parts": [{"text": text}]}, **more}
            for text in texts
        ]
    }


def _config(body: Mapping[str, Any], want: Want) -> dict[str, Any]:
    config: dict[str, Any] = {"maxOutputTokens": want.max_output_tokens}
    for ours, theirs in _CONFIG.items():
        if body.get(ours) is not None:
            config[theirs] = body[ours]
    if stop := body.get("stop"):
        config["stopSequences"] = [stop] if isinstance(stop, str) else list(stop)
    wanted = body.get("response_format") or {}
    if wanted.get("type") in ("json_object", "json_schema"):
        config["responseMimeType"] = "application/json"
    if wanted.get("type") == "json_schema":
        config["responseJsonSchema"] = wanted["json_schema"]["schema"]
    if effort := body.get("reasoning_effort"):
        config["thinkingConfig"] = {"thinkingLevel": effort}
    return config


def _declaration(function: Mapping[str, Any]) -> Part:
    told: Part = {"name": function["name"]}
    if function.get("description"):
        told["description"] = function["description"]
    if function.get("parameters"):
        told["parametersJsonSchema"] = function["parameters"]
    return told


def _calling(choice: object) -> dict[str, Any]:
    if isinstance(choice, Mapping):
        return {"mode": "ANY", "allowedFunctionNames": [choice["function"]["name"]]}
    return {"mode": _MODES.get(str(choice), "AUTO")}


def _conversation(given: Sequence[Mapping[str, Any]]) -> tuple[list[Part], list[Part]]:
    """System parts and turns; neighbours of one role become one turn, tool results belong to the user's."""
    system: list[Part] = []
    turns: list[Part] = []
    names: dict[str, str] = {}
    for message in given:
        role = message["role"]
        if role in ("system", "developer"):
            system += _content(message)
            continue
        for call in message.get("tool_calls") or ():
            names[call["id"]] = call["function"]["name"]
        speaker = "model" if role == "assistant" else "user"
        parts = (
            _result(message, names) if role in ("tool", "function") else _content(message) + _calls(message)
        )
        if not parts:
            continue
        if not turns or turns[-1]["role"] != speaker:
            turns.append({"role": speaker, "parts": []})
        turns[-1]["parts"] += parts
    return system, turns


def _calls(message: Mapping[str, Any]) -> list[Part]:
    parts = []
    for call in message.get("tool_calls") or ():
        function = call["function"]
        try:
            arguments = orjson.loads(function.get("arguments") or "{}")
        except orjson.JSONDecodeError:
            raise RequestRefused(
                f"tool call {function['name']}: expected JSON arguments, found other text"
            ) from None
        part: Part = {"functionCall": {"name": function["name"], "args": arguments}}
        signature = ((call.get("extra_content") or {}).get("google") or {}).get("thought_signature")
        if signature:
            part["thoughtSignature"] = signature
        parts.append(part)
    return parts


def _result(message: Mapping[str, Any], names: Mapping[str, str]) -> list[Part]:
    name = names.get(message.get("tool_call_id", "")) or message.get("name")
    if not name:
        raise RequestRefused("tool result: expected the id of a call made before, found none that fits")
    content = message.get("content")
    text = (
        content if isinstance(content, str) else "".join(str(p.get("text", "")) for p in _parts_of(content))
    )
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = text
    response = value if isinstance(value, dict) else {"result": value}
    return [{"functionResponse": {"name": name, "response": response}}]


def _parts_of(content: object) -> Sequence[Mapping[str, Any]]:
    return content if isinstance(content, list) else ()


def _content(message: Mapping[str, Any]) -> list[Part]:
    content = message.get("content")
    if isinstance(content, str):
        return [{"text": content}] if content else []
    return [_part(part) for part in _parts_of(content)]


def _part(part: Mapping[str, Any]) -> Part:
    kind = part["type"]
    if kind == "image_url":
        image = part["image_url"]
        return _media(image if isinstance(image, str) else image["url"])
    if kind == "input_audio":
        audio = part["input_audio"]
        return {"inlineData": {"mimeType": f"audio/{audio['format']}", "data": audio["data"]}}
    if kind == "file":
        return _media(str(part["file"].get("file_data", "")))
    return {"text": part.get("text") or part.get("refusal") or ""}


def _media(url: str) -> Part:
    if url.startswith("data:"):
        head, _, data = url.partition(",")
        mime_type, _, encoding = head.removeprefix("data:").partition(";")
        if encoding != "base64" or not mime_type or not data:
            raise RequestRefused(f"expected a data URL in base64, found {url[:30]!r}")
        return {"inlineData": {"mimeType": mime_type, "data": data}}
    guessed, _ = mimetypes.guess_type(url.partition("?")[0])
    if not url.startswith(("http://", "https://", "gs://")) or guessed is None:
        raise RequestRefused("image: expected a data URL or a URL whose ending tells its type, found neither")
    return {"fileData": {"mimeType": guessed, "fileUri": url}}
