"""Plan a batch: read requests, price every pair, solve, and say what came of it beside what others would pay.

Nothing is held or spent. Lines that are broken are reported and the others go on; what cannot be served is an answer.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from providers.batch import BATCH_TIER
from providers.terms import Offer

from .capacity import Capacity
from .clearing_batch import BatchBook, BatchOffer, BatchPlan, clear_batch
from .engine_book import Job, judged
from .errors import Reject, RejectCode
from .events import Event
from .intake import DEFAULT_ACCOUNT
from .limits import Load
from .money import format_usd
from .plan_asked import NO_LIMIT, Asked, Intake, read_asked
from .plan_baselines import Baseline, baselines
from .plan_book import PlanBook
from .plan_lines import RequestFile, read_lines
from .plan_offers import TimeSlot
from .plan_pricing import BookMaker, Pricing
from .plan_reading import Progress, ReadBatch, read_orders
from .plan_shards import Engines, on_this_machine, price_file
from .plan_slots import sold_over
from .plan_tokens import fit_guess, used_vocabularies
from .wire import PlanOptions
from .wire_out import reject_out

if TYPE_CHECKING:
    from solver.rows import Rows
    from solver.spread import Spread

    from .engine import Engine

__all__ = ["PlannedBatch", "ReadBatch", "plan_batch", "plan_requests", "read_orders"]

EXPLAINED_AT_MOST: Final = 1_000
"""Refused lines that get counter-offers; beyond, a line has its code alone."""

SAMPLE: Final = 1_000
"""Lines of a file that are looked at first: what deadlines there are, how many tokens a text of some size has."""

COUNTED_AT_MOST: Final = 50_000
"""Lines of which all tokens are counted; of a larger file many are estimated."""


@dataclass(frozen=True, slots=True, eq=False)
class PlannedBatch:
    """A batch, its plan and its proof.

    rejects: by row number, what the unserved hear. off_p99: how far an estimate of tokens is from the count, as a share,
    in 99 of 100 lines of a sample; 0 = all were counted.
    """

    options: PlanOptions
    batch: ReadBatch
    book: PlanBook
    plan: BatchPlan
    rejects: dict[int, Reject]
    baselines: dict[str, Baseline]
    off_p99: float = 0.0

    @property
    def mean_quality(self) -> float | None:
        """The mean estimated quality of the served, None = nothing is served."""
        served = np.flatnonzero(self.plan.choice >= 0)
        if not len(served):
            return None
        return float(self.book.quality[served, self.plan.choice[served]].mean(dtype=np.float64))

    @property
    def offers(self) -> tuple[Offer, ...]:
        """All offers of the plan."""
        return self.book.sold.offers

    def offer(self, row: int) -> int:
        """Which of the offers a request goes to, -1 = it is refused."""
        column = int(self.plan.choice[row])
        return int(self.book.pick[row, column]) if column >= 0 else -1

    @property
    def next_start_ms(self) -> int | None:
        """When the second of the slots that are used begins, None = every served request starts at once."""
        return min(
            (slot["start_ms"] for slot in self._slots() if slot["start_ms"] and slot["served"]), default=None
        )

    def slot(self, row: int) -> TimeSlot:
        """When a served request starts."""
        sold = self.book.sold
        return sold.slots[sold.columns[int(self.plan.choice[row])].slot]

    def cost_nusd(self, row: int) -> int:
        """The expected price of a served request."""
        return int(self.book.cost_nusd[row, self.plan.choice[row]])

    def latency_ms_p95(self, row: int) -> int:
        """How long the call of a served request may take."""
        return int(self.book.latency_ms_p95[row, self.plan.choice[row]])

    def load(self, row: int) -> Load:
        """What a served request takes of its seller's limits."""
        column, book = int(self.plan.choice[row]), self.book
        return Load(
            int(book.input_tokens[row, column]),
            int(book.output_tokens[row, column]),
            latency_ms=int(book.latency_ms_p50[row, column]),
            batch=self.offers[self.offer(row)].tier == BATCH_TIER,
        )

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
            "slots": self._slots(),
            "tokens": {
                "counted": int(self.book.counted.sum()),
                "estimated": int((~self.book.counted).sum()),
                "off_p99": self.off_p99,
            },
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

    def _slots(self) -> list[dict[str, int]]:
        """Where the horizon was cut, and how many start in each part."""
        sold = self.book.sold
        columns = np.array([column.slot for column in sold.columns], dtype=np.int64)
        served = self.plan.choice[self.plan.choice >= 0]
        count = np.bincount(columns[served], minlength=len(sold.slots)) if len(columns) else [0]
        return [
            {"start_ms": slot.start_ms, "end_ms": slot.end_ms, "served": int(n)}
            for slot, n in zip(sold.slots, count, strict=True)
        ]

    def rows(self) -> Iterator[dict[str, Any]]:
        """One row per request, in the order of the lines."""
        book, nothing = self.book, dict.fromkeys(_SERVED)
        for i, custom_id in enumerate(self.batch.ids):
            column = int(self.plan.choice[i])
            if column < 0:
                yield {"custom_id": custom_id, **nothing, "reject": reject_out(self.rejects[i])}
                continue
            offer = self.offers[self.offer(i)]
            yield {
                "custom_id": custom_id,
                "provider": offer.provider,
                "model": offer.model,
                "tier": offer.tier,
                "slot_start_ms": self.slot(i).start_ms,
                "expected_usd": format_usd(int(book.cost_nusd[i, column])),
                "ceiling_usd": format_usd(int(book.ceiling_nusd[i, column])),
                "latency_ms_p95": int(book.latency_ms_p95[i, column]),
                "quality": round(float(book.quality[i, column]), 4),
                "reject": None,
            }


