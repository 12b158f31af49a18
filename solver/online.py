"""Decide one request by prices: the bid-price rule, without OR-Tools."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Prices"]


@dataclass(frozen=True, slots=True, eq=False)
class Prices:
    """Shadow prices of the rows of a problem.

    names: one per row, in the row order of ``Problem``. lam: float64[K] >= 0, nano-dollars per unit of usage.
    unserved: float, nano-dollars per unit of weight that leaving a request unserved costs (the dual of
    "serve at least as much"; inf where nothing may be left out, 0 with objective "surplus").
    """

    names: tuple[str, ...]
    lam: npt.NDArray[np.float64]
    unserved: float = float("inf")
