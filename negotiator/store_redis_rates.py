"""Rates and shared values in Redis; a provider's windows share a hash slot."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from .store import Lease, LeaseAsk, Unused
from .store_redis_keys import PREFIX
from .store_redis_link import Link, Script

__all__ = ["RedisRates", "RedisValues"]

BUCKETS = 64
"""Parts of a window, as in the embedded store."""


def _window(key: str) -> str:
    provider = key.partition(":")[0].partition("/")[0]
    return f"{PREFIX}:{{rates:{provider}}}:{key}"


class RedisRates:
    """See :class:`negotiator.store.RateStore`."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._windows = Script("store_redis_rates.lua")

    async def lease(
        self, worker: str, asks: Sequence[LeaseAsk], lease_ms: int, now_ms: int
    ) -> Sequence[Lease]:
        """One lease per ask, in order."""
        until_ms = now_ms + lease_ms
        windows = [_window(ask.key) for ask in asks]
        groups = _groups(windows)
        answers = []
        for numbers in groups:
            args: list[int] = [until_ms]
            for number in numbers:
                ask = asks[number]
                args += [ask.amount, ask.per_ms, ask.want, ask.spare]
            answers.append(self._run("lease", [windows[number] for number in numbers], worker, now_ms, args))
        granted = [0] * len(asks)
        for numbers, answer in zip(groups, await asyncio.gather(*answers), strict=True):
            for number, count in zip(numbers, answer, strict=True):
                granted[number] = int(count)
        return [
            Lease(key=ask.key, granted=count, until_ms=until_ms)
            for ask, count in zip(asks, granted, strict=True)
        ]

    async def give_back(self, worker: str, unused: Sequence[Unused], now_ms: int) -> None:
        """Return what was leased and not used, to the lease it was part of."""
        windows = [_window(each.key) for each in unused]
        answers = []
        for numbers in _groups(windows):
            args: list[int] = []
            for number in numbers:
                until_ms = unused[number].until_ms
                args += [unused[number].units, -1 if until_ms is None else until_ms]
            answers.append(
                self._run("give_back", [windows[number] for number in numbers], worker, now_ms, args)
            )
        await asyncio.gather(*answers)

    async def correct(self, key: str, remaining: int, now_ms: int) -> None:
        """The vendor's word on what is left."""
        await self._run("correct", [_window(key)], "", now_ms, [remaining])

    def _run(
        self, verb: str, windows: Sequence[str], worker: str, now_ms: int, args: Sequence[int]
    ) -> asyncio.Future[Any]:
        # twice would lease twice, or give back what was given back: only a correction may run again
        return self._link.script(
            self._windows, windows, (verb, now_ms, BUCKETS, worker, *args), again=verb == "correct"
        )


def _groups(windows: Sequence[str]) -> list[list[int]]:
    """Positions of the windows that share a slot."""
    groups: dict[str, list[int]] = {}
    for number, window in enumerate(windows):
        groups.setdefault(window.partition("}")[0], []).append(number)
    return list(groups.values())


class RedisValues:
    """See :class:`negotiator.store.SharedStore`."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._lead = Script("store_redis_lead.lua")

    async def publish(self, key: str, value: bytes, ttl_ms: int | None = None) -> None:
        """Set a value for everybody."""
        name = f"{PREFIX}:shared:{key}"
        words = ("SET", name, value) if ttl_ms is None else ("SET", name, value, "PX", ttl_ms)
        await self._link.call(name, *words)

    async def read(self, key: str) -> bytes | None:
        """The value, None = never set or expired."""
        name = f"{PREFIX}:shared:{key}"
        value: bytes | None = await self._link.call(name, "GET", name)
        return value

    async def put_entry(self, table: str, key: str, value: bytes | None) -> None:
        """Set or (None) remove an entry of a table."""
        name = f"{PREFIX}:table:{table}"
        await self._link.call(name, *(("HDEL", name, key) if value is None else ("HSET", name, key, value)))

    async def entry(self, table: str, key: str) -> bytes | None:
        """One entry of a table."""
        name = f"{PREFIX}:table:{table}"
        value: bytes | None = await self._link.call(name, "HGET", name, key)
        return value

    async def entries(self, table: str) -> Mapping[str, bytes]:
        """All entries of a table."""
        name = f"{PREFIX}:table:{table}"
        flat = await self._link.call(name, "HGETALL", name)
        return {key.decode(): value for key, value in zip(flat[::2], flat[1::2], strict=True)}

    async def lead(self, role: str, holder: str, ttl_ms: int, now_ms: int) -> int | None:
        """Become or stay the leader of a role."""
        token = await self._link.script(
            self._lead, [f"{PREFIX}:lead:{role}"], (holder, now_ms, now_ms + ttl_ms)
        )
        return None if token is None else int(token)
