"""A seller at a vendor's HTTP API: quotes from list prices and what was learnt, calls through one dialect.

Everything that touches the network is in :mod:`providers.calls`; what differs between vendors is pure and in a
:class:`providers.dialect.Dialect`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

from .batch import BATCH_TIER, BatchDriver
from .batch_http import HttpBatches
from .batch_single import deliver_one
from .calls import Calls
from .dialect import Dialect, Hear, Want
from .errors import AuthFailed
from .http_reply import HttpPoster
from .idle_pricing import QuietTimes
from .keys import KeyRing, Rest
from .latency import Latency
from .pricelist import Call, PriceList, Standing
from .terms import RFQ, Answer, Decline, DeclineCode, Delta, Offer, RateLimit, Ticket
from .tokens import FIRST_MARKS

__all__ = ["VendorSeller", "marked_messages"]


class VendorSeller:
    """A :class:`providers.base.Provider` at a vendor's HTTP API.

    standing: how it stands toward an offer now (a self-hosted seller's idleness); None = its list prices. quiet: what is
    seen of it while nobody waits. batches: the vendor's batch endpoint, None = the tier is not sold. latency: what was
    observed of its calls.
    """

    def __init__(
        self,
        name: str,
        dialect: Dialect,
        client: HttpPoster,
        keys: KeyRing,
        prices: PriceList,
        *,
        limits: Sequence[RateLimit] = (),
        standing: Callable[[Offer, RFQ], Standing] | None = None,
        quiet: QuietTimes | None = None,
        batches: HttpBatches | None = None,
    ) -> None:
        self.name = name
        self._dialect = dialect
        self._client = client
        self._keys = keys
        self._prices = prices
        self.limits: Sequence[RateLimit] = tuple(limits)
        self._standing = standing
        self._quiet = quiet
        self._calls = Calls(name, dialect, client, keys)
        self._parameters = dialect.parameters
        self._batches = batches
        self.latency = Latency()

    @property
    def batches(self) -> BatchDriver | None:
        """The vendor's batch endpoint, where the tier is sold."""
        return self._batches

    def batch_took(self, model: str, total_ms: int) -> None:
        """Learn how long a batch took, as :meth:`execute` does of each call."""
        self._observe(model, BATCH_TIER, 0, None, total_ms)

    def hear(self, listener: Hear) -> None:
        """Tell ``listener`` the rate-limit windows of every answer that reports some."""
        self._calls.hear = listener

    def offers(self) -> Sequence[Offer]:
        """What is sold now."""
        return self._prices.offers()

    def offers_at(self, at_ms: int) -> Sequence[Offer]:
        """What is sold at an instant to come, by the prices known now."""
        return self._prices.offers_at(at_ms)

    def quote(self, rfq: RFQ) -> Answer:
        """Quotes and declines for a request; a parameter the API cannot honour is a decline that names it."""
        refused = self._parameters.refuses(rfq.parameters) if rfq.parameters else None
        if refused is not None:
            return (Decline(self.name, "", DeclineCode.UNSUPPORTED, f"cannot honour {refused}"),)
        try:
            resting = self._keys.resting
        except AuthFailed as error:
            return (Decline(self.name, "", DeclineCode.AUTH, error.detail),)
        if resting:
            rest = self._keys.rest()
            if rest is not None:
                return (Decline(self.name, "", *_told(rest)),)
            return self._prices.answer(rfq, self._rested)
        if self._standing is None:
            return self._prices.answer(rfq)
        return self._prices.answer(rfq, self._standing)

    def _rested(self, offer: Offer, rfq: RFQ) -> Standing:
        """The standing toward an offer while some key rests."""
        rest = self._keys.rest(offer.model)
        if rest is not None:
            return Standing(decline=_told(rest))
        return Standing() if self._standing is None else self._standing(offer, rfq)

    def execute(self, ticket: Ticket) -> AsyncGenerator[Delta]:
        """The answer, piece by piece; the last piece has finish reason and usage (estimated where none came).

        A deadline in the ticket cuts the call off with :class:`providers.errors.ProviderTimeout`. In the batch tier it
        is a batch of one.
        """
        if self._batches is not None and ticket.quote.tier == BATCH_TIER:
            return deliver_one(self._batches, ticket)
        began, quiet = self._prices.began(ticket), self._quiet is not None and self._quiet.now

        def done(last: Delta, ttft_ms: float | None, total_ms: float) -> None:
            self._learn(began, last, ttft_ms, total_ms, quiet)

        return self._calls.run(ticket, _want(began), began.offer, done)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()
        if self._batches is not None:
            await self._batches.aclose()

    def _learn(self, began: Call, last: Delta, ttft_ms: float | None, total_ms: float, quiet: bool) -> None:
        usage, quote = last.usage, began.ticket.quote
        assert usage is not None, "an answer without usage was counted"
        self._prices.ended(began, usage)
        if quiet and self._quiet is not None:
            self._quiet.observe(quote.model, quote.tier, usage.output_tokens, ttft_ms, total_ms)
        self._observe(quote.model, quote.tier, usage.output_tokens, ttft_ms, total_ms)

    def _observe(
        self, model: str, tier: str, output_tokens: int, ttft_ms: float | None, total_ms: float
    ) -> None:
        if self.latency.observe(model, tier, output_tokens, ttft_ms, total_ms):
            speed = self.latency.speed(model, tier)
            assert speed is not None, "a speed that changed is there"
            self._prices.observed(model, tier, speed)


def _told(rest: Rest) -> tuple[DeclineCode, str]:
    if rest.why is AuthFailed:
        return DeclineCode.AUTH, "every key was refused"
    return DeclineCode.RATE_LIMITED, "the window of every key is full"


def _want(began: Call) -> Want:
    ticket = began.ticket
    return Want(
        model=ticket.quote.model,
        tier=ticket.quote.tier,
        max_output_tokens=ticket.max_output_tokens,
        stream=ticket.stream and "messages" in ticket.body,
        cache_after=marked_messages(ticket.body, len(ticket.prefix), began.breakpoints),
        cache_key=ticket.prefix[0].key if ticket.prefix else None,
    )


def marked_messages(body: Mapping[str, Any], marks: int, breakpoints: Sequence[int]) -> tuple[int, ...]:
    """The messages (-1 = the tools) at which prefix marks end; of a long conversation the middle has no marks."""
    if not breakpoints:
        return ()
    schema = (body.get("response_format") or {}).get("json_schema")
    before = 1 if body.get("tools") or body.get("functions") or schema else 0
    skipped = before + len(body["messages"]) - marks
    return tuple(index - before + (skipped if index >= FIRST_MARKS else 0) for index in breakpoints)
