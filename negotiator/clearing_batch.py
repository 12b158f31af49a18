"""Room 4, clearing, the batch half: many orders at once, every limit a row, solved with a proof.

Translates between the market and the solver, both ways: offers become columns, sellers' limits, accounts' budgets,
the batch's own budget and its mean quality become rows; an unserved request becomes a coded reject, a dual price
becomes a limit's shadow price. Pure: arrays in, arrays out, nothing is held or spent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from providers.terms import RateKind

from .errors import Reject, RejectCode
from .limits import UNITS_PER_PRICE, LimitRow, ShadowPrices, per_unit_usd

if TYPE_CHECKING:
    from solver import Limit, Plan, Prices, Problem

__all__ = ["BatchBook", "BatchLimit", "BatchOffer", "BatchPlan", "clear_batch", "problem_of"]

TOTAL_BUDGET: Final = "total_budget"
MEAN_QUALITY: Final = "min_mean_quality"
ACCOUNT: Final = "account:"
Numbers = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class BatchOffer:
    """A column: one model of one seller in one tier."""

    provider: str
    model: str
    tier: str = "standard"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class BatchBook:
    """A batch as arrays: n requests by m offers.

    cost: int64[n, m], expected nano-dollars. allowed: bool[n, m], the pair meets the request's own terms.
    input_tokens, output_tokens, cached_tokens, latency_ms: array[n] or array[n, m], what a call takes of limits.
    rows: sellers' limits, counted over ``horizon_ms``. account: int32[n], each request's account as an index into
    ``accounts`` (-1 = none); available_nusd: what each may still spend (None = no limit); parents: the index of each
    account's parent, -1 = root. total_budget_nusd, min_mean_quality: of the whole batch; the latter needs
    quality: float[n, m]. weight: float[n]. value: int64[n], nano-dollars.
    """

    offers: Sequence[BatchOffer]
    cost: npt.NDArray[np.int64]
    allowed: npt.NDArray[np.bool_]
    input_tokens: Numbers
    output_tokens: Numbers
    latency_ms: Numbers
    cached_tokens: Numbers | None = None
    rows: Sequence[LimitRow] = ()
    horizon_ms: int = 60_000
    account: npt.NDArray[np.int32] | None = None
    accounts: Sequence[str] = ()
    available_nusd: Sequence[int | None] = ()
    parents: Sequence[int] = ()
    total_budget_nusd: int | None = None
    min_mean_quality: float | None = None
    quality: Numbers | None = None
    weight: npt.NDArray[np.float64] | None = None
    value: npt.NDArray[np.int64] | None = None


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
) -> BatchPlan:
    """The best assignment of a batch, with a proof of how far from the best it can be.

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
        cost_bound_nusd=int(np.ceil(plan.cost_bound - 1e-6)),
        gap=plan.gap,
        termination=str(plan.termination.reason),
        prices=plan.prices,
        seconds=plan.termination.seconds,
    )


def problem_of(book: BatchBook) -> tuple[Problem, tuple[str, ...]]:
    """The batch as the solver sees it, and the name of each of its rows."""
    from solver import Problem

    limits = [*_seller_rows(book), *_batch_rows(book)]
    names = [limit.name for limit in limits]
    for limit, accounts in _account_rows(book):
        limits.append(limit)
        names += accounts
    problem = Problem(
        cost=book.cost, allowed=book.allowed, weight=book.weight, value=book.value, limits=limits
    )
    return problem, tuple(names)


def _seller_rows(book: BatchBook) -> Iterator[Limit]:
    """Rows of one kind share one usage array, which is what a pass of the solver costs."""
    from solver import Limit

    usages: dict[RateKind, Any] = {}
    for row in book.rows:
        columns = [j for j, offer in enumerate(book.offers) if row.covers(offer.provider, offer.model)]
        if not columns:
            continue
        if row.kind not in usages:
            usages[row.kind] = _usage(book, row.kind)
        yield Limit(row.name, row.cap_over(book.horizon_ms), models=columns, usage=usages[row.kind])


