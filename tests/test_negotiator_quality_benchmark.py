"""The routing benchmark runs without data, says so, and holds no prompt."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")


@pytest.mark.slow
def test_the_routing_benchmark_runs_on_a_synthetic_set(root: Path, tmp_path: Path) -> None:
    """Tables, plot and JSON are written; ours beats the single models where there is structure to find."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.routing",
        "--quick",
        "--data",
        str(tmp_path),
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True, timeout=600)
    assert "synthetic set" in done.stdout
    results = json.loads((tmp_path / "routing.json").read_text())
    routers = results["files"]["synthetic"]["routers"]
    assert routers["negotiator"]["aiq"] > routers["single models"]["aiq"]
    assert routers["oracle*"]["aiq"] >= max(router["aiq"] for router in routers.values())
    assert all(row["realised"] >= row["floor"] - 0.02 for row in results["files"]["synthetic"]["floors"])
    page = (tmp_path / "routing.md").read_text()
    assert "**The data is synthetic**" in page
    assert "prove rigorously" not in page + (tmp_path / "routing.json").read_text()
    assert (tmp_path / "routing_synthetic.png").stat().st_size > 10_000
