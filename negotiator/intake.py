"""Room 1, intake: a chat body and terms become an order, or a coded no.

Pure: profiles and the account's default budget come in as data. Terms are resolved here once, in this order:
the request's own, its profile's, the caller's defaults, the contract's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import orjson

from providers.dialect import is_neutral

from .errors import Reject, RejectCode
from .ids import secret_id
from .order import Order
from .wire import Terms

__all__ = ["DEFAULT_ACCOUNT", "capabilities_of", "parameters_of", "prompt_text", "to_order"]

DEFAULT_ACCOUNT: Final = "default"
MAX_MESSAGES: Final = 10_000
PROMPT_TEXT_CHARS: Final = 20_000

_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
_OUTPUT_LIMITS = ("max_completion_tokens", "max_tokens")


def to_order(
    body: Mapping[str, Any],
    terms: Terms | None = None,
    *,
    profiles: Mapping[str, Terms] | None = None,
    account: str = DEFAULT_ACCOUNT,
    default_budget_nusd: int | None = None,
    stream: bool = False,
) -> Order | Reject:
    """The order that ``body`` under ``terms`` stands for, or INVALID naming what was expected and found."""
    fault = _body_fault(body)
    if fault:
        return Reject(code=RejectCode.INVALID, message=fault)
    terms = terms or Terms()
    model = str(body.get("model", "auto"))
    profile = terms.profile or (model.removeprefix("auto:") if model.startswith("auto:") else None)
    if profile is not None:
        if profile not in (profiles or {}):
            known = ", ".join(sorted(profiles or {})) or "none configured"
            return Reject(
                code=RejectCode.INVALID, message=f"profile: expected one of: {known}; found {profile!r}"
            )
        terms = terms.over((profiles or {})[profile])
    named = None if model == "auto" or model.startswith("auto:") else model
    budget_nusd = terms.budget_usd if terms.budget_usd is not None else default_budget_nusd
    return Order(
        order_id=terms.order_id or secret_id("ord", 16),
        account=terms.account or account,
        body=body,
        named=named,
        budget_nusd=budget_nusd,
        value_nusd=terms.value_usd if terms.value_usd is not None else budget_nusd,
        min_quality=terms.min_quality or 0.0,
        quality_margin=terms.quality_margin or 0.0,
        deadline_ms=terms.deadline_ms,
        ttft_ms=terms.ttft_ms,
        tiers=terms.tiers or ("standard",),
        models=terms.models or (),
        exclude=terms.exclude or (),
        require=frozenset(terms.require or ()),
        session=terms.session,
        session_premium=0.2 if terms.session_premium is None else terms.session_premium,
        task=terms.task,
        policy=terms.policy or "cheapest",
        rounds=1 if terms.rounds is None else terms.rounds,
        stream=stream,
        keep_answer=terms.order_id is not None,
        max_output_tokens=_output_limit(body),
        digests=_Digests(body, terms),
    )


def _output_limit(body: Mapping[str, Any]) -> int | None:
    limit: int | None = body.get("max_completion_tokens")
    return body.get("max_tokens") if limit is None else limit


def capabilities_of(body: Mapping[str, Any]) -> frozenset[str]:
    """What a seller must be able to do for this body: ``tools``, ``vision``, ``json_schema``, ``embeddings``."""
    if "messages" not in body:
        return frozenset({"embeddings"})
    needs = set()
    if body.get("tools") or body.get("functions"):
        needs.add("tools")
    response_format = body.get("response_format")
    if (
        response_format is not None
        and isinstance(response_format, Mapping)
        and response_format.get("type") == "json_schema"
    ):
        needs.add("json_schema")
    for message in body["messages"]:
        content = message.get("content")
        if content is not None and not isinstance(content, str) and isinstance(content, Sequence):
            kinds = {part.get("type") for part in content}
            needs |= {need for kind, need in _PART_NEEDS.items() if kind in kinds}
    return frozenset(needs)


def parameters_of(body: Mapping[str, Any]) -> frozenset[str]:
    """Names of what the body asks for beyond messages, tools and length: a seller may not know how to do it."""
    if body.keys() <= _EVERYBODY_KNOWS:
        return frozenset()
    return frozenset(
        name for name, value in body.items() if name not in _EVERYBODY_KNOWS and not is_neutral(name, value)
    )


_EVERYBODY_KNOWS = frozenset(
    {
        "input",
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "model",
        "n",
        "response_format",
        "stream",
        "stream_options",
        "tools",
    }
)
_PART_NEEDS = {"image_url": "vision", "input_audio": "audio", "file": "files"}


def prompt_text(body: Mapping[str, Any]) -> str:
    """What the quality room reads: the user's words, newest last, cut to their final 20,000 characters."""
    texts = [_text_of(message) for message in body.get("messages", ()) if message.get("role") == "user"]
    return "\n".join(texts)[-PROMPT_TEXT_CHARS:]


