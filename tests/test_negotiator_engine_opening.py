"""Opening a market is all or nothing: where a step raises, what was opened before it is closed."""

from __future__ import annotations

from pathlib import Path

import pytest

from negotiator.config import Config
from negotiator.engine import Engine
from negotiator.errors import InputInvalid
from negotiator.store_embedded import EmbeddedStore
from providers.clock import SystemClock
from providers.ratecard import RateCard
from providers.simulated import SimulatedSeller


class Closing(SimulatedSeller):
    """A seller that counts how often it was closed, and may fail at it."""

    closed = 0
    broken = False

    async def aclose(self) -> None:
        self.closed += 1
        if self.broken:
            raise RuntimeError("expected a connection to close, found none")
        await super().aclose()


def sellers(*names: str) -> list[Closing]:
    return [Closing(name, RateCard(name, "openai"), {}, SystemClock()) for name in names]


def moved(url: str) -> tuple[Config, Config]:
    """Two configurations of one ledger: in the second an account has another parent, which no ledger allows."""
    accounts = [{"id": "team"}, {"id": "run"}]
    first = {"store": {"url": url}, "accounts": accounts}
    second = {"store": {"url": url}, "accounts": [accounts[0], {"id": "run", "parent": "team"}]}
    return Config.model_validate(first), Config.model_validate(second)


async def test_a_market_that_cannot_open_holds_nothing(tmp_path: Path) -> None:
    """A later step raises: the sellers are closed, the ledger's file can be opened by the next who comes."""
    url = f"embedded://{tmp_path / 'ledger.db'}"
    good, bad = moved(url)
    async with Engine.open(good, sellers=sellers("one")):
        pass
    given = sellers("one", "two")
    market = Engine.open(bad, sellers=given)
    with pytest.raises(InputInvalid, match="parent of 'run'"):
        await market.__aenter__()
    assert [seller.closed for seller in given] == [1, 1]
    with pytest.raises(AssertionError, match="not open"):
        _ = market.rooms
    await EmbeddedStore(tmp_path / "ledger.db", clock=SystemClock()).aclose()


async def test_a_store_that_was_given_stays_open(tmp_path: Path) -> None:
    """Who gave the store closes it, also when the market could not open on it."""
    store = EmbeddedStore(tmp_path / "ledger.db", clock=SystemClock())
    good, bad = moved("embedded://")
    async with Engine.open(good, sellers=sellers("one"), store=store):
        pass
    with pytest.raises(InputInvalid, match="parent of 'run'"):
        await Engine.open(bad, sellers=sellers("one"), store=store).__aenter__()
    assert (await store.balances("run", 0))[0].posted_nusd == 0
    await store.aclose()


async def test_a_seller_that_cannot_close_keeps_nothing_else_open(tmp_path: Path) -> None:
    """One seller raises as the market ends: the others and the ledger are closed all the same."""
    given = sellers("one", "two", "three")
    given[1].broken = True
    config = moved(f"embedded://{tmp_path / 'ledger.db'}")[0]
    with pytest.raises(RuntimeError, match="expected a connection"):
        async with Engine.open(config, sellers=given):
            pass
    assert [seller.closed for seller in given] == [1, 1, 1]
    await EmbeddedStore(tmp_path / "ledger.db", clock=SystemClock()).aclose()
