"""One suite for every store: what the protocols promise holds in memory, on disk, on Valkey and on a cluster."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from valkey_servers import cluster_url, empty, one_server_url

from negotiator.errors import HoldResolved, InputInvalid
from negotiator.money import MAX_NUSD
from negotiator.order import HoldState, Reservation
from negotiator.store import (
    HOUSE,
    SUSPENSE,
    Account,
    Hold,
    LeaseAsk,
    Note,
    OrderRecord,
    Period,
    Shortfall,
    Store,
    Unused,
)
from negotiator.store_open import open_store
from providers.clock import LoopClock

T0 = 1_795_500_000_000
"""2026-11-24 06:00 UTC."""
MIDNIGHT = 1_795_564_800_000
DAY = 86_400_000


@pytest.fixture(scope="module")
def valkey() -> Iterator[str]:
    """A server."""
    with one_server_url() as url:
        yield url


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A three-node cluster."""
    with cluster_url() as url:
        yield url


@pytest.fixture(params=["memory", "file", "valkey", pytest.param("cluster", marks=pytest.mark.slow)])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """An empty store of each kind."""
    url = {"memory": "embedded://", "file": f"embedded://{tmp_path}/ledger.db"}.get(request.param, "")
    if not url:
        server = request.getfixturevalue(request.param)
        empty(server)
        url = f"{server}?rows={tmp_path}"
    opened = await open_store(url, clock=LoopClock(), rng=random.Random(7))
    await opened.put_account(Account(account_id="org", budget_nusd=1_000))
    await opened.put_account(Account(account_id="team", parent="org", budget_nusd=600))
    yield opened
    assert await opened.audit() in ((), []), "the books do not fit"
    await opened.aclose()


def hold(number: int, nusd: int, account: str = "team", order_id: str | None = None) -> Hold:
    """Hold number so-and-so, of an order of the same number, for a minute."""
    return Hold(
        reservation_id=f"r{number}",
        order_id=order_id or f"o{number}",
        account=account,
        hold_nusd=nusd,
        hold_ms=60_000,
        digests={"messages": "abc"},
    )


async def held(store: Store, number: int, nusd: int, now_ms: int = T0, account: str = "team") -> str:
    """A hold that must succeed; gives its id."""
    outcome = await store.reserve(hold(number, nusd, account), now_ms)
    assert isinstance(outcome, Reservation), outcome
    return outcome.reservation_id


async def standing(store: Store, account: str, now_ms: int = T0) -> tuple[int, int]:
    """Posted and pending."""
    balance = (await store.balances(account, now_ms))[0]
    return balance.posted_nusd, balance.pending_nusd


# Holds


async def test_a_hold_draws_on_every_ancestor_and_a_post_returns_the_rest(store: Store) -> None:
    """500 held on the team is pending on the org too; posting 320 leaves 320 posted and nothing pending on both."""
    rid = await held(store, 1, 500)
    assert await standing(store, "team") == await standing(store, "org") == (0, 500)
    settlement = await store.post(rid, 320, T0)
    assert (settlement.state, settlement.posted_nusd, settlement.released_nusd) == (
        HoldState.POSTED,
        320,
        180,
    )
    assert await standing(store, "team") == await standing(store, "org") == (320, 0)


async def test_a_refusal_changes_nothing_and_names_the_account_that_lacks_the_money(store: Store) -> None:
    """The team has room for 100 more, the org has not: the org is named, and nothing is held anywhere."""
    await store.put_account(Account(account_id="other", parent="org", budget_nusd=900))
    await held(store, 1, 900, account="other")
    short = await store.reserve(hold(2, 101), T0)
    assert isinstance(short, Shortfall)
    assert (short.account, short.needed_nusd, short.held) == ("org", 101, True)
    assert short.balance is not None
    assert short.balance.available_nusd == 100
    assert await standing(store, "team") == (0, 0)