_SERVED: Final = (
    "provider",
    "model",
    "tier",
    "slot_start_ms",
    "expected_usd",
    "ceiling_usd",
    "latency_ms_p95",
    "quality",
)


async def plan_requests(
    engine: Engine,
    lines: Iterable[Any],
    options: PlanOptions,
    progress: Progress | None = None,
    *,
    account: str = DEFAULT_ACCOUNT,
    apart: Executor | None = None,
    engines: Engines = on_this_machine,
) -> PlannedBatch:
    """The plan of lines in OpenAI's batch format (dicts, text, or what :mod:`plan_lines` read).

    account: of lines that name none. apart: where to solve, None = here and now. A
    :class:`~negotiator.plan_lines.RequestFile` is streamed: of its lines only numbers are kept. engines: who reads
    and prices them; the plan does not depend on it.
    """
    if not isinstance(lines, RequestFile):
        read = lines if isinstance(lines, Iterator) else read_lines(lines)
        batch = await read_orders(engine, read, progress, account=account)
        return await plan_batch(engine, batch, options, progress, apart=apart)
    sample = read_asked(lines.sample(SAMPLE), Intake(engine.config.profiles, account))
    pricing = _pricing(engine, options, account, sample, lines.lines_about(SAMPLE))
    with engines(pricing, lines.size) as makers:
        batch, maker = await price_file(engine, lines, pricing, makers, progress)
        if makers.spread is not None:
            return await _planned(engine, batch, maker, pricing, options, progress, None, makers.spread)
    return await _planned(engine, batch, maker, pricing, options, progress, apart)


async def plan_batch(
    engine: Engine,
    batch: ReadBatch,
    options: PlanOptions,
    progress: Progress | None = None,
    *,
    apart: Executor | None = None,
    elapsed_ms: int = 0,
) -> PlannedBatch:
    """The cheapest feasible plan of orders that were read, its proof, and the baselines beside it.

    elapsed_ms: how long ago the batch began, which its deadlines count from where the horizon has slots.
    """
    rooms, deadlines = engine.rooms, list[int]()
    if options.slots > 1:
        deadlines = [at - elapsed_ms async for part in batch.asked(engine) for at in part.deadlines]
    sold = sold_over(rooms, options.horizon_ms, options.slots, deadlines, len(batch), embeds=batch.embeds)
    pricing = Pricing(
        sold,
        rooms.quality,
        options.usage_quantile,
        Intake(engine.config.profiles, batch.account, batch.defaults),
        elapsed_ms=elapsed_ms,
        left_ms=batch.left_ms(rooms.clock.now_ms()),
    )
    maker = BookMaker(pricing, len(batch))
    async for part in batch.asked(engine):
        maker.add(part)
        await asyncio.sleep(0)  # a server goes on serving
    return await _planned(engine, batch, maker, pricing, options, progress, apart)


