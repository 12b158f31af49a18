"""How commands open a market: from a configuration or on simulated sellers, in real or in virtual time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from negotiator.config import Config, load_config
from negotiator.engine import Engine
from negotiator.errors import InputInvalid
from providers.clock import LoopClock, SystemClock, run_virtual

from .terminal import note

__all__ = [
    "SIMULATED_NOTE",
    "config_option",
    "json_option",
    "ledger_url",
    "options_checked",
    "store_option",
    "with_market",
]

T = TypeVar("T")

config_option = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    envvar="NEGOTIATOR_CONFIG",
    help="Configuration (negotiator.toml). Without one, sellers are simulated.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
store_option = click.option(
    "--store", help="Where the ledger is: embedded:///path.db, embedded:// or redis://…"
)

SIMULATED_NOTE = (
    "sellers: simulated, at real list prices (no configuration was given: nothing real is bought)"
)


@contextmanager
def options_checked() -> Iterator[None]:
    """An option's value that cannot be is wrong usage, exit code 2."""
    try:
        yield
    except InputInvalid as error:
        raise click.UsageError(str(error)) from None


def ledger_url(config: Config, store: str | None) -> str:
    """The store a command uses: as told, as configured, else a file under the user's state directory."""
    if store or config.store.url:
        return store or str(config.store.url)
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    path = state / "negotiator" / "ledger.db"
    path.parent.mkdir(parents=True, exist_ok=True)
    return f"embedded://{path}"


def with_market(
    config_path: Path | None,
    work: Callable[[Engine], Awaitable[T]],
    *,
    store: str | None = "embedded://",
    quiet: bool = False,
    order_log: Path | None = None,
    **given: Any,
) -> T:
    """Open a market, do the work, close it. Simulated sellers alone live in virtual time: nobody waits for them.

    store None: the ledger file of the user's state directory. order_log: where every order is written, for reports.
    """
    config = load_config(config_path)
    url = ledger_url(config, store)
    kept = {"url": url, "order_log": order_log or config.store.order_log}
    config = config.model_copy(update={"store": config.store.model_copy(update=kept)})
    simulated = all(provider.kind == "simulated" for provider in config.providers)
    if not config.providers and not quiet:
        note(SIMULATED_NOTE)
    clock = LoopClock(SystemClock().now_ms()) if simulated else SystemClock()

    async def run() -> T:
        async with Engine.open(config, clock=clock, **given) as market:
            return await work(market)

    return run_virtual(run()) if simulated else asyncio.run(run())
