"""What the lines of a batch ask, column by column: all that pricing needs of an order, without keeping the order.

A plain line (text messages, everyday terms) is judged here by hand, at a tenth of the price; whatever is not plain goes
through the models of :mod:`negotiator.wire` and room 1, and a plain line means to both the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from providers.tokens import chat_texts

from .errors import InputInvalid, Reject, Rejected
from .intake import DEFAULT_ACCOUNT, capabilities_of, parameters_of, prompt_text, to_order
from .line_bodies import asked_of
from .order import Order
from .plan_lines import MAX_LINE_BYTES, LineFault
from .wire import CHAT, POLICY_NAMES, RequestLine, Terms, request_line_from

__all__ = ["NO_LIMIT", "Asked", "Intake", "read_asked"]

NO_LIMIT: Final = 2**62
"""Stands for a term that was not given where a column must hold a number."""

MAX_DEADLINE_MS: Final = 7 * 24 * 3_600_000
TEXT_ONLY: Final = frozenset[str]()

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Intake:
    """What room 1 knows besides the line: profiles, whose a line is that names no account, terms where it has none.

    budgets: default budgets, nano-dollars or None by account; of one that is not in it nothing is known yet.
    """

    profiles: Mapping[str, Terms]
    account: str = DEFAULT_ACCOUNT
    defaults: Terms | None = None
    budgets: dict[str, int | None] = field(default_factory=dict)


@dataclass(slots=True)
class Asked:
    """n orders as rows of :func:`_row`, read as columns. texts: what is counted of each, and what the rest weighs.

    missing: accounts whose default budget was not known: their rows are not to be used. others: the endpoints of lines
    that are no chats, by id.
    """

    ids: list[str] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    faults: list[LineFault] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    texts: list[tuple[list[str], int]] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    missing: set[str] = field(default_factory=set)
    others: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, order: Order) -> None:
        """One more order."""
        self._add(_row(order), order.body)

    def _add(self, row: Row, body: Mapping[str, Any]) -> None:
        self.rows.append(row)
        self.texts.append(chat_texts(body))
        self.prompts.append(prompt_text(body))

    def part(self, rows: Sequence[int]) -> Asked:
        """What some of the lines ask; their ids and places are left out."""
        part = Asked()
        part.rows = [self.rows[row] for row in rows]
        part.texts = [self.texts[row] for row in rows]
        part.prompts = [self.prompts[row] for row in rows]
        return part

    @property
    def deadlines(self) -> list[int]:
        """Milliseconds, :data:`NO_LIMIT` = none."""
        return [row[4] for row in self.rows]

    def columns(self) -> tuple[tuple[Any, ...], ...]:
        """account, named, min_quality, margin, deadline, ttft, limit, value, output asked for, task, needs, lists."""
        return tuple(zip(*self.rows, strict=True)) if self.rows else ((),) * COLUMNS


def _row(order: Order) -> Row:
    return (
        order.account,
        order.named,
        order.min_quality,
        order.quality_margin,
        order.deadline_ms or NO_LIMIT,
        order.ttft_ms or NO_LIMIT,
        NO_LIMIT if order.limit_nusd is None else order.limit_nusd,
        NO_LIMIT if order.value_nusd is None else order.value_nusd,
        order.max_output_tokens or 0,
        order.task,
        (order.tiers, capabilities_of(order.body), parameters_of(order.body)),
        (order.require, order.models, order.exclude),
    )


COLUMNS: Final = 12


def read_asked(lines: Iterable[tuple[int, int, Any]], intake: Intake, asked: Asked | None = None) -> Asked:
    """Lines as ``(number, offset, bytes or object)``, after those of ``asked``.

    Blank ones are passed over, broken ones become faults.
    """
    asked = Asked() if asked is None else asked
    for number, offset, line in lines:
        values = line
        if isinstance(line, (bytes, str)):
            if len(line) > MAX_LINE_BYTES:
                asked.faults.append(LineFault(number, f"expected at most {MAX_LINE_BYTES} bytes, found more"))
                continue
            try:
                values = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                if line.strip():
                    asked.faults.append(LineFault(number, f"expected a JSON object, found: {error}"))
                continue
        row = _plain(values, intake, asked.missing) if intake.defaults is None else None
        if row is not None:
            body = values["body"]
        else:
            try:
                request = request_line_from(values)
            except InputInvalid as error:
                asked.faults.append(LineFault(number, str(error)))
                continue
            order = _ordered(request, intake, asked.missing)
            if isinstance(order, Reject):
                asked.faults.append(LineFault(number, order.message, request.custom_id))
                continue
            row, body = _row(order), order.body
            if request.url != CHAT:
                asked.others[request.custom_id] = request.url
        asked.ids.append(values["custom_id"])
        asked.offsets.append(offset)
        asked.numbers.append(number)
        asked._add(row, body)
    return asked


def _ordered(request: RequestLine, intake: Intake, missing: set[str]) -> Order | Reject:
    """Room 1's word on a line."""
    try:
        body, terms = asked_of(request)
    except Rejected as refused:
        return refused.reject
    terms = terms if intake.defaults is None else terms.over(intake.defaults)
    owner = terms.account or intake.account
    if owner not in intake.budgets:
        missing.add(owner)
    return to_order(
        body,
        terms,
        profiles=intake.profiles,
        account=intake.account,
        default_budget_nusd=intake.budgets.get(owner),
    )


