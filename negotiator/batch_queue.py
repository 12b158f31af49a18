"""A plan as queues: per offer the lines that go to it, in the order they are started."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from providers.terms import Offer

from .limits import Load
from .plan_asked import NO_LIMIT
from .planning import PlannedBatch

__all__ = ["OfferQueue", "queues_of", "unplanned"]


@dataclass(frozen=True, slots=True)
class OfferQueue:
    """Rows of a plan that go to one offer, the most valuable first, else as in the file."""

    plan: PlannedBatch
    offer: Offer
    rows: deque[int]

    def load(self, row: int) -> Load:
        """What a row's call takes of its seller's limits."""
        return self.plan.load(row)

    def latency_ms_p95(self, row: int) -> int:
        """How long a row's call may take."""
        return self.plan.latency_ms_p95(row)

    def expected_nusd(self, row: int) -> int:
        """What a row's call should cost."""
        return self.plan.cost_nusd(row)


def queues_of(plan: PlannedBatch) -> list[OfferQueue]:
    """Every offer that serves a line now; what the plan starts in a later time slot is in none."""
    queues: dict[int, OfferQueue] = {}
    for row in _by_value(plan):
        j = plan.offer(row)
        if j >= 0 and not plan.slot(row).start_ms:
            queues.setdefault(j, OfferQueue(plan, plan.offers[j], deque())).rows.append(row)
    return list(queues.values())


def unplanned(plan: PlannedBatch) -> Iterator[int]:
    """Rows that the plan does not serve."""
    return iter(np.flatnonzero(plan.plan.choice < 0).tolist())


def _by_value(plan: PlannedBatch) -> list[int]:
    value_nusd = plan.book.value_nusd
    worth = np.where(value_nusd == NO_LIMIT, 0, value_nusd)
    rows: list[int] = np.argsort(-worth, kind="stable").tolist()
    return rows
