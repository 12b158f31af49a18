"""What simulated models say, how long, and how good it secretly is: all a function of the seed and the prompt.

Quality follows an item-response model: a prompt has a difficulty, partly visible in its text, a model an ability, and
the two have a personal part, so that models differ most on single prompts (Lord, "Applications of Item Response
Theory", 1980). The house never sees it; it learns from feedback, which a test takes from :func:`acceptable`.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Final

import orjson

__all__ = [
    "Answer",
    "ModelTraits",
    "acceptable",
    "compose",
    "difficulty",
    "pieces",
    "prompt_of",
    "true_quality",
]

_TEXT: Final = (
    "the market price of this call was below what was asked and each part that it needs has a clear reason so we take"
    " the first one then check it again before more work is done at any cost or time"
)
WORDS: Final = tuple(_TEXT.split())
"""Each with its leading space is one token in the common vocabularies."""
PERSONAL: Final = 0.9
DISCRIMINATION: Final = 1.3
MAX_SCHEMA_DEPTH: Final = 8

_HARD: Final = re.compile(
    r"```|\b(prove|proof|theorem|integral|derive|refactor|debug|optimi[sz]e|complexity|regex|step by step|contract"
    r"|probability|equation)\b",
    re.IGNORECASE,
)
_EASY: Final = re.compile(
    r"\b(classify|sentiment|extract|translate|summari[sz]e|yes or no|label|greeting|spell)\b", re.IGNORECASE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTraits:
    """A simulated model. ability: 0 is even odds on an average prompt, +1 answers most.

    ttft_ms, ms_per_token: medians; sigma: their lognormal spread. reasoning_tokens: median of hidden output on an average prompt.
    verbosity: factor on the visible answer's length. token_factor: its real tokens per reference token.
    """

    ability: float
    ttft_ms: float
    ms_per_token: float
    sigma: float = 0.35
    reasoning_tokens: int = 0
    verbosity: float = 1.0
    token_factor: float = 1.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model will say: an OpenAI assistant message, why it ends, and its tokens, hidden ones included."""

    message: Mapping[str, Any]
    finish_reason: str
    output_tokens: int
    reasoning_tokens: int


def prompt_of(body: Mapping[str, Any]) -> str:
    """The text that a prompt's difficulty depends on: what users say in it."""
    texts: list[str] = []
    for message in body.get("messages") or ():
        if message.get("role") == "user":
            content = message.get("content")
            parts = [{"type": "text", "text": content}] if isinstance(content, str) else content or ()
            texts += [str(part.get("text", "")) for part in parts if part.get("type") == "text"]
    return "\n".join(texts)


def difficulty(prompt: str, seed: int = 0) -> float:
    """How hard a prompt is, about -2 to 2: part shows in its words and length, part does not."""
    hidden = _normal(seed, "difficulty", prompt)
    visible = 0.9 * bool(_HARD.search(prompt)) - 0.9 * bool(_EASY.search(prompt))
    return visible + 0.15 * math.log1p(len(prompt) / 400) + 0.5 * hidden


def true_quality(traits: ModelTraits, model: str, prompt: str, seed: int = 0) -> float:
    """The probability that this model's answer to this prompt is acceptable."""
    personal = PERSONAL * _normal(seed, "personal", model, prompt)
    return 1 / (1 + math.exp(-DISCRIMINATION * (traits.ability - difficulty(prompt, seed)) - personal))


def acceptable(traits: ModelTraits, model: str, prompt: str, seed: int = 0) -> bool:
    """Whether the answer is acceptable: the hidden outcome, the same each time it is asked."""
    return _uniform(seed, "outcome", model, prompt) < true_quality(traits, model, prompt, seed)


