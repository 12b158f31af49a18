"""A model server that takes its time and keeps its own bill: ``python -m benchmarks.vendor``.

It speaks OpenAI's chat API, uses every token it is allowed, and bills what it had generated when a caller hangs up.
A model's name says how long an answer takes: ``m-250`` about 250 ms, a half to one and a half times that. The first
line it prints is its address; ``GET /bill`` says what was asked of it and what it charges.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import asdict, dataclass
from typing import Any

import orjson
from aiohttp import web

__all__ = ["INPUT_NUSD", "OUTPUT_NUSD", "PIECES", "WORD", "Bill", "Vendor", "listen"]

INPUT_NUSD = 1_000
"""Nano-dollars per input token: one dollar per million."""

OUTPUT_NUSD = 10_000
PIECES = 10
WORD = " river"


@dataclass(slots=True)
class Bill:
    """What was asked and what is charged. whole: answers delivered to their end; running: calls at work now."""

    calls: int = 0
    whole: int = 0
    running: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    @property
    def nusd(self) -> int:
        """Nano-dollars."""
        return self.input_tokens * INPUT_NUSD + self.output_tokens * OUTPUT_NUSD


class Vendor:
    """Chat answers of known length."""

    def __init__(self, seed: int = 0) -> None:
        self.bill = Bill()
        self._draw = random.Random(seed)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """One answer, whole or streamed in pieces."""
        body = orjson.loads(await request.read())
        tokens = int(body.get("max_tokens") or body.get("max_completion_tokens") or 100)
        took_s = int(body["model"].rpartition("-")[2]) / 1000 * self._draw.uniform(0.5, 1.5)
        sent = [tokens // PIECES] * (PIECES - 1)
        sent.append(tokens - sum(sent))
        asked = sum(len(str(message["content"])) for message in body["messages"]) // 4
        self.bill.calls += 1
        self.bill.running += 1
        self.bill.input_tokens += asked
        stream = web.StreamResponse(headers={"content-type": "text/event-stream"})
        try:
            if body.get("stream"):
                await stream.prepare(request)
            for count in sent:
                await asyncio.sleep(took_s / PIECES)
                self.bill.output_tokens += count
                if body.get("stream"):
                    await stream.write(_chunk({"content": WORD * count}))
            self.bill.whole += 1
        finally:
            self.bill.running -= 1
        usage = {"prompt_tokens": asked, "completion_tokens": tokens, "total_tokens": asked + tokens}
        if not body.get("stream"):
            return web.json_response(
                _answer(WORD * tokens, usage), dumps=lambda value: orjson.dumps(value).decode()
            )
        await stream.write(_chunk({}, finish_reason="stop") + _chunk(None, usage=usage) + b"data: [DONE]\n\n")
        return stream

    async def account(self, request: web.Request) -> web.Response:
        """The bill so far."""
        return web.json_response({**asdict(self.bill), "nusd": self.bill.nusd})


_HEAD = {"id": "chatcmpl-1", "created": 1_700_000_000, "model": "m"}


def _answer(text: str, usage: dict[str, int]) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    return {**_HEAD, "object": "chat.completion", "choices": [choice], "usage": usage}


def _chunk(delta: dict[str, str] | None, finish_reason: str | None = None, **more: Any) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish_reason}]
    chunk = {**_HEAD, "object": "chat.completion.chunk", "choices": choices, **more}
    return b"data: " + orjson.dumps(chunk) + b"\n\n"


async def listen(vendor: Vendor) -> None:
    """Serve on a free port of loopback for ever."""
    app = web.Application()
    app.router.add_post("/v1/chat/completions", vendor.chat)
    app.router.add_get("/bill", vendor.account)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
    print("http://{}:{}".format(*runner.addresses[0][:2]), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(listen(Vendor()))
