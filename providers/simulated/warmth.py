"""A simulated seller's prompt cache as it really is: what is warm is read and billed as read."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from ..terms import CacheTerms, CacheWrites, PrefixMark

__all__ = ["Warmth"]

MAX_ENTRIES: Final = 20_000


@dataclass(slots=True)
class _Entry:
    until_ms: int
    seen: int
    stored: bool


class Warmth:
    """Entries by model and prefix. ``hit``: how often a warm prefix is really read; the rest was evicted."""

    def __init__(self, hit: float) -> None:
        self._hit = hit
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()

    def look(
        self,
        model: str,
        terms: CacheTerms | None,
        prefix: Sequence[PrefixMark],
        input_tokens: int,
        marked: Sequence[int],
        now_ms: int,
        draw: Random,
    ) -> tuple[int, int]:
        """Tokens read, and tokens written and charged, if a request is served now; a prefix may have been evicted."""
        if terms is None or not prefix:
            return 0, 0
        scale = input_tokens / prefix[-1].tokens
        read = 0
        for mark in reversed(prefix):
            entry = self._entries.get((model, mark.key))
            if entry is not None and entry.stored and now_ms < entry.until_ms:
                if draw.random() < self._hit:
                    read = _whole(min(int(mark.tokens * scale), input_tokens - 1), terms)
                break
        written = 0
        if terms.writes is CacheWrites.CHARGED:
            written = max(0, _whole(input_tokens, terms) - read)
        elif terms.writes is CacheWrites.MARKED and marked:
            end = min(int(prefix[max(marked)].tokens * scale), input_tokens)
            written = max(0, _whole(end, terms) - read)
        return read, written

    def warm(
        self,
        model: str,
        terms: CacheTerms | None,
        prefix: Sequence[PrefixMark],
        marked: Sequence[int],
        now_ms: int,
    ) -> None:
        """A request is served: its prefixes are warm from now on."""
        if terms is None:
            return
        last = len(prefix) - 1
        for index, mark in enumerate(prefix):
            key = (model, mark.key)
            entry = self._entries.get(key)
            if entry is None or now_ms >= entry.until_ms:
                entry = self._entries[key] = _Entry(0, 0, False)
            self._entries.move_to_end(key)
            entry.until_ms = now_ms + terms.lifetime_ms
            entry.seen += 1
            if terms.writes is CacheWrites.MARKED:
                entry.stored = entry.stored or index in marked
            else:
                entry.stored = entry.stored or index == last or entry.seen >= terms.from_request - 1
        while len(self._entries) > MAX_ENTRIES:
            self._entries.popitem(last=False)


def _whole(tokens: int, terms: CacheTerms) -> int:
    return tokens - tokens % terms.block_tokens if tokens >= terms.min_tokens else 0
