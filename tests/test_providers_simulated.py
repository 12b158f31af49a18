"""Simulated sellers: real prices, enforced limits, faults on cue, and the same run from the same seed."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any

import pytest

from providers.assembly import MessageBuilder
from providers.base import ModelSettings, ProviderSettings
from providers.clock import LoopClock, run_virtual
from providers.errors import (
    AuthFailed,
    ContentRefused,
    ContextTooLong,
    MalformedAnswer,
    Overloaded,
    ProviderError,
    ProviderUnavailable,
    QuoteDishonoured,
    RateLimited,
    StreamCut,
)
from providers.ratecard import RateCard
from providers.simulated import (
    SIMULATED,
    Fault,
    FaultKind,
    Faults,
    ModelTraits,
    SimulatedSeller,
    acceptable,
    default_sellers,
    simulated_seller,
    true_quality,
)
from providers.terms import (
    RFQ,
    Delta,
    LineKind,
    Quote,
    RateKind,
    RateLimit,
    Rates,
    Target,
    Ticket,
    Usage,
    price_lines,
    price_nusd,
)
from providers.tokens import read_chat

KEY = b"tenant"


def body_of(text: str = "Classify this ticket.", system: str = "", **more: Any) -> dict[str, Any]:
    """A chat body of one question, with a system prompt if given."""
    messages = [{"role": "system", "content": system}] * bool(system)
    return {"messages": [*messages, {"role": "user", "content": text}], **more}


def rfq_of(body: Mapping[str, Any], **more: Any) -> RFQ:
    """The RFQ for a body."""
    read = read_chat(body, key=KEY)
    defaults = {
        "rfq_id": "r",
        "input_tokens": read.input_tokens,
        "prefix": read.prefix,
        "expected_output_tokens": 150,
    }
    return RFQ(**{**defaults, **more})


def best(seller: SimulatedSeller, body: Mapping[str, Any], **more: Any) -> Quote:
    """The first quote of a seller."""
    answer = seller.quote(rfq_of(body, **more))
    return next(item for item in answer if isinstance(item, Quote))


def ticket_of(quote: Quote, body: Mapping[str, Any], **more: Any) -> Ticket:
    """A ticket for a quote."""
    prefix = read_chat(body, key=KEY).prefix
    defaults = {"reservation_id": "v", "order_id": "o", "max_output_tokens": quote.max_output_tokens}
    return Ticket(**{**defaults, "quote": quote, "body": body, "prefix": prefix, **more})


async def serve(seller: SimulatedSeller, ticket: Ticket) -> tuple[Mapping[str, Any], Delta]:
    """The whole message and the last delta."""
    builder, last = MessageBuilder(), Delta()
    async for last in seller.execute(ticket):
        builder.add(last.delta)
    return builder.message(), last


def one(name: str = "openai", model: str = "gpt-6-luna", **more: Any) -> SimulatedSeller:
    """One seller of one model in the running loop's virtual time."""
    seller = next(s for s in default_sellers(LoopClock(), **more) if s.name == name)
    assert model in seller.models
    return seller


Story = Callable[[], Coroutine[Any, Any, Any]]


def test_the_default_market_is_sixteen_models_of_eight_sellers() -> None:
    """At least twelve real models of six vendors, each with a price that says where it comes from."""
    sellers = default_sellers(LoopClock())
    offers = [offer for seller in sellers for offer in seller.offers()]
    assert len(sellers) == len(SIMULATED) == 8
    assert len({offer.key for offer in offers}) == 16
    assert sum("genai-prices" in offer.price_source for offer in offers if offer.tier == "standard") == 15
    assert all(offer.rates_for(1).input_nusd_per_mtok > 0 for offer in offers)


