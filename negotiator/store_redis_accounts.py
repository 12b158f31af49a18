"""Accounts in Redis: a directory of lines, and in each tree the terms and sums of its accounts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import orjson

from .errors import InputInvalid
from .money import MAX_NUSD
from .store import DEFAULT_ACCOUNT, HOUSE, MAX_DEPTH, SUSPENSE, Account, Balance, Period
from .store_redis_keys import BALANCE_FIELDS, LINES, TREES, Line, Tree, balance_of
from .store_redis_link import Link, Script
from .store_rows import account_text, check_account, period_start_ms

__all__ = ["AccountDirectory", "run"]

MAX_LINES: Final = 100_000
"""Lines remembered to save a round trip."""


def run(
    link: Link, script: Script, verb: str, keys: Sequence[str], *args: Any, now_ms: int = 0
) -> asyncio.Future[Any]:
    """Run a verb of one of the ledger's scripts; all of them may run twice."""
    day, month = period_start_ms(Period.DAY, now_ms), period_start_ms(Period.MONTH, now_ms)
    return link.script(script, keys, (verb, now_ms, day, month, *args))


class AccountDirectory:
    """Which accounts there are, in which tree, and how they stand."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._script = Script("store_redis_rows.lua", "store_redis_accounts.lua")
        self._lines: dict[str, Line] = {}

    async def line(self, account_id: str) -> Line | None:
        """An account and its ancestors, None = unknown; the default account is made when it is first needed."""
        line = self._lines.get(account_id)
        if line is not None:
            return line
        found = await self._link.call(LINES, "HGET", LINES, account_id)
        if found is None:
            if account_id != DEFAULT_ACCOUNT:
                return None
            await self.put(Account(account_id=account_id), only_new=True)
            return self._lines[account_id]
        if len(self._lines) >= MAX_LINES:
            self._lines.clear()
        line = self._lines[account_id] = Line.of(orjson.loads(found))
        return line

    async def trees(self) -> list[Tree]:
        """All trees."""
        return [
            Tree.of_root(root.decode()) for root in sorted(await self._link.call(TREES, "SMEMBERS", TREES))
        ]

    async def members(self) -> dict[str, list[str]]:
        """The accounts of every tree, by its root; the house's own included."""
        flat = await self._link.call(LINES, "HGETALL", LINES)
        members: dict[str, list[str]] = {}
        for name, line in zip(flat[::2], flat[1::2], strict=True):
            members.setdefault(orjson.loads(line)[-1], [HOUSE, SUSPENSE]).append(name.decode())
        return members

    async def put(self, account: Account, *, only_new: bool = False) -> None:
        """Create an account or change it; ``only_new``: leave one that is there as it is."""
        check_account(account)
        above: tuple[str, ...] = ()
        if account.parent is not None:
            parent = await self.line(account.parent)
            if parent is None:
                raise InputInvalid(f"expected an existing parent account, found {account.parent!r}")
            above = parent.accounts
        if len(above) >= MAX_DEPTH:
            raise InputInvalid(f"expected at most {MAX_DEPTH} accounts from leaf to root, found more")
        line = Line.of((account.account_id, *above))
        await self._claim(line)
        tree = line.tree
        reply = await run(
            self._link,
            self._script,
            "put",
            [tree.rows, tree.seq, tree.house, tree.suspense, *line.account_keys()[:2]],
            account.account_id,
            "" if account.budget_nusd is None else account.budget_nusd,
            account.period.value,
            "" if account.default_budget_nusd is None else account.default_budget_nusd,
            account_text(account),
            "new" if only_new else "",
        )
        if reply[0] == b"orphan":
            raise InputInvalid(f"expected an existing parent account, found {account.parent!r}")
        assert reply[0] == b"put", reply

    async def _claim(self, line: Line) -> None:
        """Enter an account in the directory, or find it there with the same line."""
        account = line.accounts[0]
        tree = self._link.call(TREES, "SADD", TREES, line.accounts[-1])
        claim = self._link.call(LINES, "HSETNX", LINES, account, orjson.dumps(line.accounts))
        _, claimed = await asyncio.gather(tree, claim)
        if not claimed:
            known = tuple(orjson.loads(await self._link.call(LINES, "HGET", LINES, account)))
            if known != line.accounts:
                parent = known[1] if len(known) > 1 else None
                found = line.accounts[1] if len(line.accounts) > 1 else None
                raise InputInvalid(f"expected the parent of {account!r} to stay {parent!r}, found {found!r}")
        self._lines[account] = line

    async def balances(self, account_id: str, now_ms: int) -> tuple[Balance, ...]:
        """The account, then its ancestors."""
        if account_id in (HOUSE, SUSPENSE):
            return await self._house(account_id, now_ms)
        line = await self.line(account_id)
        if line is None:
            return ()
        asked = [self._link.call(key, "HMGET", key, *BALANCE_FIELDS) for key in line.account_keys()]
        found = [
            balance_of(account, fields, now_ms)
            for account, fields in zip(line.accounts, await asyncio.gather(*asked), strict=True)
        ]
        whole = tuple(balance for balance in found if balance is not None)
        return whole if len(whole) == len(line.accounts) else ()

    async def _house(self, account_id: str, now_ms: int) -> tuple[Balance, ...]:
        """The house has an account in every tree."""
        keys = [tree.account(account_id) for tree in await self.trees()]
        posted = await asyncio.gather(*(self._link.call(key, "HGET", key, "posted") for key in keys))
        account = Account(account_id=account_id)
        posted_nusd = sum(int(value or 0) for value in posted)
        return (
            Balance(
                account=account,
                posted_nusd=posted_nusd,
                pending_nusd=0,
                deposits_nusd=0,
                period_key=Period.TOTAL.value,
            ),
        )

    async def names(self) -> tuple[str, ...]:
        """All account ids, sorted."""
        names = {name.decode() for name in await self._link.call(LINES, "HKEYS", LINES)}
        return tuple(sorted(names | {DEFAULT_ACCOUNT, HOUSE, SUSPENSE}))

    async def deposit(self, account_id: str, nusd: int, reference: str, now_ms: int) -> Balance:
        """Raise an account's budget, once per reference."""
        line = await self.line(account_id)
        if line is None:
            raise InputInvalid(f"expected an existing account, found {account_id!r}")
        tree, key = line.tree, line.account_keys()[0]
        keys = [tree.rows, tree.seq, tree.references(account_id), key]
        reply = await run(self._link, self._script, "deposit", keys, nusd, reference, MAX_NUSD, now_ms=now_ms)
        if reply[0] == b"unlimited":
            raise InputInvalid(f"expected an account with a budget, found {account_id!r} without a limit")
        if reply[0] == b"above":
            raise InputInvalid(f"expected budget and deposits of at most {MAX_NUSD} nano-dollars together")
        if reply[0] == b"before" and int(reply[1]) != nusd:
            raise InputInvalid(f"expected {int(reply[1])} for deposit {reference!r} as before, found {nusd}")
        return (await self.balances(account_id, now_ms))[0]
