"""What users of other gateways reported about money, one test each: the situation, and that ours holds in it.

Each docstring names the report. What concerns prices, dialects and execution is tested with those rooms.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from negotiator.config import load_config
from negotiator.errors import ConfigInvalid, HoldResolved
from negotiator.order import Reservation
from negotiator.store import Account, Hold, LeaseAsk, Note, OrderRecord, Shortfall, Store
from negotiator.store_embedded import EmbeddedStore
from providers.clock import LoopClock

T0 = 1_795_500_000_000
YEAR_MS = 366 * 86_400_000


@pytest.fixture
async def store() -> EmbeddedStore:
    """An org with 1,000, a team with 600 of them."""
    store = EmbeddedStore(clock=LoopClock())
    await store.put_account(Account(account_id="org", budget_nusd=1_000))
    await store.put_account(Account(account_id="team", parent="org", budget_nusd=600))
    return store


def hold(name: str, nusd: int, account: str = "team") -> Hold:
    """A hold for the order of this name."""
    return Hold(reservation_id=f"r-{name}", order_id=name, account=account, hold_nusd=nusd, hold_ms=60_000)


async def held(store: Store, name: str, nusd: int, account: str = "team") -> str:
    """A hold that must succeed."""
    outcome = await store.reserve(hold(name, nusd, account), T0)
    assert isinstance(outcome, Reservation), outcome
    return outcome.reservation_id


async def admitted(store: Store, holds: list[Hold]) -> list[Reservation]:
    """Which of these holds, asked for at once, got in."""
    outcomes = await asyncio.gather(*(store.reserve(each, T0) for each in holds))
    return [outcome for outcome in outcomes if isinstance(outcome, Reservation)]


async def standing(store: Store, account: str) -> tuple[int, int]:
    """Posted and pending."""
    balance = (await store.balances(account, T0))[0]
    return balance.posted_nusd, balance.pending_nusd


# Budgets under concurrency


async def test_parallel_turns_of_an_agent_cannot_exceed_their_session(store: EmbeddedStore) -> None:
    """litellm 34732: spend was added after the check, so parallel turns exceeded a session by their number."""
    await store.put_account(Account(account_id="session", parent="team", budget_nusd=100))
    turns = await admitted(store, [hold(f"turn {number}", 30, "session") for number in range(40)])
    assert len(turns) == 3
    await asyncio.gather(*(store.post(turn.reservation_id, 30, T0) for turn in turns))
    assert await standing(store, "session") == (90, 0)


async def test_the_first_calls_of_an_unknown_user_meet_no_open_door(store: EmbeddedStore) -> None:
    """litellm 40095: the first concurrent requests of an unknown end user bypassed the default budget."""
    asked = [hold(f"first {number}", 1, "new user") for number in range(20)]
    outcomes = await asyncio.gather(*(store.reserve(each, T0) for each in asked))
    assert all(isinstance(outcome, Shortfall) and outcome.balance is None for outcome in outcomes)


async def test_no_call_reaches_a_seller_without_a_live_hold(store: EmbeddedStore) -> None:
    """litellm 26672, 23714, 11083: a return before the check let calls through; here the call itself asks."""
    with pytest.raises(HoldResolved):
        await store.begin("r-never", T0, 1_000)
    rid = await held(store, "o", 100)
    await store.void(rid, T0)
    with pytest.raises(HoldResolved):
        await store.begin(rid, T0, 1_000)


async def test_failing_over_to_a_dearer_seller_stays_inside_the_hold(store: EmbeddedStore) -> None:
    """litellm 41379: the budget was checked for the model asked for, not for the paid fallback."""
    rid = await held(store, "o", 100)
    for _ in range(2):
        await store.begin(rid, T0, 1_000)
    with pytest.raises(ValueError, match="100"):
        await store.post(rid, 130, T0)
    await store.post(rid, 100, T0, house_nusd=30)
    assert await standing(store, "team") == (100, 0)


def test_a_budget_under_a_wrong_name_is_refused(tmp_path: Path) -> None:
    """bifrost 5673: a budget field that was renamed was ignored in silence."""
    path = tmp_path / "negotiator.toml"
    path.write_text('[[accounts]]\nid = "team"\nbudget = "5"\n')
    with pytest.raises(ConfigInvalid, match=r":3: .*budget"):
        load_config(path, {})


async def test_a_budget_is_met_to_the_nano_dollar(store: EmbeddedStore) -> None:
    """bifrost 5770: a rule at 99 % fired at 3 %; here the last nano-dollar fits and the next does not."""
    await held(store, "most", 599)
    assert isinstance(await store.reserve(hold("two", 2), T0), Shortfall)
    await held(store, "one", 1)
    assert isinstance(await store.reserve(hold("another", 1), T0), Shortfall)
    assert isinstance(await store.reserve(hold("nothing", 0), T0), Reservation)


@pytest.mark.parametrize("account", ["org", "team", "run"])
async def test_every_level_of_a_tree_is_enforced(store: EmbeddedStore, account: str) -> None:
    """envoy ai-gateway 2460: tenants' quotas were counted and never enforced."""
    budgets = {"org": 1_000, "team": 600, "run": 10**6} | {account: 50}
    await store.put_account(Account(account_id="org", budget_nusd=budgets["org"]))
    await store.put_account(Account(account_id="team", parent="org", budget_nusd=budgets["team"]))
    await store.put_account(Account(account_id="run", parent="team", budget_nusd=budgets["run"]))
    short = await store.reserve(hold("o", 51, "run"), T0)
    assert isinstance(short, Shortfall)
    assert short.account == account
    await held(store, "o", 50, "run")


