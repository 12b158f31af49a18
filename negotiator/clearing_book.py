"""A batch of orders as arrays, and as the solver sees it.

Offers become columns; sellers' limits, accounts' budgets, the batch's own budget and its mean quality become rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from providers.batch import BATCH_TIER
from providers.terms import RateKind

from .limits import ENQUEUED, LimitRow

if TYPE_CHECKING:
    from solver import Limit, Problem

__all__ = ["ACCOUNT", "MEAN_QUALITY", "TOTAL_BUDGET", "BatchBook", "BatchOffer", "problem_of"]

TOTAL_BUDGET: Final = "total_budget"
MEAN_QUALITY: Final = "min_mean_quality"
ACCOUNT: Final = "account:"
"""Names of the rows that are no seller's; an account's row is this and its id."""

Numbers = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class BatchOffer:
    """A column: one model of one seller in one tier."""

    provider: str
    model: str
    tier: str = "standard"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class BatchBook:
    """A batch as arrays: n requests by m offers.

    cost: int64[n, m], expected nano-dollars. allowed: bool[n, m], the pair meets the request's own terms.
    input_tokens, output_tokens, cached_tokens, latency_ms: array[n] or array[n, m], what a call takes of limits.
    rows: sellers' limits, counted over ``horizon_ms``; left: what is left of some of them, by name, in that time.
    slots: beginning and end of the parts of the horizon in which limits are counted apart, () = it is one; slot: the
    part of each offer. account: int32[n], each request's account as an index into
    ``accounts`` (-1 = none); available_nusd: what each may still spend (None = no limit); parents: the index of each
    account's parent, -1 = root. total_budget_nusd, min_mean_quality: of the whole batch; the latter needs
    quality: float[n, m]. weight: float[n]. value: int64[n], nano-dollars.
    """

    offers: Sequence[BatchOffer]
    cost: npt.NDArray[np.int64]
    allowed: npt.NDArray[np.bool_]
    input_tokens: Numbers
    output_tokens: Numbers
    latency_ms: Numbers
    cached_tokens: Numbers | None = None
    rows: Sequence[LimitRow] = ()
    horizon_ms: int = 60_000
    left: Mapping[str, int] | None = None
    slots: Sequence[tuple[int, int]] = ()
    slot: Sequence[int] = ()
    account: npt.NDArray[np.int32] | None = None
    accounts: Sequence[str] = ()
    available_nusd: Sequence[int | None] = ()
    parents: Sequence[int] = ()
    total_budget_nusd: int | None = None
    min_mean_quality: float | None = None
    quality: Numbers | None = None
    weight: npt.NDArray[np.float64] | None = None
    value: npt.NDArray[np.int64] | None = None


def problem_of(book: BatchBook) -> tuple[Problem, tuple[str, ...]]:
    """The batch as the solver sees it, and the name of each of its rows."""
    from solver import Problem

    limits = [*_seller_rows(book), *_batch_rows(book)]
    names = [limit.name for limit in limits]
    for limit, accounts in _account_rows(book):
        limits.append(limit)
        names += accounts
    problem = Problem(
        cost=book.cost, allowed=book.allowed, weight=book.weight, value=book.value, limits=limits
    )
    return problem, tuple(names)


def _seller_rows(book: BatchBook) -> Iterator[Limit]:
    """Rows of one kind share one usage array, which is what a pass of the solver costs."""
    from solver import Limit

    usages: dict[RateKind, Any] = {}
    slots = book.slots or [(0, book.horizon_ms)]
    of_column = book.slot or [0] * len(book.offers)
    for row in book.rows:
        covered = [
            row.covers(offer.provider, offer.model, batch=offer.tier == BATCH_TIER) for offer in book.offers
        ]
        whole = row.kind in ENQUEUED  # what was handed in in one slot waits in the next ones
        for number, (start_ms, end_ms) in enumerate([(0, book.horizon_ms)] if whole else slots):
            columns = [j for j, inside in enumerate(covered) if inside and (whole or of_column[j] == number)]
            if not columns:
                continue
            if row.kind not in usages:
                usages[row.kind] = _usage(book, row.kind)
            cap = row.cap_over(end_ms - start_ms)
            if book.left is not None and (whole or not book.slots):
                cap = book.left.get(row.name, cap)
            name = f"{row.name}@{start_ms}ms" if book.slots and not whole else row.name
            yield Limit(name, cap, models=columns, usage=usages[row.kind])


def _usage(book: BatchBook, kind: RateKind) -> Any:
    """What a call takes of a row of this kind over the horizon: 1, or float32[n] or float32[n, m]."""
    if kind in (RateKind.REQUESTS, RateKind.ENQUEUED_REQUESTS):
        return 1.0
    if kind is RateKind.CONCURRENCY:
        return np.asarray(book.latency_ms, dtype=np.float32)
    if kind is RateKind.OUTPUT_TOKENS:
        return np.asarray(book.output_tokens, dtype=np.float32)
    if kind in (RateKind.INPUT_TOKENS, RateKind.ENQUEUED_TOKENS):
        return np.asarray(book.input_tokens, dtype=np.float32)
    if kind is RateKind.TOKENS:
        return _sum(book.input_tokens, book.output_tokens)
    assert kind is RateKind.UNCACHED_INPUT_TOKENS, kind
    if book.cached_tokens is None:
        return np.asarray(book.input_tokens, dtype=np.float32)
    return _sum(book.input_tokens, -np.asarray(book.cached_tokens))


def _sum(one: Numbers, other: Numbers) -> npt.NDArray[np.float32]:
    """float32 of both added, a per-request array spread over the offers where the other is per pair."""
    pairs = max(np.ndim(one), np.ndim(other)) == 2
    parts = [np.asarray(a, dtype=np.float32) for a in (one, other)]
    if pairs:
        parts = [a[:, None] if a.ndim == 1 else a for a in parts]
    return np.add(*parts, dtype=np.float32)


def _account_rows(book: BatchBook) -> Iterator[tuple[Limit, list[str]]]:
    """A request counts against its account and every ancestor: one grouped row per depth of the account trees."""
    from solver import Limit

    if book.account is None or not book.accounts:
        return
    known = len(book.accounts)
    parents = np.append(np.asarray(book.parents or [-1] * known, dtype=np.int32), -1)
    caps = np.array([np.inf if nusd is None else nusd for nusd in book.available_nusd], dtype=np.float64)
    depths = _depths(parents)
    level = np.asarray(book.account, dtype=np.int32)
    levels = []
    while np.any(level >= 0):
        levels.append(level)
        level = parents[level]
    for depth in range(int(depths[:known].max()) + 1):
        capped = np.flatnonzero((depths[:known] == depth) & np.isfinite(caps))
        if not len(capped):
            continue
        number = np.full(known + 1, -1, dtype=np.int32)
        number[capped] = np.arange(len(capped))
        group = np.full(len(book.account), -1, dtype=np.int32)
        for level in levels:  # at most one ancestor has this depth
            group = np.maximum(group, number[level])
        names = [ACCOUNT + book.accounts[k] for k in capped.tolist()]
        yield Limit("account", caps[capped], usage=book.cost, group=group), names


def _depths(parents: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """int32[accounts + 1]: how many ancestors each account has. ``parents`` ends with the -1 that roots lead to."""
    depths = np.zeros(len(parents), dtype=np.int32)
    above = parents.copy()
    for _ in range(len(parents)):
        if not np.any(above >= 0):
            return depths
        depths += above >= 0
        above = parents[above]
    raise AssertionError("accounts: expected trees, found a circle")


def _batch_rows(book: BatchBook) -> Iterator[Limit]:
    from solver import Limit

    if book.total_budget_nusd is not None:
        yield Limit(TOTAL_BUDGET, book.total_budget_nusd, usage=book.cost)
    if book.min_mean_quality is not None:
        assert book.quality is not None, "min_mean_quality needs quality"
        yield Limit(MEAN_QUALITY, 0.0, usage=np.float32(book.min_mean_quality) - np.asarray(book.quality))
