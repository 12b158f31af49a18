"""Room 4, clearing, what its prices come from: expected demand against what is left. NumPy only, no OR-Tools."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .clearing_book import BatchBook, problem_of
from .limits import UNITS_PER_PRICE

if TYPE_CHECKING:
    from solver import Prices

__all__ = ["price_rows"]


def price_rows(
    book: BatchBook,
    count: npt.NDArray[np.float64],
    left: Mapping[str, float],
    *,
    warm: Prices | None = None,
    unserved_nusd: int | None = None,
) -> tuple[dict[str, int], Prices]:
    """Shadow prices by row name (nano-dollars per million units), and what to start from next time.

    count: float64[n], how often each request of the book is expected. left: what each row has in that time.
    warm: of an earlier call; without effect when the rows are others.
    """
    from solver.online import reprice

    problem, names = problem_of(book)
    if warm is not None and warm.names != tuple(problem.row_name(k) for k in range(problem.rows)):
        warm = None
    room = np.array([left.get(name, cap) for name, cap in zip(names, problem.caps.tolist(), strict=True)])
    prices = reprice(problem, count, room, warm=warm, unserved=unserved_nusd)
    nusd = np.rint(prices.lam * UNITS_PER_PRICE).astype(np.int64).tolist()
    return {name: price for name, price in zip(names, nusd, strict=True) if price}, prices
