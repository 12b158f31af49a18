"""Which order may be served by another model than the best bid, to learn what that one is worth.

Only offers that meet every term are proposed, only those that may be better than the award within what is known of
them, and only while all explored orders together cost at most a share of what was spent.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from negotiator.errors import InputInvalid
from negotiator.quality.estimate import Estimate, IntArray

__all__ = ["Explorer"]

REACH_SDS = 2.0
"""An offer is worth a try while its mean plus so many standard deviations is above the award's mean."""


class Explorer:
    """Proposes explorations within ``share`` of spend: 0 = never (the default of the house), 0.02 is a good start."""

    def __init__(self, share: float = 0.0) -> None:
        if not 0.0 <= share <= 1.0:
            raise InputInvalid(f"exploration_share: expected a number in [0, 1], was {share}")
        self.share = share
        self.spent_nusd = 0
        self.explored_nusd = 0

    def propose(
        self, award: int, expected_nusd: IntArray, estimate: Estimate, eligible: npt.NDArray[np.bool_]
    ) -> int:
        """The offer to serve instead of ``award``, or ``award`` itself; all arrays are over offers."""
        left_nusd = int(self.share * self.spent_nusd) - self.explored_nusd
        if left_nusd <= 0:
            return award
        hopeful = estimate.mean + REACH_SDS * estimate.sd > estimate.mean[award]
        tried = eligible & hopeful & (expected_nusd <= left_nusd)
        tried[award] = False
        if not tried.any():
            return award
        return int(np.argmax(np.where(tried, estimate.sd, -1.0)))

    def settled(self, cost_nusd: int, *, explored: bool) -> None:
        """Book what an order cost; ``explored``: it was served by a proposal instead of its award."""
        self.spent_nusd += cost_nusd
        if explored:
            self.explored_nusd += cost_nusd
