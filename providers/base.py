"""The contract every seller keeps: quote and execute, with its offers and limits as data."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Protocol, runtime_checkable

from .terms import RFQ, Answer, Delta, Offer, RateLimit, Ticket

__all__ = ["Provider"]


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
