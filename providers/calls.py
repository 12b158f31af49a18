"""One call to one seller over HTTP, from the key taken to the usage counted; the same for every dialect.

Closing the iterator, or cancelling the task that awaits it, cuts the connection: the seller sees it at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from .assembly import MessageBuilder
from .dialect import Call, Dialect, Hear, Reader, Want, least_left
from .embeddings import as_asked
from .errors import (
    AuthFailed,
    MalformedAnswer,
    ProviderError,
    ProviderTimeout,
    RateLimited,
    RequestRefused,
    StreamCut,
)
from .http_reply import HttpPoster, Reply
from .keys import Key, KeyRing
from .openai_faults import MAX_DETAIL_CHARS
from .sse import Event, EventReader
from .terms import Delta, LineKind, Offer, Ticket, Usage
from .tokens import VOCABULARIES, count_text, reference_of

__all__ = ["MAX_KEYS_TRIED", "SHAPES", "USAGE_GRACE_MS", "Calls", "Done"]

USAGE_GRACE_MS: Final = 3_000
"""How long a stream is read on for its usage after the answer finished."""

MAX_KEYS_TRIED: Final = 3
"""Keys tried for one call before the vendor's refusal is the seller's."""

SHAPES: Final = (AttributeError, IndexError, KeyError, TypeError, ValueError)
"""What a translator raises when JSON is not shaped as documented."""

_INPUT_LINES: Final = frozenset({LineKind.INPUT, LineKind.CACHE_READ, LineKind.CACHE_WRITE})

Done = Callable[[Delta, float | None, float], None]
"""Told the last delta, the time to first token (None: not streamed) and the whole time of a call, milliseconds."""


class Calls:
    """Calls of one provider through one dialect."""

    def __init__(self, provider: str, dialect: Dialect, client: HttpPoster, keys: KeyRing) -> None:
        self._provider = provider
        self._dialect = dialect
        self._client = client
        self._keys = keys
        self.hear: Hear | None = None

    async def run(
        self,
        ticket: Ticket,
        want: Want,
        offer: Offer | None,
        done: Done,
        failed: Callable[[ProviderError], None] | None = None,
    ) -> AsyncGenerator[Delta]:
        """The answer, piece by piece; the last piece has finish reason and usage (estimated where none came).

        Raises :class:`ProviderError` with provider and model. ``offer`` says how its tokens are counted.
        """
        time = asyncio.get_running_loop().time
        begun_s, first_s = time(), None
        key: Key | None = None
        reply: Reply | None = None
        whole = False
        seen: list[Mapping[str, Any]] = []
        try:
            if name := self._dialect.unsupported(ticket.body):
                raise RequestRefused(f"cannot honour {name}")
            key, reply = await self._send(ticket, want, time)
            if not want.stream:
                last = self._dialect.answer(await reply.body())
                if "messages" not in ticket.body:
                    last = as_asked(last, ticket.body)
            else:
                reader, events = self._dialect.reader(), EventReader()
                while not reader.done:
                    chunk = await _more(reply, reader)
                    for delta in _read(reader, events.feed(chunk) if chunk else events.close()):
                        if first_s is None and _writes(delta):
                            first_s = time()
                        seen.append(delta.delta)
                        yield delta
                    if not chunk:
                        break
                last = reader.last()
            last = _counted(last, seen, ticket, offer)
            whole = True
            done(last, None if first_s is None else (first_s - begun_s) * 1000, (time() - begun_s) * 1000)
            yield last
            if want.stream:
                await reply.finish()
        except ProviderError as error:
            error.provider, error.model = self._provider, ticket.quote.model
            error.detail = self._keys.masked(error.detail)
            error.args = (error.detail,)
            if failed is not None:
                failed(error)
            raise
        except SHAPES as error:
            if whole:  # not the seller's: what learns from its answers is ours
                raise
            raise self._misshapen(error, ticket, answered=reply is not None) from error
        finally:
            if reply is not None:
                reply.close()
            if key is not None:
                self._keys.release(key)

    def _misshapen(self, error: Exception, ticket: Ticket, *, answered: bool) -> ProviderError:
        """Translators take documented shapes; what has another one is refused here, whichever side it came from."""
        leaf, where = (MalformedAnswer, "an answer") if answered else (RequestRefused, "a body")
        detail = f"expected {where} in the documented shape, found another: {type(error).__name__}: {error}"
        return leaf(detail[:MAX_DETAIL_CHARS], provider=self._provider, model=ticket.quote.model)

    async def _send(self, ticket: Ticket, want: Want, time: Callable[[], float]) -> tuple[Key, Reply]:
        """The first good reply and the key that bought it; a key refused or out of its window is ejected alone."""
        call, deadline_ms, begun_s = self._dialect.call(ticket.body, want), ticket.deadline_ms, time()
        for tried in range(1, MAX_KEYS_TRIED + 1):
            key = self._keys.take(want.model)
            try:
                left_ms = None if deadline_ms is None else deadline_ms - round((time() - begun_s) * 1000)
                if left_ms is not None and left_ms <= 0:
                    raise ProviderTimeout("no time was left to call")
                return key, await self._ask(key, call, want.model, left_ms)
            except (AuthFailed, RateLimited) as error:
                self._keys.release(key)
                if not self._keys.eject(key, error, want.model) or tried == MAX_KEYS_TRIED:
                    raise
            except BaseException:
                self._keys.release(key)
                raise
        raise AssertionError("the last key's failure was raised")

    async def _ask(self, key: Key, call: Call, model: str, deadline_ms: int | None) -> Reply:
        headers = call.headers
        if key.secret is not None:
            headers = {**headers, **self._dialect.authorise(key.secret.reveal())}
        reply = await self._client.post(call.path, call.body, headers, deadline_ms=deadline_ms)
        windows = self._dialect.windows(reply.headers)
        if windows:
            left = least_left(windows)
            key.left = key.left if left is None else left
            if self.hear is not None:
                self.hear(self._provider, model, windows)
        if 200 <= reply.status < 300:
            return reply
        try:
            raise self._dialect.fault(reply.status, reply.headers, await reply.fault_body())
        finally:
            reply.close()


def _read(reader: Reader, events: Sequence[Event]) -> Iterator[Delta]:
    """The deltas of events that arrived together; what came before a failure is given before it is raised.

    Neighbouring pieces of text are one piece with all their bytes: a fast seller costs less than one by one.
    """
    texts: list[str] = []
    raws: list[bytes] = []
    held: Delta | None = None
    failure: Exception | None = None
    for event in events:
        try:
            delta = reader.event(event)
        except (ProviderError, *SHAPES) as error:
            failure = error
            break
        if delta is None:
            continue
        text = delta.delta.get("content") if len(delta.delta) == 1 else None
        if isinstance(text, str) and delta.raw is not None:
            texts.append(text)
            raws.append(delta.raw)
            held = delta
            continue
        if held is not None:
            yield _joined(held, texts, raws)
            texts, raws, held = [], [], None
        yield delta
    if held is not None:
        yield _joined(held, texts, raws)
    if failure is not None:
        raise failure


def _joined(last: Delta, texts: list[str], raws: list[bytes]) -> Delta:
    return last if len(texts) == 1 else Delta(delta={"content": "".join(texts)}, raw=b"".join(raws))


async def _more(reply: Reply, reader: Reader) -> bytes:
    """The next bytes of a stream; once the answer finished, its end is taken for whatever stops it."""
    if not reader.finished:
        return await reply.some()
    try:
        async with asyncio.timeout(USAGE_GRACE_MS / 1000):
            return await reply.some()
    except (TimeoutError, StreamCut, ProviderTimeout):
        return b""


def _counted(last: Delta, seen: Sequence[Mapping[str, Any]], ticket: Ticket, offer: Offer | None) -> Delta:
    """The last delta with a usage: the vendor's, or one counted from what was relayed."""
    usage = last.usage
    if usage is not None and (usage.output_tokens or "messages" not in ticket.body):
        return last
    written = MessageBuilder()
    for delta in (*seen, last.delta):
        written.add(delta)
    if usage is not None and written.empty:
        return last
    output_tokens = _tokens_of(written.text, offer) if "messages" in ticket.body else 0
    if usage is not None:
        return replace(last, usage=replace(usage, output_tokens=output_tokens, estimated=True))
    input_tokens = sum(line.tokens for line in ticket.quote.lines if line.kind in _INPUT_LINES)
    return replace(last, usage=Usage(input_tokens, output_tokens, estimated=True))


def _tokens_of(text: str, offer: Offer | None) -> int:
    if offer is not None and offer.vocabulary in VOCABULARIES:
        return count_text(text, offer.vocabulary)
    if offer is None:
        return count_text(text)
    return round(count_text(text, reference_of((offer.vocabulary,))) * offer.token_factor)


def _writes(delta: Delta) -> bool:
    """Whether a delta has something the model wrote, not only its role."""
    return any(value for name, value in delta.delta.items() if name != "role")
