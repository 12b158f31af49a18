"""The market in one process: orders bought, refused, streamed, cut off, replayed, failed over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from virtual_market import market

from negotiator.engine import Engine
from negotiator.errors import RejectCode, Rejected
from negotiator.order import Completion
from negotiator.store import Account
from negotiator.wire import Terms, terms_from
from providers.clock import LoopClock, run_virtual
from providers.simulated import Fault, FaultKind
from providers.terms import Fill, LineKind, Usage, price_nusd

LUNA = "openai/gpt-6-luna"


def virtual(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    def run(*given: Any, **named: Any) -> None:
        run_virtual(test(*given, **named))

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


async def posted_and_pending(engine: Engine, account: str = "default") -> tuple[int, int]:
    balance = (await engine.rooms.store.balances(account, engine.rooms.clock.now_ms()))[0]
    return balance.posted_nusd, balance.pending_nusd


async def refused(engine: Engine, text: str = "Hello", **terms: Any) -> Rejected:
    with pytest.raises(Rejected) as caught:
        await engine.complete(text, terms=terms_from(terms))
    return caught.value


@virtual
async def test_an_order_is_served_by_the_cheapest_that_meets_its_terms() -> None:
    """The winner has the lowest expected price among the eligible, and what it cost is what the ledger posted."""
    async with market() as engine:
        book = await engine.quote("Name three rivers.", terms=terms_from({"budget_usd": "0.01"}))
        done = await engine.complete("Name three rivers.", terms=terms_from({"budget_usd": "0.01"}))
        assert book.best is not None
        assert done.expected_nusd == min(c.expected_nusd for c in book.eligible)
        assert f"{done.provider}/{done.model}" == book.best.quote.key
        assert await posted_and_pending(engine) == (done.cost_nusd, 0)
        assert 0 < done.cost_nusd <= done.ceiling_nusd <= 10_000_000


@virtual
async def test_streamed_and_buffered_answers_cost_the_same() -> None:
    """The same prompt to the same model settles to the same nano-dollar either way, and the text is the same."""
    terms = terms_from({"budget_usd": "0.05", "models": [LUNA]})
    async with market() as engine:
        whole = await engine.complete("Tell me of the sea.", terms=terms)
    async with market() as engine:
        chunks = [chunk async for chunk in engine.stream("Tell me of the sea.", terms=terms)]
        assert await posted_and_pending(engine) == (whole.cost_nusd, 0)
    last = chunks[-1].completion
    assert last is not None
    assert last.cost_nusd == whole.cost_nusd
    assert "".join(chunk.text for chunk in chunks) == whole.message["content"]
    assert all(chunk.completion is None for chunk in chunks[:-1])


@virtual
async def test_a_failing_seller_is_replaced_before_the_first_token() -> None:
    """The award answers 500; the runner-up delivers inside the same hold, and both attempts are told."""
    async with market({"openai": [Fault(kind=FaultKind.ERROR_500)]}) as engine:
        done = await engine.complete(
            "Hello",
            terms=terms_from(
                {"budget_usd": "0.05", "models": ["gpt-6-luna", "claude-haiku-5-5"], "min_quality": 0.8}
            ),
        )
        outcomes = [(attempt.provider, attempt.outcome) for attempt in done.attempts]
        assert outcomes[-1] == ("anthropic", "ok")
        assert done.provider == "anthropic"
        assert await posted_and_pending(engine) == (done.cost_nusd, 0)
        assert done.attempts[0].billed_nusd == 0 or len(done.attempts) == 1


@virtual
async def test_when_all_sellers_fail_nothing_is_owed_and_the_order_may_come_again() -> None:
    """Every attempt fails before its first token: the hold is voided, the id is free, the reject names the attempts."""
    down = {name: [Fault(kind=FaultKind.ERROR_500, until_ms=60_000)] for name in ("openai", "anthropic")}
    async with market(down) as engine:
        terms: dict[str, Any] = {
            "budget_usd": "0.05",
            "models": ["openai/*", "anthropic/*"],
            "order_id": "one",
        }
        error = await refused(engine, **terms)
        assert error.reject.code is RejectCode.PROVIDERS_FAILED
        assert error.reject.facts["charged_usd"] == "0"
        assert await posted_and_pending(engine) == (0, 0)


@virtual
async def test_an_answer_cut_in_the_middle_is_an_honest_partial() -> None:
    """After the first token there is no second seller: what was delivered is charged, and it says so."""
    async with market({"openai": [Fault(kind=FaultKind.CUT)]}) as engine:
        terms = terms_from({"budget_usd": "0.05", "models": [LUNA]})
        chunks = [chunk async for chunk in engine.stream("Tell me of the sea, at length.", terms=terms)]
        done = chunks[-1].completion
        assert done is not None
        assert not done.complete
        assert done.attempts[-1].outcome == "StreamCut"
        assert len(done.attempts) == 1
        assert await posted_and_pending(engine) == (done.cost_nusd, 0)
        assert done.cost_nusd > 0


@virtual
async def test_hanging_up_pays_for_what_was_delivered() -> None:
    """Closing the stream after the first piece cancels upstream, posts input and delivered output, leaks no hold."""
    terms = terms_from({"budget_usd": "0.05", "models": [LUNA]})
    async with market() as engine:
        whole = await engine.complete("Tell me of the sea, at length.", terms=terms)
        before, _ = await posted_and_pending(engine)
        stream = engine.stream("Tell me of the sea, at length.", terms=terms)
        assert (await anext(stream)).text
        await stream.aclose()
        after, pending = await posted_and_pending(engine)
        assert pending == 0
        assert 0 < after - before < whole.cost_nusd


@virtual
async def test_a_stream_whose_worker_is_gone_posts_what_was_relayed() -> None:
    """Nobody reads on or settles: the sweep posts the input and a token for eight bytes of the pieces told of."""
    terms = terms_from({"budget_usd": "0.05", "models": [LUNA], "deadline_ms": 60_000})
    async with market(market={"in_doubt_ms": 1_000}) as engine:
        quote = (await engine.quote("Tell me of the sea, at length.", terms=terms)).candidates[0].quote
        stream = engine.stream("Tell me of the sea, at length.", terms=terms)
        pieces = []
        for _ in range(5):
            pieces.append((await anext(stream)).text)
            await asyncio.sleep(1.5)
        posted, held = await posted_and_pending(engine)
        assert (posted, held > 0) == (0, True)
        await asyncio.sleep(600)
        await engine.rooms.ledger.sweep()
        posted, pending = await posted_and_pending(engine)
        assert pending == 0
        told = "".join(pieces[:4])  # the fifth is not counted before it has been taken
        input_tokens = sum(line.tokens for line in quote.lines if line.kind is LineKind.INPUT)
        assert posted == price_nusd(quote.rates, Usage(input_tokens, len(told) // 8))
        assert price_nusd(quote.rates, Usage(input_tokens, 0)) < posted < held
        await stream.aclose()
        assert await posted_and_pending(engine) == (posted, 0)


@virtual
async def test_the_deadline_cuts_the_call_off() -> None:
    """A seller that never answers costs the buyer its deadline, not more: refused in time, with nothing pending."""
    async with market({"groq": [Fault(kind=FaultKind.NEVER_ANSWERS)]}) as engine:
        started_ms = engine.rooms.clock.now_ms()
        error = await refused(engine, "Hi", budget_usd="0.05", deadline_ms=20_000, models=["groq/*"])
        assert error.reject.code is RejectCode.DEADLINE_PASSED
        assert engine.rooms.clock.now_ms() - started_ms <= 20_100
        assert (await posted_and_pending(engine))[1] == 0


@virtual
async def test_without_a_deadline_a_silent_seller_is_given_up() -> None:
    """No deadline does not mean for ever: the attempt is abandoned and the runner-up answers."""
    async with market({"openai": [Fault(kind=FaultKind.NEVER_ANSWERS)]}) as engine:
        done = await engine.complete(
            "Hi",
            terms=terms_from(
                {
                    "budget_usd": "0.05",
                    "models": ["gpt-5-nano", "claude-haiku-5-5"],
                    "exclude": ["anthropic/claude-opus*"],
                }
            ),
        )
        assert done.attempts[-1].outcome == "ok"


@virtual
async def test_the_same_order_id_is_answered_once() -> None:
    """Same id and content: the first answer again, free. Other content: refused, naming the field."""
    async with market() as engine:
        terms = terms_from({"budget_usd": "0.05", "order_id": "mine"})
        first = await engine.complete("One?", terms=terms)
        again = await engine.complete("One?", terms=terms)
        assert again.replayed
        assert not first.replayed
        assert again.message == first.message
        assert await posted_and_pending(engine) == (first.cost_nusd, 0)
        error = await refused(engine, "Two?", budget_usd="0.05", order_id="mine")
        assert error.reject.code is RejectCode.DUPLICATE_DIFFERENT
        assert "messages" in error.reject.message


@virtual
async def test_a_refused_order_may_come_again_with_a_larger_budget() -> None:
    """A reject before any spend frees the id; the counter-offer's terms are then served."""
    async with market() as engine:
        error = await refused(engine, "Write a long essay.", budget_usd="0.00001", order_id="again")
        assert error.reject.code is RejectCode.BUDGET_TOO_LOW
        offer = error.reject.counter_offers[0]
        terms = terms_from({**offer.terms, "order_id": "again"})
        done = await engine.complete("Write a long essay.", terms=terms)
        assert isinstance(done, Completion)
        assert done.cost_nusd <= offer.ceiling_nusd


