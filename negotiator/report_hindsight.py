"""Regret: what was paid above the optimum as it looked beforehand, split by what was not known then.

The served orders are solved again with more and more of what turned out, one thing at a time and in this order:
quotes (expected by billed), quality (estimates by what feedback said), capacity (sellers less the time they were out),
and last the online decision itself by the optimum. Each part is the change in cost that its replacement makes, order
by order, so the parts sum to the regret, in whole and for any group of orders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from .errors import InputInvalid
from .report import LoggedMarket, LoggedOrder
from .report_book import LogBook

__all__ = ["PARTS", "Hindsight", "hindsight"]

PARTS: Final = ("quotes", "quality", "capacity", "decisions")

SOLVED_AT_MOST: Final = 50_000
"""Orders that are solved again: the latest of a longer log."""

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Hindsight:
    """Costs of the served orders, nano-dollars, int64[n] each, in the order of ``orders``.

    beforehand: the optimum as believed beforehand. paid: what was posted. parts: by name, they sum to paid less
    beforehand. gap: of the last optimum, proven. could_serve: refused orders that the optimum has room for as well.
    """

    orders: Sequence[LoggedOrder]
    beforehand: Ints
    paid: Ints
    parts: Mapping[str, Ints]
    gap: float
    could_serve: int

    @property
    def beforehand_nusd(self) -> int:
        """The optimum as it looked beforehand."""
        return int(self.beforehand.sum())

    @property
    def paid_nusd(self) -> int:
        """What was posted."""
        return int(self.paid.sum())

    @property
    def parts_nusd(self) -> dict[str, int]:
        """The parts of the regret."""
        return {name: int(part.sum()) for name, part in self.parts.items()}

    @property
    def regret_nusd(self) -> int:
        """What was paid above the optimum as it looked beforehand."""
        return self.paid_nusd - self.beforehand_nusd


def hindsight(market: LoggedMarket, *, time_limit_s: float = 20.0, seed: int = 0) -> Hindsight:
    """Solve the recorded book with more and more of what turned out. Raises InputInvalid without served orders."""
    from solver import Problem, solve

    orders = market.served[-SOLVED_AT_MOST:]
    if not orders:
        raise InputInvalid("order log: expected at least one served order, found none")
    book = LogBook(market, orders)
    limits, good = book.limits(), book.good_enough()
    steps = (
        (book.expected, book.eligible),
        (book.realised, book.eligible),
        (book.realised, good),
        (book.realised, good & book.in_service()),
    )
    costs: list[Ints] = []
    for cost, allowed in steps:
        problem = Problem(cost=cost, allowed=allowed, limits=limits)
        plan = solve(problem, time_limit_s=time_limit_s / (len(steps) + 1), seed=seed)
        costs.append(book.costs(plan.choice, cost))
    costs.append(book.billed)
    return Hindsight(
        orders=orders,
        beforehand=costs[0],
        paid=costs[-1],
        parts={name: costs[k + 1] - costs[k] for k, name in enumerate(PARTS)},
        gap=plan.gap,
        could_serve=_could_serve(market, time_limit_s / (len(steps) + 1), seed),
    )


def _could_serve(market: LoggedMarket, time_limit_s: float, seed: int) -> int:
    """Orders refused although their terms could be met, that the optimum over all orders serves."""
    from solver import Problem, solve

    orders = [order for order in market.orders if order.served or order.quoted.eligible.any()]
    orders = orders[-SOLVED_AT_MOST:]
    book = LogBook(market, orders)
    served = int(np.count_nonzero(book.award >= 0))
    if served == len(orders):
        return 0
    problem = Problem(cost=book.expected, allowed=book.eligible & book.in_service(), limits=book.limits())
    plan = solve(problem, time_limit_s=time_limit_s, seed=seed)
    return max(0, int(np.count_nonzero(plan.choice >= 0)) - served)
