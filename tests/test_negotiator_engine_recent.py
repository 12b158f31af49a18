"""What is kept of orders that ended: bounded in number and bytes, and enough to look them up."""

from __future__ import annotations

from negotiator.engine import Engine
from negotiator.engine_book import Job
from negotiator.engine_recent import BESIDES, Recent
from negotiator.errors import Rejected
from negotiator.order import Order
from negotiator.wire import terms_from
from providers.clock import run_virtual


def job(order_id: str, size_bytes: int = 0) -> Job:
    """An order that came."""
    return Job(Order(order_id=order_id, account="a", body={}), 0, size_bytes=size_bytes)


def test_the_oldest_go_first() -> None:
    """Beyond the number the first that came is let go; one that comes again is the newest."""
    recent = Recent(max_orders=2)
    for name in ("1", "2", "1", "3"):
        recent.remember(job(name))
    assert list(recent) == [("a", "1"), ("a", "3")]
    assert recent.get(("a", "2")) is None


def test_long_prompts_take_the_room_of_many() -> None:
    """Beyond the bytes the oldest go, however few that leaves; the newest always stays."""
    recent = Recent(max_bytes=4 * BESIDES)
    for name in ("1", "2", "3"):
        recent.remember(job(name))
    assert len(recent) == 3
    recent.remember(job("4", size_bytes=BESIDES // 2))
    assert list(recent) == [("a", "3"), ("a", "4")]
    recent.remember(job("5", size_bytes=100 * BESIDES))
    assert list(recent) == [("a", "5")]
    recent.pop(("a", "5"))
    recent.remember(job("6"))
    assert len(recent) == 1


def test_a_refused_order_keeps_its_history_and_not_its_prompt() -> None:
    """Its record reads as before; its quotes and its body are let go."""

    async def main() -> None:
        async with Engine.open() as market:
            terms = terms_from({"budget_usd": "0.000001", "order_id": "poor"})
            try:
                await market.complete("Write a very long story.", terms=terms, max_tokens=2_000)
            except Rejected as refused:
                name = refused.reject.code.name
            kept = market.recent["default", "poor"]
            assert not kept.order.body
            assert not kept.rounds
            history = await market.history("poor")
            assert history is not None
            assert history["state"] == "REJECTED"
            assert history["reject"]["name"] == name == "BUDGET_TOO_LOW"
            assert history["rounds"][0]["quotes"]

    run_virtual(main())
