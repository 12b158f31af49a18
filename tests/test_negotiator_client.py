"""Clients of a house over HTTP: against the real server, with a model server behind it and a door that fails."""

from __future__ import annotations

import doctest
import inspect
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from aiohttp import web
from local_house import WORDS, LocalHouse, local_house

import negotiator.client
from negotiator import AsyncClient, Client, Engine, Rejected, Terms
from negotiator.errors import InputInvalid, RejectCode, ServerRefused, ServerUnreachable
from negotiator.order import HoldState
from negotiator.store import Account
from negotiator.wire import terms_from
from negotiator.wire_in import (
    book_in,
    chat_completion_in,
    reject_in,
    reservation_in,
    settlement_in,
)
from negotiator.wire_out import (
    book_out,
    chat_completion_out,
    reject_out,
    reservation_out,
    settlement_out,
)
from providers.terms import Usage

ENOUGH = Terms(budget_usd="0.02")
TEXT = "".join(WORDS)


@pytest.fixture(scope="module")
def house() -> Iterator[LocalHouse]:
    with local_house() as house:
        yield house


@pytest.fixture
def market(house: LocalHouse) -> Iterator[Client]:
    with Client(house.url) as market:
        yield market


@pytest.fixture
def shaky(house: LocalHouse) -> Iterator[Client]:
    """A client of the door that fails as planned."""
    house.door.plan.clear()
    house.door.seen.clear()
    with Client(house.door_url) as market:
        yield market
    assert not house.door.plan, "every planned failure happened"


def busy(status: int = 503, **headers: str) -> Callable[[], web.Response]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    error = {"message": "come again", "type": "server_error", "param": None, "code": "BUSY", "reject": None}
    return lambda: web.json_response({"error": error}, status=status, headers=named)


def order_ids(house: LocalHouse) -> list[str]:
    return [body["terms"]["order_id"] for body in house.door.seen]


# What is said and what is read.