CASES: list[tuple[dict[str, Any], RejectCode]] = [
    ({"budget_usd": "0.0000001"}, RejectCode.BUDGET_TOO_LOW),
    ({"min_quality": 0.999}, RejectCode.QUALITY_UNREACHABLE),
    ({"deadline_ms": 10}, RejectCode.DEADLINE_UNREACHABLE),
    ({"require": ["singing"]}, RejectCode.CAPABILITY_MISSING),
    ({"exclude": ["*/*"]}, RejectCode.POLICY_FORBIDS),
    ({"budget_usd": "0.001", "min_quality": 0.97}, RejectCode.TERMS_CONFLICT),
    ({"account": "nobody"}, RejectCode.ACCOUNT_UNKNOWN),
]


@pytest.mark.parametrize(("terms", "code"), CASES, ids=[code.name for _, code in CASES])
def test_each_term_is_refused_by_its_own_code(terms: dict[str, Any], code: RejectCode) -> None:
    """A term nobody meets is refused with its code; what can be mended comes with counter-offers that are served."""

    async def run() -> None:
        async with market() as engine:
            error = await refused(engine, "Explain tides.", **terms)
            assert error.reject.code is code
            if code is RejectCode.ACCOUNT_UNKNOWN:
                return
            assert error.reject.counter_offers
            for offer in error.reject.counter_offers:
                done = await engine.complete("Explain tides.", terms=terms_from({**terms, **offer.terms}))
                assert done.cost_nusd <= offer.ceiling_nusd

    run_virtual(run())


