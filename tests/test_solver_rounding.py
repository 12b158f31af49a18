"""From prices to plans: the sequential fill, its chunks, and exact neighbourhoods."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.instances import market
from solver import Limit, Problem
from solver.core import integer, part
from solver.greedy import fill
from solver.passes import Passes
from solver.rounding import candidates, reoptimise
from solver.rows import Rows, compile_rows


def compiled(problem: Problem) -> Rows:
    return compile_rows(problem, Passes(1))


def one_by_one(rows: Rows) -> np.ndarray:
    """The rule itself, a request at a time."""
    choice = np.full(rows.n, -1, np.int32)
    left = rows.room.copy()
    for i in range(rows.n):
        for j in np.argsort(rows.problem.cost[i], kind="stable"):
            if not rows.possible[i, j]:
                continue
            _, k, a = rows.pairs(np.array([i]), np.array([j]))
            if np.all((a <= left[k]) | (a <= 0)):
                choice[i] = j
                np.subtract.at(left, k, a)
                break
    return choice


@pytest.mark.parametrize("load", [0.7, 1.5, 3.0])
def test_chunks_give_what_one_at_a_time_gives(load: float) -> None:
    """Filling in chunks is exactly the sequential rule, under light load and overload."""
    rows = compiled(market(700, 6, load, seed=3))
    choice = np.full(rows.n, -1, np.int32)
    left = fill(rows, choice, np.flatnonzero(rows.alive), rows.room)
    assert choice.tolist() == one_by_one(rows).tolist()
    assert np.allclose(left, rows.room - rows.load(choice))


def test_a_neighbourhood_swaps_what_cheapest_first_got_wrong() -> None:
    """First come, first served costs 1 + 9; the exact neighbourhood of both finds 3 + 1."""
    rows = compiled(
        Problem(np.array([[1, 3], [1, 9]]), np.ones((2, 2), np.bool_), limits=[Limit("one", 1.0, models=[0])])
    )
    choice = np.array([0, 1], np.int32)
    i, j = candidates(rows, np.zeros(rows.k), np.arange(2), 2, choice)
    left = rows.room - rows.load(choice)
    better, proven = reoptimise(rows, choice, i, j, np.full(2, 100.0), left, 10.0, 1.0, everybody=True)
    assert proven
    assert better is not None
    assert better.tolist() == [1, 0]


def test_requests_fixed_elsewhere_keep_their_room() -> None:
    """Only what the fixed request leaves may be used: the free one stays unserved."""
    rows = compiled(Problem(np.array([[1], [1]]), np.ones((2, 1), np.bool_), limits=[Limit("one", 1.0)]))
    choice = np.array([0, -1], np.int32)
    left = rows.room - rows.load(choice)
    answer, _ = reoptimise(rows, choice, np.array([1]), np.array([0]), np.full(2, 9.0), left, 10.0, 1.0)
    assert answer is not None
    assert answer.tolist() == [-1]


def test_an_integer_program_that_cannot_hold_says_so() -> None:
    """Everybody must be served and only one can be: proven infeasible."""
    rows = compiled(Problem(np.array([[1], [1]]), np.ones((2, 1), np.bool_), limits=[Limit("one", 1.0)]))
    found = integer(
        part(rows, np.arange(2), np.zeros(2, np.int64), rows.caps), 0.0, 10.0, "", "scip", everybody=True
    )
    assert found.infeasible
    assert found.x is None
