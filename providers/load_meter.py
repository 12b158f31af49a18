"""How busy a self-hosted server is, for pricing its idle capacity: its own metrics page, or our calls in flight.

Reading never makes a quote wait: a quote takes the last reading and, when that is old, starts the next one. Without a
fresh reading nothing is known to be idle, and the list price is asked.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterable
from typing import Final

import aiohttp

from .http_client import checked_url

__all__ = ["DEFAULT_SLOTS", "FRESH_MS", "STALE_MS", "LoadMeter", "busy_share"]

logger = logging.getLogger("providers.load_meter")

DEFAULT_SLOTS: Final = 16
"""Calls at once of a server whose operator gives no concurrency limit."""
FRESH_MS: Final = 1_000
STALE_MS: Final = 15_000
TIMEOUT_S: Final = 2.0
MAX_BYTES: Final = 2**20

RUNNING: Final = frozenset(
    {"vllm:num_requests_running", "llamacpp:requests_processing", "sglang:num_running_reqs"}
)
WAITING: Final = frozenset(
    {"vllm:num_requests_waiting", "llamacpp:requests_deferred", "sglang:num_queue_reqs"}
)
CACHE: Final = frozenset(
    {
        "vllm:kv_cache_usage_perc",
        "vllm:gpu_cache_usage_perc",
        "llamacpp:kv_cache_usage_ratio",
        "sglang:token_usage",
    }
)
"""Gauges of vLLM, llama.cpp and SGLang: calls running and queueing, share of the key-value cache in use."""

_SAMPLE: Final = re.compile(r"^([A-Za-z_:][\w:]*)(?:\{[^}]*\})?\s+(\S+)")


def busy_share(metrics: str, slots: int) -> float | None:
    """The share of a server in use, 1 and more = full, from Prometheus text; None = none of the known gauges.

    The larger of calls (queue included) over ``slots`` and of the key-value cache in use. Several models or engines
    on one page are added up, their caches averaged.
    """
    calls: list[float] = []
    caches: list[float] = []
    for line in metrics.splitlines():
        sample = _SAMPLE.match(line)
        if sample is None:
            continue
        name, value = sample[1], _number(sample[2])
        if value is None:
            continue
        if name in RUNNING or name in WAITING:
            calls.append(value)
        elif name in CACHE:
            caches.append(value)
    if not calls and not caches:
        return None
    return max(sum(calls) / max(1, slots), _mean(caches))


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value < 1e9 else None


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values) if values else 0.0


class LoadMeter:
    """The load of one server. url: its metrics page, None = judge by ``own_calls``. now_ms: the clock."""

    def __init__(
        self, url: str | None, now_ms: Callable[[], int], *, slots: int, own_calls: Callable[[], int]
    ) -> None:
        self._url = None if url is None else checked_url(url)
        self._now_ms, self._slots, self._own_calls = now_ms, slots, own_calls
        self._busy = 1.0
        self._read_ms: int | None = None
        self._tried_ms: int | None = None
        self._reading: asyncio.Task[None] | None = None

    def busy(self) -> float:
        """The share in use now: at least our own calls; 1 while nothing fresh is known."""
        own = self._own_calls() / self._slots
        if self._url is None:
            return own
        now_ms = self._now_ms()
        if self._tried_ms is None or abs(now_ms - self._tried_ms) >= FRESH_MS:
            self._start(now_ms)
        if self._read_ms is None or abs(now_ms - self._read_ms) > STALE_MS:
            return 1.0
        return max(own, self._busy)

    def _start(self, now_ms: int) -> None:
        if self._reading is not None and not self._reading.done():
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # asked outside of a loop: the list price it is
        self._tried_ms = now_ms
        self._reading = loop.create_task(self.read())

    async def read(self) -> None:
        """Read the page once; what goes wrong leaves the last reading to grow old."""
        assert self._url is not None, "a meter without a page reads nothing"
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(self._url, allow_redirects=False) as response,
            ):
                text = (await response.content.read(MAX_BYTES)).decode("utf-8", "replace")
                busy = busy_share(text, self._slots) if response.status == 200 else None
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            logger.debug("metrics of %s: %s", self._url, error)
            return
        if busy is not None:
            self._busy, self._read_ms = busy, self._now_ms()
