"""Uploads: a multipart form whose file is streamed to disk as it comes, whatever the order of its fields."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from aiohttp import BodyPartReader, MultipartReader
from aiohttp.http_exceptions import HttpProcessingError
from pydantic import ValidationError

from ..batch_files import FILE_KEPT_S, StorageFull, StoredFile, StoredFiles, Upload
from ..wire import describe_invalid
from .faults import ApiFault
from .routes import FORM_TYPE, Call
from .schemas_batches import FileForm

__all__ = ["take_file"]

MAX_PARTS: Final = 8
MAX_FIELD_BYTES: Final = 1_000
BLOCK_BYTES: Final = 2**20
"""So much of a file is in memory at a time."""

SILENT_S: Final = 60.0
"""How long an upload may bring nothing."""

_FILE: Final = "file"
_PLAIN: Final = frozenset({"", "7bit", "8bit", "binary"})


async def take_file(call: Call, files: StoredFiles, account: str) -> StoredFile:
    """The file of a form, kept. Raises ApiFault 400, 408, 413, 415."""
    if call.request.content_type != FORM_TYPE:
        found = call.request.content_type
        raise ApiFault(415, "MEDIA_TYPE_UNSUPPORTED", f"content-type: expected {FORM_TYPE}, found {found!r}")
    fields: dict[str, str] = {}
    try:
        with files.begin(account) as upload:
            filename = await _read(call, fields, upload)
            form = _form(fields, filename)
            kept_s = FILE_KEPT_S if form.seconds is None else form.seconds
            return await asyncio.to_thread(
                upload.keep, filename or "upload.jsonl", form.purpose, kept_s=kept_s
            )
    except StorageFull as full:
        raise ApiFault(413, "STORAGE_FULL", str(full), param=_FILE) from None
    except (AssertionError, ValueError, HttpProcessingError) as error:  # as aiohttp says that it is no form
        raise ApiFault.invalid(f"body: expected a multipart form, found none: {str(error)[:200]}") from None
    except TimeoutError:
        raise ApiFault(
            408, "BODY_TOO_SLOW", f"expected the next part of the file within {SILENT_S:g} s"
        ) from None


async def _read(call: Call, fields: dict[str, str], upload: Upload) -> str | None:
    """All parts: fields into ``fields``, the file into ``upload``; gives its name, None = there is no file."""
    filename: str | None = None
    async for part in _parts(call):
        name = part.name or ""
        if name in fields or (name == _FILE and filename is not None):
            raise ApiFault.invalid(f"{name}: expected it once, found it again")
        if name == _FILE:
            filename = (part.filename or "upload.jsonl").replace("\\", "/").rpartition("/")[2][:255]
            await _store(part, upload)
        else:
            value = await _next(part, MAX_FIELD_BYTES + 1)
            if len(value) > MAX_FIELD_BYTES or (not part.at_eof() and await _next(part, 1)):
                raise ApiFault.invalid(f"{name[:64]}: expected at most {MAX_FIELD_BYTES} bytes, found more")
            fields[name] = value.decode("utf-8", "replace")
    return filename


async def _parts(call: Call) -> AsyncIterator[BodyPartReader]:
    reader = await call.request.multipart()
    for _ in range(MAX_PARTS):
        async with asyncio.timeout(SILENT_S):
            part = await reader.next()
        if part is None:
            return
        if isinstance(part, MultipartReader):
            raise ApiFault.invalid("body: expected a plain form, found a form in a form")
        encoding = part.headers.get("Content-Transfer-Encoding", "").lower()
        if encoding not in _PLAIN or part.headers.get("Content-Encoding"):
            raise ApiFault.invalid(f"body: expected parts as they are, found an encoding: {encoding!r}")
        yield part
    raise ApiFault.invalid(f"body: expected at most {MAX_PARTS - 1} parts, found more")


async def _store(part: BodyPartReader, upload: Upload) -> None:
    block = bytearray()
    while True:
        data = await _next(part, BLOCK_BYTES)
        block += data
        if len(block) >= BLOCK_BYTES or not data:
            await asyncio.to_thread(upload.write, bytes(block))
            block.clear()
        if not data:
            return


async def _next(part: BodyPartReader, size: int) -> bytes:
    async with asyncio.timeout(SILENT_S):
        return await part.read_chunk(size)


def _form(fields: dict[str, str], filename: str | None) -> FileForm:
    if filename is None:
        raise ApiFault.invalid("file: expected a file, found none")
    try:
        return FileForm.model_validate({_FILE: filename, **fields})
    except ValidationError as error:
        raise ApiFault.invalid(describe_invalid(error)) from None
