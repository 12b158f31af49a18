"""Files: uploaded for batches or written by them, each seen by its own account alone."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from ..batch_files import StoredFile
from .faults import ApiFault
from .forms import take_file
from .routes import Answer, Call, route
from .schemas import AccountQuery
from .schemas_batches import FileDeletedOut, FileForm, FileListQuery, FileOut, FilesOut

__all__ = [
    "create_file",
    "delete_file",
    "found_file",
    "list_files",
    "paying_account",
    "read_content",
    "read_file",
]


@route("POST", "/v1/files", form=FileForm, query=AccountQuery, res=FileOut, errors=(404,))
async def create_file(call: Call) -> Answer:
    """Upload a file of requests, one JSON object per line, for a batch.

    It is streamed to disk. Files go when they expire, by default after 30 days.
    """
    account = await paying_account(call)
    return (await take_file(call, call.house.office.files, account)).out()


@route("GET", "/v1/files", query=FileListQuery, res=FilesOut, errors=(404,))
async def list_files(call: Call) -> Answer:
    """An account's files: uploads and what batches wrote, the latest first."""
    asked: FileListQuery = call.query
    files, more = call.house.office.files.page(
        await call.reach(asked.account),
        after=asked.after,
        limit=asked.limit,
        oldest_first=asked.order == "asc",
        purpose=asked.purpose,
    )
    return {
        "object": "list",
        "data": [file.out() for file in files],
        "first_id": files[0].file_id if files else None,
        "last_id": files[-1].file_id if files else None,
        "has_more": more,
    }


@route("GET", "/v1/files/{file_id}", query=AccountQuery, res=FileOut, errors=(404,))
async def read_file(call: Call) -> Answer:
    """What is known of a file."""
    return (await _file(call)).out()


@route(
    "GET",
    "/v1/files/{file_id}/content",
    query=AccountQuery,
    produces="application/octet-stream",
    errors=(404,),
)
async def read_content(call: Call) -> Answer:
    """A file's bytes, as they were uploaded or written; ranges are answered."""
    file = await _file(call)
    headers = {
        **call.headers,
        "content-type": "application/octet-stream",
        "content-disposition": f'attachment; filename="{file.file_id}.jsonl"',
        "x-content-type-options": "nosniff",
    }
    return web.FileResponse(call.house.office.files.content(file), headers=headers)


@route("DELETE", "/v1/files/{file_id}", query=AccountQuery, res=FileDeletedOut, errors=(404,))
async def delete_file(call: Call) -> Answer:
    """Remove a file. A batch that runs on it goes on."""
    file = await _file(call)
    call.house.office.files.remove(file)
    return {"id": file.file_id, "object": "file", "deleted": True}


async def paying_account(call: Call) -> str:
    """The account that is meant to have and to pay; another than the key's own needs scope admin. Raises ApiFault."""
    wanted: str | None = call.query.account
    account = await call.reach(wanted)
    if account != call.caller.account and not call.caller.allows("admin"):
        raise ApiFault(403, "SCOPE_MISSING", "account: the key lacks the scope 'admin'", param="account")
    return account


def found_file(call: Call, account: str, file_id: str, **where: Any) -> StoredFile:
    """A file of this account. Raises ApiFault 404."""
    file = call.house.office.files.find(account, file_id)
    if file is None:
        raise ApiFault(404, "UNKNOWN_FILE", f"there is no file {file_id[:64]!r} of this account", **where)
    return file


async def _file(call: Call) -> StoredFile:
    account = await call.reach(call.query.account)
    return found_file(call, account, call.request.match_info["file_id"])
