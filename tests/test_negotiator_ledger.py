"""Room 5: what the ledger answers, settles, remembers while its store is away, and what it never does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from negotiator.errors import HoldResolved, Reject, RejectCode, StoreError, StoreUnavailable
from negotiator.events import Event
from negotiator.ledger import Ledger
from negotiator.order import Assignment, Candidate, HoldState, Order, QualityEstimate, Replayed, Reservation
from negotiator.store import HOUSE, SUSPENSE, Account, Note, Period
from negotiator.store_embedded import EmbeddedStore
from providers.rates import Rates
from providers.terms import Quantiles, Quote

T0 = 1_795_500_000_000
USD = 1_000_000_000
HOLD_MS, DOUBT_MS = 60_000, 90_000


class Hands:
    """A clock set by hand."""

    def __init__(self) -> None:
        self.ms = T0

    def now_ms(self) -> int:
        """What it was set to."""
        return self.ms


class Away(EmbeddedStore):
    """A store that can be away, as after a cut cable: nothing is decided."""

    away = False

    def _revive(self) -> None:
        if self.away:
            raise StoreUnavailable("no route to host")
        super()._revive()


@dataclass
class Desk:
    """A ledger with its store, clock and what it told."""

    ledger: Ledger
    store: Away
    clock: Hands
    events: list[Event]

    def told(self, name: str) -> list[dict[str, Any]]:
        """Facts of all events of a name."""
        return [dict(event.facts) for event in self.events if event.name == name]

    async def standing(self, account: str) -> tuple[int, int]:
        """Posted and pending."""
        balance = (await self.store.balances(account, self.clock.ms))[0]
        return balance.posted_nusd, balance.pending_nusd


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    """``org`` with two dollars, of which ``team`` may spend one."""
    clock, events = Hands(), list[Event]()
    store = Away(clock=clock)
    await store.put_account(Account(account_id="org", budget_nusd=2 * USD, default_budget_nusd=USD // 100))
    await store.put_account(Account(account_id="team", parent="org", budget_nusd=USD))
    ledger = Ledger(store, clock, events.append, hold_ms=HOLD_MS, in_doubt_ms=DOUBT_MS)
    yield Desk(ledger, store, clock, events)
    store.away = False
    assert not await store.audit()
    await store.aclose()


def order(order_id: str = "o1", account: str = "team", **changes: Any) -> Order:
    """An order of the team."""
    given = Order(
        order_id=order_id,
        account=account,
        body={"messages": [{"role": "user", "content": "Hello"}]},
        keep_answer=True,
        digests={"messages": "aa", "terms.min_quality": "bb"},
    )
    return replace(given, **changes)


def choice(hold_nusd: int) -> Assignment:
    """An assignment that holds so much."""
    quote = Quote(
        quote_id="q",
        rfq_id="r",
        provider="acme",
        model="m",
        tier="standard",
        firm=True,
        rates=Rates(0, 0, 0, 0, 0),
        lines=(),
        expected_nusd=hold_nusd,
        ceiling_nusd=hold_nusd,
        input_tokens=1,
        expected_output_tokens=1,
        max_output_tokens=1,
        latency_ms=Quantiles(1, 1),
        ttft_ms=Quantiles(1, 1),
        valid_for_ms=1,
    )
    candidate = Candidate(
        quote=quote,
        estimate=QualityEstimate(mean=1.0, sd=0.0),
        expected_nusd=hold_nusd,
        ceiling_nusd=hold_nusd,
        max_output_tokens=1,
        valid_until_ms=T0 + 1,
    )
    return Assignment(award=candidate, hold_nusd=hold_nusd)


async def held(desk: Desk, nusd: int, given: Order | None = None) -> Reservation:
    """A reservation that must succeed."""
    outcome = await desk.ledger.reserve(given or order(), choice(nusd))
    assert isinstance(outcome, Reservation), outcome
    return outcome


async def refused(desk: Desk, nusd: int, given: Order) -> Reject:
    """A reserve that must be refused."""
    outcome = await desk.ledger.reserve(given, choice(nusd))
    assert isinstance(outcome, Reject), outcome
    return outcome


# Reserve


async def test_a_reservation_holds_and_a_settlement_returns_the_rest(desk: Desk) -> None:
    """Sixty cents held, forty-five billed: the team pays forty-five, fifteen come back, nothing stays pending."""
    reservation = await held(desk, 60 * USD // 100)
    assert (reservation.account, reservation.expires_ms) == ("team", T0 + HOLD_MS)
    await desk.ledger.begin(reservation)
    settlement = await desk.ledger.settle(reservation, 45 * USD // 100)
    assert (settlement.posted_nusd, settlement.released_nusd) == (45 * USD // 100, 15 * USD // 100)
    assert await desk.standing("org") == await desk.standing("team") == (45 * USD // 100, 0)
    assert desk.ledger.unresolved == 0


async def test_a_refusal_carries_all_its_numbers(desk: Desk) -> None:
    """Needed, available, posted, pending and whose: as decimal strings, so that nobody parses prose."""
    await held(desk, 70 * USD // 100)
    reject = await refused(desk, 40 * USD // 100, order("o2"))
    assert (reject.code, reject.retry_after_ms) == (RejectCode.FUNDS_HELD, 1_000)
    assert reject.facts == {
        "account": "team",
        "needed_usd": "0.4",
        "available_usd": "0.3",
        "budget_usd": "1",
        "posted_usd": "0",
        "pending_usd": "0.7",
        "period": "total",
    }


async def test_money_that_is_gone_is_not_worth_waiting_for(desk: Desk) -> None:
    """What is posted does not come back: FUNDS_INSUFFICIENT, without a retry."""
    await desk.ledger.settle(await held(desk, USD), USD)
    reject = await refused(desk, 1, order("o2"))
    assert (reject.code, reject.retry_after_ms) == (RejectCode.FUNDS_INSUFFICIENT, None)


async def test_an_unknown_account_is_refused_before_and_at_the_reserve(desk: Desk) -> None:
    """There is no default budget to slip through: litellm 40095, 26672."""
    stranger = order(account="stranger")
    before = await desk.ledger.lookup(stranger)
    assert isinstance(before, Reject)
    assert before.code is (await refused(desk, 1, stranger)).code is RejectCode.ACCOUNT_UNKNOWN


async def test_an_order_without_a_budget_gets_the_nearest_default(desk: Desk) -> None:
    """The team has none of its own, so the org's counts; its own wins once it has one; nobody's means no limit."""
    assert await desk.ledger.default_budget_nusd("team") == USD // 100
    await desk.store.put_account(
        Account(account_id="team", parent="org", budget_nusd=USD, default_budget_nusd=7)
    )
    desk.clock.ms += 1_001
    assert await desk.ledger.default_budget_nusd("team") == 7
    assert await desk.ledger.default_budget_nusd("default") is None
    assert await desk.ledger.default_budget_nusd("stranger") is None


# Order ids


async def test_the_same_order_again_is_answered_as_the_first_time(desk: Desk) -> None:
    """After it was charged the first answer comes back, before any quote and at the reserve; nothing is charged."""
    reservation = await held(desk, 100)
    await desk.ledger.settle(reservation, 60, note=Note(response=b'{"answer": 42}'))
    assert await desk.ledger.lookup(order()) == Replayed({"answer": 42})
    assert await desk.ledger.reserve(order(), choice(100)) == Replayed({"answer": 42})
    assert await desk.standing("team") == (60, 0)


async def test_another_body_under_the_same_id_names_the_field(desk: Desk) -> None:
    """Running or served, other content is DUPLICATE_DIFFERENT; budget and value are not part of the comparison."""
    reservation = await held(desk, 100)
    other = order(digests={"messages": "cc", "terms.min_quality": "bb"})
    for _ in range(2):
        reject = await desk.ledger.lookup(other)
        assert isinstance(reject, Reject)
        assert (reject.code, reject.facts["field"]) == (RejectCode.DUPLICATE_DIFFERENT, "messages")
        if desk.ledger.unresolved:
            await desk.ledger.settle(reservation, 60, note=Note(response=b"{}"))
    assert isinstance(await desk.ledger.lookup(order(budget_nusd=5, value_nusd=9)), Replayed)


async def test_an_id_of_the_house_is_taken_whatever_comes_under_it(desk: Desk) -> None:
    """Of an id that the buyer did not make no content is kept: it is refused as charged before, naming no field."""
    reservation = await held(desk, 100, order(keep_answer=False))
    await desk.ledger.settle(reservation, 60)
    other = order(keep_answer=False, digests={"messages": "cc"})
    assert await desk.ledger.lookup(other) is None
    reject = await refused(desk, 100, other)
    assert reject.code is RejectCode.DUPLICATE_DIFFERENT
    assert "field" not in reject.facts


async def test_an_order_that_runs_is_in_progress(desk: Desk) -> None:
    """While the first is running, the second is told to come again; in doubt counts as running."""
    reservation = await held(desk, 100)
    for _ in range(2):
        seen, again = await desk.ledger.lookup(order()), await desk.ledger.reserve(order(), choice(100))
        for reject in (seen, again):
            assert isinstance(reject, Reject)
            assert (reject.code, reject.retry_after_ms) == (RejectCode.IN_PROGRESS, 1_000)
        await desk.ledger.begin(reservation)


async def test_a_refused_order_may_come_again_with_more_money(desk: Desk) -> None:
    """A reject before any spend frees the id: after a deposit the same order id goes on (LifeOS 1176)."""
    await refused(desk, 2 * USD, order())
    await desk.store.deposit("team", USD, "top-up", T0)
    reservation = await held(desk, 2 * USD)
    await desk.ledger.void(reservation, note=Note(history=b"{}"))
    assert await desk.ledger.lookup(order()) is None
    assert isinstance(await desk.ledger.reserve(order(), choice(100)), Reservation)


async def test_a_charged_order_whose_answer_was_not_kept_is_not_run_again(desk: Desk) -> None:
    """Money was spent under this id: running it again would charge twice, so a new id is asked for."""
    await desk.ledger.settle(await held(desk, 100), 60)
    reject = await desk.ledger.lookup(order())
    assert isinstance(reject, Reject)
    assert reject.code is RejectCode.DUPLICATE_DIFFERENT
    assert "new order_id" in reject.message


# Settle


async def test_a_seller_that_bills_above_the_hold_is_the_houses_loss(desk: Desk) -> None:
    """The buyer pays the hold, the house the rest, and an alarm says so; the hold is never raised."""
    reservation = await held(desk, 100)
    settlement = await desk.ledger.settle(reservation, 130, house_nusd=20)
    assert (settlement.posted_nusd, settlement.house_nusd) == (100, 50)
    assert await desk.standing("org") == (100, 0)
    assert await desk.standing(HOUSE) == (50, 0)
    assert desk.told("ledger.overbilled")[0]["house_nusd"] == 50


async def test_a_bill_that_comes_too_late_is_suspended_and_told(desk: Desk) -> None:
    """The hold had run out: the account pays nothing, suspense takes the bill, an alarm says so."""
    reservation = await held(desk, 100)
    desk.clock.ms += HOLD_MS
    settlement = await desk.ledger.settle(reservation, 80)
    assert (settlement.state, settlement.already, settlement.suspense_nusd) == (HoldState.EXPIRED, True, 80)
    assert await desk.standing(SUSPENSE) == (80, 0)
    assert desk.told("ledger.suspense")[0]["suspense_nusd"] == 80


async def test_a_reservation_is_consumed_exactly_once(desk: Desk) -> None:
    """Settling, voiding or handing over the same object twice is a bug, and says so (litellm 39851)."""
    reservation = await held(desk, 100)
    assert desk.ledger.unresolved == 1
    await desk.ledger.settle(reservation, 60)
    for again in (desk.ledger.settle(reservation, 60), desk.ledger.void(reservation)):
        with pytest.raises(AssertionError, match="consumed before"):
            await again
    with pytest.raises(AssertionError, match="consumed before"):
        desk.ledger.hand_over(reservation)


async def test_a_buyer_may_call_the_model_itself_and_settle_by_id(desk: Desk) -> None:
    """A handed-over hold is found by its id and settled once; a second settle is told which way the first went."""
    desk.ledger.hand_over(await held(desk, 100))
    record = await desk.ledger.record("team", "o1")
    assert record is not None
    found = await desk.ledger.find(record.reservation_id)
    assert found is not None
    assert found.account == "team"
    first, second = await desk.ledger.settle_found(found, 60), await desk.ledger.void_found(found)
    assert (first.already, second.already, second.state) == (False, True, HoldState.POSTED)
    assert await desk.ledger.find("rsv_unknown") is None


async def test_no_call_begins_without_a_live_hold(desk: Desk) -> None:
    """An expired hold raises before the call, as does a store that is away: no call without a reservation."""
    reservation = await held(desk, 100)
    desk.clock.ms += HOLD_MS
    with pytest.raises(HoldResolved):
        await desk.ledger.begin(reservation)
    desk.store.away = True
    with pytest.raises(StoreError):
        await desk.ledger.begin(reservation)


async def test_a_long_call_is_in_doubt_only_after_its_own_time(desk: Desk) -> None:
    """A call that may take ten minutes is not swept after ninety seconds."""
    reservation = await held(desk, 100)
    await desk.ledger.begin(reservation, longest_ms=600_000)
    desk.clock.ms += 600_000 + DOUBT_MS - 1
    assert list(await desk.ledger.sweep()) == []
    assert not (await desk.ledger.settle(reservation, 60)).already


async def test_what_was_relayed_is_owed_when_the_worker_dies(desk: Desk) -> None:
    """In doubt it counts in full, then posts what had reached the buyer; without any word, the whole hold."""
    told, untold = await held(desk, 100), await held(desk, 200, order("o2"))
    for reservation in (told, untold):
        await desk.ledger.begin(reservation)
    await desk.ledger.relayed(told, 30)
    assert await desk.standing("team") == (0, 300)
    desk.clock.ms += DOUBT_MS
    after_the_crash = Ledger(
        desk.store, desk.clock, desk.events.append, hold_ms=HOLD_MS, in_doubt_ms=DOUBT_MS
    )
    await after_the_crash.sweep()
    assert await desk.standing("team") == (230, 0)
    assert [facts["posted_nusd"] for facts in desk.told("ledger.lapsed")] == [30, 200]


async def test_a_bill_on_a_hold_that_the_store_forgot_is_told(desk: Desk) -> None:
    """A day later nobody knows the hold: nothing is booked, and an alarm says how much was billed."""
    reservation = await held(desk, 100)
    desk.clock.ms += HOLD_MS
    await desk.ledger.sweep()
    desk.clock.ms += 86_400_001
    await desk.ledger.sweep()
    settlement = await desk.ledger.settle(reservation, 80)
    assert (settlement.state, settlement.already, settlement.posted_nusd) == (HoldState.EXPIRED, True, 0)
    assert [facts["billed_nusd"] for facts in desk.told("ledger.forgotten")] == [80]


# A store that is away


async def test_while_the_store_is_away_nothing_is_let_in(desk: Desk) -> None:
    """Lookup and reserve refuse with LEDGER_UNAVAILABLE and when to come again: money fails closed."""
    desk.store.away = True
    for reject in (await desk.ledger.lookup(order()), await desk.ledger.reserve(order(), choice(1))):
        assert isinstance(reject, Reject)
        assert (reject.code, reject.retry_after_ms) == (RejectCode.LEDGER_UNAVAILABLE, 2_000)
    assert await desk.ledger.default_budget_nusd("team") is None
    assert list(await desk.ledger.sweep()) == []
    await desk.ledger.annotate("team", "o1", Note(history=b"{}"))
    assert {facts["verb"] for facts in desk.told("ledger.unavailable")} == {"sweep", "annotate"}


async def test_a_settlement_the_store_missed_is_told_again(desk: Desk) -> None:
    """The bill came while the store was away: the hold stays in doubt, and the true bill is posted when it is back."""
    billed, nothing = await held(desk, 100), await held(desk, 100, order("o2"))
    await desk.ledger.begin(billed)
    desk.store.away = True
    provisional = await desk.ledger.settle(billed, 60, note=Note(response=b'{"a": 1}'))
    await desk.ledger.void(nothing)
    assert (provisional.state, provisional.posted_nusd) == (HoldState.IN_DOUBT, 60)
    assert desk.ledger.deferred == 2
    assert list(await desk.ledger.sweep()) == []
    desk.store.away = False
    assert await desk.standing("team") == (0, 200)
    await desk.ledger.sweep()
    assert await desk.standing("team") == (60, 0)
    assert desk.ledger.deferred == 0
    assert await desk.ledger.lookup(order()) == Replayed({"a": 1})


async def test_what_the_ledger_keeps_for_an_absent_store_is_bounded(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the bound the alarm says that a settlement was not kept; its hold then posts by itself."""
    monkeypatch.setattr("negotiator.ledger.MAX_DEFERRED", 1)
    kept, lost = await held(desk, 100), await held(desk, 100, order("o2"))
    for reservation in (kept, lost):
        await desk.ledger.begin(reservation)
    desk.store.away = True
    await desk.ledger.settle(kept, 60)
    await desk.ledger.settle(lost, 60)
    assert [facts["kept"] for facts in desk.told("ledger.deferred")] == [True, False]
    desk.store.away = False
    desk.clock.ms += DOUBT_MS - 1
    await desk.ledger.sweep()
    desk.clock.ms += 1
    await desk.ledger.sweep()
    assert await desk.standing("team") == (160, 0)


