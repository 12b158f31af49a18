"""Where files and batches lie on disk: a folder per account, JSON that is replaced whole, ids that sort by time."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from pathlib import Path
from typing import Any, Final

import orjson

__all__ = ["account_folder", "known_id", "made_ms", "new_id", "read_json", "write_json"]

_IDS: Final = {"file": re.compile(r"file-[0-9a-f]{24}"), "batch": re.compile(r"batch_[0-9a-f]{24}")}
_MARKS: Final = {"file": "-", "batch": "_"}


def account_folder(root: Path, account: str) -> Path:
    """An account's own folder: its name is a digest, so no account's name is a path."""
    return root / "accounts" / hashlib.blake2s(account.encode(), digest_size=12).hexdigest()


def new_id(kind: str, now_ms: int) -> str:
    """An id of a ``file`` or ``batch`` that nobody can guess; later ones sort later."""
    return f"{kind}{_MARKS[kind]}{now_ms:011x}{secrets.token_hex(7)[:13]}"


def made_ms(name: str) -> int:
    """When the id was made."""
    start = len("batch_") if name.startswith("batch_") else len("file-")
    return int(name[start : start + 11], 16)


def known_id(kind: str, text: str) -> bool:
    """Whether this may be such an id; nothing else is ever looked for on disk."""
    return _IDS[kind].fullmatch(text) is not None


def write_json(path: Path, values: Any, *, durable: bool) -> None:
    """Put a new content in place of the old: a reader, or a crash, finds one of them whole. durable: also on power loss."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(part, "wb") as file:
            file.write(orjson.dumps(values))
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def read_json(path: Path) -> Any | None:
    """What is there, None = nothing."""
    try:
        return orjson.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
