"""The order log: what is in it and what is not, whole lines from many writers, and never an order lost for its sake."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from negotiator.config import Config
from negotiator.engine import Engine
from negotiator.errors import Rejected
from negotiator.events import Event
from negotiator.order_log import OrderLog, read_log
from negotiator.wire import terms_from
from providers.clock import LoopClock, run_virtual

CONFIG: dict[str, Any] = {
    "providers": [
        {"kind": "simulated", "name": "openai", "limits": {"rpm": 2}, "api_key_env": "SECRET_PLACE"},
        {"kind": "simulated", "name": "mistral", "base_url": "http://user:word@127.0.0.1:9"},
    ],
    "accounts": [{"id": "team", "budget_usd": "1.5"}],
}


def lines(path: Path, kind: str) -> list[dict[str, Any]]:
    return [line for line in read_log(path) if line["type"] == kind]


def trade(path: Path, work: Any, **values: Any) -> None:
    """A market on that log in virtual time."""

    async def run() -> None:
        config = Config.model_validate(CONFIG | values | {"store": {"order_log": str(path)}})
        async with Engine.open(config, clock=LoopClock()) as market:
            await work(market)

    run_virtual(run())


def test_an_order_has_what_a_replay_needs_and_no_word(tmp_path: Path) -> None:
    """Terms, sizes, use and features; a session is a digest; the market's line has no address and no place of a secret."""

    async def work(market: Engine) -> None:
        terms = terms_from({"session": "Ann's chat", "deadline_ms": 60_000, "budget_usd": "0.01"})
        await market.complete("Which river is it?", terms=terms, max_tokens=50)

    path = tmp_path / "log"
    trade(path, work)
    (order,) = lines(path, "order")
    asked = order["asked"]
    assert (asked["deadline_ms"], asked["budget_nusd"], asked["max_output_tokens"]) == (
        60_000,
        10_000_000,
        50,
    )
    assert asked["input_tokens"] > 3
    assert order["used"]["output_tokens"] > 0
    assert order["features"].startswith("n1:")
    text = path.read_text()
    for secret in ("river", "Ann", "SECRET_PLACE", "user:word"):
        assert secret not in text
    (market,) = lines(path, "market")
    assert Config.model_validate(market["config"]).accounts[0].budget_usd == 1_500_000_000
    assert {row["name"] for row in market["limits"]} >= {"openai:requests"}


def test_refused_orders_are_in_it_with_why_each_offer_lost(tmp_path: Path) -> None:
    """Both of openai's calls of the minute are taken and mistral is left out: each row says which limit was full."""

    async def work(market: Engine) -> None:
        terms = terms_from({"models": ["openai/gpt-5-nano"]})
        for _ in range(2):
            await market.complete("What is 2+2?", terms=terms, max_tokens=20)
        with pytest.raises(Rejected):
            await market.complete("What is 2+3?", terms=terms, max_tokens=20)
        with pytest.raises(Rejected):
            await market.complete("What is 2+4?", terms=terms_from({"budget_usd": "0.000000001"}))

    path = tmp_path / "log"
    trade(path, work)
    full, poor = lines(path, "order")[2:]
    assert (full["reject"]["name"], full["state"]) == ("CAPACITY_EXHAUSTED", "REJECTED")
    rows = {row[2]: row for row in full["rounds"][-1][1]}
    assert rows["gpt-5-nano"][8] == 6
    assert rows["gpt-5-nano"][14] == "openai:requests"
    assert rows["mistral-small-2603"][8] == 5
    assert poor["reject"]["name"] == "BUDGET_TOO_LOW"


def test_the_history_of_an_order_says_what_scarce_room_cost(tmp_path: Path) -> None:
    """Under prices on openai's calls its cheaper model loses by its limit, with the price in dollars."""

    async def work(market: Engine) -> None:
        from negotiator.limits import ShadowPrices

        now_ms = market.rooms.clock.now_ms()
        prices = ShadowPrices(made_ms=now_ms, nusd_per_million={"openai:requests": 10**13})
        market.rooms.clearing.publish(prices)
        terms = terms_from({"models": ["openai/gpt-5-nano", "mistral/mistral-large-4"], "budget_usd": "1"})
        done = await market.complete("What is 2+2?", terms=terms, max_tokens=20)
        assert done.model == "mistral-large-4"
        history = await market.history(done.order_id)
        assert history is not None
        (lost,) = [quote for quote in history["rounds"][-1]["quotes"] if quote["model"] == "gpt-5-nano"]
        assert (lost["loss"], lost["shadow_usd"]) == ("L6 LIMIT_BINDING", "0.01")

    trade(tmp_path / "log", work)


def test_what_waits_is_written_after_a_moment(tmp_path: Path) -> None:
    """One order, no batch full, the market still open: a second later it is in the file."""

    async def work(market: Engine) -> None:
        await market.complete("What is 2+2?", max_tokens=20)
        await asyncio.sleep(1.5)
        assert len(lines(path, "order")) == 1

    path = tmp_path / "log"
    trade(path, work)
    assert len(lines(path, "order")) == 1


def _write(path: str, number: int) -> None:
    log = OrderLog(path, (), 0)
    for k in range(300):
        log.note(
            Event("capacity.ejected", k, {"provider": "p", "model": "m" * 500, "writer": number, "k": k})
        )
        if k % 50 == 49:
            log.flush()
    log.flush()


def _work(path: str, number: int) -> None:
    async def run() -> None:
        _write(path, number)

    asyncio.run(run())


def test_lines_of_several_processes_stay_whole(tmp_path: Path) -> None:
    """Three write at once to one file: every line of each is there and can be read."""
    path = str(tmp_path / "log")
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_work, args=(path, number)) for number in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    found = [line for line in read_log(path) if line["type"] == "ejected"]
    assert {(line["writer"], line["k"]) for line in found} == {(n, k) for n in range(3) for k in range(300)}


async def test_a_log_that_cannot_be_written_costs_no_order(tmp_path: Path) -> None:
    """Its folder is gone: orders go on and the lines are counted as dropped."""
    log = OrderLog(tmp_path / "gone" / "log", (), 0)
    for k in range(250):
        log.note(Event("order.judged", k, {"order_id": "o", "account": "a", "score": 1.0}))
    log.flush()
    assert log.dropped == 251


def test_a_log_may_be_moved_away_while_it_is_written(tmp_path: Path) -> None:
    """What comes after a rotation is in a new file under the old name."""

    async def work(market: Engine) -> None:
        await market.complete("What is 2+2?", max_tokens=20)
        market.flush_log()
        path.rename(tmp_path / "log.1")
        await market.complete("What is 2+3?", max_tokens=20)

    path = tmp_path / "log"
    trade(path, work)
    assert len(lines(tmp_path / "log.1", "order")) == len(lines(path, "order")) == 1
    assert json.loads((tmp_path / "log.1").read_text().splitlines()[0])["type"] == "market"