# A plain line: nothing in it needs more than a look. Every doubt is None, which is slower and never wrong. ----------


def _plain(line: Any, intake: Intake, missing: set[str]) -> Row | None:
    if type(line) is not dict or not line.keys() <= _LINE:
        return None
    custom_id, body, terms = line.get("custom_id"), line.get("body"), line.get("terms", _NONE)
    if not _short(custom_id, 255) or line.get("method", "POST") != "POST" or line.get("url", CHAT) != CHAT:
        return None
    if type(body) is not dict or type(terms) is not dict or not terms.keys() <= _TERMS.keys():
        return None
    model = _plain_body(body)
    if model is None:
        return None
    for name, value in terms.items():
        if not _TERMS[name](value):
            return None
    budget, value = _nusd(terms.get("budget_usd")), _nusd(terms.get("value_usd"))
    if budget is None or value is None:
        return None
    owner = terms.get("account", intake.account)
    if budget == NO_LIMIT:
        try:
            given = intake.budgets[owner]
        except KeyError:
            missing.add(owner)
            given = None
        budget = NO_LIMIT if given is None else given
    value = budget if value == NO_LIMIT else value
    return (
        owner,
        None if model == "auto" else model,
        terms.get("min_quality", 0.0),
        0.0,
        terms.get("deadline_ms", NO_LIMIT),
        terms.get("ttft_ms", NO_LIMIT),
        min(budget, value),
        value,
        body.get("max_completion_tokens") or body.get("max_tokens", 0),
        terms.get("task"),
        (
            _tuple(terms, "tiers") or ("standard",),
            TEXT_ONLY,
            TEXT_ONLY if body.keys() <= _SIZES else parameters_of(body),
        ),
        (frozenset(terms.get("require", ())), _tuple(terms, "models"), _tuple(terms, "exclude")),
    )


def _plain_body(body: dict[str, Any]) -> str | None:
    """The model a plain body names: text messages, and no field that intake looks into but its length."""
    if not _LOOKED_INTO.isdisjoint(body):
        return None
    messages, model = body.get("messages"), body.get("model", "auto")
    if type(messages) is not list or not 0 < len(messages) <= 1_000:
        return None
    for message in messages:
        if (
            type(message) is not dict
            or len(message) != 2
            or type(message.get("content")) is not str
            or type(role := message.get("role")) is not str
            or role not in _ROLES
        ):
            return None
    for name in ("max_tokens", "max_completion_tokens"):
        if name in body and not _count(body[name], 2**31):
            return None
    return None if type(model) is not str or not model or model.startswith("auto:") else model


def _tuple(terms: Mapping[str, Any], name: str) -> tuple[str, ...]:
    return tuple(terms.get(name, ()))


def _short(value: Any, most: int) -> bool:
    return type(value) is str and 0 < len(value) <= most


def _count(value: Any, most: int) -> bool:
    return type(value) is int and 0 < value <= most


def _globs(value: Any) -> bool:
    return type(value) is list and len(value) <= 32 and all(_short(one, 200) for one in value)


def _nusd(text: Any) -> int | None:
    """Nano-dollars of a plain decimal string, :data:`NO_LIMIT` where none was given, None = not plain."""
    if text is None:
        return NO_LIMIT
    whole, point, rest = text.partition(".")
    if not 0 < len(whole) <= 6 or len(rest) > 9 or bool(point) != bool(rest):
        return None
    digits = whole + rest
    return int(digits) * 10 ** (9 - len(rest)) if digits.isascii() and digits.isdigit() else None


_NONE: Final[dict[str, Any]] = {}
_LINE: Final = frozenset({"custom_id", "method", "url", "body", "terms"})
_LOOKED_INTO: Final = frozenset({"input", "tools", "functions", "response_format", "n"})
_SIZES: Final = frozenset({"messages", "model", "max_tokens", "max_completion_tokens"})
_ROLES: Final = frozenset({"system", "developer", "user", "assistant"})
_TIERS: Final = frozenset({"standard", "priority", "flex", "batch", "cached"})
_TERMS: Final[Mapping[str, Callable[[Any], bool]]] = {
    "account": lambda value: _short(value, 255),
    "budget_usd": lambda value: type(value) is str,
    "deadline_ms": lambda value: _count(value, MAX_DEADLINE_MS),
    "exclude": _globs,
    "min_quality": lambda value: type(value) is float and 0.0 <= value <= 1.0,
    "models": _globs,
    "policy": lambda value: type(value) is str and value in POLICY_NAMES,
    "require": _globs,
    "session": lambda value: _short(value, 255),
    "task": lambda value: _short(value, 100),
    "tiers": lambda value: (
        type(value) is list
        and 0 < len(value) <= 5
        and all(type(one) is str and one in _TIERS for one in value)
    ),
    "ttft_ms": lambda value: _count(value, MAX_DEADLINE_MS),
    "value_usd": lambda value: type(value) is str,
}
"""Terms a plain line may have, and what each may be; a term that is null, or any other, is not plain."""
