"""Generalised assignment: ejection chains, then dives and an exact search side by side until the time is up.

Every round makes some dives, mended by chains, while SCIP searches the pairs that a better plan may still have. Both are
counted, in dives and nodes that grow from round to round, so that the clock decides nothing but the end.
"""

from __future__ import annotations

import numpy as np

from .assignment import Assignment, Packing
from .core import IntegerSolution, integer, part
from .diving import Diving
from .ejection import Ejection
from .exact import chosen, columns_left
from .rows import Ints
from .search import Search

__all__ = ["pack"]

STEPS, STEPS_FOR = 1500, 250  # of the first chains, for so many requests; a step takes longer for more
MENDING = 400  # steps after a dive
DIVED = 450  # requests up to which bundles are worth their time
FEW = 2_000  # pairs left up to which SCIP searches them
NODES, TIMES = 100, 8  # of the first round, and how many times as many in the next
DIVES_FOR, DIVES = 600, 6  # requests of which there is one dive in the first round; most dives, for fewer
ROUNDS, TRIES = 9, 2  # at most; after so many all must be served
GUESS = 0.02  # what a better packing may cost more than the bound, while not all are served
SHARE, CHAINS_SHARE = (
    0.6,
    0.3,
)  # of the time left, with bundles and without; other stages do better on some problems
TOLERANCE = 0.2  # of the relaxation over bundles, in what is left to gain per request


def pack(search: Search, given: Assignment, base: Packing) -> None:
    """Offers ever better packings, from ``base`` on; sets ``search.optimal`` if none is better.

    It ends early where it cannot serve all (who is to stay out is not for it to decide), and where chains alone, without
    bundles, gain nothing more.
    """
    packer = _Packer(search, given, base)
    for turn in range(ROUNDS):
        before = packer.cost
        if search.done or packer.left() <= 0 or (turn >= TRIES and not packer.all_served()):
            break
        packer.round(turn)
        if packer.diving is None and packer.cost == before:
            break


class _Packer:
    def __init__(self, search: Search, given: Assignment, base: Packing) -> None:
        self.search, self.given = search, given
        share = SHARE if given.n <= DIVED else CHAINS_SHARE
        self.spare = (1 - share) * search.deadline.left
        self.chains = Ejection(given, search.seed)
        self.steps = round(min(STEPS, 10 * given.n) * min(1.0, STEPS_FOR / len(self.chains.at)))
        self.best, self.cost = base, np.inf
        self.diving: Diving | None = None
        self.exact: IntegerSolution | None = None
        self._take(*self.chains.run(base, self.steps, self.left))
        if np.isinf(self.cost):
            self._take(given.packing(search.choice), self._cost(given.packing(search.choice)))
        self._offer()

    def left(self) -> float:
        """Seconds that may be used yet."""
        return max(0.0, self.search.deadline.left - self.spare)

    def round(self, turn: int) -> None:
        """Some dives and some nodes of exact search, more of them every turn."""
        search, nodes = self.search, NODES * TIMES**turn
        dives = min(DIVES, max(1, DIVES_FOR // self.given.n)) << turn
        if self.diving is None and self.given.n <= DIVED:
            self._relax()
        pairs = columns_left(search) if self.all_served() else None
        if pairs is not None and len(pairs[0]) > FEW:
            pairs = None
        tasks = [lambda: self._dive(dives), lambda: self._search_exactly(pairs, nodes)]
        list(search.rows.passes.map(lambda task: task(), tasks))
        self._offer()
        if pairs is not None and self.exact is not None:
            if self.exact.x is not None and search.offer(chosen(search.rows, *pairs, self.exact.x)):
                self._take(self.given.packing(search.choice), -search.score[1])
            search.optimal = search.optimal or self.exact.optimal or self.exact.infeasible

    def all_served(self) -> bool:
        """Whether every plan of less cost that serves as many serves all."""
        search = self.search
        return not search.surplus and search.found and bool(np.all(search.choice[self.given.who] >= 0))

    def _take(self, packing: Packing | None, cost: float) -> None:
        if packing is not None and cost < self.cost:
            self.best, self.cost = packing, cost

    def _cost(self, packing: Packing) -> float:
        return float(self.given.cost[np.arange(self.given.n), packing].sum())

    def _offer(self) -> None:
        if np.isfinite(self.cost):
            self.search.offer(self.given.choice(self.best, self.search.rows.n))

    def _relax(self) -> None:
        """The relaxation over bundles, of the pairs that a better packing may have; it may prove the best one."""
        given = self.given
        reduced = given.reduced()
        least = reduced.min(axis=1)
        bound = float(least.sum() - given.price @ given.cap[:-1])
        sure = self.all_served()  # else the cost of a packing says nothing of that of a better one
        gain = self.cost - bound if sure else min(self.cost - bound, GUESS * bound)
        allowed = reduced[:, :-1] - least[:, None] <= gain
        width = max(2.0 * gain / given.n, 1e-9 * self.cost)
        self.diving = Diving(given, allowed, width, self.search.seed)
        self.diving.add(self.best)
        bound = self.diving.root(TOLERANCE * gain / given.n, self.left)
        if sure and bound > self.cost - 1.0 + 1e-6:
            self.search.optimal = True  # costs are whole numbers

    def _dive(self, count: int) -> None:
        for _ in range(count):
            if self.search.optimal or self.left() <= 0:
                return
            if self.diving is None:
                self._take(*self.chains.run(self.best, self.steps, self.left))
                continue
            packing = self.diving.dive(self.left)
            self._take(packing, self._cost(packing))
            mended, cost = self.chains.run(packing, MENDING, self.left)
            self._take(mended, cost)
            if mended is not None:
                self.diving.add(mended)

    def _search_exactly(self, pairs: tuple[Ints, Ints] | None, nodes: int) -> None:
        self.exact = None
        if pairs is None or self.search.optimal or self.left() <= 0:
            return
        given = part(self.search.rows, *pairs, self.search.rows.room)
        limit = f"limits/nodes = {nodes}"
        self.exact = integer(given, 0.0, self.left(), limit, "scip", everybody=True)
