"""Lines whose vendor's batch brought no answer: under a hold that stands they are bought elsewhere, else its cost counts."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from virtual_market import market

from negotiator.batch_parcel import Parcel, ParcelLine
from negotiator.batch_settling import Returns, give_back
from negotiator.batch_tries import Tries
from negotiator.engine import Engine
from negotiator.engine_delivery import Delivery
from negotiator.errors import Reject
from negotiator.order import Completion, HoldState, Order
from negotiator.store_open import open_store
from negotiator.wire import Terms
from providers.clock import LoopClock, run_virtual
from providers.errors import ProviderUnavailable

GONE = ProviderUnavailable("the batch ended without it")


class Line:
    """One line of a batch, held, begun for so long and written down in a parcel; and what its run hears of it."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine, self.tries = engine, Tries(engine.rooms.ledger, "b")
        self.parcel = Parcel(folder / "p.jsonl", "openai", "gpt-5-nano", began_ms=engine.rooms.clock.now_ms())
        self.served: list[Completion] = []
        self.failed: list[Reject] = []
        self.returns = Returns(
            self.order,
            self.tries.found,
            lambda _, done: self.served.append(done),
            lambda _, reject: self.failed.append(reject),
        )

    async def order(self, custom_id: str) -> Order:
        body = {"messages": [{"role": "user", "content": "Which river?"}], "max_tokens": 60}
        return self.tries.numbered(await self.engine.order_for(body, Terms()), custom_id)

    async def hold(self, longest_ms: int) -> ParcelLine:
        delivery = await self.engine.submit(await self.order("r"), calls=False)
        assert isinstance(delivery, Delivery)
        held, job = delivery.reservation, delivery.job
        more: dict[str, Any] = {"task": None, "dearest_nusd": held.hold_nusd, "history": job.history()}
        self.parcel.begin()
        self.parcel.add(ParcelLine.of("r", 0, held, delivery.serving, **more))
        self.engine.rooms.ledger.hand_over(held)
        await self.engine.rooms.ledger.begin(held, longest_ms)
        return self.parcel.line(0)

    async def give_back(self, line: ParcelLine, *, over: bool = False) -> None:
        await give_back(self.engine, self.parcel, line, GONE, self.returns, over=over)

    async def money(self) -> tuple[int, int]:
        balance = (await self.engine.rooms.store.balances("default", self.engine.rooms.clock.now_ms()))[0]
        return balance.posted_nusd, balance.pending_nusd


async def until_just_overdue(engine: Engine, line: ParcelLine) -> None:
    """Until the hold's time is over and no sweep has seen it yet."""
    clock = engine.rooms.clock
    held = await engine.rooms.ledger.find(line.reservation_id)
    assert held is not None
    await asyncio.sleep((held.expires_ms + 1 - clock.now_ms()) / 1000)
    held = await engine.rooms.ledger.find(line.reservation_id)
    assert held is not None
    assert held.state is HoldState.IN_DOUBT, "the store has not looked at it since"


@pytest.mark.parametrize("over", [False, True])
def test_of_an_overdue_hold_the_cost_counts_and_nothing_is_bought_under_it(
    over: bool, tmp_path: Path
) -> None:
    """The hold's time ended and no sweep came by: it posts, the line knows it as in doubt, and goes on under a new id."""

    async def play() -> None:
        async with market() as engine:
            one = Line(engine, tmp_path)
            line = await one.hold(longest_ms=2_000)
            await until_just_overdue(engine, line)
            await one.give_back(line, over=over)
            assert [reject.code.name for reject in one.failed] == ["PROVIDERS_FAILED"]
            assert one.served == []
            assert await one.money() == (line.hold_nusd, 0)
            assert (await one.order("r")).order_id == "b+1:r"
            assert one.tries.end("r") == (0, line.hold_nusd)

    run_virtual(play())


def test_a_hold_that_ends_between_two_looks_is_known_as_over(tmp_path: Path) -> None:
    """It stood when it was found and was over when the call was to begin: no call is made, its cost counts."""

    async def play() -> None:
        async with market() as engine:
            one = Line(engine, tmp_path)
            line = await one.hold(longest_ms=2_000)

            async def slowly(custom_id: str) -> Order:
                await until_just_overdue(engine, line)
                return await one.order(custom_id)

            one.returns = replace(one.returns, order=slowly)
            await one.give_back(line)
            assert (one.served, len(one.failed)) == ([], 1)
            assert (await one.money(), engine.rooms.ledger.unresolved) == ((line.hold_nusd, 0), 0)
            assert one.tries.end("r") == (0, line.hold_nusd)

    run_virtual(play())


def test_under_a_hold_that_stands_the_line_is_bought_elsewhere(tmp_path: Path) -> None:
    """In time it is bought under the hold it has; given back once more after a crash, that answer is found and not bought again."""

    async def play() -> None:
        async with market(store=await open_store("embedded://", clock=LoopClock())) as engine:
            one = Line(engine, tmp_path)
            line = await one.hold(longest_ms=2_000)
            await one.give_back(line)
            await one.give_back(line)
            first, again = one.served
            assert (one.failed, first.replayed, again.replayed) == ([], False, True)
            assert (first.order_id, again.order_id) == ("b:r", "b:r")
            assert await one.money() == (first.cost_nusd, 0)

    run_virtual(play())
