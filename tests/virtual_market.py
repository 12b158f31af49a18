"""A market of simulated sellers in virtual time, to enter inside ``run_virtual``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from negotiator.config import Config
from negotiator.engine import Engine
from negotiator.store import Store
from providers.clock import LoopClock
from providers.simulated import Fault, Faults, default_sellers

__all__ = ["market"]


@asynccontextmanager
async def market(
    faults: Mapping[str, list[Fault]] | None = None,
    limits_scale: float = 1.0,
    store: Store | None = None,
    **config: Any,
) -> AsyncIterator[Engine]:
    """The default sellers, seed 3. faults: scripts by seller's name. config: fields of :class:`Config`."""
    clock = LoopClock()
    scripts = {name: Faults(script) for name, script in (faults or {}).items()}
    sellers = default_sellers(clock, seed=3, limits_scale=limits_scale, faults=scripts)
    async with Engine.open(Config(**config), clock=clock, sellers=sellers, store=store) as engine:
        yield engine