def _text_of(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    return "\n".join(str(part.get("text", "")) for part in content or () if part.get("type") == "text")


def _body_fault(body: Mapping[str, Any]) -> str | None:
    if "input" in body and "messages" not in body:
        return _input_fault(body["input"]) or _model_fault(body)
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        return f"messages: expected a list of at least one message, found {_kind(messages)}"
    if len(messages) > MAX_MESSAGES:
        return f"messages: expected at most {MAX_MESSAGES}, found {len(messages)}"
    for number, message in enumerate(messages):
        fault = _message_fault(message)
        if fault:
            return f"messages.{number}{fault}"
    fault = _model_fault(body)
    if fault:
        return fault
    for name in _OUTPUT_LIMITS:
        limit = body.get(name)
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
            return f"{name}: expected a whole number > 0, found {limit!r}"
    if body.get("n", 1) not in (1, None):
        return f"n: expected 1 (one answer per order), found {body['n']!r}"
    return _shape_fault(body)


def _shape_fault(body: Mapping[str, Any]) -> str | None:
    """What is counted and matched must have the documented shape; everything else is the seller's to judge."""
    for name in ("tools", "functions"):
        listed = body.get(name)
        if listed is not None and not _are_objects(listed):
            return f"{name}: expected a list of objects, found {_kind(listed)}"
    wanted = body.get("response_format")
    if wanted is not None and not isinstance(wanted, dict):
        return f"response_format: expected an object, found {_kind(wanted)}"
    schema = (wanted or {}).get("json_schema")
    if schema is not None and not isinstance(schema, dict):
        return f"response_format.json_schema: expected an object, found {_kind(schema)}"
    return None


def _are_objects(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, dict) for value in values)


def _model_fault(body: Mapping[str, Any]) -> str | None:
    if not isinstance(body.get("model", "auto"), str) or not body.get("model", "auto"):
        return f"model: expected a name, found {body.get('model')!r}"
    return None


def _input_fault(given: Any) -> str | None:
    if isinstance(given, str) and given:
        return None
    if isinstance(given, list) and 0 < len(given) <= MAX_MESSAGES:
        return None
    return f"input: expected a text or a list of at most {MAX_MESSAGES} to embed, found {_kind(given)}"


def _message_fault(message: Any) -> str | None:
    if not isinstance(message, dict):
        return f": expected an object, found {_kind(message)}"
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        return f".role: expected one of {', '.join(sorted(_ROLES))}, found {role!r}"
    calls = message.get("tool_calls")
    if calls is not None and not _are_objects(calls):
        return f".tool_calls: expected a list of objects, found {_kind(calls)}"
    content = message.get("content")
    if content is None or isinstance(content, str):
        return None
    if not isinstance(content, list) or not all(
        isinstance(part, dict) and isinstance(part.get("type"), str) for part in content
    ):
        return f".content: expected text or a list of typed parts, found {_kind(content)}"
    return None


def _kind(value: Any) -> str:
    return (
        "nothing"
        if value is None
        else f"an empty {type(value).__name__}"
        if value in ([], {}, "")
        else type(value).__name__
    )


class _Digests(Mapping[str, str]):
    """A hash per field, made when first looked at, so that a repeated order id can name what changed.

    Budget and value are left out, and whether the answer is streamed.
    """

    __slots__ = ("_body", "_made", "_terms")

    def __init__(self, body: Mapping[str, Any], terms: Terms) -> None:
        self._body = body
        self._terms = terms
        self._made: dict[str, str] | None = None

    def __getitem__(self, name: str) -> str:
        return self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def _all(self) -> dict[str, str]:
        if self._made is None:
            fields = {name: value for name, value in self._body.items() if value is not None}
            fields.pop("stream_options", None)
            given = self._terms.model_dump(exclude_none=True, exclude=_NOT_COMPARED)
            fields |= {"stream": False} | {f"terms.{name}": value for name, value in given.items()}
            self._made = {name: _digest(value) for name, value in sorted(fields.items())}
        return self._made


_NOT_COMPARED = {"budget_usd", "value_usd", "order_id", "profile"}


def _digest(value: Any) -> str:
    try:
        text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # what only Python makes: lone surrogates, integers beyond 64 bits
        text = json.dumps(value, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=12).hexdigest()