@virtual
async def test_a_quote_that_was_shown_can_be_taken() -> None:
    """The quote's id buys that offer at its rates; another account, body or a late buyer is told why not."""
    async with market() as engine:
        terms = terms_from({"budget_usd": "0.05"})
        book = await engine.quote("Say hi.", terms=terms)
        second = book.eligible[1]
        done = await engine.complete("Say hi.", terms=terms, quote_id=second.quote.quote_id)
        assert done.quote_id == second.quote.quote_id
        assert done.cost_nusd <= second.ceiling_nusd
        for text, quote_id, code in (
            ("Say ho.", second.quote.quote_id, RejectCode.INPUT_CHANGED),
            ("Say hi.", "q_unknown", RejectCode.UNKNOWN_QUOTE),
        ):
            with pytest.raises(Rejected) as caught:
                await engine.complete(text, terms=terms, quote_id=quote_id)
            assert caught.value.reject.code is code


@virtual
async def test_an_account_cannot_be_overspent_by_concurrent_orders() -> None:
    """Fifty orders at once on a budget for a few: posted never exceeds it, and the rest are refused for funds."""
    import asyncio

    async with market() as engine:
        await engine.rooms.store.put_account(Account(account_id="small", budget_nusd=3_000_000))
        terms = terms_from({"budget_usd": "0.001", "account": "small", "models": [LUNA]})
        answers = await asyncio.gather(
            *(engine.complete(f"Say {n}.", terms=terms, max_tokens=100) for n in range(60)),
            return_exceptions=True,
        )
        served = [answer for answer in answers if isinstance(answer, Completion)]
        codes = {answer.reject.code for answer in answers if isinstance(answer, Rejected)}
        posted, pending = await posted_and_pending(engine, "small")
        assert served
        assert len(served) < 60
        assert codes <= {RejectCode.FUNDS_HELD, RejectCode.FUNDS_INSUFFICIENT}
        assert posted == sum(done.cost_nusd for done in served) <= 3_000_000
        assert pending == 0


