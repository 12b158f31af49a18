"""Prices of large problems: a sample with all its columns, then more requests with fewer columns each.

At every level the requests whose best column leads by more than the prices can be wrong are fixed to it; the rest
are the band of the next interior-point run. Prices from n requests are wrong by about sqrt(K / n).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .band import make_band
from .groups import settle_groups
from .interior import InteriorPoint, balanced_prices, solve_band
from .options import Options, all_options, leads, options_within
from .rows import Floats, Ints, Rows
from .sampling import drawn, seen

__all__ = [
    "CORE",
    "CORE_REQUESTS",
    "WHOLE_OPTIONS",
    "Round",
    "first",
    "nearer",
    "relaxed",
    "sampled",
    "sampled_once",
    "sift",
]

WHOLE_OPTIONS = 60_000  # up to here everything is one band
FIRST_SIZE = 8_000  # requests of the first sample
GROWTH = 8  # requests of a level / of the one before
ROUGH = 5e-3  # gap of a sample: its own error is larger
START, TURNS = 0.3, 5  # mu of a level's run, in what its prices may be wrong; its rounds of balancing
ERROR = 0.5  # prices of n requests are wrong by ERROR sqrt(K / n)
USABLE = 0.1  # a warm run that got stuck is good enough with this gap
UNCLOSED = 0.3  # and rows that miss less than this share of their caps
FAR_START, NEAR_START = 0.1, 0.03  # mu of the first run of all, and of the next
LATE_START = (
    0.02  # and of the first on everybody, at least: few choose again, and from the edge none of them moves
)
BEGINNINGS = 4  # runs of the first sample before all of its columns are tried
FEW = 20_000  # requests that all choose at once in a first round
CROWDED = 0.01  # share of requests priced out: nearly all matter to the prices then
FAR = 0.8  # columns of a first band, by how much they are dearer than the best
DRAWN_OF, DRAWN = 60_000, 40_000  # requests of which so many are drawn
FIRST_DRAWN = 1e-4  # gap of their run
GROUP = 3_000  # requests of a group that are asked for its price then
MOST_OPEN = 150_000  # requests that may all choose at once
PATIENCE = 8  # short steps in a row after which a warm run is given up
MOVES = 2.0  # use of a row by who chooses again / what is to be moved off it, at least
CORE, CORE_REQUESTS = 8, 5_000  # a later round has CORE K requests and so many at least,
WIDE = 0.05  # but none that leads by more
REACH = 0.08  # columns of a later round, by how much they are dearer than the best, at least
SLICE = 100_000  # requests whose uses are listed at a time
SPARE = 0.02  # of every cap, must be left to who chooses again
WIDENED = 6  # times that a band is widened, twice as far each, where a row has less
SURE = 0.999  # a larger share of one column is all of it


@dataclass(slots=True, eq=False)
class Round:
    """What one band gave.

    lam: prices; base: int32[n], the column of every request (m = unserved, -1 = not asked); loose: bool[n], whose
    column is only the largest of several fractions. value: of the relaxation, V for who is not served. opened: how
    many chose again. converged, steps: the interior-point run's. usable: it is near enough to go on from.
    """

    lam: Floats
    base: npt.NDArray[np.int32]
    loose: npt.NDArray[np.bool_]
    value: float
    opened: int
    converged: bool
    usable: bool
    steps: int


def relaxed(
    rows: Rows, worth: Floats, i: Ints, left: Callable[[], float], tolerance: float, costs: bool = True
) -> Round:
    """The requests i with all their columns as one band; for what is small."""
    options = all_options(rows, i)
    found = solve_band(make_band(rows, options, worth, rows.caps, costs), tolerance, left=left)
    return _settled(np.full(rows.n, -1, np.int32), options, found, 0.0, len(i))


def sampled(
    rows: Rows, worth: Floats, among: Ints, seed: int, left: Callable[[], float]
) -> tuple[Floats, float]:
    """(prices of ever larger samples, by what share they may be wrong). The last sample is below half of all."""
    n = len(among)
    size, lam, wrong = min(FIRST_SIZE, n // 2), None, 1.0
    while lam is None or (size * 2 < n and left() > 0):
        i, times, keep = _drawn(rows, among, size, seed)
        if lam is None:
            lam = _begun(rows, worth, i, left, times, keep)
        else:
            lam = first(rows, lam, worth, i, wrong, ROUGH, left, times, keep).lam
        wrong = min(0.2, ERROR * (rows.k / size) ** 0.5)
        size *= GROWTH
    return lam, wrong


def sampled_once(
    rows: Rows, worth: Floats, among: Ints, seed: int, left: Callable[[], float], tolerance: float
) -> Floats:
    """Prices of the first sample alone, with all of its columns."""
    i, times, keep = _drawn(rows, among, min(FIRST_SIZE, len(among) // 2), seed)
    everything = make_band(rows, all_options(rows, i), worth, rows.caps, keep=keep, weight=times)
    return solve_band(everything, tolerance, left=left).lam


def _drawn(rows: Rows, among: Ints, size: int, seed: int) -> tuple[Ints, Floats, npt.NDArray[np.bool_]]:
    """(requests of a sample, float64[n] how many each stands for, rows it tells of)."""
    i, weight = drawn(rows, among, size, seed)
    times = np.zeros(rows.n)
    times[i] = weight
    return i, times, seen(rows, i, weight)


def _begun(
    rows: Rows,
    worth: Floats,
    i: Ints,
    left: Callable[[], float],
    times: Floats,
    keep: npt.NDArray[np.bool_],
) -> Floats:
    """Prices of a sample from nothing: balanced over all columns, then solved on those that come near.

    Under overload balanced prices say little about who comes near: where the result is not nearly as good on all
    columns, all of them are tried.
    """
    everything = make_band(rows, all_options(rows, i), worth, rows.caps, keep=keep, weight=times)
    lam, start = balanced_prices(everything), FAR_START
    crowded = float((leads(rows, lam, worth, at=i).best == rows.m).mean()) > CROWDED
    for _ in range(0 if crowded else BEGINNINGS):
        options = options_within(rows, lam, worth, i, FAR)
        near = make_band(rows, options, worth, rows.caps, keep=keep, weight=times)
        found = solve_band(near, ROUGH, lam=lam, start=start, turns=0, patience=PATIENCE, left=left)
        if not _usable(found, 1.0):
            break
        lam, start = found.lam, NEAR_START
        paid = float(times[i] @ leads(rows, lam, worth, at=i).least) - float(lam @ rows.caps)
        if found.value - paid <= 2 * ROUGH * abs(found.value):
            return lam
    return solve_band(everything, ROUGH, left=left).lam


def first(
    rows: Rows,
    lam: Floats,
    worth: Floats,
    i: Ints,
    wrong: float,
    tolerance: float,
    left: Callable[[], float],
    times: Floats | None = None,
    keep: npt.NDArray[np.bool_] | None = None,
) -> Round:
    """The requests i at prices that may be ``wrong``: who leads by less chooses again, the others are fixed.

    times: float64[n], how many requests each stands for. keep: rows seen.
    """
    lam = settle_groups(rows, lam, worth, i, times)
    base, room, crowded = _fixed(rows, lam, worth, i, wrong, times, keep)
    at, found = i[base[i] < 0], None
    if not (crowded and len(i) <= FEW):
        options = options_within(rows, lam, worth, at, max(wrong, REACH))
        band = make_band(rows, options, worth, room, keep=keep, weight=times)
        found = solve_band(
            band,
            tolerance,
            lam=lam,
            start=max(START * wrong, LATE_START) if times is None else START * wrong,
            turns=TURNS,
            patience=PATIENCE,
            left=left,
        )
    if found is None or (not _usable(found, 1.0) and len(i) <= MOST_OPEN and left() > 0):
        base = np.full(rows.n, -1, np.int32)
        few = len(i) <= FEW
        at, options = i, all_options(rows, i) if few else options_within(rows, lam, worth, i, FAR)
        band = make_band(rows, options, worth, rows.caps, keep=keep, weight=times)
        found = solve_band(band, tolerance, lam=None if few else lam, left=left)
    found.lam = np.where(band.users > 0, found.lam, lam)  # nobody who uses them chose again
    return _settled(base, options, found, _paid(rows, worth, base, i), len(at))


def nearer(
    rows: Rows, lam: Floats, worth: Floats, i: Ints, wrong: float, seed: int, left: Callable[[], float]
) -> tuple[Floats, float]:
    """(prices, by what share they may be wrong): who would choose again is drawn from where there are too many.

    What is fixed is known of everybody, so only what the others take is estimated: with a share f of all open the
    error is f times that of a sample as large.
    """
    if np.count_nonzero(leads(rows, lam, worth, at=i).lead <= wrong) <= DRAWN_OF:
        return lam, wrong
    given, lam = lam, settle_groups(rows, lam, worth, i, enough=GROUP)
    base, room, _ = _fixed(rows, lam, worth, i, wrong, None, None)
    at = i[base[i] < 0]
    share = len(at) / len(i)
    at, times, keep = _drawn(rows, at, DRAWN, seed)
    options = options_within(rows, lam, worth, at, max(wrong, REACH))
    band = make_band(rows, options, worth, room, keep=keep, weight=times)
    found = solve_band(
        band, FIRST_DRAWN, lam=lam, start=START * wrong, turns=TURNS, patience=PATIENCE, left=left
    )
    if not _usable(found, 1.0):
        return given, wrong
    return np.where(band.users > 0, found.lam, lam), min(
        wrong, max(0.01, share * ERROR * (rows.k / len(at)) ** 0.5)
    )


def _fixed(
    rows: Rows,
    lam: Floats,
    worth: Floats,
    i: Ints,
    wrong: float,
    times: Floats | None,
    keep: npt.NDArray[np.bool_] | None,
) -> tuple[npt.NDArray[np.int32], Floats, bool]:
    """(int32[n] the columns of who is fixed, else -1; float64[K] room for the others; whether many are priced out).

    Who leads by more than ``wrong`` is fixed. Where what is fixed leaves a row less than SPARE of its cap, its users choose again within twice the width.
    """
    given = leads(rows, lam, worth, at=i)
    base = np.full(rows.n, -1, np.int32)
    base[i] = np.where(given.best < rows.m, given.best, -1)
    everything = rows.load(base, i, times)
    off = np.maximum(everything - rows.caps, 0.0)
    width = np.full(len(i), wrong if len(i) > FEW or times is not None else np.inf)
    for turn in range(WIDENED + 1):
        fixed = (given.lead > width) & (given.best < rows.m)
        base[i] = np.where(fixed, given.best, -1)
        moves = everything - rows.load(base, i, times)
        room = rows.caps - everything + moves
        short = (moves < MOVES * off) | (room < SPARE * np.abs(rows.caps))
        short &= fixed.any()
        if keep is not None:
            short &= keep
        if not short.any():
            break
        users = _users(rows, i, given.best, np.flatnonzero(fixed), short)
        if not len(users):
            break
        width[users] = 2.0 * width[users] if turn < WIDENED - 1 else np.inf
    return base, room, float((given.best == rows.m).mean()) > CROWDED


def sift(
    rows: Rows,
    lam: Floats,
    worth: Floats,
    i: Ints,
    base: npt.NDArray[np.int32],
    loose: npt.NDArray[np.bool_],
    wrong: float,
    tolerance: float,
    left: Callable[[], float],
) -> Round:
    """One more round: who is not at its best column, leads by less than ``wrong`` or is loose chooses again.

    base, loose: of the round before. What stays leaves room for what is open at its present columns, so a round starts
    feasible and can only improve (column generation; J. Gondzio, P. Gonzalez-Brevis, P. Munari 2013).
    """
    given = leads(rows, lam, worth, at=i)
    fewest = min(max(CORE * rows.k, CORE_REQUESTS), len(i) - 1)
    wrong = max(wrong, min(WIDE, float(np.partition(given.lead, fewest)[fewest])))
    again = (given.lead <= wrong) | (given.best != base[i]) | loose[i]
    at = i[again]
    options = options_within(rows, lam, worth, at, max(2.0 * wrong, REACH), base)
    base = base.copy()
    base[at] = -1
    room = rows.caps - rows.load(np.where(base == rows.m, -1, base))
    band = make_band(rows, options, worth, room)
    found = solve_band(
        band,
        tolerance,
        lam=lam,
        start=max(START * wrong, NEAR_START),
        turns=TURNS,
        patience=PATIENCE,
        left=left,
    )
    if not _usable(found, wrong) and left() > 0:
        found = solve_band(band, tolerance, lam=lam, start=FAR_START, turns=TURNS, left=left)
    found.lam = np.where(band.users > 0, found.lam, lam)
    return _settled(base, options, found, _paid(rows, worth, base, i), len(at))


def _users(rows: Rows, i: Ints, best: npt.NDArray[np.int32], at: Ints, short: npt.NDArray[np.bool_]) -> Ints:
    """Which of ``at`` (places in i) use a row that is short at their best column."""

    def work(lo: int) -> Ints:
        here = at[lo : lo + SLICE]
        p, k, _ = rows.pairs(i[here], best[here].astype(np.int64))
        return here[np.unique(p[short[k]])]

    return np.concatenate([at[:0], *(work(lo) for lo in range(0, len(at), SLICE))])


def _usable(found: InteriorPoint, wrong: float) -> bool:
    return found.converged or (found.residual < UNCLOSED and found.gap < USABLE * wrong)


def _paid(rows: Rows, worth: Floats, base: npt.NDArray[np.int32], i: Ints) -> float:
    """What the fixed requests cost, V for who is fixed as unserved."""
    stay = i[(base[i] >= 0) & (base[i] < rows.m)]
    fixed = float(rows.problem.cost[stay, base[stay]].sum())
    return fixed + float(worth[i[base[i] == rows.m]].sum())


def _settled(
    base: npt.NDArray[np.int32], options: Options, found: InteriorPoint, paid: float, opened: int
) -> Round:
    """The round with the largest option of every open request in base."""
    loose = np.zeros(len(base), bool)
    for (who, columns), (top, share) in zip(options, found.fractions, strict=True):
        base[who] = columns[top, np.arange(len(who))]
        loose[who] = share < SURE
    return Round(
        found.lam, base, loose, paid + found.value, opened, found.converged, _usable(found, 1.0), found.steps
    )
