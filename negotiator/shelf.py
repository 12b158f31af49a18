"""Quotes that buyers were shown and may come back for: by id, bounded, until they expire."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from providers.terms import RFQ

from .errors import Reject, RejectCode
from .order import Book, Candidate, Order

__all__ = ["Shelf"]

MAX_QUOTES: Final = 20_000

_TERMS: Final = ("terms.", "stream", "model")
"""Digests that may differ between asking for a quote and taking it: the terms are judged again."""


@dataclass(frozen=True, slots=True)
class _Shown:
    account: str
    digests: Mapping[str, str]
    candidate: Candidate
    book: Book
    rfq: RFQ


class Shelf:
    """What was quoted lately. A quote belongs to the account it was shown to."""

    def __init__(self, max_quotes: int = MAX_QUOTES) -> None:
        self._shown: OrderedDict[str, _Shown] = OrderedDict()
        self._max_quotes = max_quotes

    def put(self, order: Order, book: Book, rfq: RFQ) -> None:
        """Remember all quotes of a book."""
        digests = _content(order)
        for candidate in book.candidates:
            self._shown[candidate.quote.quote_id] = _Shown(order.account, digests, candidate, book, rfq)
        while len(self._shown) > self._max_quotes:
            self._shown.popitem(last=False)

    def take(self, quote_id: str, order: Order, now_ms: int) -> tuple[Candidate, Book, RFQ] | Reject:
        """The quote, its book and its RFQ if it was shown to this account for this content and still holds."""
        shown = self._shown.get(quote_id)
        if shown is None or shown.account != order.account:
            return Reject(
                code=RejectCode.UNKNOWN_QUOTE,
                message=f"quote_id: expected a quote shown to this account lately, found {quote_id!r}",
            )
        changed = _changed(shown.digests, _content(order))
        if changed:
            return Reject(
                code=RejectCode.INPUT_CHANGED,
                message=f"{changed}: expected the body that was quoted, found another",
                facts={"field": changed},
            )
        if now_ms >= shown.candidate.valid_until_ms:
            late_ms = now_ms - shown.candidate.valid_until_ms
            return Reject(
                code=RejectCode.QUOTE_EXPIRED,
                message=f"the quote expired {late_ms} ms ago: ask for a new one",
                facts={"expired_ms_ago": late_ms},
            )
        return shown.candidate, shown.book, shown.rfq


def _content(order: Order) -> dict[str, str]:
    return {name: digest for name, digest in order.digests.items() if not name.startswith(_TERMS)}


def _changed(before: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    return next((name for name in sorted({*before, *now}) if before.get(name) != now.get(name)), None)
