"""Vendors' batch endpoints as the house sees them: many requests handed in at once, fetched when the vendor is done.

A seller that has one carries a :class:`BatchDriver` as ``batches``. A handle is plain values, so that whoever wrote it
down can go on after a crash; a batch has a name of the house's choice, by which some vendors let it be found again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final, Protocol, runtime_checkable

from .errors import ProviderError, ProviderUnavailable
from .terms import Delta

__all__ = [
    "BATCH_TIER",
    "BatchDriver",
    "BatchHandle",
    "BatchLine",
    "BatchResult",
    "BatchState",
    "BatchStatus",
    "SellsBatches",
    "SubmitInDoubt",
    "batches_of",
]


BATCH_TIER: Final = "batch"


class SubmitInDoubt(ProviderUnavailable):
    """The connection or the vendor failed when it may have taken the batch already."""

    retryable = False


class BatchState(StrEnum):
    """RUNNING: ask again later. ENDED: results can be fetched, perhaps not of every line. FAILED: nothing was run."""

    RUNNING = "running"
    ENDED = "ended"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLine:
    """One request in the shape of OpenAI's chat or embeddings. ``line_id``: unique in its batch, of letters, digits, ``-`` and ``_``, at most 64."""

    line_id: str
    body: Mapping[str, Any]
    max_output_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchHandle:
    """What finds a batch at its vendor. ``key``: which of the seller's keys handed it in, by position."""

    provider: str
    model: str
    batch_id: str
    key: int = 0

    def out(self) -> dict[str, Any]:
        """As plain values; ``BatchHandle(**values)`` is the way back."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchStatus:
    """How far a batch is: of ``total`` lines ``done`` were answered and ``failed`` were not, as the vendor counts.

    detail: the vendor's own word. results: where its results are, for the driver that gave the status.
    """

    state: BatchState
    total: int = 0
    done: int = 0
    failed: int = 0
    detail: str = ""
    results: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchResult:
    """What became of one line: its whole answer, with usage where the vendor tells, or why there is none."""

    line_id: str
    delta: Delta | None = None
    error: ProviderError | None = None


class BatchDriver(Protocol):
    """One seller's batch endpoint. All methods raise :class:`ProviderError` only.

    max_lines, max_bytes: of one batch. window_ms: within which the vendor ends it. findable: whether :meth:`find`
    sees every batch that was handed in, so that one it does not see was not.
    """

    max_lines: int
    max_bytes: int
    window_ms: int
    findable: bool

    def encode(self, model: str, line: BatchLine) -> bytes:
        """A line as it is handed in; raises RequestRefused for what the vendor cannot honour."""
        ...

    async def submit(self, name: str, model: str, lines: Sequence[bytes]) -> BatchHandle:
        """Hand lines in as one batch. Raises SubmitInDoubt where it may have been taken all the same."""
        ...

    async def find(self, name: str, model: str, lines: int, since_ms: int) -> BatchHandle | None:
        """A batch of so many lines that was handed in under ``name`` at or after ``since_ms``."""
        ...

    async def poll(self, handle: BatchHandle) -> BatchStatus:
        """How far it is; raises RequestRefused where the vendor knows no such batch."""
        ...

    def results(self, handle: BatchHandle, status: BatchStatus) -> AsyncIterator[BatchResult]:
        """The results of a batch that ended, one by one, in any order; ``status`` is what :meth:`poll` gave last."""
        ...

    async def cancel(self, handle: BatchHandle) -> None:
        """Ask that no further line is run; what was done can be fetched once the batch has ended."""
        ...


@runtime_checkable
class SellsBatches(Protocol):
    """A seller that may have a batch endpoint."""

    @property
    def batches(self) -> BatchDriver | None:
        """Its batch endpoint, None = it has none."""
        ...

    def batch_took(self, model: str, total_ms: int) -> None:
        """Learn that a batch of this model ended so long after it was handed in: later quotes say so."""
        ...


def batches_of(seller: object) -> BatchDriver | None:
    """The batch endpoint of a seller, None = it has none."""
    return seller.batches if isinstance(seller, SellsBatches) else None
