"""Account trees in memory: terms, sums, periods. Decisions check first; moves only add and subtract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .errors import InputInvalid
from .money import MAX_NUSD
from .store import DEFAULT_ACCOUNT, HOUSE, MAX_DEPTH, SUSPENSE, Account, Balance, Shortfall
from .store_audit import Sums
from .store_embedded_entry import Node
from .store_rows import check_account, rolls_at_ms

__all__ = ["AccountTrees"]


class AccountTrees:
    """All accounts of one embedded store; the house's own are always there."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}
        for account_id in (HOUSE, SUSPENSE):
            self.define(Account(account_id=account_id))

    def __getitem__(self, account_id: str) -> Node:
        return self._nodes[account_id]

    def get(self, account_id: str) -> Node | None:
        """The account, None = unknown."""
        return self._nodes.get(account_id)

    def names(self) -> tuple[str, ...]:
        """All account ids, sorted; the default one exists even before its first use."""
        return tuple(sorted(self._nodes.keys() | {DEFAULT_ACCOUNT}))

    def balances(self, account_id: str, now_ms: int) -> tuple[Balance, ...]:
        """The account and its ancestors; empty = unknown."""
        node = self._nodes.get(account_id)
        if node is None and account_id == DEFAULT_ACCOUNT:
            node = Node(Account(account_id=account_id))
            node.line = (node,)
        return () if node is None else tuple(each.balance(now_ms) for each in node.line)

    def sums(self) -> dict[str, Sums]:
        """How every account stands, in the period its last row was in."""
        return {
            name: Sums(node.posted_nusd, node.pending_nusd, node.deposits_nusd, node.spent_nusd)
            for name, node in self._nodes.items()
        }

    # decisions

    def check(self, account: Account) -> None:
        """Raises InputInvalid for an account that cannot be put."""
        check_account(account)
        node = self._nodes.get(account.account_id)
        if node is not None and node.account.parent != account.parent:
            raise InputInvalid(
                f"expected the parent of {account.account_id!r} to stay {node.account.parent!r},"
                f" found {account.parent!r}"
            )
        if node is None and account.parent is not None:
            parent = self._nodes.get(account.parent)
            if parent is None:
                raise InputInvalid(f"expected an existing parent account, found {account.parent!r}")
            if len(parent.line) >= MAX_DEPTH:
                raise InputInvalid(f"expected at most {MAX_DEPTH} accounts from leaf to root, found more")

    def check_deposit(self, account_id: str, nusd: int, reference: str, now_ms: int) -> bool:
        """Whether a deposit is new; raises InputInvalid for one that cannot be."""
        node = self._nodes.get(account_id)
        if node is None:
            raise InputInvalid(f"expected an existing account, found {account_id!r}")
        limit_nusd = node.balance(now_ms).limit_nusd
        if limit_nusd is None:
            raise InputInvalid(f"expected an account with a budget, found {account_id!r} without a limit")
        before_nusd = node.references.get(reference)
        if before_nusd is not None and before_nusd != nusd:
            raise InputInvalid(f"expected {before_nusd} for deposit {reference!r} as before, found {nusd}")
        if before_nusd is None and limit_nusd + nusd > MAX_NUSD:
            raise InputInvalid(f"expected budget and deposits of at most {MAX_NUSD} nano-dollars together")
        return before_nusd is None

    def shortfall(self, node: Node, nusd: int, now_ms: int) -> Shortfall | None:
        """Who lacks the money: the nearest that will not get it back, else the nearest that may."""
        held = None
        for each in node.line:
            budget_nusd = each.account.budget_nusd
            if budget_nusd is None:
                continue
            if now_ms < each.rolls_at_ms:
                budget_nusd += each.deposits_nusd - each.posted_nusd
            if nusd + each.pending_nusd > budget_nusd:
                short = Shortfall(
                    account=each.account.account_id, needed_nusd=nusd, balance=each.balance(now_ms)
                )
                if not short.held:
                    return short
                held = held or short
        return held

    # moves: the same at first and in replay

    def define(self, account: Account) -> None:
        """Make an account, or give it other terms; a changed period starts with nothing posted."""
        node = self._nodes.get(account.account_id)
        if node is None:
            node = Node(account, rolls_at_ms=rolls_at_ms(account.period, 0))
            above = () if account.parent is None else self._nodes[account.parent].line
            node.line = (node, *above)
            self._nodes[account.account_id] = node
            return
        before, node.account = node.account, account
        if before.period != account.period:
            node.roll(0)

    def deposit(self, account_id: str, nusd: int, reference: str, at_ms: int) -> None:
        """Raise a budget."""
        node = self._nodes[account_id]
        if at_ms >= node.rolls_at_ms:
            node.roll(at_ms)
        node.deposits_nusd += nusd
        node.references[reference] = nusd

    def draw(self, node: Node, posted_nusd: int, pending_nusd: int, at_ms: int) -> None:
        """Add to the sums of an account and all its ancestors."""
        for each in node.line:
            if at_ms >= each.rolls_at_ms:
                each.roll(at_ms)
            each.pending_nusd += pending_nusd
            each.posted_nusd += posted_nusd
        node.spent_nusd += posted_nusd

    # checkpoints

    def save(self) -> dict[str, Sequence[Any]]:
        """All accounts as JSON values."""
        return {name: node.save() for name, node in self._nodes.items()}

    def load(self, saved: Mapping[str, Sequence[Any]]) -> None:
        """What :meth:`save` wrote."""
        for name, values in saved.items():
            self._nodes[name] = Node.load(name, values)
        for node in self._nodes.values():
            line = [node]
            while line[-1].account.parent is not None:
                line.append(self._nodes[line[-1].account.parent])
            node.line = tuple(line)
