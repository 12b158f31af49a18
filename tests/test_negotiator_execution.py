"""Execution: the instant at which waits for a seller end, whoever else wants them to end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from negotiator.execution_call import Cutoff
from providers.clock import run_virtual
from providers.terms import Delta

PIECE = Delta(delta={"content": "word"})


async def words(*after_s: float) -> AsyncIterator[Delta]:
    """A piece after each of these waits."""
    for wait_s in after_s:
        await asyncio.sleep(wait_s)
        yield PIECE


def test_a_wait_ends_at_the_instant_and_later_ones_do_not_begin() -> None:
    """Pieces before the instant come; the wait it falls into is cut, and so is every one after it."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        cutoff, pieces = Cutoff(loop.time() + 5), words(2, 2, 2)
        assert await cutoff.next_of(pieces) is PIECE
        assert await cutoff.next_of(pieces) is PIECE
        with pytest.raises(TimeoutError):
            await cutoff.next_of(pieces)
        assert loop.time() == pytest.approx(5)
        with pytest.raises(TimeoutError):
            await cutoff.next_of(words(0))
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    run_virtual(main())


def test_only_waits_for_the_seller_are_cut() -> None:
    """A buyer that reads slowly is not interrupted when the instant passes; the next wait is."""

    async def main() -> None:
        cutoff, pieces = Cutoff(asyncio.get_running_loop().time() + 1), words(0, 0)
        assert await cutoff.next_of(pieces) is PIECE
        await asyncio.sleep(3)
        with pytest.raises(TimeoutError):
            await cutoff.next_of(pieces)

    run_virtual(main())


def test_a_cancelled_wait_stays_cancelled() -> None:
    """A buyer that hangs up is no timeout, even in the instant of the timeout itself."""

    async def main() -> None:
        for hang_up_s in (1, 2):
            loop = asyncio.get_running_loop()
            cutoff = Cutoff(loop.time() + 2)
            waiting = asyncio.ensure_future(cutoff.next_of(words(10)))
            loop.call_at(loop.time() + hang_up_s, waiting.cancel)
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert waiting.cancelled()
            cutoff.close()

    run_virtual(main())


def test_without_an_instant_a_wait_is_as_long_as_it_takes() -> None:
    """None cuts nothing, and the end of the pieces is told apart from a cut."""

    async def main() -> None:
        cutoff, pieces = Cutoff(None), words(100_000)
        assert await cutoff.next_of(pieces) is PIECE
        assert await cutoff.next_of(pieces) is None
        cutoff.close()

    run_virtual(main())
