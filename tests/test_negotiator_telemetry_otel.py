"""OpenTelemetry: an order is one span under the caller's trace, with the conventions' names, and no word of anybody's."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web
from api_house import ANSWER, CHAT, api_house

from negotiator.config import Config, load_config
from negotiator.engine import Engine
from negotiator.errors import ConfigInvalid
from negotiator.telemetry_otel import OpenTelemetry, open_telemetry

pytest.importorskip("opentelemetry.sdk", reason="needs the extra otel")

from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}


class Sink:
    """Where spans and measurements end in memory."""

    def __init__(self) -> None:
        self.exporter, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.telemetry = OpenTelemetry(SimpleSpanProcessor(self.exporter), self.reader)

    def spans(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def measured(self) -> dict[str, list[Any]]:
        data = self.reader.get_metrics_data()
        assert data is not None
        scopes = [scope for resource in data.resource_metrics for scope in resource.scope_metrics]
        return {metric.name: list(metric.data.data_points) for scope in scopes for metric in scope.metrics}


@pytest.fixture
def sink() -> Iterator[Sink]:
    """A sink that is closed at the end."""
    made = Sink()
    yield made
    made.telemetry.close()


async def test_an_order_is_a_span_of_the_callers_trace(sink: Sink) -> None:
    """Named by the conventions, as long as the order took, with its cost; the next request is not in that trace."""
    async with api_house({"json": ANSWER}) as served:
        served.engine.tracing = sink.telemetry
        served.engine.rooms.bus.subscribe(sink.telemetry.note)
        await served.call("POST", "/v1/chat/completions", CHAT, **PARENT)
        await served.call("POST", "/v1/chat/completions", CHAT)
        served.engine.tracing = None  # the fixture closes it
    first, second = sink.spans()
    assert first.name == "chat m"
    assert first.context is not None
    assert second.context is not None
    assert f"{first.context.trace_id:032x}" == TRACE
    assert f"{second.context.trace_id:032x}" != TRACE
    assert first.attributes is not None
    assert first.attributes["gen_ai.operation.name"] == "chat"
    assert first.attributes["gen_ai.provider.name"] == "shop"
    assert first.attributes["gen_ai.response.model"] == "m"
    assert first.attributes["gen_ai.usage.input_tokens"] == 12
    assert first.attributes["gen_ai.usage.output_tokens"] == 3
    assert first.attributes["negotiator.cost_usd"] == pytest.approx(0.000024)
    assert first.end_time is not None
    assert first.start_time is not None
    assert first.end_time >= first.start_time
    assert "2+2" not in first.to_json()
    assert "default" not in first.to_json()


async def test_a_refusal_is_a_span_that_failed(sink: Sink) -> None:
    """Its error is the reject's name."""
    async with api_house({"json": ANSWER}) as served:
        served.engine.rooms.bus.subscribe(sink.telemetry.note)
        await served.call("POST", "/v1/chat/completions", {**CHAT, "negotiator": {"budget_usd": 0}})
    (span,) = sink.spans()
    assert span.attributes is not None
    assert span.attributes["error.type"] == "BUDGET_TOO_LOW"
    assert not span.status.is_ok
    assert sink.measured()["negotiator.rejects"][0].value == 1


async def test_measurements_have_the_conventions_names(sink: Sink) -> None:
    """Duration, tokens in and out, spend, orders by state, quoting and deciding."""
    async with api_house({"json": ANSWER}) as served:
        served.engine.rooms.bus.subscribe(sink.telemetry.note)
        await served.call("POST", "/v1/chat/completions", CHAT)
    found = sink.measured()
    tokens = {p.attributes["gen_ai.token.type"]: p.sum for p in found["gen_ai.client.token.usage"]}
    assert tokens == {"input": 12, "output": 3}
    assert found["negotiator.spend"][0].value == pytest.approx(0.000024)
    assert found["negotiator.orders"][0].attributes["negotiator.state"] == "SETTLED"
    for name in (
        "gen_ai.client.operation.duration",
        "negotiator.quote.duration",
        "negotiator.decision.duration",
    ):
        assert found[name][0].count == 1, name


async def test_a_configured_collector_hears_of_it() -> None:
    """With an address in [telemetry], spans and measurements of an in-process market reach it before the market is closed."""
    heard: list[str] = []

    async def take(request: web.Request) -> web.Response:
        heard.append(request.path if await request.read() else "")
        return web.Response(content_type="application/x-protobuf")

    app = web.Application()
    app.router.add_post("/v1/{kind}", take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    try:
        config = Config.model_validate({"telemetry": {"otlp_endpoint": f"http://{host}:{port}"}})
        async with Engine.open(config) as market:
            await market.complete("What is 2+2?", max_tokens=20)
    finally:
        await runner.cleanup()
    assert sorted(set(heard)) == ["/v1/metrics", "/v1/traces"]


def test_off_it_costs_nothing() -> None:
    """Without an address nothing of OpenTelemetry is loaded, by the engine or the server."""
    code = "import negotiator.engine, negotiator.api.server, sys; print([m for m in sys.modules if 'opentelemetry' in m])"
    import subprocess

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_without_the_extra_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the setting, the extra and the command."""
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ConfigInvalid, match=r"negotiator\[otel\]"):
        open_telemetry("http://127.0.0.1:1", service_name="n", sample_share=1.0, export_every_ms=1_000)


def test_a_wrong_address_is_refused_at_start() -> None:
    """It must be http or https."""
    with pytest.raises(ConfigInvalid, match="otlp_endpoint"):
        load_config(None, {"NEGOTIATOR_TELEMETRY__OTLP_ENDPOINT": "collector:4317"})
