"""How many tokens a request has, in any vendor's vocabulary, without a network.

Vocabularies are those inside splintr-rs. Where a vendor publishes none, its offers say what a count in the
reference vocabulary is multiplied by. Text typed by a user is never read as control tokens. A vocabulary takes 25 to 45
MiB once it is counted in, so a market of which nobody knows how any model counts does without: it estimates.
"""

from __future__ import annotations

import json
import string
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import orjson

from .records import record
from .terms import PrefixMark

__all__ = [
    "FIRST_MARKS",
    "REFERENCE",
    "REPLY_TOKENS",
    "UNKNOWN",
    "VOCABULARIES",
    "ChatTokens",
    "chat_texts",
    "count_chat",
    "count_text",
    "estimate_text",
    "prefix_marks",
    "read_chat",
    "reference_of",
]

REFERENCE: Final = "o200k"
VOCABULARIES: Final[Mapping[str, str]] = {
    "cl100k": "cl100k_base",
    "deepseek_v3": "deepseek_v3",
    "gemma3": "gemma3",
    "glm4": "glm4",
    "kimi_k3": "kimi_k3",
    "llama3": "llama3",
    "mistral_v3": "mistral_v3",
    "o200k": "o200k_base",
    "qwen3": "qwen3",
}
"""Our name of a vocabulary → splintr's."""
UNKNOWN: Final = "unknown"
"""The vocabulary of a model of which nobody says how it counts; a count in it is an estimate."""

MAX_COUNTED_CHARS: Final = 65_536
"""Of a longer text this much is counted, in three slices, and the rest extrapolated."""
MESSAGE_TOKENS: Final = 3
REPLY_TOKENS: Final = 3
"""What OpenAI's chat template adds per message and before the answer (its cookbook, "How to count tokens")."""
TOOL_TOKENS: Final = 8
"""Around each tool's schema; the schema itself is counted as JSON, which is longer than what vendors render."""
IMAGE_TOKENS: Final = 1_500
IMAGE_TOKENS_LOW: Final = 85
"""An image whose size is not known: about the dearest of OpenAI's and Anthropic's rules; and at detail "low"."""
DATA_CHARS_PER_TOKEN: Final = 8
"""Files and audio in base64, generously."""
_THOUSANDTHS: Final = (
    (string.ascii_lowercase.encode(), 215),
    (b" ", 0),
    (string.digits.encode(), 410),
    (string.ascii_uppercase.encode(), 1_000),
    (b"\n\r\t", 430),
    (bytes(range(0x80, 0xC0)), 0),  # UTF-8: what follows a character's first byte
    (bytes(range(0xC2, 0xE0)), 310),  # Latin with accents, Greek, Cyrillic, Hebrew, Arabic
    (b"\xe0\xe1\xe2\xee\xef", 370),  # Indian and Thai letters, typography
    (bytes(range(0xE3, 0xEE)), 700),  # Chinese, Japanese, Korean
    (bytes(range(0xF0, 0xF5)), 2_000),  # emoji
)
"""Bytes of UTF-8, and thousandths of a token that each is worth; commonest first."""
MARK_THOUSANDTHS: Final = 780
"""The same of all others: punctuation is often a token of its own."""
MAX_MARKS: Final = 64
FIRST_MARKS: Final = 8
"""Of a long conversation the first marks and the newest are kept."""


@record(frozen=True, slots=True)
class ChatTokens:
    """What a request weighs: tokens in the reference vocabulary and in others asked for, its prefixes, its JSON."""

    input_tokens: int
    by_vocabulary: Mapping[str, int]
    prefix: tuple[PrefixMark, ...]
    size_bytes: int = 0


def reference_of(vocabularies: Collection[str]) -> str:
    """What a market with offers in these vocabularies counts prompts in.

    The reference vocabulary; but where all are unknown a count would mean no more than an estimate does.
    """
    return UNKNOWN if set(vocabularies) == {UNKNOWN} else REFERENCE


