"""Affinity: which model of which seller a session had, and whether to keep it.

A conversation that stays on one model keeps its warm prompt cache and its tone. That is worth a premium the buyer
names, never more: what is kept is a preference of clearing, so a seller that is full or unwell is passed over.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

from providers.clock import Clock
from providers.records import record

from .order import Candidate, Order

__all__ = ["Affinity", "Kept"]

MAX_SESSIONS: Final = 100_000
LIFETIME_MS: Final = 3_600_000
"""A session that was silent for so long starts anew: no prompt cache lives longer."""


@record(frozen=True, slots=True, kw_only=True)
class Kept:
    """What became of a session's offer. candidate: it, None = not kept.

    reason: ``new`` (no session or nothing remembered), ``gone`` (not among the eligible), ``best`` (it is the best
    anyway), ``within`` or ``above`` the premium. cost_nusd: what keeping it costs, or would, above the best.
    """

    candidate: Candidate | None
    reason: str
    cost_nusd: int = 0


_NEW: Final = Kept(candidate=None, reason="new")
_GONE: Final = Kept(candidate=None, reason="gone")


class Affinity:
    """The offers that sessions were served by, per account, the latest ``MAX_SESSIONS`` of them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offers: OrderedDict[tuple[str, str], tuple[str, int]] = OrderedDict()

    def keep(self, order: Order, eligible: Sequence[Candidate], price: Callable[[Candidate], int]) -> Kept:
        """Whether the session's offer is still within ``session_premium`` of the best, by ``price`` (nano-dollars)."""
        offer = self._offer(order)
        if offer is None:
            return _NEW
        known = min((c for c in eligible if c.quote.key == offer), key=price, default=None)
        if known is None:
            return _GONE
        mine_nusd, best_nusd = price(known), min(map(price, eligible))
        cost_nusd = mine_nusd - best_nusd
        if cost_nusd > order.session_premium * best_nusd:
            return Kept(candidate=None, reason="above", cost_nusd=cost_nusd)
        return Kept(candidate=known, reason="within" if cost_nusd else "best", cost_nusd=cost_nusd)

    def served(self, order: Order, candidate: Candidate) -> None:
        """The session's latest answer came from this offer."""
        if order.session is None:
            return
        key = (order.account, order.session)
        self._offers[key] = (candidate.quote.key, self._clock.now_ms() + LIFETIME_MS)
        self._offers.move_to_end(key)
        if len(self._offers) > MAX_SESSIONS:
            self._offers.popitem(last=False)

    def _offer(self, order: Order) -> str | None:
        if order.session is None:
            return None
        found = self._offers.get((order.account, order.session))
        if found is None:
            return None
        offer, until_ms = found
        return offer if self._clock.now_ms() < until_ms else None

    def __len__(self) -> int:
        """Sessions remembered."""
        return len(self._offers)