async def test_what_goes_out_comes_in_again() -> None:
    """Books, rejects and answers survive the wire; said again, they are the same to the last field."""
    async with Engine.open() as engine:
        for terms in (
            {},
            {"budget_usd": "0.0004"},
            {"min_quality": 0.9, "deadline_ms": 900},
            {"min_quality": 1.0, "models": ["*nano*"]},
        ):
            book = await engine.quote("Name three rivers.", terms=terms_from(terms))
            said = book_out(book)
            assert book_out(book_in(said)) == said
            assert len(book_in(said).eligible) == len(book.eligible)
            assert book_in(said).declines == book.declines
            assert book_in(said).reject == book.reject
            if book.reject is not None:
                assert reject_in(reject_out(book.reject)) == book.reject
        order = await engine.order_for({"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 9})
        reservation, _ = await engine.reserve(order)
        assert reservation_in(reservation_out(reservation)) == reservation
        settlement = await engine.resolve(reservation, Usage(10, 5, 4, 2, reasoning_tokens=1))
        assert settlement_in(settlement_out(settlement)) == settlement


async def test_an_answer_comes_in_as_it_went_out(house: LocalHouse) -> None:
    """A completion read from its JSON says the same JSON again."""
    done = house.run(house.engine.complete("Name three rivers.", terms=ENOUGH))
    said = chat_completion_out(done, 1)
    assert chat_completion_out(chat_completion_in(said), 1) == said
    assert chat_completion_in(said).usage == done.usage


# Buying.


def test_an_answer_is_bought(house: LocalHouse, market: Client) -> None:
    """complete gives the text, who gave it, and what it cost; the house's history agrees."""
    done = market.complete("Name three rivers.", terms=ENOUGH)
    assert done.message["content"] == TEXT
    assert (done.provider, done.model, done.finish_reason) == ("local", "small", "stop")
    assert done.usage == Usage(12, 6)
    assert done.cost_nusd == 12 * 100 + 6 * 400
    assert [attempt.outcome for attempt in done.attempts] == ["ok"]
    history = market.history(done.order_id)
    assert history is not None
    assert history["settlement"]["posted_usd"] == "0.0000036"
    assert market.history("an order nobody made") is None


def test_a_stream_gives_the_same_as_the_whole(market: Client) -> None:
    """Text comes in pieces, the last chunk has the completion: message, cost and usage as when bought whole."""
    *pieces, last = market.stream("Name three rivers.", terms=ENOUGH)
    assert "".join(chunk.text for chunk in pieces) == TEXT
    assert all(chunk.completion is None for chunk in pieces)
    assert last.completion is not None
    whole = market.complete("Name three rivers.", terms=ENOUGH)
    assert last.completion.message == whole.message
    assert last.finish_reason == "stop"
    assert (last.completion.cost_nusd, last.completion.usage) == (whole.cost_nusd, whole.usage)


async def test_the_asynchronous_client_gives_the_same(house: LocalHouse) -> None:
    """AsyncClient buys and streams like the blocking one."""
    async with AsyncClient(house.url) as market:
        done = await market.complete("Name three rivers.", terms=ENOUGH)
        chunks = [chunk async for chunk in market.stream("Name three rivers.", terms=ENOUGH)]
    assert done.message["content"] == "".join(chunk.text for chunk in chunks) == TEXT


def test_hanging_up_ends_the_call(house: LocalHouse, market: Client) -> None:
    """A stream that is closed early is cancelled at the seller, and the order is settled for what came."""
    house.models.hung_up.clear()
    terms = terms_from({"budget_usd": "0.02", "order_id": "hung-up"})
    with_pieces = market.stream("Count slowly to a thousand.", terms=terms)
    assert next(with_pieces).text == WORDS[0]
    with_pieces.close()
    assert house.models.hung_up.wait(10)
    for _ in range(100):
        history = market.history("hung-up")
        if history is not None and history["state"] == "CANCELLED":
            break
        time.sleep(0.05)
    assert history is not None
    assert history["state"] == "CANCELLED"


def test_quotes_are_judged(market: Client) -> None:
    """quote gives every offer, the eligible first, and the id of one can be bought."""
    book = market.quote("Name three rivers.", terms=terms_from({"budget_usd": "0.02", "min_quality": 0.9}))
    assert [candidate.quote.model for candidate in book.candidates] == ["large", "small"]
    assert [miss.term for miss in book.candidates[1].misses] == ["min_quality"]
    assert book.best is not None
    assert book.best.quote.rates.output_nusd_per_mtok == 4_000_000_000
    done = market.complete("Name three rivers.", terms=ENOUGH, quote_id=book.best.quote.quote_id)
    assert (done.model, done.quote_id) == ("large", book.best.quote.quote_id)


def test_a_better_model_answers_again(market: Client) -> None:
    """escalate runs the order on a better model; feedback names whose answer it was; strangers' orders are invalid."""
    done = market.complete("Name three rivers.", terms=ENOUGH)
    again = market.escalate(done.order_id)
    assert (done.model, again.model) == ("small", "large")
    assert market.feedback(again.order_id, 1.0) == ("local", "large")
    with pytest.raises(InputInvalid, match="nobody"):
        market.escalate("nobody's order")
    with pytest.raises(InputInvalid):
        market.feedback("nobody's order", 0.5)


def test_a_batch_is_planned(market: Client) -> None:
    """plan takes dicts and JSON texts, says which line is broken, and proves what it costs."""
    body = {"model": "auto", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 20}
    lines: list[Any] = [
        {"custom_id": f"line-{n}", "body": body, "terms": {"budget_usd": "0.01"}} for n in range(4)
    ]
    lines.append('{"custom_id": "broken"}')
    plan = market.plan(lines, gap=0.0, time_limit_s=10)
    summary = plan.summary()
    assert (summary["requests"], summary["served"]) == (4, 4)
    assert [error["line"] for error in summary["errors"]] == [5]
    assert [row["model"] for row in plan.rows()] == ["small"] * 4
    with pytest.raises(InputInvalid, match="gap"):
        market.plan(lines, gap=7)


def test_a_buyer_may_call_the_model_itself(market: Client) -> None:
    """reserve only holds; settle charges the reserved rates, a second resolve is told; void releases all."""
    reservation, award = market.reserve("Name three rivers.", terms=ENOUGH, max_tokens=100)
    assert reservation.hold_nusd >= award.ceiling_nusd
    settled = market.settle(reservation, Usage(12, 6))
    assert (settled.state, settled.posted_nusd) == (HoldState.POSTED, 12 * 100 + 6 * 400)
    assert market.void(reservation).already
    other, _ = market.reserve("Name three rivers.", terms=ENOUGH, max_tokens=100)
    assert market.void(other).released_nusd == other.hold_nusd


def test_models_and_accounts_are_read(market: Client) -> None:
    """models gives prices as integers; accounts can be made, raised, read and listed."""
    assert {model.key: model.tiers["standard"].output_nusd_per_mtok for model in market.models()} == {
        "local/small": 400_000_000,
        "local/large": 4_000_000_000,
    }
    made = market.put_account(Account(account_id="run/7", parent="team", budget_nusd=1_000_000_000))
    assert (made.account.parent, made.available_nusd) == ("team", 1_000_000_000)
    market.deposit("run/7", "0.5", "more")
    assert market.deposit("run/7", "0.5", "more").limit_nusd == 1_500_000_000
    done = market.complete("Name three rivers.", terms=terms_from({"account": "run/7", "budget_usd": "0.01"}))
    assert market.account("run/7").posted_nusd == market.account("team").posted_nusd == done.cost_nusd
    assert {"team", "run/7"} <= {balance.account.account_id for balance in market.accounts()}


# What is refused.


def test_a_counter_offer_is_taken_in_one_call(market: Client) -> None:
    """The reject says what would be served, and accept buys exactly that; a stream is accepted as a stream."""
    with pytest.raises(Rejected) as caught:
        market.complete("Name three rivers.", terms=terms_from({"min_quality": 0.99, "budget_usd": "0.02"}))
    refused = caught.value
    assert refused.reject.code is RejectCode.QUALITY_UNREACHABLE
    offer = refused.reject.counter_offers[0]
    done = refused.accept(0)
    assert (done.model, done.quote_id, done.ceiling_nusd) == (offer.model, offer.quote_id, offer.ceiling_nusd)
    with pytest.raises(InputInvalid, match="counter-offers"):
        refused.accept(99)
    with pytest.raises(Rejected) as caught:
        list(market.stream("Name three rivers.", terms=Terms(budget_usd="0.0000001")))
    assert "".join(chunk.text for chunk in caught.value.accept()) == TEXT
    with pytest.raises(Rejected) as caught:
        market.reserve("Name three rivers.", terms=Terms(budget_usd="0.0000001"), max_tokens=9)
    reservation, award = caught.value.accept()
    assert award.quote.quote_id == caught.value.reject.counter_offers[0].quote_id
    assert market.void(reservation).state is HoldState.VOIDED


async def test_a_counter_offer_is_taken_wherever_one_buys(house: LocalHouse) -> None:
    """accept reads the same on the market in-process and over HTTP, awaited where the call was awaited."""
    terms = Terms(budget_usd="0.0000001")
    async with Engine.open(house.engine.config) as inside, AsyncClient(house.url) as outside:
        for market in (inside, outside):
            with pytest.raises(Rejected) as caught:
                await market.complete("Name three rivers.", terms=terms)
            done = await caught.value.accept(0)
            assert done.quote_id == caught.value.reject.counter_offers[0].quote_id
            assert done.cost_nusd <= caught.value.reject.counter_offers[0].ceiling_nusd
            with pytest.raises(Rejected) as caught:
                [chunk async for chunk in market.stream("Name three rivers.", terms=terms)]
            assert [chunk async for chunk in caught.value.accept()][-1].completion is not None


def test_what_is_no_reject_is_told_apart(market: Client) -> None:
    """An error of the server keeps status and code; a server that is not there is unreachable."""
    with pytest.raises(ServerRefused) as caught:
        market.account("an account nobody made")
    assert (caught.value.status, caught.value.code) == (404, "ACCOUNT_UNKNOWN")
    with (
        Client("http://127.0.0.1:9", tries=1) as nowhere,
        pytest.raises(ServerUnreachable, match=r"127\.0\.0\.1:9"),
    ):
        nowhere.models()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"base_url": "localhost:8377"}, "http://"),
        ({"timeout_s": 0}, "more than 0"),
        ({"tries": 0}, "1 or more"),
    ],
)
def test_a_wrong_argument_is_named(given: dict[str, Any], message: str) -> None:
    """What a client cannot be made of is refused in one sentence."""
    for kind in (Client, AsyncClient):
        with pytest.raises(InputInvalid, match=message):
            kind(**given)


