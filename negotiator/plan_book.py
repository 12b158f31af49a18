"""A batch as arrays: what every offer would charge every order, how well it would do, and which pairs meet the terms.

The same judgement as :mod:`negotiator.policy`, for n orders x m offers at once; tested to agree with it pair by pair.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from statistics import NormalDist
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from providers.quoting_arrays import QuoteArrays, quote_arrays
from providers.terms import TOKENS_PER_RATE, Offer
from providers.tokens import REFERENCE, VOCABULARIES, count_chat

from .engine_rooms import Rooms
from .intake import capabilities_of, prompt_text
from .order import Order
from .policy import matches_any

__all__ = ["NO_LIMIT", "PlanBook", "build_book", "join_books", "sold_now"]

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Singles = npt.NDArray[np.float32]

NO_LIMIT: Final = 2**62
Z95: Final = 1.6448536269514722


@dataclass(frozen=True, slots=True, eq=False)
class PlanBook:
    """n orders x m offers.

    able: the offer can do it at all (capabilities, context, tier). named: it is the model the body names, or the body
    leaves it open. allowed: both, and it meets every term.
    cost_nusd, ceiling_nusd: expected and ceiling price. input_tokens, output_tokens: what counts against limits.
    Token counts and latencies are float32, as the solver reads them: exact to 16,777,216.
    quality: the estimate's mean. value_nusd, limit_nusd: per order, NO_LIMIT = none. account: its number per order.
    """

    offers: tuple[Offer, ...]
    able: Bools
    named: Bools
    allowed: Bools
    cost_nusd: Ints
    ceiling_nusd: npt.NDArray[np.int64 | np.int32]
    input_tokens: Singles
    output_tokens: Singles
    latency_ms_p50: Singles
    latency_ms_p95: npt.NDArray[np.int32]
    quality: npt.NDArray[np.float32]
    value_nusd: Ints
    limit_nusd: Ints
    account: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.value_nusd)


def sold_now(rooms: Rooms) -> tuple[Offer, ...]:
    """All offers of local sellers that are well; remote sellers, who price each request, are not planned with."""
    return tuple(
        offer
        for seller in rooms.sellers.values()
        for offer in seller.offers()
        if offer.tier != "cached" and "embeddings" not in offer.tags
    )


def build_book(
    rooms: Rooms, offers: Sequence[Offer], orders: Sequence[Order], accounts: dict[str, int], quantile: float
) -> PlanBook:
    """The book of some orders. ``accounts`` numbers accounts and grows; ``quantile``: of output counted against limits."""
    batch = _Batch(rooms, offers, orders, NormalDist().inv_cdf(quantile))
    for j, offer in enumerate(offers):
        batch.price(j, offer)
    named = _masks(
        orders, offers, lambda o: (o.named,), lambda offer, name: name in (None, offer.model, offer.key)
    )
    return PlanBook(
        offers=tuple(offers),
        able=batch.able,
        named=named,
        allowed=batch.able & batch.met & named & _meets_lists(orders, offers),
        cost_nusd=batch.cost,
        ceiling_nusd=_narrow(batch.ceiling),
        input_tokens=batch.inputs,
        output_tokens=batch.outputs,
        latency_ms_p50=batch.p50,
        latency_ms_p95=batch.p95,
        quality=batch.quality.astype(np.float32),
        value_nusd=_column(orders, lambda o: NO_LIMIT if o.value_nusd is None else o.value_nusd),
        limit_nusd=batch.limit,
        account=np.array([accounts.setdefault(o.account, len(accounts)) for o in orders], dtype=np.int32),
    )


class _Batch:
    """Arrays in the making: per-order columns once, then offer by offer."""

    def __init__(self, rooms: Rooms, offers: Sequence[Offer], orders: Sequence[Order], z: float) -> None:
        models = tuple(dict.fromkeys(offer.model for offer in offers))
        column = [models.index(offer.model) for offer in offers]
        self.quality, spread, wanted, wanted_p95 = (
            part[:, column] for part in _estimates(rooms, orders, models)
        )
        self._wanted, self._wanted_p95, self._z = wanted.astype(np.int64), wanted_p95.astype(np.int64), z
        vocabularies = {REFERENCE, *(offer.vocabulary for offer in offers)} & VOCABULARIES.keys()
        self._tokens = {
            name: np.array([count_chat(order.body, name) for order in orders], dtype=np.int64)
            for name in sorted(vocabularies)
        }
        self._asked = _column(orders, lambda o: o.max_output_tokens or 0)
        self._deadline = _column(orders, lambda o: NO_LIMIT if o.deadline_ms is None else o.deadline_ms)
        self._ttft = _column(orders, lambda o: NO_LIMIT if o.ttft_ms is None else o.ttft_ms)
        self.limit = _column(orders, lambda o: NO_LIMIT if o.limit_nusd is None else o.limit_nusd)
        margin = np.array([o.quality_margin for o in orders])[:, None]
        self.met = self.quality - margin * spread >= np.array([o.min_quality for o in orders])[:, None]
        self.able = _able(orders, offers)
        shape = (len(orders), len(offers))
        self.cost, self.ceiling = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        self.inputs, self.outputs = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        self.p50, self.p95 = np.zeros(shape, np.float32), np.zeros(shape, np.int32)

    def price(self, j: int, offer: Offer) -> None:
        """Fill in the column of one offer."""
        counted = None if offer.vocabulary == REFERENCE else self._tokens.get(offer.vocabulary)
        quoted = quote_arrays(offer, self._tokens[REFERENCE], counted, self._asked, self._wanted[:, j])
        self.able[:, j] &= quoted.quoted
        ceiling, fits = self._within_limit(offer, quoted, self._wanted_p95[:, j])
        in_time = (quoted.latency_ms_p95 <= self._deadline) & (quoted.ttft_ms_p95 <= self._ttft)
        self.met[:, j] &= fits & in_time
        self.cost[:, j], self.ceiling[:, j] = np.minimum(quoted.expected_nusd, ceiling), ceiling
        self.inputs[:, j] = quoted.input_tokens
        longest = _quantile(self._wanted[:, j], self._wanted_p95[:, j], self._z)
        self.outputs[:, j] = np.clip(longest, 1, quoted.max_output_tokens)
        self.p50[:, j], self.p95[:, j] = quoted.latency_ms_p50, quoted.latency_ms_p95

    def _within_limit(self, offer: Offer, quoted: QuoteArrays, wanted_p95: Ints) -> tuple[Ints, Bools]:
        """Ceilings, cut to the output that the limit allows where the buyer set no bound, and which fit."""
        ceiling = quoted.ceiling_nusd.copy()
        fits = ceiling <= self.limit
        rate = np.full(len(ceiling), offer.steps[0].rates.output_nusd_per_mtok, dtype=np.int64)
        for step in offer.steps[1:]:
            rate[quoted.covered_tokens >= step.from_input_tokens] = step.rates.output_nusd_per_mtok
        left = np.minimum(self.limit - quoted.ceiling_input_nusd, ceiling)
        affordable = np.where(
            rate > 0, left * TOKENS_PER_RATE // np.maximum(rate, 1), quoted.max_output_tokens
        )
        affordable = np.minimum(affordable, quoted.max_output_tokens)
        least = np.maximum(1, np.minimum(wanted_p95, quoted.max_output_tokens))
        cut = ~fits & (self._asked == 0) & (left >= 0) & (affordable >= least)
        ceiling[cut] = (quoted.ceiling_input_nusd - (-affordable * rate // TOKENS_PER_RATE))[cut]
        return ceiling, fits | cut


def join_books(books: list[PlanBook]) -> PlanBook:
    """Books of parts of a batch as one. ``books`` is emptied: each array's parts go when the whole is there."""
    offers = books[0].offers
    names = [f.name for f in fields(PlanBook) if f.name != "offers"]
    parts = {name: [getattr(book, name) for book in books] for name in names}
    books.clear()
    return PlanBook(offers=offers, **{name: np.concatenate(parts.pop(name)) for name in names})