async def test_money_that_is_held_is_told_apart_from_money_that_is_gone(store: Store) -> None:
    """While 400 of 600 are pending a hold of 300 may come again; once they are posted it may not."""
    rid = await held(store, 1, 400)
    pending = await store.reserve(hold(2, 300), T0)
    await store.post(rid, 400, T0)
    gone = await store.reserve(hold(2, 300), T0)
    assert isinstance(pending, Shortfall)
    assert isinstance(gone, Shortfall)
    assert (pending.held, gone.held) == (True, False)


async def test_an_account_that_will_never_have_the_money_is_named_before_one_that_may(store: Store) -> None:
    """The team's money is only held, the org's is spent: the org's refusal is the one that counts."""
    await store.put_account(Account(account_id="other", parent="org", budget_nusd=900))
    await store.post(await held(store, 1, 900, account="other"), 900, T0)
    await store.put_account(Account(account_id="org", budget_nusd=1_500))
    await held(store, 2, 600)
    await store.put_account(Account(account_id="org", budget_nusd=1_000))
    short = await store.reserve(hold(3, 200), T0)
    assert isinstance(short, Shortfall)
    assert (short.account, short.held) == ("org", False)


async def test_a_hold_resolves_once_and_a_second_resolve_is_told_which_way(store: Store) -> None:
    """Posted, voided and expired holds each answer a later void with their own state."""
    posted, voided, expired = [await held(store, number, 100) for number in (1, 2, 3)]
    await store.post(posted, 70, T0)
    await store.void(voided, T0)
    await store.sweep(T0 + 60_000)
    for rid, state in ((posted, "posted"), (voided, "voided"), (expired, "expired")):
        again = await store.void(rid, T0 + 60_001)
        assert (again.already, again.state.value) == (True, state)
    assert await standing(store, "org") == (70, 0)


async def test_the_same_settlement_twice_counts_once(store: Store) -> None:
    """A settle that is retried is told it was posted, and nothing goes to suspense."""
    rid = await held(store, 1, 100)
    await store.post(rid, 70, T0, house_nusd=5)
    again = await store.post(rid, 70, T0, house_nusd=5)
    assert (again.already, again.posted_nusd, again.suspense_nusd) == (True, 70, 0)
    assert await standing(store, HOUSE) == (5, 0)
    assert await standing(store, SUSPENSE) == (0, 0)


async def test_a_bill_on_an_expired_hold_goes_to_suspense_once(store: Store) -> None:
    """Expiry is judged when the bill arrives, swept or not; the account pays nothing, suspense takes the bill."""
    rid = await held(store, 1, 100)
    for _ in range(2):
        late = await store.post(rid, 80, T0 + 60_000)
        assert (late.already, late.state, late.posted_nusd) == (True, HoldState.EXPIRED, 0)
    assert await standing(store, SUSPENSE) == (80, 0)
    assert await standing(store, "team") == (0, 0)


async def test_what_a_seller_bills_above_the_hold_is_refused_and_the_house_may_bear_it(store: Store) -> None:
    """A post above its hold is an error that changes nothing; the part above goes to the house explicitly."""
    rid = await held(store, 1, 100)
    with pytest.raises(ValueError, match="100"):
        await store.post(rid, 101, T0)
    settlement = await store.post(rid, 100, T0, house_nusd=40)
    assert settlement.house_nusd == 40
    assert await standing(store, HOUSE) == (40, 0)
    assert await standing(store, "org") == (100, 0)


@pytest.mark.parametrize("nusd", [-1, MAX_NUSD + 1])
async def test_an_amount_that_nobody_can_owe_is_refused(store: Store, nusd: int) -> None:
    """A negative hold would make money, a huge one overflow: both are errors that change nothing."""
    rid = await held(store, 1, 100)
    with pytest.raises(ValueError, match="nano-dollars"):
        await store.reserve(hold(2, nusd, "default"), T0)
    with pytest.raises(ValueError, match="nano-dollars"):
        await store.post(rid, nusd, T0)
    with pytest.raises(ValueError, match="nano-dollars"):
        await store.post(rid, 0, T0, house_nusd=nusd)
    with pytest.raises(ValueError, match="nano-dollars"):
        await store.relayed(rid, nusd)
    assert await standing(store, "org") == (0, 100)


