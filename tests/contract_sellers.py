"""The sellers that must keep the contract: each opened fresh, quick enough for real time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final

from vendor_playback import Playback, seller_at

from providers.agent import agent_app, serve_agent
from providers.base import ModelSettings, PricingSettings, Provider, ProviderSettings
from providers.cached_answers import CachedAnswers
from providers.clock import SystemClock
from providers.ratecard import RateCard
from providers.remote import remote_seller
from providers.simulated import ModelTraits, SimulatedSeller
from providers.terms import RateKind, RateLimit, SpeedModel, Usage

__all__ = ["ANSWER_KEY", "SELLERS"]

ANSWER_KEY: Final = "the question of the contract"
"""The cached answer is to this question."""

QUICK: Final = SpeedModel(ttft_ms_p50=0.05, ms_per_output_token_p50=0.0005, sigma=0.3)


def _simulated(
    name: str, vendor: str, model: str, pricing: PricingSettings | None = None
) -> Callable[[], AbstractAsyncContextManager[Provider]]:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Provider]:
        tiers = ("standard", "flex", "batch", "priority")
        card = RateCard(name, vendor, [ModelSettings(name=model)], tiers=tiers, speeds={model: QUICK})
        traits = {model: ModelTraits(ability=1, ttft_ms=1, ms_per_token=0.01, reasoning_tokens=20)}
        limits = (RateLimit(RateKind.REQUESTS, 1000), RateLimit(RateKind.CONCURRENCY, 4))
        seller = SimulatedSeller(name, card, traits, SystemClock(), seed=1, limits=limits, pricing=pricing)
        yield seller
        await seller.aclose()

    return opened


@asynccontextmanager
async def _cached() -> AsyncIterator[Provider]:
    seller = CachedAnswers(SystemClock())
    message = {"role": "assistant", "content": "The answer that was given before."}
    seller.remember(ANSWER_KEY, "openai/gpt-6-luna", message, "stop", Usage(40, 9), cost_nusd=8_500)
    yield seller
    await seller.aclose()


_CHUNKS: Final[list[Mapping[str, Any]]] = [
    {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "The "}, "finish_reason": None}]},
    {"choices": [{"index": 0, "delta": {"content": "answer."}, "finish_reason": None}]},
    {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
]
_USAGE: Final = {"prompt_tokens": 40, "completion_tokens": 5, "total_tokens": 45}


class _Vendor(Playback):
    """Answers a stream with a stream and the rest whole."""

    async def _reply(self, request: Any, reply: Mapping[str, Any]) -> Any:
        if self.received[-1].body.get("stream"):
            events = [*_CHUNKS, {"choices": [], "usage": _USAGE}, "data: [DONE]\n\n"]
            return await super()._reply(request, {"events": events})
        message = {"role": "assistant", "content": "The answer."}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return await super()._reply(request, {"json": {"choices": [choice], "usage": _USAGE}})


@asynccontextmanager
async def _over_http() -> AsyncIterator[Provider]:
    async with _Vendor([{}]).at() as url:
        seller = seller_at(url)
        yield seller
        await seller.aclose()


@asynccontextmanager
async def _through_an_agent() -> AsyncIterator[Provider]:
    async with (
        _Vendor([{}]).at() as url,
        serve_agent(agent_app(seller_at(url)), "127.0.0.1", 0) as agent,
    ):
        remote = remote_seller(ProviderSettings(kind="remote", name="far", base_url=agent), SystemClock(), {})
        yield remote
        await remote.aclose()


def _dialect(
    kind: str, whole: Mapping[str, Any], events: list[Any]
) -> Callable[[], AbstractAsyncContextManager[Provider]]:
    class Vendor(Playback):
        async def _reply(self, request: Any, reply: Mapping[str, Any]) -> Any:
            streamed = "stream" in request.path or self.received[-1].body.get("stream")
            return await super()._reply(request, {"events": events} if streamed else {"json": whole})

    @asynccontextmanager
    async def opened() -> AsyncIterator[Provider]:
        async with Vendor([{}]).at() as url:
            seller = seller_at(url, kind)
            yield seller
            await seller.aclose()

    return opened


_ANTHROPIC_USAGE: Final = {"input_tokens": 40, "output_tokens": 5}
_ANTHROPIC: Final = {
    "content": [{"type": "text", "text": "The answer."}],
    "stop_reason": "end_turn",
    "usage": _ANTHROPIC_USAGE,
}
_ANTHROPIC_EVENTS: Final[list[Any]] = [
    {"type": "message_start", "message": {"usage": {"input_tokens": 40, "output_tokens": 1}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "The answer."}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}},
    {"type": "message_stop"},
]
_GEMINI: Final = {
    "candidates": [{"content": {"parts": [{"text": "The answer."}]}, "finishReason": "STOP"}],
    "usageMetadata": {"promptTokenCount": 40, "candidatesTokenCount": 5, "totalTokenCount": 45},
}


SELLERS: Final[Mapping[str, Callable[[], AbstractAsyncContextManager[Provider]]]] = {
    "simulated, charged cache writes": _simulated("openai", "openai", "gpt-6-luna"),
    "simulated, marked cache writes": _simulated("anthropic", "anthropic", "claude-opus-5-5"),
    "simulated, hours": _simulated("deepseek", "deepseek", "deepseek-flash"),
    "simulated, long-context cliff": _simulated("x-ai", "x-ai", "grok-4.7"),
    "simulated, tier factors": _simulated("google", "google", "gemini-3.8-flash"),
    "simulated, idle pricing": _simulated(
        "idle", "groq", "openai/gpt-oss-120b", PricingSettings(reserve_share=0.4)
    ),
    "cached answers": _cached,
    "OpenAI's API over HTTP": _over_http,
    "Anthropic's API over HTTP": _dialect("anthropic", _ANTHROPIC, _ANTHROPIC_EVENTS),
    "Gemini's API over HTTP": _dialect("gemini", _GEMINI, [_GEMINI]),
    "a vendor through the quote protocol": _through_an_agent,
}
"""Name → opens a fresh one."""
