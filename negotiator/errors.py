"""What can go wrong for a buyer.

::

    NegotiatorError
    ├── Rejected            the house said no: a coded Reject with facts and counter-offers
    ├── ServerRefused       a server answered with an error that is no reject: its key, scope, path or size rules
    ├── ServerUnreachable   a server did not answer, not in time, or not as a house does
    ├── InputInvalid        what the user gave is not what the command or call takes
    │   └── ConfigInvalid   ... in a configuration: names file and line
    └── StoreError
        ├── StoreUnavailable  the ledger's store does not answer; nothing was decided
        ├── StoreLocked       another process holds the embedded store; names it
        └── HoldResolved      a call was about to begin on a hold that is gone

A reject is a value (:class:`Reject`) inside the house and becomes an exception only at the buyer's door.
Failures of sellers are :mod:`providers.errors`; a bug is an assertion.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any

__all__ = [
    "ConfigInvalid",
    "CounterOffer",
    "HoldResolved",
    "InputInvalid",
    "NegotiatorError",
    "Reject",
    "RejectCode",
    "Rejected",
    "ServerRefused",
    "ServerUnreachable",
    "StoreError",
    "StoreLocked",
    "StoreUnavailable",
]


class RejectCode(IntEnum):
    """Why the house says no, in the order it is checked; hundreds by room."""

    INVALID = 1001
    DUPLICATE_DIFFERENT = 1002
    IN_PROGRESS = 1003
    ACCOUNT_UNKNOWN = 1004
    UNPRICEABLE = 1010
    NO_QUOTE = 2001
    ALL_DECLINED = 2002
    QUOTES_EXPIRED = 2003
    UNKNOWN_QUOTE = 2004
    INPUT_CHANGED = 2005
    QUOTE_EXPIRED = 2006
    BUDGET_TOO_LOW = 3001
    QUALITY_UNREACHABLE = 3002
    DEADLINE_UNREACHABLE = 3003
    CAPABILITY_MISSING = 3004
    POLICY_FORBIDS = 3005
    TERMS_CONFLICT = 3006
    CAPACITY_EXHAUSTED = 4001
    PRICED_OUT = 4002
    NO_PLAN_IN_TIME = 4003
    FUNDS_INSUFFICIENT = 5001
    FUNDS_HELD = 5002
    LEDGER_UNAVAILABLE = 5010
    PROVIDERS_FAILED = 6001
    DEADLINE_PASSED = 6002
    CANCELLED = 6003

    @property
    def http_status(self) -> int:
        """The status of the answer that carries it."""
        return _STATUS[self]

    @property
    def again(self) -> bool:
        """Whether the same order may succeed later without any change."""
        return self in _AGAIN


_C = RejectCode
_STATUS = {
    _C.INVALID: 400,
    _C.DUPLICATE_DIFFERENT: 422,
    _C.IN_PROGRESS: 409,
    _C.ACCOUNT_UNKNOWN: 403,
    _C.UNPRICEABLE: 422,
    _C.NO_QUOTE: 503,
    _C.ALL_DECLINED: 503,
    _C.QUOTES_EXPIRED: 503,
    _C.UNKNOWN_QUOTE: 404,
    _C.INPUT_CHANGED: 422,
    _C.QUOTE_EXPIRED: 410,
    _C.BUDGET_TOO_LOW: 402,
    _C.QUALITY_UNREACHABLE: 422,
    _C.DEADLINE_UNREACHABLE: 422,
    _C.CAPABILITY_MISSING: 422,
    _C.POLICY_FORBIDS: 403,
    _C.TERMS_CONFLICT: 422,
    _C.CAPACITY_EXHAUSTED: 429,
    _C.PRICED_OUT: 429,
    _C.NO_PLAN_IN_TIME: 503,
    _C.FUNDS_INSUFFICIENT: 402,
    _C.FUNDS_HELD: 429,
    _C.LEDGER_UNAVAILABLE: 503,
    _C.PROVIDERS_FAILED: 502,
    _C.DEADLINE_PASSED: 504,
    _C.CANCELLED: 499,
}
_AGAIN = frozenset(
    {
        _C.IN_PROGRESS,
        _C.NO_QUOTE,
        _C.ALL_DECLINED,
        _C.QUOTES_EXPIRED,
        _C.CAPACITY_EXHAUSTED,
        _C.PRICED_OUT,
        _C.NO_PLAN_IN_TIME,
        _C.FUNDS_HELD,
        _C.LEDGER_UNAVAILABLE,
        _C.PROVIDERS_FAILED,
        _C.DEADLINE_PASSED,
        _C.CANCELLED,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterOffer:
    """The nearest order that would be served now: ``terms`` holds only what to change, as buyers write it."""

    terms: Mapping[str, Any]
    quote_id: str
    provider: str
    model: str
    expected_nusd: int
    ceiling_nusd: int
    valid_until_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """The house's no.

    facts: numbers behind the message (``needed_usd``, ``available_usd``, ...), money as decimal strings.
    said: what sellers complained of, in their words. It may repeat the prompt: the buyer hears it, nobody keeps it.
    retry_after_ms: when trying again makes sense, None = not before something changes.
    """

    code: RejectCode
    message: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    counter_offers: tuple[CounterOffer, ...] = ()
    retry_after_ms: int | None = None
    said: str = ""

    @property
    def spoken(self) -> str:
        """The message for the buyer who sent the order: with what sellers said."""
        return f"{self.message} ({self.said})" if self.said else self.message

    def with_counter_offers(self, offers: tuple[CounterOffer, ...]) -> Reject:
        """The same no, with what would be served."""
        return replace(self, counter_offers=offers)


class NegotiatorError(Exception):
    """The root of what negotiator raises on purpose."""


class Rejected(NegotiatorError):
    """The house said no; ``reject`` says why.

    again: the refused call once more, as a counter-offer says; whoever refused it sets it.
    """

    def __init__(self, reject: Reject) -> None:
        super().__init__(f"{reject.code.name}: {reject.spoken}")
        self.reject = reject
        self.again: Callable[[CounterOffer], Any] | None = None

    def accept(self, number: int = 0) -> Any:
        """Take a counter-offer: the refused call once more, under its terms and at its quote.

        Gives what that call gives, to be awaited or iterated as it was. Raises InputInvalid where there is no such
        offer.
        """
        offers = self.reject.counter_offers
        if self.again is None or not 0 <= number < len(offers):
            raise InputInvalid(
                f"number: expected one of {len(offers)} counter-offers from 0, found {number!r}"
            )
        return self.again(offers[number])


class ServerRefused(NegotiatorError):
    """A server answered with an error that is no reject. code: its NAME; param: the field it is about."""

    def __init__(self, status: int, code: str, message: str, param: str | None = None) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.param = param


class ServerUnreachable(NegotiatorError):
    """A server did not answer, not in time, or not as a house does; the message says which."""


class InputInvalid(NegotiatorError):
    """What the user gave is not what was expected; the message says what, and where."""


class ConfigInvalid(InputInvalid):
    """A configuration has a wrong key or value; the message names file and line."""


class StoreError(NegotiatorError):
    """The store of ledger and shared state cannot be used."""


class StoreUnavailable(StoreError):
    """The store does not answer; nothing was decided and money stays where it was."""


class StoreLocked(StoreError):
    """Another process holds the embedded store; the message names it."""


class HoldResolved(StoreError):
    """The hold was posted, voided or expired before: no call may begin on it."""
