"""Room 4, clearing, the batch half: many orders at once, every limit a row, solved with a proof.

Pure: arrays in, arrays out, nothing is held or spent. An unserved request becomes a coded reject, a dual price becomes
a limit's shadow price.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from .clearing_book import ACCOUNT, MEAN_QUALITY, TOTAL_BUDGET, BatchBook, BatchOffer, problem_of
from .errors import Reject, RejectCode
from .limits import UNITS_PER_PRICE, ShadowPrices, per_unit_usd

if TYPE_CHECKING:
    from solver import Plan, Prices, Problem
    from solver.rows import Rows
    from solver.spread import Spread

__all__ = ["BatchBook", "BatchLimit", "BatchOffer", "BatchPlan", "clear_batch", "problem_of"]


@dataclass(frozen=True, slots=True)
class BatchLimit:
    """A limit and what the plan uses of it, in the row's unit (busy milliseconds for concurrency, nano-dollars for
    budgets). nusd_per_million: what a million more units would save."""

    name: str
    cap: float
    used: float
    nusd_per_million: int

    @property
    def shadow_price_usd(self) -> str:
        """What one more unit would save, US dollars as a decimal string."""
        return per_unit_usd(self.nusd_per_million)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class BatchPlan:
    """What the solver made of a batch.

    choice: int32[n], the offer of each request, -1 = unserved. code: int16[n], the reject's code; 0 = served, or no
    offer met the request's own terms (whoever judged the terms knows why). row: int32[n], the limit that kept an
    unserved request out as an index into ``limits``, -1 = none. prices: warm start for a similar batch.
    """

    choice: npt.NDArray[np.int32]
    code: npt.NDArray[np.int16]
    row: npt.NDArray[np.int32]
    limits: tuple[BatchLimit, ...]
    served: int
    served_bound: int
    cost_nusd: int
    cost_bound_nusd: int
    gap: float
    termination: str
    prices: Prices
    seconds: Mapping[str, float] = field(default_factory=dict)

    def reject(self, request: int) -> Reject | None:
        """Why a request is not served, None where it is or where no offer met its own terms."""
        if not self.code[request]:
            return None
        code = RejectCode(int(self.code[request]))
        if self.row[request] < 0:
            return Reject(code=code, message=_PLAIN[code])
        limit = self.limits[self.row[request]]
        facts = {
            "limit": limit.name,
            "cap": limit.cap,
            "used": limit.used,
            "shadow_price_usd": limit.shadow_price_usd,
        }
        return Reject(code=code, message=f"{_PLAIN[code]}: {limit.name} is full", facts=facts)

    def shadow_prices(self, made_ms: int) -> ShadowPrices:
        """The prices of sellers' limits, for decisions on single orders."""
        own = (TOTAL_BUDGET, MEAN_QUALITY, ACCOUNT)
        priced = {
            limit.name: limit.nusd_per_million for limit in self.limits if not limit.name.startswith(own)
        }
        return ShadowPrices(made_ms=made_ms, nusd_per_million=priced)


_PLAIN: Final = {
    RejectCode.CAPACITY_EXHAUSTED: "no room for all requests within the horizon",
    RejectCode.PRICED_OUT: "every offer costs more than the request is worth",
    RejectCode.NO_PLAN_IN_TIME: "no plan was found in time",
    RejectCode.FUNDS_INSUFFICIENT: "the account cannot pay for all requests",
    RejectCode.BUDGET_TOO_LOW: "the batch's budget does not cover all requests",
    RejectCode.QUALITY_UNREACHABLE: "the batch's mean quality does not allow it",
}


def clear_batch(
    book: BatchBook,
    *,
    objective: str = "served_then_cost",
    gap: float = 1e-4,
    time_limit_s: float = 30.0,
    warm: Prices | None = None,
    seed: int = 0,
    threads: int = 2,
    spread: Callable[[Rows], Spread] | None = None,
) -> BatchPlan:
    """The best assignment of a batch, with a proof of how far from the best it can be.

    spread: sends parts of the batch elsewhere, where the dense passes are made.

    Raises :class:`solver.InvalidProblem` when the arrays do not fit one another.
    """
    from solver import solve

    problem, names = problem_of(book)
    plan = solve(
        problem,
        gap=gap,
        time_limit_s=time_limit_s,
        objective=objective,
        warm=warm,
        seed=seed,
        threads=threads,
        spread=spread,
    )
    limits = _limits_of(problem, plan, names)
    code, row = _codes_of(book, plan, limits)
    return BatchPlan(
        choice=plan.choice,
        code=code,
        row=row,
        limits=limits,
        served=int(np.count_nonzero(plan.choice >= 0)),
        served_bound=_served_bound(book, plan),
        cost_nusd=plan.cost,
        cost_bound_nusd=int(np.ceil(plan.termination.bound - 1e-6)),  # search may prove more than prices do
        gap=plan.termination.gap,
        termination=str(plan.termination.reason),
        prices=plan.prices,
        seconds=plan.termination.seconds,
    )


