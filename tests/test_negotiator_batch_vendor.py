"""Lines on vendors' own batch tiers: handed in together, each held and settled on its own, whatever breaks in between."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from batch_sdk import ended, lines_of, request, sdk, started
from batch_vendors import MODELS, BatchVendor, batch_seller, hurry

from negotiator.batch_counts import RunReport
from negotiator.batch_parcel import Parcel, parcels_in
from negotiator.batch_results import ResultFile
from negotiator.batches import BatchRun
from negotiator.config import Config
from negotiator.engine import Engine
from negotiator.errors import InputInvalid, Reject, RejectCode
from negotiator.limits import Load
from negotiator.plan_lines import read_lines
from negotiator.store import Store
from negotiator.store_open import open_store
from negotiator.wire import PlanOptions
from providers.base import Provider
from providers.batch import batches_of
from providers.clock import LoopClock, SystemClock, run_virtual
from providers.errors import ProviderUnavailable, RateLimited
from providers.simulated import Fault, FaultKind, Faults, default_sellers

OPTIONS = PlanOptions(time_limit_s=2)
KINDS = ("openai", "mistral", "anthropic", "gemini")
BOTH = ("standard", "batch")
HOUR_MS = 3_600_000


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits of real vendors' size would make these tests last for hours."""
    hurry(monkeypatch)


def lines(*texts: str, tiers: Sequence[str] = BOTH, **terms: Any) -> list[dict[str, Any]]:
    return [
        {
            "custom_id": f"r{number}",
            "body": {"messages": [{"role": "user", "content": text}], "max_tokens": 60},
            "terms": {"tiers": list(tiers), **terms},
        }
        for number, text in enumerate(texts)
    ]


class House:
    """A market with one vendor, on a store and a result file that outlive it."""

    def __init__(self, vendor: BatchVendor, url: str, store: Store, out: Path) -> None:
        self.vendor, self.url, self.store, self.out = vendor, url, store, out
        self.events: list[str] = []

    @asynccontextmanager
    async def market(self, sellers: Sequence[Provider] | None = None) -> AsyncIterator[Engine]:
        sold = sellers if sellers is not None else [batch_seller(self.url, self.vendor.kind)]
        async with Engine.open(Config(), sellers=sold, store=self.store) as engine:
            engine.rooms.bus.subscribe(lambda event: self.events.append(event.name))
            yield engine

    async def run(self, requests: Sequence[dict[str, Any]]) -> RunReport:
        async with self.market() as engine:
            return await self.run_in(engine, requests)

    async def run_in(self, engine: Engine, requests: Sequence[dict[str, Any]]) -> RunReport:
        with ResultFile(self.out) as results:
            return await BatchRun(engine, "b", results, OPTIONS).run(read_lines(requests))

    def results(self) -> dict[str, dict[str, Any]]:
        rows = [json.loads(row) for row in self.out.read_text().splitlines()]
        assert len({row["custom_id"] for row in rows}) == len(rows), "a line has two results"
        return {row["custom_id"]: row for row in rows}

    def text(self, custom_id: str) -> str:
        return str(self.results()[custom_id]["response"]["body"]["choices"][0]["message"]["content"])

    async def money(self) -> tuple[int, int]:
        balance = (await self.store.balances("default", 2**42))[0]
        return balance.posted_nusd, balance.pending_nusd

    async def sums(self) -> None:
        """What the results cost is what the ledger posted, nothing is pending, and the books are right."""
        spent = sum(round(float(row["cost_usd"]) * 1e9) for row in self.results().values())
        assert await self.money() == (spent, 0)
        assert await self.store.audit() == ()


Make = Callable[..., Any]


@pytest.fixture
async def house(tmp_path: Path, quick: None) -> AsyncIterator[Make]:
    """Makes a house at a vendor of some kind and behaviour."""
    stack: list[Any] = []

    async def make(kind: str = "openai", **behaviour: Any) -> House:
        vendor = BatchVendor(kind, **behaviour)
        at = vendor.at()
        url = await at.__aenter__()
        stack.append(at)
        return House(
            vendor, url, await open_store("embedded://", clock=SystemClock()), tmp_path / "out.jsonl"
        )

    yield make
    for at in stack:
        await at.__aexit__(None, None, None)


