"""A seller over HTTP: one account at a vendor, its quotes from list prices, its calls through one dialect.

Everything that touches the network and is the same for all vendors is here: the deadline, the key, the stream, the
failure's name, the windows the vendor reports. What differs is pure and in a :class:`providers.dialect.Dialect`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from .assembly import MessageBuilder
from .dialect import Call, Dialect, Reader, Want, Window, least_left
from .errors import AuthFailed, ProviderError, ProviderTimeout, RateLimited, RequestRefused, StreamCut
from .http_client import HttpClient, Reply
from .keys import Key, KeyRing
from .latency import Latency
from .pricelist import Call as Priced
from .pricelist import PriceList, Standing
from .sse import EventReader
from .terms import RFQ, Answer, Decline, DeclineCode, Delta, LineKind, Offer, RateLimit, Ticket, Usage
from .tokens import FIRST_MARKS, REFERENCE, VOCABULARIES, count_text

__all__ = ["MAX_KEYS_TRIED", "USAGE_GRACE_MS", "VendorSeller", "marked_messages"]

USAGE_GRACE_MS: Final = 3_000
"""How long a stream is read on for its usage after the answer finished."""

MAX_KEYS_TRIED: Final = 3
"""Keys tried for one call before the vendor's refusal is the seller's."""

_INPUT_LINES: Final = frozenset({LineKind.INPUT, LineKind.CACHE_READ, LineKind.CACHE_WRITE})

Hear = Callable[[str, Sequence[Window]], None]


class VendorSeller:
    """A :class:`providers.base.Provider` at a vendor's HTTP API.

    hear: told the provider's name and the windows of every answer that reports some. A deadline in the ticket cuts
    the call off with :class:`ProviderTimeout`. Closing the iterator cuts the connection, which cancels upstream.
    """

    def __init__(
        self,
        name: str,
        dialect: Dialect,
        client: HttpClient,
        keys: KeyRing,
        prices: PriceList,
        *,
        limits: Sequence[RateLimit] = (),
        standing: Callable[[Offer, RFQ], Standing] | None = None,
        hear: Hear | None = None,
    ) -> None:
        self._name = name
        self._dialect = dialect
        self._client = client
        self._keys = keys
        self._prices = prices
        self._limits = tuple(limits)
        self._standing = standing
        self.latency = Latency()
        self.hear = hear

    @property
    def name(self) -> str:
        """The name in ``provider/model``."""
        return self._name

    @property
    def limits(self) -> Sequence[RateLimit]:
        """The account's rate limits, as configured."""
        return self._limits

    def offers(self) -> Sequence[Offer]:
        """What is sold now."""
        return self._prices.offers()

    def quote(self, rfq: RFQ) -> Answer:
        """Quotes and declines for a request; a parameter the API cannot honour is a decline that names it."""
        refused = self._dialect.refuses(rfq.parameters) if rfq.parameters else None
        if refused is not None:
            return (Decline(self.name, "", DeclineCode.UNSUPPORTED, f"cannot honour {refused}"),)
        try:
            usable = self._keys.usable()
        except AuthFailed as error:
            return (Decline(self.name, "", DeclineCode.AUTH, error.detail),)
        if not usable:
            code = DeclineCode.AUTH if self._keys.resting_for is AuthFailed else DeclineCode.RATE_LIMITED
            return (Decline(self.name, "", code, f"keys rest for {self._keys.back_in_ms()} ms"),)
        if self._standing is None:
            return self._prices.answer(rfq)
        return self._prices.answer(rfq, self._standing)

    async def execute(self, ticket: Ticket) -> AsyncGenerator[Delta]:
        """The answer, piece by piece; the last piece has finish reason and usage (estimated where none came)."""
        time = asyncio.get_running_loop().time
        begun_s, first_s = time(), None
        priced = self._prices.began(ticket)
        key: Key | None = None
        reply: Reply | None = None
        seen: list[Any] = []
        try:
            if name := self._dialect.unsupported(ticket.body):
                raise RequestRefused(f"cannot honour {name}")
            want = _want(priced)
            key, reply = await self._send(self._dialect.call(ticket.body, want), ticket.deadline_ms, time)
            if not want.stream:
                last = self._dialect.answer(await reply.body())
            else:
                reader, events = self._dialect.reader(), EventReader()
                while not reader.done:
                    chunk = await self._more(reply, reader)
                    for event in events.feed(chunk) if chunk else events.close():
                        delta = reader.event(event)
                        if delta is not None:
                            if first_s is None and _writes(delta):
                                first_s = time()
                            seen.append(delta.delta)
                            yield delta
                    if not chunk:
                        break
                last = reader.last()
            last = _counted(last, seen, priced)
            self._learn(priced, last, begun_s, first_s, time())
            yield last
            if want.stream:
                await reply.finish()
        except ProviderError as error:
            error.provider, error.model = self._name, ticket.quote.model
            raise
        finally:
            if reply is not None:
                reply.close()
            if key is not None:
                self._keys.release(key)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def _send(
        self, call: Call, deadline_ms: int | None, time: Callable[[], float]
    ) -> tuple[Key, Reply]:
        """The first good reply and the key that bought it; a key refused or out of its window is ejected alone."""
        begun_s = time()
        for tried in range(1, MAX_KEYS_TRIED + 1):
            key = self._keys.take()
            try:
                left_ms = None if deadline_ms is None else deadline_ms - round((time() - begun_s) * 1000)
                if left_ms is not None and left_ms <= 0:
                    raise ProviderTimeout("no time was left to call")
                return key, await self._ask(key, call, left_ms)
            except (AuthFailed, RateLimited) as error:
                self._keys.release(key)
                if not self._keys.eject(key, error) or tried == MAX_KEYS_TRIED:
                    raise
            except BaseException:
                self._keys.release(key)
                raise
        raise AssertionError("the last key's failure was raised")

    async def _ask(self, key: Key, call: Call, deadline_ms: int | None) -> Reply:
        headers = call.headers
        if key.secret is not None:
            headers = {**headers, **self._dialect.authorise(key.secret.reveal())}
        reply = await self._client.post(call.path, call.body, headers, deadline_ms=deadline_ms)
        windows = self._dialect.windows(reply.headers)
        if windows:
            left = least_left(windows)
            key.left = key.left if left is None else left
            if self.hear is not None:
                self.hear(self.name, windows)
        if 200 <= reply.status < 300:
            return reply
        try:
            raise self._dialect.fault(reply.status, reply.headers, await reply.fault_body())
        finally:
            reply.close()

    async def _more(self, reply: Reply, reader: Reader) -> bytes:
        """The next bytes of a stream; once the answer finished, its end is taken for whatever stops it."""
        if not reader.finished:
            return await reply.some()
        try:
            async with asyncio.timeout(USAGE_GRACE_MS / 1000):
                return await reply.some()
        except (TimeoutError, StreamCut, ProviderTimeout):
            return b""

    def _learn(
        self, priced: Priced, last: Delta, begun_s: float, first_s: float | None, ended_s: float
    ) -> None:
        usage, quote = last.usage, priced.ticket.quote
        assert usage is not None, "an answer without usage was counted"
        self._prices.ended(priced, usage)
        ttft_ms = None if first_s is None else (first_s - begun_s) * 1000
        total_ms = (ended_s - begun_s) * 1000
        if self.latency.observe(quote.model, quote.tier, usage.output_tokens, ttft_ms, total_ms):
            speed = self.latency.speed(quote.model, quote.tier)
            assert speed is not None, "a speed that changed is there"
            self._prices.observed(quote.model, quote.tier, speed)


