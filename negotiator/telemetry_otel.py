"""OpenTelemetry: a span and measurements for every order, named by the conventions for generative AI.

Names are ``gen_ai.*`` where the conventions have one, else ``negotiator.*``. Spans are made when an order has ended, from
what the event bus says, with the times it began and ended at; the trace a caller's ``traceparent`` names is joined.
No prompt, no answer, no account's name is sent. Needs the extra ``otel``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from .errors import ConfigInvalid
from .events import Event

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.sdk.trace import SpanProcessor

__all__ = ["OpenTelemetry", "open_telemetry"]

NS_PER_MS: Final = 1_000_000
NUSD_PER_USD: Final = 1e9
SCOPE: Final = "negotiator"


class OpenTelemetry:
    """Subscribe :meth:`note` to the bus; :meth:`adopt` a request's headers; :meth:`close` sends what waits."""

    def __init__(
        self,
        processor: SpanProcessor,
        reader: MetricReader,
        *,
        service_name: str = "negotiator",
        sample_share: float = 1.0,
    ) -> None:
        """processor, reader: where finished spans and measurements go. sample_share: of traces nobody decided on."""
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

        resource = Resource.create({"service.name": service_name})
        self._spans = TracerProvider(resource=resource, sampler=ParentBasedTraceIdRatio(sample_share))
        self._spans.add_span_processor(processor)
        self._measures = MeterProvider(resource=resource, metric_readers=[reader])
        self._tracer = self._spans.get_tracer(SCOPE)
        self._make_instruments()
        self._handlers: dict[str, Callable[[Event], None]] = {
            "order.settled": self._settled,
            "order.rejected": self._rejected,
            "order.reserved": self._reserved,
            "seller.failed": self._failed,
        }

    def _make_instruments(self) -> None:
        meter = self._measures.get_meter(SCOPE)
        self._duration = meter.create_histogram(
            "gen_ai.client.operation.duration", "s", "From the call to the end of the answer."
        )
        self._first = meter.create_histogram(
            "gen_ai.server.time_to_first_token", "s", "From the call to the first token."
        )
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage", "{token}", "Tokens in and out of each answer."
        )
        self._quoting = meter.create_histogram("negotiator.quote.duration", "s", "Until all sellers quoted.")
        self._deciding = meter.create_histogram(
            "negotiator.decision.duration", "s", "From the quotes to the reservation."
        )
        self._orders = meter.create_counter("negotiator.orders", "{order}", "Orders that ended, by state.")
        self._rejects = meter.create_counter("negotiator.rejects", "{order}", "Refusals, by code.")
        self._failures = meter.create_counter("negotiator.seller.failures", "{call}", "Failed calls.")
        self._spend = meter.create_counter("negotiator.spend", "USD", "Posted to accounts.")
        self._saved = meter.create_counter("negotiator.saved", "USD", "Against the dearest eligible quote.")

    def note(self, event: Event) -> None:
        """Make what one event is worth."""
        handler = self._handlers.get(event.name)
        if handler is not None:
            handler(event)

    def adopt(self, headers: Mapping[str, str]) -> None:
        """What this task does from now on belongs to the trace that the headers name, or to none."""
        from opentelemetry.context import attach
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier = {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}
        attach(TraceContextTextMapPropagator().extract(carrier))

    def close(self) -> None:
        """Send what waits and end; takes at most as long as the exporter's own patience."""
        self._spans.shutdown()
        self._measures.shutdown()

    def _settled(self, event: Event) -> None:
        facts = event.facts
        served = _served(facts)
        attributes: dict[str, Any] = {
            **served,
            "gen_ai.usage.input_tokens": facts.get("input_tokens", 0),
            "gen_ai.usage.output_tokens": facts.get("output_tokens", 0),
            "negotiator.order.id": facts["order_id"],
            "negotiator.state": facts["state"],
            "negotiator.tier": facts["tier"] or "",
            "negotiator.attempts": facts["attempts"],
            "negotiator.expected_usd": facts["expected_nusd"] / NUSD_PER_USD,
            "negotiator.cost_usd": facts["posted_nusd"] / NUSD_PER_USD,
            "negotiator.saved_usd": facts["saved_nusd"] / NUSD_PER_USD,
        }
        begun_ms = facts.get("received_ms", event.at_ms - facts["latency_ms"])
        self._span(facts["model"], begun_ms, event.at_ms, attributes, facts["reject"])
        self._orders.add(1, {**served, "negotiator.state": facts["state"]})
        self._spend.add(facts["posted_nusd"] / NUSD_PER_USD, served)
        self._saved.add(facts["saved_nusd"] / NUSD_PER_USD, served)
        if facts["latency_ms"]:
            self._duration.record(facts["latency_ms"] / 1000, served)
        if facts["ttft_ms"]:
            self._first.record(facts["ttft_ms"] / 1000, served)
        for kind in ("input", "output"):
            if facts.get(f"{kind}_tokens"):
                self._tokens.record(facts[f"{kind}_tokens"], {**served, "gen_ai.token.type": kind})
        if facts["reject"]:
            self._rejects.add(1, {"negotiator.reject": facts["reject"]})

    def _rejected(self, event: Event) -> None:
        facts = event.facts
        attributes = {"gen_ai.operation.name": "chat", "negotiator.order.id": facts["order_id"]}
        begun_ms = facts.get("received_ms", event.at_ms)
        self._span(None, begun_ms, event.at_ms, attributes, facts["reject"])
        self._rejects.add(1, {"negotiator.reject": facts["reject"]})

    def _reserved(self, event: Event) -> None:
        self._quoting.record(event.facts["quoting_s"])
        self._deciding.record(event.facts["deciding_s"])

    def _failed(self, event: Event) -> None:
        facts = event.facts
        self._failures.add(1, {"gen_ai.provider.name": facts["provider"], "error.type": facts["error"]})

    def _span(
        self,
        model: str | None,
        begun_ms: int,
        ended_ms: int,
        attributes: Mapping[str, Any],
        error: str | None,
    ) -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode

        span = self._tracer.start_span(
            f"chat {model}" if model else "chat",
            kind=SpanKind.CLIENT,
            start_time=begun_ms * NS_PER_MS,
            attributes=dict(attributes),
        )
        if error:
            span.set_attribute("error.type", error)
            span.set_status(Status(StatusCode.ERROR, error))
        span.end(end_time=max(begun_ms, ended_ms) * NS_PER_MS)


def _served(facts: Mapping[str, Any]) -> dict[str, str]:
    """Which seller and model, as the conventions name them; nothing where none answered."""
    if not facts["provider"]:
        return {"gen_ai.operation.name": "chat"}
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": facts["provider"],
        "gen_ai.response.model": facts["model"],
    }


def open_telemetry(
    endpoint: str, *, service_name: str, sample_share: float, export_every_ms: int
) -> OpenTelemetry:
    """One that sends to an OTLP collector over HTTP. Raises ConfigInvalid where the extra is not installed."""
    try:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ConfigInvalid(
            f"telemetry.otlp_endpoint: expected the extra otel, found no {error.name};"
            " install it with: pip install 'negotiator[otel]'"
        ) from None
    base = endpoint.rstrip("/")
    return OpenTelemetry(
        BatchSpanProcessor(OTLPSpanExporter(f"{base}/v1/traces")),
        PeriodicExportingMetricReader(
            OTLPMetricExporter(f"{base}/v1/metrics"), export_interval_millis=export_every_ms
        ),
        service_name=service_name,
        sample_share=sample_share,
    )