@pytest.mark.parametrize("kind", KINDS)
async def test_lines_on_the_batch_tier_are_one_batch_at_the_vendor(kind: str, house: Make) -> None:
    """Twelve lines go in together, none by a call of its own; each is billed by its usage at the batch tier's rates."""
    here = await house(kind, ends_after=2)
    report = await here.run(lines(*(f"Question {n}?" for n in range(12))))
    assert (report.served, report.refused, here.vendor.chats) == (12, 0, 0)
    assert len(here.vendor.batches) == 1
    assert here.text("r7") == "then: Question 7?"
    told = here.results()["r7"]["response"]["body"]["negotiator"]
    assert (told["model"], told["tier"]) == (MODELS[kind], "batch")
    offer = next(o for o in batch_seller(here.url, kind).offers() if o.tier == "batch")
    rates = offer.steps[0].rates
    cost_nusd = (20 * rates.input_nusd_per_mtok + 5 * rates.output_nusd_per_mtok) / 1e6
    assert float(told["cost_usd"]) * 1e9 == pytest.approx(cost_nusd, abs=2)
    await here.sums()
    assert not here.out.with_name("out.jsonl.batches").exists()


@pytest.mark.parametrize(
    ("kind", "encoding", "vector"), [("openai", "float", [0.5, -0.25]), ("mistral", "base64", "AAAAPwAAgL4=")]
)
async def test_embeddings_on_the_batch_tier_are_one_batch_at_the_vendor(
    kind: str, encoding: str, vector: object, house: Make
) -> None:
    """A model that embeds: the vendor's batch is for its embeddings endpoint, what it did not run is called at once."""
    here = await house(kind, fates={"hard": "error", "late": "missing"})
    texts = ("easy", "late", "plain")
    asked = [
        {**line, "url": "/v1/embeddings", "body": {"input": text, "encoding_format": encoding}}
        for line, text in zip(lines(*texts), texts, strict=True)
    ]
    seller = batch_seller(here.url, kind, tags=frozenset({"embeddings"}))
    async with here.market([seller]) as engine:
        report = await here.run_in(engine, asked)
    assert (report.served, report.refused, here.vendor.chats) == (3, 0, 1)
    assert here.vendor.answered == list(texts)
    bodies = {name: row["response"]["body"] for name, row in here.results().items()}
    assert {body["object"] for body in bodies.values()} == {"list"}
    assert bodies["r0"]["data"][0]["embedding"] == vector
    assert [bodies[f"r{n}"]["negotiator"]["tier"] for n in range(3)] == ["batch", "standard", "batch"]
    await here.sums()


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
async def test_responses_on_the_batch_tier_are_chats_at_the_vendor(kind: str, house: Make) -> None:
    """A vendor's batch endpoint has them as chats; they come back as responses, from that batch."""
    here = await house(kind)
    asked = [
        {**line, "url": "/v1/responses", "body": {"input": "Question?", "max_output_tokens": 60}}
        for line in lines("one", "two")
    ]
    report = await here.run(asked)
    assert (report.served, len(here.vendor.batches), here.vendor.chats) == (2, 1, 0)
    body = here.results()["r1"]["response"]["body"]
    assert (body["object"], body["negotiator"]["tier"]) == ("response", "batch")
    assert body["output"][0]["content"][0]["text"] == "then: Question?"
    await here.sums()


@pytest.mark.parametrize("kind", KINDS)
async def test_lines_the_vendor_did_not_run_are_bought_elsewhere_under_their_hold(
    kind: str, house: Make
) -> None:
    """One refused, one not run in time: both are called at once in the standard tier, with the id and hold they had."""
    here = await house(kind, fates={"hard": "error", "late": "expired"})
    report = await here.run(lines("fine", "hard", "late"))
    assert (report.served, here.vendor.chats) == (3, 2)
    assert [here.text(f"r{n}") for n in range(3)] == ["then: fine", "now: hard", "now: late"]
    assert [here.results()[f"r{n}"]["id"] for n in range(3)] == ["b:r0", "b:r1", "b:r2"]
    assert here.results()["r1"]["response"]["body"]["negotiator"]["tier"] == "standard"
    await here.sums()


