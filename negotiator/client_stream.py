"""A streamed answer as it comes over HTTP: events in, the same chunks out that the market in-process gives."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import aiohttp
import orjson

from providers.assembly import MessageBuilder
from providers.errors import MalformedAnswer
from providers.sse import DONE, EventReader

from .client_http import error_in
from .errors import ServerUnreachable
from .order import Chunk
from .wire_in import completion_in

__all__ = ["chunks_in"]


async def chunks_in(response: aiohttp.ClientResponse) -> AsyncGenerator[Chunk]:
    """The pieces of an answer; the last has the completion, whole or as far as it came.

    Closing it hangs up. Raises Rejected when the house ends the stream with a no and nothing else, ServerUnreachable
    when the stream breaks off.
    """
    answer = _Answer()
    try:
        async for event in _events(response):
            chunk = answer.take(event)
            if chunk is not None:
                yield chunk
                if chunk.completion is not None:
                    return
    except (aiohttp.ClientError, MalformedAnswer, TimeoutError) as error:
        raise ServerUnreachable(f"the stream broke off: {error or type(error).__name__}") from error
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ServerUnreachable(f"the stream: expected a house's events, found others: {error!r}") from error
    finally:
        response.close() if answer.open else response.release()
    raise ServerUnreachable("the stream broke off: it ended without saying what it cost")


async def _events(response: aiohttp.ClientResponse) -> AsyncGenerator[dict[str, Any]]:
    reader = EventReader()
    async for data in response.content.iter_any():
        for event in reader.feed(data):
            if event.data == DONE:
                return
            yield orjson.loads(event.data)


class _Answer:
    """What has come so far."""

    def __init__(self) -> None:
        self.open = True
        self._message = MessageBuilder()
        self._last: dict[str, Any] | None = None

    def take(self, event: dict[str, Any]) -> Chunk | None:
        """The chunk that an event makes; the finish waits for the bill."""
        if "error" in event:
            raise error_in(200, orjson.dumps(event))
        for choice in event.get("choices", ()):
            delta = choice.get("delta") or {}
            self._message.add(delta)
            if choice.get("finish_reason") is None:
                return Chunk(delta=delta)
            self._last = choice
        if "negotiator" not in event:
            return None
        last = self._last or {"finish_reason": None}
        said = {"message": self._message.message(), "finish_reason": last["finish_reason"]}
        done = completion_in(event["negotiator"], said, event.get("usage") or {})
        self.open = False
        return Chunk(delta=last.get("delta") or {}, finish_reason=done.finish_reason, completion=done)
