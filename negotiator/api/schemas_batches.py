"""Files and batches: what callers may send and what they are answered, in OpenAI's shapes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..wire import Endpoint
from .schemas_words import Dollars, Exact, Open

__all__ = [
    "BatchListQuery",
    "BatchOut",
    "BatchReportOut",
    "BatchReportQuery",
    "BatchRequest",
    "BatchesOut",
    "FileDeletedOut",
    "FileForm",
    "FileListQuery",
    "FileOut",
    "FilesOut",
    "OutputExpiresAfter",
]

METADATA_KEYS = 16
METADATA_CHARS = 512
TERMS_CHARS = 4_096

Identifier = Annotated[str, Field(min_length=1, max_length=255)]
KeptSeconds = Annotated[int, Field(ge=3_600, le=2_592_000)]


class _Own(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class FileForm(_Own):
    """A file to keep. ``expires_after[seconds]`` counts from now; 30 days unless said otherwise."""

    file: Annotated[str, Field(json_schema_extra={"format": "binary"})]
    purpose: Literal["batch"]
    anchor: Annotated[Literal["created_at"] | None, Field(alias="expires_after[anchor]")] = None
    seconds: Annotated[KeptSeconds | None, Field(alias="expires_after[seconds]")] = None


class FileListQuery(_Own):
    """Which files: from behind ``after`` on, the latest first unless ``order`` is ``asc``."""

    after: Identifier | None = None
    limit: Annotated[int, Field(ge=1, le=10_000)] = 10_000
    order: Literal["asc", "desc"] = "desc"
    purpose: Literal["batch", "batch_output"] | None = None
    account: Identifier | None = None


class BatchListQuery(_Own):
    """Which batches: from behind ``after`` on, the latest first."""

    after: Identifier | None = None
    limit: Annotated[int, Field(ge=1, le=100)] = 20
    account: Identifier | None = None


class BatchReportQuery(_Own):
    """format: JSON, Markdown or a picture."""

    format: Literal["json", "markdown", "svg"] = "json"
    account: Identifier | None = None


class OutputExpiresAfter(_Own):
    """How long output and error file are kept."""

    anchor: Literal["created_at"]
    seconds: KeptSeconds


class BatchRequest(_Own):
    """A batch to run. metadata ``negotiator``: terms of every line that does not say otherwise, JSON as text, with
    ``options`` of its plans. completion_window: hours or minutes, at most 168h."""

    input_file_id: Identifier
    endpoint: Endpoint
    completion_window: Annotated[str, Field(min_length=2, max_length=8)]
    metadata: Annotated[dict[str, str], Field(max_length=METADATA_KEYS)] | None = None
    output_expires_after: OutputExpiresAfter | None = None

    @model_validator(mode="after")
    def _metadata_is_short(self) -> BatchRequest:
        for key, value in (self.metadata or {}).items():
            longest = TERMS_CHARS if key == "negotiator" else METADATA_CHARS
            if not 0 < len(key) <= 64 or len(value) > longest:
                raise ValueError(
                    f"metadata.{key[:64]}: expected a key of at most 64 and a value of at most {longest} characters,"
                    f" found {len(key)} and {len(value)}"
                )
        return self


class FileOut(Exact):
    """OpenAI's file object."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: Literal["batch", "batch_output"]
    status: Literal["processed"]


class FilesOut(Exact):
    """A page of files."""

    object: Literal["list"]
    data: list[FileOut]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeletedOut(Exact):
    """It is gone."""

    id: str
    object: Literal["file"]
    deleted: Literal[True]


class BatchOut(Open):
    """OpenAI's batch object; ``negotiator`` says what it has spent and saved, how fast it goes and what was planned."""

    id: str
    object: Literal["batch"]
    endpoint: str
    input_file_id: str
    completion_window: str
    status: Literal[
        "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
    ]
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    expires_at: int
    request_counts: dict[str, int]
    metadata: dict[str, str] | None
    negotiator: dict[str, Any]


class BatchesOut(Exact):
    """A page of batches."""

    object: Literal["list"]
    data: list[BatchOut]
    first_id: str | None
    last_id: str | None
    has_more: bool


class BatchReportOut(Open):
    """What a batch came to."""

    batch_id: str
    served: int
    refused: int
    spent_usd: Dollars
    saved_usd: dict[str, Dollars | None]
    regret_usd: Dollars | None
    compared: str
    rejects: dict[str, int]
