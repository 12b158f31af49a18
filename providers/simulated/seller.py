"""A seller that runs nowhere: real price card, real rules, no network. Test double, demo and benchmark at once.

Its clock, its seed and its script of faults are arguments; it waits with ``asyncio.sleep`` only, so in virtual time
a simulated hour takes seconds and the same seed gives the same run. What a call does depends on the seed, the model,
the prompt and how often that prompt came, not on the order in which calls of different prompts arrive.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from ..base import QUOTE_TTL_MS, PricingSettings
from ..batch import BATCH_TIER
from ..clock import Clock
from ..errors import (
    AuthFailed,
    ContentRefused,
    ContextTooLong,
    MalformedAnswer,
    Overloaded,
    ProviderError,
    ProviderUnavailable,
    QuoteDishonoured,
    RateLimited,
    StreamCut,
)
from ..idle_pricing import idle_standing
from ..latency import Latency
from ..prefix_cache import CacheScore
from ..pricelist import Call, PriceList, Standing
from ..ratecard import RateCard
from ..terms import (
    RFQ,
    Answer,
    Delta,
    Offer,
    RateKind,
    RateLimit,
    Rates,
    SpeedModel,
    Ticket,
    Usage,
    price_nusd,
)
from ..tokens import REFERENCE, REPLY_TOKENS, VOCABULARIES, count_chat
from .answers import Answer as Said
from .answers import ModelTraits, acceptable, compose, pieces, prompt_of, true_quality
from .batches import ENQUEUED, SimulatedBatches
from .faults import FaultKind, Faults
from .warmth import Warmth
from .windows import Windows

__all__ = ["TRUE_HIT", "SimulatedSeller"]

FAR_FUTURE_S: Final = 7 * 24 * 3600.0
"""How long a call that never answers hangs."""
REFUSAL_MS: Final = 40
"""How long a refusal takes."""
SLOW: Final = 20
BATCH_SLOWNESS: Final = 1_000
"""The batch tier takes so many times a call's latency: minutes to hours, where the vendor promises a day."""
DELTAS: Final = 8
"""Pieces of a streamed answer."""
MAX_PROMPTS: Final = 20_000
TRUE_HIT: Final = 0.9
"""How often a warm prefix is really read."""
OVERBILLED: Final = 3

_REFUSALS: Final[Mapping[FaultKind, tuple[type[ProviderError], int, str]]] = {
    FaultKind.OUTAGE: (Overloaded, 503, "the service is out"),
    FaultKind.ERROR_500: (ProviderUnavailable, 500, "internal error"),
    FaultKind.RATE_LIMITED: (RateLimited, 429, "too many requests"),
    FaultKind.AUTH: (AuthFailed, 401, "the key was revoked"),
    FaultKind.CONTENT: (ContentRefused, 400, "the content policy said no"),
}


@dataclass(slots=True)
class _Run:
    """One call: what was bought, how lucky it is, what goes wrong."""

    call: Call
    draw: Random
    fault: FaultKind | None
    tier: str