@virtual
async def test_a_bill_above_the_ceiling_is_the_houses() -> None:
    """The seller bills more than its ceiling: the buyer pays at most the ceiling, the house account the rest."""
    async with market({"openai": [Fault(kind=FaultKind.OVERBILLED)]}) as engine:
        done = await engine.complete(
            "Hi", terms=terms_from({"budget_usd": "0.05", "models": [LUNA]}), max_tokens=50
        )
        assert done.cost_nusd <= done.ceiling_nusd
        house, _ = await posted_and_pending(engine, "~house")
        assert house > 0


@virtual
async def test_escalation_runs_again_on_a_better_model_within_the_rest_of_the_budget() -> None:
    """The answer was not good enough: another model, believed better, on what is left, and quality has learnt."""
    async with market() as engine:
        first = await engine.complete("Prove it.", terms=terms_from({"budget_usd": "0.05"}))
        better = await engine.escalate(first.order_id)
        assert better.quality.mean > first.quality.mean
        assert better.model != first.model
        assert first.cost_nusd + better.cost_nusd <= 50_000_000
        seen = engine.rooms.quality.estimate("Prove it.", [first.model])
        assert seen.observations[0] >= 1


@virtual
async def test_the_history_of_an_order_names_every_loser_and_why() -> None:
    """Quotes, the award, each loser's reason, attempts and settlement can be read back."""
    async with market() as engine:
        done = await engine.complete("Hi", terms=terms_from({"budget_usd": "0.001", "min_quality": 0.85}))
        told = await engine.history(done.order_id)
        assert told is not None
        assert told["state"] == "SETTLED"
        quotes = told["rounds"][-1]["quotes"]
        assert [q["quote_id"] for q in quotes if q["won"]] == [done.quote_id]
        assert {q["loss"] for q in quotes if not q["won"]} >= {"L2 OVER_BUDGET"}
        assert all(q["loss"] for q in quotes if not q["won"])
        assert told["settlement"]["posted_usd"] != "0"
        assert await engine.history("unknown") is None


@virtual
async def test_profiles_and_named_models() -> None:
    """``auto:NAME`` takes a profile's terms; a named model is shopped among its sellers alone; unknown ones are refused."""
    async with market(profiles={"careful": Terms(min_quality=0.97)}) as engine:
        done = await engine.complete("Hi", model="auto:careful")
        assert done.quality.mean >= 0.97
        named = await engine.complete("Hi", model="claude-haiku-5-5")
        assert named.model == "claude-haiku-5-5"
        for model, code in (("auto:none", RejectCode.INVALID), ("gpt-nothing", RejectCode.UNPRICEABLE)):
            with pytest.raises(Rejected) as caught:
                await engine.complete("Hi", model=model)
            assert caught.value.reject.code is code


