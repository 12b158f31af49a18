"""What a vendor's API is to the house: pure translation, no sockets.

A :class:`Dialect` turns a chat body into the vendor's call and the vendor's words back into deltas, usage, faults
and rate-limit windows. :mod:`providers.vendor` owns everything that touches the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, runtime_checkable

from .errors import ProviderError
from .records import record
from .sse import Event
from .terms import Delta, Parameters, RateKind, Usage

__all__ = [
    "HOUSE_FIELDS",
    "Call",
    "Dialect",
    "Hear",
    "Reader",
    "ReportsWindows",
    "Want",
    "Window",
    "is_neutral",
    "larger",
    "least_left",
]


HOUSE_FIELDS: Final = frozenset(
    {"max_completion_tokens", "max_tokens", "model", "negotiator", "service_tier", "stream", "stream_options"}
)
"""Fields of the body that the house sets itself."""


@record(frozen=True, slots=True)
class Want:
    """What is asked of a vendor besides the body.

    cache_after: messages (indices, -1 = the tools) after which the vendor is asked to store the prompt. cache_key:
    what calls with the same prefix share, so that the vendor sends them to the same cache; None = nothing shared. quote_id: where the quote is called by it.
    """

    model: str
    tier: str
    max_output_tokens: int
    stream: bool
    cache_after: tuple[int, ...] = ()
    cache_key: str | None = None
    quote_id: str = ""


@record(frozen=True, slots=True)
class Call:
    """One HTTP POST: path below the base URL, JSON body, headers beyond the key."""

    path: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Window:
    """A rate-limit window as the vendor reports it; None = it did not say."""

    kind: RateKind
    limit: int | None
    remaining: int | None
    reset_ms: int | None
    per_ms: int = 60_000


def is_neutral(name: str, value: object) -> bool:
    """Whether a parameter with this value asks for nothing."""
    if value is None or value is False or value in ("", [], {}):
        return True
    return (name == "n" and value == 1) or (name.endswith("_penalty") and value == 0)


def least_left(windows: Iterable[Window]) -> float | None:
    """The smallest share left among the windows, 0 to 1; None where none says."""
    shares = [
        min(window.remaining / window.limit, 1.0)
        for window in windows
        if window.limit and window.remaining is not None
    ]
    return min(shares, default=None)


Hear = Callable[[str, str, Sequence[Window]], None]
"""Told provider, model and the windows of every answer that reports some."""


@runtime_checkable
class ReportsWindows(Protocol):
    """A seller whose vendor tells how much of its rate limits is left."""

    def hear(self, listener: Hear) -> None:
        """Tell ``listener`` the windows of every answer that reports some."""
        ...


class Reader(Protocol):
    """Reads one stream. ``finished`` once the finish reason came; ``done`` once nothing more is expected."""

    finished: bool
    done: bool

    def event(self, event: Event) -> Delta | None:
        """The delta an event carries, None = nothing to relay; raises :class:`ProviderError` for an error event."""
        ...

    def last(self) -> Delta:
        """The final delta, with finish reason and usage; raises StreamCut where the stream broke off before."""
        ...


class Dialect(Protocol):
    """The pure functions of one vendor."""

    @property
    def tags(self) -> frozenset[str]:
        """Capabilities the API has (``tools``, ``vision``, ``json_schema``, ``streaming``, ``embeddings``)."""
        ...

    @property
    def tiers(self) -> frozenset[str]:
        """Tiers that a call can ask for; any other would be billed as standard."""
        ...

    def unsupported(self, body: Mapping[str, Any]) -> str | None:
        """The name of a parameter or content part the vendor cannot honour, None = it can honour all."""
        ...

    @property
    def parameters(self) -> Parameters:
        """Which of the body's parameters the vendor cannot honour whatever their values."""
        ...

    def call(self, body: Mapping[str, Any], want: Want) -> Call:
        """The vendor's request for a chat body or, where it has ``input`` and no ``messages``, for embeddings."""
        ...

    def authorise(self, key: str) -> dict[str, str]:
        """The headers that carry a key."""
        ...

    def answer(self, data: bytes) -> Delta:
        """The one delta of a buffered answer; raises :class:`ProviderError` where it is none."""
        ...

    def reader(self) -> Reader:
        """A fresh reader for one stream."""
        ...

    def fault(self, status: int, headers: Mapping[str, str], data: bytes) -> ProviderError:
        """The failure an HTTP error stands for."""
        ...

    def windows(self, headers: Mapping[str, str]) -> tuple[Window, ...]:
        """The rate-limit windows in an answer's headers."""
        ...


def larger(one: Usage | None, other: Usage | None) -> Usage | None:
    """The usage with more tokens: counts are cumulative, and a later empty report is no evidence."""
    if one is None or other is None:
        return one or other
    return other if other.input_tokens + other.output_tokens >= one.input_tokens + one.output_tokens else one
