"""A batch as arrays: what every offer would charge every order, how well it would do, and which pairs meet the terms.

The same judgement as :mod:`negotiator.policy`, for n orders x m offers at once; tested to agree with it pair by pair.
Offers that use the same of every limit, such as the interactive tiers of one model, share a column per time slot: the cheapest
that the order accepts stands in it. No plan is lost by that, and every bound proven of the columns holds for the offers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from statistics import NormalDist
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from providers.quoting import EXCLUSIVE
from providers.quoting_arrays import QuoteArrays, quote_arrays
from providers.terms import TOKENS_PER_RATE, Offer

from .plan_asked import Asked
from .plan_offers import Column, Sold
from .plan_tokens import Counts
from .policy import matches_any
from .quality import Quality

__all__ = ["Growing", "Pair", "Pairs", "PlanBook", "build_book", "entered"]

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Money = npt.NDArray[np.int64 | np.int32]
Singles = npt.NDArray[np.float32]

DEAREST: Final = np.iinfo(np.int64).max
Z95: Final = 1.6448536269514722


@dataclass(frozen=True, slots=True, eq=False)
class PlanBook:
    """n orders x m columns, each a group of offers in a time slot.

    allowed: some offer of the column meets every term. pick: the cheapest of those, as a number of ``sold.offers``;
    cost_nusd, ceiling_nusd, latency_ms_p50, latency_ms_p95: its expected and ceiling price and its latencies.
    able: the column's standard offer can do it at all, for plain_nusd. named: it is the model the body names, or the
    body leaves it open. input_tokens, output_tokens: what counts against limits. Token counts and latencies are
    float32, as the solver reads them: exact to 16,777,216. quality: the estimate's mean. value_nusd: per order,
    NO_LIMIT = none. account: its number per order. counted: the tokens of the order were counted, not estimated.
    """

    sold: Sold
    allowed: Bools
    pick: npt.NDArray[np.uint16]
    cost_nusd: Money
    ceiling_nusd: Money
    able: Bools
    plain_nusd: Money
    named: Bools
    input_tokens: Singles
    output_tokens: Singles
    latency_ms_p50: Singles
    latency_ms_p95: npt.NDArray[np.int32]
    quality: Singles
    value_nusd: Ints
    account: npt.NDArray[np.int32]
    counted: Bools

    def __len__(self) -> int:
        return len(self.value_nusd)

    def part(self, rows: Sequence[int]) -> PlanBook:
        """The book of some of the orders."""
        return replace(self, **{name: getattr(self, name)[rows] for name in _arrays()})


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """One offer and the orders it is able to serve: ``rows``, and an array over them for everything else.

    met: it meets every term, with the time slot left out of the deadline. unsure: an estimate may have decided that.
    """

    rows: npt.NDArray[np.intp]
    met: Bools
    cost_nusd: Ints
    ceiling_nusd: Ints
    input_tokens: Ints
    output_tokens: Ints
    latency_ms_p50: Ints
    latency_ms_p95: Ints
    spread_nusd: Ints
    unsure: Bools


class Pairs:
    """Every offer's word on the orders of a chunk: per-order columns once, then offer by offer."""

    def __init__(
        self,
        asked: Asked,
        sold: Sold,
        quality: Quality,
        quantile: float,
        counts: Counts,
    ) -> None:
        account, named, floor, margin, deadline, ttft, limit, value, output, task, needs, lists = (
            asked.columns()
        )
        offers = sold.offers
        self.sold, self.counts, self._z = sold, counts, NormalDist().inv_cdf(quantile)
        models = tuple(dict.fromkeys(offer.model for offer in offers))
        self.model = [models.index(offer.model) for offer in offers]
        self.quality, spread, self._wanted, self._wanted_p95 = _estimates(
            quality, asked.prompts, task, models
        )
        self.account, self.value = account, np.array(value, dtype=np.int64)
        self.deadline = np.array(deadline, dtype=np.int64)
        self._ttft, self.limit = np.array(ttft, dtype=np.int64), np.array(limit, dtype=np.int64)
        self._asked = np.array(output, dtype=np.int64)
        sure = self.quality - np.array(margin).reshape(-1, 1) * spread
        self._good = sure >= np.array(floor).reshape(-1, 1)
        self._able = _masks(
            needs,
            offers,
            lambda offer, tiers, needed, asked: (
                offer.tier in tiers
                and EXCLUSIVE & offer.tags <= needed <= offer.tags
                and offer.parameters.refuses(asked) is None
            ),
        )
        self.named = _masks(
            [(name,) for name in named], offers, lambda offer, name: name in (None, offer.model, offer.key)
        )
        self._listed = _masks(lists, offers, _meets_lists)

    def __len__(self) -> int:
        return len(self.value)

    def hurry(self, elapsed_ms: int, left_ms: int | None) -> None:
        """Take from every deadline what has passed of it, and allow none beyond what is left for all."""
        self.deadline -= elapsed_ms
        if left_ms is not None:
            np.minimum(self.deadline, left_ms, out=self.deadline)

    def priced(self, j: int) -> Pair:
        """One offer's pairs."""
        offer, model = self.sold.offers[j], self.model[j]
        rows = np.flatnonzero(self._able[:, j])
        reference, own = self.counts.of(offer.vocabulary)
        wanted, wanted_p95, asked = (
            self._wanted[rows, model],
            self._wanted_p95[rows, model],
            self._asked[rows],
        )
        counted = None if own is None else own[rows]
        quoted = quote_arrays(offer, reference[rows], counted, asked, wanted)
        keep = quoted.quoted
        ceiling, fits = self._within_limit(offer, quoted, self.limit[rows], asked, wanted_p95)
        in_time = (quoted.latency_ms_p95 <= self.deadline[rows]) & (quoted.ttft_ms_p95 <= self._ttft[rows])
        terms = in_time & self._good[rows, model] & self.named[rows, j] & self._listed[rows, j]
        rates = offer.rates_for(0)
        off = np.ceil(self.counts.off(offer.vocabulary) * quoted.covered_tokens).astype(np.int64)
        off[self.counts.counted[rows]] = 0
        spread_nusd = -(-off * rates.input_nusd_per_mtok // TOKENS_PER_RATE)
        edge = np.abs(quoted.ceiling_nusd - self.limit[rows]) <= 2 * spread_nusd
        edge |= quoted.covered_tokens + off > offer.context_tokens - offer.max_output_tokens
        for step in offer.steps[1:]:
            edge |= np.abs(quoted.covered_tokens - step.from_input_tokens) <= off
        longest = _quantile(wanted, wanted_p95, self._z)
        if EXCLUSIVE & offer.tags:
            longest = np.zeros_like(longest)  # vectors are no tokens
        return Pair(
            rows=rows[keep],
            met=(fits & terms)[keep],
            cost_nusd=np.minimum(quoted.expected_nusd, ceiling)[keep],
            ceiling_nusd=ceiling[keep],
            input_tokens=quoted.input_tokens[keep],
            output_tokens=np.clip(longest, 1, quoted.max_output_tokens)[keep],
            latency_ms_p50=quoted.latency_ms_p50[keep],
            latency_ms_p95=quoted.latency_ms_p95[keep],
            spread_nusd=spread_nusd[keep],
            unsure=(edge & terms & (off > 0))[keep],
        )

    @staticmethod
    def _within_limit(
        offer: Offer, quoted: QuoteArrays, limit: Ints, asked: Ints, wanted_p95: Ints
    ) -> tuple[Ints, Bools]:
        """Ceilings, cut to the output that the limit allows where the buyer set no bound, and which fit."""
        ceiling = quoted.ceiling_nusd
        fits = ceiling <= limit
        open_ = ~fits & (asked == 0)
        if not open_.any():
            return ceiling, fits
        ceiling = ceiling.copy()
        rate = np.full(len(ceiling), offer.steps[0].rates.output_nusd_per_mtok, dtype=np.int64)
        for step in offer.steps[1:]:
            rate[quoted.covered_tokens >= step.from_input_tokens] = step.rates.output_nusd_per_mtok
        left = np.minimum(limit - quoted.ceiling_input_nusd, ceiling)
        affordable = np.where(
            rate > 0, left * TOKENS_PER_RATE // np.maximum(rate, 1), quoted.max_output_tokens
        )
        affordable = np.minimum(affordable, quoted.max_output_tokens)
        least = np.maximum(1, np.minimum(wanted_p95, quoted.max_output_tokens))
        cut = open_ & (left >= 0) & (affordable >= least)
        ceiling[cut] = (quoted.ceiling_input_nusd - (-affordable * rate // TOKENS_PER_RATE))[cut]
        return ceiling, fits | cut


def build_book(pairs: Pairs, accounts: dict[str, int]) -> tuple[PlanBook, Bools]:
    """The book of a chunk, and the orders whose best column an estimate of their tokens may have decided.

    ``accounts`` numbers accounts in the order met, and grows.
    """
    sold = pairs.sold
    shape = len(pairs), len(sold.columns)
    made: dict[str, npt.NDArray[Any]] = {
        "pick": np.zeros(shape, np.uint16),
        "cost_nusd": np.full(shape, DEAREST, np.int64),
        "ceiling_nusd": np.zeros(shape, np.int64),
        "able": np.zeros(shape, bool),
        "plain_nusd": np.zeros(shape, np.int64),
        "input_tokens": np.zeros(shape, np.float32),
        "output_tokens": np.zeros(shape, np.float32),
        "latency_ms_p50": np.zeros(shape, np.float32),
        "latency_ms_p95": np.zeros(shape, np.int32),
    }
    unsure = np.zeros(len(pairs), bool)
    low, high = np.full(shape, DEAREST, np.int64), np.full(shape, DEAREST, np.int64)
    for j in range(len(sold.offers)):
        pair = pairs.priced(j)
        unsure[pair.rows[pair.unsure]] = True
        for c in sold.columns_of(j):
            better = _enter(made, c, sold.columns[c], j, pair, pairs.deadline)
            at = pair.rows[better], c
            low[at] = (pair.cost_nusd - pair.spread_nusd)[better]
            high[at] = (pair.cost_nusd + pair.spread_nusd)[better]
    unsure |= _close(low, high, sold)
    allowed: Bools = made["cost_nusd"] < DEAREST
    made["cost_nusd"][~allowed] = 0
    for name in ("cost_nusd", "ceiling_nusd", "plain_nusd"):
        made[name] = _narrow(made[name])
    first = [column.members[0] for column in sold.columns]
    book = PlanBook(
        sold=sold,
        allowed=allowed,
        named=pairs.named[:, first],
        quality=pairs.quality[:, [pairs.model[j] for j in first]].astype(np.float32),
        value_nusd=pairs.value,
        account=np.array([accounts.setdefault(a, len(accounts)) for a in pairs.account], dtype=np.int32),
        counted=pairs.counts.counted,
        **made,
    )
    return book, unsure & ~pairs.counts.counted


def _enter(
    made: dict[str, npt.NDArray[Any]], c: int, column: Column, j: int, pair: Pair, deadline: Ints
) -> Bools:
    """Put an offer into a column of its, and in front where it is the cheapest so far that meets the terms."""
    rows = pair.rows
    met = pair.met
    if column.latest_ms:
        met = met & (pair.latency_ms_p95 <= deadline[rows] - column.latest_ms)
    made["input_tokens"][rows, c] = pair.input_tokens
    made["output_tokens"][rows, c] = pair.output_tokens
    if j == column.standard:
        made["able"][rows, c], made["plain_nusd"][rows, c] = True, pair.cost_nusd
    better = met & (pair.cost_nusd < made["cost_nusd"][rows, c])
    at = rows[better], c
    made["pick"][at] = j
    for name in ("cost_nusd", "ceiling_nusd", "latency_ms_p50", "latency_ms_p95"):
        made[name][at] = getattr(pair, name)[better]
    return np.asarray(better)


def _close(low: Ints, high: Ints, sold: Sold) -> Bools:
    """bool[n]: orders of which another offer might be cheaper than the cheapest, were the tokens counted."""
    n = len(low)
    now = [c for c, column in enumerate(sold.columns) if column.slot == 0]
    if not n or len(now) < 2:
        return np.zeros(n, bool)
    low, high = low[:, now], high[:, now]
    best = high.argmin(axis=1)
    rows = np.arange(n)
    most = high[rows, best].copy()
    low[rows, best] = DEAREST
    return np.asarray((low.min(axis=1) < most) & (most < DEAREST))


class Growing:
    """The books of a batch's parts as one: each is copied to its place and can go. ``rows``: about how many."""

    def __init__(self, rows: int) -> None:
        self._rows = max(rows, 1)
        self._count = 0
        self._sold: Sold | None = None
        self._whole: dict[str, npt.NDArray[Any]] = {}

    def add(self, book: PlanBook) -> None:
        """The book of the next lines."""
        self._sold = book.sold
        end = self._count + len(book)
        if end > self._rows:
            self._rows = max(end, 2 * self._rows)
        for name in _arrays():
            part = getattr(book, name)
            whole = self._whole.get(name)
            dtype = part.dtype if whole is None else np.promote_types(whole.dtype, part.dtype)
            if whole is None or len(whole) < self._rows or dtype != whole.dtype:
                larger = np.empty((self._rows, *part.shape[1:]), dtype)  # untouched memory is not resident
                if whole is not None:
                    larger[: self._count] = whole[: self._count]
                self._whole[name] = whole = larger
            whole[self._count : end] = part
        self._count = end

    def book(self) -> PlanBook:
        """All of them, in their order. Raises AssertionError where none was added."""
        assert self._sold is not None, "expected at least one book"
        return PlanBook(sold=self._sold, **{n: whole[: self._count] for n, whole in self._whole.items()})


def entered(book: PlanBook, rows: npt.NDArray[np.intp], part: PlanBook) -> PlanBook:
    """The book with some orders as they are in another."""
    changed = {}
    for name in _arrays():
        old, new = getattr(book, name), getattr(part, name)
        changed[name] = old.astype(np.promote_types(old.dtype, new.dtype), copy=False)
        changed[name][rows] = new
    return replace(book, **changed)


def _arrays() -> list[str]:
    return [f.name for f in fields(PlanBook) if f.name != "sold"]


def _estimates(
    quality: Quality, prompts: Sequence[str], tasks: Sequence[str | None], models: tuple[str, ...]
) -> tuple[npt.NDArray[Any], ...]:
    """Mean, sd, expected output and its p95, each n x models; tasks are estimated apart."""
    by_task: dict[str | None, list[int]] = {}
    for i, task in enumerate(tasks):
        by_task.setdefault(task, []).append(i)
    shape = len(prompts), len(models)
    parts = (np.zeros(shape), np.zeros(shape), np.zeros(shape, np.int64), np.zeros(shape, np.int64))
    for task, index in by_task.items():
        one = quality.estimate_many([prompts[i] for i in index], models, task=task)
        for part, name in zip(parts, ("mean", "sd", "output_tokens", "output_tokens_p95"), strict=True):
            part[index] = getattr(one, name)
    return parts


def _meets_lists(
    offer: Offer, require: frozenset[str], models: tuple[str, ...], exclude: tuple[str, ...]
) -> bool:
    """Whether an offer meets the terms that are lists."""
    return (
        require <= offer.tags
        and (not models or matches_any(offer.key, models))
        and not (exclude and matches_any(offer.key, exclude))
    )


def _masks(keys: Sequence[tuple[Any, ...]], offers: Sequence[Offer], test: Callable[..., bool]) -> Bools:
    """bool[n, m] of a test that depends on few different keys: each is tested once."""
    rows: dict[tuple[Any, ...], int] = {}
    which = [rows.setdefault(key, len(rows)) for key in keys]
    table = [[test(offer, *values) for offer in offers] for values in rows]
    return np.array(table, dtype=bool).reshape(len(rows), len(offers))[which]


def _narrow(values: Ints) -> Money:
    """The same numbers in half the memory, where all fit."""
    return values.astype(np.int32) if values.max(initial=0) < 2**31 else values


def _quantile(mean: Ints, p95: Ints, z: float) -> Ints:
    """The z-quantile of a lognormal length with this mean and 95th percentile."""
    mean = np.maximum(mean, 1)
    ratio = np.log(np.maximum(p95 / mean, 1.0))
    sigma = Z95 - np.sqrt(np.maximum(Z95**2 - 2 * ratio, 0.0))
    return np.ceil(mean * np.exp(z * sigma - sigma**2 / 2)).astype(np.int64)
