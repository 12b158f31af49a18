"""Prices of large problems: a sample with all its columns, then more requests with fewer columns each.

At every level the requests whose best column leads by more than the prices can be wrong are fixed to it; the rest
are the band of the next interior-point run. Prices from n requests are wrong by about sqrt(K / n).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .band import make_band
from .greedy import fill
from .interior import InteriorPoint, solve_band
from .rows import NEVER, Floats, Ints, Rows

__all__ = [
    "ALL_OPEN",
    "WHOLE_OPTIONS",
    "Leads",
    "Round",
    "all_options",
    "first_base",
    "first_width",
    "leads",
    "options_within",
    "relaxed",
    "sampled",
    "settle_groups",
    "sift",
]

WHOLE_OPTIONS = 60_000  # up to here the first level is everything
GROWTH = 8  # requests of a level / of the one before
WIDEST = 10  # columns per request
ROUGH = 5e-3  # gap of a sample: its own error is larger
HARD = 0.002  # share that a fill at the given prices leaves unserved
MOST_OPEN = 130_000  # requests that may all be open at once
ALL_OPEN = 1e6  # a width that nobody's lead reaches


@dataclass(slots=True, eq=False)
class Leads:
    """Per request: best column (m = unserved), its reduced cost, and by what share of it the second is dearer."""

    best: npt.NDArray[np.int32]
    least: npt.NDArray[np.float32]
    lead: npt.NDArray[np.float32]


def leads(rows: Rows, lam: Floats, worth: Floats, costs: bool = True, at: Ints | None = None) -> Leads:
    """The leads of the requests ``at`` (all of them with None) at prices lam."""
    n = rows.n if at is None else len(at)
    if rows.spread is not None and 2 * n > rows.n:
        parts = rows.spread.leads(lam, worth, costs)
        best, least, lead = (np.concatenate([part[k] for part in parts]) for k in range(3))
        return Leads(best, least, lead) if at is None else Leads(best[at], least[at], lead[at])
    best, least, lead = np.empty(n, np.int32), np.empty(n, np.float32), np.empty(n, np.float32)
    value = worth.astype(np.float32)

    def work(lo: int, hi: int) -> None:
        here: Any = slice(lo, hi) if at is None else at[lo:hi]
        r = rows.reduced_at(here, lam, costs=costs)
        own = value[here]
        j = r.argmin(axis=1)
        line = np.arange(hi - lo)
        first = r[line, j]
        r[line, j] = np.inf
        second = r.min(axis=1)
        out = first > own
        second = np.where(out, first, np.minimum(second, own))
        first = np.where(out, own, first)
        best[lo:hi] = np.where(out, rows.m, j)
        least[lo:hi] = first
        lead[lo:hi] = (second - first) / np.maximum(np.abs(first), 1e-9)

    list(rows.passes.over(n, rows.m, work))
    return Leads(best, least, lead)


def all_options(rows: Rows, i: Ints) -> list[tuple[Ints, npt.NDArray[Any]]]:
    """Every possible column of the requests i, and unserved."""
    j = np.where(rows.possible[i].T, np.arange(rows.m)[:, None], rows.m + 1)
    return [(i, np.concatenate([j, np.full((1, len(i)), rows.m)]))] if len(i) else []


def options_within(
    rows: Rows,
    lam: Floats,
    worth: Floats,
    i: Ints,
    reach: Floats,
    base: npt.NDArray[np.int32],
    costs: bool = True,
    widest: int = WIDEST,
) -> list[tuple[Ints, npt.NDArray[Any]]]:
    """The base column, those with r <= (1 + reach_i) min r, at most ``widest``, and unserved, grouped by how many a request has."""
    groups: dict[int, list[tuple[Ints, Any]]] = {}
    step = max(1, (1 << 19) // rows.m)
    sizes = [w for w in (1, 2, 3, 4, 6, 8, 10, 14, 20, 30) if w < widest] + [widest]
    for lo in range(0, len(i), step):
        at = i[lo : lo + step]
        r = rows.reduced_at(at, lam, costs=costs)
        least = np.minimum(r.min(axis=1), worth[at])
        near = r <= (least + np.abs(least) * reach[lo : lo + step] * 1.0001 + 1e-9)[:, None]
        near &= r < NEVER / 2
        on = np.flatnonzero(base[at] < rows.m)
        near[on, base[at[on]]] = True
        r[on, base[at[on]]] = -1.0
        count = np.clip(near.sum(axis=1), 1, widest)
        r = np.where(near, r, np.inf)
        for below, size in zip([0, *sizes], sizes, strict=False):
            mine = np.flatnonzero((count > below) & (count <= size))
            if not len(mine):
                continue
            part = r[mine]
            take = min(size, part.shape[1])
            j = (
                np.argpartition(part, take - 1, axis=1)[:, :take]
                if take < part.shape[1]
                else np.argsort(part, axis=1)
            )
            j = np.where(np.isfinite(np.take_along_axis(part, j, axis=1)), j, rows.m + 1)
            j = np.concatenate([j.T, np.full((1, len(mine)), rows.m)])
            groups.setdefault(size, []).append((at[mine], j))
    return [
        (np.concatenate([g[0] for g in group]), np.concatenate([g[1] for g in group], axis=1))
        for _, group in sorted(groups.items())
    ]


def _sample_caps(rows: Rows, caps: Floats, i: Ints, n: int) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Caps for the sample i of n requests, and which rows it says enough about."""
    share = len(i) / n
    ratio = np.full(rows.k, share)
    keep = np.ones(rows.k, bool)
    for family in rows.families:
        if family.group is None and family.inside is None:
            if isinstance(family.usage, np.ndarray) and family.usage.ndim == 1 and family.usage.min() >= 0:
                on = family.slots[family.slots >= 0]
                ratio[on] = family.usage[i].sum(dtype=np.float64) / max(
                    float(family.usage[rows.alive].sum(dtype=np.float64)), 1e-12
                )
            continue
        group = np.zeros(rows.n, np.int64) if family.group is None else family.group
        inside = rows.alive if family.inside is None else rows.alive & family.inside
        size = np.ones(rows.n)
        if isinstance(family.usage, np.ndarray) and family.usage.ndim == 1:
            size = np.abs(family.usage.astype(np.float64))
        elif isinstance(family.usage, np.ndarray):
            size = (
                np.abs(family.usage[:, 0].astype(np.float64))
                if rows.m == 1
                else _row_mean(rows, family.usage)
            )
        slots = (
            np.append(family.slots, -1)[group]
            if family.group is not None
            else np.full(rows.n, family.slots.max(initial=-1))
        )
        counted: Any = inside & (slots >= 0)
        need = np.bincount(slots[counted], size[counted], minlength=rows.k)
        mine = i[counted[i]]
        have = np.bincount(slots[mine], size[mine], minlength=rows.k)
        number = np.bincount(slots[mine], minlength=rows.k)
        largest = np.zeros(rows.k)
        np.maximum.at(largest, slots[mine], size[mine])
        own = np.unique(family.slots[family.slots >= 0])
        first = own if family.group is not None else np.full(len(own), family.slots.max())
        ratio[own] = have[first] / np.maximum(need[first], 1e-12)
        keep[own] = (number[first] >= 10) & (caps[own] * ratio[own] >= 3 * largest[first])
    return caps * ratio, keep


