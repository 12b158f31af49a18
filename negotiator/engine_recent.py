"""The orders of a while ago, so that they can be looked up, escalated and judged: bounded in number and in bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Final

from .engine_book import Job

__all__ = ["Recent"]

MAX_ORDERS: Final = 5_000
MAX_BYTES: Final = 4 * 2**20

BYTES_PER_BYTE: Final = 3
"""What a parsed body takes in memory per byte of its JSON, about."""

BESIDES: Final = 4 * 2**10
"""What an order takes besides its body, about."""

Key = tuple[str, str]


class Recent(Mapping[Key, Job]):
    """Jobs by account and order id; the one that came first goes first."""

    def __init__(self, max_orders: int = MAX_ORDERS, max_bytes: int = MAX_BYTES) -> None:
        self._jobs: OrderedDict[Key, tuple[Job, int]] = OrderedDict()
        self._max_orders = max_orders
        self._max_bytes = max_bytes
        self._bytes = 0

    def remember(self, job: Job) -> None:
        """Keep a job, in place of one under the same id."""
        order = job.order
        key = order.account, order.order_id
        self.pop(key)
        size = BESIDES + BYTES_PER_BYTE * job.size_bytes
        self._jobs[key] = job, size
        self._bytes += size
        while len(self._jobs) > self._max_orders or (self._bytes > self._max_bytes and len(self._jobs) > 1):
            self._bytes -= self._jobs.popitem(last=False)[1][1]

    def pop(self, key: Key) -> None:
        """Let go of a job, if it is there."""
        found = self._jobs.pop(key, None)
        if found is not None:
            self._bytes -= found[1]

    def __getitem__(self, key: Key) -> Job:
        """Raises KeyError for one that is unknown or was let go."""
        return self._jobs[key][0]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._jobs)

    def __len__(self) -> int:
        """Jobs kept."""
        return len(self._jobs)
