"""What a new plan of the same lines does differently, and why: sellers gone or new, prices and limits that moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from providers.terms import Offer

from .limits import LimitRow
from .planning import PlannedBatch

__all__ = ["PlanFacts"]


@dataclass(frozen=True, slots=True)
class PlanFacts:
    """What is remembered of a plan: where each line was to go (None = unserved), offers sold and limits kept to."""

    lines: Mapping[str, str | None]
    offers: Mapping[str, Offer]
    limits: Mapping[str, int]

    @classmethod
    def of(cls, plan: PlannedBatch, rows: Sequence[LimitRow]) -> Self:
        """Of a plan and the sellers' limits it was made under."""
        names = [f"{offer.key}:{offer.tier}" for offer in plan.offers]
        chosen = [plan.offer(row) for row in range(len(plan.batch))]
        lines = {i: names[j] if j >= 0 else None for i, j in zip(plan.batch.ids, chosen, strict=True)}
        offers = dict(
            zip(reversed(names), reversed(plan.offers), strict=True)
        )  # of several prices, the first
        return cls(lines, offers, {row.name: row.amount for row in rows})

    def since(self, earlier: PlanFacts) -> dict[str, Any] | None:
        """What differs from an earlier plan, as plain values; None where no line was in both."""
        both = self.lines.keys() & earlier.lines.keys()
        if not both:
            return None
        sold = self.offers.keys() & earlier.offers.keys()
        limits = self.limits.keys() | earlier.limits.keys()
        return {
            "lines": len(both),
            "moved": sum(self.lines[i] != earlier.lines[i] for i in both),
            "unserved": sum(self.lines[i] is None for i in both),
            "offers_gone": sorted(earlier.offers.keys() - sold),
            "offers_new": sorted(self.offers.keys() - sold),
            "offers_repriced": sorted(n for n in sold if self.offers[n].steps != earlier.offers[n].steps),
            "limits_changed": sorted(n for n in limits if self.limits.get(n) != earlier.limits.get(n)),
        }
