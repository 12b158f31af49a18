"""Quotes, orders, reservations, escalation, models, plans and the market over HTTP, held to their models."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import pytest
from api_house import ANSWER, CHAT, Served, api_house, shop, until
from pydantic import BaseModel
from vendor_playback import Playback

from negotiator.api import schemas_out as out
from negotiator.api import schemas_words as words
from negotiator.limits import ShadowPrices

GOOD = {"json": ANSWER}


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    """A house with a cheap and a dear seller of the same model."""
    playback = Playback([GOOD])
    async with playback.at() as url:
        sellers = [shop(url, "cheap"), shop(url, "dear", dear=3)]
        async with api_house(sellers=sellers) as house:
            house.playback = playback
            yield house


def holds(model: type[BaseModel], values: Any) -> Any:
    """The values, which must be what the model promises."""
    model.model_validate(values)
    return values


async def test_quotes_are_ranked_and_explained(served: Served) -> None:
    """Every seller's quote is there, the cheapest first, its lines summing to the price; nothing is spent."""
    status, book, _ = await served.call("POST", "/v1/quotes", CHAT)
    holds(words.BookOut, book)
    assert (status, [quote["provider"] for quote in book["quotes"]]) == (200, ["cheap", "dear"])
    assert book["best"] == book["quotes"][0]["quote_id"]
    assert not served.playback.received
    assert await served.posted_nusd() + await served.pending_nusd() == 0


async def test_a_size_can_be_quoted(served: Served) -> None:
    """Token counts alone are enough for a quote: 1,000 in at $1 and 100 out at $4 per million."""
    _, book, _ = await served.call("POST", "/v1/quotes", {"input_tokens": 1000, "max_tokens": 100})
    lines = {line["kind"]: line for line in book["quotes"][0]["lines"]}
    assert lines["input"]["usd_per_million"] == "1"
    assert lines["output"]["tokens"] <= 100
    status, body, _ = await served.call("POST", "/v1/quotes", {"max_tokens": 100})
    assert (status, body["error"]["param"]) == (400, "messages")


async def test_a_refused_quote_says_what_would_do(served: Served) -> None:
    """When no quote meets the budget, ``best`` is null and the reject brings the nearest terms that would do."""
    _, book, _ = await served.call("POST", "/v1/quotes", {**CHAT, "terms": {"budget_usd": "0.000001"}})
    assert book["best"] is None
    offer = holds(words.BookOut, book)["reject"]["counter_offers"][0]
    again = {**CHAT, "terms": {"budget_usd": offer["terms"]["budget_usd"]}}
    _, book, _ = await served.call("POST", "/v1/quotes", again)
    assert book["best"] is not None


async def test_a_quote_is_taken_by_its_id(served: Served) -> None:
    """An order with a quote's id buys that quote, also when it is not the cheapest; the body must be the quoted one."""
    _, book, _ = await served.call("POST", "/v1/quotes", CHAT)
    dear = book["quotes"][1]["quote_id"]
    status, answer, _ = await served.call("POST", "/v1/orders", {**CHAT, "quote_id": dear})
    holds(out.ChatOut, answer)
    assert (status, answer["negotiator"]["provider"]) == (200, "dear")
    changed = {**CHAT, "seed": 1, "quote_id": dear}
    status, body, _ = await served.call("POST", "/v1/orders", changed)
    assert (status, body["error"]["code"], body["error"]["param"]) == (422, "INPUT_CHANGED", "seed")
    status, body, _ = await served.call("POST", "/v1/orders", {**CHAT, "quote_id": "q_none"})
    assert (status, body["error"]["code"]) == (404, "UNKNOWN_QUOTE")


