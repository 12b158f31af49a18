"""Workers killed between any two rooms, as real processes over HTTP: nothing is overspent and no hold stays."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path

import pytest
from fault_house import Buyer, buyer_at, config, model_server, until
from fault_points import POINTS, arm

from benchmarks.processes import audit, free_port, serving, shared_store

pytestmark = pytest.mark.slow

LAUNCHER = (str(Path(__file__).with_name("fault_points.py")),)
AT_ONCE = 6


async def buy_some(buyer: Buyer, first: int) -> list[str]:
    """Some calls at once, half of them streamed."""
    calls = [buyer.buy(first + k, stream=k % 2 == 0) for k in range(AT_ONCE)]
    return list(await asyncio.gather(*calls))


async def all_in_order(buyer: Buyer, billed_nusd: int) -> None:
    """When all timeouts have passed nothing is held, what buyers were told was posted, and what the vendor did too."""
    await until(buyer.nothing_held, "no hold is left")
    posted_nusd = (await buyer.balance("team"))["posted"]
    assert posted_nusd >= buyer.told_nusd
    assert (await buyer.balance("org"))["posted"] == posted_nusd
    assert billed_nusd <= posted_nusd, "a call was made that nobody is charged for"


async def test_workers_share_a_port_and_a_ledger(tmp_path: Path) -> None:
    """Two workers on one port and one ledger: each has calls, an account's money is one, and any of them tells of all."""
    async with model_server() as (vendor, url):
        with shared_store(tmp_path) as shared, ExitStack() as stack:
            market = stack.enter_context(serving(tmp_path, config(url), shared.url, workers=2))
            async with buyer_at(market) as buyer:
                for first in range(0, 20, 4):
                    calls = [buyer.insist(first + number, deadline_ms=60_000) for number in range(4)]
                    assert set(await asyncio.gather(*calls)) == {"served"}
                await all_in_order(buyer, vendor.bill.nusd)
                assert (await buyer.balance("team"))["posted"] == buyer.told_nusd
                told = [await buyer.metric("negotiator_orders_total{") for _ in range(8)]
                assert set(told) == {20}, "whichever worker is asked"
            stack.close()
            assert not audit(shared.url)


async def test_workers_of_a_shared_store_die_between_any_two_rooms(tmp_path: Path) -> None:
    """At every point one of two workers is killed: another takes its place, orders go on, and the ledger fits."""
    environment = {"FAULT_POINTS": str(tmp_path)}
    async with model_server() as (vendor, url):
        with shared_store(tmp_path) as shared:
            with serving(
                tmp_path, config(url), shared.url, workers=2, command=LAUNCHER, environment=environment
            ) as market:
                async with buyer_at(market) as buyer:
                    for number, point in enumerate(POINTS):
                        before = market.workers()
                        arm(tmp_path, point)
                        outcomes = await buy_some(buyer, 100 * number)
                        assert "lost" in outcomes, f"{point}: nobody died: {outcomes}"
                        await until(
                            lambda before=before: market.workers() != before and market.listening() == 2,
                            f"{point}: another worker takes the dead one's place",
                        )
                        assert await buyer.insist(100 * number + 50) == "served", point
                        await buyer.balance("org")
                    await all_in_order(buyer, vendor.bill.nusd)
            assert not audit(shared.url)


async def test_the_worker_of_an_embedded_store_dies_between_any_two_rooms(tmp_path: Path) -> None:
    """At every point the only process is killed and started again on its file: it goes on where it was."""
    store, port = f"embedded://{tmp_path / 'ledger.db'}", free_port()
    environment = {"FAULT_POINTS": str(tmp_path)}
    async with model_server() as (vendor, url):
        told_nusd = 0
        for number, point in enumerate((*POINTS, "")):
            with ExitStack() as stack:
                market = stack.enter_context(
                    serving(
                        tmp_path, config(url), store, port=port, command=LAUNCHER, environment=environment
                    )
                )
                async with buyer_at(market) as buyer:
                    assert await buyer.insist(100 * number + 50) == "served", point
                    await buyer.balance("org")
                    if point:
                        arm(tmp_path, point)
                        outcomes = await buy_some(buyer, 100 * number)
                        assert "lost" in outcomes, f"{point}: nobody died: {outcomes}"
                    told_nusd += buyer.told_nusd
                    if not point:
                        buyer.told_nusd = told_nusd
                        await all_in_order(buyer, vendor.bill.nusd)
        assert not audit(store)
