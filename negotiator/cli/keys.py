"""``negotiator keys``: make, list and remove access keys, at the store itself."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from negotiator.api.keyring import AccessKey, KeyRing, new_key
from negotiator.config import load_config
from negotiator.engine_rooms import configured_accounts
from negotiator.errors import InputInvalid
from negotiator.store import DEFAULT_ACCOUNT, Store
from negotiator.store_open import open_store
from negotiator.wire_out import instant_out
from providers.clock import SystemClock

from .market import config_option, json_option, ledger_url, store_option
from .terminal import console, note, print_json, table

__all__ = ["command", "create", "list_keys", "remove"]

T = TypeVar("T")

_UNITS = {"m": 60_000, "h": 3_600_000, "d": 86_400_000}


@click.group()
def command() -> None:
    """Access keys of the server: each belongs to an account, has scopes, and is shown once.

    Example: negotiator keys create --account default --scope use
    """


@command.command()
@config_option
@store_option
@click.option("--account", required=True, help="The account whose money it spends.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    type=click.Choice(["use", "read", "admin"]),
    help="use: buy. read: market, reports, metrics. admin: accounts and keys too. Repeatable.",
)
@click.option("--expires-in", help="For how long it works: 30m, 12h, 90d (default: for ever).")
@click.option("--rpm", type=click.IntRange(1), help="Calls a minute.")
@click.option("--concurrency", type=click.IntRange(1), help="Calls at once.")
@click.option("--profile", help="Terms of calls that name no other profile.")
@click.option("--label", default="", help="What it is for.")
@click.option(
    "--reach",
    type=click.Choice(["account", "house"]),
    help="Which accounts an admin key manages: those below its own, or all (default for admin).",
)
@json_option
def create(
    config_path: Path | None,
    store: str | None,
    account: str,
    scopes: tuple[str, ...],
    expires_in: str | None,
    reach: str | None,
    as_json: bool,
    **wanted: Any,
) -> None:
    """Make a key and print it: the only time it is shown.

    Example: negotiator keys create --account team-a --scope use --rpm 600
    """
    clock = SystemClock()
    wanted["expires_ms"] = None if expires_in is None else clock.now_ms() + _milliseconds(expires_in)
    wanted["reach"] = reach or ("house" if "admin" in scopes else "account")

    async def work(opened: Store) -> tuple[AccessKey, str]:
        for configured in configured_accounts(load_config(config_path)):
            await opened.put_account(configured)
        if account != DEFAULT_ACCOUNT and not await opened.balances(account, clock.now_ms()):
            raise InputInvalid(
                f"account: expected one that exists, found {account!r}; make it with `negotiator accounts create`"
            )
        key, text = new_key(account, frozenset(scopes), clock.now_ms(), **wanted)
        await KeyRing(opened, clock).add(key)
        return key, text

    key, text = _with_store(config_path, store, work)
    if as_json:
        print_json({**key.out(), "key": text})
        return
    click.echo(text)
    note(f"key {key.key_id} of account {account!r}, scopes {', '.join(scopes)}; it is not shown again")


@command.command("list")
@config_option
@store_option
@json_option
def list_keys(config_path: Path | None, store: str | None, as_json: bool) -> None:
    """List keys, without their secrets.

    Example: negotiator keys list
    """
    keys = _with_store(config_path, store, lambda opened: KeyRing(opened, SystemClock()).all())
    if as_json:
        print_json([key.out() for key in keys])
        return
    rows = [
        [
            key.key_id,
            key.account,
            " ".join(sorted(key.scopes)),
            key.reach,
            "never" if key.expires_ms is None else instant_out(key.expires_ms),
            key.label,
            f"…{key.last_four}",
        ]
        for key in keys
    ]
    console().print(table(None, ["=key", "account", "scopes", "reach", "expires", "label", "ends in"], rows))


@command.command()
@config_option
@store_option
@click.argument("key_id")
@json_option
def remove(config_path: Path | None, store: str | None, key_id: str, as_json: bool) -> None:
    """Remove a key: running servers refuse it within a second.

    Example: negotiator keys remove 3f2a9c81d4e5
    """

    async def work(opened: Store) -> None:
        ring = KeyRing(opened, SystemClock())
        if await ring.by_id(key_id) is None:
            raise InputInvalid(f"key_id: expected one of `negotiator keys list`, found {key_id!r}")
        await ring.remove(key_id)

    _with_store(config_path, store, work)
    if as_json:
        print_json({"removed": key_id})
    else:
        note(f"key {key_id} is removed")


def _with_store(config_path: Path | None, store: str | None, work: Callable[[Store], Awaitable[T]]) -> T:
    config = load_config(config_path)

    async def run() -> T:
        opened = await open_store(ledger_url(config, store), clock=SystemClock())
        try:
            return await work(opened)
        finally:
            await opened.aclose()

    return asyncio.run(run())


def _milliseconds(text: str) -> int:
    found = re.fullmatch(r"(\d{1,6})([mhd])", text)
    if found is None or int(found[1]) == 0:
        raise click.BadParameter(
            f"expected a time such as 30m, 12h or 90d, found {text!r}", param_hint="--expires-in"
        )
    return int(found[1]) * _UNITS[found[2]]