async def test_a_taken_quote_is_bought_at_any_scarcity(served: Served) -> None:
    """Shadow prices choose for who leaves the choice to the house; a quote that was taken is the one that is bought."""
    clearing, clock = served.engine.rooms.clearing, served.engine.rooms.clock
    assert clearing.publish(ShadowPrices(made_ms=clock.now_ms() + 60_000, nusd_per_million={}))
    _, book, _ = await served.call("POST", "/v1/quotes", CHAT)
    dear = book["quotes"][1]["quote_id"]
    _, answer, _ = await served.call("POST", "/v1/orders", {**CHAT, "quote_id": dear})
    assert answer["negotiator"]["quote_id"] == dear
    _, answer, _ = await served.call("POST", "/v1/orders", CHAT)
    assert answer["negotiator"]["provider"] == "cheap"


async def test_a_quote_expires() -> None:
    """A quote taken too late is 410, which no SDK repeats."""
    playback = Playback([GOOD])
    async with playback.at() as url, api_house(sellers=[shop(url, quote_ttl_ms=1)]) as served:
        _, book, _ = await served.call("POST", "/v1/quotes", CHAT)
        quote, clock = book["quotes"][0], served.engine.rooms.clock
        end_ms = datetime.fromisoformat(quote["valid_until"]).timestamp() * 1000
        await until(lambda: clock.now_ms() >= end_ms)
        status, body, _ = await served.call("POST", "/v1/orders", {**CHAT, "quote_id": quote["quote_id"]})
        assert not playback.received
    assert (status, body["error"]["code"]) == (410, "QUOTE_EXPIRED")


async def test_an_order_can_be_looked_up(served: Served) -> None:
    """History tells the quotes and why each lost, the attempts and the settlement."""
    order = {**CHAT, "order_id": "o1", "terms": {"budget_usd": "0.01"}}
    await served.call("POST", "/v1/orders", order)
    status, history, _ = await served.call("GET", "/v1/orders/o1")
    holds(out.HistoryOut, history)
    assert (status, history["state"]) == (200, "SETTLED")
    quotes = history["rounds"][0]["quotes"]
    assert [(quote["provider"], quote["won"], quote["loss"]) for quote in quotes] == [
        ("cheap", True, None),
        ("dear", False, "L1 PRICIER"),
    ]
    assert history["settlement"]["posted_usd"] == "0.000024"
    status, body, _ = await served.call("GET", "/v1/orders/o2")
    assert (status, body["error"]["code"]) == (404, "UNKNOWN_ORDER")


async def test_the_order_id_is_said_once(served: Served) -> None:
    """An order's id may stand in ``order_id`` or in the terms, and must be the same in both."""
    status, body, _ = await served.call(
        "POST", "/v1/orders", {**CHAT, "order_id": "a", "terms": {"order_id": "b"}}
    )
    assert (status, body["error"]["param"]) == (400, "order_id")


async def test_a_reservation_is_settled_by_usage(served: Served) -> None:
    """Reserve-only: the money is held, no seller is called, and the usage told is charged at the quoted rates."""
    order = {**CHAT, "order_id": "r1", "execute": False}
    status, reserved, _ = await served.call("POST", "/v1/orders", order)
    holds(out.ReservedOut, reserved)
    assert status == 200
    reservation = reserved["reservation"]
    assert await served.pending_nusd() > 0
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 4},
    }
    path = f"/v1/reservations/{reservation['reservation_id']}"
    status, settled, _ = await served.call("POST", f"{path}/settle", {"usage": usage})
    holds(out.SettlementOut, settled)
    assert (status, settled["posted_usd"]) == (200, "0.0000264"), "6 fresh, 4 cached, 5 out"
    assert await served.pending_nusd() == 0
    _, again, _ = await served.call("POST", f"{path}/void")
    assert (again["already"], again["state"], again["posted_usd"]) == (True, "posted", "0.0000264")
    assert not served.playback.received
    _, history, _ = await served.call("GET", "/v1/orders/r1")
    assert history["state"] == "SETTLED"


