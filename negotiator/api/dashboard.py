"""The dashboard's page and its files: no data, so open to all; what it shows it reads with the caller's key.

A browser that asks for ``/`` gets the page, a program the index it always got. The page runs only scripts and styles
that this server sends, and nobody may frame it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

from aiohttp import web

from .faults import ApiFault
from .routes import Answer, Call, answer_json, route

__all__ = ["read_asset", "read_root"]

PAGE: Final = "index.html"
TYPES: Final = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
    "txt": "text/plain",
}
HEADERS: Final = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
    " require-trusted-types-for 'script'; trusted-types 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class _Asset:
    data: bytes
    kind: str
    etag: str


@route("GET", "/", scope=None, ops=True)
async def read_root(call: Call) -> Answer:
    """Where to go from here, as JSON; for a browser the dashboard's page, which reads its data with a key."""
    if _wants_page(call.request.headers.get("accept", "")):
        return _sent(call, _assets()[PAGE])
    index = {
        "name": "negotiator",
        "docs": "/docs",
        "openapi": "/openapi.json",
        "models": "/v1/models",
        "health": "/healthz",
    }
    return answer_json(index, headers={"vary": "accept"})


@route("GET", "/dashboard/{file}", scope=None, produces="text/plain", ops=True, errors=(404,))
async def read_asset(call: Call) -> Answer:
    """A script, style or picture of the dashboard."""
    asset = _assets().get(call.request.match_info["file"])
    if asset is None:
        raise ApiFault(404, "NOT_FOUND", f"there is nothing at {call.request.path}")
    return _sent(call, asset)


@cache
def _assets() -> Mapping[str, _Asset]:
    """Every file there is, by name: what is not here cannot be asked for."""
    found = {}
    for file in (files(__package__) / "static" / "dashboard").iterdir():
        kind = TYPES.get(file.name.rpartition(".")[2])
        if kind is not None:
            data = file.read_bytes()
            found[file.name] = _Asset(data, kind, hashlib.sha256(data).hexdigest()[:20])
    return found


def _wants_page(accept: str) -> bool:
    """Whether a page is liked better than JSON: it is named, and before JSON where both are."""
    page, values = accept.find("text/html"), accept.find("application/json")
    return page >= 0 and (values < 0 or page < values)


def _sent(call: Call, asset: _Asset) -> web.Response:
    known = call.request.if_none_match or ()
    same = any(tag.value == asset.etag for tag in known)
    response = web.Response(status=304) if same else web.Response(body=asset.data)
    if not same:
        response.content_type, response.charset = asset.kind, "utf-8"
    response.headers.update(HEADERS)
    response.headers["vary"] = "accept"
    response.etag = asset.etag
    return response
