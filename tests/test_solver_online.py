"""Prices decide one request at a time, and follow what is left."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from brute_force import usage
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.instances import market
from solver.evidence import gather
from solver.online import Prices, Router, reprice
from solver.problem import InvalidProblem, Limit, Problem

# Two columns: the first cheap and limited to requests worth more elsewhere, the second dear and free.
COST = np.array([10, 30])
USAGE = np.array([[1.0, 0.0], [5.0, 5.0]])


def priced(*lam: float, unserved: float = math.inf) -> Prices:
    return Prices(tuple(f"row {k}" for k in range(len(lam))), np.array(lam), unserved)


def test_the_online_side_loads_neither_ortools_nor_scipy() -> None:
    """A worker that routes by prices and re-prices carries no solver."""
    code = (
        "import sys, numpy, solver, solver.online, solver.problem;"
        "from solver.problem import Problem;"
        "p = Problem(numpy.ones((2, 1), int), numpy.ones((2, 1), bool));"
        "solver.online.reprice(p, numpy.ones(2), numpy.zeros(0)).route_many(p);"
        "sys.exit(any(name.split('.')[0] in ('ortools', 'scipy') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("lam", "left", "expected"),
    [
        ((0, 0), (9, 9), 0),  # cheapest
        ((19.9, 0), (9, 9), 0),  # 29.9 < 30
        ((20.1, 0), (9, 9), 1),  # 30.1 > 30
        ((0, 100), (9, 9), 0),  # a row both use does not tell them apart
        ((0, 0), (0.5, 9), 1),  # the cheap one does not fit
        ((0, 0), (1, 5), 0),  # fits exactly
        ((0, 0), (9, 4), -1),  # neither fits
    ],
)
def test_a_request_takes_the_least_bid_that_fits(
    lam: tuple[float, ...], left: tuple[float, ...], expected: int
) -> None:
    """argmin of cost + prices x usage over the columns that fit what is left."""
    prices = priced(*lam)
    assert prices.route(COST, USAGE, np.array(left, float)) == expected
    router = Router(prices, [[(0, -1), (1, 0)], [(1, 0)]], kinds=1)
    assert router.choose(COST.astype(float), np.full((1, 2), 5.0), left) == expected


def test_a_request_is_refused_when_no_bid_is_below_its_value() -> None:
    """At price 20 the bids are 30 and 30."""
    prices = priced(20.0, 0.0)
    left = np.array([9.0, 9.0])
    router = Router(prices, [[(0, -1), (1, 0)], [(1, 0)]], kinds=1)
    for value, expected in ((30.0, -1), (30.5, 0)):
        assert prices.route(COST, USAGE, left, value=value) == expected
        assert router.choose(COST.astype(float), np.full((1, 2), 5.0), left, value=value) == expected


def test_filters_and_empty_offers_refuse() -> None:
    """allowed is obeyed; no columns, or none allowed, is a refusal."""
    left = np.array([9.0, 9.0])
    assert priced(0, 0).route(COST, USAGE, left, allowed=np.array([False, True])) == 1
    assert priced(0, 0).route(COST, USAGE, left, allowed=np.array([False, False])) == -1
    assert priced(0, 0).route(np.zeros(0, int), np.zeros((2, 0)), left) == -1
    assert Router(priced(0.0), [], kinds=1).choose(np.zeros(0), np.zeros((1, 0)), [1.0]) == -1
    assert Router(priced(0.0), [[(0, -1)]], kinds=1).choose(np.array([np.inf]), np.ones((1, 1)), [9.0]) == -1


def test_budgets_make_cost_dearer_and_must_hold_it() -> None:
    """A budget's price multiplies the cost: 10 x 3 against 30 x 3 and a row price of 61 on the first."""
    router = Router(priced(61.0, 2.0), [[(0, -1)], []], kinds=0)
    none = np.zeros((0, 2))
    assert router.choose(COST.astype(float), none, [9.0, 100.0], budgets=(1,)) == 1
    assert router.choose(COST.astype(float), none, [9.0, 29.0], budgets=(1,)) == 0
    assert router.choose(COST.astype(float), none, [9.0, 9.0], budgets=(1,)) == -1


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_both_forms_decide_alike(seed: int) -> None:
    """The compiled router equals the dense rule on random rows, usage, prices and left."""
    rng = np.random.default_rng(seed)
    m, k, kinds = int(rng.integers(1, 7)), int(rng.integers(1, 6)), 2
    touches = [
        [(row, int(rng.integers(-1, kinds))) for row in np.flatnonzero(rng.random(k) < 0.5).tolist()]
        for _ in range(m)
    ]
    amounts = rng.integers(1, 5, (kinds, m)).astype(float)
    dense = np.zeros((k + 1, m))
    cost = rng.integers(1, 100, m)
    for j, pairs in enumerate(touches):
        for row, kind in pairs:
            dense[row, j] = 1.0 if kind < 0 else amounts[kind, j]
    dense[k] = cost
    prices = priced(*(rng.exponential(10, k) * (rng.random(k) < 0.6)).tolist(), float(rng.exponential()))
    left = rng.integers(0, 6, k + 1).astype(float)
    left[k] = 80.0
    allowed = rng.random(m) < 0.8
    value = float(rng.integers(20, 200))
    expected = prices.route(cost, dense, left, allowed=allowed, value=value)
    limited = np.where(allowed, cost, np.inf)
    router = Router(prices, touches, kinds)
    assert router.choose(limited, amounts, left.tolist(), budgets=(k,), value=value) == expected


