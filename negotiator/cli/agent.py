"""``negotiator agent``: sell one configured seller to other markets, over the quote protocol."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import signal
from pathlib import Path

import click

from negotiator.config import Config, load_config
from negotiator.engine_rooms import build_sellers
from negotiator.errors import ConfigInvalid
from providers.agent import agent_app, serve_agent
from providers.base import Provider
from providers.clock import SystemClock
from providers.keys import Secret

from .market import SIMULATED_NOTE, config_option
from .terminal import note

__all__ = ["command"]


@click.command()
@click.argument("provider", required=False)
@config_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address; another one needs --key-env.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8400, show_default=True, help="Port (0 = any free)."
)
@click.option("--key-env", help="The variable with the key that callers must show as bearer.")
def command(
    provider: str | None, config_path: Path | None, host: str, port: int, key_env: str | None
) -> None:
    """Serve one seller, PROVIDER, over the quote protocol: POST /quote, POST /execute, GET /schema.json.

    PROVIDER may be left out where the configuration has one only.

    Example: negotiator agent openai --port 8400
    """
    config = load_config(config_path)
    if not config.providers:
        note(SIMULATED_NOTE)
    asyncio.run(_serve(config, provider, host, port, _key(host, key_env)))


def _key(host: str, key_env: str | None) -> Secret | None:
    if key_env is None:
        if host != "localhost" and not _loopback(host):
            raise ConfigInvalid(f"--host {host}: expected --key-env with it, found none: anyone could buy")
        return None
    text = os.environ.get(key_env, "")
    if not text.strip():
        raise ConfigInvalid(f"--key-env: expected a key in the variable {key_env}, found it unset or empty")
    return Secret(text)


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def _serve(config: Config, name: str | None, host: str, port: int, key: Secret | None) -> None:
    told = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    sellers, _ = build_sellers(config, SystemClock())
    seller = _chosen({seller.name: seller for seller in sellers}, name)
    try:
        async with serve_agent(agent_app(seller, key=key), host, port) as url:
            note(f"{seller.name} sells at {url}; the protocol's schema at {url}/schema.json")
            await told.wait()
    finally:
        for other in sellers:
            await other.aclose()


def _chosen(sellers: dict[str, Provider], name: str | None) -> Provider:
    if name is None and len(sellers) == 1:
        return next(iter(sellers.values()))
    if name not in sellers:
        found = "no name" if name is None else repr(name)
        raise ConfigInvalid(f"PROVIDER: expected one of {', '.join(sorted(sellers))}, found {found}")
    return sellers[name]
