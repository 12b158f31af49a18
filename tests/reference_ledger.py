"""A ledger as simple as it can be said, to compare stores with: no speed, no persistence, everything recomputed."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

__all__ = ["ReferenceHold", "ReferenceLedger"]


@dataclass
class ReferenceHold:
    """A hold; state as the stores name it. charged_ms: when it was posted."""

    account: str
    order_id: str
    nusd: int
    until_ms: int
    state: str = "pending"
    relayed_nusd: int = 0
    posted_nusd: int = 0
    house_nusd: int = 0
    suspense_nusd: int = 0
    charged_ms: dict[str, int] = field(default_factory=dict)


@dataclass
class ReferenceLedger:
    """parents, budgets, daily: the accounts. seen_ms: the latest time any row of an account was written."""

    parents: dict[str, str | None]
    budgets: dict[str, int | None]
    daily: frozenset[str] = frozenset()
    holds: dict[str, ReferenceHold] = field(default_factory=dict)
    seen_ms: dict[str, int] = field(default_factory=dict)
    deposits: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)

    def line(self, account: str) -> list[str]:
        """The account and its ancestors."""
        above = self.parents[account]
        return [account] if above is None else [account, *self.line(above)]

    def pending(self, account: str) -> int:
        """Held and not resolved."""
        return sum(
            h.nusd
            for h in self.holds.values()
            if h.state in ("pending", "in_doubt") and account in self.line(h.account)
        )

    def posted(self, account: str, now_ms: int) -> int:
        """Posted in the period that is now, or was when the account's clock was furthest."""
        at_ms = max(now_ms, self.seen_ms.get(account, 0))
        return sum(
            h.posted_nusd
            for h in self.holds.values()
            if h.posted_nusd
            and account in self.line(h.account)
            and self._same_day(account, h.charged_ms[account], at_ms)
        )

    def limit(self, account: str, now_ms: int) -> int | None:
        """Budget and the deposits of the period."""
        budget = self.budgets[account]
        if budget is None:
            return None
        at_ms = max(now_ms, self.seen_ms.get(account, 0))
        made = [
            nusd
            for (name, _), (nusd, when) in self.deposits.items()
            if name == account and self._same_day(account, when, at_ms)
        ]
        return budget + sum(made)

    def _same_day(self, account: str, one_ms: int, other_ms: int) -> bool:
        if account not in self.daily:
            return True
        days = [datetime.fromtimestamp(at_ms // 1000, UTC).date() for at_ms in (one_ms, other_ms)]
        return days[0] == days[1]

    def touch(self, account: str, now_ms: int) -> dict[str, int]:
        """A row is written on an account at this time; gives the time each of its line counts it at."""
        for each in self.line(account):
            self.seen_ms[each] = max(self.seen_ms.get(each, 0), now_ms)
        return {each: self.seen_ms[each] for each in self.line(account)}

    def running(self, account: str, order_id: str) -> ReferenceHold | None:
        """The hold that has the order id, if one has."""
        for hold in self.holds.values():
            taken = hold.state in ("pending", "in_doubt", "posted")
            if taken and (hold.account, hold.order_id) == (account, order_id):
                return hold
        return None

    def reserve(self, rid: str, account: str, order_id: str, nusd: int, hold_ms: int, now_ms: int) -> str:
        """``held``, ``taken``, ``held back`` (FUNDS_HELD), or ``short``."""
        before = self.running(account, order_id)
        if before is not None:
            self.judge(before, now_ms)
            if before.state in ("pending", "in_doubt", "posted"):
                return "taken"
        verdict = "held"
        for each in self.line(account):
            limit = self.limit(each, now_ms)
            if limit is not None and self.posted(each, now_ms) + nusd > limit:
                return "short"
            if limit is not None and self.posted(each, now_ms) + self.pending(each) + nusd > limit:
                verdict = "held back"
        if verdict == "held":
            self.touch(account, now_ms)
            self.holds[rid] = ReferenceHold(account, order_id, nusd, now_ms + hold_ms)
        return verdict

    def judge(self, hold: ReferenceHold, now_ms: int) -> bool:
        """Resolve a hold whose time is over; whether it is (now) resolved."""
        if hold.state in ("pending", "in_doubt") and hold.until_ms <= now_ms:
            owed = 0 if hold.state == "pending" else min(hold.relayed_nusd, hold.nusd) or hold.nusd
            self.resolve(hold, "expired" if hold.state == "pending" else "posted", owed, now_ms)
        return hold.state not in ("pending", "in_doubt")

    def resolve(self, hold: ReferenceHold, state: str, posted_nusd: int, now_ms: int) -> None:
        """End a hold."""
        hold.state, hold.posted_nusd = state, posted_nusd
        hold.charged_ms = self.touch(hold.account, now_ms)

    def begin(self, rid: str, in_doubt_ms: int, now_ms: int) -> bool:
        """Whether the call may begin."""
        hold = self.holds[rid]
        if self.judge(hold, now_ms):
            return False
        hold.state, hold.until_ms = "in_doubt", max(hold.until_ms, now_ms + in_doubt_ms)
        self.touch(hold.account, 0)
        return True

    def post(self, rid: str, posted_nusd: int, house_nusd: int, now_ms: int) -> tuple[str, bool, int]:
        """State, whether it had resolved before, and what went to suspense."""
        hold = self.holds[rid]
        if not self.judge(hold, now_ms):
            self.resolve(hold, "posted", posted_nusd, now_ms)
            hold.house_nusd = house_nusd
            return "posted", False, 0
        booked = hold.posted_nusd + hold.house_nusd + hold.suspense_nusd
        late = max(0, posted_nusd + house_nusd - booked)
        hold.suspense_nusd += late
        return hold.state, True, late

    def void(self, rid: str, now_ms: int) -> tuple[str, bool, int]:
        """As :meth:`post`."""
        hold = self.holds[rid]
        if self.judge(hold, now_ms):
            return hold.state, True, 0
        self.resolve(hold, "voided", 0, now_ms)
        return "voided", False, 0

    def deposit(self, account: str, nusd: int, reference: str, now_ms: int) -> None:
        """Once per reference."""
        if (account, reference) not in self.deposits:
            at_ms = max(now_ms, self.seen_ms.get(account, 0))
            self.seen_ms[account] = at_ms
            self.deposits[account, reference] = (nusd, at_ms)
