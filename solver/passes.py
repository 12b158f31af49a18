"""Passes over the pairs in chunks, on a few threads of the solver's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

__all__ = ["Passes"]

CHUNK_PAIRS = 1 << 19  # pairs per chunk: small enough for the cache, large enough to release the GIL
Item = TypeVar("Item")
Result = TypeVar("Result")


class Passes:
    """Runs a function over chunks of rows on a few threads; results come back in order, so sums are
    the same for any number of threads."""

    def __init__(self, threads: int) -> None:
        self.threads = max(1, threads)
        self._pool = ThreadPoolExecutor(self.threads) if self.threads > 1 else None

    def over(self, n: int, m: int, work: Callable[[int, int], Result]) -> Iterator[Result]:
        """work(lo, hi) for consecutive ranges that cover 0..n-1, each of about CHUNK_PAIRS pairs."""
        step = max(1, CHUNK_PAIRS // max(1, m))
        ranges = [(lo, min(n, lo + step)) for lo in range(0, n, step)]
        return self.map(lambda r: work(*r), ranges)

    def map(self, work: Callable[[Item], Result], items: list[Item]) -> Iterator[Result]:
        """work(item) for every item, results in order."""

        def quiet(item: Item) -> Result:
            with np.errstate(all="ignore"):  # NEVER times a price may overflow, to infinity as it should
                return work(item)

        if self._pool is None or len(items) == 1:
            return map(quiet, items)
        return self._pool.map(quiet, items)

    def close(self) -> None:
        """Stops the threads."""
        if self._pool is not None:
            self._pool.shutdown(wait=True)
