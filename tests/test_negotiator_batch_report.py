"""The report of a batch: sums of the result file, comparisons with the plan, and the files it is written to."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from negotiator.batch_report import batch_report, report_markdown, write_report
from negotiator.errors import InputInvalid


def served(custom_id: str, cost_usd: str, latency_ms: int) -> str:
    bill = {"provider": "p", "model": "m", "latency_ms": latency_ms}
    body = {"negotiator": bill}
    return json.dumps(
        {"custom_id": custom_id, "cost_usd": cost_usd, "response": {"body": body}, "error": None}
    )


def refused(custom_id: str) -> str:
    offer = {"terms": {"budget_usd": "0.1"}, "model": "m", "expected_usd": "0.09"}
    error = {"code": "BUDGET_TOO_LOW", "message": "too | low", "reject": {"counter_offers": [offer]}}
    return json.dumps({"custom_id": custom_id, "cost_usd": "0", "response": None, "error": error})


def test_it_sums_the_result_file_and_names_the_extremes(tmp_path: Path) -> None:
    """Twelve served at 1 to 12 cents and one refused: spent 78 cents, the ten dearest first, the counter-offer told."""
    out = tmp_path / "out.jsonl"
    lines = [served(f"r{n:02}", f"{n / 100}", 1_000 - n) for n in range(1, 13)]
    out.write_text("\n".join([*lines, refused("no")]) + "\n")
    report = batch_report(out, None)
    assert (report["served"], report["refused"], report["spent_usd"]) == (12, 1, "0.78")
    assert [one["custom_id"] for one in report["dearest"]] == [f"r{n:02}" for n in range(12, 2, -1)]
    assert report["slowest"][0] == {"custom_id": "r01", "latency_ms": 999, "model": "p/m"}
    assert report["rejects"] == {"BUDGET_TOO_LOW": 1}
    text = report_markdown(report)
    assert "budget_usd=0.1 (m, $0.09)" in text
    assert "12 requests served for $0.78, 1 refused" in text


def test_run_writes_it_beside_the_results(tmp_path: Path, root: Path) -> None:
    """`run --report` of a real run: spent is what the results sum to, saved and regret follow from the plan."""
    source = tmp_path / "in.jsonl"
    content = (root / "examples" / "workload.jsonl").read_text().splitlines()
    source.write_text("\n".join(content[:20]))
    store = f"embedded://{tmp_path / 'ledger.db'}"
    arguments = ["run", str(source), "--out", str(tmp_path / "o.jsonl"), "--report", str(tmp_path / "r")]
    command = [sys.executable, "-m", "negotiator.cli", *arguments, "--store", store, "--json"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert float(report["spent_usd"]) == pytest.approx(sum(float(line["cost_usd"]) for line in lines))
    assert report["served"] + report["refused"] == len(lines) == 20
    summary = json.loads(result.stdout)["plan"]
    dear = summary["baselines"]["always_best"]
    would = float(dear["cost_usd"]) * report["served"] / dear["served"]
    assert float(report["saved_usd"]["always_best"]) == pytest.approx(
        would - float(report["spent_usd"]), abs=1e-8
    )
    assert (tmp_path / "r" / "report.md").read_text().startswith("# Batch report")
    picture = ElementTree.parse(tmp_path / "r" / "report.svg").getroot()
    bars = [part for part in picture if part.tag.endswith("rect") and part.get("rx")]
    assert len(bars) == 1 + len(report["saved_usd"])


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    """A file where the folder should be: named, no traceback."""
    out = tmp_path / "out.jsonl"
    out.write_text(served("a", "0.1", 1) + "\n")
    with pytest.raises(InputInvalid, match=r"out\.jsonl: expected a writable folder"):
        write_report(batch_report(out, None), out)
