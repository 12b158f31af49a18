"""Who is well: a breaker per seller and model, and a retry budget per seller.

Outlier ejection as Envoy does it (so many faults in a row, a base time that grows with every ejection, then probes)
and a retry budget as Finagle does it (a share of recent calls on top of a floor). The last seller of a model is not
given up: it becomes indicative only and is probed early, one call at a time.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from .capacity_windows import Window

__all__ = ["BASE_EJECTION_MS", "FAULTS_TO_EJECT", "Breaker", "Health", "RetryBudget"]

FAULTS_TO_EJECT: Final = 5
"""Faults in a row that eject a seller."""

BASE_EJECTION_MS: Final = 30_000
"""The first ejection's length; the n-th in a row lasts n times as long, up to ``MAX_EJECTIONS`` times."""

MAX_EJECTIONS: Final = 10
FORGET_MS: Final = 300_000  # well for so long after its last ejection: the next one counts as the first
PROBE_EVERY_MS: Final = 1_000  # how often the last seller of a model is tried while it is out


class Health(StrEnum):
    """UP: takes calls. EJECTED: takes none for a while. PROBING: one call at a time tells whether it is back.

    INDICATIVE_ONLY: ejected, but nobody else sells the model: its quotes inform, and it may be probed.
    """

    UP = "up"
    EJECTED = "ejected"
    PROBING = "probing"
    INDICATIVE_ONLY = "indicative_only"


class Breaker:
    """The health of one seller's model."""

    __slots__ = ("_ejections", "_faults", "_probe_ms", "_until_ms", "last_error", "out", "probing", "shut")

    def __init__(self) -> None:
        self.out = False
        self.shut = False  # our key was refused: no early probes, even for the last of its kind
        self.probing = False  # a probe is in flight
        self.last_error = ""
        self._faults = 0
        self._ejections = 0
        self._until_ms = 0
        self._probe_ms = 0

    def health(self, now_ms: int, last_of_kind: bool) -> Health:
        """Where it stands; ``last_of_kind``: no other seller of the model is up."""
        if not self.out:
            return Health.UP
        if self.due(now_ms):
            return Health.PROBING
        return Health.INDICATIVE_ONLY if last_of_kind and not self.shut else Health.EJECTED

    def due(self, now_ms: int) -> bool:
        """Whether its ejection is over."""
        return now_ms >= self._until_ms

    def wait_ms(self, now_ms: int, last_of_kind: bool) -> int:
        """How long until a call may be tried, 0 = now."""
        health = self.health(now_ms, last_of_kind)
        if health is Health.UP:
            return 0
        if health is Health.EJECTED:
            return self._until_ms - now_ms
        return max(self._probe_ms - now_ms, PROBE_EVERY_MS if self.probing else 0)

    def probe(self, now_ms: int) -> None:
        """A call is being tried while it is out."""
        self.probing = True
        self._probe_ms = now_ms + PROBE_EVERY_MS

    def succeeded(self) -> bool:
        """A call went well; True when that brought it back."""
        self._faults = 0
        back, self.out, self.shut = self.out, False, False
        return back

    def failed(self, now_ms: int, error: str, *, shut: bool) -> int:
        """A fault of the seller. Milliseconds of the ejection it led to, 0 = none; ``shut`` ejects at once."""
        self._faults += 1
        self.last_error = error
        probed = self.out and self.due(now_ms)
        if (self.out and not probed) or not (shut or probed or self._faults >= FAULTS_TO_EJECT):
            return 0
        if now_ms - self._until_ms > FORGET_MS:
            self._ejections = 0
        self._ejections = min(self._ejections + 1, MAX_EJECTIONS)
        ejection_ms = BASE_EJECTION_MS * self._ejections
        self.out, self.shut = True, shut
        self._until_ms = now_ms + ejection_ms
        self._probe_ms = now_ms + PROBE_EVERY_MS
        return ejection_ms


class RetryBudget:
    """How many calls to one seller may be second attempts: a fifth of the calls of 10 s, and 10 a second."""

    __slots__ = ("_first", "_retries")

    SHARE: Final = 5  # one retry per so many calls
    FLOOR_PER_S: Final = 10
    KEPT_MS: Final = 10_000

    def __init__(self) -> None:
        self._first = Window(0, self.KEPT_MS)
        self._retries = Window(0, self.KEPT_MS)

    def left(self, now_ms: int) -> int:
        """Retries that may start now."""
        first, retried = -self._first.left(now_ms), -self._retries.left(now_ms)
        return first // self.SHARE + self.FLOOR_PER_S * self.KEPT_MS // 1000 - retried

    def count(self, now_ms: int, *, retry: bool) -> None:
        """A call starts."""
        (self._retries if retry else self._first).take(1, now_ms)

    def wait_ms(self, now_ms: int) -> int:
        """How long until a retry is allowed, 0 = now."""
        return 0 if self.left(now_ms) > 0 else 1000 // self.FLOOR_PER_S
