"""Files and batches of a house over HTTP: the part of :class:`negotiator.AsyncClient` that deals with them."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import aiohttp
import orjson

from providers.sse import EventReader

from .client_http import Connection
from .client_requests import answered, id_out, known, terms_out
from .errors import InputInvalid, ServerUnreachable
from .money import parse_usd
from .wire import CHAT, Endpoint, Terms, options_from

__all__ = ["BatchCalls", "BatchState", "FileState"]

ENDED: Final = frozenset({"completed", "failed", "expired", "cancelled"})
BLOCK_BYTES: Final = 2**20
PAGE: Final = 100


@dataclass(frozen=True, slots=True)
class FileState:
    """A file that a house keeps."""

    file_id: str
    filename: str
    purpose: str
    size_bytes: int

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Self:
        """From OpenAI's file object."""
        return cls(entry["id"], entry["filename"], entry["purpose"], entry["bytes"])


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchState:
    """Where a batch stands. eta_s: None = nobody knows; raw: the whole object as the house sent it.

    saved_nusd: against the dearest offer that met each line's terms. in_doubt_nusd: held for calls that a crash cut off.
    """

    batch_id: str
    status: str
    total: int
    completed: int
    failed: int
    output_file_id: str | None
    error_file_id: str | None
    spent_nusd: int
    saved_nusd: int
    in_doubt_nusd: int
    per_second: float
    eta_s: int | None
    raw: Mapping[str, Any]

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.status in ENDED

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Self:
        """From OpenAI's batch object with ours beside it."""
        ours, counts = entry["negotiator"], entry["request_counts"]
        return cls(
            batch_id=entry["id"],
            status=entry["status"],
            total=counts["total"],
            completed=counts["completed"],
            failed=counts["failed"],
            output_file_id=entry["output_file_id"],
            error_file_id=entry["error_file_id"],
            spent_nusd=parse_usd(ours.get("spent_usd", "0")),
            saved_nusd=parse_usd(ours.get("saved_usd", "0")),
            in_doubt_nusd=parse_usd(ours.get("in_doubt_usd", "0")),
            per_second=ours.get("per_second", 0.0),
            eta_s=ours.get("eta_s"),
            raw=entry,
        )


class BatchCalls:
    """The calls. Every one raises Rejected, ServerRefused or ServerUnreachable."""

    _house: Connection

    async def upload_file(self, path: str | Path) -> FileState:
        """Send a file of requests, one JSON object a line; it is streamed, never held. Raises InputInvalid."""
        source = Path(path)

        def form() -> aiohttp.FormData:
            made = aiohttp.FormData({"purpose": "batch"})
            try:
                made.add_field("file", open(source, "rb"), filename=source.name)  # noqa: SIM115 - aiohttp closes it
            except OSError as error:
                raise InputInvalid(f"{source}: expected a readable file, found: {error.strerror}") from None
            return made

        with known():
            return answered(FileState.of, await self._house.call("POST", "/v1/files", form, repeatable=False))

    async def files(self) -> list[FileState]:
        """Every file of the account, the latest first."""
        found = await self._house.call("GET", "/v1/files")
        return answered(lambda listed: [FileState.of(entry) for entry in listed["data"]], found)

    async def download_file(self, file_id: str, to: str | Path) -> int:
        """Write a file's bytes to ``to``, some at a time; gives how many. Raises InputInvalid."""
        response = await self._house.open(f"/v1/files/{id_out(file_id)}/content", None, method="GET")
        try:
            size_bytes = 0
            with _writable(Path(to)) as file:
                async for block in response.content.iter_chunked(BLOCK_BYTES):
                    size_bytes += file.write(block)
            return size_bytes
        except aiohttp.ClientError as error:
            raise ServerUnreachable(f"the file broke off: {error or type(error).__name__}") from error
        finally:
            response.close()

    async def delete_file(self, file_id: str) -> None:
        """Remove a file; a batch that runs on it goes on."""
        await self._house.call("DELETE", f"/v1/files/{id_out(file_id)}")

    async def create_batch(
        self,
        /,
        input_file_id: str,
        *,
        endpoint: Endpoint = CHAT,
        window: str = "24h",
        terms: Terms | None = None,
        metadata: Mapping[str, str] | None = None,
        **options: Any,
    ) -> BatchState:
        """Run a file of requests within ``window`` (``24h``, ``90m``); sent again it is the same batch.

        endpoint: of every line. terms: of every line that does not say otherwise. options: of its plans, as in :class:`negotiator.wire.PlanOptions`.
        Raises InputInvalid.
        """
        ours = terms_out(terms)
        if options:
            ours["options"] = options_from(options).model_dump(mode="json", exclude_unset=True)
        said = dict(metadata or {}) | ({"negotiator": orjson.dumps(ours).decode()} if ours else {})
        asked = {
            "input_file_id": input_file_id,
            "endpoint": endpoint,
            "completion_window": window,
            "metadata": said or None,
        }
        with known():
            made = await self._house.call("POST", "/v1/batches", asked, key=uuid.uuid4().hex)
        return answered(BatchState.of, made)

    async def batch(self, batch_id: str) -> BatchState:
        """Where a batch stands."""
        return answered(BatchState.of, await self._house.call("GET", f"/v1/batches/{id_out(batch_id)}"))

    async def batches(self) -> list[BatchState]:
        """Every batch of the account, the latest first."""
        found: list[BatchState] = []
        query = {"limit": str(PAGE)}
        while True:
            page = answered(dict, await self._house.call("GET", "/v1/batches", query=query))
            found += [BatchState.of(entry) for entry in page["data"]]
            if not page["has_more"]:
                return found
            query["after"] = found[-1].batch_id

    async def cancel_batch(self, batch_id: str) -> BatchState:
        """Begin nothing more of it; it is ``cancelling`` until what is in flight has ended."""
        return answered(
            BatchState.of, await self._house.call("POST", f"/v1/batches/{id_out(batch_id)}/cancel")
        )

    async def batch_events(self, batch_id: str) -> AsyncGenerator[BatchState]:
        """The batch every time it has changed, at most once a second; the last time when it has ended."""
        response = await self._house.open(f"/v1/batches/{id_out(batch_id)}/events", None, method="GET")
        reader = EventReader()
        try:
            async for data in response.content.iter_any():
                for event in reader.feed(data):
                    yield answered(BatchState.of, event.data)
        except aiohttp.ClientError as error:
            raise ServerUnreachable(f"the stream broke off: {error or type(error).__name__}") from error
        finally:
            response.close()

    async def batch_report(self, batch_id: str) -> dict[str, Any]:
        """What a batch came to, or has come to so far."""
        return answered(dict, await self._house.call("GET", f"/v1/batches/{id_out(batch_id)}/report"))


def _writable(path: Path) -> Any:
    try:
        return open(path, "wb")
    except OSError as error:
        raise InputInvalid(f"{path}: expected a writable file, found: {error.strerror}") from None
