"""Files over HTTP: streamed up in any order of fields, bounded, listed in pages, downloaded, deleted, expired."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from api_house import Served, api_house
from batch_sdk import ended, request, sdk, started, uploaded

from negotiator.api import schemas_batches as out

LARGE = b"".join(b"%07d\n" % n for n in range(400_000))


async def post(served: Served, form: Any, **headers: str) -> tuple[int, Any]:
    """Status and body of an upload."""
    async with served.session.post(f"{served.url}/v1/files", data=form, headers=headers) as answer:
        return answer.status, await answer.json()


def form_of(*fields: tuple[str, Any]) -> aiohttp.FormData:
    """A form with these fields in this order; bytes are a file."""
    form = aiohttp.FormData(default_to_multipart=True)
    for name, value in fields:
        if isinstance(value, bytes):
            form.add_field(name, value, filename="lines.jsonl")
        else:
            form.add_field(name, value)
    return form


async def test_a_file_goes_up_and_comes_down_as_it_was() -> None:
    """Three megabytes by the SDK: the object says its size, the content has the same digest, and it can be deleted."""
    async with sdk() as (client, served):
        made = await client.files.create(file=("my lines.jsonl", LARGE), purpose="batch")
        assert (made.bytes, made.filename, made.purpose, made.status) == (
            len(LARGE),
            "my lines.jsonl",
            "batch",
            "processed",
        )
        out.FileOut.model_validate((await served.call("GET", f"/v1/files/{made.id}"))[1])
        content = await client.files.content(made.id)
        assert hashlib.sha256(content.content).digest() == hashlib.sha256(LARGE).digest()
        status, part, headers = await served.call("GET", f"/v1/files/{made.id}/content", range="bytes=0-7")
        assert (status, part, headers["x-content-type-options"]) == (206, b"0000000\n", "nosniff")
        gone = await client.files.delete(made.id)
        assert gone.deleted
        with pytest.raises(openai.NotFoundError):
            await client.files.content(made.id)


@pytest.mark.parametrize("names", [("file", "purpose"), ("purpose", "file")])
async def test_fields_may_come_in_any_order(names: tuple[str, str]) -> None:
    """The purpose before the file or behind it."""
    values: dict[str, Any] = {"file": b"{}\n", "purpose": "batch"}
    async with api_house() as served:
        status, made = await post(served, form_of(*((name, values[name]) for name in names)))
    assert (status, made["bytes"]) == (200, 3)


FORMS: Any = [
    ([("purpose", "batch")], "file"),
    ([("file", b"x")], "purpose"),
    ([("file", b"x"), ("purpose", "fine-tune")], "purpose"),
    ([("file", b"x"), ("purpose", "batch"), ("colour", "red")], "colour"),
    ([("file", b"x"), ("file", b"y"), ("purpose", "batch")], "file"),
    ([("file", b"x"), ("purpose", "b" * 2_000)], "purpose"),
    ([("file", b"x"), ("purpose", "batch"), ("expires_after[seconds]", "5")], "expires_after[seconds]"),
    ([(f"n{n}", "v") for n in range(9)], "body"),
]


@pytest.mark.parametrize(("fields", "named"), FORMS, ids=lambda value: str(value)[:40])
async def test_a_wrong_form_is_refused_by_name(fields: Any, named: str) -> None:
    """What is missing, unknown, twice or too long is a 400 that names it, and leaves nothing behind."""
    async with api_house() as served:
        status, body = await post(served, form_of(*fields))
        assert (status, body["error"]["code"]) == (400, "INVALID")
        assert body["error"]["message"].startswith(f"{named}: "), body
        assert (await served.call("GET", "/v1/files"))[1]["data"] == []


async def test_what_is_no_form_is_refused() -> None:
    """JSON is 415; a form without a boundary, or of rubbish, is 400; none is a 500."""
    async with api_house() as served:
        assert (await served.call("POST", "/v1/files", {"purpose": "batch"}))[0] == 415
        for kind, text in (
            ("multipart/form-data", b"rubbish"),
            ("multipart/form-data; boundary=x", b"rubbish"),
            ("multipart/form-data; boundary=x", b"--x\r\nrubbish"),
        ):
            status, body = await post(served, text, **{"content-type": kind})
            assert (status, body["error"]["code"]) == (400, "INVALID"), (kind, text)


async def test_files_are_bounded_one_by_one_and_together(tmp_path: Path) -> None:
    """Above ``max_file``, or above what an account may keep, an upload is 413 and leaves nothing on disk."""
    limits = {"max_file": 4_096, "max_stored": 6_000, "folder": str(tmp_path)}
    async with api_house(batch=limits) as served:
        fields = [("purpose", "batch"), ("file", b"x" * 4_096)]
        assert (await post(served, form_of(("purpose", "batch"), ("file", b"x" * 4_097))))[0] == 413
        assert (await post(served, form_of(*fields)))[0] == 200
        status, body = await post(served, form_of(*fields))
        assert (status, body["error"]["code"], body["error"]["param"]) == (413, "STORAGE_FULL", "file")
        assert len((await served.call("GET", "/v1/files"))[1]["data"]) == 1
    left = [Path(folder) / name for folder, _, names in os.walk(tmp_path) for name in names]
    assert not [path for path in left if path.parent.name == "uploads"]
    assert sum(path.suffix == ".jsonl" for path in left) == 1


async def test_pages_of_files() -> None:
    """The latest first or the oldest; by purpose; the SDK's own iteration walks through all."""
    async with sdk() as (client, _):
        made = [await uploaded(client, [request("a")]) for _ in range(5)]
        page = await client.files.list(limit=2, order="asc")
        assert ([file.id for file in page.data], page.has_more) == (made[:2], True)
        assert [file.id async for file in client.files.list(limit=2)] == made[::-1]
        done = await ended(client, (await started(client, [request("b")])).id)
        written = await client.files.list(purpose="batch_output")
        assert [file.id for file in written.data] == [done.output_file_id]