def test_usage_and_bill_equal_the_price_lines() -> None:
    """Every seller's bill is its offer's rates times the usage it reports, and below the quote's ceiling."""

    async def story() -> None:
        for seller in default_sellers(LoopClock()):
            for quote in seller.quote(rfq_of(body_of(), tiers=("standard", "flex", "batch", "priority"))):
                assert isinstance(quote, Quote)
                _, last = await serve(seller, ticket_of(quote, body_of()))
                assert last.usage is not None
                assert last.billed_nusd == price_nusd(quote.rates, last.usage)
                assert last.billed_nusd <= quote.ceiling_nusd
                assert last.usage.input_tokens <= quote.input_tokens

    run_virtual(story())


def trace(seed: int) -> list[tuple[Any, ...]]:
    """What happens when three buyers ask all sellers forty times each, twenty minutes long."""
    seen: list[tuple[Any, ...]] = []

    async def buyer(number: int, sellers: tuple[SimulatedSeller, ...], clock: LoopClock) -> None:
        for turn in range(40):
            body = body_of(f"question {turn} of {number}", system="Rules. " * (turn % 3) * 400)
            for seller in sellers:
                quote = best(seller, body)
                try:
                    _, last = await serve(seller, ticket_of(quote, body, stream=turn % 2 == 0))
                    seen.append(
                        (clock.now_ms(), quote.quote_id, quote.expected_nusd, last.usage, last.billed_nusd)
                    )
                except ProviderError as error:
                    seen.append((clock.now_ms(), quote.quote_id, type(error).__name__, error.retry_after_ms))

    async def story() -> None:
        clock = LoopClock()
        shaky = Faults([Fault(kind=FaultKind.ERROR_500, share=0.1)])
        sellers = default_sellers(clock, seed=seed, limits_scale=0.05, faults={"openai": shaky})
        await asyncio.gather(*(buyer(number, sellers, clock) for number in range(3)))

    run_virtual(story())
    return seen


def test_the_same_seed_gives_the_same_run() -> None:
    """Latencies, usages, bills, refusals and their order are a function of the seed."""
    first = trace(7)
    assert first == trace(7)
    assert first != trace(8)
    assert {"RateLimited", "ProviderUnavailable"} <= {row[2] for row in first}


def test_limits_are_never_exceeded_and_a_full_window_says_when_to_come_back() -> None:
    """An hour of eager buyers at a limit of 30 calls a minute: never more, never fewer by much, and 429 tells the wait."""
    limit = RateLimit(RateKind.REQUESTS, 30)
    starts: list[int] = []
    waits: list[tuple[int | None, int]] = []

    async def buyer(seller: SimulatedSeller, clock: LoopClock, number: int) -> None:
        turn = 0
        while clock.now_ms() - begun < 3_600_000:
            turn += 1
            body = body_of(f"{number} {turn}")
            quote = best(seller, body)
            now_ms = clock.now_ms()
            try:
                await serve(seller, ticket_of(quote, body))
                starts.append(now_ms)
            except RateLimited as error:
                waits.append((error.status, error.retry_after_ms or 0))
                await asyncio.sleep((error.retry_after_ms or 0) / 1000)

    async def story() -> None:
        nonlocal begun
        clock = LoopClock()
        begun = clock.now_ms()
        seller = simulated_seller(
            ProviderSettings(
                kind="simulated",
                name="mistral",
                limits=(limit,),
                models=(ModelSettings(name="mistral-small-2603"),),
            ),
            clock,
        )
        await asyncio.gather(*(buyer(seller, clock, number) for number in range(4)))

    begun = 0
    run_virtual(story())
    assert waits
    assert all(status == 429 and 0 < wait_ms <= 60_000 for status, wait_ms in waits)
    starts.sort()
    most = max(sum(start <= other < start + 60_000 for other in starts) for start in starts)
    assert most == 30
    assert len(starts) >= 30 * 60 * 0.9


