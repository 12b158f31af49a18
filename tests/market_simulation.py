"""A market in virtual time from one seed: buyers, sellers, workers that die and a store that goes away.

Workers are engines over one store. A worker that is killed never touches the store again: its verbs hang from that
moment, before or after the verb it dies at, exactly as a process that is gone. After every event the invariants of
money are checked; at the end, when all timeouts have passed, nothing may be pending and every row must fit.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from negotiator.config import Config, MarketConfig
from negotiator.engine import Engine
from negotiator.errors import InputInvalid, NegotiatorError, RejectCode, Rejected, StoreUnavailable
from negotiator.order import Completion, HoldState
from negotiator.store import Account, Store
from negotiator.store_open import open_store
from negotiator.wire import terms_from
from providers.base import Provider
from providers.clock import LoopClock, run_virtual
from providers.simulated import Fault, FaultKind, Faults, default_sellers
from providers.terms import RFQ, Answer, Delta, Offer, RateLimit, Ticket

HOLD_MS: Final = 20_000
IN_DOUBT_MS: Final = 30_000
DIES_AT: Final = tuple(
    f"{when} {verb}" for verb in ("reserve", "relayed", "post", "void") for when in ("before", "after")
)
"""The points between rooms at which a worker may be killed."""

BUDGETS: Final = {"org": 5_000_000, "team": 2_000_000, "run": 500_000, "free": None}
SELLERS: Final = ("openai", "anthropic", "groq", "mistral", "deepseek")


class Violation(AssertionError):
    """An invariant does not hold; the message has the seed."""


class MortalStore:
    """One worker's view of the store: dies where it is told to, and is out of reach while the store is away."""

    immediate = False

    def __init__(self, store: Store, world: World, dies_at: str | None, after: int) -> None:
        self._store = store
        self._world = world
        self._dies_at = dies_at
        self._left = after
        self.dead = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        verb = getattr(self._store, name)
        if not asyncio.iscoroutinefunction(verb):
            return verb

        async def call(*given: Any, **named: Any) -> Any:
            await self._maybe_die(f"before {name}")
            if self._world.store_away:
                raise StoreUnavailable("the store is away")
            answer = await verb(*given, **named)
            await self._maybe_die(f"after {name}")
            return answer

        return call

    async def _maybe_die(self, point: str) -> None:
        if point == self._dies_at and not self.dead.is_set():
            self._left -= 1
            if self._left <= 0:
                self.dead.set()
        if self.dead.is_set():
            await self._world.over.wait()  # a dead process does nothing more while the world stands
            raise StoreUnavailable("this process is dead")


class WatchedSeller:
    """A seller that checks that no call reaches it without a live, begun reservation."""

    def __init__(self, seller: Provider, world: World) -> None:
        self._seller = seller
        self._world = world
        self.name = seller.name
        self.limits: Sequence[RateLimit] = seller.limits

    def offers(self) -> Sequence[Offer]:
        return self._seller.offers()

    def quote(self, rfq: RFQ) -> Answer | Awaitable[Answer]:
        return self._seller.quote(rfq)

    async def execute(self, ticket: Ticket) -> AsyncIterator[Delta]:
        held = await self._world.store.find_reservation(ticket.reservation_id)
        if held is None or held.state not in (HoldState.PENDING, HoldState.IN_DOUBT):
            self._world.fail(
                f"a call without a live reservation: {ticket.reservation_id} is {held and held.state}"
            )
        self._world.seen["calls"] += 1
        stream = self._seller.execute(ticket)
        try:
            async for delta in stream:
                yield delta
        finally:
            await stream.aclose()  # type: ignore[attr-defined]

    async def aclose(self) -> None:
        """The vendor outlives its customers."""


@dataclass(slots=True)
class World:
    """Everything of one run. ``seen`` counts what happened, so that a quiet seed is told from a busy one."""

    seed: int
    rng: random.Random
    clock: LoopClock
    store: Store = field(init=False)
    store_away: bool = False
    over: asyncio.Event = field(default_factory=asyncio.Event)
    seen: Counter[str] = field(default_factory=Counter)
    served: dict[str, Completion] = field(default_factory=dict)

    def fail(self, what: str) -> None:
        raise Violation(f"seed {self.seed}: {what}")

    async def check(self) -> None:
        """posted + pending never exceed the budget, of any account, at any moment."""
        for account in BUDGETS:
            for balance in (await self.store.balances(account, self.clock.now_ms()))[:1]:
                limit_nusd = balance.limit_nusd
                if min(balance.posted_nusd, balance.pending_nusd) < 0:
                    self.fail(f"{account}: negative balance {balance}")
                if limit_nusd is not None and balance.posted_nusd + balance.pending_nusd > limit_nusd:
                    self.fail(f"{account}: overspent {balance}")