async def test_a_line_that_takes_nothing_but_the_batch_tier_is_tried_again_and_then_refused(
    house: Make,
) -> None:
    """The vendor never runs it: after some batches it is refused, and nothing was paid for it."""
    here = await house(fates={"late": "expired"})
    report = await here.run(lines("fine", "late", tiers=["batch"]))
    assert (report.served, report.refused) == (1, 1)
    assert here.results()["r1"]["error"]["code"] == "PROVIDERS_FAILED"
    assert here.vendor.answered.count("fine") == 1
    assert here.vendor.answered.count("late") == 6
    await here.sums()


async def test_a_batch_refused_as_a_whole_goes_elsewhere(house: Make) -> None:
    """Failed validation, or refused at once: every line is bought in the standard tier."""
    for number, trouble in enumerate(({"ends_as": "failed"}, {"create": "refused"})):
        here = await house(**trouble)
        here.out = here.out.with_name(f"{number}.jsonl")
        report = await here.run(lines("one", "two"))
        assert (report.served, here.vendor.chats) == (2, 2)
        await here.sums()


async def test_a_run_that_stops_leaves_the_batch_and_the_next_one_fetches_it(house: Make) -> None:
    """Stopped while the vendor works: money stays held; the next run asks for the same batch and hands nothing in."""
    here = await house(ends_after=10**9)
    async with here.market() as engine:
        with ResultFile(here.out) as results:
            run = BatchRun(engine, "b", results, OPTIONS)
            task = asyncio.ensure_future(run.run(read_lines(lines("one", "two"))))
            await _until(lambda: len(here.vendor.batches) == 1)
            run.stop()
            assert (await task).served == 0
    posted, pending = await here.money()
    assert posted == 0 < pending
    here.vendor.ends_after = 1
    report = await here.run(lines("one", "two"))
    assert (report.served, len(here.vendor.batches), here.vendor.chats) == (2, 1, 0)
    await here.sums()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_connection_cut_while_handing_in_ends_in_one_batch(kind: str, house: Make) -> None:
    """The vendor took the batch, the answer was lost: it is found again, and not handed in twice."""
    here = await house(kind, create="cut")
    report = await here.run(lines("one", "two"))
    assert (report.served, len(here.vendor.batches), here.vendor.chats) == (2, 1, 0)
    await here.sums()


@pytest.mark.parametrize("kind", ["openai", "mistral", "gemini"])
async def test_a_batch_that_was_not_taken_goes_elsewhere(kind: str, house: Make) -> None:
    """The connection is cut and no batch carries the name: it was not taken, so its lines are bought elsewhere."""
    here = await house(kind, create="lost")
    report = await here.run(lines("one", "two"))
    assert (report.served, len(here.vendor.batches), here.vendor.chats) == (2, 0, 2)
    assert "batch.not_taken" in here.events
    await here.sums()


async def test_where_nobody_can_tell_lines_are_in_doubt_and_say_so(house: Make) -> None:
    """A vendor without names lost the connection: the holds count, the lines run again under the next id, and it is told."""
    here = await house("anthropic", create="lost")
    async with here.market() as engine:
        engine.rooms.bus.subscribe(
            lambda event: setattr(here.vendor, "create", "ok") if event.name == "batch.in_doubt" else None
        )
        report = await here.run_in(engine, lines("one", "two"))
    assert (report.served, report.in_doubt) == (2, 2)
    assert {row["id"] for row in here.results().values()} == {"b+1:r0", "b+1:r1"}
    posted, pending = await here.money()
    assert pending == report.in_doubt_nusd > 0
    assert posted == sum(round(float(row["cost_usd"]) * 1e9) for row in here.results().values())