@pytest.mark.parametrize(
    ("kind", "amount"),
    [
        (RateKind.TOKENS, 300),
        (RateKind.INPUT_TOKENS, 60),
        (RateKind.OUTPUT_TOKENS, 250),
        (RateKind.UNCACHED_INPUT_TOKENS, 60),
        (RateKind.CONCURRENCY, 2),
    ],
)
def test_every_kind_of_limit_binds(kind: RateKind, amount: int) -> None:
    """Five calls at once: some pass, the rest are told 429, and a window later one passes again."""

    async def story() -> Counter[str]:
        settings = ProviderSettings(
            kind="simulated",
            name="anthropic",
            limits=(RateLimit(kind, amount),),
            models=(ModelSettings(name="claude-haiku-5-5"),),
        )
        seller = simulated_seller(settings, LoopClock())
        body = body_of(max_tokens=100)
        quote = best(seller, body, max_output_tokens=100)

        async def call() -> str:
            try:
                await serve(seller, ticket_of(quote, body))
            except RateLimited:
                return "limited"
            return "served"

        outcomes = Counter(await asyncio.gather(*(call() for _ in range(5))))
        assert all(used <= limit.amount for limit, used in seller.used().items())
        await asyncio.sleep(61)
        assert await call() == "served"
        return outcomes

    outcomes = run_virtual(story())
    assert outcomes["served"] >= 1
    assert outcomes["limited"] >= 1


def test_quotes_say_how_many_calls_fit() -> None:
    """Capacity falls with each call and comes back with the window."""

    async def story() -> list[int | None]:
        seller = one(limits_scale=0.02)
        body = body_of()
        seen = [best(seller, body).capacity]
        await serve(seller, ticket_of(best(seller, body), body))
        seen.append(best(seller, body).capacity)
        await asyncio.sleep(61)
        seen.append(best(seller, body).capacity)
        return seen

    assert run_virtual(story()) == [10, 9, 10]


def test_a_warm_prefix_is_billed_as_read_and_quoted_so() -> None:
    """The second request over a long system prompt costs less than half, by the itemised cache discount."""

    async def story() -> tuple[Quote, Delta, Quote, Delta]:
        seller = one(seed=2)
        long = "You are a careful clerk. " * 600
        first_body, second_body = body_of("one", long), body_of("two", long)
        first = best(seller, first_body)
        _, first_last = await serve(seller, ticket_of(first, first_body))
        await asyncio.sleep(10)
        second = best(seller, second_body)
        _, second_last = await serve(seller, ticket_of(second, second_body))
        return first, first_last, second, second_last

    first, first_last, second, second_last = run_virtual(story())
    assert first.discounts == ()
    (saved,) = second.discounts
    assert saved.kind == "cache_hit"
    assert second.expected_nusd < first.expected_nusd / 2
    assert first_last.usage is not None
    assert second_last.usage is not None
    assert first_last.usage.cache_read_tokens == 0
    assert first_last.usage.cache_write_tokens >= 2_900
    assert second_last.usage.cache_read_tokens >= 2_900


def conversation(turns: int, number: int) -> list[dict[str, Any]]:
    """The bodies of one conversation over a long system prompt shared by all conversations."""
    messages: list[dict[str, str]] = [
        {"role": "system", "content": "House rules apply to every answer. " * 400}
    ]
    bodies = []
    for turn in range(turns):
        messages = [*messages, {"role": "user", "content": f"conversation {number}, question {turn}? " * 20}]
        bodies.append({"messages": messages})
        messages = [*messages, {"role": "assistant", "content": f"answer {turn} of {number}. " * 30}]
    return bodies


def input_nusd(rates: Rates, usage: Usage) -> int:
    """What the input of a call cost."""
    return sum(line.nusd for line in price_lines(rates, usage) if line.kind is not LineKind.OUTPUT)


