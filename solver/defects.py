"""What keeps a plan from its bound, and the requests that could mend it.

At prices lambda the cost of a plan exceeds the bound by exactly what its requests pay above their least reduced cost,
plus what is paid for room that is not used, plus V for whoever is left out. Each such *defect* touches a few rows;
only requests whose nearest two columns use those rows differently can make or take the room it needs. A neighbourhood
is one defect after another with the nearest of these.
"""

from __future__ import annotations

import numpy as np

from .options import leads
from .rows import Floats, Ints
from .search import Choice, Search

__all__ = ["Defects"]

POOL = 200  # nearest ties per row, and per group, that are known
WHOLE_GROUP = 20_000  # of a group of which somebody is left out
AMONG = 4  # requests that one is drawn from
LOST = (1, 1, 1, 3)  # times as large is a neighbourhood for somebody left out
LATER = 0.3  # of a neighbourhood, by the rows that the others would like to use


class Defects:
    """Defects of the plan of a search at its last prices of V.

    order: requests with a possible column, the nearest ties first. least, best: of :func:`solver.options.leads`.
    regret: by how much the second best is dearer.
    """

    def __init__(self, search: Search) -> None:
        self.search, self.rows = search, search.rows
        rows = self.rows
        given = leads(rows, search.steer, search.worth)
        self.least, self.best = given.least.astype(np.float64), given.best
        self.regret = given.lead.astype(np.float64) * np.abs(self.least)
        alive = np.flatnonzero(rows.alive)
        self.order = alive[np.argsort(self.regret[alive], kind="stable")]
        self.known = np.zeros(0, np.int64)

    def learn(self) -> None:
        """Lists, per row, who could give or take room of it: by regret, and by regret per unit that is given."""
        near = self._near()
        if len(near) == len(self.known):
            return
        self.known = near
        best = self.rows.reduced_at(near, self.search.steer).argmin(axis=1)
        row, who, given = self._changes(near, best, self._second(near))
        self.touching = _nearest(row, who, self.regret[who], self.rows.k)
        gives = given > 0
        row, who = row[gives], who[gives]
        self.giving = _nearest(row, who, self.regret[who] / given[gives], self.rows.k)

    def _near(self) -> Ints:
        """The nearest ties of all and of every group, and groups of which somebody is left out."""
        rows = self.rows
        wanted = np.zeros(rows.n, bool)
        wanted[self.order[: max(20_000, rows.n // 20)]] = True
        out = self._left_out(self.search.choice)
        for family in rows.families:
            if family.group is None:
                continue
            row = np.append(family.slots, -1)[family.group[self.order]]
            own, row = self.order[row >= 0], row[row >= 0]
            by = np.argsort(row, kind="stable")
            place = np.arange(len(row)) - np.searchsorted(row[by], row[by])
            short = np.zeros(rows.k, bool)
            lost = np.append(family.slots, -1)[family.group[out]]
            short[lost[lost >= 0]] = True
            wanted[own[by[place < np.where(short[row[by]], WHOLE_GROUP, POOL)]]] = True
        return np.flatnonzero(wanted)

    def _second(self, i: Ints) -> Ints:
        r = self.rows.reduced_at(i, self.search.steer)
        line = np.arange(len(i))
        r[line, r.argmin(axis=1)] = np.inf
        return np.asarray(r.argmin(axis=1))

    def _changes(self, near: Ints, best: Ints, second: Ints) -> tuple[Ints, Ints, Floats]:
        """(row, request, room given) where the second best column uses a row otherwise than the best does."""
        rows = self.rows
        p1, k1, a1 = rows.pairs(near, best)
        p2, k2, a2 = rows.pairs(near, second)
        key = np.concatenate([p1, p2]) * rows.k + np.concatenate([k1, k2])
        key, at = np.unique(key, return_inverse=True)
        given = np.bincount(at, np.concatenate([a1, -a2]), minlength=len(key))
        p, k = np.divmod(key[given != 0], max(1, rows.k))
        return k, near[p], given[given != 0]

    def drawn(self, rng: np.random.Generator, left: Floats, size: int, number: int) -> list[Ints]:
        """``number`` disjoint neighbourhoods of about ``size`` requests. left: float64[K], room less load."""
        self.learn()
        who, weight = self._all(left)
        found: list[Ints] = []
        seen: set[int] = set()
        chance = weight / weight.sum() if len(who) else weight
        for _ in range(number):
            mine: list[int] = []
            for at in rng.choice(len(who), min(len(who), 3), replace=False, p=chance) if len(who) else []:
                lost = who[at] < self.rows.n and self.search.choice[who[at]] < 0
                self._gather(
                    rng,
                    int(who[at]),
                    left,
                    mine,
                    seen,
                    rng.choice(LOST) * size if lost else max(4, size // 3),
                )
                if len(mine) >= size:
                    break
            if len(mine) < size:
                self._fill(rng, self.order[: AMONG * size * number], mine, seen, size - len(mine))
            if mine:
                found.append(np.sort(np.array(mine)))
        return found

    def _all(self, left: Floats) -> tuple[Ints, Floats]:
        """(defects, how much each costs): a request, or n + a row with room that is paid for."""
        search, rows = self.search, self.rows
        choice = search.choice
        off = np.flatnonzero((choice >= 0) & (choice != self.best))
        extra = rows.reduced_at(off, search.steer)[np.arange(len(off)), choice[off]] - self.least[off]
        idle = np.maximum(left, 0.0) * search.steer
        out = self._left_out(choice)
        # one that hardly any price keeps out is likelier mended
        lost = search.worth[out] * np.exp(-2.0 * np.minimum(self.least[out] / search.worth[out], 20.0))
        who = np.concatenate([off, rows.n + np.arange(rows.k), out])
        weight = np.concatenate([np.maximum(extra, 0.0), idle, lost]).astype(np.float64)
        on = weight > 0
        return who[on], weight[on]

    def _left_out(self, choice: Choice) -> Ints:
        search, rows = self.search, self.rows
        out = rows.alive & (choice < 0)
        if search.surplus:
            return np.flatnonzero(out & (self.best < rows.m))
        for counts in search.counts:
            out &= ~counts.full(rows.weight, choice)
        return np.flatnonzero(out)

    def _gather(
        self, rng: np.random.Generator, defect: int, left: Floats, mine: list[int], seen: set[int], size: int
    ) -> None:
        """Appends a defect and the requests that could mend it."""
        rows, choice = self.rows, self.search.choice
        if defect >= rows.n:
            self._fill(rng, self.touching[defect - rows.n], mine, seen, size)
            return
        if defect in seen:
            return
        seen.add(defect)
        mine.append(defect)
        lost = choice[defect] < 0
        first = len(mine)
        for asker, share in ((slice(first - 1, None), 1.0 - LATER), (slice(first, None), LATER)):
            asked = self._short(np.array(mine[asker], dtype=np.int64), left)
            each = max(2, int(size * share) // max(1, (1 + lost) * len(asked)))
            for row in asked.tolist():
                if lost:
                    self._fill(rng, self.giving[row], mine, seen, each)
                self._fill(rng, self.touching[row], mine, seen, each)

    def _short(self, i: Ints, left: Floats) -> Ints:
        """Rows that lack the room for the requests i to take their best, or second best, column."""
        rows, search = self.rows, self.search
        if not len(i):
            return np.zeros(0, np.int64)
        r = rows.reduced_at(i, search.steer)
        now = search.choice[i]
        on = np.flatnonzero(now >= 0)
        r[on, now[on]] = np.inf
        p, k, a = rows.pairs(i, r.argmin(axis=1))
        given = np.zeros((len(i), rows.k))
        if len(on):
            q, k0, a0 = rows.pairs(i[on], now[on].astype(np.int64))
            np.add.at(given, (on[q], k0), a0)
        return np.unique(k[a > left[k] + given[p, k]])

    def _fill(
        self, rng: np.random.Generator, pool: Ints, mine: list[int], seen: set[int], number: int
    ) -> None:
        """Appends ``number`` of the nearest ties of a pool that nobody has yet."""
        pool = pool[: AMONG * number + len(seen)]
        for i in rng.permutation(pool).tolist():
            if number <= 0:
                return
            if i not in seen:
                seen.add(i)
                mine.append(i)
                number -= 1


def _nearest(row: Ints, who: Ints, far: Floats, k: int) -> list[Ints]:
    """Per row the POOL requests least far away."""
    by = np.lexsort((far, row))
    row, who = row[by], who[by]
    place = np.arange(len(row)) - np.searchsorted(row, row)
    row, who = row[place < POOL], who[place < POOL]
    return np.split(who, np.searchsorted(row, np.arange(1, k))) if k else []
