"""Fewer columns for the solver: tiers of one model that use the same of every limit are one, at the cheapest's cost.

Nothing is lost: within such a group the cheapest allowed tier is at least as good in every plan, and every bound
proven of the folded batch holds for the whole.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from providers.terms import RateKind

from .clearing_book import BatchBook

__all__ = ["FoldedBook", "fold"]

DEAREST = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True, eq=False)
class FoldedBook:
    """A batch with a column per group of offers. pick: uint16[n, groups], the offer a group stands for, per request."""

    book: BatchBook
    pick: npt.NDArray[np.uint16]

    def unfold(self, choice: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """int32[n]: the offer of each request, of the group chosen for it; -1 stays."""
        served = np.flatnonzero(choice >= 0)
        offers = np.full(len(choice), -1, dtype=np.int32)
        offers[served] = self.pick[served, choice[served]]
        return offers


def fold(book: BatchBook) -> FoldedBook:
    """The batch with its alike columns folded; the usage of pairs must be array[n, m]."""
    groups = _groups(book)
    cost = np.empty((len(book.cost), len(groups)), dtype=np.int64)
    allowed = np.empty(cost.shape, dtype=bool)
    pick = np.empty(cost.shape, dtype=np.uint16)
    rows = np.arange(len(cost))
    for g, members in enumerate(groups):
        asked = np.where(book.allowed[:, members], book.cost[:, members], DEAREST)
        best = np.asarray(members, dtype=np.uint16)[asked.argmin(axis=1)]
        cost[:, g], allowed[:, g], pick[:, g] = book.cost[rows, best], book.allowed[rows, best], best
    first = [members[0] for members in groups]
    folded = replace(
        book,
        offers=[book.offers[j] for j in first],
        cost=cost,
        allowed=allowed,
        input_tokens=book.input_tokens[:, first],
        output_tokens=book.output_tokens[:, first],
        latency_ms=book.latency_ms[:, first],
        quality=None if book.quality is None else book.quality[:, first],
    )
    return FoldedBook(folded, pick)


def _groups(book: BatchBook) -> list[list[int]]:
    """Columns that are alike, by the order of their first: one model, the same tokens and quality, no busy time."""
    groups: dict[tuple[str, str, int], list[int]] = {}
    for j, offer in enumerate(book.offers):
        timed = any(
            row.kind is RateKind.CONCURRENCY and row.covers(offer.provider, offer.model) for row in book.rows
        )
        key = (offer.provider, offer.model, j if timed else -1)
        known = groups.setdefault(key, [j])
        if known[0] != j:
            if _alike(book, known[0], j):
                known.append(j)
            else:
                groups[(offer.provider, offer.model, j)] = [j]
    return list(groups.values())


def _alike(book: BatchBook, one: int, other: int) -> bool:
    """Whether two columns use the same of every limit for every request either is allowed to serve."""
    either = book.allowed[:, one] | book.allowed[:, other]
    arrays = [book.input_tokens, book.output_tokens, *([] if book.quality is None else [book.quality])]
    return all(np.array_equal(a[either, one], a[either, other]) for a in arrays)
