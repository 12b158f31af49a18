"""What users of other gateways reported about sellers and wrong cost, one test each: the situation, and that ours holds.

A real market buys from a real HTTP seller whose vendor plays a script; rates are $1 in, $4 out, $0.10 cached, $1.25
written per million tokens, so that every bill can be checked by hand.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from api_house import ANSWER, CHAT, FINISH, PIECES, USAGE, api_house, chunk
from vendor_playback import RATES, Playback, seller_at

from negotiator.config import Config
from negotiator.engine import Engine
from negotiator.errors import ConfigInvalid, RejectCode, Rejected
from negotiator.events import Event
from negotiator.order import Completion
from negotiator.wire import terms_from
from negotiator.wire_out import candidate_out
from providers.base import ModelSettings
from providers.clock import LoopClock, SystemClock, run_virtual
from providers.ratecard import RateCard, UnpricedModel
from providers.simulated import Fault, FaultKind, Faults, default_sellers
from providers.terms import Usage, price_nusd

TERMS = terms_from({"budget_usd": "0.05"})


class Market:
    """An open market with one scripted vendor, what it was told and what its ledger says."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.events: list[Event] = []
        engine.rooms.bus.subscribe(self.events.append)

    async def buy(self, *, stream: bool = False) -> Completion:
        """One answer, bought either way."""
        if not stream:
            return await self.engine.complete("What is 2+2?", terms=TERMS, max_tokens=100)
        done = None
        async for piece in self.engine.stream("What is 2+2?", terms=TERMS, max_tokens=100):
            done = piece.completion
        assert done is not None
        return done

    async def nusd(self, account: str = "default") -> int:
        """Posted on an account."""
        balances = await self.engine.rooms.store.balances(account, SystemClock().now_ms())
        return balances[0].posted_nusd if balances else 0


@asynccontextmanager
async def market(kind: str, *replies: Mapping[str, Any], **seller: Any) -> AsyncIterator[Market]:
    playback = Playback(list(replies))
    async with playback.at() as url:
        sold = seller_at(url, kind, **seller)
        async with Engine.open(Config(), sellers=[sold]) as engine:
            yield Market(engine)


def buffered(usage: Mapping[str, Any]) -> dict[str, Any]:
    return {"json": {**ANSWER, "usage": usage}}


def streamed(usage: Mapping[str, Any]) -> dict[str, Any]:
    return {"events": [*PIECES, chunk(finish="stop"), chunk(usage=usage), "data: [DONE]\n\n"]}


def anthropic(usage: Mapping[str, Any]) -> dict[str, Any]:
    message = {"type": "message", "content": [{"type": "text", "text": "Four."}], "stop_reason": "end_turn"}
    return {"json": {**message, "usage": usage}}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_bill_of_zero_is_no_evidence(stream: bool) -> None:
    """litellm 37923: streamed calls were logged at $0 while €830 were invoiced; here the rates count, not a zero."""
    usage = {**USAGE, "cost": 0}
    async with market("openrouter", streamed(usage) if stream else buffered(usage)) as here:
        done = await here.buy(stream=stream)
        assert done.cost_nusd == 12 * 1_000 + 3 * 4_000 == await here.nusd()


async def test_cached_tokens_in_a_last_chunk_with_choices_are_read_as_cached() -> None:
    """litellm 36083, 36168: usage beside choices in the last chunk was dropped, and cached input billed four times over."""
    usage = {"prompt_tokens": 12, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 10}}
    last = {**chunk(finish="stop"), "usage": usage}
    async with market("openai_compat", {"events": [*PIECES, last, "data: [DONE]\n\n"]}) as here:
        done = await here.buy(stream=True)
        assert done.usage.cache_read_tokens == 10
        assert done.cost_nusd == 2 * 1_000 + 10 * 100 + 3 * 4_000


async def test_cached_reads_cost_the_same_streamed_and_buffered() -> None:
    """litellm 11789: cached reads were priced as fresh input only when streaming; here both ways post the same."""
    usage = {"prompt_tokens": 12, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 10}}
    async with market("openai_compat", buffered(usage), streamed(usage)) as here:
        once, again = await here.buy(), await here.buy(stream=True)
        assert (once.usage, once.cost_nusd) == (again.usage, again.cost_nusd)
        assert await here.nusd() == 2 * once.cost_nusd == 2 * 15_000


