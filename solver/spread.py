"""Dense passes made elsewhere: the requests of a problem lie in parts, prices go out, a few numbers each come back.

A part's numbers are those of a pass here, to the bit, so bound, plan and certificate do not depend on where it is made.
What is small stays here: the bands around the prices, rounding, and the exact search.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt

from .options import leads
from .passes import Passes
from .prices import cheapest
from .problem import Problem
from .rows import Floats, Rows

__all__ = ["Lead", "Part", "Spread", "bounds_of", "part_of"]

Lead = tuple[npt.NDArray[np.int32], npt.NDArray[np.float32], npt.NDArray[np.float32]]
"""See :class:`solver.options.Leads`."""


class Spread(Protocol):
    """Whoever holds the parts; answers come in the order of the requests."""

    def cheapest(self, lam: Floats, costs: bool) -> list[Floats]:
        """Per part :func:`solver.prices.cheapest`."""
        ...

    def leads(self, lam: Floats, worth: Floats, costs: bool) -> list[Lead]:
        """Per part :func:`solver.options.leads` of all its requests. worth: of all requests."""
        ...


class Part:
    """Some requests of a compiled problem, where the passes over them are made. ``rows``: from :func:`part_of`."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def cheapest(self, lam: Floats, costs: bool) -> Floats:
        """float64[part]."""
        with np.errstate(all="ignore"):
            return cheapest(self.rows, lam, costs)

    def leads(self, lam: Floats, worth: Floats, costs: bool) -> Lead:
        """Best column, its reduced cost, and its lead; worth: of the part's requests."""
        with np.errstate(all="ignore"):
            found = leads(self.rows, lam, worth, costs)
        return found.best, found.least, found.lead


def part_of(rows: Rows, lo: int, hi: int) -> Rows:
    """What the dense passes read of the requests lo..hi-1, to be sent away."""
    at = slice(lo, hi)
    families = [
        replace(
            family,
            usage=family.usage[at] if isinstance(family.usage, np.ndarray) else family.usage,
            inside=None if family.inside is None else family.inside[at],
            group=None if family.group is None else family.group[at],
        )
        for family in rows.families
    ]
    return replace(
        rows,
        problem=Problem(cost=rows.problem.cost[at], allowed=rows.problem.allowed[at]),
        passes=Passes(1),
        possible=rows.possible[at],
        cost=rows.cost[at],
        weight=rows.weight[at],
        alive=rows.alive[at],
        provable=rows.provable[at],
        option=rows.option[at],
        families=families,
        spread=None,
    )


def bounds_of(n: int, parts: int) -> list[tuple[int, int]]:
    """Where so many parts of n requests begin and end."""
    edges = [n * k // parts for k in range(parts + 1)]
    return [(lo, hi) for lo, hi in pairwise(edges) if lo < hi]
