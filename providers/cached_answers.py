"""A seller of answers that were given before: exactly the same question, of the same account, and only if asked for.

Not a semantic cache: two requests share an answer only if account, model choice, messages, tools and every sampling
parameter are equal, under a key that only the house can compute. It quotes nothing and one millisecond.
"""

from __future__ import annotations

import hmac
import json
from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from .base import QUOTE_TTL_MS
from .clock import Clock
from .errors import QuoteDishonoured
from .quoting import quote_ids
from .terms import (
    RFQ,
    Answer,
    Delta,
    Discount,
    DiscountKind,
    Offer,
    Quantiles,
    Quote,
    Rates,
    Ticket,
    Usage,
)

__all__ = ["CachedAnswers", "answer_key"]

MAX_ANSWERS: Final = 10_000
MAX_BYTES: Final = 64 * 2**20
LIFETIME_MS: Final = 3_600_000
LARGEST_SHARE: Final = 16
"""An answer larger than this part of the whole is not kept."""

_FREE: Final = Rates(0, 0, 0, 0, 0)
_AT_ONCE: Final = Quantiles(1, 1)
_NOT_ASKED: Final = frozenset({"metadata", "negotiator", "store", "stream", "stream_options", "user"})
"""Fields of a body that do not change what is answered."""


def answer_key(secret: bytes, account: str, choice: str, body: Mapping[str, Any]) -> str:
    """The key of an exact question: an HMAC over account, model choice and body.

    choice: the model as the buyer asked for it, restrictions included; an answer of one model is not another's.
    """
    asked = {name: value for name, value in body.items() if name not in _NOT_ASKED and value is not None}
    parts = [account, choice, asked]
    try:
        text = orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # a lone surrogate, or a number beyond 64 bits
        text = json.dumps(parts, sort_keys=True).encode()
    return hmac.digest(secret, text, "sha256").hex()


@dataclass(frozen=True, slots=True)
class _Kept:
    model: str
    message: Mapping[str, Any]
    finish_reason: str
    usage: Usage
    cost_nusd: int
    tags: frozenset[str]
    size: int
    at_ms: int


class CachedAnswers:
    """A :class:`providers.base.Provider` of tier ``cached``; the house tells it answers with :meth:`remember`."""

    def __init__(
        self,
        clock: Clock,
        *,
        name: str = "cached",
        max_answers: int = MAX_ANSWERS,
        max_bytes: int = MAX_BYTES,
        lifetime_ms: int = LIFETIME_MS,
        quote_ttl_ms: int = QUOTE_TTL_MS,
    ) -> None:
        self.name, self.limits = name, ()
        self._clock = clock
        self._max_answers, self._max_bytes = max_answers, max_bytes
        self._lifetime_ms, self._ttl_ms = lifetime_ms, quote_ttl_ms
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._bytes = 0
        self._next_id = quote_ids(f"{name}_{clock.now_ms():x}")

    def __len__(self) -> int:
        return len(self._kept)

    def offers(self) -> Sequence[Offer]:
        """None: what it sells depends on the question."""
        return ()

    def remember(
        self,
        key: str,
        model: str,
        message: Mapping[str, Any],
        finish_reason: str,
        usage: Usage,
        *,
        cost_nusd: int,
        tags: frozenset[str] = frozenset(),
    ) -> bool:
        """Keep a whole answer. ``model``: ``provider/model``; ``tags``: of the quote it came from. Whether it was kept."""
        size = len(orjson.dumps(message))
        if size > self._max_bytes // LARGEST_SHARE or finish_reason == "content_filter":
            return False
        self._drop(key)
        self._kept[key] = _Kept(
            model, message, finish_reason, usage, cost_nusd, tags, size, self._clock.now_ms()
        )
        self._bytes += size
        while len(self._kept) > self._max_answers or self._bytes > self._max_bytes:
            self._drop(next(iter(self._kept)))
        return key in self._kept

    def quote(self, rfq: RFQ) -> Answer:
        """One quote if exactly this was answered before, else nothing."""
        if rfq.answer_key is None or "cached" not in rfq.tiers:
            return ()
        kept, now_ms = self._kept.get(rfq.answer_key), self._clock.now_ms()
        if kept is None:
            return ()
        left_ms = kept.at_ms + self._lifetime_ms - now_ms
        if left_ms <= 0:
            self._drop(rfq.answer_key)
            return ()
        self._kept.move_to_end(rfq.answer_key)
        valid_for_ms = min(self._ttl_ms, left_ms)
        return (_quote(self._next_id(), self.name, rfq, kept, valid_for_ms, now_ms),)

    async def execute(self, ticket: Ticket) -> AsyncGenerator[Delta]:
        """The answer as it was given, free. One that had to make room since it was quoted is a dishonoured quote."""
        kept = self._kept.get(ticket.answer_key or "")
        if kept is None:
            raise QuoteDishonoured(
                "the answer is not kept any more", provider=self.name, model=ticket.quote.model, status=410
            )
        yield Delta(delta=kept.message, finish_reason=kept.finish_reason, usage=kept.usage, billed_nusd=0)

    async def aclose(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self._bytes = 0

    def _drop(self, key: str) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._bytes -= kept.size


def _quote(quote_id: str, name: str, rfq: RFQ, kept: _Kept, valid_for_ms: int, now_ms: int) -> Quote:
    basis = f"answered {(now_ms - kept.at_ms) // 1000} s ago by {kept.model}"
    discounts = (Discount(DiscountKind.CACHED_ANSWER, kept.cost_nusd, basis),) if kept.cost_nusd else ()
    output_tokens = max(1, kept.usage.output_tokens)
    return Quote(
        quote_id=quote_id,
        rfq_id=rfq.rfq_id,
        provider=name,
        model=kept.model,
        tier="cached",
        firm=True,
        rates=_FREE,
        lines=(),
        expected_nusd=0,
        ceiling_nusd=0,
        input_tokens=rfq.input_tokens,
        expected_output_tokens=output_tokens,
        max_output_tokens=output_tokens,
        latency_ms=_AT_ONCE,
        ttft_ms=_AT_ONCE,
        valid_for_ms=valid_for_ms,
        discounts=discounts,
        tags=kept.tags,
    )
