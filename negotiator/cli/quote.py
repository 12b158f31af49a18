"""``negotiator quote``: every seller's price for one prompt, judged against terms; nothing is held or spent."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

import click
from rich.console import Console
from rich.markup import escape

from negotiator.engine import Engine
from negotiator.errors import RejectCode
from negotiator.order import Book, Candidate, Miss
from negotiator.wire import Terms, terms_from
from negotiator.wire_out import book_out

from .market import config_option, json_option, options_checked, with_market
from .terminal import console, print_json, table, usd

__all__ = ["command"]


@click.command()
@click.argument("text")
@click.option("--budget-usd", help="Hard cap on everything this order may be charged.")
@click.option("--min-quality", type=float, help="Floor for the estimated quality, 0 to 1.")
@click.option("--deadline-ms", type=int, help="The whole answer must be there by then (p95).")
@click.option("--ttft-ms", type=int, help="The first token must be there by then (p95).")
@click.option("--max-tokens", type=int, help="Longest answer.")
@click.option("--model", default="auto", help="auto, provider/model, or a model's name.")
@click.option("--models", multiple=True, help="Only these (glob over provider/model); may be repeated.")
@click.option("--exclude", multiple=True, help="Not these (glob); may be repeated.")
@click.option("--tier", "tiers", multiple=True, help="Service paths to accept; may be repeated.")
@click.option(
    "--require", multiple=True, help="Tags the seller must have (tools, region:eu); may be repeated."
)
@click.option("--policy", help="cheapest, best_quality, fastest, balanced or two_tier.")
@click.option("--task", help="What kind of task it is: a hint for the quality estimate.")
@click.option(
    "--twice",
    is_flag=True,
    help="Buy it (of simulated sellers only), then quote again: shows the warm cache.",
)
@config_option
@json_option
def command(
    text: str, max_tokens: int | None, model: str, config_path: Any, as_json: bool, twice: bool, **terms: Any
) -> None:
    """Ask every seller what it would do TEXT for. Exit 1 when no offer meets the terms, with the nearest that would.

    Example: negotiator quote "Prove that 17 is prime." --budget-usd 0.005 --min-quality 0.9
    """
    with options_checked():
        given = terms_from({name: value for name, value in terms.items() if value not in (None, ())})
    body: dict[str, Any] = {"model": model}
    if max_tokens is not None:
        body["max_tokens"] = max_tokens

    near: list[str] = []

    async def work(market: Engine) -> Book:
        near.extend(get_close_matches(model, market.rooms.models, n=1))
        if twice:
            if not market.rooms.simulated:
                raise click.UsageError("--twice buys TEXT first: expected simulated sellers, found real ones")
            await _warm(market, text, given, body)
        return await market.quote(text, terms=given, **body)

    book = with_market(config_path, work, quiet=as_json)
    if as_json:
        print_json(book_out(book))
    else:
        _show(console(), book)
        if book.reject is not None and book.reject.code is RejectCode.UNPRICEABLE and near:
            console().print(f"did you mean {near[0]!r}?")
    if book.reject is not None:
        raise click.exceptions.Exit(1)


async def _warm(market: Engine, text: str, terms: Terms, body: dict[str, Any]) -> None:
    """Buy it of one seller until its cache has it: some store a prompt only once it has come before."""
    done = await market.complete(text, terms=terms, **body)
    await market.complete(text, terms=terms, **{**body, "model": f"{done.provider}/{done.model}"})


def _show(out: Console, book: Book) -> None:
    if book.eligible:
        columns = ["=model", "tier", ">expected", ">at most", ">p50", ">p95", ">quality", ">seen"]
        out.print(
            table("Would serve it, best first", columns, [_row(candidate) for candidate in book.eligible])
        )
        for candidate in book.eligible:
            for saved in candidate.quote.discounts:
                key = f"{candidate.quote.key} {candidate.quote.tier}"
                out.print(f"  {key}: {saved.kind.value} saves {usd(saved.saves_nusd)} ({saved.basis})")
        out.print()
    rows = [
        [c.quote.key, c.quote.tier, usd(c.expected_nusd), ", ".join(map(_missed, c.misses))]
        for c in book.candidates
        if not c.eligible
    ]
    if rows:
        out.print(table("Out", ["=model", "tier", ">expected", "because"], rows))
    if book.reject is None:
        return
    out.print(f"\n[bold]{book.reject.code.name}[/]: {escape(book.reject.message)}")
    for offer in book.reject.counter_offers:
        terms = ", ".join(f"{term} {value}" for term, value in offer.terms.items())
        out.print(
            f"  would be served with {terms}: {offer.provider}/{offer.model} for {usd(offer.expected_nusd)}, "
            f"at most {usd(offer.ceiling_nusd)}"
        )


def _row(candidate: Candidate) -> list[str]:
    quote, estimate = candidate.quote, candidate.estimate
    return [
        quote.key,
        quote.tier,
        usd(candidate.expected_nusd),
        usd(candidate.ceiling_nusd),
        f"{quote.latency_ms.p50 / 1000:.1f} s",
        f"{quote.latency_ms.p95 / 1000:.1f} s",
        f"{estimate.mean:.2f}±{estimate.sd:.2f}",
        str(estimate.observations),
    ]


def _missed(miss: Miss) -> str:
    if miss.term in ("budget_usd", "value_usd"):
        return f"costs up to ${miss.offered}"
    if miss.term in ("deadline_ms", "ttft_ms"):
        return f"{miss.term.removesuffix('_ms')} {miss.offered / 1000:.1f} s"
    if miss.term == "min_quality":
        return f"quality {miss.offered:.2f}"
    return f"{miss.term} {_plain(miss.offered)}"


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
