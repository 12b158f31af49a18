"""A log of orders for later questions: one JSON line per order, its quotes, what it cost and how good it was; no prompts.

A subscriber of the event bus: it takes a line at once and writes in batches. ``negotiator report`` and ``replay`` read it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import orjson

from .errors import InputInvalid
from .events import Event
from .limits import LimitRow

__all__ = ["OrderLog", "read_log"]

BATCH: Final = 200
"""Lines kept before they are written."""

_KEPT: Final = {"order.recorded": "order", "order.judged": "judged", "capacity.ejected": "ejected"}


class OrderLog:
    """Appends to a file; subscribe :meth:`note`, :meth:`flush` at the end."""

    def __init__(self, path: str | Path, rows: Sequence[LimitRow], at_ms: int) -> None:
        self.path = Path(path)
        self._waiting: list[bytes] = []
        self.dropped = 0
        limits = [{**asdict(row), "models": row.models and sorted(row.models)} for row in rows]
        self._take({"type": "market", "at_ms": at_ms, "limits": limits})
        self.flush()

    def note(self, event: Event) -> None:
        """Keep an event if it is one of those a report needs."""
        kind = _KEPT.get(event.name)
        if kind is not None:
            self._take({"type": kind, "at_ms": event.at_ms, **event.facts})
            if len(self._waiting) >= BATCH:
                self.flush()

    def flush(self) -> None:
        """Write what waits; a disk that is full costs lines of the log and never an order."""
        lines, self._waiting = self._waiting, []
        try:
            with self.path.open("ab") as file:
                file.write(b"".join(lines))
        except OSError:
            self.dropped += len(lines)

    def _take(self, line: Mapping[str, Any]) -> None:
        self._waiting.append(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))


def read_log(path: str | Path) -> Iterator[dict[str, Any]]:
    """The lines of a log. Raises InputInvalid naming the line that is none; a torn last line is passed over."""
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    read = orjson.loads(line)
                    if not isinstance(read, dict) or "type" not in read:
                        raise ValueError("no type")
                except ValueError as error:
                    if line.endswith(b"\n"):
                        raise InputInvalid(
                            f"{path}:{number}: expected a line of an order log, found: {error}"
                        ) from None
                    return
                yield read
    except OSError as error:
        raise InputInvalid(f"{path}: expected a readable order log, found: {error.strerror}") from None
