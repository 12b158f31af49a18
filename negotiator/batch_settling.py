"""The end of a line that was with a vendor's batch endpoint: settled by its usage, or back in the market."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import orjson

from providers.batch import BATCH_TIER, batches_of
from providers.errors import ProviderError
from providers.terms import Delta, Usage, price_nusd
from providers.tokens import count_text

from .batch_parcel import Parcel, ParcelLine
from .engine_book import Job, ask
from .engine_delivery import Delivery, longest_ms
from .errors import HoldResolved, Reject, RejectCode, Rejected, StoreError
from .events import Event
from .order import Assignment, Attempt, Candidate, Completion, HoldState, Order
from .order_log import used_kept
from .record import completion_kept
from .store import Note

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ["Returns", "give_back", "settle"]


@dataclass(frozen=True, slots=True)
class Returns:
    """Whom a line's end is told: its order read again, its answer, or why it has none yet.

    found: the answer that was paid under a line's ids, by account and line, None = there is none; counts their costs.
    """

    order: Callable[[str], Awaitable[Order]]
    found: Callable[[str, str], Awaitable[Completion | None]]
    serve: Callable[[str, Completion], None]
    fail: Callable[[str, Reject], None]


async def settle(engine: Engine, parcel: Parcel, line: ParcelLine, delta: Delta) -> Completion:
    """Post what a line's answer cost: the quoted rates, never above the ceiling; what the vendor bills above is the house's.

    Done again after a crash it changes nothing: what the ledger posted counts.
    """
    rooms = engine.rooms
    usage = delta.usage or Usage(
        line.input_tokens, count_text(str(delta.delta.get("content") or "")), estimated=True
    )
    rated_nusd = price_nusd(line.rates, usage)
    charged_nusd = delta.billed_nusd or rated_nusd
    buyer_nusd = min(rated_nusd, charged_nusd, line.ceiling_nusd)
    done = _completion(parcel, line, delta, usage, buyer_nusd, rooms.clock.now_ms() - parcel.began_ms)
    history = {**line.history, "state": "SETTLED", "attempts": [asdict(one) for one in done.attempts]}
    history |= {"billed_nusd": buyer_nusd, "house_nusd": charged_nusd - buyer_nusd}
    note = Note(response=orjson.dumps(completion_kept(done)), history=orjson.dumps(history))
    settlement = await rooms.ledger.settle_found(
        line.reservation, buyer_nusd, house_nusd=charged_nusd - buyer_nusd, note=note
    )
    if settlement.already:
        return replace(done, cost_nusd=settlement.posted_nusd)
    if not usage.estimated:
        rooms.quality.learn_length(
            f"{parcel.provider}/{parcel.model}",
            line.task,
            usage.output_tokens,
            cut=delta.finish_reason == "length",
        )
    now_ms = rooms.clock.now_ms()
    rooms.bus.emit(Event("order.recorded", now_ms, history | {"used": used_kept(usage)}))
    rooms.bus.emit(Event("order.settled", now_ms, _facts(line, done, settlement.released_nusd, history)))
    return done


async def give_back(
    engine: Engine, parcel: Parcel, line: ParcelLine, error: ProviderError, returns: Returns, *, over: bool
) -> None:
    """A line that its vendor did not answer: bought elsewhere under the same hold and id, else refused for now.

    over: nobody wants it any more. Of a hold that is over what it came to counts, and nothing is bought under it.
    """
    rooms = engine.rooms
    held = await rooms.ledger.find(line.reservation_id)
    open_still = held is not None and held.state in (HoldState.PENDING, HoldState.IN_DOUBT)
    if held is None or not open_still or held.expires_ms <= rooms.clock.now_ms():
        await _resolved(engine, parcel, line, error, returns)
        return
    order = replace(await returns.order(line.custom_id), order_id=line.order_id, keep_answer=True)
    left_ms = None if parcel.deadline_ms is None else parcel.due_ms - rooms.clock.now_ms()
    late = left_ms is not None and left_ms <= 0
    if over or late or not error.retryable:
        await rooms.ledger.void_found(line.reservation)
        returns.fail(line.custom_id, _unanswered(parcel, error, late=late))
        return
    job = Job(replace(order, deadline_ms=left_ms), rooms.clock.now_ms())
    book = await ask(rooms, job)
    fits = [c for c in book.eligible if c.ceiling_nusd <= line.hold_nusd and not _by_batch(engine, c)]
    choice = rooms.clearing.choose(job.order, fits, rooms.capacity) if fits else None
    if not isinstance(choice, Assignment):
        await rooms.ledger.void_found(line.reservation)
        why = choice.message if choice is not None else f"nobody else is within {line.hold_nusd} n$ held"
        returns.fail(line.custom_id, _unanswered(parcel, error, why))
        return
    job.assignment = replace(choice, hold_nusd=line.hold_nusd)
    rooms.ledger.take_back(line.reservation)
    try:
        await rooms.ledger.begin(line.reservation, longest_ms(rooms, job.order, job.assignment))
    except HoldResolved:  # its time ended between two looks
        await rooms.ledger.void(line.reservation)
        await _resolved(engine, parcel, line, error, returns)
        return
    except StoreError as away:
        await rooms.ledger.void(line.reservation)
        returns.fail(line.custom_id, _unanswered(parcel, error, str(away)))
        return
    held = replace(line.reservation, state=HoldState.IN_DOUBT)
    try:
        done, _ = await Delivery(rooms, job, job.assignment, held).whole()
    except Rejected as refused:
        returns.fail(line.custom_id, refused.reject)
    else:
        returns.serve(line.custom_id, done)


async def _resolved(
    engine: Engine, parcel: Parcel, line: ParcelLine, error: ProviderError, returns: Returns
) -> None:
    """A line whose hold is over: an answer that was bought under it is the line's, else what it posted is in doubt."""
    await engine.rooms.ledger.void_found(
        line.reservation
    )  # overdue it lapses now; what resolved stays as it is
    done = await returns.found(line.account, line.custom_id)
    if done is not None:
        returns.serve(line.custom_id, done)
    else:
        returns.fail(line.custom_id, _unanswered(parcel, error, "its hold is over"))


