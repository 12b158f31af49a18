"""The order ids a line of a batch has used, and what they cost that no result says yet.

A line's order id is made from the batch and its ``custom_id``. It is used again after a refusal that cost nothing; what
was charged, or was in flight when a process died, keeps its id, and the line goes on under the next one. So all ids of
a line up to its latest are in the ledger, and whoever comes after a crash finds every one of them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace

import orjson

from .errors import Reject
from .ledger import Ledger
from .money import parse_usd
from .order import Completion, HoldState, Order
from .record import completion_from

__all__ = ["Tries"]

LONGEST_ID = 200


class Tries:
    """Order ids and costs of one batch's unfinished lines. in_doubt, in_doubt_nusd: found by this run."""

    def __init__(self, ledger: Ledger, batch_id: str) -> None:
        self._ledger = ledger
        self._batch_id = batch_id
        self._used: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._called: set[str] = set()
        self._sunk_nusd: Counter[str] = Counter()
        self._doubt_nusd: Counter[str] = Counter()
        self.in_doubt = 0
        self.in_doubt_nusd = 0

    def numbered(self, order: Order, custom_id: str) -> Order:
        """The order under the id this line has now; its answer is kept, to be found after a crash."""
        return replace(order, order_id=self._order_id(custom_id), keep_answer=True)

    def failed(self, custom_id: str, reject: Reject, *, called: bool = True) -> int:
        """A try ended without an answer; gives how many have by now. called: False = the engine was not asked."""
        if called:
            self._called.add(custom_id)
        charged_nusd = parse_usd(reject.facts.get("charged_usd", "0"))
        if charged_nusd:
            self._sunk_nusd[custom_id] += charged_nusd
            self._used[custom_id] += 1
        self._failures[custom_id] += 1
        return self._failures[custom_id]

    def tried(self, custom_id: str) -> bool:
        """Whether any call was made for the line, or refused, by this run."""
        return custom_id in self._called

    async def taken(self, account: str, custom_id: str) -> None:
        """The id was used by an earlier run that left no answer: count what that costs, and take the next one.

        What was settled is known from its history. A hold whose call was not known to begin is voided, which its
        timeout would do as well: should its maker live, no call can begin on it any more. What was in flight when that
        run died stays in doubt: its hold counts, whether it is still pending or has posted by now. Raises
        StoreUnavailable.
        """
        record = await self._ledger.record(account, self._order_id(custom_id))
        self._used[custom_id] += 1
        if record is None:
            return
        if record.history is not None:
            self._sunk_nusd[custom_id] += orjson.loads(record.history)["billed_nusd"]
            return
        held = await self._ledger.find(record.reservation_id)
        if held is not None and held.state is HoldState.PENDING:
            await self._ledger.void_found(held)
            return
        nusd = held.hold_nusd if held is not None else 0
        self._doubt_nusd[custom_id] += nusd
        self.in_doubt += 1
        self.in_doubt_nusd += nusd

    async def found(self, account: str, custom_id: str) -> Completion | None:
        """The answer to a line that was paid and not written, None = there is none; counts what its ids cost.

        Raises StoreUnavailable.
        """
        while True:
            record = await self._ledger.record(account, self._order_id(custom_id))
            if record is None or record.state in (HoldState.VOIDED, HoldState.EXPIRED):
                return None
            if record.response is not None:
                return completion_from(orjson.loads(record.response), replayed=True)
            await self.taken(account, custom_id)

    def end(self, custom_id: str) -> tuple[int, int]:
        """The line has its result: what its tries without an answer cost, and what of them is in doubt."""
        self._used.pop(custom_id, None)
        self._failures.pop(custom_id, None)
        self._called.discard(custom_id)
        return self._sunk_nusd.pop(custom_id, 0), self._doubt_nusd.pop(custom_id, 0)

    def _order_id(self, custom_id: str) -> str:
        used = self._used[custom_id]
        name = custom_id if len(custom_id) < LONGEST_ID else hashlib.blake2b(custom_id.encode()).hexdigest()
        again = f"+{used}" if used else ""
        return f"{self._batch_id}{again}:{name}"
