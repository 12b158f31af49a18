"""What is sold over a plan's horizon: offers, time slots, and the columns that offers and slots make.

Limits refill, so the horizon is a row of slots with limits of their own; a price that changes with the hour is another
offer in another slot. Few slots are made: only where a deadline or a price tells one time from another.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from providers.batch import BATCH_TIER
from providers.terms import Offer, RateKind

from .limits import LimitRow

__all__ = ["Column", "Sold", "TimeSlot", "columns_of_slots"]


@dataclass(frozen=True, slots=True)
class TimeSlot:
    """Part of the horizon, milliseconds from its beginning. latest_ms: when the last of its calls may start: limits
    give a window's calls at once and the rest as windows pass."""

    start_ms: int
    end_ms: int
    latest_ms: int

    @property
    def length_ms(self) -> int:
        """How long it is."""
        return self.end_ms - self.start_ms


@dataclass(frozen=True, slots=True)
class Column:
    """Offers that use the same of every limit, in one slot. members: numbers of offers; standard: the one in that
    tier, -1 = none. latest_ms: when its slot's last call may start."""

    members: tuple[int, ...]
    standard: int = -1
    slot: int = 0
    latest_ms: int = 0


@dataclass(frozen=True)
class Sold:
    """Offers, slots and columns of a plan: slot by slot, so that of equal columns the earlier comes first."""

    offers: tuple[Offer, ...]
    slots: tuple[TimeSlot, ...]
    columns: tuple[Column, ...]

    def columns_of(self, offer: int) -> tuple[int, ...]:
        """The columns that an offer is in."""
        return self._columns_of[offer]

    @cached_property
    def _columns_of(self) -> tuple[tuple[int, ...], ...]:
        inside: list[list[int]] = [[] for _ in self.offers]
        for c, column in enumerate(self.columns):
            for j in column.members:
                inside[j].append(c)
        return tuple(map(tuple, inside))


def columns_of_slots(
    offered: Iterable[tuple[TimeSlot, Sequence[Offer]]],
    rows: Sequence[LimitRow],
    *,
    batches_apart: bool = True,
) -> Sold:
    """The columns of what is offered in each slot; ``rows``: sellers' limits, for busy time sets offers apart.

    batches_apart: False = a batch tier is in the column of its model's calls and counts as a call does: fewer columns,
    and a plan that gives batches less than their endpoints would take.
    """
    numbers: dict[Offer, int] = {}
    slots: list[TimeSlot] = []
    columns: list[Column] = []
    for slot, offers in offered:
        groups: dict[tuple[object, ...], list[int]] = {}
        for offer in offers:
            plain = replace(offer, valid_for_ms=None)
            j = numbers.setdefault(plain, len(numbers))
            groups.setdefault(_alike(plain, j, rows, batches_apart), []).append(j)
        known = list(numbers)
        for members in groups.values():
            standard = next((j for j in members if known[j].tier == "standard"), -1)
            columns.append(Column(tuple(members), standard, len(slots), slot.latest_ms))
        slots.append(slot)
    return Sold(tuple(numbers), tuple(slots), tuple(columns))


def _alike(offer: Offer, number: int, rows: Sequence[LimitRow], batches_apart: bool) -> tuple[object, ...]:
    """Offers with the same of this use the same of every limit: one model's tokens, the same longest answer."""
    batch = offer.tier == BATCH_TIER and batches_apart
    covering = [row for row in rows if row.covers(offer.provider, offer.model, batch=batch)]
    timed = any(row.kind is RateKind.CONCURRENCY for row in covering)
    return (
        offer.provider,
        offer.model,
        offer.vocabulary,
        offer.token_factor,
        offer.token_margin,
        offer.context_tokens,
        offer.max_output_tokens,
        number if timed else -1,
        batch,
    )
