"""Batches and plans as Parquet, beside JSONL: row groups are streamed, and neither file is ever held.

In: columns ``custom_id`` and ``body``, and where there is something to say ``method``, ``url`` and ``terms``. ``body``
and ``terms`` are JSON text or structs; what is null in a struct was not said. Out: see :func:`write_plan`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

from .errors import InputInvalid
from .plan_lines import PlanLine, RequestFile, read_lines

if TYPE_CHECKING:
    from .plan_lines import LineFault
    from .planning import PlannedBatch

__all__ = ["ParquetRequests", "is_parquet", "requests_in", "write_plan"]

COLUMNS: Final = ("custom_id", "method", "url", "body", "terms")
NEEDED: Final = ("custom_id", "body")
JSON_COLUMNS: Final = ("body", "terms")
AT_ONCE: Final = 2_000
"""Rows decoded at a time."""
GROUP_ROWS: Final = 50_000
"""Rows of a group that is written."""


def is_parquet(path: Path) -> bool:
    """Whether a file is Parquet, by its name."""
    return path.suffix.lower() in (".parquet", ".pq")


def requests_in(path: Path) -> RequestFile:
    """The requests of a file, in the format that its name says."""
    return ParquetRequests(path) if is_parquet(path) else RequestFile(path)


@dataclass(frozen=True, slots=True)
class ParquetRequests(RequestFile):
    """A Parquet file of requests; its lines are its rows, and a row's place is its number from 0.

    Raises InputInvalid when pyarrow is not installed, the file is none, or a column that is needed is not there.
    """

    def __iter__(self) -> Iterator[PlanLine | LineFault]:
        at = -1

        def rows() -> Iterator[Any]:
            nonlocal at
            for _, at, row in self.lines(0, self.rows):  # noqa: B007 - read below, when the row has been judged
                yield row

        for line in read_lines(rows()):
            yield PlanLine(line.number, line.request, at) if isinstance(line, PlanLine) else line

    @property
    def rows(self) -> int:
        """How many there are."""
        with self._opened() as file:
            return int(file.metadata.num_rows)

    @property
    def whole(self) -> tuple[int, int]:
        """All rows."""
        return 0, self.rows

    def ranges(self, size: int) -> list[tuple[int, int]]:
        """Whole row groups: ``size`` is for files that are cut anywhere."""
        with self._opened() as file:
            groups = [file.metadata.row_group(g).num_rows for g in range(file.metadata.num_row_groups)]
        ends = [sum(groups[: g + 1]) for g in range(len(groups))]
        return [(end - count, end) for count, end in zip(groups, ends, strict=True)]

    def lines(self, start: int, end: int) -> Iterator[tuple[int, int, Any]]:
        """``(number, place, row)`` of the rows ``start`` to ``end``, numbered from 1 there."""
        for place, row in self._rows_from(start, end):
            yield place - start + 1, place, row

    def sample(self, most: int) -> Iterator[tuple[int, int, Any]]:
        """At most so many rows, from the beginning of every row group."""
        groups = self.ranges(0)
        share = -(-most // max(1, len(groups)))
        for start, end in groups[:most]:
            yield from self.lines(start, min(end, start + share))

    def lines_about(self, most: int) -> int:
        """How many rows there are, exactly."""
        return self.rows

    def raw(self, offsets: Iterable[int]) -> Iterator[Any]:
        """The rows in these places; cheapest in rising order."""
        following: Iterator[tuple[int, Any]] = iter(())
        last = -AT_ONCE - 1
        for offset in offsets:
            if not last < offset <= last + AT_ONCE:
                following = self._rows_from(offset, self.rows)
            for place, row in following:
                if place == offset:
                    yield row
                    break
            else:
                raise InputInvalid(f"{self.path}: expected row {offset} as it was first read, found it gone")
            last = offset

    def _rows_from(self, start: int, end: int) -> Iterator[tuple[int, Any]]:
        with self._opened() as file:
            begins = 0
            for group in range(file.metadata.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                if begins < end and start < begins + count:
                    place = begins
                    names = [name for name in COLUMNS if name in file.schema_arrow.names]
                    for batch in file.iter_batches(AT_ONCE, [group], columns=names):
                        if start < place + batch.num_rows and place < end:
                            low = max(0, start - place)
                            part = batch.slice(low, min(end - place, batch.num_rows) - low)
                            yield from enumerate(map(_request, part.to_pylist()), start=place + low)
                        place += batch.num_rows
                begins += count

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        parquet = _parquet(self.path, "reading")
        try:
            with parquet.ParquetFile(self.path) as file:
                missing = [name for name in NEEDED if name not in file.schema_arrow.names]
                if missing:
                    found = ", ".join(file.schema_arrow.names)
                    raise InputInvalid(f"{self.path}: expected a column {missing[0]}, found {found}")
                if not file.metadata.num_rows:
                    raise InputInvalid(f"{self.path}: expected at least one request, found an empty file")
                yield file
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
            raise InputInvalid(f"{self.path}: expected a readable Parquet file, found: {reason}") from None


def write_plan(planned: PlannedBatch, path: Path) -> None:
    """The plan's lines as Parquet: the columns of the JSONL, money as decimal(19, 9), ``reject`` as JSON text.

    Raises InputInvalid when pyarrow is not installed or the file cannot be written.
    """
    parquet = _parquet(path, "writing")
    import pyarrow as pa

    text, whole, money = pa.string(), pa.int64(), pa.decimal128(19, 9)
    kinds = {
        "custom_id": text,
        "provider": text,
        "model": text,
        "tier": text,
        "slot_start_ms": whole,
        "expected_usd": money,
        "ceiling_usd": money,
        "latency_ms_p95": whole,
        "quality": pa.float64(),
        "reject": text,
    }
    schema = pa.schema(list(kinds.items()))
    rows = map(_typed, planned.rows())
    try:
        with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
            while group := list(islice(rows, GROUP_ROWS)):
                writer.write_table(pa.Table.from_pylist(group, schema), GROUP_ROWS)
    except OSError as error:
        raise InputInvalid(f"{path}: expected a writable file, found: {error.strerror or error}") from None


def _typed(row: dict[str, Any]) -> dict[str, Any]:
    for name in ("expected_usd", "ceiling_usd"):
        if row[name] is not None:
            row[name] = Decimal(row[name])
    if row["reject"] is not None:
        row["reject"] = orjson.dumps(row["reject"]).decode()
    return row


def _request(row: dict[str, Any]) -> Any:
    """A row as a line of JSONL would be decoded; what is broken in it is left for whoever judges lines."""
    request = {name: value for name, value in row.items() if value is not None}
    for name in JSON_COLUMNS:
        value = request.get(name)
        if isinstance(value, str | bytes):
            try:
                request[name] = orjson.loads(value)
            except orjson.JSONDecodeError:
                continue
        elif value is not None:
            request[name] = _said(value)
    return request


def _said(value: Any) -> Any:
    """A value without the fields of structs that are null."""
    if isinstance(value, dict):
        return {name: _said(part) for name, part in value.items() if part is not None}
    return [_said(part) for part in value] if isinstance(value, list) else value


def _parquet(path: Path, doing: str) -> Any:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise InputInvalid(
            f"{path}: {doing} Parquet needs pyarrow; pip install 'negotiator[parquet]'"
        ) from None
    return parquet
