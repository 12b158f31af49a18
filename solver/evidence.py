"""What a problem's data say at given prices: reduced costs and possible columns, recomputed for the verifier.

Shares nothing with the solving modules. Works in chunks of about half a million pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .problem import Limit, Problem, tolerance

__all__ = ["EPSILON", "Evidence", "gather"]

CHUNK_PAIRS = 1 << 19
WHOLE = 1e-6  # added before a weight is rounded down
EPSILON = float(np.finfo(np.float64).eps)
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """Per request, at prices lam: float64[n] each, inf where no column is possible.

    least: min over possible columns of c_ij + sum_k lam_k a_kij. cheapest: min c_ij. weighed: the same sum at
    prices mu without the cost, 0 without mu. priced, weighed_priced: lam.b and mu.b. noise, weighed_noise: how
    far rounding can move the sums of these terms over all requests.
    """

    least: Floats
    cheapest: Floats
    weighed: Floats
    priced: float
    weighed_priced: float
    noise: float
    weighed_noise: float


def gather(problem: Problem, lam: Floats, mu: Floats | None = None) -> Evidence:
    """One pass over the data. Rows of infinite cap have price 0 whatever ``lam`` and ``mu`` say.

    Both are float64[K], or float64[2 K] with the prices of what a row's group can serve behind them; the most that
    it can is found in a pass of its own.
    """
    n, m = problem.n, problem.m
    families = _families(problem)
    caps = problem.caps
    if max(len(lam), 0 if mu is None else len(mu)) > problem.rows:
        counts, most = _counts(problem, families)
        families += counts
        caps = np.append(caps, most)
        lam = np.append(lam, np.zeros(len(caps) - len(lam)))
        mu = None if mu is None else np.append(mu, np.zeros(len(caps) - len(mu)))
    finite = np.isfinite(caps)
    caps = np.where(finite, caps, 0.0)
    lam = np.where(finite, lam, 0.0)
    mu = None if mu is None else np.where(finite, mu, 0.0)
    least, cheapest, weighed = np.full(n, np.inf), np.full(n, np.inf), np.full(n, np.inf)
    step = max(1, CHUNK_PAIRS // max(1, m))
    with np.errstate(over="ignore", invalid="ignore"):
        for low in range(0, n if m else 0, step):
            part = slice(low, min(low + step, n))
            impossible = ~_possible(problem, families, part)
            price = problem.cost[part].astype(np.float64)
            price[impossible] = np.inf
            cheapest[part] = price.min(axis=1)
            _charge(price, families, lam, part)
            price[impossible] = np.inf
            least[part] = price.min(axis=1)
            if mu is not None:
                price = np.zeros(impossible.shape)
                _charge(price, families, mu, part)
                price[impossible] = np.inf
                weighed[part] = price.min(axis=1)
        noise, weighed_noise = (0.0 if p is None else _noise(families, p, caps, n) for p in (lam, mu))
        priced, weighed_priced = float(lam @ caps), 0.0 if mu is None else float(mu @ caps)
    if mu is None:
        weighed[np.isfinite(cheapest)] = 0.0
    return Evidence(least, cheapest, weighed, priced, weighed_priced, noise, weighed_noise)


@dataclass(slots=True, eq=False)
class _Family:
    """Limits that share a usage array (without ``requests`` and ``group``), or one limit that has these.

    cover: float64[R, m], 1 (or the number that is the usage) where row r covers column j. rows: its numbers in
    the problem; with a group one row of cover stands for all of them. room: caps with tolerance, inf for rows
    whose usage is somewhere negative. largest: of \\|usage\\|.
    """

    usage: npt.NDArray[Any] | None
    requests: npt.NDArray[np.intp] | None
    group: npt.NDArray[np.int32] | None
    rows: npt.NDArray[np.intp]
    cover: Floats
    columns: npt.NDArray[np.intp]
    room: Floats
    largest: float

    def inside(self, part: slice) -> Any:
        """The requests of a chunk it covers: a slice or indices, counted from the chunk's first."""
        if self.requests is None:
            return slice(None)
        low, high = np.searchsorted(self.requests, [part.start, part.stop])
        return self.requests[low:high] - part.start

    def index(self, at: Any) -> Any:
        """What selects the covered pairs in an array over the chunk's pairs."""
        if len(self.columns) == self.cover.shape[1]:
            return at
        return (at, self.columns) if isinstance(at, slice) else np.ix_(at, self.columns)

    def amount(self, part: slice, at: Any) -> Any:
        """Usage of the covered pairs of a chunk, as something that broadcasts to [requests, columns]."""
        if self.usage is None:
            return np.ones(1) if self.group is None else self.cover[0, self.columns]
        usage = self.usage[part][at]
        if usage.ndim == 1:
            return usage[:, None]
        return usage if len(self.columns) == usage.shape[1] else usage[:, self.columns]