def _row_mean(rows: Rows, usage: npt.NDArray[Any]) -> Floats:
    """float64[n]: mean use over the possible columns of each request."""

    def work(lo: int, hi: int) -> Floats:
        on = rows.possible[lo:hi]
        total = np.einsum("ij,ij->i", usage[lo:hi], on, dtype=np.float64, casting="unsafe")
        return np.asarray(np.abs(total) / np.maximum(on.sum(axis=1), 1))

    return np.concatenate([np.zeros(0), *rows.passes.over(rows.n, rows.m, work)])


def sampled(
    rows: Rows, worth: Floats, seed: int, left: Callable[[], float], costs: bool = True
) -> tuple[Floats, float]:
    """(prices of ever larger samples, by what share they may be wrong). The last sample is below a third of all."""
    alive = np.flatnonzero(rows.alive)
    n, m = len(alive), rows.m
    order = np.random.default_rng(seed).permutation(alive)
    size = max(800, WHOLE_OPTIONS * 2 // 3 // (m + 1))
    i = np.sort(order[:size])
    caps, keep = _sample_caps(rows, rows.caps, i, n)
    lam = solve_band(
        make_band(rows, all_options(rows, i), worth, caps, costs, keep=keep), ROUGH, left=left
    ).lam
    wrong = min(0.5, (rows.k / size) ** 0.5)
    while size * GROWTH * 1.5 < n and left() > 0:
        size *= GROWTH
        i = np.sort(order[:size])
        caps, keep = _sample_caps(rows, rows.caps, i, n)
        lam = settle_groups(rows, lam, worth, i, caps, costs)
        base = first_base(rows, lam, worth, i, caps, costs)
        wrong = first_width(rows, base, i, wrong)
        round_ = sift(
            rows, lam, worth, i, caps, base, np.zeros(rows.n, bool), wrong, ROUGH, costs, keep, left
        )
        lam = round_.lam
        wrong = min(0.5, (rows.k / size) ** 0.5)
    return lam, wrong


def relaxed(
    rows: Rows, worth: Floats, left: Callable[[], float], tolerance: float, costs: bool = True
) -> tuple[InteriorPoint, npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """(prices, column, loose) of the whole problem in one band; for what is small."""
    alive = np.flatnonzero(rows.alive)
    options = all_options(rows, alive)
    found = solve_band(make_band(rows, options, worth, rows.caps, costs), tolerance, left=left)
    base = np.full(rows.n, -1, np.int32)
    return found, base, _settle(base, options, found)


@dataclass(slots=True, eq=False)
class Round:
    """lam: prices; loose: bool[n]; value: of the relaxation, V for who is not served; converged, opened: the run."""

    lam: Floats
    loose: npt.NDArray[np.bool_]
    value: float
    converged: bool
    opened: int
    steps: int


def sift(
    rows: Rows,
    lam: Floats,
    worth: Floats,
    i: Ints,
    caps: Floats,
    base: npt.NDArray[np.int32],
    loose: npt.NDArray[np.bool_],
    wrong: float,
    tolerance: float,
    costs: bool = True,
    keep: npt.NDArray[np.bool_] | None = None,
    left: Any = None,
    close: bool = False,
) -> Round:
    """One round: who is not at its best column, or leads by less than ``wrong``, chooses again; the rest stay.

    base: int32[n], the column of every request of i (m = unserved), changed in place to the new one. loose:
    bool[n], whose column is only the largest of several fractions. What stays leaves room for what is open at its
    present columns, so every round starts feasible and can only improve (column generation; J. Gondzio,
    P. Gonzalez-Brevis, P. Munari 2013). close: the prices are near those of this very problem.
    """
    given = leads(rows, lam, worth, costs, i)
    is_open = (given.lead <= wrong) | (given.best != base[i]) | loose[i] | (wrong >= ALL_OPEN)
    choice = np.full(rows.n, -1, np.int32)
    choice[i] = np.where(is_open | (base[i] == rows.m), -1, base[i])
    room = caps - rows.load(choice)
    reach = np.full(int(is_open.sum()), wrong)
    options = options_within(rows, lam, worth, i[is_open], reach, base, costs)
    band = make_band(rows, options, worth, room, costs, keep=keep)
    if wrong >= ALL_OPEN:
        found = solve_band(band, tolerance, left=left)
    elif close:
        found = solve_band(band, tolerance, lam=lam, start=0.1, left=left)
    else:
        found = solve_band(
            band, tolerance, lam=np.maximum(1.5 * lam, 0.03 * band.worth / band.scale), start=0.3, left=left
        )
    if not found.converged and wrong < ALL_OPEN and (left is None or left() > 0):
        found = solve_band(band, tolerance, left=left)
    stay = choice >= 0
    fixed = float(rows.problem.cost[stay, choice[stay]].sum()) if costs else 0.0
    idle = i[~is_open & (base[i] == rows.m)]
    fresh = _settle(base, options, found)
    value = fixed + float(worth[idle].sum()) + found.value
    return Round(found.lam, fresh, value, found.converged, int(is_open.sum()), found.steps)


def _settle(
    base: npt.NDArray[np.int32], options: list[tuple[Ints, Any]], found: InteriorPoint
) -> npt.NDArray[np.bool_]:
    """Writes the largest option of every open request into base; returns whose is not nearly all of it."""
    loose = np.zeros(len(base), bool)
    for (who, columns), (top, share) in zip(options, found.fractions, strict=True):
        base[who] = columns[top, np.arange(len(who))]
        loose[who] = share < 0.999
    return loose


def settle_groups(
    rows: Rows, lam: Floats, worth: Floats, at: Ints, caps: Floats, costs: bool = True, turns: int = 14
) -> Floats:
    """lam with the price of every overspent group raised until its best columns fit, all else unchanged.

    Groups of one limit share no request, so all of them are bisected at once (on the log scale).
    """
    lam = lam.copy()
    for family in rows.families:
        if family.group is None:
            continue
        slots = np.append(family.slots, -1)[family.group[at]]
        i, slot = at[slots >= 0], slots[slots >= 0]
        load = _group_load(rows, lam, worth, i, costs)
        over = np.zeros(rows.k, bool)
        own = family.slots[family.slots >= 0]
        over[own] = load[own] > caps[own] * 1.01
        i, slot = i[over[slot]], slot[over[slot]]
        if not len(i):
            continue
        least = np.where(over, np.inf, 0.0)
        use = rows.most_use(family, i)
        np.minimum.at(least, slot[use > 0], use[use > 0])
        high = np.where(over, np.maximum(lam, 2.0 * float(worth[i].max()) / np.maximum(least, 1e-12)), lam)
        low = np.where(over, np.maximum(lam, 1e-9 * high), lam)
        for _ in range(turns):
            middle = np.where(over, np.sqrt(low * high), lam)
            fits = _group_load(rows, middle, worth, i, costs) <= caps
            high = np.where(over & fits, middle, high)
            low = np.where(over & ~fits, middle, low)
        lam = np.where(over, high, lam)
    return lam


def _group_load(rows: Rows, lam: Floats, worth: Floats, i: Ints, costs: bool) -> Floats:
    given = leads(rows, lam, worth, costs, i)
    choice = np.full(rows.n, -1, np.int32)
    choice[i] = np.where(given.best < rows.m, given.best, -1)
    return rows.load(choice, i)


def first_width(rows: Rows, base: npt.NDArray[np.int32], i: Ints, wrong: float) -> float:
    """How wide the first round must be: prices that leave many unserved are good for choosing columns only."""
    return ALL_OPEN if 0 < len(i) <= MOST_OPEN and np.mean(base[i] == rows.m) > HARD else wrong


def first_base(
    rows: Rows, lam: Floats, worth: Floats, i: Ints, caps: Floats, costs: bool
) -> npt.NDArray[np.int32]:
    """int32[n]: a column for every request of i that keeps the caps, m = unserved; largest regret first."""
    given = leads(rows, lam, worth, costs, i)
    order = i[np.argsort(-(given.lead * np.abs(given.least)), kind="stable")]
    choice = np.full(rows.n, -1, np.int32)
    fill(rows, choice, order, caps, lam)
    choice[i[choice[i] < 0]] = rows.m
    return choice
