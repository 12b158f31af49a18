"""Orders: executed or only reserved, looked up, escalated; and reservations settled by who called the model itself."""

from __future__ import annotations

from typing import Any

from providers.terms import Usage

from ..wire import Terms
from ..wire_bodies import HOUSE_FIELDS
from ..wire_out import candidate_out, reservation_out, settlement_out
from .buying import order_of, sealed_headers, terms_of
from .faults import ApiFault
from .openai import answer_chat, chat_bytes
from .quotes import joined_terms
from .routes import Answer, Call, route
from .schemas import AccountQuery, OrderRequest, ReportedUsage, SettleRequest
from .schemas_out import ChatOut, HistoryOut, ReservedOut, SettlementOut

__all__ = ["create_order", "escalate_order", "read_order", "settle_reservation", "void_reservation"]

_OWN = ("terms", "order_id", "quote_id", "execute")
_MARKET = (402, 403, 404, 409, 410, 422, 429, 499, 502, 503, 504)


@route("POST", "/v1/orders", req=OrderRequest, res=ChatOut, also=(ReservedOut,), streams=True, errors=_MARKET)
async def create_order(call: Call) -> Answer:
    """Place an order.

    Executed, the answer is a chat completion. With ``execute: false`` the money is only reserved: the buyer calls
    the model itself and then settles or voids the reservation. ``quote_id`` takes a quote that was shown before.
    """
    asked: OrderRequest = call.body
    given = joined_terms(asked.terms, asked.negotiator)
    if asked.order_id is not None:
        if given is not None and given.order_id not in (None, asked.order_id):
            raise ApiFault.invalid(f"order_id: expected one, found {asked.order_id!r} and {given.order_id!r}")
        given = (given or Terms()).model_copy(update={"order_id": asked.order_id})
    terms = await terms_of(call, given, asked.service_tier)
    for name in _OWN:
        call.raw.pop(name, None)
    if asked.execute:
        return await answer_chat(call, asked, call.raw, terms, asked.quote_id)
    return await _reserve(call, asked, call.raw, terms)


async def _reserve(
    call: Call, asked: OrderRequest, body: dict[str, Any], terms: Terms | None
) -> dict[str, Any]:
    if asked.stream:
        raise ApiFault.invalid("stream: expected none with execute false, found true")
    for name in HOUSE_FIELDS:
        body.pop(name, None)
    order = await order_of(call, body, terms, stream=False)
    reservation, award = await call.engine.reserve(order, quote_id=asked.quote_id)
    return {"reservation": reservation_out(reservation), "quote": candidate_out(award)}


@route(
    "GET",
    "/v1/orders/{order_id}",
    scope="any",
    query=AccountQuery,
    res=HistoryOut,
    errors=(403, 404),
    watch=True,
)
async def read_order(call: Call) -> Answer:
    """State and history of an order: its quotes and why they lost, attempts, settlement."""
    order_id = call.order_id = call.request.match_info["order_id"]
    history = await call.engine.history(order_id, await call.reach(call.query.account))
    if history is None:
        raise _unknown(order_id)
    return history


@route("POST", "/v1/orders/{order_id}/escalate", query=AccountQuery, res=ChatOut, errors=_MARKET)
async def escalate_order(call: Call) -> Answer:
    """Run a served order again on a better model, under the same terms and what is left of its budget."""
    order_id = call.request.match_info["order_id"]
    account, engine = await call.reach(call.query.account), call.engine
    if await engine.history(order_id, account) is None:
        raise _unknown(order_id)
    order = await engine.better(order_id, account)
    call.order_id = call.headers["x-negotiator-order-id"] = order.order_id
    done = await engine.buy(order)
    call.headers |= sealed_headers(done)
    return chat_bytes(done, None, engine.rooms.clock.now_ms())


@route(
    "POST",
    "/v1/reservations/{reservation_id}/settle",
    req=SettleRequest,
    res=SettlementOut,
    errors=(403, 404, 503),
)
async def settle_reservation(call: Call) -> Answer:
    """Charge what the call used at the reserved quote's rates, up to its ceiling; the rest is released.

    A reservation that had resolved before answers which way, with ``already`` true.
    """
    asked: SettleRequest = call.body
    return await _resolve(call, _usage(asked.usage))


@route("POST", "/v1/reservations/{reservation_id}/void", res=SettlementOut, errors=(403, 404, 503))
async def void_reservation(call: Call) -> Answer:
    """The call was not made: release all of it."""
    return await _resolve(call, None)


async def _resolve(call: Call, usage: Usage | None) -> dict[str, Any]:
    reservation_id, engine = call.request.match_info["reservation_id"], call.engine
    reservation = await engine.rooms.ledger.find(reservation_id)
    if reservation is None or not await call.house.doorman.within_reach(call.caller, reservation.account):
        raise ApiFault(404, "UNKNOWN_RESERVATION", f"there is no reservation {reservation_id!r}")
    call.order_id = reservation.order_id
    return settlement_out(await engine.resolve(reservation, usage))


def _usage(reported: ReportedUsage) -> Usage:
    read = written = reasoning = 0
    if reported.prompt_tokens_details is not None:
        read = reported.prompt_tokens_details.cached_tokens
        written = reported.prompt_tokens_details.cache_write_tokens
    if reported.completion_tokens_details is not None:
        reasoning = reported.completion_tokens_details.reasoning_tokens
    try:
        return Usage(
            reported.prompt_tokens, reported.completion_tokens, read, written, reasoning_tokens=reasoning
        )
    except ValueError as error:
        raise ApiFault.invalid(str(error)) from None


def _unknown(order_id: str) -> ApiFault:
    return ApiFault(
        404, "UNKNOWN_ORDER", f"there is no order {order_id!r} of this account in the last 24 hours"
    )
