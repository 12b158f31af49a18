"""The market maker as a process of its own: one line in, one line of prices out.

Started by :class:`negotiator.market_maker_process.MarketMakerProcess`. The first line says what to do. Beside a worker
with an embedded store every further line is a report. With a store that others share a line is only a beat: reports
are read from the store, prices are published there, and while another process leads the answer is empty. It ends
when its input does, so it never outlives whoever started it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from dataclasses import dataclass
from typing import IO

import orjson

from providers.clock import Clock, SystemClock
from providers.terms import RateKind

from .errors import StoreUnavailable
from .events import discard
from .limits import LimitRow, ShadowPrices
from .market_maker import MarketMaker, prices_to_bytes
from .market_maker_demand import DemandReport
from .market_maker_shared import SharedMarketMaker
from .store_open import open_store

__all__ = ["Instructions", "main", "serve"]

logger = logging.getLogger("negotiator.market_maker")


@dataclass(frozen=True, slots=True, kw_only=True)
class Instructions:
    """What a child is told first. store: the URL others share, None = reports come by the pipe. It travels here and
    not among the arguments, where anybody on the machine could read its password. holder: a name nobody else leads by."""

    rows: tuple[LimitRow, ...]
    epoch: int
    reprice_ms: int
    store: str | None = None
    holder: str = ""

    def to_bytes(self) -> bytes:
        """As one line of JSON."""
        rows = [
            [r.name, r.provider, r.kind, r.amount, r.per_ms, None if r.models is None else sorted(r.models)]
            for r in self.rows
        ]
        return orjson.dumps(
            {
                "rows": rows,
                "epoch": self.epoch,
                "reprice_ms": self.reprice_ms,
                "store": self.store,
                "holder": self.holder,
            }
        )

    @classmethod
    def from_bytes(cls, line: bytes) -> Instructions:
        """The instructions in a line."""
        told = orjson.loads(line)
        rows = tuple(
            LimitRow(name, provider, RateKind(kind), amount, per_ms, models and frozenset(models))
            for name, provider, kind, amount, per_ms, models in told.pop("rows")
        )
        return cls(rows=rows, **told)


def serve(lines: IO[bytes], answers: IO[bytes], clock: Clock) -> None:
    """Answer every line with prices, or with an empty line where there are none; returns at the end of the input."""
    told = Instructions.from_bytes(lines.readline())
    if told.store is None:
        maker = MarketMaker(told.rows, epoch=told.epoch)
        for line in lines:
            maker.observe(DemandReport.from_bytes(line))
            _answer(answers, maker.reprice(clock.now_ms()))
        return
    with asyncio.Runner() as runner:
        store = runner.run(open_store(told.store, clock=clock))
        shared = SharedMarketMaker(store, told.holder, told.rows, clock, discard)
        for _ in lines:
            prices = None
            try:
                prices = runner.run(shared.step(told.reprice_ms))
            except StoreUnavailable as error:
                logger.warning("no prices while the store is away: %s", error)
            _answer(answers, prices)
        runner.run(store.aclose())


def _answer(answers: IO[bytes], prices: ShadowPrices | None) -> None:
    answers.write((b"" if prices is None else prices_to_bytes(prices)) + b"\n")
    answers.flush()


def main() -> None:
    """Serve on the standard streams, until whoever started it is gone."""
    try:
        serve(sys.stdin.buffer, sys.stdout.buffer, SystemClock())
    except BrokenPipeError:
        os._exit(0)  # nobody is left to answer, nor to read what closing the stream would complain of


if __name__ == "__main__":
    main()
