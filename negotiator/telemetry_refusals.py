"""False refusals: orders refused for money that running orders held and then gave back.

A hold is the dearest that an order may cost; most cost less. An order refused meanwhile, which what came back would have
paid for, was refused for nothing. Counted per account, of what this process held.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

__all__ = ["FalseRefusals"]

MAX_WAITING: Final = 1_000
"""Refusals followed up at once; of more the oldest are given up, uncounted."""

MAX_LIVE: Final = 100_000


@dataclass(slots=True)
class _Refused:
    """short_nusd: what was missing. holds: orders that held money then and have not ended since."""

    account: str
    short_nusd: int
    holds: set[str]


class FalseRefusals:
    """Told of every hold, refusal and end of an order; :meth:`ended` says how many refusals proved false."""

    def __init__(self) -> None:
        self._live: dict[str, str] = {}
        self._waiting: deque[_Refused] = deque(maxlen=MAX_WAITING)

    def held(self, account: str, order_id: str) -> None:
        """An order holds money from now on."""
        if len(self._live) < MAX_LIVE:
            self._live[order_id] = account

    def refused(self, account: str, short_nusd: int) -> None:
        """An order of the account was refused; so much was missing, and held by others."""
        holds = {order_id for order_id, owner in self._live.items() if owner == account}
        if holds:
            self._waiting.append(_Refused(account, short_nusd, holds))

    def ended(self, order_id: str, released_nusd: int) -> int:
        """An order gave back what it did not need: how many refusals that proves false."""
        self._live.pop(order_id, None)
        if not self._waiting:
            return 0
        proven = 0
        for waiting in list(self._waiting):
            if order_id not in waiting.holds:
                continue
            waiting.holds.discard(order_id)
            waiting.short_nusd -= released_nusd
            if waiting.short_nusd <= 0:
                proven += 1
            if waiting.short_nusd <= 0 or not waiting.holds:
                self._waiting.remove(waiting)
        return proven
