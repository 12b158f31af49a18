"""Uploaded and written files: each belongs to one account, is streamed to disk, and goes when its time is over."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Literal, Self

from providers.clock import Clock

from .batch_disk import account_folder, known_id, made_ms, new_id, read_json, write_json
from .errors import InputInvalid

__all__ = ["FILE_KEPT_S", "StorageFull", "StoredFile", "StoredFiles", "Upload"]

FILE_KEPT_S: Final = 30 * 86_400
"""How long a file is kept unless its owner says otherwise."""

MAX_FILES: Final = 10_000
"""Files of one account."""

LEFT_BEHIND_MS: Final = 3_600_000
"""After so long a part of an upload belongs to nobody."""

Purpose = Literal["batch", "batch_output"]


class StorageFull(InputInvalid):
    """A file is larger than files may be, or its account keeps more than it may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A file and whose it is."""

    file_id: str
    account: str
    filename: str
    purpose: Purpose
    size_bytes: int
    created_ms: int
    expires_ms: int

    def out(self) -> dict[str, Any]:
        """OpenAI's file object."""
        return {
            "id": self.file_id,
            "object": "file",
            "bytes": self.size_bytes,
            "created_at": self.created_ms // 1000,
            "expires_at": self.expires_ms // 1000,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
        }


class Upload:
    """A file on its way to disk: :meth:`write` its parts, then :meth:`keep` it; leaving without throws it away."""

    def __init__(self, files: StoredFiles, account: str, room_bytes: int, part: Path) -> None:
        self._files = files
        self._account = account
        self._room_bytes = room_bytes
        self._part = part
        self._file: BinaryIO = open(part, "wb")  # noqa: SIM115 - closed by __exit__
        self.size_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._part.unlink(missing_ok=True)

    def write(self, data: bytes) -> None:
        """Append. Raises StorageFull for more than is allowed, InputInvalid when the disk takes no more."""
        self.size_bytes += len(data)
        if self.size_bytes > self._room_bytes:
            raise StorageFull(
                f"file: expected at most {self._files.max_file} bytes, and all of an account's at most "
                f"{self._files.max_stored}, found more"
            )
        try:
            self._file.write(data)
        except OSError as error:
            raise InputInvalid(f"file: cannot be stored: {error.strerror}") from None

    def keep(
        self, filename: str, purpose: Purpose, *, kept_s: int = FILE_KEPT_S, file_id: str | None = None
    ) -> StoredFile:
        """Make it a file. file_id: one made before, so that doing it again gives the same file."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._files.enter(self._account, self._part, filename, purpose, kept_s, file_id)


class StoredFiles:
    """All files under one folder. max_file, max_stored: bytes of one, and of all of an account."""

    def __init__(self, root: Path, clock: Clock, *, max_file: int, max_stored: int) -> None:
        self.max_file = max_file
        self.max_stored = max_stored
        self._root = root
        self._clock = clock

    def begin(self, account: str, *, own: bool = False) -> Upload:
        """Take a file in. own: the house's output, which no bound keeps out.

        Raises StorageFull for an account that has too much already.
        """
        uploads = self._root / "uploads"
        uploads.mkdir(parents=True, exist_ok=True)
        part = uploads / new_id("file", self._clock.now_ms())
        if own:
            return Upload(self, account, 1 << 62, part)
        kept = list(self._of(account))
        room_bytes = self.max_stored - sum(file.size_bytes for file in kept)
        if room_bytes <= 0 or len(kept) >= MAX_FILES:
            raise StorageFull(
                f"file: expected less than {self.max_stored} bytes in less than {MAX_FILES} files of an account, "
                f"found {self.max_stored - room_bytes} in {len(kept)}; delete some"
            )
        return Upload(self, account, min(self.max_file, room_bytes), part)

    def enter(
        self, account: str, part: Path, filename: str, purpose: Purpose, kept_s: int, file_id: str | None
    ) -> StoredFile:
        """Make a part that is whole a file; the part stays."""
        now_ms = self._clock.now_ms()
        file = StoredFile(
            file_id=file_id or new_id("file", now_ms),
            account=account,
            filename=filename,
            purpose=purpose,
            size_bytes=part.stat().st_size,
            created_ms=now_ms,
            expires_ms=now_ms + 1000 * kept_s,
        )
        content = self.content(file)
        content.parent.mkdir(parents=True, exist_ok=True)
        content.unlink(missing_ok=True)
        os.link(part, content)
        write_json(content.with_suffix(".json"), asdict(file), durable=True)
        return file

    def find(self, account: str, file_id: str) -> StoredFile | None:
        """A file of this account, None = it has no such file, or not any more."""
        if not known_id("file", file_id):
            return None
        kept = read_json(account_folder(self._root, account) / "files" / f"{file_id}.json")
        file = None if kept is None else StoredFile(**kept)
        return None if file is None or file.expires_ms <= self._clock.now_ms() else file

    def content(self, file: StoredFile) -> Path:
        """Where its bytes are."""
        return account_folder(self._root, file.account) / "files" / f"{file.file_id}.jsonl"

    def page(
        self, account: str, *, after: str | None, limit: int, oldest_first: bool, purpose: str | None
    ) -> tuple[list[StoredFile], bool]:
        """Files in the order they came, from behind ``after`` on; and whether there are more."""
        files = [file for file in self._of(account) if purpose in (None, file.purpose)]
        files.sort(key=lambda file: file.file_id, reverse=not oldest_first)
        if after is not None:
            files = [
                file for file in files if (file.file_id > after) == oldest_first and file.file_id != after
            ]
        return files[:limit], len(files) > limit

    def remove(self, file: StoredFile) -> None:
        """Forget it; a batch that runs on it goes on."""
        content = self.content(file)
        content.with_suffix(".json").unlink(missing_ok=True)
        content.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what has expired, and what uploads left that broke off."""
        now_ms = self._clock.now_ms()
        for folder in self._root.glob("accounts/*/files"):
            for file in self._in(folder):
                if file.expires_ms <= now_ms:
                    self.remove(file)
        for part in self._root.glob("uploads/*"):
            if now_ms - made_ms(part.name) > LEFT_BEHIND_MS:
                part.unlink(missing_ok=True)

    def link(self, file: StoredFile, path: Path) -> None:
        """Keep a file's bytes at another place too, whatever becomes of the file."""
        try:
            os.link(self.content(file), path)
        except OSError:
            shutil.copyfile(self.content(file), path)

    def _of(self, account: str) -> Iterator[StoredFile]:
        now_ms = self._clock.now_ms()
        files = self._in(account_folder(self._root, account) / "files")
        return (file for file in files if file.expires_ms > now_ms)

    @staticmethod
    def _in(folder: Path) -> Iterator[StoredFile]:
        for path in folder.glob("file-*.json"):
            kept = read_json(path)
            if kept is not None:
                yield StoredFile(**kept)
