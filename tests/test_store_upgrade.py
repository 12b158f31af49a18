"""Stores written by the first releases of each schema (tests/golden) open, add up, and go on."""

from __future__ import annotations

import base64
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import valkey
import valkey_servers

from negotiator.order import Reservation
from negotiator.store import Hold, Store
from negotiator.store_open import open_store
from providers.clock import SystemClock

GOLDEN = Path(__file__).parent / "golden"
BALANCES = json.loads((GOLDEN / "store_balances.json").read_text(encoding="utf-8"))
RELAYED_NUSD = 1_234_567
"""What had reached the buyer of the one call that was in flight when the old process died."""

HOUR_MS = 3_600_000


@asynccontextmanager
async def embedded(folder: Path) -> AsyncIterator[Store]:
    path = folder / "ledger.db"
    with sqlite3.connect(path) as file:
        file.executescript((GOLDEN / "store_embedded_1.sql").read_text(encoding="utf-8"))
    file.close()
    store = await open_store(f"embedded://{path}", clock=SystemClock())
    try:
        yield store
    finally:
        await store.aclose()


@asynccontextmanager
async def redis(folder: Path) -> AsyncIterator[Store]:
    with valkey_servers.one_server_url() as url:
        with valkey.Valkey(port=int(url.rpartition(":")[2].partition("/")[0])) as client:
            keys = json.loads((GOLDEN / "store_redis_1.json").read_text(encoding="utf-8"))["keys"]
            for key, (ttl_ms, dump) in keys.items():
                client.restore(key, max(0, ttl_ms), base64.b64decode(dump))
        store = await open_store(f"{url}?rows={folder / 'rows'}", clock=SystemClock())
        try:
            yield store
        finally:
            await store.aclose()


@pytest.mark.parametrize("opened", [embedded, redis])
async def test_an_old_store_opens_adds_up_and_goes_on(opened, tmp_path: Path) -> None:
    """The audit fits; what was in flight posts what was relayed, what had not begun expires; old answers replay;
    new orders are taken."""
    now_ms = SystemClock().now_ms() + HOUR_MS
    async with opened(tmp_path) as store:
        await store.sweep(now_ms)
        assert list(await store.audit()) == []
        for account, (posted_nusd, pending_nusd, deposits_nusd) in BALANCES.items():
            balance = (await store.balances(account, now_ms))[0]
            assert balance.deposits_nusd == deposits_nusd
            if account == "team":
                assert (balance.posted_nusd, balance.pending_nusd) == (posted_nusd + RELAYED_NUSD, 0)
            elif pending_nusd == 0:
                assert balance.posted_nusd == posted_nusd
        assert await store.entry("keys", "k1") == b'{"digest": "x"}'
        record = await store.find_order("team", "o0")
        assert record is None or record.response == b'{"answer": 1}', "kept a day, and then gone"
        fresh = await store.reserve(
            Hold(reservation_id="r9", order_id="o9", account="team", hold_nusd=500, hold_ms=60_000), now_ms
        )
        assert isinstance(fresh, Reservation)
        await store.begin(fresh.reservation_id, now_ms, 60_000)
        await store.post(fresh.reservation_id, 400, now_ms)
        assert list(await store.audit()) == []


async def test_a_file_of_a_later_schema_is_refused_by_name(tmp_path: Path) -> None:
    """Downgrades are not guessed at."""
    from negotiator.errors import StoreError

    path = tmp_path / "ledger.db"
    with sqlite3.connect(path) as file:
        file.execute("PRAGMA user_version = 99")
    file.close()
    with pytest.raises(StoreError, match="schema 99"):
        await open_store(f"embedded://{path}", clock=SystemClock())
