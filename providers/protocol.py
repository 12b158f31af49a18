"""The open quote protocol: what house and remote sellers say to each other, as checked shapes with a JSON Schema.

``POST /quote`` answers an RFQ with quotes or a decline; ``POST /execute`` honours a quote with an OpenAI chat answer
or stream, or answers 410. Money is decimal strings of US dollars, rates are per million tokens, times are
intervals in milliseconds. Requests with unknown fields are refused; in answers they are passed over, so that a
seller can say more. :func:`protocol_schema` is for those who write sellers.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Final, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    WithJsonSchema,
)
from pydantic.json_schema import models_json_schema

from .terms import TIERS, DeclineCode, DiscountKind, LineKind

__all__ = [
    "MAX_QUOTES",
    "NUSD_PER_USD",
    "DeclineWire",
    "DiscountWire",
    "ExecuteRequest",
    "LineWire",
    "PrefixWire",
    "QuantilesWire",
    "QuoteAnswer",
    "QuoteRequest",
    "QuoteWire",
    "RatesWire",
    "Shape",
    "TargetWire",
    "WireFault",
    "protocol_schema",
    "read_wire",
    "usd_text",
    "write_wire",
]

NUSD_PER_USD: Final = 1_000_000_000
MAX_NUSD: Final = 2**53
MAX_QUOTES: Final = 500
MAX_MARKS: Final = 256


def _nusd(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(  # noqa: TRY004 - pydantic turns only ValueError into a field error
            f"expected US dollars as a decimal string, found {value!r}"
        )
    try:
        nusd = Decimal(str(value)) * NUSD_PER_USD
    except InvalidOperation:
        raise ValueError(f"expected US dollars as a decimal string, found {value!r}") from None
    if not nusd.is_finite() or not 0 <= nusd <= MAX_NUSD or nusd != nusd.to_integral_value():
        raise ValueError(f"expected US dollars >= 0 with at most 9 decimals, found {value!r}")
    return int(nusd)


def usd_text(nusd: int) -> str:
    """Nano-dollars as a decimal string of dollars, exact."""
    text = f"{Decimal(nusd) / NUSD_PER_USD:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _code(value: object) -> DeclineCode:
    """A decline's code as ``D2``, ``2`` or ``UNSUPPORTED``."""
    text = str(value).upper()
    if text in DeclineCode.__members__:
        return DeclineCode[text]
    number = text.removeprefix("D")
    if number.isdigit() and int(number) in set(DeclineCode):
        return DeclineCode(int(number))
    raise ValueError(f"expected D1 to D9 or a name such as UNSUPPORTED, found {value!r}")


Usd = Annotated[
    int,
    BeforeValidator(_nusd),
    PlainSerializer(usd_text, return_type=str),
    WithJsonSchema(
        {"type": ["string", "number"], "description": "US dollars >= 0, a decimal with at most 9 places"}
    ),
]
Code = Annotated[
    DeclineCode,
    BeforeValidator(_code),
    PlainSerializer(lambda code: f"D{int(code)}", return_type=str),
    WithJsonSchema({"type": "string", "pattern": "^(D[1-9]|[A-Z_]+)$"}),
]
Tokens = Annotated[int, Field(ge=0, le=10**9)]
Milliseconds = Annotated[int, Field(ge=1, le=7 * 24 * 3_600_000)]
Id = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[\x21-\x7e]+$")]
Name = Annotated[str, Field(min_length=1, max_length=255)]
Tier = Annotated[str, Field(json_schema_extra={"enum": list(TIERS)})]


Shape = TypeVar("Shape", bound=BaseModel)


class WireFault(ValueError):
    """A message is not shaped as the protocol says; the text names the field and what was expected."""