# What is sent again.


@pytest.mark.parametrize(
    "plan",
    [
        [busy(503, retry_after_ms="5")],
        [busy(429, retry_after_ms="5"), busy(503, retry_after="0")],
        ["drop"],
        ["lose"],
        ["drop", busy(503, retry_after_ms="1"), "lose"],
    ],
    ids=["503", "429-503", "drop", "lose", "all"],
)
def test_an_order_is_sent_again_and_paid_once(house: LocalHouse, shaky: Client, plan: list[Any]) -> None:
    """After refusals and broken connections the answer comes, under one order id, from one call to the seller."""
    prompt = f"Name three rivers, slowly, of {id(plan)}."
    before = shaky.account("default").posted_nusd
    house.door.seen.clear()
    house.door.plan[:] = list(plan)
    done = shaky.complete(prompt, terms=ENOUGH)
    assert done.message["content"] == TEXT
    assert len(set(order_ids(house))) == 1
    assert len(order_ids(house)) >= len(plan) + 1
    assert house.models.calls[prompt] == 1
    assert shaky.account("default").posted_nusd - before == done.cost_nusd
    assert done.replayed is ("lose" in plan)


@pytest.mark.parametrize("step", [busy(503, retry_after_ms="5"), "drop"], ids=["503", "drop"])
def test_a_stream_is_sent_again_until_it_begins(house: LocalHouse, shaky: Client, step: Any) -> None:
    """Before its first piece a stream is repeated like any order."""
    house.door.plan[:] = [step]
    assert "".join(chunk.text for chunk in shaky.stream("Name three rivers.", terms=ENOUGH)) == TEXT
    assert len(set(order_ids(house))) == 1


