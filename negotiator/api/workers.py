"""Several processes on one port: the kernel spreads connections, the store in Redis keeps one ledger for all.

The parent listens to nobody. It starts the workers, starts anew one that died, and passes on the order to stop.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import tempfile
import time
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Final

from prometheus_client.multiprocess import mark_process_dead

from ..config import Config

__all__ = ["run_workers"]

logger = logging.getLogger("negotiator.api")

TOO_YOUNG_S: Final = 2.0
MAX_YOUNG_DEATHS: Final = 5
"""So many workers in a row that died within two seconds: something is wrong that starting anew does not cure."""


def run_workers(config: Config, *, quiet: bool) -> int:
    """Serve with ``config.server.workers`` processes until SIGTERM or SIGINT; gives the exit code."""
    with tempfile.TemporaryDirectory(prefix="negotiator-metrics-") as metrics:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = metrics  # read by the workers: any of them tells of all
        return _supervise(config, quiet)


def _supervise(config: Config, quiet: bool) -> int:
    context = multiprocessing.get_context("spawn")
    running: dict[BaseProcess, float] = {}
    stopping = False

    def start() -> None:
        process = context.Process(target=_work, args=(config, quiet), name="negotiator-worker")
        process.start()
        running[process] = time.monotonic()

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True
        for process in running:
            if process.is_alive():
                process.terminate()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    for _ in range(config.server.workers):
        start()
    young_deaths, failed = 0, False
    while running:
        multiprocessing.connection.wait([process.sentinel for process in running])
        for process in [process for process in running if not process.is_alive()]:
            born_s = running.pop(process)
            mark_process_dead(process.pid)  # type: ignore[no-untyped-call]
            if stopping:
                continue
            young_deaths = young_deaths + 1 if time.monotonic() - born_s < TOO_YOUNG_S else 0
            if young_deaths >= MAX_YOUNG_DEATHS or process.exitcode == 1:
                failed = True
                stop(0, None)
                continue
            logger.warning("a worker died (exit code %s); another takes its place", process.exitcode)
            start()
    return int(failed)


def _work(config: Config, quiet: bool) -> None:
    from ..errors import NegotiatorError
    from .server import serve_until_told, write_logs

    write_logs(access=not quiet)
    try:
        asyncio.run(serve_until_told(config, reuse_port=True))
    except NegotiatorError as error:
        print(f"negotiator: {error}", file=sys.stderr)
        raise SystemExit(1) from None