async def test_a_hold_is_never_shrunk_to_what_is_left(store: EmbeddedStore) -> None:
    """litellm 40002: holds shrank to the headroom, so four of five concurrent calls passed on money for two."""
    calls = await admitted(store, [hold(f"call {number}", 250) for number in range(5)])
    assert [call.hold_nusd for call in calls] == [250, 250]


# Leaked or false holds


async def test_a_restart_neither_loses_nor_invents_a_hold(tmp_path: Path) -> None:
    """litellm 27639: counters leaked over an upgrade and refused with budget to spare."""
    path = tmp_path / "ledger.db"
    store = EmbeddedStore(path, clock=LoopClock())
    await store.put_account(Account(account_id="team", budget_nusd=600))
    await store.post(await held(store, "done", 200), 150, T0)
    open_rid = await held(store, "open", 100)
    for _ in range(3):
        store.abandon()
        store = EmbeddedStore(path, clock=LoopClock())
        assert await standing(store, "team") == (150, 100)
    await store.void(open_rid, T0)
    assert isinstance(await store.reserve(hold("all", 450), T0), Reservation)
    assert not await store.audit()
    await store.aclose()


@pytest.mark.parametrize("turns", range(6))
async def test_hanging_up_at_any_moment_leaves_no_hold(tmp_path: Path, turns: int) -> None:
    """litellm 30522, 30519: a client that disconnected during the reserve left its hold for good."""
    store = EmbeddedStore(tmp_path / "ledger.db", clock=LoopClock())
    await store.put_account(Account(account_id="team", budget_nusd=600))
    task = asyncio.ensure_future(store.reserve(hold("o", 100), T0))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    (outcome,) = await asyncio.gather(task, return_exceptions=True)
    kept = 100 if isinstance(outcome, Reservation) else 0
    await asyncio.sleep(0.01)
    assert await standing(store, "team") == (0, kept)
    await store.aclose()


async def test_posted_pending_and_available_are_told_apart(store: EmbeddedStore) -> None:
    """litellm 36926, 40050: enforced spend was twice the recorded one, and nobody could see which was which."""
    await store.post(await held(store, "done", 200), 150, T0)
    await held(store, "open", 100)
    balance = (await store.balances("team", T0))[0]
    assert (balance.posted_nusd, balance.pending_nusd, balance.available_nusd) == (150, 100, 350)
    short = await store.reserve(hold("more", 351), T0)
    assert isinstance(short, Shortfall)
    assert short.balance == balance


async def test_what_nobody_finalised_ends_by_itself(store: EmbeddedStore) -> None:
    """litellm 39851, 36592: paths that forgot to finalise pinned budgets; here every hold has an end."""
    await held(store, "forgotten", 300)
    begun = await held(store, "begun", 300)
    await store.begin(begun, T0, 90_000)
    await store.relayed(begun, 120)
    await store.sweep(T0 + 90_000)
    assert await standing(store, "team") == (120, 0)