@virtual
async def test_a_second_round_brings_a_near_miss_in() -> None:
    """A quote that misses the budget by little is asked again with a price to beat, and the record shows both rounds."""
    async with market() as engine:
        one = await engine.quote(
            "Explain tides.", terms=terms_from({"rounds": 0, "models": ["basement/*"]}), max_tokens=400
        )
        assert one.best is not None
        budget_nusd = one.best.ceiling_nusd * 8 // 10
        terms = {"budget_usd": f"{budget_nusd / 1e9:.9f}", "models": ["basement/*"]}
        flat = await engine.quote("Explain tides.", terms=terms_from({**terms, "rounds": 0}), max_tokens=400)
        talked = await engine.quote(
            "Explain tides.", terms=terms_from({**terms, "rounds": 1}), max_tokens=400
        )
        assert flat.best is None
        assert talked.best is not None
        assert talked.best.ceiling_nusd <= budget_nusd
        assert any(d.kind in ("counter", "idle") for d in talked.best.quote.discounts)


@virtual
async def test_a_second_round_in_time_ends_in_a_counter_offer_and_the_record_shows_what_it_changed() -> None:
    """A deadline missed by little: the seller shows its faster tier, the buyer is offered it, and takes it."""
    async with market() as engine:
        ask = {"models": [LUNA], "budget_usd": "0.05"}
        flat = await engine.quote("Explain tides.", terms=terms_from(ask))
        assert flat.best is not None
        deadline_ms = flat.best.quote.latency_ms.p95 * 9 // 10
        named = {**ask, "deadline_ms": deadline_ms, "order_id": "tides"}
        caught = await refused(engine, "Explain tides.", **named)
        (offer,) = (o for o in caught.reject.counter_offers if "tiers" in o.terms)
        assert offer.terms == {"tiers": ["standard", "priority"]}
        told = await engine.history("tides")
        assert told is not None
        first, second = told["rounds"]
        assert "changed" not in first
        assert second["targets"] == [
            {"provider": "openai", "ceiling_usd": None, "latency_ms_p95": deadline_ms}
        ]
        (moved,) = second["changed"]
        assert (moved["model"], moved["tier"]) == ("gpt-6-luna", "priority")
        assert moved["latency_ms_p95"][0] is None
        assert moved["latency_ms_p95"][1] <= deadline_ms
        done = await engine.complete(
            "Explain tides.", terms=terms_from({**named, **offer.terms}), quote_id=offer.quote_id
        )
        assert done.tier == "priority"


@virtual
async def test_a_price_bargained_down_is_in_the_record() -> None:
    """The record of the second round says what was asked of the seller, and its price before and after."""
    async with market() as engine:
        terms = {"models": ["basement/*"], "order_id": "b"}
        one = await engine.quote("Explain tides.", terms=terms_from({**terms, "rounds": 0}), max_tokens=400)
        assert one.best is not None
        budget = f"{one.best.ceiling_nusd * 8 // 10 / 1e9:.9f}"
        done = await engine.complete(
            "Explain tides.", terms=terms_from({**terms, "budget_usd": budget}), max_tokens=400
        )
        told = await engine.history("b")
        assert told is not None
        (target,) = told["rounds"][1]["targets"]
        assert target["provider"] == "basement"
        assert float(target["ceiling_usd"]) != float(budget)
        before, after = told["rounds"][1]["changed"][0]["ceiling_usd"]
        assert float(after) <= float(budget) < float(before)
        assert done.ceiling_nusd == round(float(after) * 1e9)


@virtual
async def test_an_answer_given_before_is_sold_again_to_the_same_account_that_opted_in() -> None:
    """Tier cached: the same question costs nothing the second time; another account or question does not see it."""
    async with market() as engine:
        await engine.rooms.store.put_account(Account(account_id="other"))
        terms = {"budget_usd": "0.05", "tiers": ["standard", "cached"]}
        first = await engine.complete("What is a tide?", terms=terms_from(terms))
        again = await engine.complete("What is a tide?", terms=terms_from(terms))
        assert (again.tier, again.cost_nusd) == ("cached", 0)
        assert again.message == first.message
        for text, changed in (
            ("What is a tide?", {**terms, "account": "other"}),
            ("What is a tide?", {"budget_usd": "0.05"}),
            ("What is a wave?", terms),
        ):
            other = await engine.complete(text, terms=terms_from(changed))
            assert other.tier == "standard"