def test_an_order_keeps_the_id_it_was_given(house: LocalHouse, market: Client) -> None:
    """The same order id twice gives the first answer, marked, and is charged once; with other content it is refused."""
    terms = terms_from({"budget_usd": "0.02", "order_id": "mine"})
    first, again = (market.complete("Name my rivers.", terms=terms) for _ in range(2))
    assert (first.replayed, again.replayed) == (False, True)
    assert again.cost_nusd == first.cost_nusd
    assert house.models.calls["Name my rivers."] == 1
    with pytest.raises(Rejected) as caught:
        market.complete("Name other rivers.", terms=terms)
    assert caught.value.reject.code is RejectCode.DUPLICATE_DIFFERENT


def test_sending_again_ends(house: LocalHouse) -> None:
    """A server that is always busy is asked as often as was said, and then its refusal is raised."""
    house.door.plan[:] = [busy(503, retry_after_ms="1") for _ in range(3)]
    house.door.seen.clear()
    with Client(house.door_url, tries=3) as market, pytest.raises(ServerRefused, match="BUSY"):
        market.complete("Hello", terms=ENOUGH)
    assert len(house.door.seen) == 3


def test_what_will_not_pass_is_not_sent_again(house: LocalHouse, shaky: Client) -> None:
    """A refusal of the terms, an answer that forbids it, and what would be done twice are sent once."""
    with pytest.raises(Rejected):
        shaky.complete("Hello", terms=Terms(budget_usd="0.0000001"))
    house.door.plan[:] = [busy(429, x_should_retry="false")]
    with pytest.raises(ServerRefused):
        shaky.complete("Hello", terms=ENOUGH)
    house.door.plan[:] = ["drop"]
    with pytest.raises(ServerUnreachable):
        shaky.escalate("any order")
    assert len(house.door.seen) == 3


def test_an_answer_that_does_not_come_is_not_waited_for(house: LocalHouse) -> None:
    """A call ends after timeout_s, whatever the server does, retries included."""
    house.door.plan[:] = ["hang"]
    with (
        Client(house.door_url, timeout_s=0.2) as market,
        pytest.raises(ServerUnreachable, match=r"within 0\.2 s"),
    ):
        market.complete("Hello", terms=ENOUGH)
    house.door.plan[:] = [busy(503, retry_after="30")]
    with (
        Client(house.door_url, timeout_s=0.2) as market,
        pytest.raises(ServerUnreachable, match=r"within 0\.2 s"),
    ):
        market.complete("Hello", terms=ENOUGH)


