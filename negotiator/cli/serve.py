"""``negotiator serve``: the market over HTTP, in one process or several on one port."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from negotiator.config import Config, load_config
from negotiator.errors import ConfigInvalid

from .market import SIMULATED_NOTE, config_option, ledger_url, store_option
from .terminal import note

__all__ = ["command"]


@click.command()
@config_option
@click.option("--host", help="Address to listen on (default 127.0.0.1; another one needs keys).")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on (default 8377; 0 = any free).")
@click.option(
    "--workers", type=click.IntRange(1, 64), help="Processes on one port; more than one needs redis://."
)
@store_option
@click.option(
    "--log", type=click.Path(path_type=Path), help="Write every order here, for `negotiator report`."
)
@click.option("--quiet", is_flag=True, help="No access log.")
def command(
    config_path: Path | None,
    host: str | None,
    port: int | None,
    workers: int | None,
    store: str | None,
    log: Path | None,
    quiet: bool,
) -> None:
    """Serve the market over HTTP: OpenAI's and Anthropic's APIs, quotes, orders and plans.

    Example: negotiator serve --config negotiator.toml --port 8377
    """
    config = _config(config_path, host, port, workers, store, log)
    if not config.providers:
        note(SIMULATED_NOTE)
    if config.server.workers > 1:
        from negotiator.api.workers import run_workers

        raise click.exceptions.Exit(run_workers(config, quiet=quiet))
    asyncio.run(_serve(config, quiet))


def _config(
    path: Path | None,
    host: str | None,
    port: int | None,
    workers: int | None,
    store: str | None,
    log: Path | None,
) -> Config:
    config = load_config(path)
    given = {"host": host, "port": port, "workers": workers}
    server = config.server.model_copy(
        update={name: value for name, value in given.items() if value is not None}
    )
    url = ledger_url(config, store)
    if server.workers > 1 and url.startswith("embedded"):
        raise ConfigInvalid(
            f"server.workers: expected 1 with the embedded store, which one process holds, found {server.workers};"
            " several workers share a ledger in Redis: --store redis://HOST"
        )
    if server.workers > 1 and server.port == 0:
        raise ConfigInvalid("server.port: expected a port that all workers share, found 0")
    kept = {"url": url, "order_log": log or config.store.order_log}
    return config.model_copy(update={"server": server, "store": config.store.model_copy(update=kept)})


async def _serve(config: Config, quiet: bool) -> None:
    from negotiator.api.server import Listening, serve_until_told, write_logs

    def say(at: Listening) -> None:
        note(f"negotiator listens on {', '.join(at.urls)}; docs at /docs")

    write_logs(access=not quiet)
    await serve_until_told(config, say)
