"""``negotiator demo``: the whole market on one page, with simulated sellers at real prices; no key, no money."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.markup import escape

from negotiator.batch_counts import RunReport
from negotiator.batch_results import ResultFile
from negotiator.batches import BatchRun, batch_id_of
from negotiator.config import Config, StoreConfig
from negotiator.counter_offers import with_terms
from negotiator.engine import Engine
from negotiator.errors import InputInvalid, Rejected
from negotiator.events import Event
from negotiator.money import format_usd
from negotiator.order import Completion
from negotiator.plan_lines import PlanLine, read_file
from negotiator.wire import PlanOptions, Terms
from negotiator.wire_out import completion_out, reject_out
from providers.clock import LoopClock, SystemClock, run_virtual
from providers.simulated import Fault, FaultKind, Faults, default_sellers

from .plan import show_plan
from .terminal import console, print_json, progress_bar, table, usd

__all__ = ["command", "workload"]

LIMITS_SCALE: Final = 0.12
"""Sellers' limits as a share of the catalogue's: tight enough that cheapest-first runs out of the cheap ones."""

OUTAGE: Final = Fault(kind=FaultKind.ERROR_500, calls=frozenset(range(12, 17)))
DEMO_SEED: Final = 7
PLACES: Final = (Path(__file__).with_name("workload.jsonl"), Path("examples") / "workload.jsonl")


def workload() -> Path:
    """The example requests: in the package when it was installed, else in the source tree."""
    found = next((p for p in (*PLACES, Path(__file__).parents[2] / PLACES[1]) if p.exists()), None)
    if found is None:
        raise InputInvalid("examples/workload.jsonl: expected beside the package, found nowhere")
    return found


@click.command()
@click.option(
    "--log", type=click.Path(path_type=Path), help="Write every order here, for `negotiator report`."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def command(log: Path | None, as_json: bool) -> None:
    """Clear the example workload through simulated sellers whose rate limits bind, and show what came of it.

    Example: negotiator demo
    """
    path, config = workload(), Config(store=StoreConfig(order_log=log))
    story = run_virtual(_play(console(), path, config, batch_id_of(path.read_bytes()), as_json))
    if as_json:
        print_json(story)


async def _play(out: Console, path: Path, config: Config, batch_id: str, as_json: bool) -> Mapping[str, Any]:
    clock = LoopClock(SystemClock().now_ms())
    sellers = default_sellers(
        clock, seed=DEMO_SEED, limits_scale=LIMITS_SCALE, faults={"openai": Faults([OUTAGE])}
    )
    async with Engine.open(config, clock=clock, sellers=sellers) as market:
        failed: Counter[str] = Counter()
        market.rooms.bus.subscribe(lambda event: _count(event, failed))
        if not as_json:
            _show_market(out, market)
        report, written_nusd = await _run(market, path, batch_id)
        assert report.first_plan is not None
        balance = (await market.rooms.store.balances("default", clock.now_ms()))[0]
        audit = await market.rooms.store.audit()
        if not as_json:
            show_plan(out, report.first_plan, max_refused=5)
            _show_run(out, report, failed, balance.posted_nusd, balance.pending_nusd, written_nusd, audit)
        taken = await _take_counter_offer(market, path)
        cache = await _quote_twice(market)
        if not as_json:
            _show_taken(out, *taken)
            _show_cache(out, *cache)
            _show_next(out)
        return {
            **report.out(),
            "posted_usd": format_usd(balance.posted_nusd),
            "pending_usd": format_usd(balance.pending_nusd),
            "counter_offer": {"reject": reject_out(taken[0].reject), "taken": completion_out(taken[1])},
        }


def _count(event: Event, failed: Counter[str]) -> None:
    if event.name == "seller.failed":
        failed[f"{event.facts['provider']}: {event.facts['error']}"] += 1


async def _run(market: Engine, path: Path, batch_id: str) -> tuple[RunReport, int]:
    with (
        progress_bar() as bar,
        tempfile.TemporaryDirectory() as folder,
        ResultFile(Path(folder) / "answers.jsonl") as results,
    ):
        task = bar.add_task("solving, then running", total=None, facts="")

        def progress(report: RunReport) -> None:
            bar.update(task, total=report.requests, completed=report.finished, facts=usd(report.cost_nusd))

        run = BatchRun(market, batch_id, results, PlanOptions(time_limit_s=5), progress)
        return await run.run(read_file(path)), results.cost_nusd


async def _take_counter_offer(market: Engine, path: Path) -> tuple[Rejected, Completion]:
    """The first request that is refused for its budget alone, refused again, and then bought as offered."""
    for line in read_file(path):
        if not isinstance(line, PlanLine):
            continue
        order = await market.order_for(line.request.body, line.request.terms)
        if (await market.book(order)).reject is None:
            continue
        try:
            await market.buy(order)
        except Rejected as refused:
            offers = refused.reject.counter_offers
            if offers and offers[0].terms.keys() == {"budget_usd"}:
                changed = with_terms(order, dict(offers[0].terms))
                return refused, await market.buy(changed, quote_id=None)
    raise AssertionError("the workload has requests whose budget is too low")


HANDBOOK: Final = "You answer questions about our returns handbook. " + " ".join(
    f"Rule {n}: goods of class {n % 7} may come back within {14 + n % 30} days if seal {n % 5} is whole, "
    f"and are refunded through channel {n % 4} less {n % 9} percent for handling."
    for n in range(1, 160)
)


async def _quote_twice(market: Engine) -> tuple[Any, Any]:
    """A long shared prefix, quoted cold and again after it was bought once."""
    terms = Terms(budget_usd="0.05", models=("openai/gpt-5-nano",))  # type: ignore[arg-type]

    def ask(question: str) -> list[dict[str, str]]:
        return [{"role": "system", "content": HANDBOOK}, {"role": "user", "content": question}]

    cold = await market.quote(ask("May a lamp come back?"), terms=terms, max_tokens=200)
    await market.complete(ask("May a lamp come back?"), terms=terms, max_tokens=200)
    warm = await market.quote(ask("And a chair?"), terms=terms, max_tokens=200)
    return cold.best, warm.best


def _show_market(out: Console, market: Engine) -> None:
    rooms = market.rooms
    offers = [offer for seller in rooms.sellers.values() for offer in seller.offers()]
    models = {offer.key for offer in offers}
    out.print(
        f"[bold]A market of {sum(bool(seller.offers()) for seller in rooms.sellers.values())} simulated sellers[/] with {len(models)} real models at today's list "
        f"prices, {len(offers)} offers in all.\nTheir rate limits are tight, and openai will fail five calls in a row. "
        "Nothing real is bought.\n"
    )


def _show_run(
    out: Console,
    report: RunReport,
    failed: Counter[str],
    posted_nusd: int,
    pending_nusd: int,
    written_nusd: int,
    audit: Any,
) -> None:
    out.print("\n[bold]Then it was run[/], paced by the limits:")
    faults = ", ".join(f"{n} x {what}" for what, n in failed.most_common()) or "none"
    latency = sorted(report.latency_ms)
    rows = [
        [
            "served",
            f"{report.served} of {report.requests}, {report.rounds} round{'s' if report.rounds != 1 else ''}",
        ],
        [
            "refused",
            f"{report.refused}: {', '.join(f'{n} {name}' for name, n in report.rejects.most_common())}",
        ],
        ["sellers' failures", f"{faults}; {report.failovers} answers came from a runner-up"],
        ["spent", f"{usd(report.cost_nusd)}, against {usd(report.expected_nusd)} expected"],
        ["read from prompt caches", f"{report.cached_tokens:,} tokens"],
        [
            "latency",
            f"p50 {latency[len(latency) // 2] / 1000:.1f} s, p95 {latency[len(latency) * 95 // 100] / 1000:.1f} s",
        ],
        [
            "ledger",
            f"posted {usd(posted_nusd)}, pending {usd(pending_nusd)}; "
            + (
                "equal to the results to the nano-dollar"
                if posted_nusd == written_nusd
                else "UNEQUAL to the results"
            )
            + ("; audit: every row fits" if not audit else f"; audit: {audit[0]}"),
        ],
    ]
    out.print(table(None, ["", ""], rows))


def _show_taken(out: Console, refused: Rejected, done: Completion) -> None:
    offer = refused.reject.counter_offers[0]
    terms = ", ".join(f"{term} {value}" for term, value in offer.terms.items())
    out.print(
        f"\n[bold]A counter-offer taken[/]: {escape(refused.reject.message)}.\n  With {terms} as offered, {done.provider}/{done.model} "
        f"answered for {usd(done.cost_nusd)} ({usd(offer.expected_nusd)} expected)."
    )


def _show_cache(out: Console, cold: Any, warm: Any) -> None:
    out.print(
        f"\n[bold]A warm prompt cache[/]: the same long prefix cost {usd(cold.expected_nusd)} at {cold.quote.key} at first; "
        f"the next question about it is quoted at {usd(warm.expected_nusd)}:"
    )
    for discount in warm.quote.discounts:
        out.print(f"  {discount.kind.value} saves {usd(discount.saves_nusd)}: {discount.basis}")


def _show_next(out: Console) -> None:
    out.print(
        "\n[bold]Next[/]\n"
        '  negotiator quote "Prove that 17 is prime." --budget-usd 0.002   every seller\'s price, and who is out\n'
        "  negotiator plan YOUR.jsonl --out plan.jsonl                     a plan of your own batch, with its proof\n"
        "  negotiator run YOUR.jsonl --out answers.jsonl                   and run it; kill it and run it again\n"
        "  README.md                                                       your own keys, sellers and limits"
    )