async def test_cache_writes_and_reads_are_never_free_and_drift_is_told() -> None:
    """litellm 29145: cache writes and reads were billed at $0; here each has its rate, and a larger bill raises an alarm."""
    usage = {
        "input_tokens": 10,
        "cache_creation_input_tokens": 20,
        "cache_read_input_tokens": 30,
        "output_tokens": 3,
    }
    async with market("anthropic", anthropic(usage)) as here:
        done = await here.buy()
        assert done.cost_nusd == 10 * 1_000 + 20 * 1_250 + 30 * 100 + 3 * 4_000
    async with market("openrouter", buffered({**USAGE, "cost": 1})) as here:
        assert (await here.buy()).cost_nusd == 24_000
        (told,) = (event for event in here.events if event.name == "ledger.overbilled")
        assert told.facts["house_nusd"] == 1_000_000_000 - 24_000 == await here.nusd("~house")


async def test_of_a_total_and_its_breakdown_the_larger_is_billed() -> None:
    """litellm 42663: of a loop of server tools only the first round's cache writes were priced, up to 60 % too little."""
    rounds = [{"input_tokens": 5, "cache_creation_input_tokens": 20, "output_tokens": 2}] * 3
    usage = {**rounds[0], "iterations": rounds}
    async with market("anthropic", anthropic(usage)) as here:
        done = await here.buy()
        assert (done.usage.cache_write_tokens, done.usage.output_tokens) == (60, 6)
        assert done.cost_nusd == 15 * 1_000 + 60 * 1_250 + 6 * 4_000


def test_five_token_classes_have_five_rates() -> None:
    """cortex 816: one flat rate on cached input is off by ten; here fresh, read, written, written for an hour, output."""
    usage = Usage(1_000, 10, cache_read_tokens=400, cache_write_tokens=300, cache_write_1h_tokens=200)
    parts = 100 * 1_000 + 400 * 100 + 300 * 1_250 + 200 * 2_000 + 10 * 4_000
    assert price_nusd(RATES, usage) == parts


async def test_a_sellers_own_lower_bill_counts_and_ours_is_kept_beside_it() -> None:
    """local-operator 226, cline 5311: one model has many prices, so the list is wrong; what the seller billed is charged."""
    async with market("openrouter", buffered({**USAGE, "cost": 0.000018})) as here:
        done = await here.buy()
        assert done.cost_nusd == 18_000 == await here.nusd()
        assert 0 < done.expected_nusd != done.cost_nusd


async def test_the_ceiling_is_the_promise_and_not_the_expectation() -> None:
    """civitai 4803: an expected price with dear fallbacks is no promise; here no bill passes the quoted ceiling."""
    async with market("openrouter", buffered({**USAGE, "completion_tokens": 100_000, "cost": 0.4})) as here:
        book = await here.engine.quote("What is 2+2?", terms=TERMS, max_tokens=100)
        assert book.best is not None
        done = await here.buy()
        assert done.cost_nusd == done.ceiling_nusd == book.best.ceiling_nusd
        assert await here.nusd() + await here.nusd("~house") == 400_000_000


async def test_a_model_without_a_price_cannot_be_bought() -> None:
    """elizaOS 11527, luvus 133: a stale table made new models cost 0; here they are not sold, and prices show their age."""
    with pytest.raises(UnpricedModel, match="no-such-model: expected a price"):
        RateCard("openai", "openai", [ModelSettings(name="no-such-model")])
    (offer,) = RateCard("openai", "openai", [ModelSettings(name="gpt-6-luna")]).offers(SystemClock().now_ms())
    assert offer.price_source.startswith("genai-prices ")
    assert "(20" in offer.price_source
    async with market("openai_compat", buffered(USAGE)) as here:
        with pytest.raises(Rejected) as caught:
            await here.engine.complete("Hi", model="no-such-model", terms=TERMS)
        assert caught.value.reject.code is RejectCode.UNPRICEABLE


