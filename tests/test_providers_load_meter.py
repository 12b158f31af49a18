"""How busy a server is: its own page read without making quotes wait, and idle prices that follow it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from vendor_playback import ENVIRONMENT, RATES

from providers.base import ModelSettings, PricingSettings, ProviderSettings
from providers.clock import SystemClock
from providers.http_sellers import http_seller
from providers.load_meter import FRESH_MS, STALE_MS, LoadMeter, busy_share
from providers.terms import RFQ, Quote, RateKind, RateLimit

VLLM = """# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="q"} 3.0
vllm:num_requests_waiting{engine="0",model_name="q"} 1.0
vllm:kv_cache_usage_perc{engine="0",model_name="q"} 0.25
vllm:prompt_tokens_total{model_name="q"} 1.2e+06
"""


@pytest.mark.parametrize(
    ("text", "busy"),
    [
        (VLLM, 0.5),
        (VLLM.replace("0.25", "0.9"), 0.9),
        (VLLM.replace(" 3.0", " 11.0"), 1.5),
        ("llamacpp:requests_processing 2\nllamacpp:requests_deferred 0\n", 0.25),
        ('sglang:num_running_reqs{model="a"} 2\nsglang:num_running_reqs{model="b"} 4\n', 0.75),
        ("vllm:num_requests_running NaN\nvllm:num_requests_waiting -1\n", None),
        ("process_cpu_seconds_total 5\n<html>", None),
        ("", None),
    ],
)
def test_the_gauges_of_known_servers(text: str, busy: float | None) -> None:
    """Running and queueing calls over eight slots, or the cache, whichever is more; anything else says nothing."""
    assert busy_share(text, 8) == busy


class Clock:
    """A clock that stands until it is moved."""

    now = 1_000_000

    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        return self.now


class Page:
    """A metrics page that can change or break."""

    def __init__(self) -> None:
        self.text, self.status, self.reads = VLLM, 200, 0

    async def handle(self, request: web.Request) -> web.Response:
        """Answer with the page as it is now."""
        self.reads += 1
        return web.Response(text=self.text, status=self.status)


async def served(page: Page) -> TestServer:
    """The page on a real local server."""
    app = web.Application()
    app.router.add_get("/metrics", page.handle)
    server = TestServer(app)
    await server.start_server()
    return server


async def settled(meter: LoadMeter) -> float:
    """The load after a reading that was started has ended."""
    meter.busy()
    if meter._reading is not None:
        await meter._reading
    return meter.busy()


async def test_a_quote_never_waits_for_the_page() -> None:
    """The first answer is full, for nothing is known; the reading it started answers the next; then once a second."""
    page, clock = Page(), Clock()
    server = await served(page)
    meter = LoadMeter(str(server.make_url("/metrics")), clock.now_ms, slots=8, own_calls=lambda: 0)
    assert meter.busy() == 1.0
    assert await settled(meter) == 0.5
    page.text = VLLM.replace(" 3.0", " 0.0").replace(" 1.0", " 0.0")
    assert await settled(meter) == 0.5
    assert page.reads == 1
    clock.now += FRESH_MS
    assert await settled(meter) == 0.25
    assert page.reads == 2
    await server.close()


async def test_a_broken_page_ends_the_discount() -> None:
    """For a while the last reading stands; after fifteen seconds nothing is known to be idle."""
    page, clock = Page(), Clock()
    server = await served(page)
    meter = LoadMeter(str(server.make_url("/metrics")), clock.now_ms, slots=8, own_calls=lambda: 0)
    assert await settled(meter) == 0.5
    page.status = 500
    clock.now += STALE_MS
    assert await settled(meter) == 0.5
    clock.now += 1
    assert await settled(meter) == 1.0
    await server.close()
    clock.now += FRESH_MS
    assert await settled(meter) == 1.0


def test_without_a_page_our_own_calls_count() -> None:
    """Two of eight slots are ours; outside of a loop a page is simply not read."""
    assert LoadMeter(None, Clock().now_ms, slots=8, own_calls=lambda: 2).busy() == 0.25
    assert LoadMeter("http://127.0.0.1:9/metrics", Clock().now_ms, slots=8, own_calls=lambda: 2).busy() == 1.0


SETTINGS = ProviderSettings(
    kind="vllm",
    name="shop",
    base_url="http://127.0.0.1:9/v1",
    models=(ModelSettings(name="m", rates=RATES, context_tokens=100_000),),
    limits=(RateLimit(RateKind.CONCURRENCY, 8),),
    pricing=PricingSettings(reserve_share=0.2),
)


async def test_a_self_hosted_seller_quotes_its_idle_price() -> None:
    """By its page: half busy, it asks 80 % (half of the way that 50 % idle opens to a reserve of 20 %)."""
    page = Page()
    server = await served(page)
    pricing = PricingSettings(reserve_share=0.2, metrics_url=str(server.make_url("/metrics")))
    seller = http_seller(replace(SETTINGS, pricing=pricing), SystemClock(), ENVIRONMENT)
    ask = RFQ(rfq_id="r", input_tokens=10_000, expected_output_tokens=1_000)
    (before,) = seller.quote(ask)
    await asyncio.sleep(0.2)
    (after,) = seller.quote(ask)
    assert isinstance(before, Quote)
    assert isinstance(after, Quote)
    assert before.discounts == ()
    (saved,) = after.discounts
    assert (saved.kind, saved.basis) == ("idle", "50 % of its capacity is idle")
    assert after.expected_nusd == before.expected_nusd * 8 // 10
    await seller.aclose()
    await server.close()


def test_a_vendors_bill_cannot_be_priced_by_us() -> None:
    """Idle pricing is for one's own servers: elsewhere the house would pay the difference."""
    openai = replace(SETTINGS, kind="openai", base_url=None)
    with pytest.raises(
        ValueError, match="shop: expected pricing only for one's own servers, found it for openai"
    ):
        http_seller(openai, SystemClock(), ENVIRONMENT)
