"""Bodies of other endpoints than chat that are also lines of a batch: OpenAI's responses and embeddings requests."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .errors import InputInvalid
from .wire import Terms, describe_invalid

__all__ = [
    "HOUSE_FIELDS",
    "EmbeddingsRequest",
    "Model",
    "ResponsesRequest",
    "ServiceTier",
    "StreamOptions",
    "embeddings_from",
    "responses_from",
    "tiered",
]

HOUSE_FIELDS: Final = ("negotiator", "service_tier", "stream", "stream_options")
"""Fields of a body that are for the house; all others go to the seller."""

ServiceTier = Literal["auto", "default", "standard", "flex", "priority"]
Model = Annotated[
    str,
    Field(min_length=1, max_length=300, description="auto, auto:PROFILE, provider/model, or a model's name"),
]


class StreamOptions(BaseModel):
    """OpenAI's stream options."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class EmbeddingsRequest(BaseModel):
    """OpenAI's embeddings request, and the terms to buy it on."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, defer_build=True)

    model: Model = "auto"
    input: str | list[str] | list[int] | list[list[int]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    negotiator: Terms | None = None

    @model_validator(mode="after")
    def _is_no_chat(self) -> EmbeddingsRequest:
        if "messages" in (self.model_extra or {}):
            raise ValueError("expected no messages beside what is to be embedded, found some")
        return self


class ResponsesRequest(BaseModel):
    """OpenAI's responses request without stored state, and the terms to buy it on."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)

    model: Model = "auto"
    input: str | list[dict[str, Any]]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    metadata: dict[str, str] | None = None
    parallel_tool_calls: bool | None = None
    prompt_cache_key: str | None = None
    reasoning: dict[str, Any] | None = None
    safety_identifier: str | None = None
    service_tier: ServiceTier | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    text: dict[str, Any] | None = None
    tool_choice: str | dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    truncation: Literal["disabled"] | None = None
    user: str | None = None
    negotiator: Terms | None = None


def embeddings_from(values: Any) -> EmbeddingsRequest:
    """An embeddings request from a decoded body; raises :class:`InputInvalid` with one sentence."""
    try:
        return EmbeddingsRequest.model_validate(values)
    except ValidationError as error:
        raise InputInvalid(describe_invalid(error)) from None


def responses_from(values: Any) -> ResponsesRequest:
    """A responses request from a decoded body; raises :class:`InputInvalid` with one sentence."""
    try:
        return ResponsesRequest.model_validate(values)
    except ValidationError as error:
        raise InputInvalid(describe_invalid(error)) from None


def tiered(terms: Terms | None, service_tier: str | None) -> Terms | None:
    """Terms with the tier that OpenAI's ``service_tier`` asks for, where they name none themselves."""
    if service_tier not in ("flex", "priority") or (terms is not None and terms.tiers is not None):
        return terms
    return (terms or Terms()).model_copy(update={"tiers": (service_tier,)})