def test_a_kind_that_does_not_exist_is_named() -> None:
    """The message says where and what was expected."""
    with pytest.raises(
        InvalidProblem, match=r"touches\[1\]: expected .* a kind from -1 to 0, found \(0, 1\)"
    ):
        Router(priced(0.0), [[(0, 0)], [(0, 1)]], kinds=1)


def test_a_batch_is_routed_in_order_and_uses_up_what_is_left() -> None:
    """Two requests fit the cheap column, the third goes on to the other, the fourth is worth too little."""
    problem = Problem(
        cost=np.full((4, 2), [10, 30]),
        allowed=np.ones((4, 2), bool),
        value=np.array([99, 99, 99, 30]),
        limits=[Limit("first", 2, models=[0]), Limit("others", 9, requests=[2, 3])],
    )
    assert priced(0, 0).route_many(problem).tolist() == [0, 0, 1, -1]
    assert priced(0, 0).route_many(problem, left=np.array([1.0, 0.0])).tolist() == [0, 1, -1, -1]
    with pytest.raises(
        InvalidProblem, match=r"prices.lam: expected 2 finite numbers >= 0, found shape \(1,\)"
    ):
        priced(0).route_many(problem)


def test_a_routed_batch_holds_every_row_of_a_market() -> None:
    """Whatever the prices, groups, shared rows and negative usage are accounted for."""
    problem = market(150, 6, 1.5, 4, mean_quality=0.5, total_budget=0.4)
    rng = np.random.default_rng(0)
    choice = Prices((), rng.exponential(1.0, problem.rows)).route_many(problem)
    a = usage(problem)
    took = np.flatnonzero(choice >= 0)
    used = a[:, took, choice[took]].sum(axis=1)
    assert np.all(used <= problem.caps + 1e-6 * (1 + np.abs(problem.caps)))
    assert took.size > 50


def test_a_scarce_column_gets_the_price_that_clears_it() -> None:
    """Ten requests save 1 .. 10 by the cheap column, five fit: the price lies between the fifth and sixth saving."""
    savings = np.arange(1, 11) * 1000
    problem = Problem(
        cost=np.stack([np.zeros(10, int), savings], axis=1),
        allowed=np.ones((10, 2), bool),
        limits=[Limit("cheap", 5, models=[0])],
    )
    prices = reprice(problem, np.ones(10), np.array([5.0]))
    assert 5000 <= prices.lam[0] <= 6000
    assert reprice(problem, np.full(10, 0.1), np.array([5.0])).lam[0] == 0.0
    assert reprice(problem, np.ones(10), np.array([math.inf])).lam[0] == 0.0


def test_overload_prices_keep_out_what_cannot_be_served() -> None:
    """Room for half of the tokens: small requests are served, and the price refuses the large ones."""
    tokens = np.arange(1.0, 11.0)
    problem = Problem(
        cost=(tokens * 10).astype(int)[:, None],
        allowed=np.ones((10, 1), bool),
        limits=[Limit("tokens", 28.0, usage=tokens)],
    )
    prices = reprice(problem, np.full(10, 10.0), np.array([280.0]))
    bids = problem.cost[:, 0] + prices.lam[0] * tokens
    assert (bids < prices.unserved).tolist() == [True] * 7 + [False] * 3


