"""What the quality room learnt, kept over restarts and shared between workers; and the little that exploring may cost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import numpy as np

from .engine_rooms import Rooms
from .errors import InputInvalid, StoreUnavailable
from .events import Event
from .order import Assignment, Candidate, Order
from .quality import Estimate

__all__ = ["Learning", "explore"]

TABLE: Final = "quality"
KEY: Final = "state"
SHARE_EVERY_S: Final = 10.0


class Learning:
    """Takes up what other workers, and earlier runs, learnt; writes down what this one did.

    Every worker merges before it writes, and a merge never loses what is newer, so the order of writers is no matter.
    """

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._written = b""

    async def share(self) -> None:
        """Merge, then write if there is anything new. A store that is away is asked again later."""
        quality, store = self._rooms.quality, self._rooms.store
        try:
            kept = await store.entry(TABLE, KEY)
            if kept is not None and kept != self._written:
                quality.merge(kept)
            state = quality.state()
            if state not in (kept, self._written):
                await store.put_entry(TABLE, KEY, state)
                self._written = state
        except StoreUnavailable:
            return
        except InputInvalid as error:  # of another version: start anew rather than not at all
            facts = {"error": str(error)}
            self._rooms.bus.emit(Event("quality.forgotten", self._rooms.clock.now_ms(), facts))
            await store.put_entry(TABLE, KEY, None)

    async def run(self) -> None:
        """Do so every ten seconds, until cancelled."""
        while True:
            await asyncio.sleep(SHARE_EVERY_S)
            await self.share()


def explore(
    rooms: Rooms, order: Order, choice: Assignment, eligible: Sequence[Candidate]
) -> Candidate | None:
    """An eligible candidate worth trying instead of the award, within the share of spend set aside; mostly None."""
    if rooms.explorer.share == 0 or order.policy != "cheapest" or len(eligible) < 2:
        return None
    award = next(i for i, candidate in enumerate(eligible) if candidate is choice.award)
    estimates = [candidate.estimate for candidate in eligible]
    beliefs = Estimate(
        np.array([e.mean for e in estimates]),
        np.array([e.sd for e in estimates]),
        np.array([e.output_tokens for e in estimates]),
        np.array([e.output_tokens_p95 for e in estimates]),
        np.array([e.observations for e in estimates]),
    )
    costs = np.array([candidate.expected_nusd for candidate in eligible])
    proposed = rooms.explorer.propose(award, costs, beliefs, np.ones(len(eligible), dtype=bool))
    return None if proposed == award else eligible[proposed]