def play(seed: int, *, orders: int = 40) -> tuple[Counter[str], list[tuple[str, int]]]:
    """Run one seed to its end; what was seen, and what every account ended with. Raises :class:`Violation`."""
    return run_virtual(_play(seed, orders))


async def _play(seed: int, orders: int) -> tuple[Counter[str], list[tuple[str, int]]]:
    rng = random.Random(seed)
    world = World(seed, rng, LoopClock())
    world.store = await open_store("embedded://", clock=world.clock)
    await _open_accounts(world)
    sellers = [
        WatchedSeller(s, world)
        for s in default_sellers(world.clock, seed=seed, limits_scale=0.3, faults=_faults(rng))
        if s.name in SELLERS
    ]
    weather = asyncio.ensure_future(_weather(world))
    workers = [asyncio.ensure_future(_work(world, sellers, n, orders // 2)) for n in range(2)]
    for worker in workers:
        await worker
    weather.cancel()
    world.store_away = False
    await _settle_down(world, sellers)
    end = [
        (name, (await world.store.balances(name, world.clock.now_ms()))[0].posted_nusd) for name in BUDGETS
    ]
    await _bury_the_dead(world)
    await world.store.aclose()
    return world.seen, end


async def _bury_the_dead(world: World) -> None:
    """Let what killed processes left hanging come to its end; the store no longer hears it."""
    world.over.set()
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


async def _open_accounts(world: World) -> None:
    parents = {"org": None, "team": "org", "run": "team", "free": None}
    for name, budget_nusd in BUDGETS.items():
        await world.store.put_account(Account(account_id=name, parent=parents[name], budget_nusd=budget_nusd))


def _faults(rng: random.Random) -> dict[str, Faults]:
    kinds = [kind for kind in FaultKind if kind is not FaultKind.AUTH]
    scripts = {}
    for name in SELLERS:
        script = []
        for _ in range(rng.randrange(4)):
            start_ms = rng.randrange(60_000)
            script.append(
                Fault(
                    kind=rng.choice(kinds),
                    from_ms=start_ms,
                    until_ms=start_ms + rng.randrange(1, 40_000),
                    share=rng.choice([0.1, 0.5, 1.0]),
                )
            )
        scripts[name] = Faults(script)
    return scripts


async def _weather(world: World) -> None:
    """The store goes away now and then, and comes back."""
    while True:
        await asyncio.sleep(world.rng.uniform(2, 12))
        world.store_away = world.rng.random() < 0.5
        world.seen["store away"] += world.store_away
        await asyncio.sleep(world.rng.uniform(0.1, 5))
        world.store_away = False


async def _work(world: World, sellers: Sequence[Provider], number: int, orders: int) -> None:
    """One worker slot: its process serves buyers until it dies, and then another one starts in its place."""
    todo = list(range(orders))
    while todo:
        dies_at = world.rng.choice(DIES_AT) if world.rng.random() < 0.4 else None
        mortal = MortalStore(world.store, world, dies_at, world.rng.randrange(1, 6))
        process = asyncio.ensure_future(_process(world, mortal, sellers, number, todo))
        death = asyncio.ensure_future(mortal.dead.wait())
        await asyncio.wait([process, death], return_when=asyncio.FIRST_COMPLETED)
        death.cancel()
        if not process.done():
            world.seen["killed"] += 1
            process.cancel()
            for _ in range(3):  # whatever it would still do hangs in the store it can no longer reach
                await asyncio.sleep(0)
            continue
        await process
        world.seen["ended"] += 1


async def _process(
    world: World, mortal: MortalStore, sellers: Sequence[Provider], number: int, todo: list[int]
) -> None:
    market = MarketConfig(hold_ms=HOLD_MS, in_doubt_ms=IN_DOUBT_MS, reprice_ms=60_000)
    opened = False
    while not opened:
        with suppress(StoreUnavailable):
            engine = Engine(Config(market=market), clock=world.clock, sellers=sellers, store=mortal)  # type: ignore[arg-type]
            await engine.__aenter__()
            opened = True
        await asyncio.sleep(0.5)
    async with asyncio.TaskGroup() as buyers:
        while todo:
            job = todo.pop()
            buyers.create_task(_buyer(world, engine, f"w{number}-{job}"))
            await asyncio.sleep(world.rng.expovariate(1 / 0.4))
    await engine.__aexit__(None, None, None)


def _terms(world: World, order_id: str) -> dict[str, Any]:
    rng = world.rng
    terms: dict[str, Any] = {
        "account": rng.choice(list(BUDGETS)),
        "budget_usd": rng.choice(["0.0005", "0.002", "0.02"]),
    }
    if rng.random() < 0.4:
        terms["deadline_ms"] = rng.choice([800, 3_000, 20_000])
    if rng.random() < 0.3:
        terms["min_quality"] = rng.choice([0.8, 0.9])
    if rng.random() < 0.2:
        terms["policy"] = rng.choice(["two_tier", "fastest", "best_quality"])
    if rng.random() < 0.5:
        terms["order_id"] = order_id
    return terms


async def _buyer(world: World, engine: Engine, order_id: str) -> None:
    """One buyer: buys, streams and perhaps hangs up, or sends the same order twice at once."""
    terms, text = terms_from(_terms(world, order_id)), f"Question {order_id}?"
    habit = world.rng.choice(["buffered", "streamed", "hangs up", "twice", "again"])
    acts: dict[str, Callable[[], Awaitable[None]]] = {
        "buffered": lambda: _buy(world, engine, text, terms),
        "streamed": lambda: _stream(world, engine, text, terms, hang_up=False),
        "hangs up": lambda: _stream(world, engine, text, terms, hang_up=True),
        "twice": lambda: _twice(world, engine, text, terms),
        "again": lambda: _again(world, engine, text, terms),
    }
    try:
        await acts[habit]()
    except Rejected as refused:
        world.seen[refused.reject.code.name] += 1
        if refused.reject.code is RejectCode.INVALID:
            world.fail(f"a good order was called invalid: {refused}")
    except (StoreUnavailable, InputInvalid) as error:
        world.seen[type(error).__name__] += 1
    except NegotiatorError as error:
        world.fail(f"{type(error).__name__}: {error}")
    await world.check()


async def _buy(world: World, engine: Engine, text: str, terms: Any) -> None:
    _note(world, terms, await engine.complete(text, terms=terms, max_tokens=world.rng.choice([40, 200])))


async def _again(world: World, engine: Engine, text: str, terms: Any) -> None:
    """The same order after its answer came: with an id of the buyer's own it is answered again for nothing."""
    first = await engine.complete(text, terms=terms, max_tokens=50)
    _note(world, terms, first)
    second = await engine.complete(text, terms=terms, max_tokens=50)
    _note(world, terms, second)
    if terms.order_id is not None and first.complete and second.message != first.message:
        world.fail(f"{terms.order_id}: answered twice, and differently")


async def _twice(world: World, engine: Engine, text: str, terms: Any) -> None:
    answers = await asyncio.gather(
        *(engine.complete(text, terms=terms, max_tokens=60) for _ in range(2)), return_exceptions=True
    )
    for answer in answers:
        if isinstance(answer, Completion):
            _note(world, terms, answer)
        elif not isinstance(answer, Rejected):
            raise answer


async def _stream(world: World, engine: Engine, text: str, terms: Any, *, hang_up: bool) -> None:
    left = world.rng.randrange(1, 4) if hang_up else -1
    stream = engine.stream(text, terms=terms, max_tokens=120)
    try:
        async for chunk in stream:
            if chunk.completion is not None:
                _note(world, terms, chunk.completion)
            left -= 1
            if left == 0:
                world.seen["hung up"] += 1
                break
    finally:
        await stream.aclose()


def _note(world: World, terms: Any, done: Completion) -> None:
    world.seen["replayed" if done.replayed else "served"] += 1
    world.seen["failed over"] += len(done.attempts) > 1
    if done.cost_nusd > terms.budget_usd:
        world.fail(f"{done.order_id}: charged {done.cost_nusd}, its budget was {terms.budget_usd}")


async def _settle_down(world: World, sellers: Sequence[Provider]) -> None:
    """All timeouts pass; then nothing is pending, every row fits, and money was conserved."""
    async with Engine(
        Config(market=MarketConfig(hold_ms=HOLD_MS, in_doubt_ms=IN_DOUBT_MS, reprice_ms=600_000)),
        clock=world.clock,
        sellers=sellers,
        store=world.store,
    ):
        await asyncio.sleep(2 * 3600)
    await world.check()
    for account in BUDGETS:
        (balance, *_) = await world.store.balances(account, world.clock.now_ms())
        if balance.pending_nusd:
            world.fail(f"{account}: {balance.pending_nusd} nano-dollars still pending two hours later")
    wrong = await world.store.audit()
    if wrong:
        world.fail(f"the ledger does not fit: {wrong[0]}")
