"""A seller behind the quote protocol: asks it for quotes, calls it by them, and keeps a record of its word.

Late is absent. A seller that refuses a quote still firm, bills above its ceiling or contradicts itself loses trust;
below one half its quotes are taken as indicative only, until calls that were honoured have earned it back.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from .base import ProviderSettings
from .calls import Calls
from .clock import Clock
from .dialect import HOUSE_FIELDS, Call, Want
from .errors import (
    AuthFailed,
    MalformedAnswer,
    ProviderError,
    ProviderTimeout,
    QuoteDishonoured,
    RateLimited,
)
from .http_plain import open_client
from .http_reply import HttpPoster
from .keys import Key, KeyRing, keys_from_environment
from .openai_compat import OpenAICompat
from .openai_faults import fault_of
from .presets import preset
from .protocol import QuoteAnswer, QuoteWire, WireFault, read_wire, write_wire
from .protocol_words import Inconsistent, quote_in, request_out
from .terms import RFQ, Answer, Decline, DeclineCode, Delta, Offer, Quote, RateLimit, Ticket, price_nusd

__all__ = ["FIRM_FROM", "RemoteSeller", "SellerRecord", "remote_seller"]

FIRM_FROM: Final = 50
"""The trust, of 100, from which a seller's firm quotes are believed."""

EARNED: Final = 5
"""Trust that an honoured call earns; a broken word halves what there is."""
MAX_ANSWER_BYTES: Final = 2**20
MAX_OPEN_QUOTES: Final = 10_000
MARGIN_MS: Final = 5
"""The house's own deadline for answers comes this much later than the one set here."""


@dataclass(slots=True)
class SellerRecord:
    """What a seller's word was worth: calls honoured, firm quotes refused, bills above the ceiling, contradictions."""

    honoured: int = 0
    dishonoured: int = 0
    overbilled: int = 0
    inconsistent: int = 0
    late: int = 0
    trust: int = 100

    @property
    def firm(self) -> bool:
        """Whether its firm quotes are believed."""
        return self.trust >= FIRM_FROM

    def kept(self) -> None:
        """It honoured a quote."""
        self.honoured += 1
        self.trust = min(100, self.trust + EARNED)

    def lied(self) -> None:
        """It did not stand by its word."""
        self.trust //= 2


class _RemoteDialect(OpenAICompat):
    """The protocol's call; answers and streams are OpenAI's."""

    def call(self, body: Mapping[str, Any], want: Want) -> Call:
        asked = {name: value for name, value in body.items() if name not in HOUSE_FIELDS}
        asked |= {"model": want.model, "max_tokens": want.max_output_tokens}
        if want.stream:
            asked |= {"stream": True, "stream_options": {"include_usage": True}}
        told = {
            "seller_quote_id": want.quote_id,
            "body": asked,
            "max_output_tokens": want.max_output_tokens,
        }
        return Call("/execute", orjson.dumps(told))


