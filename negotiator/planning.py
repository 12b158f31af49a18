"""Plan a batch: read requests, price every pair, solve, and say what came of it beside what others would pay.

Nothing is held or spent. Lines that are broken are reported and the others go on; what cannot be served is an answer.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from .clearing_batch import BatchBook, BatchOffer, BatchPlan, clear_batch
from .engine_book import Job, judged
from .errors import Reject, RejectCode
from .intake import DEFAULT_ACCOUNT
from .money import format_usd
from .plan_baselines import Baseline, baselines
from .plan_book import NO_LIMIT, PlanBook
from .plan_fold import fold
from .plan_lines import RequestFile, read_lines
from .plan_pricing import Pricer
from .plan_reading import Progress, ReadBatch, read_orders
from .wire import PlanOptions
from .wire_out import reject_out

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ["PlannedBatch", "ReadBatch", "plan_batch", "plan_requests", "read_orders"]

EXPLAINED_AT_MOST: Final = 1_000
"""Refused lines that get counter-offers; beyond, a line has its code alone."""


@dataclass(frozen=True, slots=True, eq=False)
class PlannedBatch:
    """A batch, its plan and its proof. rejects: by row number, what the unserved hear."""

    options: PlanOptions
    batch: ReadBatch
    book: PlanBook
    plan: BatchPlan
    rejects: dict[int, Reject]
    baselines: dict[str, Baseline]

    @property
    def mean_quality(self) -> float | None:
        """The mean estimated quality of the served, None = nothing is served."""
        served = np.flatnonzero(self.plan.choice >= 0)
        return float(self.book.quality[served, self.plan.choice[served]].mean()) if len(served) else None

    def summary(self) -> dict[str, Any]:
        """The contract's summary."""
        plan = self.plan
        refused = Counter(reject.code.name for reject in self.rejects.values())
        return {
            "requests": len(self.batch),
            "served": plan.served,
            "served_bound": plan.served_bound,
            "cost_usd": format_usd(plan.cost_nusd),
            "cost_bound_usd": format_usd(plan.cost_bound_nusd),
            "gap": plan.gap,
            "termination": plan.termination,
            "horizon_ms": self.options.horizon_ms,
            "errors": [{"line": fault.number, "message": fault.message} for fault in self.batch.faults],
            "rejects": dict(sorted(refused.items())),
            "limits": [
                {
                    "name": limit.name,
                    "cap": limit.cap,
                    "used": limit.used,
                    "shadow_price_usd": limit.shadow_price_usd,
                }
                for limit in plan.limits
            ],
            "baselines": {name: baseline.out() for name, baseline in self.baselines.items()},
        }

    def rows(self) -> Iterator[dict[str, Any]]:
        """One row per request, in the order of the lines."""
        for i, custom_id in enumerate(self.batch.ids):
            j = int(self.plan.choice[i])
            if j < 0:
                yield {
                    "custom_id": custom_id,
                    **dict.fromkeys(_SERVED),
                    "reject": reject_out(self.rejects[i]),
                }
                continue
            offer, book = self.book.offers[j], self.book
            yield {
                "custom_id": custom_id,
                "provider": offer.provider,
                "model": offer.model,
                "tier": offer.tier,
                "expected_usd": format_usd(int(book.cost_nusd[i, j])),
                "ceiling_usd": format_usd(int(book.ceiling_nusd[i, j])),
                "latency_ms_p95": int(book.latency_ms_p95[i, j]),
                "quality": round(float(book.quality[i, j]), 4),
                "reject": None,
            }


_SERVED: Final = ("provider", "model", "tier", "expected_usd", "ceiling_usd", "latency_ms_p95", "quality")


async def plan_requests(
    engine: Engine,
    lines: Iterable[Any],
    options: PlanOptions,
    progress: Progress | None = None,
    *,
    account: str = DEFAULT_ACCOUNT,
    apart: Executor | None = None,
) -> PlannedBatch:
    """The plan of lines in OpenAI's batch format (dicts, text, or what :mod:`plan_lines` read).

    account: of lines that name none. apart: where to solve, None = here and now. A
    :class:`~negotiator.plan_lines.RequestFile` is streamed: of its lines only numbers are kept.
    """
    read = lines if isinstance(lines, (Iterator, RequestFile)) else read_lines(lines)
    with _pricer(engine, read, options) as pricer:
        batch = await read_orders(engine, read, progress, account=account, seen=pricer.add)
        return await _planned(engine, batch, pricer, options, progress, apart)


