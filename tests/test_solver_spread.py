"""Dense passes made elsewhere: the same plan, bound and certificate as on one machine."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from solver import Limit, Problem, solve, verify
from solver.passes import Passes
from solver.rows import Floats, Rows, compile_rows
from solver.spread import Lead, Part, bounds_of, part_of


class Apart:
    """Parts that travelled as bytes, and how often they were asked."""

    def __init__(self, rows: Rows, parts: int = 3) -> None:
        self.bounds = bounds_of(rows.n, parts)
        self.parts = [Part(pickle.loads(pickle.dumps(part_of(rows, lo, hi)))) for lo, hi in self.bounds]
        self.asked = 0

    def cheapest(self, lam: Floats, costs: bool) -> list[Floats]:
        self.asked += 1
        return [part.cheapest(lam, costs) for part in self.parts]

    def leads(self, lam: Floats, worth: Floats, costs: bool) -> list[Lead]:
        self.asked += 1
        return [
            part.leads(lam, worth[lo:hi], costs)
            for part, (lo, hi) in zip(self.parts, self.bounds, strict=True)
        ]


def problem(seed: int, n: int, m: int = 4) -> Problem:
    """n requests: all but the last column have room for a fifth of the calls and tokens; two accounts, one poor."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(20, 900, size=(n, 1)) * np.ones((1, m))
    cost = (tokens * rng.integers(1, 30, size=(n, m))).astype(np.int64)
    usage = tokens.astype(np.float32)
    limits = [
        *(Limit(f"calls {j}", n // 5, models=[j]) for j in range(m - 1)),
        *(Limit(f"tokens {j}", float(usage[:, 0].sum()) / 5, models=[j], usage=usage) for j in range(m - 1)),
        Limit("accounts", np.array([5e12, 1e12]), usage=cost, group=rng.integers(-1, 2, n).astype(np.int32)),
        Limit("some", float(n), requests=np.arange(0, n, 2), usage=rng.random(n).astype(np.float32)),
    ]
    return Problem(cost=cost, allowed=np.ones((n, m), bool), limits=limits)


@pytest.mark.parametrize(("seed", "n"), [(0, 40), (2, 16_000)])
def test_the_plan_does_not_depend_on_where_the_passes_are_made(seed: int, n: int) -> None:
    """Choice, prices and bounds to the bit; small problems, and one whose prices come from passes over everything."""
    made: list[Apart] = []

    def spread(rows: Rows) -> Apart:
        made.append(Apart(rows))
        return made[0]

    given = problem(seed, n)
    options: dict[str, Any] = {"gap": 0.02, "time_limit_s": 60.0, "seed": 1}
    here, there = solve(given, **options), solve(given, spread=spread, **options)
    assert np.array_equal(here.choice, there.choice)
    assert np.array_equal(here.prices.lam, there.prices.lam)
    assert (here.cost, here.cost_bound, here.served_bound, here.gap) == (
        there.cost,
        there.cost_bound,
        there.served_bound,
        there.gap,
    )
    assert verify(given, there).ok
    assert made[0].asked >= 2


def test_a_part_has_the_numbers_of_the_whole() -> None:
    """Per request the least reduced cost, the best column and its lead, at random prices."""
    rows = compile_rows(problem(3, 500), Passes(1))
    rng = np.random.default_rng(0)
    for _ in range(5):
        lam = rng.random(rows.k) * 100
        apart, whole = Apart(rows, 7), Part(rows)
        worth = rng.random(rows.n) * 20_000
        assert np.array_equal(np.concatenate(apart.cheapest(lam, True)), whole.cheapest(lam, True))
        assert np.array_equal(np.concatenate(apart.cheapest(lam, False)), whole.cheapest(lam, False))
        for k, expected in enumerate(whole.leads(lam, worth, True)):
            assert np.array_equal(np.concatenate([p[k] for p in apart.leads(lam, worth, True)]), expected)


def test_parts_cover_all_requests_once() -> None:
    """Also where there are more parts than requests."""
    assert bounds_of(7, 3) == [(0, 2), (2, 4), (4, 7)]
    assert bounds_of(2, 5) == [(0, 1), (1, 2)]
    assert bounds_of(0, 3) == []
