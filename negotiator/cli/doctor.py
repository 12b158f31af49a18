"""``negotiator doctor``: check what a market needs, and say the fix for what is wrong."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from negotiator.config import Config, ProviderConfig, load_config
from negotiator.engine_rooms import build_sellers, configured_accounts
from negotiator.errors import NegotiatorError
from negotiator.store_open import open_store
from providers.clock import SystemClock

from .market import config_option, json_option, ledger_url, store_option
from .terminal import console, print_json, table

__all__ = ["Finding", "command"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was checked: ok, or what is wrong and what to do about it."""

    what: str
    ok: bool
    found: str
    fix: str = ""


@click.command()
@config_option
@store_option
@json_option
def command(config_path: Path | None, store: str | None, as_json: bool) -> None:
    """Check interpreter, libraries, configuration, keys, prices and the ledger. Exit 1 when something is wrong.

    Example: negotiator doctor --config negotiator.toml
    """
    findings = list(_examine(config_path, store))
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        rows = [["✓" if f.ok else "✗", f.what, f.found, "" if f.ok else f.fix] for f in findings]
        console().print(table(None, ["", "what", "found", "what to do"], rows))
    if not all(finding.ok for finding in findings):
        raise click.exceptions.Exit(1)


def _examine(config_path: Path | None, store: str | None) -> Iterator[Finding]:
    yield _python()
    yield from _libraries()
    try:
        config = load_config(config_path)
    except NegotiatorError as error:
        yield Finding("configuration", False, str(error), "correct that line; README.md has a whole example")
        return
    said = str(config_path) if config_path else "none: simulated sellers"
    yield Finding("configuration", True, said)
    for provider in config.providers:
        yield from _keys(provider)
    yield _sellers(config)
    yield _accounts(config)
    yield _ledger(config, store)


def _python() -> Finding:
    version = platform.python_version()
    return Finding("Python", sys.version_info >= (3, 11), version, "install Python 3.11 or later")


def _libraries() -> Iterator[Finding]:
    for name in ("aiohttp", "genai-prices", "numpy", "ortools", "orjson", "pydantic", "redis", "splintr-rs"):
        try:
            yield Finding(name, True, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, False, "not installed", "pip install negotiator")


def _keys(provider: ProviderConfig) -> Iterator[Finding]:
    names = provider.api_key_env
    for name in (names,) if isinstance(names, str) else names or ():
        there = bool(os.environ.get(name))
        yield Finding(
            f"key of {provider.label}",
            there,
            f"{name} is {'set' if there else 'not set'}",
            "" if there else f"export {name}=…",
        )


def _sellers(config: Config) -> Finding:
    async def count() -> tuple[int, int, int]:
        sellers, _ = build_sellers(config, SystemClock())
        offers = [offer for seller in sellers for offer in seller.offers()]
        for seller in sellers:
            await seller.aclose()
        return len(sellers), len({offer.key for offer in offers}), len(offers)

    try:
        sellers, models, offers = asyncio.run(count())
    except (NegotiatorError, ValueError) as error:
        return Finding("sellers", False, str(error), "correct that entry of providers")
    return Finding(
        "sellers",
        offers > 0,
        f"{sellers} sellers, {models} models, {offers} offers",
        "" if offers else "add models",
    )


def _accounts(config: Config) -> Finding:
    try:
        accounts = configured_accounts(config)
    except NegotiatorError as error:
        return Finding("accounts", False, str(error), "correct the parents")
    return Finding(
        "accounts", True, f"{len(accounts)} configured" if accounts else "default, without a limit"
    )


def _ledger(config: Config, store: str | None) -> Finding:
    url = ledger_url(config, store)

    async def audit() -> str:
        opened = await open_store(url, clock=SystemClock())
        try:
            wrong = await opened.audit()
        finally:
            await opened.aclose()
        return wrong[0] if wrong else ""

    try:
        wrong = asyncio.run(audit())
    except NegotiatorError as error:
        return Finding("ledger", False, str(error), "stop that process, or name another store with --store")
    return Finding(
        "ledger", not wrong, wrong or f"{url}: every row fits", "restore it from its archive" if wrong else ""
    )
