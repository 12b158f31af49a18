"""What goes wrong at a simulated seller, when, and for whom: a script, so that a failing run can be run again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from random import Random

__all__ = ["Fault", "FaultKind", "Faults"]


class FaultKind(StrEnum):
    """The ways in which sellers fail.

    OUTAGE and ERROR_500 refuse at once; RATE_LIMITED is a 429 that does not say when to come back; SLOW takes
    twenty times as long; CUT ends the stream half-way, STALL leaves it open and silent. The last four answer well but tell their usage or bill wrongly.
    """

    OUTAGE = "outage"
    ERROR_500 = "error_500"
    RATE_LIMITED = "rate_limited"
    NEVER_ANSWERS = "never_answers"
    SLOW = "slow"
    CUT = "cut"
    STALL = "stall"
    MALFORMED = "malformed"
    AUTH = "auth"
    CONTENT = "content"
    NO_USAGE = "no_usage"
    WRONG_USAGE = "wrong_usage"
    IMPOSSIBLE_USAGE = "impossible_usage"
    OVERBILLED = "overbilled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One entry of a script.

    from_ms, until_ms: counted from the seller's start, None = for ever. calls: only these calls (1 = its first).
    model, tier: only this one. share: of the calls that fit, how many it hits.
    """

    kind: FaultKind
    from_ms: int = 0
    until_ms: int | None = None
    calls: frozenset[int] | None = None
    model: str | None = None
    tier: str | None = None
    share: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"share: expected 0 to 1, found {self.share}")
        if self.until_ms is not None and self.until_ms <= self.from_ms:
            raise ValueError(f"until_ms: expected after from_ms {self.from_ms}, found {self.until_ms}")

    def hits(self, since_start_ms: int, call: int, model: str, tier: str, draw: Random) -> bool:
        """Whether it strikes this call."""
        return (
            self.from_ms <= since_start_ms
            and (self.until_ms is None or since_start_ms < self.until_ms)
            and (self.calls is None or call in self.calls)
            and self.model in (None, model)
            and self.tier in (None, tier)
            and (self.share == 1 or draw.random() < self.share)
        )


class Faults:
    """A seller's script: for each call the first fault that strikes, None = all is well."""

    def __init__(self, script: Iterable[Fault] = ()) -> None:
        self.script = tuple(script)

    def strikes(
        self, since_start_ms: int, call: int, model: str, tier: str, draw: Random
    ) -> FaultKind | None:
        """What happens to a call."""
        hits = (f.kind for f in self.script if f.hits(since_start_ms, call, model, tier, draw))
        return next(hits, None)
