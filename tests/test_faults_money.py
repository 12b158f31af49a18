"""The money test in small: many calls at once on a budget for a few, one worker killed, as real processes over HTTP."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from benchmarks.overspend import broken, measure, ours, trial
from benchmarks.overspend_buyers import Size, Tree
from benchmarks.overspend_report import page
from benchmarks.processes import audit, running, shared_store


def never_overspent(run: dict[str, Any]) -> None:
    """What the ledger promises, and that something happened."""
    assert not broken(run), run
    assert run["overspent_nusd"] == run["peak_over_nusd"] == run["leaked_nusd"] == run["refused_falsely"] == 0
    assert run["vendor_calls"] > 0
    assert run["booked_at_end_nusd"] <= run["budget_nusd"]
    assert {"FUNDS_HELD", "FUNDS_INSUFFICIENT"} & run["outcomes"].keys()


def test_fifty_calls_at_once_on_a_budget_for_ten(tmp_path: Path) -> None:
    """Two workers on Valkey, one killed with kill -9: nothing overspent, nothing left held, nobody refused falsely."""
    tree = Tree(Size(calls=50, budget_for=10, kill_at=1))
    with (
        running(["-m", "benchmarks.vendor"], tmp_path / "vendor.log") as (vendor, _),
        shared_store(tmp_path) as shared,
    ):
        with ours(tmp_path, vendor, tree, shared.url) as gate:
            never_overspent(asyncio.run(trial(gate, vendor, tree, seed=1)))
        assert not audit(shared.url)


@pytest.mark.slow
def test_a_counter_overspends_where_the_ledger_does_not(tmp_path: Path) -> None:
    """Both stores, the same calls: checked and then incremented, the budget is exceeded; held first, it never is."""
    runs = measure(tmp_path, Size(calls=200, budget_for=20, kill_at=4), seed=1)
    for run in runs:
        if run["gateway"] == "negotiator":
            never_overspent(run)
        else:
            assert run["overspent_nusd"] > 0, "the peer held: the test shows nothing"
    found = {"calls": 200, "budget_for": 20, "runs": [{"seed": 1, **run} for run in runs]}
    assert page(found).count("| negotiator |") == 2