@virtual
async def test_two_tiers_escalate_inside_one_hold() -> None:
    """The cheap answer fails the buyer's check: a better model answers under the same hold, both are paid, once each."""
    asked: list[str] = []

    def check(fill: Fill) -> bool:
        asked.append(fill.ticket.quote.model)
        return len(asked) > 1

    terms = terms_from({"budget_usd": "0.2", "policy": "two_tier"})
    async with market() as engine:
        done = await engine.complete("Prove it.", terms=terms, check=check)
        assert [attempt.outcome for attempt in done.attempts] == ["CheckFailed", "ok"]
        assert done.attempts[0].model == asked[0] != done.model
        assert done.cost_nusd == sum(attempt.billed_nusd for attempt in done.attempts)
        assert await posted_and_pending(engine) == (done.cost_nusd, 0)
        content = await engine.complete("Prove it.", terms=terms)
        assert len(content.attempts) == 1


@virtual
async def test_scarce_room_is_priced_and_costs_nothing_without_demand() -> None:
    """Orders that fill a seller's window make its limit dear within seconds; after a silence it is free again."""
    import asyncio

    async with market(limits_scale=0.05) as engine:
        orders = [
            engine.complete(f"Question {n}?", terms=terms_from({"budget_usd": "0.02"}), max_tokens=80)
            for n in range(120)
        ]
        answers = await asyncio.gather(*orders, return_exceptions=True)
        assert sum(isinstance(answer, Completion) for answer in answers) > 50
        await asyncio.sleep(5)
        prices = engine.rooms.clearing.prices
        assert prices is not None
        assert any(nusd > 0 for nusd in prices.nusd_per_million.values())
        await asyncio.sleep(3600)
        prices = engine.rooms.clearing.prices
        assert prices is not None
        assert not any(prices.nusd_per_million.values())


@virtual
async def test_what_was_learnt_survives_a_restart() -> None:
    """Feedback of one run moves the estimates of the next on the same store."""
    from negotiator.store_open import open_store

    store = await open_store("embedded://", clock=LoopClock())
    async with market(store=store) as engine:
        before = engine.rooms.quality.estimate("Hi", ["gpt-6-luna"])
        done = await engine.complete("Hi", terms=terms_from({"budget_usd": "0.05", "models": [LUNA]}))
        for _ in range(20):
            await engine.feedback(done.order_id, 0.0)
    async with market(store=store) as engine:
        after = engine.rooms.quality.estimate("Hi", ["gpt-6-luna"])
        assert after.observations[0] == 20
        assert after.mean[0] < before.mean[0] - 0.2


@virtual
async def test_exploring_stays_within_its_share_of_spend_and_every_term() -> None:
    """With a tenth of spend set aside some orders go to models little is known of; none of them misses a term."""
    async with market(quality={"exploration_share": 0.1}) as engine:
        explored = []
        terms = terms_from({"budget_usd": "0.01", "min_quality": 0.7})
        for n in range(60):
            done = await engine.complete(f"Question {n}?", terms=terms, max_tokens=100)
            assert done.cost_nusd <= 10_000_000
            assert done.quality.mean >= 0.7
            history = await engine.history(done.order_id)
            assert history is not None
            explored.append(history["explored"])
        assert set(explored) == {False, True}
        explorer = engine.rooms.explorer
        assert explorer.explored_nusd > 0
        assert explorer.explored_nusd <= 0.1 * explorer.spent_nusd + 2_000_000


@virtual
async def test_what_a_session_decided_is_in_the_record() -> None:
    """The first turn is new, the next ones keep the offer; the record says so, with what keeping it costs."""
    terms = terms_from({"budget_usd": "0.02", "session": "talk", "session_premium": 5.0})
    async with market() as engine:
        said = []
        for turn in range(3):
            done = await engine.complete(f"Question {turn}?", terms=terms, max_tokens=60)
            history = await engine.history(done.order_id)
            assert history is not None
            said.append(history["session"]["offer"])
            assert float(history["session"]["cost_usd"]) >= 0
        alone = await engine.complete("Alone?", terms=terms_from({"budget_usd": "0.02"}), max_tokens=60)
        history = await engine.history(alone.order_id)
    assert history is not None
    assert history["session"] is None
    assert said[0] == "new"
    assert set(said[1:]) <= {"best", "within"}
