"""A plan's choice for one order, with the room already taken: what paced execution hands to the engine."""

from __future__ import annotations

from dataclasses import dataclass

from .capacity import Capacity
from .execution import Slot
from .limits import Lack, Load
from .order import Candidate

__all__ = ["Grant", "GrantedRoom"]


@dataclass(frozen=True, slots=True)
class Grant:
    """The offer an order was planned for, and the slot taken at its seller."""

    provider: str
    model: str
    tier: str
    slot: Slot

    def covers(self, candidate: Candidate) -> bool:
        """Whether this candidate is the planned offer."""
        quote = candidate.quote
        return (quote.provider, quote.model, quote.tier) == (self.provider, self.model, self.tier)

    def over(self, capacity: Capacity) -> GrantedRoom:
        """Capacity as this order sees it: the planned offer has room, for it is taken already."""
        return GrantedRoom(self, capacity)


class GrantedRoom:
    """Capacity with one seller's model known to have room."""

    def __init__(self, grant: Grant, capacity: Capacity) -> None:
        self._grant = grant
        self._capacity = capacity

    def lacks(self, provider: str, model: str, load: Load, *, retry: bool = False) -> Lack | None:
        """What keeps a call from its seller now, None = it fits."""
        if (provider, model) == (self._grant.provider, self._grant.model):
            return None
        return self._capacity.lacks(provider, model, load, retry=retry)

    def may_probe(self, provider: str, model: str) -> bool:
        """Whether a seller that is out may be tried now."""
        return self._capacity.may_probe(provider, model)

    def retry_after_ms(self, provider: str, model: str, load: Load) -> int | None:
        """When the call may fit, None = never."""
        return self._capacity.retry_after_ms(provider, model, load)