def _limits_of(problem: Problem, plan: Plan, names: Sequence[str]) -> tuple[BatchLimit, ...]:
    """Every row with its use under the plan and its price."""
    served = np.flatnonzero(plan.choice >= 0)
    column = plan.choice[served]
    used: list[float] = []
    for limit in problem.limits:
        usage = limit.usage
        if isinstance(usage, np.ndarray):
            amount = (usage[served] if usage.ndim == 1 else usage[served, column]).astype(np.float64)
        else:
            amount = np.full(len(served), usage)
        if limit.models is not None:
            covers = np.zeros(problem.m, dtype=np.bool_)
            covers[np.asarray(limit.models)] = True
            amount *= covers[column]
        if limit.group is None:
            used.append(float(amount.sum()))
        else:
            groups = limit.group[served]
            inside = groups >= 0
            used += np.bincount(groups[inside], amount[inside], minlength=limit.rows).tolist()
    return tuple(
        BatchLimit(name, cap, use, round(lam * UNITS_PER_PRICE))
        for name, cap, use, lam in zip(
            names, problem.caps.tolist(), used, plan.prices.lam.tolist(), strict=True
        )
    )


def _codes_of(
    book: BatchBook, plan: Plan, limits: Sequence[BatchLimit]
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int32]]:
    from solver import Reason, StopReason

    by_row = np.array([_code_of(limit.name) for limit in limits] + [RejectCode.CAPACITY_EXHAUSTED], np.int16)
    capacity = plan.reason == Reason.CAPACITY
    code = np.where(capacity, by_row[plan.limit], np.int16(0))
    alone = np.flatnonzero((plan.reason == Reason.NO_OPTION) & np.asarray(book.allowed).any(axis=1))
    code[alone] = _codes_alone(book, alone)
    code[plan.reason == Reason.PRICED_OUT] = RejectCode.PRICED_OUT
    row = np.where(capacity, plan.limit, -1).astype(np.int32)
    if plan.termination.reason is StopReason.INFEASIBLE or (
        plan.termination.reason is StopReason.TIME_LIMIT and not np.any(plan.choice >= 0) and np.any(capacity)
    ):
        infeasible = plan.termination.reason is StopReason.INFEASIBLE
        code[capacity] = RejectCode.QUALITY_UNREACHABLE if infeasible else RejectCode.NO_PLAN_IN_TIME
        row[:] = -1
    return code.astype(np.int16), row


def _codes_alone(book: BatchBook, requests: npt.NDArray[np.intp]) -> npt.NDArray[np.int16]:
    """Why requests that meet their own terms would not even fit alone: money, mean quality, else a seller's limit."""
    allowed = np.asarray(book.allowed)[requests]
    cheapest = np.where(allowed, book.cost[requests], np.iinfo(np.int64).max).min(axis=1)
    code = np.full(len(requests), RejectCode.CAPACITY_EXHAUSTED, dtype=np.int16)
    if book.min_mean_quality is not None and book.quality is not None:
        best = np.where(allowed, np.asarray(book.quality)[requests], 0.0).max(axis=1)
        code[best < book.min_mean_quality] = RejectCode.QUALITY_UNREACHABLE
    if book.account is not None and book.accounts:
        available = np.array([np.inf if nusd is None else nusd for nusd in book.available_nusd] + [np.inf])
        parents = np.append(np.asarray(book.parents or [-1] * len(book.accounts), dtype=np.int32), -1)
        level = np.asarray(book.account)[requests]
        while np.any(level >= 0):
            code[cheapest > available[level]] = RejectCode.FUNDS_INSUFFICIENT
            level = parents[level]
    if book.total_budget_nusd is not None:
        code[cheapest > book.total_budget_nusd] = RejectCode.BUDGET_TOO_LOW
    return code


def _code_of(name: str) -> RejectCode:
    if name == TOTAL_BUDGET:
        return RejectCode.BUDGET_TOO_LOW
    if name == MEAN_QUALITY:
        return RejectCode.QUALITY_UNREACHABLE
    return RejectCode.FUNDS_INSUFFICIENT if name.startswith(ACCOUNT) else RejectCode.CAPACITY_EXHAUSTED


def _served_bound(book: BatchBook, plan: Plan) -> int:
    """Requests. An optimal plan serves as many as any; else with weights the solver bounds weight, so the plain bound is
    what has an option at all."""
    from solver import StopReason

    if plan.termination.reason is StopReason.OPTIMAL and plan.objective != "surplus" and book.weight is None:
        return int(np.count_nonzero(plan.choice >= 0))
    if book.weight is None:
        return int(plan.served_bound)
    return int(np.count_nonzero(np.asarray(book.allowed).any(axis=1)))