@pytest.mark.parametrize("name", ["openai", "anthropic", "google", "deepseek", "x-ai", "basement"])
def test_expected_cache_discounts_are_realised_in_sum(name: str) -> None:
    """Over sixty multi-turn conversations, tokens read and dollars saved on input are within 10 % of those expected."""

    async def story() -> tuple[int, int, int, int]:
        seller = next(s for s in default_sellers(LoopClock(), seed=3, limits_scale=100) if s.name == name)
        expected = saved = 0
        for number in range(60):
            for body in conversation(5, number):
                quote = best(seller, body)
                _, last = await serve(seller, ticket_of(quote, body, max_output_tokens=50))
                assert last.usage is not None
                plain = replace(last.usage, cache_read_tokens=0, cache_write_tokens=0)
                lines = [line for line in quote.lines if line.kind is not LineKind.OUTPUT]
                tokens = sum(line.tokens for line in lines)
                expected += tokens * quote.rates.input_nusd_per_mtok // 1_000_000 - sum(
                    line.nusd for line in lines
                )
                saved += input_nusd(quote.rates, plain) - input_nusd(quote.rates, last.usage)
                await asyncio.sleep(5)
        scores = seller.cache_scores().values()
        return sum(s.expected_tokens for s in scores), sum(s.read_tokens for s in scores), expected, saved

    expected_tokens, read_tokens, expected_nusd, saved_nusd = run_virtual(story())
    assert read_tokens > 100_000
    assert abs(expected_tokens - read_tokens) <= 0.1 * read_tokens
    assert abs(expected_nusd - saved_nusd) <= 0.1 * saved_nusd


