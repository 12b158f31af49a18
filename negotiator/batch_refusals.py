"""Lines that a batch refuses itself: whether only the time that is left keeps them out, and who is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .batch_tries import Tries
from .engine_book import Job, judged
from .errors import Reject, RejectCode
from .planning import ReadBatch

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ["note_refusal", "only_late"]

_TOO_LATE: Final = frozenset({RejectCode.DEADLINE_UNREACHABLE, RejectCode.TERMS_CONFLICT})


async def only_late(engine: Engine, part: ReadBatch, row: int, reject: Reject) -> bool:
    """Whether a line's own terms could be met, and only the time that is left is too short for it."""
    if part.until_ms is None or reject.code not in _TOO_LATE:
        return False
    rooms = engine.rooms
    order = await part.order(engine, row, planned=False)
    if order.deadline_ms is not None and order.deadline_ms <= part.until_ms - rooms.clock.now_ms():
        return False
    return await judged(rooms, Job(order, rooms.clock.now_ms())) is None


async def note_refusal(engine: Engine, batch: ReadBatch, row: int, reject: Reject, tries: Tries) -> None:
    """Tell of a line that ends without a call as of any refused order; one that was tried is known already."""
    custom_id = batch.ids[row]
    if not tries.tried(custom_id):
        order = await batch.order(engine, row, planned=False)
        await engine.note_refused(tries.numbered(order, custom_id), reject)
