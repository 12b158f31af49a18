"""False refusals: orders refused for money that running orders held and then gave back.

A hold is the dearest that an order may cost; most cost less. An order refused meanwhile, which what came back would have
paid for, was refused for nothing. Counted per account, of what this process held.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Final

__all__ = ["FalseRefusals"]

MAX_ACCOUNTS: Final = 10_000
MAX_LIVE: Final = 20_000  # of an account; holds that another process resolved are never told here
MAX_WAITING: Final = 100
"""Refusals of an account followed up at once; of more the oldest are given up, uncounted."""


@dataclass(slots=True)
class _Refused:
    """before: holds with a lower number were there at the time. short_nusd: what was missing."""

    before: int
    short_nusd: int


@dataclass(slots=True)
class _Account:
    """Numbers of the orders that hold money, the oldest first, and what was refused meanwhile."""

    live: dict[str, int] = field(default_factory=dict)
    waiting: deque[_Refused] = field(default_factory=lambda: deque(maxlen=MAX_WAITING))


class FalseRefusals:
    """Told of every hold, refusal and end of an order; :meth:`ended` says how many refusals proved false."""

    def __init__(self) -> None:
        self._accounts: OrderedDict[str, _Account] = OrderedDict()
        self._number = 0

    def held(self, account: str, order_id: str) -> None:
        """An order holds money from now on."""
        known = self._accounts.get(account)
        if known is None:
            known = self._accounts[account] = _Account()
            if len(self._accounts) > MAX_ACCOUNTS:
                self._accounts.popitem(last=False)
        self._number += 1
        known.live[order_id] = self._number
        if len(known.live) > MAX_LIVE:
            del known.live[next(iter(known.live))]

    def refused(self, account: str, short_nusd: int) -> None:
        """An order of the account was refused; so much was missing, and held by others."""
        known = self._accounts.get(account)
        if known is not None and known.live:
            known.waiting.append(_Refused(self._number + 1, short_nusd))

    def ended(self, account: str, order_id: str, released_nusd: int) -> int:
        """An order gave back what it did not need: how many refusals that proves false."""
        known = self._accounts.get(account)
        number = None if known is None else known.live.pop(order_id, None)
        if known is None or number is None:
            return 0
        proven = 0
        if known.waiting:
            oldest = next(iter(known.live.values()), self._number + 1)
            for refused in list(known.waiting):
                if number < refused.before:
                    refused.short_nusd -= released_nusd
                    proven += refused.short_nusd <= 0
                if refused.short_nusd <= 0 or oldest >= refused.before:
                    known.waiting.remove(refused)
        if not known.live:
            self._accounts.pop(account, None)
        return proven
