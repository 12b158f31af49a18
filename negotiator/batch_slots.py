"""When the lines of a batch may start: a plan with time slots is executed slot by slot, and made again before each.

A round runs what the plan starts now. What it starts later waits, and is planned again when its slot begins: with the
sellers, prices and limits of that moment, and with what is left of its deadline.
"""

from __future__ import annotations

from dataclasses import replace

from providers.clock import Clock

from .order import Order
from .planning import PlannedBatch
from .wire import PlanOptions

__all__ = ["SlotClock"]


class SlotClock:
    """The time of a batch. Without slots it stands still: nothing waits, and a deadline begins with its call."""

    def __init__(self, clock: Clock, options: PlanOptions) -> None:
        self._clock = clock
        self._in_use = options.slots > 1
        self._began_ms = clock.now_ms()
        self._next_ms: int | None = None

    @property
    def elapsed_ms(self) -> int:
        """How long the batch has been running."""
        return self._clock.now_ms() - self._began_ms if self._in_use else 0

    @property
    def wait_ms(self) -> int | None:
        """Until the next slot that the last plan uses, None = it starts everything now."""
        return None if self._next_ms is None else max(1, self._next_ms - self._clock.now_ms())

    def left(self, options: PlanOptions) -> PlanOptions:
        """The options for what is left of the horizon."""
        left_ms = max(1_000, options.horizon_ms - self.elapsed_ms)
        return options.model_copy(update={"horizon_ms": left_ms})

    def planned(self, plan: PlannedBatch) -> None:
        """Hear a plan that was just made."""
        later_ms = plan.next_start_ms
        self._next_ms = None if later_ms is None else self._clock.now_ms() + later_ms

    def hurried(self, order: Order) -> Order:
        """The order with what is left of its deadline."""
        if not self._in_use or order.deadline_ms is None:
            return order
        return replace(order, deadline_ms=max(1, order.deadline_ms - self.elapsed_ms))