def _families(problem: Problem) -> list[_Family]:
    shared: dict[int | None, list[tuple[Limit, int]]] = {}
    alone: list[list[tuple[Limit, int]]] = []
    for limit, first in zip(problem.limits, problem.first_row.tolist(), strict=False):
        if limit.group is not None or limit.requests is not None:
            alone.append([(limit, first)])
        else:
            key = id(limit.usage) if isinstance(limit.usage, np.ndarray) else None
            shared.setdefault(key, []).append((limit, first))
    return [_family(problem, members) for members in [*shared.values(), *alone]]


def _family(problem: Problem, members: Sequence[tuple[Limit, int]]) -> _Family:
    limit = members[0][0]
    usage = limit.usage if isinstance(limit.usage, np.ndarray) else None
    cover = np.zeros((len(members), problem.m))
    for row, (member, _) in zip(cover, members, strict=True):
        columns: Any = slice(None) if member.models is None else np.asarray(member.models)
        row[columns] = 1.0 if usage is not None else float(member.usage)
    rows = np.array([first for _, first in members], dtype=np.intp)
    if limit.group is not None:
        rows = rows[0] + np.arange(limit.rows)
    caps = problem.caps[rows]
    requests = None if limit.requests is None else np.asarray(limit.requests)
    columns = np.flatnonzero(cover.any(axis=0))
    largest = float(np.abs(cover).max(initial=0))
    if usage is not None:
        largest = max(abs(float(usage.max(initial=0))), abs(float(usage.min(initial=0))))
    family = _Family(usage, requests, limit.group, rows, cover, columns, caps + tolerance(caps), largest)
    family.room[_negative_rows(problem, family)] = np.inf
    return family


def _counts(problem: Problem, families: Sequence[_Family]) -> tuple[list[_Family], Floats]:
    """Families that count the weight served of a group, and float64[K]: the most there can be, inf where unsaid.

    Said of rows with a group and no negative usage, where all weights are whole: requests by least use per weight
    until the cap is reached, the last one in part, rounded down.
    """
    most = np.full(problem.rows, np.inf)
    found: list[_Family] = []
    weight = np.ones(problem.n) if problem.weight is None else problem.weight
    whole = np.all(weight == np.floor(weight))
    for family in families:
        own = family.rows
        if family.group is None or not whole or _negative_rows(problem, family).any():
            continue
        group = np.full(problem.n, -1, dtype=np.int64)
        at: Any = slice(None) if family.requests is None else family.requests
        group[at] = family.group[at]
        use = _least_use(problem, families, family)
        group[np.isinf(use)] = -1
        i = np.flatnonzero(group >= 0)
        i = i[np.lexsort((use[i] / weight[i], group[i]))]
        g, reach = group[i], np.cumsum(use[i])
        before = np.append(0.0, reach)[np.searchsorted(g, np.arange(len(own)))]
        room = family.room + EPSILON * i.size * (reach[-1] if i.size else 0.0)
        left = room[g] - (reach - use[i] - before[g])
        share = np.divide(left, use[i], out=np.ones(i.size), where=use[i] > 0)
        fits = np.bincount(g, weight[i] * np.clip(share, 0.0, 1.0), minlength=len(own))
        most[own] = np.where(np.isfinite(problem.caps[own]), np.floor(fits + WHOLE), np.inf)
        usage = None if problem.weight is None else weight
        cover = np.ones((1, problem.m))
        free = np.full(len(own), np.inf)
        columns = np.arange(problem.m)
        heaviest = float(weight.max(initial=1.0))
        found.append(
            _Family(usage, family.requests, family.group, problem.rows + own, cover, columns, free, heaviest)
        )
    return found, most


