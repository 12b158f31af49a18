"""What one run of a batch came to."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from .money import format_usd
from .plan_lines import LineFault
from .planning import PlannedBatch

__all__ = ["RunReport"]


@dataclass(slots=True)
class RunReport:
    """How far a run is: lines by what became of them, and money in nano-dollars.

    in_doubt: lines that were in flight when an earlier run died; they run again, and their first holds, in_doubt_nusd
    together, count until the sellers' usage is known.
    expected_nusd: what was planned for the served. replayed: found paid in the ledger, written without paying again.
    failovers: answers that a runner-up gave. cached_tokens: input that sellers read from their prompt caches.
    """

    requests: int = 0
    served: int = 0
    refused: int = 0
    replayed: int = 0
    skipped: int = 0
    in_doubt: int = 0
    in_doubt_nusd: int = 0
    cost_nusd: int = 0
    expected_nusd: int = 0
    rounds: int = 0
    failovers: int = 0
    cached_tokens: int = 0
    latency_ms: list[int] = field(default_factory=list)
    rejects: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    errors: list[LineFault] = field(default_factory=list)
    first_plan: PlannedBatch | None = None

    @property
    def finished(self) -> int:
        """Lines that need nothing more."""
        return self.served + self.refused + self.skipped

    def out(self) -> dict[str, Any]:
        """As plain values; ``plan`` is the first round's summary."""
        return {
            "requests": self.requests,
            "served": self.served,
            "refused": self.refused,
            "replayed": self.replayed,
            "skipped": self.skipped,
            "in_doubt": self.in_doubt,
            "in_doubt_usd": format_usd(self.in_doubt_nusd),
            "cost_usd": format_usd(self.cost_nusd),
            "expected_usd": format_usd(self.expected_nusd),
            "rounds": self.rounds,
            "failovers": self.failovers,
            "cached_tokens": self.cached_tokens,
            "rejects": dict(sorted(self.rejects.items())),
            "models": dict(self.models.most_common()),
            "errors": [{"line": fault.number, "message": fault.message} for fault in self.errors],
            "plan": self.first_plan.summary() if self.first_plan is not None else None,
        }
