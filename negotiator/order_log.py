"""A log of orders for later questions: one JSON line per order, its quotes, what it cost and how good it was; no prompts.

A subscriber of the event bus. It keeps a line at once and writes in batches, whole lines at a time, so that several
processes may share a file. ``negotiator report``, ``replay`` and ``export`` read it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import orjson

from providers.terms import RFQ, Usage

from .errors import InputInvalid
from .events import Event
from .limits import LimitRow
from .order import Completion, Order

__all__ = ["OrderLog", "asked_kept", "read_log", "used_kept"]

BATCH: Final = 200
"""Lines kept before they are written."""

MAX_KEPT: Final = 20_000
"""Orders out of hand whose facts are kept until they end; of more, the oldest's are forgotten."""

FLUSH_S: Final = 1.0
"""How long a line may wait for others."""

_KEPT: Final = {
    "order.recorded": "order",
    "order.judged": "judged",
    "capacity.ejected": "ejected",
    "capacity.recovered": "recovered",
}


class OrderLog:
    """Appends to a file; subscribe :meth:`note`, :meth:`flush` at the end.

    config: of the market, as JSON without secrets. look: what else is known of an order, by account and id.
    """

    def __init__(
        self,
        path: str | Path,
        rows: Sequence[LimitRow],
        at_ms: int,
        *,
        config: Mapping[str, Any] | None = None,
        look: Callable[[str, str], Mapping[str, Any]] = lambda account, order_id: {},
    ) -> None:
        self.path = Path(path)
        self.dropped = 0
        self._look = look
        self._kept: OrderedDict[tuple[str, str], Mapping[str, Any]] = OrderedDict()
        self._waiting: list[bytes] = []
        self._due = False
        limits = [{**asdict(row), "models": row.models and sorted(row.models)} for row in rows]
        self._take({"type": "market", "at_ms": at_ms, "limits": limits, "config": config})
        self.flush()

    def note(self, event: Event) -> None:
        """Keep an event if it is one of those a report needs."""
        kind = _KEPT.get(event.name)
        if kind is None:
            return
        facts = event.facts
        more: Mapping[str, Any] = {}
        if kind == "order":
            key = facts["account"], facts["order_id"]
            more = self._look(*key) or self._kept.pop(key, {})
        self._take({"type": kind, "at_ms": event.at_ms, **more, **facts})
        if len(self._waiting) >= BATCH:
            self.flush()
        elif not self._due:
            self._due = True
            asyncio.get_running_loop().call_later(FLUSH_S, self.flush)

    def keep(self, account: str, order_id: str) -> None:
        """Look now: the order goes out of hand, and what is known of it beside its history goes with it."""
        self._kept[account, order_id] = self._look(account, order_id)
        if len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)

    def flush(self) -> None:
        """Write what waits; a disk that is full costs lines of the log and never an order."""
        lines, self._waiting, self._due = self._waiting, [], False
        try:
            with self.path.open("ab", buffering=0) as file:  # one write: lines of other processes stay whole
                file.write(b"".join(lines))
        except OSError:
            self.dropped += len(lines)

    def _take(self, line: Mapping[str, Any]) -> None:
        self._waiting.append(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))


def asked_kept(order: Order, rfq: RFQ | None, done: Completion | None) -> dict[str, Any]:
    """What a replay needs of an order beside its history: sizes and terms, what the answer used; never its words.

    A session is kept as a digest, enough to know it again.
    """
    session = (
        None if order.session is None else hashlib.blake2s(order.session.encode(), digest_size=8).hexdigest()
    )
    return {
        "asked": {
            "input_tokens": None if rfq is None else rfq.input_tokens,
            "capabilities": [] if rfq is None else sorted(rfq.capabilities),
            "max_output_tokens": order.max_output_tokens,
            "named": order.named,
            "budget_nusd": order.budget_nusd,
            "value_nusd": order.value_nusd,
            "quality_margin": order.quality_margin,
            "deadline_ms": order.deadline_ms,
            "ttft_ms": order.ttft_ms,
            "tiers": order.tiers,
            "models": order.models,
            "exclude": order.exclude,
            "require": sorted(order.require),
            "session": session,
            "session_premium": order.session_premium,
            "rounds": order.rounds,
        },
        "used": None if done is None else used_kept(done.usage),
    }


def used_kept(usage: Usage) -> dict[str, int]:
    """What an answer used."""
    return {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cache_read_tokens": usage.cache_read_tokens,
    }


def read_log(path: str | Path, offset: int = 0) -> Iterator[dict[str, Any]]:
    """The lines of a log from a byte on. Raises InputInvalid naming the line that is none; a torn last one is passed over."""
    try:
        with open(path, "rb") as file:
            file.seek(offset)
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