class _Asked(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Said(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class PrefixWire(_Asked):
    """A prefix of the prompt: its length, and a key that two prompts share only if they share the prefix."""

    tokens: Tokens
    key: Name


class TargetWire(_Asked):
    """What a second round asks to meet: a ceiling price, a 95th percentile of latency, or both."""

    usd: Usd | None = None
    latency_ms: Milliseconds | None = None


class QuoteRequest(_Asked):
    """``POST /quote``: what sellers see of an order. Never its budget.

    input_tokens are counted in OpenAI's o200k vocabulary. max_tokens null = up to the seller. parameters: names of
    the body's other parameters, so that a seller can decline what it cannot honour.
    """

    rfq_id: Id
    input_tokens: Tokens
    max_tokens: Annotated[int, Field(ge=1, le=10**9)] | None = None
    expected_output_tokens: Tokens = 0
    prefix: Annotated[list[PrefixWire], Field(max_length=MAX_MARKS)] = []
    capabilities: Annotated[list[Name], Field(max_length=64)] = []
    parameters: Annotated[list[Name], Field(max_length=64)] = []
    tiers: Annotated[list[Name], Field(min_length=1, max_length=16)] = ["standard"]
    models: Annotated[list[Name], Field(max_length=1000)] | None = None
    answer_within_ms: Milliseconds = 250
    round: Annotated[int, Field(ge=1, le=3)] = 1
    target: TargetWire | None = None


class RatesWire(_Said):
    """Prices of the token classes, US dollars per million, and of a call. A class left out costs what input costs."""

    input_usd_per_million: Usd
    output_usd_per_million: Usd
    cache_read_usd_per_million: Usd | None = None
    cache_write_usd_per_million: Usd | None = None
    request_usd: Usd = 0


class QuantilesWire(_Said):
    """Median and 95th percentile, milliseconds."""

    p50: Milliseconds
    p95: Milliseconds


class DiscountWire(_Said):
    """What the quote saves against the list price, and on what evidence."""

    kind: DiscountKind
    saves_usd: Usd
    basis: Annotated[str, Field(max_length=300)] = ""


class LineWire(_Said):
    """Expected tokens of one kind; its price is the rate's."""

    kind: LineKind
    tokens: Tokens


class QuoteWire(_Said):
    """One offer. Rates are after discounts; ``expected_usd`` is what they make of the expected tokens.

    Firm (the default) means: until ``valid_for_ms`` has passed, a call costs these rates and never more than
    ``ceiling_usd``. lines: the expected tokens by kind; left out = all input fresh. max_output_tokens: what the
    ceiling covers; left out = the request's max_tokens. capacity: calls it can take now.
    """

    seller_quote_id: Id
    model: Name
    tier: Tier = "standard"
    firm: bool = True
    rates: RatesWire
    expected_usd: Usd
    ceiling_usd: Usd
    lines: Annotated[list[LineWire], Field(max_length=16)] = []
    input_tokens: Annotated[int, Field(ge=0, le=10**9)] | None = None
    expected_output_tokens: Tokens | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=10**9)] | None = None
    latency_ms: QuantilesWire
    ttft_ms: QuantilesWire | None = None
    discounts: Annotated[list[DiscountWire], Field(max_length=16)] = []
    valid_for_ms: Milliseconds
    capacity: Annotated[int, Field(ge=0, le=10**9)] | None = None
    tags: Annotated[list[Name], Field(max_length=64)] = []


class DeclineWire(_Said):
    """A coded no: NO_CAPACITY, UNSUPPORTED, TOO_LONG, DISABLED, RATE_LIMITED, AUTH, CONTENT, PRICE_STALE, TOO_LATE."""

    code: Code
    detail: Annotated[str, Field(max_length=300)] = ""
    model: Annotated[str, Field(max_length=255)] = ""


class QuoteAnswer(_Said):
    """The answer to ``POST /quote``: quotes, or one decline for all; ``declines`` names models apart."""

    quotes: Annotated[list[QuoteWire], Field(max_length=MAX_QUOTES)] = []
    decline: DeclineWire | None = None
    declines: Annotated[list[DeclineWire], Field(max_length=MAX_QUOTES)] = []


class ExecuteRequest(_Asked):
    """``POST /execute``: call a quote. body: OpenAI chat, ``stream`` in it decides how the answer comes.

    max_output_tokens: what was reserved, never above the quote's. deadline_ms: time left, null = none. The answer is
    an OpenAI chat completion or its SSE stream, with usage; ``usage.cost`` (US dollars) is the seller's own bill.
    """

    seller_quote_id: Id
    body: dict[str, Any]
    max_output_tokens: Annotated[int, Field(ge=1, le=10**9)] | None = None
    deadline_ms: Milliseconds | None = None
    order_id: Annotated[str, Field(max_length=255)] = ""


def read_wire(shape: type[Shape], data: bytes) -> Shape:
    """A message out of JSON; raises :class:`WireFault` naming the field and what was expected there."""
    try:
        return shape.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the message"
        raise WireFault(f"{where}: {first['msg']}"[:300]) from None


def write_wire(message: BaseModel) -> bytes:
    """A message as JSON."""
    return message.model_dump_json().encode()


def protocol_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of all messages; the top three are QuoteRequest, QuoteAnswer and ExecuteRequest."""
    _, schema = models_json_schema(
        [(QuoteRequest, "validation"), (QuoteAnswer, "validation"), (ExecuteRequest, "validation")],
        title="The quote protocol",
        description="POST /quote: QuoteRequest to QuoteAnswer. POST /execute: ExecuteRequest to an OpenAI chat answer.",
    )
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