async def test_sums_beyond_53_bits_stay_exact(store: Store) -> None:
    """An account without a limit may post more than a double can count; the last nano-dollar is not lost."""
    for number in range(3):
        await store.post(await held(store, number, MAX_NUSD, account="default"), MAX_NUSD - number, T0)
    assert await standing(store, "default") == (3 * MAX_NUSD - 3, 0)


async def test_a_begun_call_never_just_expires(store: Store) -> None:
    """After its time, a begun hold posts what was relayed, or all of it when nothing was told."""
    told, untold = await held(store, 1, 100), await held(store, 2, 100)
    for rid in (told, untold):
        await store.begin(rid, T0, in_doubt_ms=120_000)
    await store.relayed(told, 30)
    await store.relayed(told, 20)
    assert list(await store.sweep(T0 + 119_999)) == []
    assert await standing(store, "team", T0 + 119_999) == (0, 200)
    swept = {settlement.reservation_id: settlement for settlement in await store.sweep(T0 + 120_000)}
    assert (swept[told].state, swept[told].posted_nusd) == (HoldState.POSTED, 30)
    assert swept[untold].posted_nusd == 100
    assert await standing(store, "team", T0 + 120_000) == (130, 0)


async def test_a_hold_made_for_a_call_is_begun_in_the_same_step(store: Store) -> None:
    """In doubt from its first moment, for as long as was said and never less than a hold lasts."""
    longer = replace(hold(1, 100), in_doubt_ms=120_000)
    shorter = replace(hold(2, 100), in_doubt_ms=1_000)
    ids = []
    for asked, until_ms in ((longer, T0 + 120_000), (shorter, T0 + 60_000)):
        made = await store.reserve(asked, T0)
        assert isinstance(made, Reservation)
        assert (made.state, made.expires_ms) == (HoldState.IN_DOUBT, until_ms)
        ids.append(made.reservation_id)
    await store.void(ids[1], T0)
    assert list(await store.sweep(T0 + 119_999)) == []
    (lapsed,) = await store.sweep(T0 + 120_000)
    assert (lapsed.reservation_id, lapsed.state, lapsed.posted_nusd) == (ids[0], HoldState.POSTED, 100)
    assert await standing(store, "team", T0 + 120_000) == (100, 0)
    assert not await store.audit()


async def test_no_call_may_begin_on_a_hold_that_is_gone(store: Store) -> None:
    """A hold that was voided, ran out, or never was, refuses the call."""
    voided, late = await held(store, 1, 100), await held(store, 2, 100)
    await store.void(voided, T0)
    for rid in (voided, late, "nobody.knows.it"):
        with pytest.raises(HoldResolved):
            await store.begin(rid, T0 + 60_000, 1_000)


async def test_another_attempt_keeps_the_hold_longer(store: Store) -> None:
    """Beginning again extends the doubt and never shortens it."""
    rid = await held(store, 1, 100)
    await store.begin(rid, T0, 5_000)
    await store.begin(rid, T0 + 59_000, 5_000)
    found = await store.find_reservation(rid)
    assert found is not None
    assert (found.state, found.expires_ms) == (HoldState.IN_DOUBT, T0 + 64_000)


async def test_an_unknown_reservation_is_an_error(store: Store) -> None:
    """Nothing can be posted or voided on an id nobody gave out."""
    with pytest.raises(LookupError):
        await store.post("never", 1, T0)
    with pytest.raises(LookupError):
        await store.void("never.0123456789ab", T0)
    assert await store.find_reservation("never") is None


