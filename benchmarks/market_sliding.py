"""What the optimum in hindsight costs when its windows slide too: is the yardstick of whole minutes fair?

Orders are gathered in slots of five seconds and may be split over sellers, and only windows that begin with a slot are
kept, so this serves no less and costs no more than any policy can: a bound, found by linear programming.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["sliding_bound"]

SLOT_S = 5.0
WINDOW_S = 60.0


def sliding_bound(
    at_s: Sequence[float],
    kind: Sequence[int],
    costs: Sequence[Sequence[int | None]],
    tokens: Sequence[int],
    caps: Sequence[tuple[int, int]],
) -> tuple[float, float]:
    """(most served, least cost of so many in nano-dollars), both as a bound.

    at_s, kind: of each order. costs, tokens: of each kind, at each seller (None = not for sale) and altogether.
    caps: requests and tokens a minute of each seller.
    """
    from scipy.optimize import linprog
    from scipy.sparse import csr_matrix, vstack

    slot = np.floor((np.asarray(at_s) - min(at_s)) / SLOT_S).astype(int)
    cells, count = np.unique(np.stack([np.asarray(kind), slot]), axis=1, return_counts=True)
    pairs = [
        (c, k, t, j)
        for c, (k, t) in enumerate(cells.T.tolist())
        for j, nusd in enumerate(costs[k])
        if nusd is not None
    ]
    cell, kinds, slots, seller = np.array(pairs).T
    cost = np.array([costs[k][j] for _, k, _, j in pairs], dtype=np.float64)
    uses = np.asarray(tokens, dtype=np.float64)[kinds]
    rows: list[tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]] = []
    most: list[float] = []
    for c, number in enumerate(count.tolist()):
        inside = np.flatnonzero(cell == c)
        rows.append((inside, np.ones(len(inside))))
        most.append(number)
    wide = int(WINDOW_S / SLOT_S)
    for start in range(max(1, int(slot.max()) + 2 - wide)):
        for j, (requests, amount) in enumerate(caps):
            inside = np.flatnonzero((seller == j) & (start <= slots) & (slots < start + wide))
            rows += [(inside, np.ones(len(inside))), (inside, uses[inside])]
            most += [requests, amount]
    ends = np.cumsum([0] + [len(columns) for columns, _ in rows])
    columns, values = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    limits = csr_matrix((values, columns, ends), shape=(len(rows), len(pairs)))
    served = -linprog(-np.ones(len(pairs)), A_ub=limits, b_ub=most, method="highs").fun
    least = vstack([limits, csr_matrix(-np.ones((1, len(pairs))))])
    cheapest = linprog(cost, A_ub=least, b_ub=[*most, 1e-6 - served], method="highs")
    return float(served), float(cheapest.fun)