def estimate_text(text: str) -> int:
    """Tokens of a text without a vocabulary, by the kinds of its characters.

    Fitted to counts in the reference vocabulary: prose in twelve languages mostly within 15 %; single texts, code
    above all, from half to 1.7 times their count, random letters and digits down to six tenths.
    """
    left, thousandths = text.encode("utf-8", "surrogatepass"), 0
    for kind, weight in _THOUSANDTHS:
        others = left.translate(None, kind)
        thousandths += weight * (len(left) - len(others))
        left = others
        if not left:
            break
    return -(-(thousandths + MARK_THOUSANDTHS * len(left)) // 1000)


def count_text(text: str, vocabulary: str = REFERENCE) -> int:
    """Tokens of a text in a vocabulary, exact up to 65,536 characters, or as estimated in the unknown one.

    Raises KeyError for a name that is no vocabulary's.
    """
    size = len(text)
    if size <= MAX_COUNTED_CHARS:
        # Roles and system prompts come again and again, short questions do not.
        if 16 < size < 256:
            return _count(text, vocabulary)
        return _count_kept(text, vocabulary) if size else 0
    third = MAX_COUNTED_CHARS // 3
    middle = (size - third) // 2
    slices = (text[:third], text[middle : middle + third], text[-third:])
    counted = sum(_count_kept(part, vocabulary) for part in slices)
    return -(-counted * size // (3 * third))


def count_chat(body: Mapping[str, Any], vocabulary: str = REFERENCE) -> int:
    """Input tokens of an OpenAI chat body: messages, tools, schema, images by a documented constant."""
    return sum(_weigh(piece, vocabulary) for piece in _pieces(body)) + REPLY_TOKENS


def chat_texts(body: Mapping[str, Any]) -> tuple[list[str], int]:
    """The texts of a body that are counted, and what the rest of it weighs: :func:`count_chat` is the sum of both."""
    texts: list[str] = []
    fixed = REPLY_TOKENS
    for piece in _pieces(body):
        texts += piece.texts
        fixed += piece.fixed
    return texts, fixed


def prefix_marks(body: Mapping[str, Any], key: bytes) -> tuple[PrefixMark, ...]:
    """The prefixes of a body that end at a message, shortest first.

    Two bodies share a mark's key only if they share that prefix, tools included, and ``key``: give each tenant its
    own, and none learns from a quote what another asked.
    """
    return read_chat(body, key=key).prefix


def read_chat(
    body: Mapping[str, Any], *, key: bytes, vocabularies: Sequence[str] = (), reference: str = REFERENCE
) -> ChatTokens:
    """Count a body once for everybody: reference vocabulary, others, and prefix marks under a tenant's key."""
    pieces = list(_pieces(body))
    chain = blake2b(key=key[:64], digest_size=16)
    marks: list[PrefixMark] = []
    total = size_bytes = 0
    for piece in pieces:
        total += _weigh(piece, reference)
        canonical = _canonical(piece.source)
        size_bytes += len(canonical)
        chain.update(canonical)
        marks.append(PrefixMark(total, chain.copy().hexdigest()))
    if len(marks) > MAX_MARKS:
        marks = marks[:FIRST_MARKS] + marks[FIRST_MARKS - MAX_MARKS :]
    others = [name for name in vocabularies if name != reference and name in VOCABULARIES]
    by_vocabulary = {name: sum(_weigh(piece, name) for piece in pieces) + REPLY_TOKENS for name in others}
    return ChatTokens(total + REPLY_TOKENS, by_vocabulary, tuple(marks), size_bytes)


class _Piece(NamedTuple):
    """A part of the prompt that ends where a prefix may: its texts, what else it weighs, what it was made from."""

    texts: tuple[str, ...]
    fixed: int
    source: Any


def _pieces(body: Mapping[str, Any]) -> Iterator[_Piece]:
    schema = (body.get("response_format") or {}).get("json_schema")
    tools = [*(body.get("tools") or ()), *(body.get("functions") or ())]
    if tools or schema:
        texts = tuple(
            _canonical(part).decode("utf-8", "replace") for part in (*tools, *([schema] * bool(schema)))
        )
        yield _Piece(texts, TOOL_TOKENS * len(texts), [tools, schema])
    for message in body.get("messages") or ():
        texts, fixed = _read_message(message)
        yield _Piece(texts, fixed + MESSAGE_TOKENS, message)
    if "input" in body and "messages" not in body:
        yield _read_input(body["input"])


def _read_input(given: Any) -> _Piece:
    """What is to be embedded: a text, texts, tokens, or lists of tokens."""
    parts = given if isinstance(given, list) else [given]
    texts = tuple(part for part in parts if isinstance(part, str))
    tokens = sum(len(part) if isinstance(part, list) else 1 for part in parts if not isinstance(part, str))
    return _Piece(texts, tokens, parts)


def _read_message(message: Mapping[str, Any]) -> tuple[tuple[str, ...], int]:
    role, content = str(message.get("role", "")), message.get("content")
    if len(message) == 2 and isinstance(content, str):  # as nearly all
        return (role, content), 0
    texts: list[str] = [role]
    fixed = 0
    if isinstance(content, str):
        texts.append(content)
    else:
        for part in content or ():
            kind = part.get("type")
            if kind == "text":
                texts.append(str(part.get("text", "")))
            elif kind == "image_url":
                image = part.get("image_url") or {}
                low = isinstance(image, Mapping) and image.get("detail") == "low"
                fixed += IMAGE_TOKENS_LOW if low else IMAGE_TOKENS
            else:
                fixed += len(_canonical(part)) // DATA_CHARS_PER_TOKEN
    if message.get("name"):
        texts.append(str(message["name"]))
        fixed += 1
    calls = [message[name] for name in ("tool_calls", "function_call", "tool_call_id") if message.get(name)]
    texts += [_canonical(call).decode("utf-8", "replace") for call in calls]
    return tuple(texts), fixed


def _canonical(value: Any) -> bytes:
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # a lone surrogate, or a number beyond 64 bits: JSON all the same
        return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode()


def _weigh(piece: _Piece, vocabulary: str) -> int:
    tokens = piece.fixed
    for text in piece.texts:
        tokens += count_text(text, vocabulary)
    return tokens


def _count(text: str, vocabulary: str) -> int:
    if vocabulary == UNKNOWN:
        return estimate_text(text)
    tokenizer = _tokenizer(vocabulary)
    try:
        return len(tokenizer.encode_ordinary(text))
    except UnicodeEncodeError:
        return len(tokenizer.encode_ordinary(text.encode("utf-8", "replace").decode()))


@lru_cache(maxsize=256)  # at most 16 M characters
def _count_kept(text: str, vocabulary: str) -> int:
    return _count(text, vocabulary)


@lru_cache(maxsize=len(VOCABULARIES))
def _tokenizer(vocabulary: str) -> Any:
    from splintr import Tokenizer

    try:
        name = VOCABULARIES[vocabulary]
    except KeyError:
        known = ", ".join((*VOCABULARIES, UNKNOWN))
        raise KeyError(f"vocabulary: expected one of {known}, found {vocabulary!r}") from None
    return Tokenizer.from_pretrained(name)
