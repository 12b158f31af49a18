"""Cut a plan's horizon into few time slots: where a price changes with the hour, and where deadlines end.

A slot begins and ends at whole windows of the limits. A line may start in a slot if the slot's last call still meets
its deadline, which counts from the beginning of the horizon.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Final

from providers.base import PricesAhead
from providers.quoting import EXCLUSIVE
from providers.terms import Offer

from .engine_rooms import Rooms
from .limits import HELD
from .plan_offers import Sold, TimeSlot, columns_of_slots

__all__ = ["sold_now", "sold_over"]

MOST_PAIRS: Final = 20_000_000
"""Lines times columns: about 90 bytes each while the plan is made. Only below it are slots made, and batch tiers apart."""

MOST_CHANGES: Final = 32
"""Price changes looked ahead to."""


def sold_now(rooms: Rooms, *, embeds: bool = False) -> tuple[Offer, ...]:
    """All offers of local sellers that are well; remote sellers, who price each request, are not planned with.

    embeds: those for embeddings too.
    """
    return _sold_at(rooms, None, embeds)


def sold_over(
    rooms: Rooms,
    horizon_ms: int,
    most_slots: int,
    deadlines: Sequence[int] = (),
    lines: int = 0,
    *,
    embeds: bool = False,
) -> Sold:
    """What is sold over a horizon from now, in at most so many slots.

    deadlines: of a sample of the lines, milliseconds. lines: about how many there are, which bounds the slots too.
    embeds: offers of embeddings too.
    """
    now_ms, rows = rooms.clock.now_ms(), rooms.capacity.rows
    slot = TimeSlot(0, horizon_ms, 0)
    whole = columns_of_slots([(slot, sold_now(rooms, embeds=embeds))], rows)
    if lines * len(whole.columns) > MOST_PAIRS:
        whole = columns_of_slots([(slot, sold_now(rooms, embeds=embeds))], rows, batches_apart=False)
    window_ms = max((row.per_ms for row in rows if row.kind not in HELD), default=60_000)
    most_slots = min(most_slots, MOST_PAIRS // max(1, lines * len(whole.columns)))
    if most_slots < 2 or horizon_ms < 2 * window_ms:
        return whole
    last = horizon_ms // window_ms
    changes = [-(-at // window_ms) for at in _changes(rooms, now_ms, horizon_ms)]
    ends = [max(1, deadline // window_ms) for deadline in deadlines if deadline < horizon_ms]
    cuts = _chosen(changes, ends, last, most_slots - 1)
    edges = [0, *(cut * window_ms for cut in cuts), horizon_ms]
    if len(edges) == 2:
        return whole
    slots = []
    for start, end in pairwise(edges):
        slot = TimeSlot(start, end, max(start, end - window_ms))
        slots.append((slot, _sold_through(rooms, now_ms, slot, embeds)))
    return columns_of_slots(slots, rows)


def _chosen(changes: Iterable[int], ends: Sequence[int], last: int, most: int) -> list[int]:
    """Windows to cut before: where the earliest deadline ends, so that every line may start in the first slot; where
    prices change; then where other deadlines end, spread over the lines that have them."""
    ranked = sorted(end for end in ends if end < last)
    cuts = dict.fromkeys([*ranked[:1], *sorted(cut for cut in changes if 0 < cut < last)])
    left = most - len(cuts)
    if left > 0 and ranked:
        distinct = sorted(set(ranked) - cuts.keys())
        if len(distinct) > left:
            distinct = [ranked[k * len(ranked) // left] for k in range(left)]
        cuts |= dict.fromkeys(distinct)
    return sorted(list(cuts)[:most])


def _changes(rooms: Rooms, now_ms: int, horizon_ms: int) -> list[int]:
    """When a price changes within the horizon, milliseconds from now."""
    found = set()
    for seller in rooms.sellers.values():
        if not isinstance(seller, PricesAhead):
            continue
        at_ms = now_ms
        for _ in range(MOST_CHANGES):
            ahead = [o.valid_for_ms for o in seller.offers_at(at_ms) if o.valid_for_ms is not None]
            if not ahead or at_ms + min(ahead) >= now_ms + horizon_ms:
                break
            at_ms += max(1, min(ahead))
            found.add(at_ms - now_ms)
    return sorted(found)


def _sold_through(rooms: Rooms, now_ms: int, slot: TimeSlot, embeds: bool) -> tuple[Offer, ...]:
    """What is sold in a slot. Where a price changes within it, the dearer is counted on."""
    first = _sold_at(rooms, now_ms + slot.start_ms, embeds)
    last = {_key(offer): offer for offer in _sold_at(rooms, now_ms + slot.end_ms - 1, embeds)}
    return tuple(max(offer, last[_key(offer)], key=_dear) for offer in first if _key(offer) in last)


def _sold_at(rooms: Rooms, at_ms: int | None, embeds: bool) -> tuple[Offer, ...]:
    return tuple(
        replace(offer, valid_for_ms=None)
        for seller in rooms.sellers.values()
        for offer in (
            seller.offers_at(at_ms)
            if at_ms is not None and isinstance(seller, PricesAhead)
            else seller.offers()
        )
        if offer.tier != "cached" and (embeds or EXCLUSIVE.isdisjoint(offer.tags))
    )


def _key(offer: Offer) -> tuple[str, str, str]:
    return offer.provider, offer.model, offer.tier


def _dear(offer: Offer) -> int:
    rates = offer.rates_for(0)
    return rates.input_nusd_per_mtok + rates.output_nusd_per_mtok