async def test_a_file_may_be_deleted_while_its_batch_runs() -> None:
    """The batch keeps the bytes it needs."""
    async with sdk() as (client, _):
        batch = await started(client, [request("a")])
        await client.files.delete(batch.input_file_id)
        done = await ended(client, batch.id)
    assert done.status == "completed"


async def test_a_file_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the time its owner gave it, it is not there any more, and the sweep removes its bytes."""
    async with sdk() as (client, served):
        made = await client.files.create(
            file=b"{}", purpose="batch", expires_after={"anchor": "created_at", "seconds": 3_600}
        )
        assert made.expires_at == made.created_at + 3_600
        files, clock = served.house.office.files, served.engine.rooms.clock
        file = files.find("default", made.id)
        assert file is not None
        later_ms = clock.now_ms() + 3_601_000
        monkeypatch.setattr(type(clock), "now_ms", lambda self: later_ms)
        assert files.find("default", made.id) is None
        files.sweep()
        assert not files.content(file).exists()


async def test_no_path_leads_out_of_an_accounts_folder() -> None:
    """Ids that are no ids are unknown, whatever they point at."""
    async with api_house() as served:
        for name in (
            "..",
            "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
            "file-..%2f..%2fx",
            "file-" + "g" * 24,
            "batch_0",
        ):
            for path in (f"/v1/files/{name}", f"/v1/files/{name}/content", f"/v1/batches/{name}"):
                assert (await served.call("GET", path))[0] == 404, path


async def test_a_form_in_a_form_or_an_encoded_part_is_refused() -> None:
    """What would have to be unpacked first is not taken."""
    body = (
        b'--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n'
        b"content-transfer-encoding: base64\r\n\r\nAAAA\r\n--x--\r\n"
    )
    async with api_house() as served:
        status, answer = await post(served, body, **{"content-type": "multipart/form-data; boundary=x"})
    assert (status, answer["error"]["code"]) == (400, "INVALID")