class SimulatedSeller:
    """A :class:`providers.base.Provider` with ``models`` (name → traits) at the prices of ``card``.

    limits: enforced; tiers with limits of their own in ``tier_limits``. pricing: it quotes its idle capacity and
    honours its own quotes; None = it bills its price card as vendors do. faults: see :class:`Faults`.
    """

    def __init__(
        self,
        name: str,
        card: RateCard,
        models: Mapping[str, ModelTraits],
        clock: Clock,
        *,
        seed: int = 0,
        limits: Sequence[RateLimit] = (),
        tier_limits: Mapping[str, Sequence[RateLimit]] | None = None,
        pricing: PricingSettings | None = None,
        faults: Faults | None = None,
        quote_ttl_ms: int = QUOTE_TTL_MS,
        hit: float = TRUE_HIT,
    ) -> None:
        self.name, self._card, self._clock, self._seed = name, card, clock, seed
        self.limits: Sequence[RateLimit] = tuple(limits)
        self._pricing = pricing
        self._start_ms = clock.now_ms()
        self._prices = PriceList(
            card, clock, id_prefix=f"{name}_{self._start_ms:x}_{seed:x}", quote_ttl_ms=quote_ttl_ms
        )
        self._windows = Windows([limit for limit in limits if limit.kind not in ENQUEUED])
        self._tier_windows = {tier: Windows(rows) for tier, rows in (tier_limits or {}).items()}
        self._warmth = Warmth(hit)
        self._asked: OrderedDict[str, int] = OrderedDict()
        self._calls = 0
        self.batches = SimulatedBatches(self)
        self._latency = Latency()
        self.faults = faults or Faults()
        self.models = dict(models)

    def offers(self) -> Sequence[Offer]:
        """What is sold now."""
        return self._prices.offers()

    def offers_at(self, at_ms: int) -> Sequence[Offer]:
        """What is sold at an instant to come, by the prices known now."""
        return self._prices.offers_at(at_ms)

    def quote(self, rfq: RFQ) -> Answer:
        """Quotes and declines, at once."""
        return self._prices.answer(rfq, self._standing)

    def cache_scores(self) -> dict[str, CacheScore]:
        """How good its quotes' cache discounts were, by model."""
        return self._prices.cache_scores()

    def used(self) -> dict[RateLimit, int]:
        """What is used of each limit just now."""
        return self._windows.used(self._clock.now_ms())

    def true_quality(self, model: str, body: Mapping[str, Any]) -> float:
        """The probability that this model's answer to this body is acceptable: hidden from the house."""
        return true_quality(self.models[model], model, prompt_of(body), self._seed)

    def acceptable(self, model: str, body: Mapping[str, Any]) -> bool:
        """Whether its answer is acceptable: the outcome that feedback would report, the same each time."""
        return acceptable(self.models[model], model, prompt_of(body), self._seed)

    def batch_took(self, model: str, total_ms: int) -> None:
        """Learn how long a batch took."""
        if self._latency.observe(model, BATCH_TIER, 0, None, total_ms):
            speed = self._latency.speed(model, BATCH_TIER)
            assert speed is not None, "a speed that changed is there"
            self._prices.observed(model, BATCH_TIER, speed)

    async def aclose(self) -> None:
        """Batches that run are stopped; nothing else is held."""
        await self.batches.aclose()

    async def execute(self, ticket: Ticket) -> AsyncGenerator[Delta]:
        """The answer, piece by piece; see :class:`Faults` for what may go wrong."""
        run = self._begin(ticket)
        try:
            async for delta in self._serve(run):
                yield delta
        except ProviderError as error:
            error.provider, error.model = self.name, ticket.quote.model
            raise

    def _begin(self, ticket: Ticket) -> _Run:
        self._calls += 1
        quote = ticket.quote
        text = f"{quote.model}\n{prompt_of(ticket.body)}".encode("utf-8", "replace")
        prompt = hashlib.blake2b(text, digest_size=12).hexdigest()
        times = self._asked[prompt] = self._asked.pop(prompt, 0) + 1
        while len(self._asked) > MAX_PROMPTS:
            self._asked.popitem(last=False)
        draw = Random(f"{self._seed}/{self.name}/{times}/{prompt}")
        since_ms = self._clock.now_ms() - self._start_ms
        fault = self.faults.strikes(since_ms, self._calls, quote.model, quote.tier, draw)
        return _Run(self._prices.began(ticket), draw, fault, quote.tier)

    async def _serve(self, run: _Run) -> AsyncGenerator[Delta]:
        ticket, offer = run.call.ticket, run.call.offer
        if run.fault is not None and run.fault in _REFUSALS:
            kind, status, detail = _REFUSALS[run.fault]
            await asyncio.sleep(REFUSAL_MS / 1000)
            raise kind(detail, status=status)
        if offer is None:
            raise QuoteDishonoured(f"{ticket.quote.model} is not sold any more", status=410)
        if run.fault is FaultKind.NEVER_ANSWERS:
            await asyncio.sleep(FAR_FUTURE_S)
            raise ProviderUnavailable("never answered")
        traits = self.models[offer.model]
        input_tokens = self._input_tokens(ticket, offer, traits)
        if input_tokens + 1 > offer.context_tokens:
            await asyncio.sleep(REFUSAL_MS / 1000)
            raise ContextTooLong(
                f"expected at most {offer.context_tokens} tokens, found {input_tokens}", status=400
            )
        said = compose(traits, offer.model, ticket.body, ticket.max_output_tokens, run.draw, self._seed)
        now_ms, marked = self._clock.now_ms(), run.call.breakpoints
        read, written = self._warmth.look(
            offer.model, offer.cache, ticket.prefix, input_tokens, marked, now_ms, run.draw
        )
        usage = Usage(input_tokens, said.output_tokens, read, written, reasoning_tokens=said.reasoning_tokens)
        windows = self._tier_windows.get(run.tier, self._windows)
        wait_ms = windows.enter(offer.model, _uses(usage), now_ms)
        if wait_ms:
            await asyncio.sleep(REFUSAL_MS / 1000)
            raise RateLimited("the window is full", status=429, retry_after_ms=max(1, wait_ms - REFUSAL_MS))
        self._warmth.warm(offer.model, offer.cache, ticket.prefix, marked, now_ms)
        try:
            async for delta in self._speak(run, offer, said, usage):
                yield delta
        finally:
            windows.leave(offer.model)

    async def _speak(self, run: _Run, offer: Offer, said: Said, usage: Usage) -> AsyncGenerator[Delta]:
        ticket, speed = run.call.ticket, self._speed(offer)
        luck = math.exp(speed.sigma * run.draw.gauss(0, 1)) * (SLOW if run.fault is FaultKind.SLOW else 1)
        first_s = speed.ttft_ms_p50 * luck / 1000
        rest_s = speed.ms_per_output_token_p50 * said.output_tokens * luck / 1000
        if run.fault is FaultKind.MALFORMED:
            await asyncio.sleep(first_s)
            raise MalformedAnswer("expected a JSON object, found '<html>'", status=200)
        if ticket.stream:
            await asyncio.sleep(first_s)
            parts = list(pieces(said.message, DELTAS))
            for number, part in enumerate(parts):
                if number > len(parts) // 2:
                    if run.fault is FaultKind.CUT:
                        raise StreamCut("the stream ended before its last chunk")
                    if run.fault is FaultKind.STALL:
                        await asyncio.sleep(FAR_FUTURE_S)
                yield Delta(delta=part)
                await asyncio.sleep(rest_s / len(parts))
        else:
            await asyncio.sleep(FAR_FUTURE_S if run.fault is FaultKind.STALL else first_s + rest_s)
            if run.fault is FaultKind.CUT:
                raise StreamCut("the connection closed before the whole answer came")
        told = _told(run.fault, usage)
        self._prices.ended(run.call, usage)
        last: Mapping[str, Any] = {} if ticket.stream else said.message
        yield Delta(
            delta=last,
            finish_reason=said.finish_reason,
            usage=told,
            billed_nusd=self._bill(run, offer, usage, told),
        )

    def _speed(self, offer: Offer) -> SpeedModel:
        """How fast it really is: as it quotes, but for the batch tier, which is done before its promise."""
        if offer.tier != BATCH_TIER:
            return offer.speed
        traits = self.models[offer.model]
        return SpeedModel(traits.ttft_ms * BATCH_SLOWNESS, traits.ms_per_token * BATCH_SLOWNESS, traits.sigma)

    def _bill(self, run: _Run, offer: Offer, usage: Usage, told: Usage | None) -> int | None:
        """What it charges: its price card now, as vendors do, or its own quote where it made the price."""
        if told is None:
            return None
        quote = run.call.ticket.quote
        if run.fault is FaultKind.OVERBILLED:
            return OVERBILLED * quote.ceiling_nusd
        rates: Rates = quote.rates if self._pricing is not None else offer.rates_for(usage.input_tokens)
        return price_nusd(rates, told)

    def _input_tokens(self, ticket: Ticket, offer: Offer, traits: ModelTraits) -> int:
        """What the prompt really weighs in this model's vocabulary."""
        if offer.vocabulary in VOCABULARIES and offer.vocabulary != REFERENCE:
            return count_chat(ticket.body, offer.vocabulary)
        prefix = ticket.prefix
        counted = prefix[-1].tokens + REPLY_TOKENS if prefix else count_chat(ticket.body)
        return math.ceil(counted * traits.token_factor)

    def _standing(self, offer: Offer, rfq: RFQ) -> Standing:
        windows = self._tier_windows.get(offer.tier, self._windows)
        capacity = windows.room(offer.model, self._clock.now_ms())
        if self._pricing is None:
            return Standing(capacity=capacity)
        return idle_standing(windows.busy(), self._pricing, rfq, capacity=capacity)


def _uses(usage: Usage) -> dict[RateKind, int]:
    return {
        RateKind.REQUESTS: 1,
        RateKind.TOKENS: usage.input_tokens + usage.output_tokens,
        RateKind.INPUT_TOKENS: usage.input_tokens,
        RateKind.UNCACHED_INPUT_TOKENS: usage.input_tokens - usage.cache_read_tokens,
        RateKind.OUTPUT_TOKENS: usage.output_tokens,
    }


def _told(fault: FaultKind | None, usage: Usage) -> Usage | None:
    """The usage as the seller reports it."""
    if fault is FaultKind.NO_USAGE:
        return None
    if fault is FaultKind.WRONG_USAGE:
        return Usage(usage.input_tokens, 10 * usage.output_tokens)
    if fault is FaultKind.IMPOSSIBLE_USAGE:
        raise MalformedAnswer(
            f"usage: expected cached parts <= input {usage.input_tokens}, found {usage.input_tokens + 1}"
        )
    return usage
