"""What a seller's prompt cache probably holds, from what was sent to it and what it said it read.

Prefixes are known by opaque keys (:func:`providers.tokens.prefix_marks`). A belief has three parts: was this prefix
sent before, does the vendor's rule make it warm now (minimum, block, lifetime, from which request), and how often
did a prefix believed warm turn out to be read. Each belief is scored against the ``cache_read_tokens`` that came back.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from .terms import CacheTerms, CacheWrites, PrefixMark, Usage

__all__ = ["NO_CACHE", "CacheHope", "CacheScore", "PrefixCache"]

MAX_PREFIXES: Final = 10_000
"""Prefixes remembered per seller; the least recently sent are forgotten first."""
PRIOR_WEIGHT: Final = 4.0
"""The prior hit rate counts as much as this many calls."""
FORGETTING: Final = 0.98
"""How much older calls weigh against the newest one."""


class CacheHope(NamedTuple):
    """What the seller's prompt cache is believed to do for a request, in the seller's own tokens.

    read_tokens: read if it hits; hit: how probable that is; write_tokens: written and charged if it does not;
    rewrite_tokens: written and charged if it does. left_ms: how long the entry lives. age_ms: since the prefix was sent.
    calls: seen of this model.
    """

    read_tokens: int = 0
    hit: float = 0.0
    write_tokens: int = 0
    rewrite_tokens: int = 0
    left_ms: int | None = None
    age_ms: int = 0
    calls: int = 0

    @property
    def basis(self) -> str:
        """The evidence in words."""
        calls = f"{self.calls} call{'' if self.calls == 1 else 's'}"
        return (
            f"a prefix of {self.read_tokens} tokens was sent {self.age_ms // 1000} s ago; {self.hit:.0%} of such were"
            f" read ({calls} seen)"
        )


NO_CACHE: Final = CacheHope()
"""Nothing warm, nothing written."""


@dataclass(slots=True)
class _Sent:
    """A prefix that was sent: when last, how often, whether a request ended with it, whether it was stored."""

    last_ms: int
    times: int = 0
    ended: bool = False
    stored: bool = False


@dataclass(frozen=True, slots=True)
class CacheScore:
    """How good the beliefs of one model were: calls believed warm, tokens expected and really read."""

    calls: int
    hit_rate: float
    expected_tokens: int
    read_tokens: int


@dataclass(slots=True)
class _Record:
    weight: float = 0.0
    hits: float = 0.0
    calls: int = 0
    expected_tokens: float = 0.0
    read_tokens: int = 0


class PrefixCache:
    """Beliefs about one account's cache, by model. Time comes in as ``now_ms``; no clock of its own."""

    def __init__(self, max_prefixes: int = MAX_PREFIXES) -> None:
        self._max = max_prefixes
        self._sent: dict[str, OrderedDict[str, _Sent]] = {}
        self._size = 0
        self._records: dict[str, _Record] = {}

    def hope(
        self,
        model: str,
        terms: CacheTerms | None,
        prefix: Sequence[PrefixMark],
        now_ms: int,
        *,
        input_tokens: int,
        scale: float = 1.0,
    ) -> CacheHope:
        """What the cache will probably read and write for a request of ``input_tokens``.

        scale: the seller's tokens per reference token, in which the marks are counted.
        """
        if terms is None or input_tokens < terms.min_tokens or not prefix:
            return NO_CACHE
        warm = self._warm(model, terms, prefix, now_ms)
        read = 0
        if warm is not None:
            read = _blocks(min(int(prefix[warm].tokens * scale), input_tokens - 1), terms)
        written = 0
        if terms.writes is not CacheWrites.FREE:
            written = self._written(model, terms, prefix, now_ms, input_tokens, scale)
        if not read and not written:
            return NO_CACHE
        if not read or warm is None:
            return CacheHope(write_tokens=written)
        age_ms = max(0, now_ms - self._sent[model][prefix[warm].key].last_ms)  # the clock may step back
        record, hit = self._records.get(model), self.hit_rate(model, terms)
        rewritten, left_ms = max(0, written - read), terms.lifetime_ms - age_ms
        return CacheHope(
            read, hit, written, rewritten, left_ms, age_ms, 0 if record is None else record.calls
        )

    def breakpoints(
        self, model: str, terms: CacheTerms | None, prefix: Sequence[PrefixMark], now_ms: int
    ) -> tuple[int, ...]:
        """Which prefixes (indices) to ask a seller that charges for marked writes to store: those with evidence.

        A prefix that came before will come again; a conversation that went on will go on. A first request is never
        marked: writing costs more than reading saves unless it is read.
        """
        if terms is None or terms.writes is not CacheWrites.MARKED:
            return ()
        seen = self._sent.get(model, OrderedDict())
        last = len(prefix) - 1
        for index in range(last, -1, -1):
            sent = seen.get(prefix[index].key)
            if sent is None or now_ms - sent.last_ms > terms.lifetime_ms:
                continue
            chosen = (index, last) if sent.ended and index < last else (index,)
            return tuple(i for i in chosen if prefix[i].tokens >= terms.min_tokens)
        return ()

    def sent(
        self,
        model: str,
        terms: CacheTerms | None,
        prefix: Sequence[PrefixMark],
        now_ms: int,
        *,
        stored: Sequence[int] | None = None,
    ) -> None:
        """Remember that a request was served. ``stored``: the breakpoints it marked, None = the seller decides."""
        if terms is None or not prefix or prefix[-1].tokens < terms.min_tokens // 2:
            return
        seen: OrderedDict[str, _Sent] = self._sent.setdefault(model, OrderedDict())
        last = len(prefix) - 1
        for index, mark in enumerate(prefix):
            sent = seen.get(mark.key)
            if sent is None or now_ms - sent.last_ms > terms.lifetime_ms:
                self._size += sent is None
                sent = seen[mark.key] = _Sent(now_ms)
            seen.move_to_end(mark.key)
            sent.last_ms = now_ms
            sent.times += 1
            sent.ended = sent.ended or index == last
            sent.stored = sent.stored or stored is None or index in stored
        while self._size > self._max:
            self._forget()

    def observe(self, model: str, terms: CacheTerms | None, hope: CacheHope, usage: Usage) -> None:
        """Score a belief held before a call against the usage that came back."""
        if terms is None or not hope.read_tokens or usage.estimated:
            return
        record = self._records.setdefault(model, _Record())
        hit = min(1.0, usage.cache_read_tokens / hope.read_tokens)
        record.weight = record.weight * FORGETTING + 1
        record.hits = record.hits * FORGETTING + hit
        record.calls += 1
        record.expected_tokens += hope.read_tokens * hope.hit
        record.read_tokens += usage.cache_read_tokens

    def hit_rate(self, model: str, terms: CacheTerms) -> float:
        """How often a prefix believed warm is read: the prior, moved by what was seen."""
        record = self._records.get(model)
        if record is None:
            return terms.hit_prior
        return (terms.hit_prior * PRIOR_WEIGHT + record.hits) / (PRIOR_WEIGHT + record.weight)

    def scores(self) -> dict[str, CacheScore]:
        """How good the beliefs were, by model."""
        return {
            model: CacheScore(
                record.calls,
                record.hits / record.weight if record.weight else 0.0,
                round(record.expected_tokens),
                record.read_tokens,
            )
            for model, record in self._records.items()
        }

    def _warm(self, model: str, terms: CacheTerms, prefix: Sequence[PrefixMark], now_ms: int) -> int | None:
        """The longest prefix that the vendor's rule makes warm now, None = none."""
        seen = self._sent.get(model)
        if not seen:
            return None
        for index in range(len(prefix) - 1, -1, -1):
            sent = seen.get(prefix[index].key)
            if sent is None or not sent.stored or now_ms - sent.last_ms >= terms.lifetime_ms:
                continue
            # Where a shared prefix must be seen more often before it is stored, a whole request is stored at once.
            if sent.times >= terms.from_request - 1 or sent.ended:
                return index
        return None

    def _written(
        self,
        model: str,
        terms: CacheTerms,
        prefix: Sequence[PrefixMark],
        now_ms: int,
        input_tokens: int,
        scale: float,
    ) -> int:
        """Tokens written and charged when nothing is read, of a cache whose writes are not free."""
        if terms.writes is CacheWrites.CHARGED:
            return _blocks(input_tokens, terms)
        marked = self.breakpoints(model, terms, prefix, now_ms)
        return _blocks(min(int(prefix[marked[-1]].tokens * scale), input_tokens), terms) if marked else 0

    def _forget(self) -> None:
        fullest = max(self._sent.values(), key=len)
        fullest.popitem(last=False)
        self._size -= 1


def _blocks(tokens: int, terms: CacheTerms) -> int:
    """The whole blocks of a prefix; none below the minimum."""
    return tokens - tokens % terms.block_tokens if tokens >= terms.min_tokens else 0