async def plan_batch(
    engine: Engine,
    batch: ReadBatch,
    options: PlanOptions,
    progress: Progress | None = None,
    *,
    apart: Executor | None = None,
) -> PlannedBatch:
    """The cheapest feasible plan of orders that were read, its proof, and the baselines beside it."""
    with _pricer(engine, batch.file, options) as pricer:
        async for orders in batch.chunks(engine):
            pricer.add(orders)
            await asyncio.sleep(0)
        return await _planned(engine, batch, pricer, options, progress, apart)


def _pricer(engine: Engine, source: object, options: PlanOptions) -> Pricer:
    """Threads pay for files; a server's own requests are priced between other people's."""
    return Pricer(engine.rooms, options.usage_quantile, threaded=isinstance(source, RequestFile))


async def _planned(
    engine: Engine,
    batch: ReadBatch,
    pricer: Pricer,
    options: PlanOptions,
    progress: Progress | None,
    apart: Executor | None,
) -> PlannedBatch:
    book = pricer.book()
    if progress is not None:
        progress("priced", len(batch))
    problem = await _problem(engine, book, options, pricer.accounts)
    folded = fold(problem)
    solve = partial(
        clear_batch,
        folded.book,
        objective=options.objective,
        gap=options.gap,
        time_limit_s=options.time_limit_s,
        seed=options.seed,
    )
    plan = solve() if apart is None else await asyncio.get_running_loop().run_in_executor(apart, solve)
    plan = replace(plan, choice=folded.unfold(plan.choice))
    del folded, solve  # a gigabyte at a million lines
    if progress is not None:
        progress("solved", len(batch))
    rejects = await _rejects(engine, batch, plan)
    return PlannedBatch(options, batch, book, plan, rejects, baselines(book, problem))


async def _problem(
    engine: Engine, book: PlanBook, options: PlanOptions, numbers: dict[str, int]
) -> BatchBook:
    """The book with the limits around it: sellers' windows, accounts and all their ancestors, the batch's own."""
    rooms = engine.rooms
    available: dict[str, int | None] = {}
    parent: dict[str, str] = {}
    for account in list(numbers):
        chain = await rooms.store.balances(account, rooms.clock.now_ms())
        for balance in chain:
            name = balance.account.account_id
            numbers.setdefault(name, len(numbers))
            available[name] = balance.available_nusd
            if balance.account.parent is not None:
                parent[name] = balance.account.parent
        if not chain:
            available[account] = 0  # unknown: the ledger will refuse it, so the plan must not count on it
    names = sorted(numbers, key=numbers.__getitem__)
    return BatchBook(
        offers=[BatchOffer(offer.provider, offer.model, offer.tier) for offer in book.offers],
        cost=book.cost_nusd,
        allowed=book.allowed,
        input_tokens=book.input_tokens,
        output_tokens=book.output_tokens,
        latency_ms=book.latency_ms_p50,
        rows=rooms.capacity.rows,
        horizon_ms=options.horizon_ms,
        account=book.account,
        accounts=names,
        available_nusd=[available.get(name) for name in names],
        parents=[numbers[parent[name]] if name in parent else -1 for name in names],
        total_budget_nusd=options.total_budget_usd,
        min_mean_quality=options.min_mean_quality,
        quality=book.quality,
        value=_values(book) if options.objective == "surplus" else None,
    )


def _values(book: PlanBook) -> Any:
    """What serving each order is worth; one without value or budget is worth more than any price here."""
    dearest = int(book.cost_nusd.max(where=book.allowed, initial=1))
    return np.where(book.value_nusd == NO_LIMIT, 40 * dearest, book.value_nusd)


async def _rejects(engine: Engine, batch: ReadBatch, plan: BatchPlan) -> dict[int, Reject]:
    """What each unserved order hears; those whose own terms no offer meets get counter-offers."""
    rejects: dict[int, Reject] = {}
    told: dict[tuple[int, int], Reject | None] = {}  # the same code at the same limit is the same answer
    explained = 0
    for i in np.flatnonzero(plan.choice < 0).tolist():
        why = int(plan.code[i]), int(plan.row[i])
        if why not in told:
            told[why] = plan.reject(i)
        reject = told[why]
        if reject is None and explained < EXPLAINED_AT_MOST:
            explained += 1
            job = Job(await batch.order(engine, i), engine.rooms.clock.now_ms())
            reject = await judged(engine.rooms, job)
        rejects[i] = reject or _UNEXPLAINED
    return rejects


_UNEXPLAINED: Final = Reject(code=RejectCode.TERMS_CONFLICT, message="no offer meets all terms of this line")