def _least_use(problem: Problem, families: Sequence[_Family], family: _Family) -> Floats:
    """float64[n]: least usage of a family over the possible columns of each request it covers, else inf."""
    least = np.full(problem.n, np.inf)
    step = max(1, CHUNK_PAIRS // max(1, problem.m))
    for low in range(0, problem.n if problem.m else 0, step):
        part = slice(low, min(low + step, problem.n))
        use = np.zeros((part.stop - low, problem.m))
        at = family.inside(part)
        use[family.index(at)] = family.amount(part, at)
        use[~_possible(problem, list(families), part)] = np.inf
        least[part][at] = use.min(axis=1)[at]
    return least


def _negative_rows(problem: Problem, family: _Family) -> Flags:
    """bool[rows]: the usage is negative on an allowed pair the row covers."""
    grouped = family.group is not None
    negative = np.zeros(len(family.rows), dtype=np.bool_)
    lowest = family.cover.min(initial=0) if family.usage is None else family.usage.min(initial=0)
    if lowest >= 0:
        return negative
    found = np.zeros(problem.m, dtype=np.bool_)
    for part, at, on in _covered(problem, family):
        if not grouped and family.usage is None:
            found[family.columns] |= on.any(axis=0)
            continue
        below = on & (family.amount(part, at) < 0)
        found[family.columns] |= below.any(axis=0)
        if family.group is not None:
            group = family.group[part][at][below.any(axis=1)]
            negative[group[group >= 0]] = True
    if grouped:
        return negative
    sign = family.cover < 0 if family.usage is None else family.cover != 0
    return np.asarray((sign & found).any(axis=1))


def _covered(problem: Problem, family: _Family) -> Iterator[tuple[slice, Any, Flags]]:
    """(chunk, requests of it, allowed[requests, columns]) of the pairs a family covers."""
    step = max(1, CHUNK_PAIRS // max(1, problem.m))
    for low in range(0, problem.n, step):
        part = slice(low, min(low + step, problem.n))
        at = family.inside(part)
        yield part, at, problem.allowed[part][at][:, family.columns]


def _possible(problem: Problem, families: list[_Family], part: slice) -> Flags:
    """bool[chunk, m]: allowed, and the pair alone breaks no row whose usage is nowhere negative."""
    possible = problem.allowed[part].copy()
    for family in families:
        if not len(family.columns) or family.largest <= family.room.min(initial=np.inf):
            continue
        at = family.inside(part)
        amount = family.amount(part, at)
        if family.group is not None:
            group = family.group[part][at]
            too_large = amount > np.where(group >= 0, family.room[group], np.inf)[:, None]
        else:
            cover = family.cover[:, family.columns]
            room = np.where(cover != 0, family.room[:, None], np.inf)
            too_large = (cover > room).any(axis=0) if family.usage is None else amount > room.min(axis=0)
        possible[family.index(at)] &= ~too_large
    return possible


def _charge(price: Floats, families: list[_Family], lam: Floats, part: slice) -> None:
    """price[i, j] += sum_k lam_k a_kij for a chunk."""
    for family in families:
        own = lam[family.rows]
        if not len(family.columns) or not own.any():
            continue
        at = family.inside(part)
        amount = family.amount(part, at)
        if family.group is None:
            rate: Any = (own @ family.cover)[family.columns]
        else:
            group = family.group[part][at]
            rate = np.where(group >= 0, own[group], 0.0)[:, None]
        price[family.index(at)] += amount * rate


def _noise(families: list[_Family], lam: Floats, caps: Floats, n: int) -> float:
    """Eight units in the last place of the largest terms that reduced costs and lam.b can hold."""
    largest = 0.0
    for family in families:
        own = lam[family.rows]
        rate = own if family.group is not None else own @ np.abs(family.cover)
        largest += float(rate.max(initial=0)) * (
            family.largest if family.usage is not None or family.group is not None else 1
        )
    return 8 * EPSILON * (n * largest + float(np.abs(lam * caps).sum()))