async def test_a_batch_its_vendor_forgot_is_in_doubt(house: Make) -> None:
    """Polled, it is unknown: its lines were perhaps run, so their holds count and they run again."""
    here = await house(ends_after=10**9)
    async with here.market() as engine:

        def forget(name: str) -> None:
            if name == "batch.handed_in" and len(here.vendor.batches) == 1:
                here.vendor.batches = {"other": here.vendor.batches["batch-1"]}
                here.vendor.ends_after = 1

        engine.rooms.bus.subscribe(lambda event: forget(event.name))
        report = await here.run_in(engine, lines("one"))
    assert (report.served, report.in_doubt) == (1, 1)
    assert "batch.in_doubt" in here.events


async def test_results_that_break_off_are_fetched_again_and_settled_once(house: Make) -> None:
    """The result file is cut twice on its way: every line has one result and is paid once."""
    here = await house(torn=2)
    report = await here.run(lines(*(f"Question {n}?" for n in range(9))))
    assert report.served == 9
    assert here.events.count("batch.unreachable") == 2
    await here.sums()


async def test_a_vendor_that_is_down_for_a_while_is_asked_again(house: Make) -> None:
    """503 while the batch is with it: nothing is given up, nothing handed in again."""
    here = await house(ends_after=1)
    async with here.market() as engine:
        engine.rooms.bus.subscribe(
            lambda event: setattr(here.vendor, "down", True) if event.name == "batch.handed_in" else None
        )
        task = asyncio.ensure_future(here.run_in(engine, lines("one")))
        await _until(lambda: here.vendor.down)
        await asyncio.sleep(0.05)
        here.vendor.down = False
        assert (await task).served == 1
    assert len(here.vendor.batches) == 1