def _estimates(
    rooms: Rooms, orders: Sequence[Order], models: tuple[str, ...]
) -> tuple[npt.NDArray[Any], ...]:
    """Mean, sd, expected output and its p95, each n x models; tasks are estimated apart."""
    tasks: dict[str | None, list[int]] = {}
    for i, order in enumerate(orders):
        tasks.setdefault(order.task, []).append(i)
    parts = tuple(np.zeros((len(orders), len(models))) for _ in range(4))
    for task, index in tasks.items():
        one = rooms.quality.estimate_many([prompt_text(orders[i].body) for i in index], models, task=task)
        for part, name in zip(parts, ("mean", "sd", "output_tokens", "output_tokens_p95"), strict=True):
            part[index] = getattr(one, name)
    return parts


def _able(orders: Sequence[Order], offers: Sequence[Offer]) -> Bools:
    """Whether an offer is in a tier the buyer takes and can do what the body uses."""
    return _masks(
        orders,
        offers,
        lambda order: (order.tiers, capabilities_of(order.body)),
        lambda offer, tiers, needs: offer.tier in tiers and needs <= offer.tags,
    )


def _meets_lists(orders: Sequence[Order], offers: Sequence[Offer]) -> Bools:
    """Whether an offer meets the terms that are lists: require, models, exclude."""
    return _masks(
        orders,
        offers,
        lambda order: (order.require, order.models, order.exclude),
        lambda offer, require, models, exclude: (
            require <= offer.tags
            and (not models or matches_any(offer.key, models))
            and not (exclude and matches_any(offer.key, exclude))
        ),
    )


def _masks(
    orders: Sequence[Order],
    offers: Sequence[Offer],
    key: Callable[[Order], tuple[Any, ...]],
    test: Callable[..., bool],
) -> Bools:
    """bool[n, m] of a test that depends on few different keys: each is tested once."""
    rows: dict[tuple[Any, ...], int] = {}
    which = [rows.setdefault(key(order), len(rows)) for order in orders]
    table = [[test(offer, *values) for offer in offers] for values in rows]
    return np.array(table, dtype=bool).reshape(len(rows), len(offers))[which]


def _narrow(values: Ints) -> npt.NDArray[np.int64 | np.int32]:
    """The same numbers in half the memory, where all fit."""
    return values.astype(np.int32) if values.max(initial=0) < 2**31 else values


def _column(orders: Sequence[Order], value: Callable[[Order], int]) -> Ints:
    return np.array([value(order) for order in orders], dtype=np.int64)


def _quantile(mean: Ints, p95: Ints, z: float) -> Ints:
    """The z-quantile of a lognormal length with this mean and 95th percentile."""
    mean = np.maximum(mean, 1)
    ratio = np.log(np.maximum(p95 / mean, 1.0))
    sigma = Z95 - np.sqrt(np.maximum(Z95**2 - 2 * ratio, 0.0))
    return np.ceil(mean * np.exp(z * sigma - sigma**2 / 2)).astype(np.int64)
