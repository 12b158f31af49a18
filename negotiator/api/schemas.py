"""What callers may send: one model per body, checked field by field, and the source of the API's description.

Bodies of other APIs (chat, embeddings, responses, messages) keep fields nobody here knows: they go to the seller, or
the seller declines them by name. Everything of our own refuses unknown fields.
"""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from typing import Annotated, Any, Final, Literal

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ..wire import OrderId, PlanOptions, Terms, Usd
from ..wire_bodies import Model, ServiceTier, StreamOptions

__all__ = [
    "AccountQuery",
    "AccountRequest",
    "ChatRequest",
    "CompletionDetails",
    "DepositRequest",
    "FeedbackRequest",
    "KeyRequest",
    "MessagesRequest",
    "OrderRequest",
    "PlanBodyOptions",
    "PlanRequest",
    "PromptDetails",
    "QuoteRequest",
    "ReportQuery",
    "ReportedUsage",
    "SettleRequest",
]

Identifier = Annotated[str, Field(min_length=1, max_length=255)]
Tokens = Annotated[int, Field(ge=0, le=100_000_000)]


class _Own(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)


class _Foreign(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, strict=True, defer_build=True)


_PART = {"type": "object", "required": ["type"], "properties": {"type": {"type": "string"}}}
_CONTENT = {"anyOf": [{"type": "string"}, {"type": "array", "items": _PART}, {"type": "null"}]}
_ROLES = ["assistant", "developer", "function", "system", "tool", "user"]
_MESSAGE = {
    "type": "object",
    "required": ["role"],
    "properties": {"role": {"type": "string", "enum": _ROLES}, "content": _CONTENT},
}
Messages = Annotated[
    list[dict[str, Any]], Field(min_length=1, max_length=10_000, json_schema_extra={"items": _MESSAGE})
]
MAX_KNOWN_BYTES: Final = 512


@lru_cache(maxsize=1024)
def _checked(terms: bytes) -> Terms:
    return Terms.model_validate(orjson.loads(terms))


def _known(given: Any) -> Any:
    """Terms that came before in the same words: a buyer sends the same with every request, and they are checked once."""
    if type(given) is not dict or len(key := orjson.dumps(given)) > MAX_KNOWN_BYTES:
        return given
    with suppress(ValidationError):  # it is raised again, with its place
        return _checked(key)
    return given


KnownTerms = Annotated[Terms | None, BeforeValidator(_known)]


class ChatRequest(_Foreign):
    """OpenAI's chat completion request, and the terms to buy it on."""

    model: Model = "auto"
    messages: Messages
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    n: Annotated[int, Field(ge=1, le=1)] | None = None
    service_tier: ServiceTier | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: list[dict[str, Any]] | None = None
    functions: list[dict[str, Any]] | None = None
    response_format: dict[str, Any] | None = None
    negotiator: KnownTerms = None


class OrderRequest(ChatRequest):
    """A chat request as an order. execute false: only reserve; the buyer calls the model itself and then settles."""

    terms: Terms | None = None
    order_id: OrderId | None = None
    quote_id: Identifier | None = None
    execute: bool = True


class QuoteRequest(_Foreign):
    """A chat request to be priced, or only its size in tokens."""

    model: Model = "auto"
    messages: Messages | None = None
    input_tokens: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    n: Annotated[int, Field(ge=1, le=1)] | None = None
    service_tier: ServiceTier | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: list[dict[str, Any]] | None = None
    functions: list[dict[str, Any]] | None = None
    response_format: dict[str, Any] | None = None
    terms: Terms | None = None
    negotiator: Terms | None = None


class MessagesRequest(_Own):
    """Anthropic's messages request, and the terms to buy it on."""

    model: Model
    messages: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=10_000)]
    max_tokens: Annotated[int, Field(ge=1)]
    system: str | list[dict[str, Any]] | None = None
    metadata: dict[str, Any] | None = None
    output_config: dict[str, Any] | None = None
    output_format: dict[str, Any] | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    thinking: dict[str, Any] | None = None
    tool_choice: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    negotiator: Terms | None = None


class PromptDetails(_Foreign):
    """Parts of the prompt that a cache read or wrote."""

    cached_tokens: Tokens = 0
    cache_write_tokens: Tokens = 0


class CompletionDetails(_Foreign):
    """Parts of the answer."""

    reasoning_tokens: Tokens = 0


class ReportedUsage(_Foreign):
    """OpenAI's usage object, as a seller reported it to a buyer who called it."""

    prompt_tokens: Tokens
    completion_tokens: Tokens
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None


class SettleRequest(_Own):
    """What the call used."""

    usage: ReportedUsage


class AccountQuery(_Own):
    """Whose it is, where it is not the key's own account."""

    account: Identifier | None = None


class AccountRequest(_Own):
    """An account's terms; absent = none of its own."""

    parent: Identifier | None = None
    budget_usd: Usd | None = None
    period: Literal["total", "day", "month"] = "total"
    default_budget_usd: Usd | None = None


class DepositRequest(_Own):
    """A raise of an account's budget; the same reference twice counts once."""

    amount_usd: Usd
    reference: Identifier


class KeyRequest(_Own):
    """A key to make; what is not said is as the creating key has it. reach ``house``: every account, not only below."""

    account: Identifier
    scopes: Annotated[list[Literal["use", "read", "admin"]], Field(min_length=1, max_length=3)]
    reach: Literal["account", "house"] = "account"
    expires_ms: Annotated[int, Field(gt=0, lt=2**53)] | None = None
    rpm: Annotated[int, Field(gt=0, le=10_000_000)] | None = None
    concurrency: Annotated[int, Field(gt=0, le=1_000_000)] | None = None
    profile: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    label: Annotated[str, Field(max_length=100)] = ""


class FeedbackRequest(_Own):
    """How good an answer was."""

    order_id: Identifier
    score: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
    source: Annotated[str, Field(min_length=1, max_length=100)] = "buyer"
    account: Identifier | None = None


class PlanBodyOptions(PlanOptions):
    """How a batch is planned."""

    model_config = ConfigDict(strict=True, defer_build=True)


class PlanRequest(_Own):
    """A batch to plan: lines in OpenAI's batch format, each with ``terms`` if it likes. Broken ones are reported."""

    requests: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=1_000_000)]
    options: PlanBodyOptions = PlanBodyOptions()


class ReportQuery(_Own):
    """since: RFC 3339 date or instant, or milliseconds since 1970; absent = all that is known.

    account: of this one alone. by: groupings, comma-separated, of account, model, task and cause; absent = all.
    """

    since: Annotated[str, Field(max_length=40)] | None = None
    account: Identifier | None = None
    by: Annotated[str, Field(max_length=40)] | None = None