@pytest.mark.parametrize("load", [0.5, 1.0, 1.5, 2.0])
def test_repriced_markets_are_close_to_what_any_prices_can_prove(load: float) -> None:
    """The dual value is within 2 % of cost and 2 % of served of a dual solved much further; warm as cold."""
    problem = market(400, 8, load, 7)
    count = np.full(400, 10.0)
    left = problem.caps * 10
    cold = reprice(problem, count, left)
    noisy = Prices(cold.names, cold.lam * np.random.default_rng(1).uniform(0.7, 1.4, problem.rows))
    warm = reprice(problem, count, left, warm=noisy)
    values = []
    for prices in (cold, warm):
        least = gather(problem, prices.lam).least
        values.append(10 * np.minimum(least, prices.unserved).sum() - prices.lam @ left)
    cost = 10 * np.where(problem.allowed, problem.cost, 10**12).min(axis=1)
    scale = float(cost[cost < 10**12].sum())
    assert abs(values[0] - values[1]) <= 0.02 * scale
    assert cold.names == warm.names
    assert np.all(np.isfinite(warm.lam))
    assert np.all(warm.lam >= 0)


@pytest.mark.parametrize("objective_value", [True, False])
def test_repricing_survives_every_edge(objective_value: bool) -> None:
    """Nothing left, nothing expected, nothing allowed, negative usage, no rows, no columns: finite prices."""
    n, m = 6, 3
    rng = np.random.default_rng(3)
    cost = rng.integers(0, 50, (n, m))
    limits = [
        Limit("closed", 0.0, models=[0]),
        Limit("floor", 0.0, usage=rng.uniform(-1, 1, (n, m))),
        Limit("commitment", -2.0, models=[1], usage=-1.0),
        Limit("tenant", np.array([3.0, 0.0]), usage=cost, group=np.array([0, 1, -1, 0, 1, 0], np.int32)),
        Limit("nobody", 1.0, models=[], usage=np.ones(n)),
        Limit("no groups", np.zeros(0), group=np.full(n, -1, np.int32)),
        Limit("some", 2.0, requests=[1, 2], usage=np.arange(n)),
    ]
    for allowed in (np.ones((n, m), bool), np.zeros((n, m), bool)):
        value = rng.integers(0, 60, n) if objective_value else None
        problem = Problem(cost, allowed, value=value, limits=limits)
        for count in (np.zeros(n), np.ones(n), np.full(n, 1e6)):
            for left in (problem.caps, np.zeros(problem.rows), np.full(problem.rows, 1e18)):
                lam = reprice(problem, count, left).lam
                assert np.all(np.isfinite(lam))
                assert np.all(lam >= 0)
    empty = Problem(np.zeros((0, 2), int), np.zeros((0, 2), bool), limits=[Limit("all", 1.0)])
    assert reprice(empty, np.zeros(0), np.ones(1)).lam.tolist() == [0.0]
    narrow = Problem(np.zeros((3, 0), int), np.zeros((3, 0), bool), limits=[Limit("all", 1.0)])
    assert reprice(narrow, np.ones(3), np.ones(1)).lam.tolist() == [0.0]


@pytest.mark.parametrize(
    ("count", "left", "warm", "words"),
    [
        ([1.0], [1.0], None, "count: expected 2"),
        ([1.0, np.nan], [1.0], None, "count: expected 2 finite"),
        ([1.0, -1.0], [1.0], None, "count: expected 2 finite"),
        ([1.0, 1.0], [1.0, 1.0], None, "left: expected 1"),
        ([1.0, 1.0], [np.nan], None, "left: expected 1"),
        ([1.0, 1.0], [1.0], priced(0.0, 0.0), "warm.lam: expected 1 finite"),
    ],
)
def test_wrong_expectations_are_named(
    count: list[float], left: list[float], warm: Prices | None, words: str
) -> None:
    """Field, what was expected and what was found."""
    problem = Problem(np.ones((2, 1), int), np.ones((2, 1), bool), limits=[Limit("all", 1.0)])
    with pytest.raises(InvalidProblem, match=words):
        reprice(problem, np.array(count), np.array(left), warm=warm)
