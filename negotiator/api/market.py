"""The market to look at: what is sold, at what price, and how much room is left; as a list or as a stream."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, Final

import orjson

from providers.batch import BATCH_TIER
from providers.terms import Offer

from ..engine_rooms import Rooms
from ..money import format_usd
from ..wire_out import instant_out
from .openai_stream import open_stream
from .routes import Answer, Call, route
from .schemas_out import MarketOut, ModelsOut

__all__ = ["list_models", "market_out", "read_market", "stream_market"]

EVERY_S: Final = 2.0
LONGEST_STREAM_S: Final = 3_600.0


@route("GET", "/v1/models", scope="any", res=ModelsOut)
async def list_models(call: Call) -> Answer:
    """Every model that is sold now, with prices, tiers, context and estimated quality."""
    rooms = call.engine.rooms
    by_key: dict[str, list[Offer]] = {}
    for seller in rooms.sellers.values():
        for offer in seller.offers():
            by_key.setdefault(offer.key, []).append(offer)
    quality = _quality(rooms, [offers[0].model for offers in by_key.values()])
    return {
        "object": "list",
        "data": [_model(key, offers, quality[offers[0].model]) for key, offers in sorted(by_key.items())],
    }


@route("GET", "/v1/market", scope="read", res=MarketOut, watch=True)
async def read_market(call: Call) -> Answer:
    """Every offer's price, health and speed now, and what is left of every limit."""
    return market_out(call.engine.rooms)


@route("GET", "/v1/market/stream", scope="read", streams=True, produces="text/event-stream")
async def stream_market(call: Call) -> Answer:
    """The market as server-sent events, one ``market`` event every two seconds."""
    response = await open_stream(call, {})
    loop = asyncio.get_running_loop()
    end_s = loop.time() + LONGEST_STREAM_S
    while loop.time() < end_s and not call.house.draining:
        await response.write(b"event: market\ndata: %b\n\n" % orjson.dumps(market_out(call.engine.rooms)))
        await asyncio.sleep(EVERY_S)
    await response.write_eof()
    return response


def market_out(rooms: Rooms) -> dict[str, Any]:
    """Every offer and every limit now, as the market is read."""
    left = rooms.capacity.left()
    prices = rooms.clearing.prices
    shadow_nusd = prices.nusd_per_million if prices is not None else {}
    offers = [offer for seller in rooms.sellers.values() for offer in seller.offers()]
    quality = _quality(rooms, [offer.model for offer in offers])
    return {
        "at": instant_out(rooms.clock.now_ms()),
        "offers": [{**_offer_now(rooms, offer), "quality": quality[offer.model]} for offer in offers],
        "limits": [
            {
                "name": row.name,
                "provider": row.provider,
                "models": None if row.models is None else sorted(row.models),
                "kind": row.kind.value,
                "cap": row.amount,
                "per_ms": row.per_ms,
                "left": left.get(row.name, 0),
                "shadow_usd_per_million": format_usd(shadow_nusd.get(row.name, 0)),
            }
            for row in rooms.capacity.rows
        ],
    }


def _offer_now(rooms: Rooms, offer: Offer) -> dict[str, Any]:
    batch = offer.tier == BATCH_TIER
    spread = rooms.capacity.latency(offer.provider, offer.model, 500, batch=batch)
    scores = getattr(rooms.sellers[offer.provider], "cache_scores", None)
    warmth = None if scores is None else scores().get(offer.model)
    return {
        "provider": offer.provider,
        "model": offer.model,
        "tier": offer.tier,
        **_prices(offer),
        "discount": _discount(offer),
        "health": rooms.capacity.state(offer.provider, offer.model, batch=batch).value,
        "latency_ms": None if spread is None else {"p50": round(spread.p50), "p95": round(spread.p95)},
        "quoted_ttft_ms": round(offer.speed.ttft_ms_p50),
        "cache_hit_rate": None if warmth is None else round(warmth.hit_rate, 4),
        "price_source": offer.price_source,
    }


def _prices(offer: Offer) -> dict[str, str]:
    rates = offer.steps[0].rates
    return {
        "input_usd_per_million": format_usd(rates.input_nusd_per_mtok),
        "cache_read_usd_per_million": format_usd(rates.cache_read_nusd_per_mtok),
        "output_usd_per_million": format_usd(rates.output_nusd_per_mtok),
    }


def _discount(offer: Offer) -> float:
    """The share of the list price that is taken off now."""
    if offer.list_steps is None:
        return 0.0
    listed = offer.list_steps[0].rates
    before = listed.input_nusd_per_mtok + listed.output_nusd_per_mtok
    rates = offer.steps[0].rates
    now = rates.input_nusd_per_mtok + rates.output_nusd_per_mtok
    return round(max(0.0, 1 - now / before), 4) if before else 0.0


def _quality(rooms: Rooms, models: Iterable[str]) -> Mapping[str, dict[str, Any]]:
    names = tuple(sorted(set(models)))
    estimate = rooms.quality.estimate("", names)
    return {
        name: {"mean": round(mean, 4), "sd": round(sd, 4), "observations": observations}
        for name, mean, sd, observations in zip(
            names,
            estimate.mean.tolist(),
            estimate.sd.tolist(),
            estimate.observations.tolist(),
            strict=True,
        )
    }


def _model(key: str, offers: list[Offer], quality: dict[str, Any]) -> dict[str, Any]:
    first = offers[0]
    return {
        "id": key,
        "object": "model",
        "created": 0,
        "owned_by": first.provider,
        "negotiator": {
            "provider": first.provider,
            "model": first.model,
            "context_tokens": first.context_tokens,
            "max_output_tokens": first.max_output_tokens,
            "capabilities": sorted(first.tags),
            "tiers": {offer.tier: _prices(offer) for offer in offers},
            "quality": quality,
        },
    }