def compose(
    traits: ModelTraits, name: str, body: Mapping[str, Any], max_output_tokens: int, draw: Random, seed: int
) -> Answer:
    """The answer of model ``name``: a tool call or JSON where the body asks for one, else words."""
    prompt = prompt_of(body)
    reasoning = 0
    if traits.reasoning_tokens:
        effort = 0.5 * difficulty(prompt, seed) + 0.3 * _normal(seed, "reasoning", prompt)
        spread = math.exp(effort + 0.2 * draw.gauss(0, 1))
        reasoning = min(int(traits.reasoning_tokens * spread), max_output_tokens // 2)
    room = max_output_tokens - reasoning
    tool = _wanted_tool(body, draw)
    if tool is not None:
        arguments = orjson.dumps(_example_of(tool.get("parameters") or {})).decode()
        call = {
            "id": f"call_{_digest(seed, name, prompt)[:12]}",
            "type": "function",
            "function": {"name": str(tool.get("name", "")), "arguments": arguments},
        }
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
        return Answer(message, "tool_calls", reasoning + min(room, 10 + len(arguments) // 4), reasoning)
    schema = _wanted_schema(body)
    if schema is not None:
        text = orjson.dumps(_example_of(schema)).decode()
        tokens = 1 + len(text) // 4
        if tokens <= room:
            return Answer({"role": "assistant", "content": text}, "stop", reasoning + tokens, reasoning)
        return Answer(
            {"role": "assistant", "content": text[: room * 4]}, "length", max_output_tokens, reasoning
        )
    length = math.exp(5.0 + 0.6 * _normal(seed, "length", prompt) + 0.1 * draw.gauss(0, 1)) * traits.verbosity
    wanted = max(8, int(length))
    tokens = min(wanted, room)
    start = int(_uniform(seed, "words", name, prompt) * len(WORDS))
    text = " ".join(WORDS[(start + i * 7) % len(WORDS)] for i in range(tokens))
    reason = "length" if wanted > room else "stop"
    return Answer({"role": "assistant", "content": text}, reason, reasoning + tokens, reasoning)


def pieces(message: Mapping[str, Any], count: int) -> Iterator[Mapping[str, Any]]:
    """The message as about ``count`` OpenAI deltas whose contents and arguments join to the whole."""
    calls = message.get("tool_calls")
    if calls:
        call = calls[0]
        head = {**call, "index": 0, "function": {"name": call["function"]["name"], "arguments": ""}}
        yield {"role": "assistant", "content": None, "tool_calls": [head]}
        for part in _cut(call["function"]["arguments"], count):
            yield {"tool_calls": [{"index": 0, "function": {"arguments": part}}]}
        return
    parts = _cut(message.get("content") or "", count)
    yield {"role": "assistant", "content": next(parts, "")}
    for part in parts:
        yield {"content": part}


def _example_of(schema: Mapping[str, Any], depth: int = 0) -> Any:
    """A small value that fits a JSON schema's types, enums and required properties."""
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    kind = schema.get("type", "object" if "properties" in schema else "string")
    kind = next((one for one in kind if one != "null"), "null") if isinstance(kind, list) else kind
    if depth > MAX_SCHEMA_DEPTH:
        return None
    if kind == "object":
        properties = schema.get("properties") or {}
        return {name: _example_of(one or {}, depth + 1) for name, one in properties.items()}
    if kind == "array":
        return [_example_of(schema.get("items") or {}, depth + 1)] * max(1, int(schema.get("minItems", 1)))
    simple = {"integer": 1, "number": 1.5, "boolean": True, "null": None}
    return simple.get(kind, "text") if "minimum" not in schema else schema["minimum"]


def _wanted_tool(body: Mapping[str, Any], draw: Random) -> Mapping[str, Any] | None:
    """The function to call: the one the body names, else often the first when the last word is the user's."""
    tools = [tool.get("function") or {} for tool in body.get("tools") or ()]
    choice = body.get("tool_choice", "auto")
    if not tools or choice == "none":
        return None
    if isinstance(choice, Mapping):
        name = (choice.get("function") or {}).get("name")
        return next((tool for tool in tools if tool.get("name") == name), tools[0])
    from_user = body["messages"][-1].get("role") == "user"
    return tools[0] if choice == "required" or (from_user and draw.random() < 0.8) else None


def _wanted_schema(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    wanted = body.get("response_format") or {}
    if wanted.get("type") == "json_schema":
        return (wanted.get("json_schema") or {}).get("schema") or {"type": "object"}
    return {"type": "object"} if wanted.get("type") == "json_object" else None


def _cut(text: str, count: int) -> Iterator[str]:
    size = max(1, -(-len(text) // max(1, count)))
    return (text[start : start + size] for start in range(0, len(text), size))


def _digest(*parts: object) -> str:
    return hashlib.blake2b(repr(parts).encode("utf-8", "replace"), digest_size=16).hexdigest()


def _uniform(*parts: object) -> float:
    return int(_digest(*parts)[:13], 16) / 16**13


def _normal(*parts: object) -> float:
    """A standard normal number that depends on nothing but ``parts`` (Box and Muller, 1958)."""
    digest = _digest(*parts)
    first, second = (int(half, 16) / 16**13 for half in (digest[:13], digest[13:26]))
    return math.sqrt(-2 * math.log(max(first, 1e-12))) * math.cos(2 * math.pi * second)
