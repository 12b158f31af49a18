"""The market in one process: what a program does with it.

The path of an order is :meth:`negotiator.engine_corridor.Corridor.submit`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from .acceptance import acceptable
from .engine_book import Job, ask
from .engine_corridor import Corridor
from .engine_delivery import Check
from .errors import InputInvalid, Reject, Rejected
from .events import Event
from .intake import DEFAULT_ACCOUNT, prompt_text
from .order import Book, Chunk, Completion, Order
from .record import history_out
from .wire import Terms, options_from

if TYPE_CHECKING:
    from .batch_counts import RunReport
    from .planning import PlannedBatch

__all__ = ["Engine"]


class Engine(Corridor):
    """A market in this process. ``async with Engine.open("negotiator.toml") as market: ...``

    Without a configuration it trades with simulated sellers on a ledger in memory.
    """

    async def quote(
        self, messages: str | Sequence[Mapping[str, Any]], *, terms: Terms | None = None, **body: Any
    ) -> Book:
        """What every seller would do it for, judged against the terms; nothing is held or spent."""
        order = await self.order_for({"messages": _messages(messages), **body}, terms)
        return await self.book(order)

    async def complete(
        self,
        messages: str | Sequence[Mapping[str, Any]],
        *,
        terms: Terms | None = None,
        quote_id: str | None = None,
        check: Check | None = None,
        **body: Any,
    ) -> Completion:
        """The answer, bought. Raises Rejected. ``check`` judges a cheap answer of policy ``two_tier``."""
        with acceptable(partial(self.complete, messages, check=check, **body), terms):
            order = await self.order_for({"messages": _messages(messages), **body}, terms)
            return await self.buy(order, quote_id=quote_id, check=check)

    async def stream(
        self,
        messages: str | Sequence[Mapping[str, Any]],
        *,
        terms: Terms | None = None,
        quote_id: str | None = None,
        **body: Any,
    ) -> AsyncGenerator[Chunk]:
        """The answer as it comes; the last chunk has the completion. Raises Rejected; closing it hangs up."""
        with acceptable(partial(self.stream, messages, **body), terms):
            order = await self.order_for({"messages": _messages(messages), **body}, terms, stream=True)
            delivery = await self.submit(order, quote_id=quote_id)
        if isinstance(delivery, Completion):
            yield Chunk(delta=delivery.message, finish_reason=delivery.finish_reason, completion=delivery)
            return
        async with aclosing(delivery.chunks()) as chunks:
            async for chunk in chunks:
                yield chunk
        if delivery.job.reject is not None:
            raise Rejected(delivery.job.reject)

    async def feedback(
        self, order_id: str, score: float, *, source: str = "buyer", account: str = DEFAULT_ACCOUNT
    ) -> tuple[str, str]:
        """How good an answer was, 0 to 1: teaches the quality room. Gives the provider and model it was of.

        Raises InputInvalid for an order this account was not served lately.
        """
        job = self.recent.get((account, order_id))
        if job is not None and job.completion is not None:
            done, task, text = job.completion, job.order.task, prompt_text(job.order.body)
            provider, model = done.provider, done.model
        else:
            kept = await self.history(order_id, account) or {}
            served = [one for one in kept.get("attempts", ()) if one["outcome"] == "ok"]
            if not served:
                raise _not_served(order_id)
            provider, model, task, text = served[-1]["provider"], served[-1]["model"], kept["task"], None
        self.rooms.quality.learn(f"{provider}/{model}", task, score, text=text)
        facts = {"order_id": order_id, "provider": provider, "model": model, "score": score, "source": source}
        self.rooms.bus.emit(Event("order.judged", self._clock.now_ms(), facts))
        return provider, model

    async def better(self, order_id: str, account: str = DEFAULT_ACCOUNT) -> Order:
        """An order served lately as it is escalated: for a better model, on what is left of its budget.

        That it is asked for teaches the quality room. Raises InputInvalid.
        """
        job = self.recent.get((account, order_id))
        if job is None or job.completion is None:
            raise _not_served(order_id)
        await self.feedback(order_id, 0.0, source="escalation", account=account)
        return _escalated(job.order, job.completion)

    async def escalate(self, order_id: str, account: str = DEFAULT_ACCOUNT) -> Completion:
        """Run an order again on a better model, under the same terms and what is left of its budget."""
        return await self.buy(await self.better(order_id, account))

    async def history(self, order_id: str, account: str = DEFAULT_ACCOUNT) -> dict[str, Any] | None:
        """State and history of an order of this account, None = unknown."""
        job = self.recent.get((account, order_id))
        if job is not None and job.completion is None:
            return history_out(job.history() if job.written is None else orjson.loads(job.written))
        record = await self.rooms.ledger.record(account, order_id)
        return history_out(orjson.loads(record.history)) if record is not None and record.history else None

    async def note_refused(self, order: Order, reject: Reject) -> None:
        """Tell of an order that a batch refused as of one that came alone; the order log has it with the quotes of now."""
        job = Job(order, self._clock.now_ms(), reject=reject, state="REJECTED")
        if self._log is not None:
            book = await ask(self.rooms, job)
            job.explain = self.rooms.clearing.refused(order, book.eligible, self.rooms.capacity)
        self._tell_refused(job, reject)
        self.recent.pop((order.account, order.order_id))

    async def plan(self, lines: Iterable[Any], **options: Any) -> PlannedBatch:
        """The cheapest feasible plan of a batch, with its proof; nothing is held or spent.

        lines: dicts or JSON texts in OpenAI's batch format. options: as in :class:`negotiator.wire.PlanOptions`.
        """
        from .planning import plan_requests

        return await plan_requests(self, lines, options_from(options))

    async def run(
        self,
        lines: Iterable[Any],
        out: str | Path,
        *,
        batch_id: str,
        progress: Callable[[RunReport], None] | None = None,
        **options: Any,
    ) -> RunReport:
        """Execute a batch within all limits, one result per line in the file ``out``; the same id goes on after a crash.

        lines and options: as for :meth:`plan`. progress is called after every result.
        """
        from .batch_results import ResultFile
        from .batches import BatchRun
        from .plan_lines import read_lines

        with ResultFile(out) as results:
            return await BatchRun(self, batch_id, results, options_from(options), progress).run(
                read_lines(lines)
            )


def _messages(messages: str | Sequence[Mapping[str, Any]]) -> list[Any]:
    return [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)


def _not_served(order_id: str) -> InputInvalid:
    return InputInvalid(f"order_id: expected an order served lately, found {order_id!r}")


def _escalated(order: Order, done: Completion) -> Order:
    """The order again: a better model than the one that failed, on what is left of the budget."""
    key = f"{done.provider}/{done.model}"
    floor = max(order.min_quality, min(1.0, done.quality.mean + 1e-6))
    return replace(
        order,
        order_id=f"{order.order_id}+",
        keep_answer=False,
        min_quality=floor,
        exclude=(*order.exclude, key),
        budget_nusd=_left(order.budget_nusd, done.cost_nusd),
        value_nusd=_left(order.value_nusd, done.cost_nusd),
    )


def _left(nusd: int | None, spent_nusd: int) -> int | None:
    return None if nusd is None else max(0, nusd - spent_nusd)
