"""The project's own clients and batches: a file up, a batch watched by its events, results down; blocking too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from api_house import api_house
from batch_sdk import request
from local_house import local_house

from negotiator import AsyncClient, Client, Terms
from negotiator.errors import InputInvalid, ServerRefused


def lines_in(path: Path, count: int) -> Path:
    path.write_text("\n".join(json.dumps(request(f"r{n}")) for n in range(count)))
    return path


async def test_a_batch_by_the_asynchronous_client(tmp_path: Path) -> None:
    """Uploaded, started under terms, watched to its end, downloaded; then its file is deleted."""
    async with api_house() as served, AsyncClient(served.url) as market:
        file = await market.upload_file(lines_in(tmp_path / "in.jsonl", 3))
        assert (file.filename, file.purpose) == ("in.jsonl", "batch")
        terms = Terms(budget_usd="0.01", min_quality=0.1)
        batch = await market.create_batch(
            file.file_id, window="90m", terms=terms, metadata={"job": "x"}, gap=0.01
        )
        states = [state async for state in market.batch_events(batch.batch_id)]
        done = states[-1]
        assert (done.status, done.ended, done.completed, done.failed) == ("completed", True, 3, 0)
        assert done.spent_nusd == await served.posted_nusd() == 72_000
        assert json.loads(done.raw["metadata"]["negotiator"])["options"] == {"gap": 0.01}
        assert [one.batch_id for one in await market.batches()] == [batch.batch_id]
        assert (await market.batch_report(batch.batch_id))["served"] == 3
        size_bytes = await market.download_file(done.output_file_id or "", tmp_path / "out.jsonl")
        assert size_bytes == (tmp_path / "out.jsonl").stat().st_size
        assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 3
        assert len(await market.files()) == 2
        await market.delete_file(file.file_id)
        assert len(await market.files()) == 1
        with pytest.raises(ServerRefused, match="cannot be cancelled"):
            await market.cancel_batch(batch.batch_id)


async def test_the_client_names_the_endpoint(tmp_path: Path) -> None:
    """A batch of responses is asked for by name; one of completions is refused with what there is."""
    line = {"custom_id": "a", "url": "/v1/responses", "body": {"input": "Hi.", "max_output_tokens": 9}}
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps(line))
    async with api_house() as served, AsyncClient(served.url) as market:
        file = await market.upload_file(path)
        batch = await market.create_batch(file.file_id, endpoint="/v1/responses")
        done = [state async for state in market.batch_events(batch.batch_id)][-1]
        assert (done.status, done.completed) == ("completed", 1)
        await market.download_file(done.output_file_id or "", tmp_path / "out.jsonl")
        answer = json.loads((tmp_path / "out.jsonl").read_text())["response"]["body"]
        assert answer["output"][0]["content"][0]["text"] == "It is four."
        wrong: Any = "/v1/completions"
        with pytest.raises(InputInvalid, match=r"endpoint: .*'/v1/embeddings'"):
            await market.create_batch(file.file_id, endpoint=wrong)


async def test_what_cannot_be_sent_is_said(tmp_path: Path) -> None:
    """A missing file and a window that is none raise InputInvalid; an unknown batch is refused by its code."""
    async with api_house() as served, AsyncClient(served.url) as market:
        with pytest.raises(InputInvalid, match=r"none\.jsonl: expected a readable file"):
            await market.upload_file(tmp_path / "none.jsonl")
        file = await market.upload_file(lines_in(tmp_path / "in.jsonl", 1))
        with pytest.raises(InputInvalid, match="completion_window"):
            await market.create_batch(file.file_id, window="soon")
        with pytest.raises(ServerRefused) as caught:
            await market.batch("batch_000000000000000000000000")
        assert caught.value.code == "UNKNOWN_BATCH"


def test_a_batch_by_the_blocking_client(tmp_path: Path) -> None:
    """The same calls without an event loop."""
    with local_house() as house, Client(house.url) as market:
        file = market.upload_file(lines_in(tmp_path / "in.jsonl", 2))
        batch = market.create_batch(file.file_id)
        last = None
        for last in market.batch_events(batch.batch_id):
            assert last.batch_id == batch.batch_id
        assert last is not None
        assert (last.status, last.completed) == ("completed", 2)
        market.download_file(last.output_file_id or "", tmp_path / "out.jsonl")
        assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 2