def test_an_idle_seller_lowers_its_price_and_further_when_asked_again() -> None:
    """Empty it asks 65 % of its list price; toward a target it goes down, never below its reserve of 30 %."""

    async def story() -> None:
        seller = one("basement", "qwen3.8-27b")
        body = body_of("long question " * 300, max_tokens=1000)
        ask = {"max_output_tokens": 1000, "expected_output_tokens": 800}
        first = best(seller, body, **ask)
        list_nusd = first.expected_nusd + sum(saved.saves_nusd for saved in first.discounts)
        assert first.discounts[0].kind == "idle"
        assert first.expected_nusd == pytest.approx(0.65 * list_nusd, rel=0.01)
        target = Target(nusd=first.ceiling_nusd * 7 // 10)
        second = best(seller, body, **ask, round=2, target=target)
        assert target.nusd is not None
        assert 0.97 * target.nusd <= second.ceiling_nusd <= target.nusd
        assert second.discounts[0].kind == "counter"
        _, last = await serve(seller, ticket_of(second, body))
        assert last.usage is not None
        assert last.billed_nusd == price_nusd(second.rates, last.usage)
        impossible = best(seller, body, **ask, round=2, target=Target(nusd=first.ceiling_nusd // 10))
        assert impossible.ceiling_nusd == first.ceiling_nusd

    run_virtual(story())


def test_a_busy_seller_asks_its_list_price() -> None:
    """With every slot taken the idle discount is gone."""

    async def story() -> None:
        seller = one("basement", "qwen3.8-27b", limits_scale=0.125)
        body = body_of("long question " * 300)
        quotes = [best(seller, body)]
        calls = [asyncio.create_task(serve(seller, ticket_of(quotes[0], body))) for _ in range(2)]
        await asyncio.sleep(0.01)
        busy = best(seller, body)
        assert busy.discounts == ()
        assert busy.expected_nusd > quotes[0].expected_nusd
        assert busy.capacity == 0
        await asyncio.gather(*calls)

    run_virtual(story())


@pytest.mark.parametrize(
    ("kind", "error", "status"),
    [
        (FaultKind.OUTAGE, Overloaded, 503),
        (FaultKind.ERROR_500, ProviderUnavailable, 500),
        (FaultKind.RATE_LIMITED, RateLimited, 429),
        (FaultKind.AUTH, AuthFailed, 401),
        (FaultKind.CONTENT, ContentRefused, 400),
        (FaultKind.CUT, StreamCut, None),
        (FaultKind.MALFORMED, MalformedAnswer, 200),
        (FaultKind.IMPOSSIBLE_USAGE, MalformedAnswer, None),
    ],
)
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "buffered"])
def test_faults_come_as_the_errors_of_the_contract(
    kind: FaultKind, error: type[ProviderError], status: int | None, stream: bool
) -> None:
    """Each fault is its leaf of the tree, names the seller and model, and the seller serves again after it."""

    async def story() -> None:
        seller = one(faults={"openai": Faults([Fault(kind=kind, calls=frozenset({1}))])})
        body = body_of()
        quote = best(seller, body)
        with pytest.raises(error) as caught:
            await serve(seller, ticket_of(quote, body, stream=stream))
        assert type(caught.value) is error
        assert (caught.value.provider, caught.value.model) == ("openai", quote.model)
        assert caught.value.status == status
        if kind is FaultKind.RATE_LIMITED:
            assert caught.value.retry_after_ms is None
        await serve(seller, ticket_of(quote, body, stream=stream))

    run_virtual(story())


def test_a_seller_that_never_answers_hangs_until_it_is_abandoned() -> None:
    """A timeout of ten minutes passes before anything comes; its slot is free again."""

    async def story() -> None:
        seller = one(faults={"openai": Faults([Fault(kind=FaultKind.NEVER_ANSWERS, until_ms=1)])})
        body = body_of()
        quote = best(seller, body)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(600):
                await serve(seller, ticket_of(quote, body))
        await serve(seller, ticket_of(quote, body))

    run_virtual(story())


def test_a_stalled_stream_says_something_and_then_nothing() -> None:
    """Half of the answer came when the buyer gives up; the slot is free again."""

    async def story() -> int:
        seller = one(faults={"openai": Faults([Fault(kind=FaultKind.STALL, calls=frozenset({1}))])})
        quote, came = best(seller, body_of()), 0

        async def listen() -> None:
            nonlocal came
            async for _ in seller.execute(ticket_of(quote, body_of(), stream=True)):
                came += 1

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(listen(), 600)
        await serve(seller, ticket_of(quote, body_of()))
        return came

    assert 0 < run_virtual(story()) < 8


def test_a_refused_call_warms_nothing() -> None:
    """A prompt that met a full window is cold when it comes again."""

    async def story() -> Delta:
        seller = one(limits_scale=0.002, seed=1)  # one call a minute
        long = body_of("one", "You are a careful clerk. " * 100)
        other, quote = body_of("other"), best(seller, long)
        await serve(seller, ticket_of(best(seller, other), other, max_output_tokens=20))
        with pytest.raises(RateLimited):
            await serve(seller, ticket_of(quote, long, max_output_tokens=20))
        await asyncio.sleep(61)
        return (await serve(seller, ticket_of(quote, long, max_output_tokens=20)))[1]

    last = run_virtual(story())
    assert last.usage is not None
    assert last.usage.cache_read_tokens == 0


def test_wrong_bills_come_as_scripted() -> None:
    """Usage may be missing, ten times too high, or the bill three times the ceiling: the house must cope."""

    async def story() -> dict[FaultKind, tuple[Delta, Quote]]:
        seen = {}
        for kind in (FaultKind.NO_USAGE, FaultKind.WRONG_USAGE, FaultKind.OVERBILLED):
            seller = one(faults={"openai": Faults([Fault(kind=kind)])})
            quote = best(seller, body_of())
            seen[kind] = ((await serve(seller, ticket_of(quote, body_of())))[1], quote)
        return seen

    seen = run_virtual(story())
    assert (seen[FaultKind.NO_USAGE][0].usage, seen[FaultKind.NO_USAGE][0].billed_nusd) == (None, None)
    wrong = seen[FaultKind.WRONG_USAGE][0]
    assert wrong.usage is not None
    assert wrong.billed_nusd == price_nusd(seen[FaultKind.WRONG_USAGE][1].rates, wrong.usage)
    over, quote = seen[FaultKind.OVERBILLED]
    assert over.billed_nusd == 3 * quote.ceiling_nusd


def test_scripts_strike_when_and_whom_they_say() -> None:
    """Between two times, on one model, on a share of calls; a wrong entry is refused."""

    async def story() -> list[str]:
        fault = Fault(kind=FaultKind.OUTAGE, from_ms=10_000, until_ms=20_000, model="gpt-6-luna")
        seller = one(faults={"openai": Faults([fault])})
        outcomes = []
        for model, wait_s in (
            ("gpt-6-luna", 12.0),
            ("gpt-5-nano", 0.0),
            ("gpt-6-luna", 20.0),
            ("gpt-6-luna", 0.0),
        ):
            body = body_of(f"{model} {wait_s}")
            quote = best(seller, body, models=frozenset({model}))
            try:
                await serve(seller, ticket_of(quote, body, max_output_tokens=20))
                outcomes.append("served")
            except Overloaded:
                outcomes.append("out")
            await asyncio.sleep(wait_s)
        return outcomes

    assert run_virtual(story()) == ["served", "served", "out", "served"]
    with pytest.raises(ValueError, match="until_ms: expected after from_ms 5, found 5"):
        Fault(kind=FaultKind.CUT, from_ms=5, until_ms=5)
    with pytest.raises(ValueError, match=r"share: expected 0 to 1, found 1.5"):
        Fault(kind=FaultKind.CUT, share=1.5)


@pytest.mark.parametrize("text", ["Classify this.", "Prove it step by step."])
def test_streamed_and_buffered_answers_settle_to_the_same_nano_dollar(text: str) -> None:
    """Two equal sellers, one streaming: same message, same usage with cached tokens, same bill, same finish."""

    async def story(stream: bool) -> list[tuple[Any, ...]]:
        seller = one(seed=5)
        seen = []
        for turn in range(3):
            body = body_of(f"{text} {turn}", "Shared instructions. " * 500)
            message, last = await serve(seller, ticket_of(best(seller, body), body, stream=stream))
            seen.append((message, last.finish_reason, last.usage, last.billed_nusd))
        return seen

    streamed, buffered = run_virtual(story(True)), run_virtual(story(False))
    assert streamed == buffered
    assert any(row[2].cache_read_tokens for row in streamed)


def test_tools_and_schemas_are_answered_in_kind() -> None:
    """A forced tool call has arguments that fit its schema; a JSON schema gets JSON that fits; streamed alike."""
    parameters = {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 3}},
        "required": ["city"],
    }
    tool = {"type": "function", "function": {"name": "weather", "parameters": parameters}}
    schema = {"type": "json_schema", "json_schema": {"name": "n", "schema": parameters}}

    async def story(stream: bool) -> None:
        seller = one()
        body = body_of(tools=[tool], tool_choice="required")
        quote = best(seller, body, capabilities=frozenset({"tools"}))
        message, last = await serve(seller, ticket_of(quote, body, stream=stream))
        (call,) = message["tool_calls"]
        assert (call["function"]["name"], last.finish_reason) == ("weather", "tool_calls")
        assert json.loads(call["function"]["arguments"]) == {"city": "text", "days": 3}
        body = body_of(response_format=schema)
        message, last = await serve(seller, ticket_of(best(seller, body), body, stream=stream))
        assert json.loads(message["content"]) == {"city": "text", "days": 3}
        assert last.finish_reason == "stop"

    run_virtual(story(True))
    run_virtual(story(False))


