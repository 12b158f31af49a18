"""Plan a batch on a Ray cluster: shards are read and priced as tasks, and the solver's dense passes are made by actors.

Arrays come back to the head, which joins them in their order. While it solves, an actor per processor holds a part of
the requests: prices go out, a few numbers per request come back, and what is small (the bands around the prices,
rounding, the exact core) is solved on the head. The plan, its bound and its certificate are those of one machine. The
file must be readable under the same path on every node.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .errors import InputInvalid
from .plan_pricing import Pricing
from .plan_shards import Makers, PricedShard, price_told

if TYPE_CHECKING:
    from solver.rows import Floats, Rows
    from solver.spread import Lead, Spread

__all__ = ["on_ray"]


class _Tasks:
    """Prices as Ray tasks; the pricing is sent to each node once."""

    def __init__(self, ray: Any, pricing: Pricing) -> None:
        self.count = max(1, int(ray.cluster_resources().get("CPU", 1)))
        self._ray = ray
        self._price = ray.remote(price_told)
        self._pricing = ray.put(pricing)

    def spread(self, rows: Rows) -> Spread:
        """Actors that hold the parts of a compiled problem."""
        return _Actors(self._ray, rows, self.count)

    def submit(self, shard: Any, budgets: dict[str, int | None]) -> Future[PricedShard | InputInvalid]:
        done: Future[PricedShard | InputInvalid] = self._price.remote(self._pricing, shard, budgets).future()
        return done


class _Actors:
    """A part of the requests in each; asked all at once, heard in their order."""

    def __init__(self, ray: Any, rows: Rows, count: int) -> None:
        from solver.spread import Part, bounds_of, part_of

        actor = ray.remote(Part)
        self._get = ray.get
        self._bounds = bounds_of(rows.n, count)
        self._parts = [actor.remote(part_of(rows, lo, hi)) for lo, hi in self._bounds]

    def cheapest(self, lam: Floats, costs: bool) -> list[Floats]:
        answers: list[Floats] = self._get([part.cheapest.remote(lam, costs) for part in self._parts])
        return answers

    def leads(self, lam: Floats, worth: Floats, costs: bool) -> list[Lead]:
        asked = zip(self._parts, self._bounds, strict=True)
        answers: list[Lead] = self._get(
            [part.leads.remote(lam, worth[lo:hi], costs) for part, (lo, hi) in asked]
        )
        return answers


@contextmanager
def on_ray(pricing: Pricing, size: int) -> Iterator[Makers]:
    """Tasks on the cluster that this process is connected to, else on the one that Ray finds or starts.

    Ray reads where it is from ``RAY_ADDRESS``. Raises InputInvalid when Ray is not installed or does not answer.
    """
    try:
        import ray
    except ImportError:
        raise InputInvalid("engine: ray needs Ray; pip install 'negotiator[ray]'") from None
    ours = not ray.is_initialized()
    if ours:
        try:
            ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False)
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise InputInvalid(f"engine: expected a Ray cluster that answers, found: {reason}") from None
    try:
        yield _Tasks(ray, pricing)
    finally:
        if ours:
            ray.shutdown()