def _by_batch(engine: Engine, candidate: Candidate) -> bool:
    """Whether it would be handed in as a batch again."""
    quote = candidate.quote
    return quote.tier == BATCH_TIER and batches_of(engine.rooms.sellers[quote.provider]) is not None


def _unanswered(parcel: Parcel, error: ProviderError, why: str = "", *, late: bool = False) -> Reject:
    message = f"{parcel.provider}/{parcel.model}: {error.detail}" + (f"; {why}" if why else "")
    return Reject(code=RejectCode.DEADLINE_PASSED if late else RejectCode.PROVIDERS_FAILED, message=message)


def _completion(
    parcel: Parcel, line: ParcelLine, delta: Delta, usage: Usage, cost_nusd: int, latency_ms: int
) -> Completion:
    attempt = Attempt(
        number=1,
        provider=parcel.provider,
        model=parcel.model,
        tier=BATCH_TIER,
        quote_id=line.quote_id,
        outcome="ok",
        billed_nusd=cost_nusd,
        latency_ms=latency_ms,
    )
    return Completion(
        order_id=line.order_id,
        quote_id=line.quote_id,
        provider=parcel.provider,
        model=parcel.model,
        tier=BATCH_TIER,
        message=delta.delta,
        finish_reason=delta.finish_reason or "stop",
        usage=usage,
        expected_nusd=line.expected_nusd,
        ceiling_nusd=line.ceiling_nusd,
        cost_nusd=cost_nusd,
        saved_nusd=max(0, line.dearest_nusd - cost_nusd),
        quality=line.quality,
        latency_ms=latency_ms,
        ttft_ms=latency_ms,
        attempts=(attempt,),
    )


def _facts(line: ParcelLine, done: Completion, released_nusd: int, history: dict[str, Any]) -> dict[str, Any]:
    return {
        "order_id": line.order_id,
        "account": line.account,
        "task": line.task,
        "state": "SETTLED",
        "provider": done.provider,
        "model": done.model,
        "tier": done.tier,
        "expected_nusd": done.expected_nusd,
        "posted_nusd": done.cost_nusd,
        "released_nusd": released_nusd,
        "house_nusd": history["house_nusd"],
        "saved_nusd": done.saved_nusd,
        "latency_ms": done.latency_ms,
        "ttft_ms": done.ttft_ms,
        "attempts": 1,
        "reject": None,
    }
