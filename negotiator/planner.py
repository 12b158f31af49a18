"""A process beside a server that solves plans: it dies with its server, and another takes its place when it dies.

What starts processes is imported with the first plan: most servers make none.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future
from typing import Any

__all__ = ["PlannerProcess"]


class PlannerProcess(Executor):
    """One spawned process, started by the first plan. A plan in it when it dies raises BrokenProcessPool."""

    def __init__(self) -> None:
        self._pool: Executor | None = None

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Have it done there."""
        if self._pool is None:
            self._pool = _pool()
        try:
            return self._pool.submit(work, *args, **kwargs)
        except BrokenExecutor:
            self._pool = _pool()
            return self._pool.submit(work, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let it go."""
        if self._pool is not None:
            self._pool.shutdown(wait, cancel_futures=cancel_futures)


def _pool() -> Executor:
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=context, initializer=_end_with_parent)


def _end_with_parent() -> None:
    """A server that is killed tells nobody: without this its planner would wait for work for ever."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    import multiprocessing.connection

    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)
