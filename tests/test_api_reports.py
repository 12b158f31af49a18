"""The report over HTTP: of all that share an order log, of whom the caller may see, grouped as asked."""

from __future__ import annotations

from pathlib import Path

from api_house import ANSWER, CHAT, api_house

from negotiator.api import schemas_out as out
from negotiator.store import Account

GOOD = {"json": ANSWER}


async def test_any_worker_tells_of_all_that_share_a_log(tmp_path: Path) -> None:
    """Two servers, one log: each reports both servers' orders, savings against every way, and parts that sum."""
    log = {"order_log": str(tmp_path / "orders.jsonl")}
    team = Account(account_id="team", parent=None)
    async with api_house(GOOD, store=log) as one, api_house(GOOD, store=log, accounts=[team]) as two:
        await one.call("POST", "/v1/chat/completions", CHAT)
        await two.call("POST", "/v1/chat/completions", {**CHAT, "negotiator": {"account": "team"}})
        await two.call("POST", "/v1/chat/completions", {**CHAT, "negotiator": {"budget_usd": 0}})
        one.engine.flush_log()
        two.engine.flush_log()
        _, told, _ = await one.call("GET", "/v1/report")
        out.ReportOut.model_validate(told)
        assert (told["scope"], told["orders"], told["served"], told["refused"]) == ("log", 3, 2, 1)
        assert told["spend_usd"] == "0.000048"
        assert set(told["by_account"]) == {"default", "team"}
        assert set(told["ways"]) == {
            "negotiator",
            "cheapest_first",
            "always_best",
            "as_requested",
            "two_tier",
        }
        assert set(told["regret"]["parts_usd"]) == {"quotes", "quality", "capacity", "decisions"}
        _, told, _ = await two.call("GET", "/v1/report?account=team&by=model,cause")
        assert (told["orders"], set(told["by_cause"])) == (1, {"SETTLED"})
        assert "by_account" not in told
        now_ms = two.engine.rooms.clock.now_ms()
        _, told, _ = await two.call("GET", f"/v1/report?since={now_ms + 1}")
        assert (told["orders"], told["regret"]) == (0, None)


async def test_without_a_log_a_process_tells_of_itself() -> None:
    """The scope says so; an unknown grouping is refused by name."""
    async with api_house(GOOD) as served:
        await served.call("POST", "/v1/chat/completions", CHAT)
        _, told, _ = await served.call("GET", "/v1/report?by=cause")
        out.ReportOut.model_validate(told)
        assert (told["scope"], told["ways"], told["by_cause"]["SETTLED"]["orders"]) == ("process", None, 1)
        assert "by_model" not in told
        status, body, _ = await served.call("GET", "/v1/report?by=colour")
        assert (status, body["error"]["code"]) == (400, "INVALID")
        assert "colour" in body["error"]["message"]
