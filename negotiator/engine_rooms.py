"""The rooms of one market, built from a configuration: what the engine's corridor connects."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from providers.base import ModelSettings, PricingSettings, Provider, ProviderSettings
from providers.cached_answers import CachedAnswers
from providers.clock import Clock
from providers.dialect import ReportsWindows
from providers.terms import RateKind, RateLimit, Rates
from providers.tokens import reference_of

from .affinity import Affinity
from .capacity import Capacity
from .clearing import Clearing
from .config import Config, LimitsConfig, ModelConfig, ProviderConfig
from .desk import Desk
from .errors import ConfigInvalid
from .events import EventBus
from .ids import numbered
from .ledger import Ledger
from .market_maker_demand import DemandMeter
from .quality import Explorer, Predictor, Priors, Quality, load_priors
from .shelf import Shelf
from .store import Account, Period, Store

__all__ = ["Rooms", "build_rooms", "build_sellers", "configured_accounts", "seller_settings"]

MAX_TENANT_KEYS = 10_000
_LIMITS = (
    ("rpm", RateKind.REQUESTS),
    ("tpm", RateKind.TOKENS),
    ("input_tpm", RateKind.INPUT_TOKENS),
    ("output_tpm", RateKind.OUTPUT_TOKENS),
    ("concurrency", RateKind.CONCURRENCY),
    ("batch_tokens", RateKind.ENQUEUED_TOKENS),
    ("batch_requests", RateKind.ENQUEUED_REQUESTS),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rooms:
    """One market's rooms and what they share.

    models, vocabularies: of all offers when the market opened. reference: the vocabulary prompts are counted in. key: secret of prefix marks, new at every start.
    next_rfq_id: names the next RFQ.
    """

    config: Config
    clock: Clock
    bus: EventBus
    store: Store
    sellers: Mapping[str, Provider]
    simulated: bool
    desk: Desk
    quality: Quality
    capacity: Capacity
    clearing: Clearing
    ledger: Ledger
    affinity: Affinity
    explorer: Explorer
    meter: DemandMeter
    shelf: Shelf
    cached: CachedAnswers
    models: tuple[str, ...]
    vocabularies: tuple[str, ...]
    reference: str
    key: bytes
    next_rfq_id: Callable[[], str]
    tenant_keys: dict[str, bytes] = field(default_factory=dict)

    def tenant_key(self, account: str) -> bytes:
        """The account's own key for prefix marks: no quote tells one account what another asked."""
        known = self.tenant_keys.get(account)
        if known is None:
            if len(self.tenant_keys) >= MAX_TENANT_KEYS:
                self.tenant_keys.clear()
            known = self.tenant_keys[account] = hmac.digest(self.key, account.encode(), "sha256")
        return known


def build_rooms(
    config: Config,
    store: Store,
    sellers: Sequence[Provider],
    clock: Clock,
    *,
    worker: str,
    simulated: bool,
    shared: bool = False,
) -> Rooms:
    """Connect sellers and store into a market; touches neither network nor disk. ``shared``: limits are leased."""
    bus = EventBus()
    cached = CachedAnswers(clock)
    by_name: dict[str, Provider] = {seller.name: seller for seller in (*sellers, cached)}
    limits = {name: tuple(seller.limits) for name, seller in by_name.items()}
    market = config.market
    capacity = Capacity(limits, clock, bus.emit, rates=store if shared else None, worker=worker)
    for seller in sellers:
        if isinstance(seller, ReportsWindows):
            seller.hear(capacity.correct)
    offers = [offer for seller in sellers for offer in seller.offers()]
    vocabularies = tuple(sorted({offer.vocabulary for offer in offers}))
    return Rooms(
        config=config,
        clock=clock,
        bus=bus,
        store=store,
        sellers=by_name,
        simulated=simulated,
        desk=Desk(by_name, clock, bus.emit),
        quality=Quality(
            _priors(config),
            clock_ms=clock.now_ms,
            model=_predictor(config.quality.model),
            emit=bus.emit,
            writer=worker,
        ),
        capacity=capacity,
        clearing=Clearing(capacity.rows, clock, bus.emit, attempts=market.attempts),
        ledger=Ledger(store, clock, bus.emit, hold_ms=market.hold_ms, in_doubt_ms=market.in_doubt_ms),
        affinity=Affinity(clock),
        explorer=Explorer(config.quality.exploration_share),
        meter=DemandMeter(worker),
        shelf=Shelf(),
        cached=cached,
        models=tuple(sorted({offer.model for offer in offers})),
        vocabularies=vocabularies,
        reference=reference_of(vocabularies),
        key=secrets.token_bytes(32),
        next_rfq_id=numbered("rfq"),
    )