def test_what_is_no_house_is_named(house: LocalHouse, shaky: Client) -> None:
    """An answer that no house gives says what was expected and what was found."""
    house.door.plan[:] = [lambda: web.Response(text="<html>It works!</html>")]
    with pytest.raises(ServerUnreachable, match="It works!"):
        shaky.complete("Hello", terms=ENOUGH)
    house.door.plan[:] = [lambda: web.Response(status=400, text="<html>No.</html>")]
    with pytest.raises(ServerRefused, match="No"):
        shaky.complete("Hello", terms=ENOUGH)


def test_a_seller_that_fails_is_the_houses_no(market: Client) -> None:
    """What no seller delivers is rejected over HTTP as in-process, with the attempts that were made."""
    with Client(market.asynchronous.base_url, tries=1) as once, pytest.raises(Rejected) as caught:
        once.complete("This is failing.", terms=ENOUGH)
    assert caught.value.reject.code is RejectCode.PROVIDERS_FAILED
    assert caught.value.reject.facts["charged_usd"] == "0"


# The blocking face.


async def test_a_blocking_client_works_inside_a_loop(house: LocalHouse) -> None:
    """A running event loop, which then waits, is no obstacle."""
    with Client(house.url) as market:
        assert market.complete("Name three rivers.", terms=ENOUGH).message["content"] == TEXT


def test_many_threads_share_a_client(house: LocalHouse, market: Client) -> None:
    """Calls of sixteen threads are answered each with its own, and the account is charged for all."""
    market.put_account(Account(account_id="threads", budget_nusd=1_000_000_000))

    def buy(number: int) -> tuple[str, int]:
        terms = terms_from({"account": "threads", "order_id": f"thread-{number}", "budget_usd": "0.01"})
        done = market.complete(f"Name three rivers of {number}.", terms=terms)
        return done.order_id, done.cost_nusd

    with ThreadPoolExecutor(16) as threads:
        bought = list(threads.map(buy, range(64)))
    assert [order_id for order_id, _ in bought] == [f"thread-{number}" for number in range(64)]
    assert market.account("threads").posted_nusd == sum(cost for _, cost in bought)


def test_a_closed_client_opens_again(house: LocalHouse) -> None:
    """close stops the thread; nothing is left running, and a later call starts another."""
    market = Client(house.url)
    assert market.models()
    market.close()
    assert not market.bridge.running
    assert market.models()
    market.close()
    assert not market.bridge.running


def test_keys_are_not_shown() -> None:
    """A client prints where it goes, and of its key only the end."""
    assert (
        repr(Client("http://house/v1/", "neg_0123456789_secret")) == "Client('http://house', key='...cret')"
    )
    assert repr(AsyncClient("http://house", "short")) == "AsyncClient('http://house', key='...')"


def test_every_method_is_there_three_times() -> None:
    """What a market in-process does for a buyer, both clients do, under the same names of parameters."""
    for name in ("quote", "complete", "stream", "plan", "feedback", "escalate", "history"):
        inside = inspect.signature(getattr(Engine, name)).parameters
        outside = inspect.signature(getattr(AsyncClient, name)).parameters
        assert set(outside) == set(inside) - {"check"}, name
    public = {name: method for name, method in vars(AsyncClient).items() if not name.startswith("_")}
    for name, method in public.items():
        if callable(method) and name != "aclose":
            assert inspect.signature(getattr(Client, name)) == inspect.signature(method), name
            assert getattr(Client, name).__doc__ == method.__doc__


def test_the_examples_are_true(house: LocalHouse) -> None:
    """What the docstrings show is run against a house."""
    found = doctest.DocTestFinder().find(negotiator.client, globs={"url": house.url})
    runner = doctest.DocTestRunner(verbose=False)
    for example in found:
        runner.run(example)
    assert runner.summarize(verbose=False) == (0, sum(len(example.examples) for example in found))
    assert runner.tries >= 10
