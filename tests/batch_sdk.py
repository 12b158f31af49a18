"""Batches by OpenAI's own SDK against a running server: how tests make files, start batches and wait for them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import openai
from api_house import Served, api_house, until
from openai.types import Batch
from vendor_playback import Playback

__all__ = ["ended", "half_way", "lines_of", "request", "sdk", "started", "uploaded"]

ENDED = {"completed", "failed", "expired", "cancelled"}


def request(custom_id: str, content: str = "What is 2+2?", **more: Any) -> dict[str, Any]:
    """A line of a batch file; ``more`` beside its body."""
    body = {"model": "auto", "messages": [{"role": "user", "content": content}], "max_tokens": 50}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body, **more}


@asynccontextmanager
async def sdk(*replies: Any, **house: Any) -> AsyncIterator[tuple[openai.AsyncOpenAI, Served]]:
    """A client of a running server without keys."""
    async with (
        api_house(*replies, **house) as served,
        openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="unused", max_retries=0) as client,
    ):
        yield client, served


async def uploaded(client: openai.AsyncOpenAI, lines: Iterable[Mapping[str, Any] | str]) -> str:
    """The id of an uploaded file of these lines; a text goes as it is."""
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    made = await client.files.create(file=("lines.jsonl", text.encode()), purpose="batch")
    return made.id


async def started(
    client: openai.AsyncOpenAI, lines: Iterable[Mapping[str, Any] | str], window: Any = "24h", **more: Any
) -> Batch:
    """A new batch of these lines, chats unless ``more`` names another endpoint."""
    asked: Any = {"endpoint": "/v1/chat/completions", "completion_window": window, **more}
    return await client.batches.create(input_file_id=await uploaded(client, lines), **asked)


async def half_way(
    client: openai.AsyncOpenAI, batch_id: str, playback: Playback, answered: int, asked: int
) -> None:
    """Wait until so many lines of a batch are answered and its seller was asked so often."""

    async def there() -> bool:
        counts = (await client.batches.retrieve(batch_id)).request_counts
        return counts is not None and counts.completed >= answered and len(playback.received) >= asked

    await until(there)


async def ended(client: openai.AsyncOpenAI, batch_id: str, within_s: float = 60) -> Batch:
    """The batch when nothing of it changes any more; raises TimeoutError."""
    async with asyncio.timeout(within_s):
        while True:
            batch = await client.batches.retrieve(batch_id)
            if batch.status in ENDED:
                return batch
            await asyncio.sleep(0.05)


async def lines_of(client: openai.AsyncOpenAI, file_id: str | None) -> list[dict[str, Any]]:
    """The lines of a file."""
    assert file_id is not None
    content = await client.files.content(file_id)
    return [json.loads(line) for line in content.text.splitlines()]
