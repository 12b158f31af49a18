"""Two markets in two processes on one Valkey and one account: nothing overspent, nothing leaked, one of them killed."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from valkey_servers import one_server_url

from negotiator.order import Reservation
from negotiator.store import Account, Hold, Shortfall
from negotiator.store_redis import RedisStore
from providers.clock import SystemClock

pytestmark = pytest.mark.slow

BUDGET_NUSD = 3_000_000
HOLD_MS = 4_000
ORDERS = 120

ENGINE = textwrap.dedent(
    """
    import asyncio, json, sys
    from negotiator.config import Config
    from negotiator.engine import Engine
    from negotiator.errors import Rejected
    from negotiator.wire import terms_from

    url, name, orders, hold_ms = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    config = Config.model_validate({
        "store": {"url": url}, "market": {"hold_ms": hold_ms, "in_doubt_ms": hold_ms}
    })

    async def main():
        async with Engine.open(config) as market:
            async def order(number):
                terms = terms_from({"account": "team", "budget_usd": "0.001", "order_id": f"{name}-{number}",
                                    "deadline_ms": 6000})
                try:
                    done = await market.complete(f"Name {number} rivers.", terms=terms)
                except Rejected as no:
                    print(json.dumps({"reject": no.reject.code.name}), flush=True)
                else:
                    print(json.dumps({"cost_nusd": done.cost_nusd}), flush=True)
            await asyncio.gather(*(order(number) for number in range(orders)))

    asyncio.run(main())
    """
)


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """A server with a place for its rows."""
    with one_server_url() as server:
        yield f"{server}?rows={tmp_path}"


def start(url: str, name: str) -> subprocess.Popen[str]:
    """A market that buys all its orders at once."""
    words = [sys.executable, "-c", ENGINE, url, name, str(ORDERS), str(HOLD_MS)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def finished(market: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """What became of each of its orders."""
    with market:
        assert market.stdout is not None
        return [json.loads(line) for line in market.stdout.read().splitlines()]


def both(url: str) -> list[dict[str, Any]]:
    """Two markets to their end."""
    markets = [start(url, name) for name in ("one", "two")]
    return [outcome for market in markets for outcome in finished(market)]


def one_killed(url: str) -> list[dict[str, Any]]:
    """Two markets, of which the first is killed after some of its orders."""
    first, second = start(url, "one"), start(url, "two")
    assert first.stdout is not None
    seen = [first.stdout.readline() for _ in range(10)]
    first.send_signal(signal.SIGKILL)
    return [*map(json.loads, seen), *finished(first), *finished(second)]


async def opened(url: str, tmp_path: Path) -> RedisStore:
    """The store beside the markets, with the account they share."""
    store = await RedisStore.open(url, rows=tmp_path, rng=random.Random(1))
    await store.put_account(Account(account_id="team", budget_nusd=BUDGET_NUSD))
    return store


async def left_is_usable(store: RedisStore, posted_nusd: int) -> None:
    """What is left can be held to the last nano-dollar, and one more cannot."""
    now_ms, left_nusd = SystemClock().now_ms(), BUDGET_NUSD - posted_nusd
    holds = [
        Hold(reservation_id=f"h{n}", order_id=f"h{n}", account="team", hold_nusd=n, hold_ms=9_000)
        for n in (left_nusd + 1, left_nusd)
    ]
    assert isinstance(await store.reserve(holds[0], now_ms), Shortfall)
    assert isinstance(await store.reserve(holds[1], now_ms), Reservation), "a false refusal"


async def test_two_markets_on_one_account_spend_what_they_say_and_no_more(url: str, tmp_path: Path) -> None:
    """240 orders on a budget for a part of them: posted is the sum of what buyers were told, nothing is pending."""
    store = await opened(url, tmp_path)
    outcomes = await asyncio.to_thread(both, url)
    costs = [outcome["cost_nusd"] for outcome in outcomes if "cost_nusd" in outcome]
    balance = (await store.balances("team", SystemClock().now_ms()))[0]
    assert len(outcomes) == 2 * ORDERS
    assert (balance.posted_nusd, balance.pending_nusd) == (sum(costs), 0)
    assert 0 < balance.posted_nusd <= BUDGET_NUSD
    rejects = {outcome["reject"] for outcome in outcomes if "reject" in outcome}
    assert rejects & {"FUNDS_HELD", "FUNDS_INSUFFICIENT"}, rejects
    await left_is_usable(store, balance.posted_nusd)
    assert not await store.audit()
    await store.aclose()


async def test_a_market_that_is_killed_overspends_nothing_and_its_holds_end(url: str, tmp_path: Path) -> None:
    """kill -9 in the middle: the other market goes on, and when the doubt is over nothing is pending."""
    store = await opened(url, tmp_path)
    outcomes = await asyncio.to_thread(one_killed, url)
    told_nusd = sum(outcome.get("cost_nusd", 0) for outcome in outcomes)
    now_ms = SystemClock().now_ms()
    balance = (await store.balances("team", now_ms))[0]
    assert balance.posted_nusd + balance.pending_nusd <= BUDGET_NUSD
    await store.sweep(now_ms + 6_000 + HOLD_MS)
    balance = (await store.balances("team", now_ms))[0]
    assert balance.pending_nusd == 0
    assert told_nusd <= balance.posted_nusd <= BUDGET_NUSD
    await left_is_usable(store, balance.posted_nusd)
    assert not await store.audit()
    await store.aclose()