def _want(priced: Priced) -> Want:
    ticket = priced.ticket
    return Want(
        model=ticket.quote.model,
        tier=ticket.quote.tier,
        max_output_tokens=ticket.max_output_tokens,
        stream=ticket.stream and "messages" in ticket.body,
        cache_after=marked_messages(ticket.body, len(ticket.prefix), priced.breakpoints),
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


def _counted(last: Delta, seen: Sequence[Mapping[str, Any]], priced: Priced) -> Delta:
    """The last delta with a usage: the vendor's, or one counted from what was relayed."""
    usage, ticket = last.usage, priced.ticket
    if usage is not None and (usage.output_tokens or "messages" not in ticket.body):
        return last
    written = MessageBuilder()
    for delta in (*seen, last.delta):
        written.add(delta)
    if usage is not None and written.empty:
        return last
    output_tokens = _tokens_of(written.text, priced.offer) if "messages" in ticket.body else 0
    if usage is not None:
        return replace(last, usage=replace(usage, output_tokens=output_tokens, estimated=True))
    input_tokens = sum(line.tokens for line in ticket.quote.lines if line.kind in _INPUT_LINES)
    return replace(last, usage=Usage(input_tokens, output_tokens, estimated=True))


def _tokens_of(text: str, offer: Offer | None) -> int:
    if offer is not None and offer.vocabulary in VOCABULARIES:
        return count_text(text, offer.vocabulary)
    return round(count_text(text, REFERENCE) * (1.0 if offer is None else offer.token_factor))


def _writes(delta: Delta) -> bool:
    """Whether a delta has something the model wrote, not only its role."""
    return any(value for name, value in delta.delta.items() if name != "role")
