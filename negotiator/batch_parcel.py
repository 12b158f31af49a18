"""What was handed to a vendor as one batch: written down line by line before it goes, so that a crash forgets nothing.

A parcel is a file of JSON lines: the hold and the quote of each line, then ``sending`` when the vendor is about to be
told, then ``sent`` with what finds the batch again. A parcel without ``sending`` was never with a vendor.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import orjson

from providers.batch import BatchHandle
from providers.terms import Rates

from .errors import InputInvalid
from .order import Candidate, QualityEstimate, Reservation

__all__ = ["Parcel", "ParcelLine", "parcels_in"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ParcelLine:
    """One line of a parcel: whose it is, what holds its money, what was quoted, and its history so far.

    dearest_nusd: the expected price of the dearest offer that met its terms.
    """

    number: int
    custom_id: str
    order_id: str
    account: str
    task: str | None
    reservation_id: str
    hold_nusd: int
    quote_id: str
    rates: Rates
    expected_nusd: int
    ceiling_nusd: int
    dearest_nusd: int
    input_tokens: int
    quality: QualityEstimate
    history: Mapping[str, Any]

    @property
    def reservation(self) -> Reservation:
        """The hold, as the ledger names it."""
        return Reservation(
            reservation_id=self.reservation_id,
            order_id=self.order_id,
            account=self.account,
            hold_nusd=self.hold_nusd,
            expires_ms=0,
        )

    @classmethod
    def of(cls, custom_id: str, number: int, reservation: Reservation, award: Candidate, **more: Any) -> Self:
        """The line of an order that was let in; more: task, dearest_nusd and history."""
        return cls(
            number=number,
            custom_id=custom_id,
            order_id=reservation.order_id,
            account=reservation.account,
            reservation_id=reservation.reservation_id,
            hold_nusd=reservation.hold_nusd,
            quote_id=award.quote.quote_id,
            rates=award.quote.rates,
            expected_nusd=award.expected_nusd,
            ceiling_nusd=award.ceiling_nusd,
            input_tokens=award.quote.input_tokens,
            quality=award.estimate,
            **more,
        )

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Self:
        """A line as it was written down."""
        made = {"rates": Rates(**values["rates"]), "quality": QualityEstimate(**values["quality"])}
        return cls(**{**values, **made})


class Parcel:
    """One parcel and its file. ``name``: by which its vendor may find it. ``deadline_ms``: of all its lines, None = none."""

    def __init__(
        self, path: Path, provider: str, model: str, *, began_ms: int, deadline_ms: int | None = None
    ) -> None:
        self.path = path
        self.name = path.stem
        self.provider, self.model = provider, model
        self.began_ms, self.deadline_ms = began_ms, deadline_ms
        self.ids: dict[int, str] = {}
        self.sending_ms: int | None = None
        self.handle: BatchHandle | None = None
        self._places: dict[int, int] = {}

    @property
    def due_ms(self) -> int:
        """When its lines must have ended, by the house's clock. Only where they have a deadline."""
        assert self.deadline_ms is not None, "it has no deadline"
        return self.began_ms + self.deadline_ms

    def line_id(self, number: int) -> str:
        """What a line is called at the vendor: no two lines of any parcels have the same."""
        return f"{self.name}-{number}"

    def number_of(self, line_id: str) -> int | None:
        """Which line is called so, None = it is no line of this parcel."""
        name, _, number = line_id.rpartition("-")
        found = int(number) if name == self.name and number.isdecimal() else -1
        return found if found in self.ids else None

    def begin(self) -> None:
        """Start the file."""
        about = {"provider": self.provider, "model": self.model}
        times = {"began_ms": self.began_ms, "deadline_ms": self.deadline_ms}
        self._write({"parcel": {**about, **times}})

    def add(self, line: ParcelLine) -> None:
        """Write a line down."""
        self._places[line.number] = self._write({"line": asdict(line)})
        self.ids[line.number] = line.custom_id

    def drop(self, number: int) -> None:
        """The line that was written last is not handed in after all."""
        self._forget(number)
        self._write({"dropped": number})

    def is_sending(self, now_ms: int) -> None:
        """The vendor is about to be told: from here it may have the batch."""
        self.sending_ms = now_ms
        self._write({"sending": now_ms}, durable=True)

    def is_sent(self, handle: BatchHandle) -> None:
        """The vendor has it."""
        self.handle = handle
        self._write({"sent": handle.out()}, durable=True)

    def lines(self) -> Iterator[ParcelLine]:
        """All lines, read again one by one."""
        for number in self.ids:
            yield self.line(number)

    def line(self, number: int) -> ParcelLine:
        """One line, read again."""
        with self.path.open("rb") as file:
            file.seek(self._places[number])
            return ParcelLine.read(orjson.loads(file.readline())["line"])

    def forget(self) -> None:
        """All its lines have ended: nothing of it is needed any more."""
        self.path.unlink(missing_ok=True)

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """A parcel from its file, None = it was torn before it had a first line. A torn last line is left out."""
        parcel: Self | None = None
        place = 0
        with path.open("rb") as file:
            for row in file:
                if not row.endswith(b"\n"):
                    break
                try:
                    values = orjson.loads(row)
                    parcel = cls(path, **values["parcel"]) if parcel is None else parcel
                    parcel._take(values, place)
                except (orjson.JSONDecodeError, KeyError, TypeError) as error:
                    raise InputInvalid(
                        f"{path}: expected what an earlier run wrote of a batch, found another file: {error}"
                    ) from None
                place += len(row)
        if parcel is not None:
            os.truncate(path, place)
        return parcel

    def _take(self, values: Mapping[str, Any], place: int) -> None:
        """Hear one row again, which begins at ``place``."""
        if "line" in values:
            number = values["line"]["number"]
            self._places[number], self.ids[number] = place, values["line"]["custom_id"]
        if "dropped" in values:
            self._forget(values["dropped"])
        self.sending_ms = values.get("sending", self.sending_ms)
        if "sent" in values:
            self.handle = BatchHandle(**values["sent"])

    def _forget(self, number: int) -> None:
        del self._places[number], self.ids[number]

    def _write(self, values: Mapping[str, Any], *, durable: bool = False) -> int:
        """Append one row, and give where it begins."""
        try:
            with self.path.open("ab") as file:
                place = file.tell()
                file.write(orjson.dumps(values, option=orjson.OPT_APPEND_NEWLINE))
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
        except OSError as error:
            raise InputInvalid(f"{self.path}: cannot be written: {error.strerror}") from None
        return place


def parcels_in(folder: Path) -> Iterator[Parcel]:
    """The parcels of an earlier run that are not settled yet."""
    for path in sorted(folder.glob("*.jsonl")):
        parcel = Parcel.read(path)
        if parcel is None:
            path.unlink()
        else:
            yield parcel
