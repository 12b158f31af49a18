"""Metrics of one server: what the event bus says, counted for Prometheus.

Labels are bounded: sellers' and models' names beyond the first few hundred count as ``other``; accounts, prompts and
ids are never labels. Children are kept, so counting costs about a microsecond.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from .errors import RejectCode
from .events import Event

__all__ = ["Telemetry"]

MAX_LABELS: Final = 500
NUSD_PER_USD: Final = 1e9
SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
FAST: Final = (5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.25, 1)


class _Children(dict[Any, Any]):
    """Label values → the child that counts them, made when first seen."""

    def __init__(self, metric: Counter | Histogram) -> None:
        super().__init__()
        self._metric = metric

    def __missing__(self, values: Any) -> Any:
        several = values if isinstance(values, tuple) else (values,)
        if len(self) >= MAX_LABELS:
            several = ("other",) * len(several)
        child = self[values] = self._metric.labels(*several)
        return child


class Telemetry:
    """Subscribe :meth:`note` to the bus; :meth:`exposition` is what Prometheus scrapes."""

    def __init__(self, together: str | None = None) -> None:
        """together: the directory where the metrics of all workers are, None = there is one process."""
        self.registry = registry = CollectorRegistry()
        self._together = together
        self._pending: Callable[[], float] = float
        self._oldest_s: Callable[[], float] = float

        def counter(name: str, says: str, *labels: str) -> Counter:
            return Counter(f"negotiator_{name}", says, labels, registry=registry)

        def histogram(name: str, says: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"negotiator_{name}", says, buckets=buckets, registry=registry)

        self._orders = _Children(
            counter(
                "orders_total", "Orders that ended, by state, seller and model.", "state", "provider", "model"
            )
        )
        self._rejects = _Children(counter("rejects_total", "Refusals, by the reject's name.", "reject"))
        self._failures = _Children(counter("seller_failures_total", "Failed calls.", "provider", "error"))
        self._spend = counter("spend_usd_total", "US dollars posted to accounts.")
        self._saved = counter("saved_usd_total", "US dollars saved against the dearest eligible quote.")
        self._house = counter("house_usd_total", "US dollars the house bore above what was quoted.")
        self._overspend = counter(
            "overspend_usd_total", "US dollars posted above a hold: always zero, or a bug."
        )
        self._ledger = _Children(counter("ledger_events_total", "What the ledger reports.", "event"))
        self._market = _Children(
            counter("market_events_total", "Prices, limits and health: what changed.", "event")
        )
        self._latency = histogram("order_seconds", "From the call to the end of the answer.", SECONDS)
        self._ttft = histogram("first_token_seconds", "From the call to the first token.", SECONDS)
        self._quoting = histogram("quote_seconds", "From the request for quotes to all of them.", FAST)
        self._deciding = histogram("decision_seconds", "From the quotes to the reservation.", FAST)
        self._holds = Gauge(
            "negotiator_holds_pending",
            "Holds not yet resolved.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._hold_age = Gauge(
            "negotiator_hold_age_seconds",
            "Age of the oldest hold.",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._stale = Gauge(
            "negotiator_prices_stale",
            "Workers that decide by cost alone, for their shadow prices are too old.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        for code in RejectCode:
            self._rejects[code.name].inc(0)
        self._handlers: dict[str, Callable[[Event], None]] = {
            "order.settled": self._settled,
            "order.rejected": self._rejected,
            "order.reserved": self._reserved,
            "seller.failed": self._failed,
        }

    def note(self, event: Event) -> None:
        """Count one event; never raises for facts it does not know."""
        handler = self._handlers.get(event.name)
        if handler is not None:
            handler(event)
        elif event.name.startswith("ledger."):
            self._ledger[event.name].inc()
        elif event.name.startswith(("market", "clearing.", "capacity.")):
            self._market[event.name].inc()
            if event.name.startswith("clearing."):
                self._stale.set(event.name == "clearing.stale")

    def watch_holds(self, pending: Callable[[], float], oldest_s: Callable[[], float]) -> None:
        """Where the number of holds and the age of the oldest come from."""
        self._pending, self._oldest_s = pending, oldest_s

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format; of all workers where they share ``PROMETHEUS_MULTIPROC_DIR``."""
        self._look_at_holds()
        if self._together is None:
            return generate_latest(self.registry)
        together = CollectorRegistry()
        MultiProcessCollector(together, path=self._together)  # type: ignore[no-untyped-call]
        return generate_latest(together)

    def _look_at_holds(self) -> None:
        self._holds.set(self._pending())
        self._hold_age.set(self._oldest_s())

    def _settled(self, event: Event) -> None:
        facts = event.facts
        self._orders[facts["state"], facts["provider"] or "", facts["model"] or ""].inc()
        self._spend.inc(facts["posted_nusd"] / NUSD_PER_USD)
        self._saved.inc(facts["saved_nusd"] / NUSD_PER_USD)
        if facts["house_nusd"]:
            self._house.inc(facts["house_nusd"] / NUSD_PER_USD)
        if facts["released_nusd"] < 0:
            self._overspend.inc(-facts["released_nusd"] / NUSD_PER_USD)
        if facts["latency_ms"]:
            self._latency.observe(facts["latency_ms"] / 1000)
        if facts["ttft_ms"]:
            self._ttft.observe(facts["ttft_ms"] / 1000)
        if facts["reject"]:
            self._rejects[facts["reject"]].inc()
        if self._together is not None:
            self._look_at_holds()

    def _rejected(self, event: Event) -> None:
        self._rejects[event.facts["reject"]].inc()

    def _reserved(self, event: Event) -> None:
        self._quoting.observe(event.facts["quoting_s"])
        self._deciding.observe(event.facts["deciding_s"])

    def _failed(self, event: Event) -> None:
        self._failures[event.facts["provider"], event.facts["error"]].inc()
