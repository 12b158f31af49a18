"""``negotiator serve`` that can be killed between any two rooms: ``python tests/fault_points.py serve ...``.

A process that comes to a point named by a file in the folder ``$FAULT_POINTS`` takes the file away and kills itself
with SIGKILL: nothing is flushed, closed or said. ``$FAULT_STALE_MS`` makes prices stale sooner. Workers are
spawned and load this module too, so the points are in all of them; the product knows nothing of it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import negotiator.clearing
import negotiator.engine_corridor
import negotiator.execution_call
from negotiator.store_embedded import EmbeddedStore
from negotiator.store_redis import RedisStore

__all__ = ["POINTS", "arm"]

VERBS: Final = ("reserve", "post")
POINTS: Final = (
    "after quotes",
    "after choice",
    *(f"{when} {verb}" for verb in VERBS for when in ("before", "after")),
    "after first token",
)
"""Where a worker may be killed, in the order of rooms (``after first token`` is between reserve and post)."""


def arm(folder: Path, point: str) -> None:
    """The next process that comes to the point dies there."""
    assert point in POINTS
    (folder / point).touch()


def _maybe_die(folder: Path, point: str) -> None:
    if not point:
        return
    try:
        os.unlink(folder / point)
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def _install(folder: Path) -> None:
    def wrap(
        owner: Any, name: str, before: str, after: str, when: Callable[[Any], bool] | None = None
    ) -> None:
        inner = getattr(owner, name)

        async def mortal(*given: Any, **named: Any) -> Any:
            _maybe_die(folder, before)
            answer = await inner(*given, **named)
            _maybe_die(folder, after)
            return answer

        def mortal_at_once(*given: Any, **named: Any) -> Any:
            answer = inner(*given, **named)
            if when is None or when(given[0]):
                _maybe_die(folder, after)
            return answer

        at_once = owner in (negotiator.clearing.Clearing, negotiator.execution_call.Call)
        setattr(owner, name, mortal_at_once if at_once else mortal)

    for verb in VERBS:
        for store in (EmbeddedStore, RedisStore):
            wrap(store, verb, f"before {verb}", f"after {verb}")
    wrap(negotiator.engine_corridor, "ask", "", "after quotes")
    wrap(negotiator.clearing.Clearing, "choose", "", "after choice")
    wrap(negotiator.execution_call.Call, "add", "", "after first token", lambda call: bool(call.started))


if "FAULT_POINTS" in os.environ:
    _install(Path(os.environ["FAULT_POINTS"]))
if "FAULT_STALE_MS" in os.environ:
    negotiator.clearing.STALE_MS = int(os.environ["FAULT_STALE_MS"])  # type: ignore[misc]

if __name__ == "__main__":
    from negotiator.cli import main

    main()
