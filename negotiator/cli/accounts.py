"""``negotiator accounts``: budgets of the ledger, seen, made, raised and audited."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click

from negotiator.config import load_config
from negotiator.errors import InputInvalid
from negotiator.money import format_usd, parse_usd
from negotiator.store import Account, Balance, Period, Store
from negotiator.store_open import open_store, reconcile_store
from providers.clock import SystemClock

from .market import config_option, json_option, ledger_url, store_option
from .terminal import console, note, print_json, table

__all__ = ["command"]

T = TypeVar("T")
Work = Callable[[Store, int], Awaitable[T]]


@click.group()
def command() -> None:
    """Budgets of the ledger. A running `serve` holds an embedded ledger: ask it over HTTP, or stop it first.

    Example: negotiator accounts create team --parent org --budget-usd 50 --period month
    """


@command.command("list")
@config_option
@store_option
@json_option
def _list(config_path: Path | None, store: str | None, as_json: bool) -> None:
    """All accounts and where they stand.

    Example: negotiator accounts list --json
    """

    async def work(opened: Store, now_ms: int) -> list[Balance]:
        names = await opened.accounts()
        return [(await opened.balances(name, now_ms))[0] for name in names]

    balances = _with_store(config_path, store, work)
    if as_json:
        print_json({"accounts": [_out(balance) for balance in balances]})
    else:
        _print(balances)


@command.command("show")
@click.argument("account_id", metavar="ID")
@config_option
@store_option
@json_option
def _show(account_id: str, config_path: Path | None, store: str | None, as_json: bool) -> None:
    """One account, then its ancestors: a hold draws on all of them.

    Example: negotiator accounts show team
    """

    async def work(opened: Store, now_ms: int) -> tuple[Balance, ...]:
        return await _line(opened, account_id, now_ms)

    _answer(_with_store(config_path, store, work), as_json)


def _terms(function: Callable[..., None]) -> Callable[..., None]:
    """The options that say what an account may spend."""
    period = click.option(
        "--period", type=click.Choice([period.value for period in Period]), help="When it starts anew (UTC)."
    )
    budget = click.option("--budget-usd", help="What it may spend per period; `none` = no limit of its own.")
    default = click.option(
        "--default-budget-usd", help="What an order without a budget may cost; `none` = no limit."
    )
    return budget(period(default(function)))


@command.command("create")
@click.argument("account_id", metavar="ID")
@click.option("--parent", help="Whose part it is; every hold draws on the parent too. It never changes.")
@_terms
@config_option
@store_option
@json_option
def _create(
    account_id: str,
    parent: str | None,
    config_path: Path | None,
    store: str | None,
    as_json: bool,
    **terms: str | None,
) -> None:
    """Make an account.

    Example: negotiator accounts create team --parent org --budget-usd 50 --period month
    """

    async def work(opened: Store, now_ms: int) -> Balance:
        if account_id in await opened.accounts() and account_id != "default":
            raise InputInvalid(f"expected a new account, found {account_id!r}: change it with `accounts set`")
        await opened.put_account(_changed(Account(account_id=account_id, parent=parent), **terms))
        return (await opened.balances(account_id, now_ms))[0]

    _answer([_with_store(config_path, store, work)], as_json)


@command.command("set")
@click.argument("account_id", metavar="ID")
@_terms
@config_option
@store_option
@json_option
def _set(
    account_id: str, config_path: Path | None, store: str | None, as_json: bool, **terms: str | None
) -> None:
    """Change what an account may spend; what is not named stays. A changed period starts with nothing posted.

    Example: negotiator accounts set team --budget-usd 80
    """

    async def work(opened: Store, now_ms: int) -> Balance:
        before = (await _line(opened, account_id, now_ms))[0]
        await opened.put_account(_changed(before.account, **terms))
        return (await opened.balances(account_id, now_ms))[0]

    _answer([_with_store(config_path, store, work)], as_json)


@command.command("deposit")
@click.argument("account_id", metavar="ID")
@click.argument("usd")
@click.option(
    "--reference", required=True, help="What it is for (an invoice): the same one twice counts once."
)
@config_option
@store_option
@json_option
def _deposit(
    account_id: str, usd: str, reference: str, config_path: Path | None, store: str | None, as_json: bool
) -> None:
    """Raise the budget of an account that has one; a correction has a minus sign (`-- ID -5`).

    Example: negotiator accounts deposit team 20 --reference "invoice 7"
    """
    sign = -1 if usd.startswith("-") else 1
    nusd = sign * _usd("usd", usd.removeprefix("-"))

    async def work(opened: Store, now_ms: int) -> Balance:
        return await opened.deposit(account_id, nusd, reference, now_ms)

    _answer([_with_store(config_path, store, work)], as_json)


@command.command("audit")
@click.option("--archived", is_flag=True, help="From the very first row on, with those in the archive.")
@config_option
@store_option
@json_option
def _audit(archived: bool, config_path: Path | None, store: str | None, as_json: bool) -> None:
    """Recount every balance from its rows; exit 1 names the first row or account that does not fit.

    Example: negotiator accounts audit
    """

    async def work(opened: Store, now_ms: int) -> list[str]:
        return list(await opened.audit(archived=archived))

    faults = _with_store(config_path, store, work)
    if as_json:
        print_json({"fits": not faults, "faults": faults})
    elif not faults:
        console().print("the books fit: every balance is what its rows say")
    for fault in [] if as_json else faults:
        note(fault)
    if faults:
        raise SystemExit(1)


@command.command("reconcile")
@config_option
@store_option
@json_option
def _reconcile(config_path: Path | None, store: str | None, as_json: bool) -> None:
    """After a failover of Redis, put back the rows the archive has, recount, and open the ledger again.

    Example: negotiator accounts reconcile --store redis://ledger:6379/0
    """
    rows = asyncio.run(reconcile_store(ledger_url(load_config(config_path), store)))
    if as_json:
        print_json({"rows": rows})
    else:
        console().print(f"{sum(rows.values())} rows put back in {len(rows)} account trees; the books fit")


async def _line(opened: Store, account_id: str, now_ms: int) -> tuple[Balance, ...]:
    line = await opened.balances(account_id, now_ms)
    if not line:
        raise InputInvalid(f"expected an existing account, found {account_id!r}: `accounts list` has them")
    return line


def _with_store(config_path: Path | None, store: str | None, work: Work[T]) -> T:
    config, clock = load_config(config_path), SystemClock()

    async def run() -> T:
        opened = await open_store(ledger_url(config, store), clock=clock, durability=config.store.durability)
        try:
            return await work(opened, clock.now_ms())
        finally:
            await opened.aclose()

    return asyncio.run(run())


def _changed(
    account: Account, *, budget_usd: str | None, period: str | None, default_budget_usd: str | None
) -> Account:
    changes: dict[str, Any] = {}
    if budget_usd is not None:
        changes["budget_nusd"] = _limit("budget-usd", budget_usd)
    if default_budget_usd is not None:
        changes["default_budget_nusd"] = _limit("default-budget-usd", default_budget_usd)
    if period is not None:
        changes["period"] = Period(period)
    return replace(account, **changes)


def _limit(what: str, text: str) -> int | None:
    return None if text == "none" else _usd(what, text)


def _usd(what: str, text: str) -> int:
    try:
        return parse_usd(text)
    except ValueError as error:
        raise InputInvalid(f"{what}: {error}") from None


def _out(balance: Balance) -> dict[str, Any]:
    account = balance.account
    return {
        "account": account.account_id,
        "parent": account.parent,
        "budget_usd": _money(account.budget_nusd),
        "period": account.period.value,
        "period_key": balance.period_key,
        "default_budget_usd": _money(account.default_budget_nusd),
        "deposits_usd": format_usd(balance.deposits_nusd),
        "posted_usd": format_usd(balance.posted_nusd),
        "pending_usd": format_usd(balance.pending_nusd),
        "available_usd": _money(balance.available_nusd),
    }


def _money(nusd: int | None) -> str | None:
    return None if nusd is None else format_usd(nusd)


def _answer(balances: Sequence[Balance], as_json: bool) -> None:
    """The first account as JSON, or all of them for people."""
    if as_json:
        print_json(_out(balances[0]))
    else:
        _print(balances)


def _print(balances: Sequence[Balance]) -> None:
    rows = []
    for balance in balances:
        limit, left = _money(balance.limit_nusd), _money(balance.available_nusd)
        rows.append(
            [
                balance.account.account_id,
                balance.account.parent or "",
                balance.period_key,
                limit or "no limit",
                format_usd(balance.posted_nusd),
                format_usd(balance.pending_nusd),
                left or "",
            ]
        )
    columns = ["=account", "parent", "period", ">budget", ">posted", ">pending", ">available"]
    console().print(table("US dollars; each includes its parts", columns, rows))