def build_sellers(config: Config, clock: Clock, seed: int = 0) -> tuple[Sequence[Provider], bool]:
    """The configured sellers, or the simulated ones where none are; the flag says which. Raises ConfigInvalid."""
    if not config.providers:
        from providers.simulated import default_sellers

        return default_sellers(clock, seed=seed), True
    from providers.registry import make_provider

    sellers = []
    for number, provider in enumerate(config.providers):
        try:
            sellers.append(make_provider(seller_settings(provider, config.market.quote_ttl_ms), clock))
        except ValueError as error:
            raise ConfigInvalid(f"providers.{number} ({provider.label}): {error}") from None
    return sellers, all(provider.kind == "simulated" for provider in config.providers)


def seller_settings(provider: ProviderConfig, quote_ttl_ms: int) -> ProviderSettings:
    """A ``[[providers]]`` entry as the settings its seller is made from."""
    keys = provider.api_key_env
    pricing = provider.pricing
    return ProviderSettings(
        kind=provider.kind,
        name=provider.name or "",
        base_url=provider.base_url,
        api_key_env=(keys,) if isinstance(keys, str) else tuple(keys or ()),
        limits=_rate_limits(provider.limits),
        tiers=provider.tiers,
        tags=frozenset(provider.tags),
        models=tuple(_model_settings(model) for model in provider.models),
        pricing=None
        if pricing is None
        else PricingSettings(reserve_share=pricing.reserve_share, metrics_url=pricing.metrics_url),
        quote_ttl_ms=quote_ttl_ms,
        seed=provider.seed,
    )


def configured_accounts(config: Config) -> list[Account]:
    """The configured accounts, parents before children."""
    waiting = {
        account.id: Account(
            account_id=account.id,
            parent=account.parent,
            budget_nusd=account.budget_usd,
            period=Period(account.period),
            default_budget_nusd=account.default_budget_usd,
        )
        for account in config.accounts
    }
    ordered: list[Account] = []
    while waiting:
        ready = [account for account in waiting.values() if account.parent not in waiting]
        if not ready:
            raise ConfigInvalid(
                f"accounts: expected parents without a circle, found {', '.join(sorted(waiting))}"
            )
        ordered += ready
        for account in ready:
            del waiting[account.account_id]
    return ordered


def _rate_limits(limits: LimitsConfig) -> tuple[RateLimit, ...]:
    return tuple(
        RateLimit(kind, amount) for name, kind in _LIMITS if (amount := getattr(limits, name)) is not None
    )


def _model_settings(model: ModelConfig) -> ModelSettings:
    rates = None
    if model.input_usd_per_million is not None and model.output_usd_per_million is not None:
        fresh_nusd = model.input_usd_per_million
        read_nusd = model.cache_read_usd_per_million
        write_nusd = model.cache_write_usd_per_million
        rates = Rates(
            input_nusd_per_mtok=fresh_nusd,
            output_nusd_per_mtok=model.output_usd_per_million,
            cache_read_nusd_per_mtok=fresh_nusd if read_nusd is None else read_nusd,
            cache_write_nusd_per_mtok=fresh_nusd if write_nusd is None else write_nusd,
            cache_write_1h_nusd_per_mtok=fresh_nusd if write_nusd is None else write_nusd,
        )
    return ModelSettings(name=model.name, rates=rates, context_tokens=model.context_tokens)


def _priors(config: Config) -> Priors:
    priors = load_priors(config.quality.priors)
    for provider in config.providers:
        for model in provider.models:
            if model.quality_prior is not None:
                priors = priors.replaced(model.name, model.quality_prior)
    return priors


def _predictor(path: Path | None) -> Predictor | None:
    if path is None:
        return None
    from .quality import load_model

    return load_model(path)
