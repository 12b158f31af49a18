"""A simulated seller's batch endpoint, in virtual time: paced, done within a day, expired, cancelled, forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from providers.batch import BatchHandle, BatchLine, BatchState
from providers.clock import LoopClock, run_virtual
from providers.errors import ProviderTimeout, ProviderUnavailable, RequestRefused
from providers.simulated import SimulatedSeller, default_sellers

LUNA = "gpt-6-luna"


def virtual(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    def run(*given: Any, **named: Any) -> None:
        run_virtual(test(*given, **named))

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


def openai(clock: LoopClock) -> SimulatedSeller:
    sellers = default_sellers(clock, seed=3)
    return next(seller for seller in sellers if seller.name == "openai")


async def handed_in(seller: SimulatedSeller, count: int) -> BatchHandle:
    lines = [
        BatchLine(
            line_id=f"l{n}",
            body={"messages": [{"role": "user", "content": f"Question {n}?"}]},
            max_output_tokens=3_000,
        )
        for n in range(count)
    ]
    driver = seller.batches
    return await driver.submit("name", LUNA, [driver.encode(LUNA, one) for one in lines])


async def until_ended(seller: SimulatedSeller, handle: BatchHandle) -> float:
    """Hours until it ended."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    while (await seller.batches.poll(handle)).state is BatchState.RUNNING:  # noqa: ASYNC110  virtual time
        await asyncio.sleep(600)
    return (loop.time() - began_s) / 3600


@virtual
async def test_all_lines_are_answered_within_a_day_and_billed() -> None:
    """Forty lines: each has its answer, usage and a bill at the batch tier's rates; it takes hours, not seconds."""
    clock = LoopClock()
    seller = openai(clock)
    handle = await handed_in(seller, 40)
    hours = await until_ended(seller, handle)
    assert 0.3 < hours < 24
    status = await seller.batches.poll(handle)
    assert (status.total, status.done, status.failed) == (40, 40, 0)
    results = [result async for result in seller.batches.results(handle, status)]
    offer = next(o for o in seller.offers() if (o.model, o.tier) == (LUNA, "batch"))
    for result in results:
        assert result.delta is not None
        assert result.delta.usage is not None
        rates, usage = offer.steps[0].rates, result.delta.usage
        billed = usage.input_tokens * rates.input_nusd_per_mtok
        billed += usage.output_tokens * rates.output_nusd_per_mtok
        assert result.delta.billed_nusd == pytest.approx(billed / 1e6, abs=2)


@virtual
async def test_what_is_not_done_within_the_window_expires() -> None:
    """With a window far too short some lines are done when it is over, and the others have expired."""
    seller = openai(LoopClock())
    seller.batches.window_ms = 2 * 3_600_000
    handle = await handed_in(seller, 90)
    assert await until_ended(seller, handle) == pytest.approx(2, abs=0.2)
    status = await seller.batches.poll(handle)
    results = [result async for result in seller.batches.results(handle, status)]
    late = [result for result in results if result.error is not None]
    assert 0 < len(late) < len(results) == 90
    assert all(isinstance(result.error, ProviderTimeout) for result in late)


@virtual
async def test_a_cancelled_batch_keeps_what_was_done() -> None:
    """Cancelled half-way: every line has an answer or says that it was not run."""
    seller = openai(LoopClock())
    handle = await handed_in(seller, 40)
    while (await seller.batches.poll(handle)).done < 5:  # noqa: ASYNC110  virtual time
        await asyncio.sleep(60)
    await seller.batches.cancel(handle)
    status = await seller.batches.poll(handle)
    assert status.state is BatchState.ENDED
    results = [result async for result in seller.batches.results(handle, status)]
    assert len(results) == 40
    assert 5 <= sum(result.delta is not None for result in results) < 40
    assert all(isinstance(r.error, ProviderUnavailable) for r in results if r.delta is None)


@virtual
async def test_another_process_knows_nothing_of_it() -> None:
    """A batch is found by its name here; a new seller does not know it."""
    seller = openai(LoopClock())
    handle = await handed_in(seller, 2)
    assert await seller.batches.find("name", LUNA, 2, 0) == handle
    assert await seller.batches.find("other", LUNA, 2, 0) is None
    await seller.aclose()
    with pytest.raises(RequestRefused):
        await openai(LoopClock()).batches.poll(handle)
