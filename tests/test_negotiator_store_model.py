"""Stores against the reference ledger: random lives of orders, clocks that step, crashes, and many workers at once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from reference_ledger import ReferenceLedger
from valkey_servers import cluster_url, empty, one_server_url

from negotiator.errors import HoldResolved
from negotiator.order import Reservation, Settlement
from negotiator.store import HOUSE, SUSPENSE, Account, Hold, OrderRecord, Period, Shortfall, Store
from negotiator.store_embedded import EmbeddedStore
from negotiator.store_open import open_store
from providers.clock import LoopClock

START = 1_795_564_800_000 - 7_200_000
"""Two hours before a midnight."""
PARENTS = {"org": None, "a": "org", "b": "org", "a/run": "a", "free": None}
BUDGETS = {"org": 5_000, "a": 3_000, "b": None, "a/run": 700, "free": None}
DAILY = frozenset({"a", "b"})
Opener = Callable[[], Awaitable[Store]]


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


async def furnish(store: Store) -> None:
    """Make the accounts of this module."""
    for name, parent in PARENTS.items():
        period = Period.DAY if name in DAILY else Period.TOTAL
        await store.put_account(
            Account(account_id=name, parent=parent, budget_nusd=BUDGETS[name], period=period)
        )


class Life:
    """A store and the reference ledger side by side, driven by one random source."""

    def __init__(self, store: Store, seed: int) -> None:
        self.store = store
        self.model = ReferenceLedger(dict(PARENTS), dict(BUDGETS), DAILY)
        self.draw = random.Random(seed)
        self.now_ms = START
        self.ids: dict[str, str] = {}
        self.numbers = iter(range(10**6))

    async def step(self) -> None:
        """One random verb on both, and the same outcome of both."""
        self.now_ms += self.draw.choice((0, 0, 5, 50, 500, 3_000, 600_000, -2_000))
        verbs = (
            self.reserve,
            self.reserve,
            self.reserve,
            self.begin,
            self.relayed,
            self.post,
            self.post,
            self.void,
        )
        verb = self.draw.choice((*verbs, self.sweep, self.deposit))
        await verb()

    def some(self) -> str | None:
        """A hold, mostly a late one."""
        ids = list(self.ids)[-12:]
        return self.draw.choice(ids) if ids else None

    async def reserve(self) -> None:
        account = self.draw.choice(list(PARENTS))
        order_id = f"o{self.draw.randrange(40)}"
        nusd, hold_ms, rid = (
            self.draw.randrange(0, 900),
            self.draw.choice((10, 1_000, 60_000)),
            f"r{next(self.numbers)}",
        )
        doubt_ms = self.draw.choice((None, 10, 90_000))
        expected = self.model.reserve(rid, account, order_id, nusd, hold_ms, self.now_ms)
        hold = Hold(
            reservation_id=rid,
            order_id=order_id,
            account=account,
            hold_nusd=nusd,
            hold_ms=hold_ms,
            in_doubt_ms=doubt_ms,
        )
        outcome = await self.store.reserve(hold, self.now_ms)
        if isinstance(outcome, Reservation):
            if doubt_ms is not None:
                assert self.model.begin(rid, doubt_ms, self.now_ms)
            self.ids[rid] = outcome.reservation_id
            found = "held"
        elif isinstance(outcome, OrderRecord):
            found = "taken"
        else:
            found = "held back" if outcome.held else "short"
        assert found == expected, outcome

    async def begin(self) -> None:
        rid = self.some()
        if rid is None:
            return
        doubt_ms = self.draw.choice((10, 2_000, 90_000))
        may = self.model.begin(rid, doubt_ms, self.now_ms)
        try:
            await self.store.begin(self.ids[rid], self.now_ms, doubt_ms)
        except HoldResolved:
            assert not may
        else:
            assert may

    async def relayed(self) -> None:
        rid = self.some()
        if rid is None:
            return
        nusd = self.draw.randrange(1, 1_000)
        hold = self.model.holds[rid]
        if hold.state in ("pending", "in_doubt"):
            hold.relayed_nusd = max(hold.relayed_nusd, nusd)
        await self.store.relayed(self.ids[rid], nusd)

    async def post(self) -> None:
        rid = self.some()
        if rid is None:
            return
        posted_nusd = self.draw.randrange(0, self.model.holds[rid].nusd + 1)
        house_nusd = self.draw.choice((0, 0, 0, 17))
        expected = self.model.post(rid, posted_nusd, house_nusd, self.now_ms)
        self.same(
            await self.store.post(self.ids[rid], posted_nusd, self.now_ms, house_nusd=house_nusd),
            rid,
            expected,
        )

    async def void(self) -> None:
        rid = self.some()
        if rid is not None:
            expected = self.model.void(rid, self.now_ms)
            self.same(await self.store.void(self.ids[rid], self.now_ms), rid, expected)

    def same(self, found: Settlement, rid: str, expected: tuple[str, bool, int]) -> None:
        hold = self.model.holds[rid]
        assert (found.state.value, found.already, found.suspense_nusd) == expected
        assert (found.posted_nusd, found.house_nusd) == (hold.posted_nusd, hold.house_nusd)
        assert found.released_nusd == hold.nusd - hold.posted_nusd

    async def sweep(self) -> None:
        expected = {
            self.ids[rid]
            for rid, hold in self.model.holds.items()
            if hold.state in ("pending", "in_doubt") and self.model.judge(hold, self.now_ms)
        }
        assert {settlement.reservation_id for settlement in await self.store.sweep(self.now_ms)} == expected

    async def deposit(self) -> None:
        account = self.draw.choice(("org", "a", "a/run"))
        reference = f"p{self.draw.randrange(6)}"
        nusd = 10 + int(reference[1:])
        self.model.deposit(account, nusd, reference, self.now_ms)
        await self.store.deposit(account, nusd, reference, self.now_ms)

    async def check(self) -> None:
        """Every account stands as the reference says, and none is above its limit."""
        for name in PARENTS:
            balance = (await self.store.balances(name, self.now_ms))[0]
            assert balance.posted_nusd == self.model.posted(name, self.now_ms), name
            assert balance.pending_nusd == self.model.pending(name), name
            assert balance.limit_nusd == self.model.limit(name, self.now_ms), name
            if balance.limit_nusd is not None and name not in DAILY:
                assert balance.posted_nusd + balance.pending_nusd <= balance.limit_nusd, name
        for name, field in ((HOUSE, "house_nusd"), (SUSPENSE, "suspense_nusd")):
            expected = sum(getattr(hold, field) for hold in self.model.holds.values())
            assert (await self.store.balances(name, self.now_ms))[0].posted_nusd == expected

    async def finish(self) -> None:
        """After everything has settled nothing is pending, and the books fit."""
        self.now_ms += 10 * 86_400_000
        await self.sweep()
        await self.check()
        assert not any(self.model.pending(name) for name in PARENTS)
        assert not list(await self.store.audit())


@pytest.mark.parametrize("seed", range(60))
async def test_a_store_in_memory_does_what_the_reference_does(seed: int) -> None:
    """300 random verbs, every outcome and every balance equal."""
    store = EmbeddedStore(clock=LoopClock())
    await furnish(store)
    life = Life(store, seed)
    for _ in range(300):
        await life.step()
        await life.check()
    await life.finish()


@pytest.mark.parametrize("seed", range(6))
async def test_a_file_does_what_the_reference_does_through_crashes(seed: int, tmp_path: Path) -> None:
    """The process dies every forty verbs or so, between two commits; nothing that was answered is lost."""
    path = tmp_path / "ledger.db"
    store = EmbeddedStore(path, clock=LoopClock())
    await furnish(store)
    life = Life(store, seed)
    for _ in range(250):
        await life.step()
        if life.draw.random() < 0.025:
            store.abandon()
            life.store = store = EmbeddedStore(path, clock=LoopClock())
        await life.check()
    await life.finish()
    assert not list(await store.audit(archived=True))
    await store.aclose()


@pytest.mark.parametrize("seed", range(2))
async def test_valkey_does_what_the_reference_does(seed: int, valkey: str, tmp_path: Path) -> None:
    """The same lives by scripts, the archive taking rows meanwhile."""
    empty(valkey)
    store = await open_store(f"{valkey}?rows={tmp_path}", clock=LoopClock(), rng=random.Random(seed))
    await furnish(store)
    life = Life(store, seed)
    for number in range(220):
        await life.step()
        if number % 5 == 0:
            await life.check()
    await life.finish()
    await store.aclose()


@pytest.fixture(params=["memory", "file", "valkey", pytest.param("cluster", marks=pytest.mark.slow)])
async def workers(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[list[Store]]:
    """Stores of several workers of one market: one embedded, or three connections of their own."""
    if request.param in ("memory", "file"):
        path = tmp_path / "ledger.db" if request.param == "file" else None
        stores: list[Store] = [EmbeddedStore(path, clock=LoopClock())]
    else:
        server = request.getfixturevalue(request.param)
        empty(server)
        url = f"{server}?rows={tmp_path}"
        stores = [await open_store(url, clock=LoopClock(), rng=random.Random(n)) for n in range(3)]
    await furnish(stores[0])
    yield stores
    for store in stores:
        await store.aclose()


@pytest.mark.parametrize("seed", range(3))
async def test_any_interleaving_keeps_every_budget_and_leaks_nothing(seed: int, workers: list[Store]) -> None:
    """Sixty buyers at once settle, void, give up, hang up, repeat and come late; a watcher never sees an overdraft."""
    draw = random.Random(seed)
    done, now_ms = asyncio.Event(), START
    posted: list[int] = []

    async def buyer(number: int) -> None:
        store, account = draw.choice(workers), draw.choice(("a/run", "a", "b", "org"))
        for turn in range(6):
            order_id = f"o{number}-{turn}" if draw.random() < 0.8 else f"shared-{draw.randrange(5)}"
            hold = Hold(
                reservation_id=f"r{number}-{turn}",
                order_id=order_id,
                account=account,
                hold_nusd=draw.randrange(1, 400),
                hold_ms=1_000,
            )
            asking = asyncio.ensure_future(store.reserve(hold, now_ms))
            if draw.random() < 0.1:
                await asyncio.sleep(0)
                asking.cancel()
            try:
                outcome = await asking
            except asyncio.CancelledError:
                continue
            if not isinstance(outcome, Reservation):
                assert isinstance(outcome, (Shortfall, OrderRecord))
                continue
            await finish(store, outcome)

    async def finish(store: Store, held: Reservation) -> None:
        end = draw.randrange(6)
        if end == 0:
            return
        await store.begin(held.reservation_id, now_ms, 1_000)
        await asyncio.sleep(draw.random() * 0.002)
        if end == 1:
            return
        if end == 2:
            await store.void(held.reservation_id, now_ms)
            return
        other = draw.choice(workers)
        bill = draw.randrange(0, held.hold_nusd + 1)
        settled = await other.post(held.reservation_id, bill, now_ms)
        assert not settled.already
        posted.append(bill)
        if end == 3:
            assert (await store.post(held.reservation_id, bill, now_ms)).already

    async def watcher() -> None:
        while not done.is_set():
            for name in ("org", "a", "a/run"):
                balance = (await workers[-1].balances(name, now_ms))[0]
                assert balance.limit_nusd is not None
                assert balance.posted_nusd + balance.pending_nusd <= balance.limit_nusd, name
            await asyncio.sleep(0.001)

    watching = asyncio.ensure_future(watcher())
    await asyncio.gather(*(buyer(number) for number in range(60)))
    for store in workers:
        await store.sweep(now_ms)
    lapsed = [settlement.posted_nusd for settlement in await workers[0].sweep(now_ms + 2_000)]
    done.set()
    await watching
    balance = (await workers[0].balances("org", now_ms))[0]
    assert (balance.posted_nusd, balance.pending_nusd) == (sum(posted) + sum(lapsed), 0)
    assert not list(await workers[0].audit())
    left = 5_000 - balance.posted_nusd
    fits = Hold(reservation_id="last", order_id="last", account="b", hold_nusd=left, hold_ms=1_000)
    assert isinstance(await workers[-1].reserve(fits, now_ms), Reservation), "a false refusal"