async def test_a_crash_before_the_vendor_was_told_gives_the_money_back(
    house: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines were held and written down, and the process died: the next run voids them and starts anew."""
    here = await house()

    def died(parcel: Parcel, now_ms: int) -> None:
        raise InputInvalid("the process died here")

    with monkeypatch.context() as patched:
        patched.setattr(Parcel, "is_sending", died)
        with pytest.raises(InputInvalid, match="died here"):
            await here.run(lines("one", "two"))
    assert (await here.money())[1] > 0
    report = await here.run(lines("one", "two"))
    assert (report.served, report.in_doubt, len(here.vendor.batches)) == (2, 0, 1)
    await here.sums()


async def test_a_crash_between_settling_and_writing_neither_pays_twice_nor_loses_the_answer(
    house: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger has posted and the result line is not there: the same batch is fetched again and written."""
    here = await house()

    def died(results: ResultFile, result: dict[str, Any]) -> None:
        raise InputInvalid("the process died here")

    with monkeypatch.context() as patched:
        patched.setattr(ResultFile, "write", died)
        with pytest.raises(InputInvalid, match="died here"):
            await here.run(lines("one", "two"))
    posted, _ = await here.money()
    assert posted > 0
    report = await here.run(lines("one", "two"))
    assert (report.served, len(here.vendor.batches), here.vendor.chats) == (2, 1, 0)
    await here.sums()


async def test_a_seller_that_is_gone_is_named(house: Make) -> None:
    """Lines are with a vendor that the configuration no longer has: the run says so instead of paying elsewhere."""
    here = await house(ends_after=10**9)
    async with here.market() as engine:
        task = asyncio.ensure_future(here.run_in(engine, lines("one", "two")))
        await _until(lambda: len(here.vendor.batches) == 1)
        await asyncio.sleep(0.05)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    other = default_sellers(LoopClock(), seed=1)
    async with here.market(other) as engine:
        with pytest.raises(InputInvalid, match=r"seller 'shop' with a batch tier.*2 lines"):
            await here.run_in(engine, lines("one", "two"))


async def test_a_batch_that_is_called_off_keeps_what_was_done(house: Make) -> None:
    """Ended by its owner: the vendor is told, and lines that were not run end without cost."""
    here = await house(ends_after=10**9)
    async with here.market() as engine:
        with ResultFile(here.out) as results:
            run = BatchRun(engine, "b", results, OPTIONS)
            task = asyncio.ensure_future(run.run(read_lines(lines("one", "two"))))
            await _until(lambda: "batch.handed_in" in here.events)
            run.stop()
            await task
            cancelled = Reject(code=RejectCode.CANCELLED, message="cancelled")
            await run.end("batch_cancelled", cancelled, restarted=False)
    assert "POST /batches/batch-1/cancel" in here.vendor.calls
    assert {row["error"]["code"] for row in here.results().values()} == {"batch_cancelled"}
    await here.sums()


async def test_openais_own_batch_api_sells_vendors_batches(quick: None) -> None:
    """Lines of an SDK's 24 h batch that accept the batch tier are one batch at the vendor; one due in an hour is called."""
    vendor = BatchVendor("openai", fates={"hard": "error"})
    async with vendor.at() as url, sdk(sellers=[batch_seller(url, "openai")]) as (client, served):
        terms = {"tiers": list(BOTH)}
        made = [request(name, name, terms=terms) for name in ("one", "two", "hard")]
        made.append(request("soon", "soon", terms=terms | {"deadline_ms": HOUR_MS}))
        done = await ended(client, (await started(client, made)).id)
        results = {line["custom_id"]: line for line in await lines_of(client, done.output_file_id)}
        posted, pending = await served.posted_nusd(), await served.pending_nusd()
    assert (done.status, len(vendor.batches), vendor.chats) == ("completed", 1, 2)
    said = {
        name: line["response"]["body"]["choices"][0]["message"]["content"] for name, line in results.items()
    }
    assert said == {"one": "then: one", "two": "then: two", "hard": "now: hard", "soon": "now: soon"}
    assert (sum(round(float(line["cost_usd"]) * 1e9) for line in results.values()), 0) == (posted, pending)


async def test_a_batch_cancelled_by_the_sdk_is_stopped_at_the_vendor(quick: None) -> None:
    """Cancel reaches the vendor; what it had not done costs nothing."""
    vendor = BatchVendor("openai", ends_after=10**9)
    async with vendor.at() as url, sdk(sellers=[batch_seller(url, "openai")]) as (client, served):
        made = [request(name, name, terms={"tiers": ["batch"]}) for name in ("one", "two")]
        batch = await started(client, made)
        await _until(lambda: len(vendor.batches) == 1)
        await client.batches.cancel(batch.id)
        done = await ended(client, batch.id)
        assert (await served.posted_nusd(), await served.pending_nusd()) == (0, 0)
    assert done.status == "cancelled"
    assert "POST /batches/batch-1/cancel" in vendor.calls


def test_a_parcel_is_read_as_it_was_written_and_a_torn_end_is_left_out(tmp_path: Path) -> None:
    """Killed while it wrote: whole lines are there, the torn one is not, and the file goes on after them."""
    parcel = Parcel(tmp_path / "n-1.jsonl", "shop", "m", began_ms=5, deadline_ms=7)
    parcel.begin()
    parcel.is_sending(9)
    with parcel.path.open("ab") as file:
        file.write(b'{"sent": {"prov')
    (again,) = parcels_in(tmp_path)
    assert (again.provider, again.due_ms, again.sending_ms, again.handle) == ("shop", 12, 9, None)
    (tmp_path / "n-2.jsonl").write_bytes(b'{"par')
    assert [one.name for one in parcels_in(tmp_path)] == ["n-1"]
    (tmp_path / "n-3.jsonl").write_text('{"other": 1}\n')
    with pytest.raises(InputInvalid, match=r"n-3\.jsonl: expected what an earlier run wrote"):
        list(parcels_in(tmp_path))
    assert again.number_of("n-1-0") is None
    assert again.number_of("other") is None


def test_in_virtual_time_a_day_of_batches_is_cheaper_and_takes_hours(tmp_path: Path) -> None:
    """Simulated sellers have a batch endpoint too: lines that may wait go there and cost less than those that may not."""

    async def play(tiers: Sequence[str], out: str) -> tuple[RunReport, int, float]:
        clock = LoopClock()
        async with Engine.open(Config(), clock=clock, sellers=default_sellers(clock, seed=3)) as engine:
            began_s = asyncio.get_running_loop().time()
            with ResultFile(tmp_path / out) as results:
                requests = lines(*(f"Question {n}?" for n in range(40)), tiers=tiers, models=["openai/*"])
                report = await BatchRun(engine, "b", results, OPTIONS).run(read_lines(requests))
                hours = (asyncio.get_running_loop().time() - began_s) / 3600
                balance = (await engine.rooms.store.balances("default", clock.now_ms()))[0]
                assert (balance.posted_nusd, balance.pending_nusd) == (results.cost_nusd, 0)
                return report, results.cost_nusd, hours

    now, dear_nusd, seconds = run_virtual(play(["standard"], "now.jsonl"))
    later, cheap_nusd, hours = run_virtual(play(BOTH, "later.jsonl"))
    assert now.served == later.served == 40
    assert cheap_nusd < 0.7 * dear_nusd
    assert seconds < 0.1 < hours < 24


def test_the_batch_tier_is_bought_where_its_promise_of_a_day_is_soon_enough(tmp_path: Path) -> None:
    """Its p95 is 22.8 h: a deadline of 24 h may take it, one of 22 h or an hour may not; how batches ended corrects that."""

    async def play() -> None:
        clock = LoopClock()
        sellers = [s for s in default_sellers(clock, seed=3) if s.name == "openai"]
        async with Engine.open(Config(), clock=clock, sellers=sellers) as engine:

            async def tiers(*hours: int) -> list[str]:
                made = [
                    {**line, "custom_id": str(h)}
                    for h in hours
                    for line in lines("why?", deadline_ms=h * HOUR_MS)
                ]
                plan = await engine.plan(made)
                return [str(row["tier"]) for row in plan.rows()]

            assert await tiers(24, 22, 1) == ["batch", "standard", "standard"]
            for number in range(8):
                with ResultFile(tmp_path / f"{number}.jsonl") as results:
                    run = BatchRun(engine, f"b{number}", results, OPTIONS)
                    await run.run(read_lines(lines(f"Question {number}?", models=["*/gpt-5-nano"])))
            assert await tiers(22, 6) == ["batch", "batch"]

    run_virtual(play())


def test_at_its_deadline_a_batch_is_stopped_and_its_lines_are_late(tmp_path: Path) -> None:
    """The endpoint never answers: at the deadline it is told to stop, and the lines are refused."""

    async def play() -> None:
        clock = LoopClock()
        script = Faults([Fault(kind=FaultKind.NEVER_ANSWERS, tier="batch")])
        sellers = [s for s in default_sellers(clock, seed=3, faults={"openai": script}) if s.name == "openai"]
        async with Engine.open(Config(), clock=clock, sellers=sellers) as engine:
            requests = lines("one", "two", tiers=["batch"], deadline_ms=23 * HOUR_MS, models=["*/gpt-5-nano"])
            with ResultFile(tmp_path / "out.jsonl") as results:
                report = await BatchRun(engine, "b", results, OPTIONS).run(read_lines(requests))
            assert (report.served, report.refused) == (0, 2)
            assert dict(report.rejects) == {"DEADLINE_PASSED": 2}
            balance = (await engine.rooms.store.balances("default", clock.now_ms()))[0]
            assert (balance.posted_nusd, balance.pending_nusd) == (0, 0)

    run_virtual(play())


async def test_killed_while_the_vendor_works_the_same_batch_is_fetched(tmp_path: Path) -> None:
    """``kill -9`` of ``negotiator run``, then the same command: one batch at the vendor, each line paid once."""
    vendor = BatchVendor("openai", ends_after=10**9)
    async with vendor.at() as url:
        config = tmp_path / "negotiator.toml"
        config.write_text(
            f'[[providers]]\nkind = "openai"\nname = "shop"\nbase_url = "{url}"\napi_key_env = "KEY"\n'
            f'tiers = ["standard", "batch"]\nmodels = [{{ name = "{MODELS["openai"]}" }}]\n'
        )
        batch, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
        batch.write_text("\n".join(map(json.dumps, lines("one", "two", "three"))))
        command = ("-m", "negotiator.cli", "run", str(batch), "--out", str(out), "--config", str(config))
        store = ("--store", f"embedded://{tmp_path}/ledger.db", "--json")

        async def start() -> asyncio.subprocess.Process:
            return await asyncio.create_subprocess_exec(
                sys.executable,
                *command,
                *store,
                env={**os.environ, "KEY": "k"},
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )

        first = await start()
        await _until(lambda: bool(list(tmp_path.glob("out.jsonl.batches/*"))) and _sent(tmp_path), 60)
        first.send_signal(signal.SIGKILL)
        await first.communicate()
        vendor.ends_after = 1
        second = await start()
        said, noise = await second.communicate()
        assert second.returncode == 0, noise.decode()
        report = json.loads(said)
        assert (report["served"], report["in_doubt"], len(vendor.batches), vendor.chats) == (3, 0, 1, 0)
        assert len(out.read_text().splitlines()) == 3


def _sent(folder: Path) -> bool:
    return any('"sent"' in path.read_text() for path in folder.glob("out.jsonl.batches/*"))


async def _until(true: Callable[[], bool], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110  what is waited for is on the other side of a socket
            await asyncio.sleep(0.005)


async def test_a_driver_that_never_takes_anything_is_left_after_some_tries(house: Make) -> None:
    """The vendor is not there: after a few tries the lines are given back, with no hold left."""
    here = await house()
    async with here.market() as engine:
        driver: Any = batches_of(engine.rooms.sellers["shop"])

        async def away(*given: Any) -> None:
            raise ProviderUnavailable("nobody is there")

        driver.submit = away
        report = await here.run_in(engine, lines("one"))
    assert (report.served, here.vendor.chats) == (1, 1)
    await here.sums()


async def test_a_vendor_that_takes_no_batches_just_now_is_left_alone(house: Make) -> None:
    """429 with a time at submit: its batch endpoint backs off for as long, calls do not, and the batch goes in afterwards."""
    here = await house()
    async with here.market() as engine:
        driver: Any = batches_of(engine.rooms.sellers["shop"])
        submit, found = driver.submit, []
        capacity, load = engine.rooms.capacity, Load(1, 1, batch=True)

        async def full(*given: Any) -> Any:
            driver.submit = submit
            raise RateLimited("too many batches", retry_after_ms=400)

        driver.submit = full
        engine.rooms.bus.subscribe(
            lambda event: found.append(dict(event.facts)) if event.name == "capacity.backoff" else None
        )
        task = asyncio.ensure_future(here.run_in(engine, lines("one", "two")))
        await _until(lambda: bool(found))
        assert capacity.lacks("shop", MODELS["openai"], load) is not None
        assert capacity.lacks("shop", MODELS["openai"], Load(1, 1)) is None
        report = await task
    assert [fact["retry_after_ms"] for fact in found] == [400]
    assert (report.served, here.vendor.chats, len(here.vendor.batches)) == (2, 0, 1)
    await here.sums()


async def test_a_batch_that_was_taken_ends_the_doubling_of_pauses(house: Make) -> None:
    """429 without a time: a second's pause, doubled by the next one; once a batch was taken it is a second again."""
    here = await house()
    async with here.market() as engine:
        driver: Any = batches_of(engine.rooms.sellers["shop"])
        submit, pauses, answers = driver.submit, [], [True, True, False, True, False]

        async def now_and_then(*given: Any) -> Any:
            if answers.pop(0):
                raise RateLimited("too many batches")
            return await submit(*given)

        driver.submit = now_and_then
        engine.rooms.bus.subscribe(
            lambda e: pauses.append(e.facts["retry_after_ms"]) if e.name == "capacity.backoff" else None
        )
        await here.run_in(engine, lines("one"))
        here.out = here.out.with_name("second.jsonl")
        with ResultFile(here.out) as results:
            await BatchRun(engine, "c", results, OPTIONS).run(read_lines(lines("two", tiers=["batch"])))
    assert (pauses, answers) == ([1_000, 2_000, 1_000], [])
