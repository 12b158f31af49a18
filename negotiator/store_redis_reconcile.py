"""After a failover: give the new primary the rows that the archive has and it lost, then let the ledger open again.

Rows are replayed by the verbs that wrote them, at their own times, so the same rows come out with the same numbers.
What was acknowledged and neither replicated nor archived (the last second or two) is gone: no call can settle on a
hold that is gone, its bill goes to no account.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import orjson

from .errors import StoreError
from .store import Hold
from .store_archive import RowArchive
from .store_redis import TIMEOUT_S, RedisStore
from .store_redis_connect import Cluster, OneServer, connect
from .store_redis_guard import replication_past
from .store_redis_keys import RECONCILED, Tree
from .store_redis_link import Link
from .store_rows import Row, RowKind, account_from

__all__ = ["reconcile"]


async def reconcile(url: str, *, rows: Path, rng: random.Random) -> dict[str, int]:
    """Put back what ``rows`` has and the servers lost; gives how many rows by tree.

    Raises StoreError when the books do not fit afterwards: then the ledger stays closed.
    """
    archives = _archives(rows)
    router = await connect(url, timeout_s=TIMEOUT_S, guarded=False)
    link = Link(router, timeout_s=TIMEOUT_S, rng=rng)
    store = RedisStore(link, rows=rows, worker="reconcile")
    try:
        found = {}
        for tag, archive in archives.items():
            found[tag] = await _replay(store, link, Tree(tag), archive)
        faults = await store.audit()
        if faults:
            raise StoreError(f"the books do not fit, the ledger stays closed: {faults[0]}")
        await _open(link, router)
        return found
    finally:
        await store.aclose()


def _archives(rows: Path) -> dict[str, RowArchive]:
    """The archive of every tree, by its tag."""
    return {place.name: RowArchive(place) for place in sorted(rows.glob("*/"))}


async def _replay(store: RedisStore, link: Link, tree: Tree, archive: RowArchive) -> int:
    seq = int(await link.call(tree.seq, "GET", tree.seq) or 0)
    lost = [row for row in archive.read() if row.seq > seq]
    for number, row in enumerate(lost):
        await _again(store, row, lost[number + 1 : number + 2])
    ended = int(await link.call(tree.seq, "GET", tree.seq) or 0)
    if lost and ended != lost[-1].seq:
        raise StoreError(f"tree {tree.tag}: expected to end at row {lost[-1].seq}, found {ended}")
    return len(lost)


async def _again(store: RedisStore, row: Row, following: Sequence[Row]) -> None:
    """Do what a row says was done."""
    rid, at_ms = row.reservation_id, row.at_ms
    if row.kind == RowKind.ACCOUNT:
        await store.put_account(account_from(row.account, row.detail))
    elif row.kind == RowKind.DEPOSIT:
        await store.deposit(row.account, row.nusd, row.reference, at_ms)
    elif row.kind == RowKind.HOLD:
        hold = Hold(
            reservation_id=rid.rpartition(".")[0],
            order_id=row.reference,
            account=row.account,
            hold_nusd=row.nusd,
            hold_ms=row.until_ms - at_ms,
            digests=orjson.loads(row.detail),
        )
        await store.reserve(hold, at_ms)
    elif row.kind == RowKind.BEGIN:
        await store.begin(rid, at_ms, row.until_ms - at_ms)
    elif row.kind == RowKind.RELAYED:
        await store.relayed(rid, row.nusd)
    elif row.kind == RowKind.POST:
        house = [each.nusd for each in following if each.kind == RowKind.HOUSE and each.reservation_id == rid]
        await store.post(rid, row.nusd, at_ms, house_nusd=sum(house))
    elif row.kind in (RowKind.VOID, RowKind.EXPIRE):
        await store.void(rid, at_ms)
    elif row.kind == RowKind.SUSPENSE:
        await store.post(rid, row.nusd + await store.booked_nusd(rid), at_ms)


async def _open(link: Link, router: OneServer | Cluster) -> None:
    for client in router.clients():
        answer = await client.execute_command("INFO", "replication")  # type: ignore[no-untyped-call]
        if isinstance(answer, dict):
            answer = "\r\n".join(f"{name}:{value}" for name, value in answer.items())
        _, replid, past = replication_past(answer)
        if past:
            await link.call(RECONCILED, "SADD", RECONCILED, replid)