async def test_a_cancelled_reserve_leaves_no_hold(store: Store) -> None:
    """A buyer who hangs up while the store decides holds nothing once the sweep has run."""
    tasks = [asyncio.ensure_future(store.reserve(hold(number, 1), T0)) for number in range(20)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    kept = [outcome for outcome in outcomes if isinstance(outcome, Reservation)]
    for _ in range(3):
        await asyncio.sleep(0.01)
        await store.sweep(T0)
    assert await standing(store, "team") == (0, len(kept))


# Order ids


async def test_an_order_id_is_taken_while_it_runs_and_after_it_was_charged(store: Store) -> None:
    """A second reserve of the id answers the first one's record, with its digests and its answer."""
    rid = await held(store, 1, 100)
    running = await store.reserve(hold(2, 100, order_id="o1"), T0)
    assert isinstance(running, OrderRecord)
    assert (running.reservation_id, running.state, running.digests) == (
        rid,
        HoldState.PENDING,
        {"messages": "abc"},
    )
    await store.post(rid, 60, T0, note=Note(response=b'{"a": 1}', history=b"[1]"))
    done = await store.reserve(hold(3, 100, order_id="o1"), T0)
    assert isinstance(done, OrderRecord)
    assert (done.state, done.response, done.history) == (HoldState.POSTED, b'{"a": 1}', b"[1]")
    assert await standing(store, "team") == (60, 0)


async def test_a_voided_or_expired_order_id_is_free_again(store: Store) -> None:
    """A refused order may come again; what became of its earlier hold stays known."""
    first = await held(store, 1, 100)
    await store.void(first, T0)
    second = await store.reserve(hold(2, 600, order_id="o1"), T0)
    assert isinstance(second, Reservation)
    third = await store.reserve(hold(3, 600, order_id="o1"), T0 + 60_000)
    assert isinstance(third, Reservation), "the second ran out"
    late = await store.post(first, 10, T0 + 60_000)
    assert (late.already, late.state, late.suspense_nusd) == (True, HoldState.VOIDED, 10)
    found = await store.find_order("team", "o1")
    assert found is not None
    assert found.reservation_id == third.reservation_id


async def test_the_same_reservation_again_is_the_same_reservation(store: Store) -> None:
    """A reserve repeated because its answer was lost does not hold twice."""
    first = await store.reserve(hold(1, 400), T0)
    assert await store.reserve(hold(1, 400), T0 + 5) == first
    assert await standing(store, "team") == (0, 400)


async def test_an_order_id_belongs_to_its_account(store: Store) -> None:
    """Two accounts may use the same id, and neither sees the other's."""
    await store.put_account(Account(account_id="team2", parent="org"))
    one, two = await held(store, 1, 100), await store.reserve(hold(2, 100, "team2", "o1"), T0)
    assert isinstance(two, Reservation)
    found = await store.find_order("team2", "o1")
    assert found is not None
    assert found.reservation_id == two.reservation_id != one
    assert await store.find_order("org", "o1") is None


async def test_notes_are_kept_beside_an_order_with_or_without_a_hold(store: Store) -> None:
    """History may come before, with or after the settlement, and for an order that was refused."""
    rid = await held(store, 1, 100)
    await store.annotate("team", "o1", Note(history=b"running"), T0)
    await store.post(rid, 100, T0, note=Note(response=b"answer"))
    await store.annotate("team", "refused", Note(history=b"too dear"), T0)
    settled, refused = await store.find_order("team", "o1"), await store.find_order("team", "refused")
    assert settled is not None
    assert refused is not None
    assert (settled.response, settled.history) == (b"answer", b"running")
    assert (refused.state, refused.reservation_id, refused.history) == (HoldState.VOIDED, "", b"too dear")
    assert isinstance(await store.reserve(hold(2, 1, order_id="refused"), T0), Reservation)


# Accounts


async def test_accounts_are_made_explicitly_except_the_default(store: Store) -> None:
    """A hold on a name nobody made is refused as unknown; ``default`` is there, without a limit."""
    unknown = await store.reserve(hold(1, 1, "nobody"), T0)
    assert unknown == Shortfall(account="nobody", needed_nusd=1, balance=None)
    assert await store.balances("nobody", T0) == ()
    (balance,) = await store.balances("default", T0)
    assert balance.limit_nusd is None
    await held(store, 2, 10**15, account="default")
    assert set(await store.accounts()) == {"default", "org", "team", HOUSE, SUSPENSE}


async def test_a_configured_default_account_is_what_the_configuration_says(store: Store) -> None:
    """Put before anybody uses it, the default account may have a parent and a budget."""
    await store.put_account(Account(account_id="default", parent="org", budget_nusd=5))
    assert isinstance(await store.reserve(hold(1, 6, "default"), T0), Shortfall)


@pytest.mark.parametrize(
    ("account", "message"),
    [
        (Account(account_id="x", parent="nobody"), "nobody"),
        (Account(account_id="team", parent=None), "stay 'org'"),
        (Account(account_id="~x"), "~"),
        (Account(account_id="a\nb"), "printable"),
        (Account(account_id="x", budget_nusd=-1), "budget"),
    ],
)
async def test_an_account_that_cannot_be_is_refused(store: Store, account: Account, message: str) -> None:
    """Unknown parent, moved account, a name of the house, control characters, a negative budget."""
    with pytest.raises(InputInvalid, match=message):
        await store.put_account(account)


async def test_a_tree_has_a_bounded_depth(store: Store) -> None:
    """The seventeenth level is refused."""
    parent = "org"
    for level in range(2, 17):
        await store.put_account(Account(account_id=f"l{level}", parent=parent))
        parent = f"l{level}"
    with pytest.raises(InputInvalid, match="16"):
        await store.put_account(Account(account_id="l17", parent=parent))
    await held(store, 1, 10, account=parent)
    assert await standing(store, "org") == (0, 10)


async def test_changing_an_account_keeps_its_sums(store: Store) -> None:
    """A larger budget lets the refused order in; the default budget comes back as it was put."""
    await held(store, 1, 600)
    assert isinstance(await store.reserve(hold(2, 50), T0), Shortfall)
    await store.put_account(Account(account_id="team", parent="org", budget_nusd=700, default_budget_nusd=33))
    await held(store, 2, 50)
    balance = (await store.balances("team", T0))[0]
    assert (balance.pending_nusd, balance.account.default_budget_nusd) == (650, 33)


async def test_a_deposit_counts_once_per_reference(store: Store) -> None:
    """The same reference again changes nothing, with another amount it is refused; a correction is negative."""
    for _ in range(2):
        balance = await store.deposit("team", 50, "invoice 1", T0)
        assert balance.limit_nusd == 650
    with pytest.raises(InputInvalid, match="50"):
        await store.deposit("team", 51, "invoice 1", T0)
    assert (await store.deposit("team", -20, "typo", T0)).limit_nusd == 630
    with pytest.raises(InputInvalid, match="without a limit"):
        await store.deposit("default", 1, "x", T0)
    with pytest.raises(InputInvalid, match="nobody"):
        await store.deposit("nobody", 1, "x", T0)


async def test_concurrent_deposits_of_one_reference_count_once(store: Store) -> None:
    """Twenty callers book the same payment at once."""
    await asyncio.gather(*(store.deposit("team", 5, "paid", T0) for _ in range(20)))
    assert (await store.balances("team", T0))[0].deposits_nusd == 5


# Periods


async def test_a_day_starts_anew_and_takes_open_holds_along(store: Store) -> None:
    """What was posted yesterday is over at midnight UTC; what is still held counts today, and posts today."""
    await store.put_account(Account(account_id="daily", parent="org", budget_nusd=100, period=Period.DAY))
    await store.post(await held(store, 1, 60, MIDNIGHT - 2, "daily"), 60, MIDNIGHT - 2)
    rid = await held(store, 2, 40, MIDNIGHT - 1, "daily")
    assert isinstance(await store.reserve(hold(3, 1, "daily"), MIDNIGHT - 1), Shortfall)
    assert isinstance(await store.reserve(hold(3, 61, "daily"), MIDNIGHT), Shortfall)
    await held(store, 3, 60, MIDNIGHT, "daily")
    await store.post(rid, 40, MIDNIGHT + 1)
    (today, org) = await store.balances("daily", MIDNIGHT + 1)
    assert (today.posted_nusd, today.pending_nusd, today.period_key) == (40, 60, "2026-11-25")
    assert (org.posted_nusd, org.period_key) == (100, "total")


async def test_a_month_ends_with_its_last_day(store: Store) -> None:
    """Spending of 30 November is over on 1 December; a deposit was for its month."""
    november, december = MIDNIGHT + 6 * DAY - 1, MIDNIGHT + 6 * DAY
    await store.put_account(Account(account_id="m", budget_nusd=100, period=Period.MONTH))
    await store.deposit("m", 10, "top-up", november)
    await store.post(await held(store, 1, 110, november, "m"), 110, november)
    before, after = (await store.balances("m", november))[0], (await store.balances("m", december))[0]
    assert (before.available_nusd, before.period_key) == (0, "2026-11")
    assert (after.available_nusd, after.period_key) == (100, "2026-12")
    await held(store, 2, 100, december, "m")


async def test_a_clock_that_steps_back_does_not_reopen_a_period(store: Store) -> None:
    """After midnight was seen, a worker whose clock is behind still spends today's money."""
    await store.put_account(Account(account_id="daily", budget_nusd=100, period=Period.DAY))
    await store.post(await held(store, 1, 60, MIDNIGHT, "daily"), 60, MIDNIGHT)
    assert isinstance(await store.reserve(hold(2, 41, "daily"), MIDNIGHT - 5_000), Shortfall)
    await store.post(await held(store, 3, 30, MIDNIGHT - 5_000, "daily"), 30, MIDNIGHT - 5_000)
    assert await standing(store, "daily", MIDNIGHT) == (90, 0)
    assert isinstance(await store.reserve(hold(4, 11, "daily"), MIDNIGHT), Shortfall)


async def test_midnight_has_no_race(store: Store) -> None:
    """Orders of both sides of midnight at once: each day admits exactly its budget's worth, in any order."""
    await store.put_account(Account(account_id="daily", budget_nusd=50, period=Period.DAY))
    orders = [(number, MIDNIGHT - 1 if number < 100 else MIDNIGHT) for number in range(200)]
    random.Random(3).shuffle(orders)
    outcomes = await asyncio.gather(*(store.reserve(hold(n, 1, "daily"), now) for n, now in orders))
    assert sum(isinstance(outcome, Reservation) for outcome in outcomes) == 50
    assert await standing(store, "daily", MIDNIGHT) == (0, 50)


# Concurrency


async def test_a_thousand_at_once_on_a_budget_for_fifty_gives_exactly_fifty(store: Store) -> None:
    """1,000 concurrent reserves of 12 on 600: 50 held, 950 refused, none lost; all settled, nothing is pending."""
    outcomes = await asyncio.gather(*(store.reserve(hold(number, 12), T0) for number in range(1_000)))
    reservations = [outcome for outcome in outcomes if isinstance(outcome, Reservation)]
    assert len(reservations) == 50
    assert sum(isinstance(outcome, Shortfall) for outcome in outcomes) == 950
    await asyncio.gather(*(store.post(reservation.reservation_id, 7, T0) for reservation in reservations))
    assert await standing(store, "org") == (350, 0)
    assert isinstance(await store.reserve(hold(5_000, 250), T0), Reservation), "no false refusal afterwards"


async def test_one_order_id_from_many_sides_holds_once(store: Store) -> None:
    """Fifty workers send the same order at once: one holds, the others see it."""
    asked = [replace(hold(number, 10), order_id="same") for number in range(50)]
    outcomes = await asyncio.gather(*(store.reserve(each, T0) for each in asked))
    assert sum(isinstance(outcome, Reservation) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, OrderRecord) for outcome in outcomes) == 49
    assert await standing(store, "team") == (0, 10)