def _usage(book: BatchBook, kind: RateKind) -> Any:
    """What a call takes of a row of this kind over the horizon: 1, or float32[n] or float32[n, m]."""
    if kind is RateKind.REQUESTS:
        return 1.0
    if kind is RateKind.CONCURRENCY:
        return np.asarray(book.latency_ms, dtype=np.float32)
    if kind is RateKind.OUTPUT_TOKENS:
        return np.asarray(book.output_tokens, dtype=np.float32)
    if kind is RateKind.INPUT_TOKENS:
        return np.asarray(book.input_tokens, dtype=np.float32)
    if kind is RateKind.TOKENS:
        return _sum(book.input_tokens, book.output_tokens)
    assert kind is RateKind.UNCACHED_INPUT_TOKENS, kind
    if book.cached_tokens is None:
        return np.asarray(book.input_tokens, dtype=np.float32)
    return _sum(book.input_tokens, -np.asarray(book.cached_tokens))


def _sum(one: Numbers, other: Numbers) -> npt.NDArray[np.float32]:
    """float32 of both added, a per-request array spread over the offers where the other is per pair."""
    pairs = max(np.ndim(one), np.ndim(other)) == 2
    parts = [np.asarray(a, dtype=np.float32) for a in (one, other)]
    if pairs:
        parts = [a[:, None] if a.ndim == 1 else a for a in parts]
    return np.add(*parts, dtype=np.float32)


def _account_rows(book: BatchBook) -> Iterator[tuple[Limit, list[str]]]:
    """A request counts against its account and every ancestor: one grouped row per depth of the account trees."""
    from solver import Limit

    if book.account is None or not book.accounts:
        return
    known = len(book.accounts)
    parents = np.append(np.asarray(book.parents or [-1] * known, dtype=np.int32), -1)
    caps = np.array([np.inf if nusd is None else nusd for nusd in book.available_nusd], dtype=np.float64)
    depths = _depths(parents)
    level = np.asarray(book.account, dtype=np.int32)
    levels = []
    while np.any(level >= 0):
        levels.append(level)
        level = parents[level]
    for depth in range(int(depths[:known].max()) + 1):
        capped = np.flatnonzero((depths[:known] == depth) & np.isfinite(caps))
        if not len(capped):
            continue
        number = np.full(known + 1, -1, dtype=np.int32)
        number[capped] = np.arange(len(capped))
        group = np.full(len(book.account), -1, dtype=np.int32)
        for level in levels:  # at most one ancestor has this depth
            group = np.maximum(group, number[level])
        names = [ACCOUNT + book.accounts[k] for k in capped.tolist()]
        yield Limit("account", caps[capped], usage=book.cost, group=group), names


def _depths(parents: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """int32[accounts + 1]: how many ancestors each account has. ``parents`` ends with the -1 that roots lead to."""
    depths = np.zeros(len(parents), dtype=np.int32)
    above = parents.copy()
    for _ in range(len(parents)):
        if not np.any(above >= 0):
            return depths
        depths += above >= 0
        above = parents[above]
    raise AssertionError("accounts: expected trees, found a circle")


def _batch_rows(book: BatchBook) -> Iterator[Limit]:
    from solver import Limit

    if book.total_budget_nusd is not None:
        yield Limit(TOTAL_BUDGET, book.total_budget_nusd, usage=book.cost)
    if book.min_mean_quality is not None:
        assert book.quality is not None, "min_mean_quality needs quality"
        yield Limit(MEAN_QUALITY, 0.0, usage=np.float32(book.min_mean_quality) - np.asarray(book.quality))


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
    """Requests; with weights the solver bounds weight, so the plain bound is what has an option at all."""
    if book.weight is None:
        return int(plan.served_bound)
    return int(np.count_nonzero(np.asarray(book.allowed).any(axis=1)))