async def test_a_reservation_is_voided(served: Served) -> None:
    """A call that was not made gives all back and frees the order's id."""
    order = {**CHAT, "order_id": "r2", "execute": False}
    _, reserved, _ = await served.call("POST", "/v1/orders", order)
    path = f"/v1/reservations/{reserved['reservation']['reservation_id']}"
    _, voided, _ = await served.call("POST", f"{path}/void")
    assert (voided["state"], voided["posted_usd"]) == ("voided", "0")
    status, _, _ = await served.call("POST", "/v1/orders", order)
    assert status == 200
    status, body, _ = await served.call("POST", "/v1/reservations/rsv_none/void")
    assert (status, body["error"]["code"]) == (404, "UNKNOWN_RESERVATION")


async def test_nobody_voids_what_the_house_executes() -> None:
    """The hold of a running order cannot be voided by its id: it settles with the seller's usage."""
    async with api_house({"hang": True}) as served:
        running = asyncio.ensure_future(served.call("POST", "/v1/orders", {**CHAT, "order_id": "run"}))
        await until(lambda: bool(served.playback.received))
        record = await served.engine.rooms.ledger.record("default", "run")
        assert record is not None
        status, body, _ = await served.call("POST", f"/v1/reservations/{record.reservation_id}/void")
        assert (status, body["error"]["code"]) == (400, "INVALID")
        assert await served.pending_nusd() > 0
        running.cancel()


async def test_usage_that_cannot_be_is_refused(served: Served) -> None:
    """More cached tokens than tokens is no usage; nothing is settled by it."""
    _, reserved, _ = await served.call("POST", "/v1/orders", {**CHAT, "execute": False})
    usage = {"prompt_tokens": 1, "completion_tokens": 0, "prompt_tokens_details": {"cached_tokens": 2}}
    path = f"/v1/reservations/{reserved['reservation']['reservation_id']}/settle"
    status, body, _ = await served.call("POST", path, {"usage": usage})
    assert (status, body["error"]["param"]) == (400, "usage")
    assert await served.pending_nusd() > 0


async def test_escalation_buys_a_better_model() -> None:
    """The answer was not good enough: the same prompt goes to a better model, on what is left of the budget."""
    weak, strong = Playback([GOOD]), Playback([GOOD])
    async with weak.at() as one, strong.at() as two:
        sellers = [shop(one, "weak", ["gpt-5-nano"]), shop(two, "strong", ["claude-opus-5"], dear=3)]
        async with api_house(sellers=sellers) as served:
            order = {**CHAT, "order_id": "e1", "terms": {"budget_usd": "0.05"}}
            _, first, _ = await served.call("POST", "/v1/orders", order)
            status, better, _ = await served.call("POST", "/v1/orders/e1/escalate")
            assert status == 200, better
            missing, _, _ = await served.call("POST", "/v1/orders/none/escalate")
    assert first["negotiator"]["provider"] == "weak"
    assert (better["negotiator"]["provider"], better["negotiator"]["order_id"]) == ("strong", "e1+")
    assert missing == 404


async def test_feedback_teaches(served: Served) -> None:
    """A score moves the estimate of the model that answered."""
    await served.call("POST", "/v1/orders", {**CHAT, "order_id": "f1"})
    quality = served.engine.rooms.quality
    before = quality.estimate("", ("m",)).mean[0]
    status, learnt, _ = await served.call("POST", "/v1/feedback", {"order_id": "f1", "score": 0.0})
    holds(out.FeedbackOut, learnt)
    assert (status, learnt["provider"]) == (200, "cheap")
    assert quality.estimate("", ("m",)).mean[0] < before
    status, _, _ = await served.call("POST", "/v1/feedback", {"order_id": "f2", "score": 0.0})
    assert status == 404


async def test_models_say_price_and_quality(served: Served) -> None:
    """``GET /v1/models`` lists what is sold as OpenAI does, with prices, context and estimated quality."""
    _, listed, _ = await served.call("GET", "/v1/models")
    holds(out.ModelsOut, listed)
    assert [model["id"] for model in listed["data"]] == ["cheap/m", "dear/m"]
    card = listed["data"][1]["negotiator"]
    assert card["tiers"]["standard"]["input_usd_per_million"] == "3"
    assert card["context_tokens"] == 100_000