async def test_two_sides_resolve_one_hold_and_one_of_them_did(store: Store) -> None:
    """A post and a void at once: exactly one counts, the other is told."""
    rid = await held(store, 1, 100)
    posted, voided = await asyncio.gather(store.post(rid, 40, T0), store.void(rid, T0))
    assert sorted([posted.already, voided.already]) == [False, True]
    assert posted.state is voided.state


# Rates and shared values


def ask(amount: int, want: int, per_ms: int = 60_000, key: str = "acme:requests") -> LeaseAsk:
    """A wish for part of a limit."""
    return LeaseAsk(key=key, amount=amount, per_ms=per_ms, want=want)


async def granted(store: Store, worker: str, wish: LeaseAsk, now_ms: int, lease_ms: int = 1_000) -> int:
    """What one ask was granted."""
    (lease,) = await store.lease(worker, [wish], lease_ms, now_ms)
    assert lease.until_ms == now_ms + lease_ms
    return lease.granted


async def test_workers_share_a_limit_and_it_comes_back_a_window_later(store: Store) -> None:
    """60 + 40 of 100 are granted, then nothing until the window has passed after the leases' end."""
    assert await granted(store, "w1", ask(100, 60), T0) == 60
    assert await granted(store, "w2", ask(100, 60), T0) == 40
    assert await granted(store, "w1", ask(100, 1), T0 + 60_000) == 0
    assert await granted(store, "w2", ask(100, 500), T0 + 63_000) == 100


