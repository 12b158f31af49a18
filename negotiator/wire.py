"""What travels at the edges: terms, request lines and plan options, checked field by field.

Every model refuses unknown fields by name. Money is US dollars here and integer nano-dollars one floor down.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    WithJsonSchema,
)

from .errors import InputInvalid
from .money import format_usd, parse_usd

__all__ = [
    "CHAT",
    "EMBEDDINGS",
    "POLICY_NAMES",
    "RESPONSES",
    "Endpoint",
    "OrderId",
    "PlanOptions",
    "RequestLine",
    "Terms",
    "Tier",
    "Usd",
    "describe_invalid",
    "options_from",
    "request_line_from",
    "terms_from",
]

Usd = Annotated[
    int,
    BeforeValidator(parse_usd),
    PlainSerializer(format_usd, return_type=str),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": r"^\d{1,7}(\.\d{1,9})?$"},
                {"type": "number", "minimum": 0, "maximum": 9_007_199},
            ],
            "description": "US dollars, with at most nine decimals",
        }
    ),
]
"""US dollars outside (decimal string or number), integer nano-dollars inside."""

Tier = Literal["standard", "priority", "flex", "batch", "cached"]

POLICY_NAMES = ("cheapest", "best_quality", "fastest", "balanced", "two_tier")
Policy = Literal["cheapest", "best_quality", "fastest", "balanced", "two_tier"]

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Glob = Annotated[str, Field(min_length=1, max_length=200)]

MAX_DEADLINE_MS = 7 * 24 * 3_600_000


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")


CHAT: Final = "/v1/chat/completions"
RESPONSES: Final = "/v1/responses"
EMBEDDINGS: Final = "/v1/embeddings"
Endpoint = Literal["/v1/chat/completions", "/v1/responses", "/v1/embeddings"]
"""What a line of a batch may be a request to."""

OrderId = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""Of the buyer's making. No control characters: it goes into headers and logs."""


class Terms(_Frozen):
    """What a request is worth to its buyer. A field that is None was not given: profile and account decide.

    Raises pydantic's ValidationError naming the field; :func:`terms_from` turns it into one sentence.
    """

    budget_usd: Usd | None = None
    min_quality: Share | None = None
    quality_margin: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] | None = None
    deadline_ms: Annotated[int, Field(gt=0, le=MAX_DEADLINE_MS)] | None = None
    ttft_ms: Annotated[int, Field(gt=0, le=MAX_DEADLINE_MS)] | None = None
    value_usd: Usd | None = None
    tiers: Annotated[tuple[Tier, ...], Field(min_length=1, max_length=5)] | None = None
    models: Annotated[tuple[Glob, ...], Field(max_length=64)] | None = None
    exclude: Annotated[tuple[Glob, ...], Field(max_length=64)] | None = None
    require: Annotated[tuple[Glob, ...], Field(max_length=32)] | None = None
    session: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    session_premium: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] | None = None
    task: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    policy: Policy | None = None
    rounds: Annotated[int, Field(ge=0, le=2)] | None = None
    account: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    order_id: OrderId | None = None
    profile: Annotated[str, Field(min_length=1, max_length=100)] | None = None

    def over(self, defaults: Terms) -> Terms:
        """These terms, with what was not given taken from ``defaults``."""
        given = {
            name: getattr(self, name) for name in type(self).model_fields if getattr(self, name) is not None
        }
        return defaults.model_copy(update=given)


class RequestLine(_Frozen):
    """One line of a batch file: OpenAI's batch shape plus ``terms``."""

    custom_id: Annotated[str, Field(min_length=1, max_length=255)]
    method: Literal["POST"] = "POST"
    url: Endpoint = CHAT
    body: dict[str, Any]
    terms: Terms = Terms()


class PlanOptions(_Frozen):
    """How a batch is planned; the same names in HTTP, CLI and SDK."""

    objective: Literal["served_then_cost", "surplus"] = "served_then_cost"
    gap: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 1e-4
    time_limit_s: Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)] = 30.0
    horizon_ms: Annotated[int, Field(gt=0, le=MAX_DEADLINE_MS)] = 60_000
    total_budget_usd: Usd | None = None
    min_mean_quality: Share | None = None
    usage_quantile: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] = 0.9
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    slots: Annotated[int, Field(ge=1, le=12)] = 1
    tokens: Literal["auto", "counted"] = "auto"


def describe_invalid(error: ValidationError) -> str:
    """One sentence for the first fault: which field, what was expected, what was found."""
    first = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "input"
    at = [one["loc"] for one in error.errors(include_url=False, include_context=False)]
    whole = [loc for loc in at if not any(loc == below[: len(loc)] and loc != below for below in at)]
    others = [".".join(map(str, loc)) for loc in whole if loc != first["loc"]][:3]
    if first["type"] == "extra_forbidden":
        text = f"{where}: expected no such field, found {_short(first['input'])}"
        text += _meant(str(first["loc"][-1]), _fields(error.title, first["loc"]))
    elif first["type"] == "missing":
        text = f"{where}: expected a value, found none"
    else:
        message = first["msg"].removeprefix("Value error, ")
        message = message[:1].lower() + message[1:]
        text = (
            f"{where}: {message}"
            if "found" in message
            else f"{where}: {message}, found {_short(first['input'])}"
        )
    if first["type"] == "literal_error" and isinstance(first["input"], str):
        text += _meant(first["input"], re.findall(r"'([^']+)'", first["msg"]))
    return text + (f" (also wrong: {', '.join(others)})" if others else "")


def _meant(said: str, known: Iterable[str]) -> str:
    close = get_close_matches(said, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _fields(root: str, at: tuple[int | str, ...]) -> Iterable[str]:
    """The fields known where a field is that is not; none where that is no model of this module."""
    if "terms" in at[:-1] or "negotiator" in at[:-1]:
        return Terms.model_fields
    models: tuple[type[BaseModel], ...] = (Terms, RequestLine, PlanOptions)
    return next((model.model_fields for model in models if len(at) == 1 and model.__name__ == root), ())


def request_line_from(values: Any) -> RequestLine:
    """A batch line from a decoded value; raises :class:`InputInvalid` with one sentence."""
    try:
        return RequestLine.model_validate(values)
    except ValidationError as error:
        raise InputInvalid(describe_invalid(error)) from None


def options_from(values: dict[str, Any]) -> PlanOptions:
    """Plan options from loose values; raises :class:`InputInvalid` with one sentence."""
    try:
        return PlanOptions.model_validate(values)
    except ValidationError as error:
        raise InputInvalid(f"options: {describe_invalid(error)}") from None


def terms_from(values: dict[str, Any], where: str = "terms") -> Terms:
    """Terms from loose values; raises :class:`InputInvalid` with one sentence."""
    try:
        return Terms.model_validate(values)
    except ValidationError as error:
        raise InputInvalid(f"{where}: {describe_invalid(error)}") from None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
