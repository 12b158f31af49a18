"""Recorded orders once more through the rooms of another market, in virtual time and on stand-ins for its sellers.

Orders come when they came then, with the terms they had and the quality that was believed of each model then. What a
log does not hold is taken as it was believed: how long an answer of a model would be that was never asked.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast

import numpy as np

from providers.base import Provider, ProviderSettings
from providers.clock import Clock, LoopClock
from providers.simulated import SIMULATED
from providers.simulated.stand_in import stand_in
from providers.terms import RateLimit

from .config import Config, StoreConfig, TelemetryConfig
from .counter_offers import with_terms
from .engine import Engine
from .engine_rooms import seller_settings
from .errors import ConfigInvalid, RejectCode, Rejected
from .limits import LimitRow
from .order import Order
from .quality import Estimate, Quality
from .store import DEFAULT_ACCOUNT, Account

__all__ = ["Played", "RecordedOrder", "play"]

P95_FACTOR: Final = 3
LONG_MS: Final = 3_600_000
REPRICE_MS: Final = 10_000
"""How often prices are made anew in a replay of more than an hour: half-minute-old prices decide nearly as well."""


MAX_TRIES: Final = 500
WAIT_MS: Final = 20_000
"""A line of a batch asks for room again after this at the soonest, and so often at most."""

_NO_ROOM: Final = frozenset({RejectCode.CAPACITY_EXHAUSTED, RejectCode.PRICED_OUT, RejectCode.FUNDS_HELD})


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedOrder:
    """An order of a log as it can come again.

    order: without words, sized; its id is its number. quality, output_tokens: by model, as believed then. ratio: the
    answer's length over what was expected of who gave it, 1 = nobody did. patient: a line of a batch, which waits for
    room. served, cost_nusd, mean_quality, model: what
    came of it then.
    """

    at_ms: int
    order: Order
    quality: Mapping[str, float]
    output_tokens: Mapping[str, int]
    ratio: float
    patient: bool
    served: bool
    cost_nusd: int
    mean_quality: float
    model: str
    reject: str | None


@dataclass(slots=True)
class Played:
    """What came of the orders in one market, by number: cost, quality and ``provider/model`` of the served."""

    cost_nusd: dict[int, int] = field(default_factory=dict)
    quality: dict[int, float] = field(default_factory=dict)
    model: dict[int, str] = field(default_factory=dict)
    rejects: dict[int, str] = field(default_factory=dict)
    latency_ms: dict[int, int] = field(default_factory=dict)

    @property
    def codes(self) -> Counter[str]:
        """Refusals by code."""
        return Counter(self.rejects.values())


class _RecordedQuality:
    """The quality room as it was: what was believed of each recorded order, and today's belief where nothing was."""

    reads = True

    def __init__(self, orders: Sequence[RecordedOrder], today: Quality) -> None:
        self._orders, self._today = orders, today

    def estimate(self, text: str, models: Sequence[str], *, task: str | None = None) -> Estimate:
        base = self._today.estimate("", models, task=task)
        if not text:
            return base
        recorded = self._orders[int(text)]
        mean, tokens, p95 = base.mean.copy(), base.output_tokens.copy(), base.output_tokens_p95.copy()
        for j, model in enumerate(models):
            if model in recorded.quality:
                mean[j] = recorded.quality[model]
                tokens[j] = recorded.output_tokens[model]
                p95[j] = P95_FACTOR * tokens[j]
        return Estimate(mean, base.sd, tokens, p95, base.observations)

    def learn(self, *args: Any, **more: Any) -> None:
        """Nothing: what was believed later is in the later orders."""

    learn_length = learn


class _ReplayedMarket(Engine):
    """A market whose quality room remembers."""

    def __init__(self, config: Config, orders: Sequence[RecordedOrder], **given: Any) -> None:
        super().__init__(config, **given)
        self._recorded = orders

    async def __aenter__(self) -> _ReplayedMarket:
        await super().__aenter__()
        remembered = cast(Quality, _RecordedQuality(self._recorded, self.rooms.quality))
        self._rooms = replace(self.rooms, quality=remembered)
        return self