async def test_what_is_to_spare_is_shared_by_halves(store: Store) -> None:
    """20 are needed and as many as possible to spare: half of the 80 left, then half of what the next one leaves."""
    for worker, got in (("w1", 20 + 40), ("w2", 20 + 10), ("w3", 10), ("w4", 0)):
        wish = replace(ask(100, 20), spare=100)
        assert await granted(store, worker, wish, T0) == got


async def test_what_was_not_used_goes_to_others_at_once(store: Store) -> None:
    """A worker gives back 30 of its 60; it cannot give back more than it had."""
    await granted(store, "w1", ask(100, 60), T0)
    await store.give_back("w1", [Unused(key="acme:requests", units=30, until_ms=T0 + 1_000)], T0)
    assert await granted(store, "w2", ask(100, 100), T0) == 70
    more = [Unused(key="acme:requests", units=1_000), Unused(key="unknown:requests", units=5)]
    await store.give_back("w1", more, T0)
    assert await granted(store, "w2", ask(100, 100), T0) == 30


async def test_a_vendors_word_caps_what_is_granted(store: Store) -> None:
    """Remaining 10 of 100 leaves 10 to grant until the window has passed; a later word replaces it."""
    await granted(store, "w1", ask(100, 20), T0)
    await store.correct("acme:requests", 10, T0)
    await store.correct("unknown:requests", 10, T0)
    assert await granted(store, "w1", ask(100, 50), T0) == 10
    await store.correct("acme:requests", 30, T0)
    assert await granted(store, "w1", ask(100, 50), T0) == 30
    assert await granted(store, "w1", ask(100, 50), T0 + 70_000) == 50


