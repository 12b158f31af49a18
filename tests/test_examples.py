"""The programs under examples/ run as they stand, without a key."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.processes import serving


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server as the examples ask for it: simulated sellers, nothing configured."""
    with serving(tmp_path_factory.mktemp("examples"), "", "embedded://") as market:
        yield market.url


def run(root: Path, name: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, str(root / "examples" / name)],
        capture_output=True,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), **environment},
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_openais_sdk_drops_in(root: Path, url: str) -> None:
    """An answer, a stream, and a refusal taken at the terms offered."""
    said = run(root, "drop_in.py", NEGOTIATOR_URL=url)
    assert "refused with 402 BUDGET_TOO_LOW" in said
    assert "taken, for $0.0" in said


def test_an_agent_stops_at_its_budget(root: Path, url: str) -> None:
    """Four tools at once spend a run's budget and not a nano-dollar more: the program checks the ledger itself."""
    said = run(root, "agent_budget.py", NEGOTIATOR_URL=url)
    assert "then FUNDS_INSUFFICIENT" in said


def test_openais_batch_api_runs(root: Path, url: str) -> None:
    """A file goes up, five lines are served, one is refused with its reason."""
    said = run(root, "batch_api.py", NEGOTIATOR_URL=url)
    assert "completed 5 served, 1 refused" in said
    assert "budget_usd" in said


def test_the_market_runs_in_a_program(root: Path) -> None:
    """Quotes, an answer, feedback, and a better model for the same order."""
    assert "not good enough; " in run(root, "in_process.py")


@pytest.mark.slow
def test_the_notebook_runs(root: Path) -> None:
    """Every cell, from the top, in a fresh kernel."""
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    notebook = nbformat.read(root / "examples" / "market.ipynb", as_version=4)
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONWARNINGS": "ignore"}
    client = nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3")
    client.execute(env=environment)
