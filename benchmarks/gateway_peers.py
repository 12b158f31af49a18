"""What the gateway is measured between and beside: a model server, and a bare pass-through proxy of a dozen lines.

Each runs in a process of its own: ``python -m benchmarks.gateway_peers upstream`` or ``... proxy URL``; the first line
it prints is its address.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable

import aiohttp
from aiohttp import web

__all__ = ["proxy", "upstream"]

WORDS = [
    "The",
    "Rhine",
    "carries",
    "more",
    "goods",
    "than",
    "any",
    "other",
    "river",
    "of",
    "Europe",
    "and",
    "is",
    "navigable",
    "to",
    "Basel",
]
USAGE = {"prompt_tokens": 160, "completion_tokens": len(WORDS), "total_tokens": 160 + len(WORDS)}
HEAD = {"id": "chatcmpl-1", "created": 1_700_000_000, "model": "small"}
MESSAGE = {"role": "assistant", "content": " ".join(WORDS)}
WHOLE = json.dumps(
    {
        **HEAD,
        "object": "chat.completion",
        "choices": [{"index": 0, "message": MESSAGE, "finish_reason": "stop", "logprobs": None}],
        "usage": USAGE,
    }
).encode()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _event(delta: dict[str, str], finish_reason: str | None, **more: object) -> bytes:
    choices = [{"index": 0, "delta": delta, "finish_reason": finish_reason}]
    chunk = {**HEAD, "object": "chat.completion.chunk", "choices": choices, **more}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


PIECES = (
    *(_event({"content": word + " "}, None) for word in WORDS),
    _event({}, "stop"),
    b"data: "
    + json.dumps({**HEAD, "object": "chat.completion.chunk", "choices": [], "usage": USAGE}).encode()
    + b"\n\n",
    b"data: [DONE]\n\n",
)


async def upstream(request: web.Request) -> web.StreamResponse:
    """One chat answer at once, whole or streamed in pieces."""
    if b'"stream":true' not in (await request.read()).replace(b'"stream": true', b'"stream":true'):
        return web.Response(body=WHOLE, content_type="application/json")
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    for piece in PIECES:
        await response.write(piece)
    return response


def proxy(url: str) -> Handler:
    """Pass every request on and every answer back, through one pooled client."""
    session: aiohttp.ClientSession | None = None

    async def handle(request: web.Request) -> web.StreamResponse:
        nonlocal session
        session = session or aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        headers = {"content-type": request.headers["content-type"]}
        data = await request.read()
        async with session.post(url + request.path, data=data, headers=headers) as answer:
            if answer.content_type != "text/event-stream":
                return web.Response(body=await answer.read(), content_type=answer.content_type)
            response = web.StreamResponse(headers={"content-type": "text/event-stream"})
            await response.prepare(request)
            async for piece in answer.content.iter_any():
                await response.write(piece)
            return response

    return handle


async def _listen(handler: Handler) -> None:
    app = web.Application()
    app.router.add_post("/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    print("http://{}:{}".format(*runner.addresses[0][:2]), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_listen(upstream if sys.argv[1] == "upstream" else proxy(sys.argv[2])))