async def test_concurrency_is_renewed_and_a_dead_worker_loses_its_slots(store: Store) -> None:
    """Slots are what a worker holds in all; they are free when given back, or at the end of a silent lease."""
    slots = ask(4, 3, per_ms=0, key="acme:concurrency")
    assert await granted(store, "w1", slots, T0) == 3
    assert await granted(store, "w2", slots, T0) == 1
    assert await granted(store, "w1", slots, T0 + 900) == 3, "renewed, not added"
    await store.give_back("w1", [Unused(key="acme:concurrency", units=1)], T0 + 950)
    assert await granted(store, "w2", slots, T0 + 950) == 2
    assert await granted(store, "w2", ask(4, 4, 0, "acme:concurrency"), T0 + 2_000) == 4, "w1 is gone"


async def test_no_window_ever_sees_more_than_its_limit(store: Store) -> None:
    """Whenever within their leases the workers call, any window of per_ms holds at most the limit."""
    draw, calls, now_ms = random.Random(5), [], T0
    for _ in range(150):
        now_ms += draw.randrange(0, 120)
        got = await granted(store, f"w{draw.randrange(3)}", ask(20, draw.randrange(0, 9), 1_000), now_ms, 200)
        calls += [now_ms + draw.randrange(0, 200) for _ in range(got)]
    calls.sort()
    assert len(calls) > 100
    busiest = max(sum(start <= call < start + 1_000 for call in calls) for start in calls)
    assert busiest <= 20


