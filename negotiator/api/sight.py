"""How a market stands, for its metrics: holds, prices, who is well, what caches were expected to give and gave."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from ..engine_rooms import Rooms
from ..telemetry import Sight, Telemetry

__all__ = ["look_for_ever", "look_through", "made_for"]

LOOK_EVERY_S: Final = 2.0
"""A worker's gauges are as old as this at most when another worker is scraped."""


def look_through(rooms: Rooms) -> Sight:
    """What there is to see now."""
    ledger, prices = rooms.ledger, rooms.clearing.prices
    up: dict[tuple[str, str], bool] = {}
    cached: dict[tuple[str, str], tuple[int, int]] = {}
    for name, seller in rooms.sellers.items():
        for offer in seller.offers():
            up[name, offer.model] = rooms.capacity.state(name, offer.model) == "up"
        scores: Mapping[str, Any] = getattr(seller, "cache_scores", dict)()
        cached |= {(name, model): (one.expected_tokens, one.read_tokens) for model, one in scores.items()}
    return Sight(
        holds=ledger.unresolved,
        oldest_hold_s=ledger.oldest_ms / 1000,
        settlements_waiting=ledger.deferred,
        prices_made_s=None if prices is None else prices.made_ms / 1000,
        up=up,
        cached=cached,
    )


def made_for(rooms: Rooms, together: str | None) -> Telemetry:
    """Metrics that look through these rooms."""
    return Telemetry(together, partial(look_through, rooms))


async def look_for_ever(telemetry: Telemetry) -> None:
    """Look every few seconds, until cancelled."""
    while True:
        telemetry.look()
        await asyncio.sleep(LOOK_EVERY_S)
