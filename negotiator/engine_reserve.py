"""Orders whose buyer calls the model itself: the house holds the money and settles by the usage it is told."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import orjson

from providers.terms import Rates, Usage, price_nusd

from .engine_delivery import Delivery
from .engine_rooms import Rooms
from .errors import InputInvalid
from .events import Event
from .order import Candidate, Reservation, Settlement
from .order_log import used_kept
from .store import Note

__all__ = ["hand_over", "resolve"]


async def hand_over(rooms: Rooms, delivery: Delivery) -> tuple[Reservation, Candidate]:
    """Leave an order that was let in to its buyer: its hold, and the award whose rates will count."""
    job, reservation = delivery.job, delivery.reservation
    assert job.assignment is not None, "an order that was let in has an assignment"
    rooms.ledger.hand_over(reservation)
    award = job.assignment.award
    handed = {
        "rates": asdict(award.quote.rates),
        "ceiling_nusd": award.ceiling_nusd,
        "expected_nusd": award.expected_nusd,
        "offer": [award.quote.provider, award.quote.model, award.quote.tier],
    }
    history = job.history() | {"handed": handed}
    await rooms.ledger.annotate(
        reservation.account, reservation.order_id, Note(history=orjson.dumps(history))
    )
    return reservation, award


async def resolve(rooms: Rooms, reservation: Reservation, usage: Usage | None) -> Settlement:
    """Settle by usage, or (None) void. One that had resolved answers which way.

    Raises InputInvalid for the hold of an order that the house itself executes.
    """
    record = await rooms.ledger.record(reservation.account, reservation.order_id)
    history: dict[str, Any] = orjson.loads(record.history) if record is not None and record.history else {}
    if record is None or record.reservation_id != reservation.reservation_id:
        return await rooms.ledger.void_found(reservation)  # long resolved, its order id reused: say which way
    handed = history.get("handed")
    if handed is None:
        raise InputInvalid(
            "reservation_id: expected one made with execute false, found one the house executes"
        )
    if usage is None:
        settlement = await rooms.ledger.void_found(reservation)
    else:
        billed_nusd = min(price_nusd(Rates(**handed["rates"]), usage), handed["ceiling_nusd"])
        settlement = await rooms.ledger.settle_found(reservation, billed_nusd)
    if not settlement.already:
        await _written(rooms, history, handed, settlement, usage)
    return settlement


async def _written(
    rooms: Rooms,
    history: dict[str, Any],
    handed: dict[str, Any],
    settlement: Settlement,
    usage: Usage | None,
) -> None:
    posted_nusd = settlement.posted_nusd
    history |= {"state": "SETTLED" if posted_nusd else "CANCELLED", "billed_nusd": posted_nusd}
    await rooms.ledger.annotate(settlement.account, settlement.order_id, Note(history=orjson.dumps(history)))
    used = {} if usage is None else {"used": used_kept(usage)}
    rooms.bus.emit(Event("order.recorded", rooms.clock.now_ms(), history | used))
    provider, model, tier = handed["offer"]
    facts = {
        "order_id": settlement.order_id,
        "account": settlement.account,
        "task": history["task"],
        "state": history["state"],
        "provider": provider if posted_nusd else None,
        "model": model if posted_nusd else None,
        "tier": tier if posted_nusd else None,
        "expected_nusd": handed["expected_nusd"],
        "posted_nusd": posted_nusd,
        "released_nusd": settlement.released_nusd,
        "house_nusd": settlement.house_nusd,
        "saved_nusd": 0,
        "latency_ms": 0,
        "ttft_ms": 0,
        "attempts": 0,
        "reject": None,
    }
    rooms.bus.emit(Event("order.settled", rooms.clock.now_ms(), facts))
