"""Price a batch chunk by chunk while it is read, on as many threads as pay: tokenizer and NumPy let go of the GIL."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Final, Self

from .engine_rooms import Rooms
from .order import Order
from .plan_book import PlanBook, build_book, join_books, sold_now

__all__ = ["Pricer"]

BLOCK: Final = 50
"""Chunks joined at a time: large arrays go back to the system when they go, thousands of small ones do not."""

THREADS: Final = 2
MAX_WAITING: Final = 4
"""Chunks whose orders are held at a time; the reader waits for the oldest."""


class Pricer:
    """Orders in, their book out; the book does not depend on the threads.

    accounts: every account met, numbered in the order of the lines. threaded: price beside the reader; else at once.
    """

    def __init__(self, rooms: Rooms, quantile: float, *, threaded: bool) -> None:
        self.accounts: dict[str, int] = {}
        self._rooms = rooms
        self._quantile = quantile
        self._offers = sold_now(rooms)
        self._books: list[PlanBook] = []
        self._blocks: list[PlanBook] = []
        self._waiting: deque[Future[PlanBook]] = deque()
        self._threads = ThreadPoolExecutor(THREADS, "negotiator-price") if threaded else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)

    def add(self, orders: Sequence[Order]) -> None:
        """Price the next orders; with threads it returns before they are priced, and waits where too many wait."""
        for order in orders:  # here, so that numbers follow the lines and no thread writes the dict
            self.accounts.setdefault(order.account, len(self.accounts))
        if self._threads is None:
            self._keep(self._price(orders))
            return
        self._waiting.append(self._threads.submit(self._price, orders))
        if len(self._waiting) > MAX_WAITING:
            self._keep(self._waiting.popleft().result())

    def book(self) -> PlanBook:
        """The book of all orders added, in their order."""
        while self._waiting:
            self._keep(self._waiting.popleft().result())
        if self._books or not self._blocks:
            self._blocks.append(join_books(self._books or [self._price(())]))
        return join_books(self._blocks)

    def _keep(self, book: PlanBook) -> None:
        self._books.append(book)
        if len(self._books) == BLOCK:
            self._blocks.append(join_books(self._books))

    def _price(self, orders: Sequence[Order]) -> PlanBook:
        return build_book(self._rooms, self._offers, orders, self.accounts, self._quantile)