def _pricing(engine: Engine, options: PlanOptions, account: str, sample: Asked, lines: int) -> Pricing:
    """How a file is priced: slots and the estimate of tokens are learnt from a sample of it."""
    rooms = engine.rooms
    # a sample may miss the lines that ask for embeddings
    sold = sold_over(rooms, options.horizon_ms, options.slots, sample.deadlines, lines, embeds=True)
    guess = None
    if options.tokens == "auto" and lines > COUNTED_AT_MOST:
        guess = fit_guess(sample.texts, used_vocabularies(sold.offers))
    intake = Intake(engine.config.profiles, account)
    return Pricing(sold, rooms.quality, options.usage_quantile, intake, guess)


async def _planned(
    engine: Engine,
    batch: ReadBatch,
    maker: BookMaker,
    pricing: Pricing,
    options: PlanOptions,
    progress: Progress | None,
    apart: Executor | None,
    spread: Callable[[Rows], Spread] | None = None,
) -> PlannedBatch:
    book = maker.book()
    if progress is not None:
        progress("priced", len(batch))
    problem = await _problem(engine, book, options, maker.accounts)
    solve = partial(
        clear_batch,
        problem,
        objective=options.objective,
        gap=options.gap,
        time_limit_s=options.time_limit_s,
        seed=options.seed,
        spread=spread,
    )
    plan = solve() if apart is None else await asyncio.get_running_loop().run_in_executor(apart, solve)
    told = {"gap": plan.gap, "served": plan.served, "solve_s": sum(plan.seconds.values())}
    engine.rooms.bus.emit(Event("plan.solved", engine.rooms.clock.now_ms(), told))
    if progress is not None:
        progress("solved", len(batch))
    rejects = await _rejects(engine, batch, plan)
    off_p99 = max(pricing.guess.off.values()) if pricing.guess is not None else 0.0
    return PlannedBatch(options, batch, book, plan, rejects, baselines(book, problem), round(off_p99, 4))


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
    sold = book.sold
    first = [column.standard if column.standard >= 0 else column.members[0] for column in sold.columns]
    offers = [sold.offers[j] for j in first]
    return BatchBook(
        offers=[BatchOffer(offer.provider, offer.model, offer.tier) for offer in offers],
        cost=book.cost_nusd.astype(np.int64),
        allowed=book.allowed,
        input_tokens=book.input_tokens,
        output_tokens=book.output_tokens,
        latency_ms=book.latency_ms_p50,
        rows=rooms.capacity.rows,
        horizon_ms=options.horizon_ms,
        left=_queues_left(rooms.capacity, options.horizon_ms),
        slots=[(slot.start_ms, slot.end_ms) for slot in sold.slots] if len(sold.slots) > 1 else (),
        slot=[column.slot for column in sold.columns],
        account=book.account,
        accounts=names,
        available_nusd=[available.get(name) for name in names],
        parents=[numbers[parent[name]] if name in parent else -1 for name in names],
        total_budget_nusd=options.total_budget_usd,
        min_mean_quality=options.min_mean_quality,
        quality=book.quality,
        value=_values(book) if options.objective == "surplus" else None,
    )


def _queues_left(capacity: Capacity, horizon_ms: int) -> dict[str, int]:
    """What batch endpoints may be handed in a horizon beside what waits there already, by the rows' names."""
    used = capacity.enqueued()
    return {
        row.name: max(0, row.cap_over(horizon_ms) - used[row.name])
        for row in capacity.rows
        if row.name in used
    }


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
