"""``negotiator prices``: what every offer costs now, where the price comes from and until when it holds."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import click

from negotiator.engine import Engine
from negotiator.errors import InputInvalid
from negotiator.money import format_usd
from providers.terms import Offer

from .market import config_option, json_option, with_market
from .terminal import console, print_json, table

__all__ = ["command"]


@click.command()
@click.argument("models", nargs=-1)
@click.option("--tier", multiple=True, help="Only these tiers; may be repeated.")
@config_option
@json_option
def command(models: tuple[str, ...], tier: tuple[str, ...], config_path: Any, as_json: bool) -> None:
    """What every offer costs now, US dollars per million tokens; MODELS are globs over provider/model.

    Example: negotiator prices "openai/*" --tier standard
    """

    async def work(market: Engine) -> list[Offer]:
        return [offer for seller in market.rooms.sellers.values() for offer in seller.offers()]

    offers = [
        offer
        for offer in with_market(config_path, work, quiet=as_json)
        if (
            not models
            or any(fnmatchcase(offer.key, glob) or fnmatchcase(offer.model, glob) for glob in models)
        )
        and (not tier or offer.tier in tier)
    ]
    if not offers and (models or tier):
        asked = ", ".join((*models, *(f"tier {name}" for name in tier)))
        raise InputInvalid(
            f"expected a model on sale, found none for {asked}: `negotiator prices` has them all"
        )
    if as_json:
        print_json([_out(offer) for offer in offers])
        return
    rows = [row for offer in offers for row in _rows(offer)]
    columns = [
        "=model",
        "tier",
        "from tokens",
        ">input",
        ">cached",
        ">cache write",
        ">output",
        ">context",
        "changes in",
    ]
    out = console()
    out.print(table("US dollars per million tokens", columns, rows))
    sources = sorted({offer.price_source.partition(":")[0] for offer in offers})
    out.print(f"\nSources: {'; '.join(sources)}")


def _rows(offer: Offer) -> list[list[str]]:
    rows = []
    for number, step in enumerate(offer.steps):
        rates = step.rates
        first = number == 0
        rows.append(
            [
                offer.key if first else "",
                offer.tier if first else "",
                f"{step.from_input_tokens:,}" if step.from_input_tokens else "",
                format_usd(rates.input_nusd_per_mtok),
                format_usd(rates.cache_read_nusd_per_mtok),
                format_usd(rates.cache_write_nusd_per_mtok),
                format_usd(rates.output_nusd_per_mtok),
                f"{offer.context_tokens:,}" if first else "",
                _holds(offer) if first else "",
            ]
        )
    return rows


def _holds(offer: Offer) -> str:
    if offer.valid_for_ms is None:
        return ""
    hours = offer.valid_for_ms / 3_600_000
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.0f} days"


def _out(offer: Offer) -> dict[str, Any]:
    return {
        "provider": offer.provider,
        "model": offer.model,
        "tier": offer.tier,
        "context_tokens": offer.context_tokens,
        "max_output_tokens": offer.max_output_tokens,
        "tags": sorted(offer.tags),
        "valid_for_ms": offer.valid_for_ms,
        "price_source": offer.price_source,
        "steps": [
            {
                "from_input_tokens": step.from_input_tokens,
                "input_usd_per_million": format_usd(step.rates.input_nusd_per_mtok),
                "cache_read_usd_per_million": format_usd(step.rates.cache_read_nusd_per_mtok),
                "cache_write_usd_per_million": format_usd(step.rates.cache_write_nusd_per_mtok),
                "output_usd_per_million": format_usd(step.rates.output_nusd_per_mtok),
                "request_usd": format_usd(step.rates.request_nusd),
            }
            for step in offer.steps
        ],
    }
