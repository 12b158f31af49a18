"""Price the lines of a batch, some at a time: asked in, book out. What is needed for it can be sent to another process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from .plan_asked import Asked, Intake
from .plan_book import Growing, Pairs, PlanBook, build_book, entered
from .plan_offers import Sold
from .plan_tokens import Counts, Guess, count_tokens, used_vocabularies
from .quality import Quality

__all__ = ["PRICED_AT_ONCE", "BookMaker", "Pricing"]

PRICED_AT_ONCE: Final = 2_000
"""Lines priced at a time: enough for NumPy, few enough for the cache."""


@dataclass(frozen=True, slots=True)
class Pricing:
    """All that pricing needs of a market.

    guess: how tokens are estimated, None = all are counted. elapsed_ms: how much of the deadlines is gone, where time
    slots count from the beginning of the batch. left_ms: a deadline that all have, None = none.
    """

    sold: Sold
    quality: Quality
    quantile: float
    intake: Intake
    guess: Guess | None = None
    elapsed_ms: int = 0
    left_ms: int | None = None

    def book(self, asked: Asked, accounts: dict[str, int]) -> PlanBook:
        """The book of some lines. Those whose estimate could decide anything are counted and priced again."""
        vocabularies = used_vocabularies(self.sold.offers)
        counts = count_tokens(asked.texts, vocabularies, self.guess)
        book, unsure = self._built(asked, counts, accounts)
        if not unsure.any():
            return book
        rows = np.flatnonzero(unsure)
        part = asked.part(rows.tolist())
        again, _ = self._built(part, count_tokens(part.texts, vocabularies), accounts)
        return entered(book, rows, again)

    def _built(
        self, asked: Asked, counts: Counts, accounts: dict[str, int]
    ) -> tuple[PlanBook, npt.NDArray[np.bool_]]:
        pairs = Pairs(asked, self.sold, self.quality, self.quantile, counts)
        pairs.hurry(self.elapsed_ms, self.left_ms)
        return build_book(pairs, accounts)


class BookMaker:
    """Books of parts of a batch, as one. accounts: every account met, numbered by the order of lines.

    rows: about how many lines there will be.
    """

    def __init__(self, pricing: Pricing, rows: int = PRICED_AT_ONCE) -> None:
        self.accounts: dict[str, int] = {}
        self._pricing = pricing
        self._whole = Growing(rows)
        self.keep(pricing.book(Asked(), self.accounts))

    def add(self, asked: Asked) -> None:
        """Price the next lines."""
        self.keep(self._pricing.book(asked, self.accounts))

    def keep(self, book: PlanBook) -> None:
        """Take the book of the next lines, its accounts numbered as here."""
        self._whole.add(book)

    def number(self, names: Sequence[str]) -> npt.NDArray[np.int32]:
        """The numbers of accounts, new ones in the order given."""
        numbers = [self.accounts.setdefault(name, len(self.accounts)) for name in names]
        return np.array(numbers, dtype=np.int32)

    def book(self) -> PlanBook:
        """The book of all lines, in their order."""
        return self._whole.book()