async def play(
    orders: Sequence[RecordedOrder],
    config: Config,
    *,
    limits: Sequence[LimitRow] | None = None,
    terms: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> Played:
    """Let the orders come again; runs in a virtual loop. Raises ConfigInvalid for sellers that cannot be played.

    limits: the sellers' instead of the configuration's, None = as configured. terms: changes to every order's.
    """
    start_ms = orders[0].at_ms
    clock = LoopClock(start_ms)
    clock.now_ms()
    lengths = _lengths(orders)
    sellers = [_seller(settings, limits, clock, lengths, seed) for settings in _settings(config)]
    market = _ReplayedMarket(
        _plain(config, orders[-1].at_ms - start_ms), orders, clock=clock, sellers=sellers, seed=seed
    )
    played, running = Played(), set[asyncio.Task[None]]()
    async with market:
        await _open_accounts(market, orders)
        for number, recorded in enumerate(orders):
            await asyncio.sleep(max(0, recorded.at_ms - clock.now_ms()) / 1000)
            order = with_terms(recorded.order, dict(terms)) if terms else recorded.order
            task = asyncio.ensure_future(_buy(market, number, order, played, patient=recorded.patient))
            running.add(task)
            task.add_done_callback(running.discard)
            progress(number + 1)
        await asyncio.gather(*running)
    return played


async def _buy(market: Engine, number: int, order: Order, played: Played, *, patient: bool) -> None:
    """Buy, and note what came of it; a line of a batch comes again where it was refused for want of room."""
    for left in range(MAX_TRIES if patient else 1, 0, -1):
        try:
            done = await market.buy(order)
        except Rejected as refused:
            reject = refused.reject
            if left > 1 and reject.code in _NO_ROOM:
                await asyncio.sleep(max(WAIT_MS, reject.retry_after_ms or 0) / 1000)
                continue
            played.rejects[number] = reject.code.name
            return
        played.cost_nusd[number] = done.cost_nusd
        played.quality[number] = done.quality.mean
        played.model[number] = f"{done.provider}/{done.model}"
        played.latency_ms[number] = done.latency_ms
        return


async def _open_accounts(market: Engine, orders: Sequence[RecordedOrder]) -> None:
    """Accounts that orders name and the configuration does not are made, without a budget."""
    known = {DEFAULT_ACCOUNT, *(account.id for account in market.config.accounts)}
    for name in sorted({recorded.order.account for recorded in orders} - known):
        await market.rooms.store.put_account(Account(account_id=name, parent=None))


def _plain(config: Config, span_ms: int) -> Config:
    """The configuration without what a replay must not touch: store, log, collector, exploring."""
    market = config.market
    if span_ms > LONG_MS:
        market = market.model_copy(update={"reprice_ms": max(market.reprice_ms, REPRICE_MS)})
    return config.model_copy(
        update={
            "store": StoreConfig(url="embedded://"),
            "telemetry": TelemetryConfig(),
            "market": market,
            "quality": config.quality.model_copy(update={"exploration_share": 0.0, "model": None}),
        }
    )


def _settings(config: Config) -> list[ProviderSettings]:
    if not config.providers:
        return [ProviderSettings(kind="simulated", name=name) for name in SIMULATED]
    return [seller_settings(provider, config.market.quote_ttl_ms) for provider in config.providers]


def _seller(
    settings: ProviderSettings,
    rows: Sequence[LimitRow] | None,
    clock: Clock,
    length: Callable[[str, str], int],
    seed: int,
) -> Provider:
    if rows is not None:
        limits = tuple(
            RateLimit(
                row.kind, row.amount, row.per_ms, None if row.models is None else tuple(sorted(row.models))
            )
            for row in rows
            if row.provider == settings.label
        )
        settings = replace(settings, limits=limits)
    try:
        return stand_in(settings, clock, length, seed)
    except ValueError as error:
        raise ConfigInvalid(f"providers ({settings.label}): cannot be played: {error}") from None


def _lengths(orders: Sequence[RecordedOrder]) -> Callable[[str, str], int]:
    """How long an answer would be: as expected of the model, times how much longer the real one was than expected."""

    def length(prompt: str, model: str) -> int:
        recorded = orders[int(prompt)]
        expected = recorded.output_tokens.get(model)
        if expected is None:
            expected = int(np.median(list(recorded.output_tokens.values()) or [1]))
        return max(1, round(expected * recorded.ratio))

    return length