async def test_a_buyer_who_hangs_up_leaves_no_hold(desk: Desk) -> None:
    """Cancelled at whatever moment of the reserve: either nobody holds, or the caller was answered (litellm 30522)."""
    for turns in range(4):
        task = asyncio.ensure_future(desk.ledger.reserve(order(f"o{turns}"), choice(100)))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
        if isinstance(outcome, Reservation):
            await desk.ledger.void(outcome)
    assert await desk.standing("team") == (0, 0)
    assert desk.ledger.unresolved == 0


# Runs of agents


async def test_a_run_spends_its_own_budget_and_its_parents(desk: Desk) -> None:
    """A run's holds draw on run, team and org at once; what it cannot spend it is refused, its siblings are not."""
    run = await desk.ledger.open_run("team", "run-7", 100)
    nested = await desk.ledger.open_run(run, "helper", 1_000)
    await desk.ledger.settle(await held(desk, 80, order(account=nested)), 80)
    reject = await refused(desk, 30, order("o2", account=nested))
    assert (reject.facts["account"], reject.code) == (run, RejectCode.FUNDS_INSUFFICIENT)
    assert await desk.standing("team") == await desk.standing("org") == (80, 0)
    await held(desk, 30, order("o3"))


async def test_a_run_that_ran_out_continues_when_its_budget_is_raised(desk: Desk) -> None:
    """A refusal is no death: with a larger budget the same order id goes on (LifeOS 1176)."""
    run = await desk.ledger.open_run("team", "run-7", 100)
    await refused(desk, 130, order(account=run))
    assert await desk.ledger.open_run("team", "run-7", 200) == run
    await held(desk, 130, order(account=run))


async def test_a_daily_budget_starts_anew_and_a_refusal_names_its_day(desk: Desk) -> None:
    """Spent today, free tomorrow; the facts say which day was full."""
    await desk.store.put_account(
        Account(account_id="daily", parent="org", budget_nusd=100, period=Period.DAY)
    )
    await desk.ledger.settle(await held(desk, 100, order(account="daily")), 100)
    reject = await refused(desk, 1, order("o2", account="daily"))
    assert reject.facts["period"] == "2026-11-24"
    desk.clock.ms += 86_400_000
    await held(desk, 100, order("o3", account="daily"))