def test_an_answer_never_exceeds_its_bound() -> None:
    """Reasoning included; a cut answer says so."""

    async def story() -> None:
        for seller in default_sellers(LoopClock()):
            body = body_of("Write a long story.")
            for quote in seller.quote(rfq_of(body, max_output_tokens=20)):
                assert isinstance(quote, Quote)
                _, last = await serve(seller, ticket_of(quote, body))
                assert last.usage is not None
                assert last.usage.output_tokens <= 20
                assert last.finish_reason == "length"

    run_virtual(story())


def test_latency_is_distributed_as_quoted() -> None:
    """Of 400 calls about half take longer than the median of their length, and about one in twenty than its p95."""

    async def story() -> tuple[int, int]:
        seller = one("mistral", "mistral-large-4", limits_scale=1000)
        above_median = above_p95 = 0
        for number in range(400):
            body = body_of(f"question {number}")
            quote = best(seller, body)
            began = asyncio.get_running_loop().time()
            _, last = await serve(seller, ticket_of(quote, body))
            took_ms = (asyncio.get_running_loop().time() - began) * 1000
            assert last.usage is not None
            fair = best(seller, body, expected_output_tokens=last.usage.output_tokens)
            above_median += took_ms > fair.latency_ms.p50
            above_p95 += took_ms > fair.latency_ms.p95
        return above_median, above_p95

    above_median, above_p95 = run_virtual(story())
    assert 160 <= above_median <= 240
    assert 6 <= above_p95 <= 40


