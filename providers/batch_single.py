"""One order in the batch tier: a batch of one, waited for. Many lines at once are handed in by the house together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from hashlib import blake2b
from typing import Final

from .batch import BatchDriver, BatchHandle, BatchLine, BatchState, BatchStatus, SubmitInDoubt
from .errors import MalformedAnswer, ProviderError, ProviderTimeout, ProviderUnavailable, RateLimited
from .terms import Delta, Ticket

__all__ = ["LONGEST_POLL_MS", "SHORTEST_POLL_MS", "deliver_one", "next_poll_ms"]

SHORTEST_POLL_MS: Final = 10_000
LONGEST_POLL_MS: Final = 300_000
"""A batch is asked about soon at first, for small ones end in minutes, and then ever more rarely."""

MAX_FAILED_POLLS: Final = 20


def next_poll_ms(last_ms: int) -> int:
    """How long to wait before asking again, after a wait of ``last_ms`` (0 = the first)."""
    return min(LONGEST_POLL_MS, max(SHORTEST_POLL_MS, last_ms * 3 // 2))


async def deliver_one(driver: BatchDriver, ticket: Ticket) -> AsyncGenerator[Delta]:
    """The answer to a ticket by way of the batch endpoint; closing it cancels the batch. Raises ProviderError."""
    quote = ticket.quote
    name = f"negotiator-{blake2b(ticket.reservation_id.encode(), digest_size=12).hexdigest()}"
    line = BatchLine(line_id="only", body=ticket.body, max_output_tokens=ticket.max_output_tokens)
    handle = await _handed_in(driver, name, quote.model, driver.encode(quote.model, line))
    ended = False
    try:
        async with asyncio.timeout(None if ticket.deadline_ms is None else ticket.deadline_ms / 1000):
            status = await _ended(driver, handle)
        ended = True
        if status.state is BatchState.FAILED:
            raise ProviderUnavailable(f"the batch was not run: {status.detail}")
        async for result in driver.results(handle, status):
            if result.error is not None:
                raise result.error
            if result.delta is not None:
                yield result.delta
                return
        raise MalformedAnswer("expected the result of the one line, found none")
    except TimeoutError:
        raise ProviderTimeout("the batch had not ended in time") from None
    finally:
        if not ended:
            with suppress(ProviderError):  # it ends by itself, and what it did is in its bill
                await driver.cancel(handle)


async def _handed_in(driver: BatchDriver, name: str, model: str, line: bytes) -> BatchHandle:
    try:
        return await driver.submit(name, model, [line])
    except SubmitInDoubt:
        if not driver.findable:
            raise
        await asyncio.sleep(SHORTEST_POLL_MS / 1000)
        found = await driver.find(name, model, 1, 0)
        if found is None:
            raise ProviderUnavailable("the batch was not taken") from None
        return found


async def _ended(driver: BatchDriver, handle: BatchHandle) -> BatchStatus:
    waited_ms = failed = 0
    while True:
        waited_ms = next_poll_ms(waited_ms)
        await asyncio.sleep(waited_ms / 1000)
        try:
            status = await driver.poll(handle)
        except (ProviderUnavailable, RateLimited):
            failed += 1
            if failed == MAX_FAILED_POLLS:
                raise
            continue
        failed = 0
        if status.state is not BatchState.RUNNING:
            return status
