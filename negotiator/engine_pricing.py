"""Who prices scarce room for this engine: a maker inside it, a process beside it, or one for all workers of a store."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from providers.clock import LoopClock

from .engine_rooms import Rooms
from .limits import ShadowPrices
from .market_maker import LocalMarketMaker, RunIn, in_a_thread
from .market_maker_process import MarketMakerProcess
from .market_maker_shared import SharedMarketMaker, WorkerPost

__all__ = ["shared_by_workers", "upkeep"]


def shared_by_workers(url: str) -> bool:
    """Whether a store has many workers: limits are then leased, and one market maker leads."""
    return not url.startswith("embedded")


def upkeep(rooms: Rooms, *, worker: str, url: str, apart: bool) -> list[Coroutine[Any, Any, None]]:
    """What runs beside the orders, for ever: prices, and where workers share limits their leases.

    apart: the maker is a process of its own, as in a server; otherwise it lives in this one.
    """
    reprice_ms = rooms.config.market.reprice_ms
    rows, clock, emit = rooms.capacity.rows, rooms.clock, rooms.bus.emit
    ears: dict[str, Any] = {
        "meter": rooms.meter,
        "taken": rooms.capacity.taken,
        "publish": rooms.clearing.publish,
    }
    if not shared_by_workers(url):
        if apart:
            return [MarketMakerProcess(rows, clock, emit, **ears).run(reprice_ms)]
        maker = LocalMarketMaker(rows, clock, emit, run_in=_run_in(rooms), **ears)
        return [maker.run(reprice_ms)]
    tasks = [rooms.capacity.keep_leased(), WorkerPost(rooms.store, worker, clock, **ears).run(reprice_ms)]
    if apart:
        tasks.append(MarketMakerProcess(rows, clock, emit, store=url, holder=worker, **ears).run(reprice_ms))
    else:
        tasks.append(SharedMarketMaker(rooms.store, worker, rows, clock, emit).run(reprice_ms))
    return tasks


def _run_in(rooms: Rooms) -> RunIn:
    """A thread; in virtual time here and now, for that time jumps while a thread computes."""
    return _at_once if isinstance(rooms.clock, LoopClock) else in_a_thread


async def _at_once(work: Any) -> ShadowPrices | None:
    await asyncio.sleep(0)
    prices: ShadowPrices | None = work()
    return prices