class RemoteSeller:
    """A :class:`providers.base.Provider` that prices each request on its own, at ``POST /quote``."""

    def __init__(
        self,
        name: str,
        client: HttpPoster,
        keys: KeyRing,
        clock: Clock,
        *,
        limits: Sequence[RateLimit] = (),
        tags: frozenset[str] = frozenset(),
    ) -> None:
        self.name = name
        self._client = client
        self._keys = keys
        self._clock = clock
        self.limits: Sequence[RateLimit] = tuple(limits)
        self._tags = tags
        self._calls = Calls(name, _RemoteDialect(preset("openai_compat")), client, keys)
        self._open: OrderedDict[str, int] = OrderedDict()  # quote id to the time until which it is firm
        self.record = SellerRecord()

    def offers(self) -> Sequence[Offer]:
        """Nothing ahead of a request: it prices each on its own."""
        return ()

    async def quote(self, rfq: RFQ) -> Answer:
        """What it answers within ``rfq.answer_within_ms``; later it is a decline that says so."""
        key: Key | None = None
        try:
            key = self._keys.take()
            said = await self._ask(rfq, key)
        except ProviderError as error:
            if key is not None and isinstance(error, (AuthFailed, RateLimited)):
                self._keys.eject(key, error)
            self.record.late += isinstance(error, ProviderTimeout)
            return (Decline(self.name, "", _decline_code(error), error.detail),)
        finally:
            if key is not None:
                self._keys.release(key)
        answers: list[Quote | Decline] = [
            Decline(self.name, one.model, one.code, one.detail)
            for one in (said.declines or ([said.decline] if said.decline is not None else []))
        ]
        answers += [self._quote(one, rfq) for one in said.quotes]
        return tuple(answers)

    def execute(self, ticket: Ticket) -> AsyncGenerator[Delta]:
        """The answer to a quote of this seller, piece by piece."""
        quote = ticket.quote
        want = Want(
            model=quote.model,
            tier=quote.tier,
            max_output_tokens=ticket.max_output_tokens,
            stream=ticket.stream and "messages" in ticket.body,
            quote_id=quote.quote_id.removeprefix(f"{self.name}:"),
        )

        def done(last: Delta, ttft_ms: float | None, total_ms: float) -> None:
            assert last.usage is not None, "an answer without usage was counted"
            billed_nusd = last.billed_nusd or price_nusd(quote.rates, last.usage)
            if billed_nusd > quote.ceiling_nusd and not last.usage.estimated:
                self.record.overbilled += 1
                self.record.lied()
            else:
                self.record.kept()

        def failed(error: ProviderError) -> None:
            firm_until_ms = self._open.get(quote.quote_id, 0)
            if isinstance(error, QuoteDishonoured) and self._clock.now_ms() < firm_until_ms:
                self.record.dishonoured += 1
                self.record.lied()

        return self._calls.run(ticket, want, None, done, failed)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def _ask(self, rfq: RFQ, key: Key) -> QuoteAnswer:
        body = write_wire(request_out(rfq, self.name))
        headers = {} if key.secret is None else {"authorization": f"Bearer {key.secret.reveal()}"}
        deadline_ms = max(1, rfq.answer_within_ms - MARGIN_MS)
        reply = await self._client.post("/quote", body, headers, deadline_ms=deadline_ms)
        try:
            if reply.status != 200:
                raise fault_of(reply.status, reply.headers, await reply.fault_body())
            return read_wire(QuoteAnswer, await reply.body(MAX_ANSWER_BYTES))
        except WireFault as fault:
            self.record.inconsistent += 1
            raise MalformedAnswer(str(fault)) from None
        finally:
            reply.close()

    def _quote(self, said: QuoteWire, rfq: RFQ) -> Quote | Decline:
        quote_id = f"{self.name}:{said.seller_quote_id}"
        try:
            quote = quote_in(said, rfq, self.name, quote_id=quote_id, firm=self.record.firm, tags=self._tags)
        except ValueError as error:
            self.record.inconsistent += 1
            kind = "" if isinstance(error, Inconsistent) else "tokens: "
            return Decline(self.name, said.model, DeclineCode.PRICE_STALE, f"{kind}{error}")
        if said.firm:
            self._open[quote_id] = self._clock.now_ms() + said.valid_for_ms
            if len(self._open) > MAX_OPEN_QUOTES:
                self._open.popitem(last=False)
        return quote


def _decline_code(error: ProviderError) -> DeclineCode:
    if isinstance(error, AuthFailed):
        return DeclineCode.AUTH
    if isinstance(error, RateLimited):
        return DeclineCode.RATE_LIMITED
    return DeclineCode.TOO_LATE if isinstance(error, ProviderTimeout) else DeclineCode.DISABLED


def remote_seller(
    settings: ProviderSettings, clock: Clock, environment: Mapping[str, str] | None = None
) -> RemoteSeller:
    """The seller at ``settings.base_url``; raises ValueError where there is none."""
    if settings.base_url is None:
        raise ValueError(f"{settings.label}: expected the base_url of a seller's agent, found none")
    known = os.environ if environment is None else environment
    keys = KeyRing(lambda: keys_from_environment(settings.api_key_env, known, settings.label), clock)
    return RemoteSeller(
        settings.label,
        open_client(settings.base_url),
        keys,
        clock,
        limits=settings.limits,
        tags=settings.tags,
    )