def test_the_price_of_the_hour_is_billed_even_to_an_older_quote() -> None:
    """A vendor bills its card: a quote from before the peak expires at the boundary, and who is late pays double."""

    async def story() -> tuple[int, int, int]:
        clock = LoopClock(
            start_ms=1_795_481_999_000
        )  # 2026-11-24 00:59:59 UTC, a second before DeepSeek's peak
        seller = next(s for s in default_sellers(clock) if s.name == "deepseek")
        body = body_of()
        quote = best(seller, body)
        await asyncio.sleep(2)
        _, last = await serve(seller, ticket_of(quote, body))
        assert last.usage is not None
        assert last.billed_nusd is not None
        return quote.valid_for_ms, price_nusd(quote.rates, last.usage), last.billed_nusd

    valid_for_ms, quoted, billed = run_virtual(story())
    assert valid_for_ms == 1_000
    assert billed == 2 * quoted


def test_what_is_not_sold_or_too_long_is_refused_by_the_seller_too() -> None:
    """A ticket for an unknown model is a dishonoured quote; a longer prompt than quoted is refused by length."""

    async def story() -> None:
        seller = one("groq", "openai/gpt-oss-120b")
        quote = best(seller, body_of())
        with pytest.raises(QuoteDishonoured):
            await serve(seller, ticket_of(replace(quote, model="gone"), body_of()))
        with pytest.raises(ContextTooLong):
            await serve(seller, ticket_of(quote, body_of("word " * 140_000)))

    run_virtual(story())


def test_quality_is_hidden_repeatable_and_follows_ability() -> None:
    """Outcomes have the frequency of their probability; able models win more, yet lose some prompts to weaker ones."""
    models = {name: traits for entry in SIMULATED.values() for name, traits in entry.models.items()}
    prompts = [f"Summarize report {n}" if n % 2 else f"Prove theorem {n} step by step" for n in range(1_000)]
    strong, weak = models["claude-opus-5-5"], models["gpt-5-nano"]
    for name, traits in (("strong", strong), ("weak", weak)):
        good = [acceptable(traits, name, prompt, seed=1) for prompt in prompts]
        mean = sum(true_quality(traits, name, prompt, seed=1) for prompt in prompts) / len(prompts)
        assert good == [acceptable(traits, name, prompt, seed=1) for prompt in prompts]
        assert sum(good) / len(good) == pytest.approx(mean, abs=0.04)
    better = [acceptable(strong, "strong", p, seed=1) - acceptable(weak, "weak", p, seed=1) for p in prompts]
    assert better.count(1) > 3 * better.count(-1) > 0
    easy = [true_quality(weak, "weak", p, seed=1) for p in prompts[1::2]]
    hard = [true_quality(weak, "weak", p, seed=1) for p in prompts[::2]]
    assert sum(easy) / 500 > sum(hard) / 500 + 0.2