@pytest.mark.parametrize("seed", range(8))
async def test_no_window_sees_more_when_calls_give_back_what_they_did_not_use(
    store: Store, seed: int
) -> None:
    """Calls of up to 50 units give most of them back until a window later: what stays never exceeds the limit."""
    draw, now_ms, wish = random.Random(seed), T0, ask(100, 1_000, 1_000)
    used: list[tuple[int, int]] = []
    refunds: list[tuple[int, Unused]] = []
    for _ in range(300):
        now_ms += draw.randrange(0, 60)
        for due in [refund for refund in refunds if refund[0] <= now_ms]:
            refunds.remove(due)
            await store.give_back("w", [due[1]], now_ms)
        units = await granted(store, "w", replace(wish, want=draw.choice([5, 20, 50])), now_ms, 10)
        unused = draw.choice([0, units * 9 // 10])
        used.append((now_ms + 9, units - unused))
        if unused:
            until_ms = draw.choice([now_ms + 10, None])
            back = Unused(key="acme:requests", units=unused, until_ms=until_ms)
            refunds.append((now_ms + draw.randrange(10, 900), back))
    totals = [sum(units for at_ms, units in used if start <= at_ms < start + 1_000) for start, _ in used]
    assert 80 < max(totals) <= 100


async def test_asks_of_several_sellers_are_answered_in_order(store: Store) -> None:
    """One call leases windows of two sellers, each with its own limit."""
    asks = [ask(5, 9, key="a:requests"), ask(7, 9, key="b/m:requests"), ask(3, 9, key="a:tokens")]
    leases = await store.lease("w1", asks, 1_000, T0)
    assert [(lease.key, lease.granted) for lease in leases] == [
        ("a:requests", 5),
        ("b/m:requests", 7),
        ("a:tokens", 3),
    ]


async def test_values_are_shared_and_may_end(store: Store) -> None:
    """A value is what was published last; one with a lifetime is gone after it."""
    assert await store.read("prices") is None
    await store.publish("prices", b"1")
    await store.publish("prices", b"2")
    await store.publish("brief", b"x", ttl_ms=20)
    assert await store.read("prices") == b"2"
    await asyncio.sleep(0.05)
    assert await store.read("brief") is None


async def test_a_table_lists_what_is_in_it(store: Store) -> None:
    """Entries are set, replaced, removed and listed table by table."""
    assert dict(await store.entries("keys")) == {}
    await store.put_entry("keys", "a", b"1")
    await store.put_entry("keys", "b", b"2")
    await store.put_entry("keys", "a", b"3")
    await store.put_entry("others", "a", b"4")
    assert dict(await store.entries("keys")) == {"a": b"3", "b": b"2"}
    await store.put_entry("keys", "b", None)
    assert await store.entry("keys", "b") is None
    assert await store.entry("keys", "a") == b"3"
    assert dict(await store.entries("keys")) == {"a": b"3"}


async def test_one_leads_and_every_change_has_a_higher_token(store: Store) -> None:
    """A leader renews with the same token; when it is silent another leads with the next."""
    assert await store.lead("maker", "a", 1_000, T0) == 1
    assert await store.lead("maker", "b", 1_000, T0 + 500) is None
    assert await store.lead("maker", "a", 1_000, T0 + 900) == 1
    assert await store.lead("maker", "b", 1_000, T0 + 1_900) == 2
    assert await store.lead("maker", "a", 1_000, T0 + 2_000) is None
