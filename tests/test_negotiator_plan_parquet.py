"""Batches and plans as Parquet: the same plan as of the same lines in JSONL, and clear words where that cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest

from negotiator.batch_results import ResultFile
from negotiator.batches import BatchRun
from negotiator.config import Config
from negotiator.engine import Engine
from negotiator.errors import InputInvalid
from negotiator.plan_lines import LineFault, PlanLine, RequestFile
from negotiator.plan_parquet import ParquetRequests, requests_in, write_plan
from negotiator.planning import PlannedBatch, plan_requests
from negotiator.wire import PlanOptions
from providers.clock import LoopClock, run_virtual
from providers.simulated import default_sellers

pa = pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'negotiator[parquet]'")
parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow: pip install 'negotiator[parquet]'")


@pytest.fixture
def lines(root: Path) -> list[dict[str, Any]]:
    """The example workload, with a broken and a repeated line."""
    text = (root / "examples" / "workload.jsonl").read_bytes()
    found = [orjson.loads(line) for line in text.splitlines()[:60]]
    return [
        *found[:20],
        {**found[0], "terms": {"min_quality": 2.0}, "custom_id": "broken"},
        *found[20:],
        found[5],
    ]


def as_text(lines: list[dict[str, Any]], path: Path) -> None:
    """Body and terms as JSON text, in row groups of 16."""
    rows = [{**line, "body": json.dumps(line["body"]), "terms": json.dumps(line["terms"])} for line in lines]
    parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=16)


def as_structs(lines: list[dict[str, Any]], path: Path) -> None:
    """Body and terms as structs: every row has every field, most of them null."""
    parquet.write_table(pa.Table.from_pylist(lines), path, row_group_size=16)


def plan_of(path: Path) -> PlannedBatch:
    async def run() -> PlannedBatch:
        clock = LoopClock(1_795_514_400_000)
        async with Engine.open(Config(), clock=clock, sellers=default_sellers(clock, seed=3)) as engine:
            return await plan_requests(
                engine, requests_in(path), PlanOptions(time_limit_s=20, horizon_ms=86_400_000)
            )

    return run_virtual(run())


@pytest.mark.parametrize("write", [as_text, as_structs])
def test_the_plan_of_parquet_is_that_of_jsonl(
    write: Callable[[list[dict[str, Any]], Path], None], lines: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Rows, faults with their numbers, and the summary are equal."""
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(map(orjson.dumps, lines)))
    write(lines, tmp_path / "in.parquet")
    plain, table = plan_of(tmp_path / "in.jsonl"), plan_of(tmp_path / "in.parquet")
    assert list(table.rows()) == list(plain.rows())
    assert [fault.number for fault in table.batch.faults] == [21, 62]
    assert table.summary() == plain.summary()


def test_a_plan_is_written_as_typed_columns(lines: list[dict[str, Any]], tmp_path: Path) -> None:
    """The rows of the JSONL, with money as decimals and rejects as JSON."""
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(map(orjson.dumps, lines)))
    planned = plan_of(tmp_path / "in.jsonl")
    write_plan(planned, tmp_path / "plan.parquet")
    table = parquet.read_table(tmp_path / "plan.parquet")
    assert str(table.schema.field("expected_usd").type) == "decimal128(19, 9)"
    for row, expected in zip(table.to_pylist(), planned.rows(), strict=True):
        for name in ("expected_usd", "ceiling_usd"):
            assert row[name] == (None if expected[name] is None else Decimal(expected[name]))
        assert (None if row["reject"] is None else orjson.loads(row["reject"])) == expected["reject"]
        assert {n: row[n] for n in ("custom_id", "model", "latency_ms_p95", "quality")} == {
            n: expected[n] for n in ("custom_id", "model", "latency_ms_p95", "quality")
        }


def test_rows_are_read_again_where_they_lie(lines: list[dict[str, Any]], tmp_path: Path) -> None:
    """In any order, across row groups; iterated they are lines and faults like a JSONL's."""
    as_text(lines, tmp_path / "in.parquet")
    file = ParquetRequests(tmp_path / "in.parquet")
    places = [3, 4, 40, 15, 16, 0]
    assert [row["custom_id"] for row in file.raw(places)] == [lines[n]["custom_id"] for n in places]
    with pytest.raises(InputInvalid, match="row 99 as it was first read"):
        list(file.raw([99]))
    read = list(file)
    assert [type(one) for one in read].count(LineFault) == 2
    assert [one.offset for one in read if isinstance(one, PlanLine)][:3] == [0, 1, 2]


def test_a_run_takes_parquet(lines: list[dict[str, Any]], tmp_path: Path) -> None:
    """Every good row has one result."""
    as_structs(lines[:10], tmp_path / "in.parquet")

    async def run() -> None:
        clock = LoopClock(1_795_514_400_000)
        async with Engine.open(Config(), clock=clock, sellers=default_sellers(clock, seed=3)) as engine:
            with ResultFile(tmp_path / "out.jsonl") as results:
                file = requests_in(tmp_path / "in.parquet")
                report = await BatchRun(engine, "b", results, PlanOptions(time_limit_s=2)).run(file)
            assert report.finished == report.requests == 10

    run_virtual(run())


def test_what_is_no_such_file_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing, not Parquet, without a needed column, empty, or no pyarrow: each names the file and what to do."""
    bad, other, empty = tmp_path / "bad.parquet", tmp_path / "other.parquet", tmp_path / "empty.parquet"
    bad.write_text("no")
    parquet.write_table(pa.table({"id": ["a"]}), other)
    parquet.write_table(
        pa.table({"custom_id": pa.array([], pa.string()), "body": pa.array([], pa.string())}), empty
    )
    for path, words in (
        (tmp_path / "none.parquet", "expected a readable"),
        (bad, "expected a readable Parquet file"),
        (other, "expected a column custom_id, found id"),
        (empty, "expected at least one request"),
    ):
        with pytest.raises(InputInvalid, match=words):
            list(ParquetRequests(path))
    assert type(requests_in(tmp_path / "a.jsonl")) is RequestFile
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(InputInvalid, match=r"negotiator\[parquet\]"):
        list(ParquetRequests(other))
