"""Metrics of one server: what the event bus says, counted for Prometheus, and what is looked at now and then.

Labels are bounded: sellers' and models' names beyond the first few hundred count as ``other``; accounts, prompts and
ids are never labels. Children are kept, so counting costs about a microsecond. ``docs/operations.md`` lists all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from .errors import RejectCode
from .events import Event
from .telemetry_refusals import FalseRefusals

__all__ = ["Sight", "Telemetry"]

MAX_LABELS: Final = 500
NUSD_PER_USD: Final = 1e9
SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
FAST: Final = (5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.25, 1)
GAPS: Final = (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1)

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What is there to see of a market at one moment.

    holds: not yet resolved. settlements_waiting: that the store has not taken yet. prices_made_s: when the shadow prices
    in force were made, seconds since 1970, None = there are none. up, cached: by provider and model; cached is tokens
    expected from warm prompt caches and read from them, since the start.
    """

    holds: int = 0
    oldest_hold_s: float = 0.0
    settlements_waiting: int = 0
    prices_made_s: float | None = None
    up: Mapping[Pair, bool] = field(default_factory=dict)
    cached: Mapping[Pair, tuple[int, int]] = field(default_factory=dict)


class _Children(dict[Any, Any]):
    """Label values → the child that counts them, made when first seen."""

    def __init__(self, metric: Counter | Gauge | Histogram) -> None:
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

    def __init__(self, together: str | None = None, look: Callable[[], Sight] = Sight) -> None:
        """together: the directory where the metrics of all workers are, None = there is one process.

        look: how the market stands now; asked at every scrape, and whenever :meth:`look` is called.
        """
        self.registry = CollectorRegistry()
        self._together = together
        self._look = look
        self._refusals = FalseRefusals()
        self._seen: dict[Pair, tuple[int, int]] = {}
        self._make_counters()
        self._make_durations()
        self._make_gauges()
        for code in RejectCode:
            self._rejects[code.name].inc(0)
        self._handlers: dict[str, Callable[[Event], None]] = {
            "order.settled": self._settled,
            "order.rejected": self._rejected,
            "order.reserved": self._reserved,
            "seller.failed": self._failed,
            "plan.solved": self._solved,
            "market_maker.died": lambda event: self._maker_deaths.inc(),
            "quality.changed": self._changed,
        }

    def _counter(self, name: str, says: str, *labels: str) -> Counter:
        return Counter(f"negotiator_{name}", says, labels, registry=self.registry)

    def _histogram(self, name: str, says: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"negotiator_{name}", says, buckets=buckets, registry=self.registry)

    def _gauge(self, name: str, says: str, together: Any, *labels: str) -> Gauge:
        """together: how the values of several workers become one."""
        return Gauge(f"negotiator_{name}", says, labels, registry=self.registry, multiprocess_mode=together)

    def _make_counters(self) -> None:
        counter, pair = self._counter, ("provider", "model")
        self._orders = _Children(
            counter("orders_total", "Orders that ended, by state, seller and model.", "state", *pair)
        )
        self._rejects = _Children(counter("rejects_total", "Refusals, by the reject's name.", "reject"))
        self._failures = _Children(counter("seller_failures_total", "Failed calls.", "provider", "error"))
        self._spend = counter("spend_usd_total", "US dollars posted to accounts.")
        self._saved = counter("saved_usd_total", "US dollars saved against the dearest eligible quote.")
        self._house = counter("house_usd_total", "US dollars the house bore above what was quoted.")
        self._overspend = counter(
            "overspend_usd_total", "US dollars posted above a hold: always zero, or a bug."
        )
        self._false_refusals = counter(
            "false_refusals_total", "Orders refused for money that running orders held and then gave back."
        )
        self._ledger = _Children(counter("ledger_events_total", "What the ledger reports.", "event"))
        self._maker_deaths = counter("market_maker_deaths_total", "Market makers that ended or fell silent.")
        self._changes = _Children(
            counter("quality_changes_total", "Models found to answer worse or better.", "model", "direction")
        )
        self._cache_expected = _Children(
            counter("cache_tokens_expected_total", "Input tokens expected from warm prompt caches.", *pair)
        )
        self._cache_read = _Children(
            counter("cache_tokens_read_total", "Input tokens of those calls read from prompt caches.", *pair)
        )

    def _make_durations(self) -> None:
        histogram = self._histogram
        self._latency = histogram("order_seconds", "From the call to the end of the answer.", SECONDS)
        self._ttft = histogram("first_token_seconds", "From the call to the first token.", SECONDS)
        self._quoting = histogram("quote_seconds", "From the request for quotes to all of them.", FAST)
        self._deciding = histogram("decision_seconds", "From the quotes to the reservation.", FAST)
        self._gap = histogram("plan_gap", "Proven gap of plans, as a share of their cost.", GAPS)
        self._solving = histogram("plan_seconds", "Solving of plans.", SECONDS)

    def _make_gauges(self) -> None:
        gauge = self._gauge
        self._holds = gauge("holds_pending", "Holds not yet resolved.", "livesum")
        self._hold_age = gauge("hold_age_seconds", "Age of the oldest hold.", "livemax")
        self._waiting = gauge("settlements_waiting", "Settlements the store has not taken yet.", "livesum")
        self._prices_made = gauge(
            "prices_made_timestamp_seconds",
            "When the shadow prices in force were made, 0 = there are none; the oldest of all workers.",
            "livemin",
        )
        self._up = _Children(
            gauge(
                "seller_up",
                "Whether a seller's model takes calls, 0 = a worker found it out.",
                "livemin",
                "provider",
                "model",
            )
        )

    def note(self, event: Event) -> None:
        """Count one event; never raises for facts it does not know."""
        handler = self._handlers.get(event.name)
        if handler is not None:
            handler(event)
        elif event.name.startswith("ledger."):
            self._ledger[event.name].inc()

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format; of all workers where they share a directory."""
        self.look()
        if self._together is None:
            return generate_latest(self.registry)
        together = CollectorRegistry()
        MultiProcessCollector(together, path=self._together)  # type: ignore[no-untyped-call]
        return generate_latest(together)

    def look(self) -> None:
        """Write down how the market stands; of several workers each does so every few seconds, whoever is scraped."""
        sight = self._look()
        self._holds.set(sight.holds)
        self._hold_age.set(sight.oldest_hold_s)
        self._waiting.set(sight.settlements_waiting)
        self._prices_made.set(sight.prices_made_s or 0.0)
        for pair, up in sight.up.items():
            self._up[pair].set(up)
        for pair, (expected, read) in sight.cached.items():
            before = self._seen.get(pair, (0, 0))
            self._cache_expected[pair].inc(max(0, expected - before[0]))
            self._cache_read[pair].inc(max(0, read - before[1]))
            self._seen[pair] = (max(expected, before[0]), max(read, before[1]))

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
        proven = self._refusals.ended(facts["account"], facts["order_id"], facts["released_nusd"])
        if proven:
            self._false_refusals.inc(proven)

    def _rejected(self, event: Event) -> None:
        facts = event.facts
        self._rejects[facts["reject"]].inc()
        if facts.get("short_nusd"):
            self._refusals.refused(facts["account"], facts["short_nusd"])

    def _reserved(self, event: Event) -> None:
        facts = event.facts
        self._quoting.observe(facts["quoting_s"])
        self._deciding.observe(facts["deciding_s"])
        self._refusals.held(facts["account"], facts["order_id"])

    def _failed(self, event: Event) -> None:
        self._failures[event.facts["provider"], event.facts["error"]].inc()

    def _changed(self, event: Event) -> None:
        facts = event.facts
        self._changes[facts["model"], "worse" if facts["since"] < facts["before"] else "better"].inc()

    def _solved(self, event: Event) -> None:
        self._gap.observe(event.facts["gap"])
        self._solving.observe(event.facts["solve_s"])