async def test_a_price_is_the_same_through_every_door(tmp_path: Any) -> None:
    """everruns 3442: a maximum was divided by a million once too often; here $2 per million is that from file to quote."""
    config = tmp_path / "negotiator.toml"
    config.write_text(
        '[[providers]]\nkind = "vllm"\nname = "own"\nbase_url = "http://127.0.0.1:9/v1"\n'
        'models = [{ name = "m", input_usd_per_million = "2", output_usd_per_million = "8", context_tokens = 9000 }]\n'
    )
    async with Engine.open(config) as engine:
        book = await engine.quote("What is 2+2?", terms=terms_from({"budget_usd": "1"}), max_tokens=1_000)
        assert book.best is not None
        told = candidate_out(book.best)
        prices = {line["kind"]: line["usd_per_million"] for line in told["lines"]}
        assert {kind: float(usd) for kind, usd in prices.items()} == {"input": 2.0, "output": 8.0}
        bound = book.best.quote.input_tokens * 2 / 1e6 + 1_000 * 8 / 1e6
        assert float(told["ceiling_usd"]) == pytest.approx(bound, abs=1e-9)


async def test_a_price_of_the_wrong_unit_is_refused_before_it_caps_anything(tmp_path: Any) -> None:
    """mulder 148: a cap counted by a wrong price table killed good runs; a price per token typed as per million is refused."""
    config = tmp_path / "negotiator.toml"
    config.write_text(
        '[[providers]]\nkind = "vllm"\nname = "own"\nbase_url = "http://127.0.0.1:9/v1"\n'
        'models = [{ name = "m", input_usd_per_million = "0.000002", output_usd_per_million = "8" }]\n'
    )
    with pytest.raises(ConfigInvalid, match="per token instead of per million"):
        async with Engine.open(config):
            pass


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages"])
async def test_every_dialect_counts_against_the_budget(path: str, stream: bool) -> None:
    """litellm 38176: budgets never counted responses and messages; here all dialects, both ways, post the same."""
    body: dict[str, Any] = {"model": "auto", "max_tokens": 50, "messages": CHAT["messages"], "stream": stream}
    if path == "/v1/responses":
        body = {"model": "auto", "max_output_tokens": 50, "input": "What is 2+2?", "stream": stream}
    reply = {"events": [*PIECES, *FINISH]} if stream else {"json": ANSWER}
    async with api_house(reply) as served:
        async with served.session.post(served.url + path, json=body) as answer:
            assert answer.status == 200
            await answer.read()
        assert (await served.posted_nusd(), await served.pending_nusd()) == (24_000, 0)


def test_attempts_have_one_counter_that_no_fallback_resets() -> None:
    """litellm 7091, 6498, 19985: fallbacks looped and each reset its retries; here three attempts are all there are."""

    async def play() -> None:
        clock, down = LoopClock(), [Fault(kind=FaultKind.ERROR_500)]
        names = [seller.name for seller in default_sellers(clock, seed=3)]
        faults = {name: Faults(down) for name in names}
        sellers = default_sellers(clock, seed=3, faults=faults)
        async with Engine.open(Config(), clock=clock, sellers=sellers) as engine:
            with pytest.raises(Rejected) as caught:
                await engine.complete("Hello", terms=TERMS)
            assert caught.value.reject.code is RejectCode.PROVIDERS_FAILED
            assert caught.value.reject.facts["attempts"] == engine.config.market.attempts == 3

    run_virtual(play())


@pytest.mark.parametrize(
    ("kind", "attempts", "served_by"),
    [(FaultKind.CONTENT, 1, None), (FaultKind.ERROR_500, 2, "openai")],
)
def test_what_a_policy_refused_is_not_shopped_around(
    kind: FaultKind, attempts: int, served_by: str | None
) -> None:
    """litellm 8789: fall back on some failures only; a refused content is final, a broken server is not."""

    async def play() -> None:
        clock = LoopClock()
        sellers = default_sellers(clock, seed=3, faults={"anthropic": Faults([Fault(kind=kind)])})
        async with Engine.open(Config(), clock=clock, sellers=sellers) as engine:
            terms = terms_from({"budget_usd": "0.05", "models": ["gpt-5-nano", "claude-haiku-5-5"]})
            told: list[Event] = []
            engine.rooms.bus.subscribe(told.append)
            with suppress(Rejected):
                await engine.complete("Hello", terms=terms)
            (settled,) = (event.facts for event in told if event.name == "order.settled")
            assert (settled["attempts"], settled["provider"]) == (attempts, served_by)

    run_virtual(play())
