"""The contract every seller keeps: quote and execute, with its offers and limits as data.

Also what a seller is made from: its settings, as plain data from any configuration. Secrets are named, never held.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

from .clock import Clock
from .terms import RFQ, Answer, Delta, Offer, RateLimit, Rates, Ticket

__all__ = [
    "QUOTE_TTL_MS",
    "ModelSettings",
    "PricesAhead",
    "PricingSettings",
    "Provider",
    "ProviderFactory",
    "ProviderSettings",
]

QUOTE_TTL_MS: Final = 30_000
"""How long a quote holds unless told otherwise."""


@runtime_checkable
class Provider(Protocol):
    """A seller: one account at one vendor, or anyone who speaks the quote protocol.

    ``quote`` answers at once (a local seller composes the quote itself) or gives an awaitable (a remote one);
    the desk takes either, and what comes late is absent. It raises nothing: a no is a :class:`Decline`.
    ``execute`` streams the answer for a ticket and raises :class:`providers.errors.ProviderError` only.
    """

    @property
    def name(self) -> str:
        """The provider's name in ``provider/model``."""
        ...

    @property
    def limits(self) -> Sequence[RateLimit]:
        """The account's rate limits, as data."""
        ...

    def offers(self) -> Sequence[Offer]:
        """What it sells now, at what rates; empty for a seller that prices each request on its own."""
        ...

    def quote(self, rfq: RFQ) -> Answer | Awaitable[Answer]:
        """Quotes and declines for a request."""
        ...

    def execute(self, ticket: Ticket) -> AsyncIterator[Delta]:
        """The answer, piece by piece; closing the iterator cancels the call at the seller."""
        ...

    async def aclose(self) -> None:
        """Give back connections and files."""
        ...


@runtime_checkable
class PricesAhead(Protocol):
    """A seller whose prices of hours to come are known."""

    def offers_at(self, at_ms: int) -> Sequence[Offer]:
        """What it sells at an instant; an offer's ``valid_for_ms`` counts from then."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """One model to sell. ``rates``: the operator's own prices, None = the vendor's price card has them.

    context_tokens, max_output_tokens: None = as known of the model.
    """

    name: str
    rates: Rates | None = None
    context_tokens: int | None = None
    max_output_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PricingSettings:
    """How a self-hosted seller prices idle capacity: down to ``reserve_share`` of its rates when fully idle.

    metrics_url: where it reads how busy it is, None = from its own calls in flight.
    """

    reserve_share: float = 0.3
    metrics_url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderSettings:
    """What one seller is made from.

    kind: a name of :mod:`providers.registry`. name: in ``provider/model``, empty = the kind. api_key_env: the
    variables that hold its keys, read when the first call needs one. models: empty = those known of the vendor.
    """

    kind: str
    name: str = ""
    base_url: str | None = None
    api_key_env: tuple[str, ...] = ()
    limits: tuple[RateLimit, ...] = ()
    tiers: tuple[str, ...] = ("standard",)
    tags: frozenset[str] = frozenset()
    models: tuple[ModelSettings, ...] = ()
    pricing: PricingSettings | None = None
    quote_ttl_ms: int = QUOTE_TTL_MS
    seed: int = 0

    @property
    def label(self) -> str:
        """The name in ``provider/model``: as given, else the kind."""
        return self.name or self.kind


ProviderFactory = Callable[[ProviderSettings, Clock], Provider]
"""Makes a seller from its settings; must not touch the network."""