async def test_a_correction_is_another_row(store: EmbeddedStore) -> None:
    """litellm 22726, 20615: a budget typed in the wrong unit blocked a user; it is put right without rewriting."""
    await store.deposit("team", 100_000, "typed by hand", T0)
    await store.deposit("team", -99_900, "correction of: typed by hand", T0)
    assert (await store.balances("team", T0))[0].limit_nusd == 700
    assert not await store.audit()


# Limits over replicas


async def test_three_workers_have_one_limit_between_them(store: EmbeddedStore) -> None:
    """litellm 40291, 27736: the effective limit was the limit times the number of replicas."""
    asks = [LeaseAsk(key="acme:tokens", amount=90_000, per_ms=60_000, want=50_000)]
    leases = [await store.lease(f"worker {number}", asks, 1_000, T0) for number in range(3)]
    assert [lease.granted for (lease,) in leases] == [50_000, 40_000, 0]


async def test_what_was_granted_long_ago_does_not_accumulate(store: EmbeddedStore) -> None:
    """litellm 5609, 8430, 18518: minute counters without an end added up until they refused everything."""
    asks = [LeaseAsk(key="acme:requests", amount=10, per_ms=60_000, want=10)]
    for minute in range(0, 300, 3):
        (lease,) = await store.lease("w", asks, 1_000, T0 + minute * 60_000)
        assert lease.granted == 10


async def test_a_budget_never_refills_by_itself(store: EmbeddedStore) -> None:
    """wso2 api-platform 2936: a rate limiter used as a budget refilled for ever and never blocked."""
    await store.post(await held(store, "all", 600), 600, T0)
    outcome = await store.reserve(hold("a year later", 1), T0 + YEAR_MS)
    assert isinstance(outcome, Shortfall)
    assert not outcome.held


# Budgets of runs, and retries


async def test_a_sub_agent_inherits_what_is_left_of_its_run(store: EmbeddedStore) -> None:
    """docker-agent 3701, OpenHands 3845, hermes-agent 91713: sub-agents each started with a full budget."""
    await store.put_account(Account(account_id="run", parent="team", budget_nusd=100))
    for name in ("run/a", "run/b"):
        await store.put_account(Account(account_id=name, parent="run", budget_nusd=100))
    await store.post(await held(store, "a", 80, "run/a"), 80, T0)
    assert isinstance(await store.reserve(hold("b", 21, "run/b"), T0), Shortfall)
    await held(store, "b", 20, "run/b")


async def test_a_cap_pauses_work_and_does_not_kill_it(store: EmbeddedStore) -> None:
    """LifeOS 1176: a run that met its cap was dead; with a larger budget the same order id goes on here."""
    assert isinstance(await store.reserve(hold("step 9", 700), T0), Shortfall)
    await store.put_account(Account(account_id="team", parent="org", budget_nusd=800))
    await held(store, "step 9", 700)


async def test_a_prepaid_account_spends_its_top_ups_and_no_more(store: EmbeddedStore) -> None:
    """bifrost 2683: prepaid means no reset, only deposits."""
    await store.put_account(Account(account_id="prepaid", budget_nusd=0))
    assert isinstance(await store.reserve(hold("early", 1, "prepaid"), T0), Shortfall)
    await store.deposit("prepaid", 50, "payment 1", T0)
    await store.post(await held(store, "first", 50, "prepaid"), 50, T0)
    assert isinstance(await store.reserve(hold("late", 1, "prepaid"), T0 + YEAR_MS), Shortfall)


async def test_a_client_that_retries_is_charged_once(store: EmbeddedStore) -> None:
    """freellmapi 1094, macprovider 200, stripe/ai 402: retries spent twice; the order id is claimed with the hold."""
    rid = await held(store, "o", 100)
    retried = [
        Hold(reservation_id=f"retry {n}", order_id="o", account="team", hold_nusd=100, hold_ms=1)
        for n in range(9)
    ]
    assert not await admitted(store, retried)
    await store.post(rid, 60, T0, note=Note(response=b"answer"))
    again = await store.reserve(retried[0], T0)
    assert isinstance(again, OrderRecord)
    assert again.response == b"answer"
    assert await standing(store, "team") == (60, 0)