def test_a_seller_tells_tests_what_its_answers_are_worth() -> None:
    """The same outcome as the functions behind it, by body instead of prompt."""
    seller = one(seed=6)
    for number in range(50):
        body = body_of(f"question {number}", "system prompts do not matter")
        traits = seller.models["gpt-6-luna"]
        assert seller.true_quality("gpt-6-luna", body) == true_quality(
            traits, "gpt-6-luna", f"question {number}", 6
        )
        assert seller.acceptable("gpt-6-luna", body) == acceptable(
            traits, "gpt-6-luna", f"question {number}", 6
        )


def test_settings_make_a_seller() -> None:
    """A catalogue name, with its own limits; own models with own prices; neither is refused by name."""
    seller = simulated_seller(
        ProviderSettings(kind="simulated", name="mistral", limits=(RateLimit(RateKind.REQUESTS, 5),), seed=4),
        LoopClock(),
    )
    assert seller.limits == (RateLimit(RateKind.REQUESTS, 5),)
    assert {offer.tier for offer in seller.offers()} == {"standard", "batch"}
    with pytest.raises(ValueError, match=r"nobody: expected one of openai, .* or models with prices"):
        simulated_seller(ProviderSettings(kind="simulated", name="nobody"), LoopClock())


TALK = ModelTraits(ability=1, ttft_ms=500, ms_per_token=5)
BEFORE_PEAK_MS = 1_795_481_940_000  # 2026-11-24 00:59 UTC: DeepSeek's price doubles at 01:00


async def session_trace(switch: str, seed: int) -> int:
    """The bill of forty sessions over two sellers across a price rise, nano-dollars.

    Five are long documents asked about again and again, the rest chats that begin short. ``switch``: ``priced`` takes the cheapest
    quote of each turn; ``always`` the one that would be cheapest without caches; ``never`` stays where it began.
    """
    clock = LoopClock(start_ms=BEFORE_PEAK_MS)
    sellers = [
        SimulatedSeller(
            name, RateCard(name, name, [ModelSettings(name=model)]), {model: TALK}, clock, seed=seed
        )
        for name, model in (("deepseek", "deepseek-flash"), ("mistral", "mistral-small-2603"))
    ]
    total = 0

    async def session(number: int, long: bool) -> None:
        nonlocal total
        messages = [
            {"role": "system", "content": f"Document {number}. " + "It has many pages. " * (6_000 * long)}
        ]
        home = ""
        for turn in range(4):
            messages = [*messages, {"role": "user", "content": f"question {turn} of {number}"}]
            body = {"messages": messages}
            blind = rfq_of(body, prefix=()) if switch == "always" else rfq_of(body)
            found = [(q, s) for s in sellers for q in s.quote(blind) if isinstance(q, Quote)]
            if switch == "never" and home:
                found = [pair for pair in found if pair[0].provider == home]
            quote, seller = min(found, key=lambda pair: pair[0].expected_nusd)
            home = quote.provider
            message, last = await serve(seller, ticket_of(quote, body))
            assert last.billed_nusd is not None
            total += last.billed_nusd
            messages = [*messages, message]
            await asyncio.sleep(200)

    await asyncio.gather(*(session(number, number % 8 == 0) for number in range(40)))
    return total


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_pricing_the_switch_beats_always_and_never_switching(seed: int) -> None:
    """When a price doubles, short chats should leave and long warm documents stay: on this trace quotes do both."""
    bills = {switch: run_virtual(session_trace(switch, seed)) for switch in ("priced", "always", "never")}
    assert bills["priced"] < 0.95 * bills["always"]
    assert bills["priced"] < 0.95 * bills["never"]
