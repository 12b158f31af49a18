"""One process tree at a time may hold a store's file; the next one is told who does."""

from __future__ import annotations

import fcntl
import os
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path

import orjson

from .errors import StoreError, StoreLocked

__all__ = ["FileLock"]

MAX_COMMAND = 200


class FileLock:
    """An exclusive lock on ``path`` beside the database; the kernel lets go of it when the process ends."""

    def __init__(self, path: Path, now_ms: int) -> None:
        """Take it, or raise StoreLocked naming the holder; StoreError when the place cannot be written."""
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StoreError(f"{path}: expected a place to write, found: {error.strerror}") from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = _describe(os.pread(self._fd, 4096, 0))
            os.close(self._fd)
            raise StoreLocked(
                f"{path.with_suffix('')} is held by {holder}; stop it, or choose another store with --store"
            ) from None
        command = shlex.join(sys.argv)[:MAX_COMMAND]
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, orjson.dumps({"pid": os.getpid(), "command": command, "since_ms": now_ms}), 0)

    def release(self) -> None:
        """Let the next one in."""
        os.close(self._fd)


def _describe(text: bytes) -> str:
    try:
        holder = orjson.loads(text)
        since = datetime.fromtimestamp(holder["since_ms"] // 1000, UTC).isoformat(" ", "seconds")
        return f"process {holder['pid']} ({holder['command']}) since {since}"
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return "a process that is starting"
