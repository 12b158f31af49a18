"""Orders of the last 24 hours in memory, for a store without a file; :mod:`store_embedded_file` has those on disk."""

from __future__ import annotations

from collections import deque
from typing import Final

from .store_embedded_entry import Entry

__all__ = ["MemoryOrders"]

MAX_NOTE_BYTES: Final = 8 * 2**20
"""Answers and histories kept; beyond, the oldest are dropped and the ids that buyers made stay."""

MAX_OWN_ORDERS: Final = 2_500
"""Orders kept whose id the house made: nobody sends it again, so what is lost with the oldest is its history."""


class MemoryOrders:
    """An index that dies with the process."""

    def __init__(self) -> None:
        self._by_key: dict[str, Entry] = {}
        self._by_order: dict[tuple[str, str], Entry] = {}
        self._noted: dict[str, int] = {}
        self._note_bytes = 0
        self._own: deque[str] = deque()

    def get(self, account: str, order_id: str) -> Entry | None:
        """The newest entry of an order id."""
        return self._by_order.get((account, order_id))

    def by_reservation(self, reservation_id: str) -> Entry | None:
        """The entry of a hold."""
        entry = self._by_key.get(reservation_id)
        return entry if entry is not None and entry.reservation_id == reservation_id else None

    def put(self, entry: Entry) -> None:
        """Keep an entry, or what changed in it."""
        if not entry.kept:
            entry.kept = True
            self._by_key[entry.key] = entry
            self._by_order[entry.account, entry.order_id] = entry
            if entry.digests == "{}":
                self._own.append(entry.key)
                if len(self._own) > MAX_OWN_ORDERS:
                    self._drop(self._own.popleft())
        entry.response, entry.history = _trimmed(entry.response), _trimmed(entry.history)
        size = len(entry.response or b"") + len(entry.history or b"")
        self._note_bytes += size - self._noted.pop(entry.key, 0)
        if size:
            self._noted[entry.key] = size
        while self._note_bytes > MAX_NOTE_BYTES:
            oldest = next(iter(self._noted))
            self._note_bytes -= self._noted.pop(oldest)
            self._by_key[oldest].response = self._by_key[oldest].history = None

    def prune(self, before_ms: int, limit: int) -> None:
        """Forget the oldest entries that last changed before ``before_ms``."""
        for _ in range(min(limit, len(self._by_key))):
            key = next(iter(self._by_key))
            if self._by_key[key].changed_ms >= before_ms:
                break
            self._drop(key)

    def _drop(self, key: str) -> None:
        entry = self._by_key.pop(key, None)
        if entry is None:
            return
        self._note_bytes -= self._noted.pop(key, 0)
        if self._by_order.get((entry.account, entry.order_id)) is entry:
            del self._by_order[entry.account, entry.order_id]


def _trimmed(note: bytes | None) -> bytes | None:
    """The same in as much memory as it needs: what the JSON encoder gives holds several times that."""
    return None if note is None else bytes(memoryview(note))
