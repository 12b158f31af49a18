"""Read and price the shards of a batch on a Ray cluster: each is a task, and its arrays come back to the head.

The head joins them in their order, solves and proves; the plan is the one that a single machine makes. The file must
be readable under the same path on every node.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from .errors import InputInvalid
from .plan_pricing import Pricing
from .plan_shards import Makers, PricedShard, price_told

__all__ = ["on_ray"]


class _Tasks:
    """Prices as Ray tasks; the pricing is sent to each node once."""

    def __init__(self, ray: Any, pricing: Pricing) -> None:
        self.count = max(1, int(ray.cluster_resources().get("CPU", 1)))
        self._price = ray.remote(price_told)
        self._pricing = ray.put(pricing)

    def submit(self, shard: Any, budgets: dict[str, int | None]) -> Future[PricedShard | InputInvalid]:
        done: Future[PricedShard | InputInvalid] = self._price.remote(self._pricing, shard, budgets).future()
        return done


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
