"""From a request to an order: terms out of body, headers and key, then the market; the one way to a seller.

Every dialect ends here: its body has become a chat (or embeddings) body, and what comes back is a completion.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from ..engine_delivery import Delivery
from ..errors import InputInvalid
from ..money import format_usd
from ..order import Completion, Order
from ..wire import Terms, terms_from
from ..wire_bodies import tiered
from .faults import ApiFault
from .routes import Call

__all__ = ["award_headers", "buy", "order_of", "sealed_headers", "submit", "terms_of"]

_HEADER: Final = "x-negotiator-"
_LISTS: Final = frozenset({"tiers", "models", "exclude", "require"})
_TERMS: Final = {name.replace("_", "-"): name for name in Terms.model_fields}


async def terms_of(call: Call, given: Terms | None, service_tier: str | None = None) -> Terms | None:
    """The terms of a request: the body's before the headers' before the key's profile. None = nobody said any.

    Raises ApiFault for a header nobody knows and for an account out of reach.
    """
    said = _from_headers(call)
    if given is not None:
        said = given if said is None else given.over(said)
    said = tiered(said, service_tier)
    key = call.caller.key
    if key is not None and key.profile is not None and (said is None or said.profile is None):
        said = (said or Terms()).model_copy(update={"profile": key.profile})
    if said is not None and said.account is not None and said.account != call.caller.account:
        if not call.caller.allows("admin"):
            raise ApiFault(403, "SCOPE_MISSING", "account: the key lacks the scope 'admin'", param="account")
        await call.reach(said.account)
    return said


def _from_headers(call: Call) -> Terms | None:
    values: dict[str, Any] = {}
    for name, value in call.request.headers.items():
        lower = name.lower()
        if lower == "idempotency-key":
            values.setdefault("order_id", value)
        elif lower.startswith(_HEADER):
            term = _TERMS.get(lower[len(_HEADER) :])
            if term is None:
                raise ApiFault.invalid(f"{lower}: expected a term's name after {_HEADER}, found another")
            values[term] = [part.strip() for part in value.split(",")] if term in _LISTS else value
    if not values:
        return None
    try:
        return terms_from(values, "headers")
    except InputInvalid as error:
        raise ApiFault.invalid(str(error)) from None


async def order_of(call: Call, body: dict[str, Any], terms: Terms | None, *, stream: bool) -> Order:
    """The order that a chat or embeddings body stands for. Raises Rejected."""
    order = await call.engine.order_for(body, terms, account=call.caller.account, stream=stream)
    call.order_id = order.order_id
    call.headers["x-negotiator-order-id"] = order.order_id
    return order


async def submit(call: Call, order: Order, quote_id: str | None = None) -> Delivery | Completion:
    """Let the order into the market. Raises Rejected; a Completion was given before."""
    return await call.engine.submit(order, quote_id=quote_id)


async def buy(call: Call, order: Order, quote_id: str | None = None) -> tuple[Completion, bytes | None]:
    """The whole answer, and the seller's own body where there is one. Raises Rejected."""
    delivery = await submit(call, order, quote_id)
    if isinstance(delivery, Completion):
        done, raw = delivery, None
    else:
        done, raw = await delivery.whole()
    call.headers |= sealed_headers(done)
    return done, raw


def _header(text: str) -> str:
    """A seller's word as it may stand in a header: one with control characters is escaped."""
    return text if text.isprintable() else quote(text)


def award_headers(delivery: Delivery) -> dict[str, str]:
    """What is known of a delivery when its first token is there."""
    candidate = delivery.serving
    return {
        "x-negotiator-order-id": delivery.job.order.order_id,
        "x-negotiator-quote-id": _header(candidate.quote.quote_id),
        "x-negotiator-provider": candidate.quote.provider,
        "x-negotiator-model": _header(candidate.quote.model),
        "x-negotiator-tier": candidate.quote.tier,
        "x-negotiator-expected-usd": format_usd(candidate.expected_nusd),
        "x-negotiator-ceiling-usd": format_usd(candidate.ceiling_nusd),
    }


def sealed_headers(done: Completion) -> Mapping[str, str]:
    """What is known of a whole answer."""
    return {
        "x-negotiator-quote-id": _header(done.quote_id),
        "x-negotiator-provider": done.provider,
        "x-negotiator-model": _header(done.model),
        "x-negotiator-tier": done.tier,
        "x-negotiator-expected-usd": format_usd(done.expected_nusd),
        "x-negotiator-ceiling-usd": format_usd(done.ceiling_nusd),
        "x-negotiator-cost-usd": format_usd(done.cost_nusd),
        "x-negotiator-saved-usd": format_usd(done.saved_nusd),
    }