async def test_the_market_is_seen_and_streamed(served: Served) -> None:
    """The market lists offers and limits; its stream repeats that as events."""
    _, market, _ = await served.call("GET", "/v1/market")
    holds(out.MarketOut, market)
    assert {offer["health"] for offer in market["offers"]} == {"up"}
    async with served.session.get(f"{served.url}/v1/market/stream") as answer:
        event = await answer.content.readuntil(b"\n\n")
    assert event.startswith(b"event: market\ndata: {")
    assert json.loads(event.partition(b"data: ")[2]).keys() == market.keys()


async def test_a_plan_is_made_and_nothing_is_bought(served: Served) -> None:
    """Lines are planned with their proof; a broken one is reported by its number and the others go on."""
    lines = [{"custom_id": name, "body": {**CHAT}} for name in ("a", "b")]
    asked = {"requests": [*lines, {"custom_id": "broken"}], "options": {"gap": 0.01}}
    status, plan, _ = await served.call("POST", "/v1/plans", asked)
    holds(out.PlanOut, plan)
    assert (status, plan["summary"]["served"]) == (200, 2)
    assert [error["line"] for error in plan["summary"]["errors"]] == [3]
    assert [line["provider"] for line in plan["lines"]] == ["cheap", "cheap"]
    text = "\n".join(json.dumps(line) for line in lines)
    kind = {"content-type": "application/x-ndjson"}
    async with served.session.post(f"{served.url}/v1/plans?gap=0.01", data=text, headers=kind) as answer:
        assert answer.content_type == "application/x-ndjson"
        rows = [json.loads(line) for line in (await answer.text()).splitlines()]
    assert [row.get("custom_id") for row in rows] == ["a", "b", None]
    assert rows[2]["summary"]["served"] == 2
    assert not served.playback.received


async def test_the_report_adds_up(served: Served) -> None:
    """Spend, savings and refusals by account, model and cause."""
    await served.call("POST", "/v1/chat/completions", CHAT)
    await served.call("POST", "/v1/chat/completions", {**CHAT, "negotiator": {"budget_usd": 0}})
    _, report, _ = await served.call("GET", "/v1/report?since=2020-01-01")
    holds(out.ReportOut, report)
    assert (report["orders"], report["spend_usd"]) == (2, "0.000024")
    assert report["by_account"]["default"]["orders"] == 2
    assert report["by_model"]["cheap/m"]["spend_usd"] == "0.000024"
    assert set(report["by_cause"]) == {"SETTLED", "BUDGET_TOO_LOW"}
    _, report, _ = await served.call("GET", "/v1/report?since=2020-01-01&account=default")
    assert report["orders"] == 2


async def test_embeddings_are_bought_too() -> None:
    """An embeddings body reaches the seller's embeddings endpoint, is paid for, and comes back in its shape."""
    vectors = {
        "object": "list",
        "model": "e",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.5, -0.5]}],
        "usage": {"prompt_tokens": 4, "total_tokens": 4},
    }
    playback = Playback([{"json": vectors}])
    async with playback.at() as url:
        seller = shop(url, "shop", ["e"], tags=frozenset({"embeddings"}))
        async with api_house(sellers=[seller]) as served:
            asked = {"model": "shop/e", "input": ["one", "two"], "encoding_format": "float"}
            status, answer, _ = await served.call("POST", "/v1/embeddings", asked)
            assert status == 200, answer
            assert await served.posted_nusd() == 4_000
    holds(out.EmbeddingsOut, answer)
    assert answer["data"] == vectors["data"]
    sent = playback.received[0]
    assert (sent.path, sent.body["input"]) == ("/v1/embeddings", ["one", "two"])
