"""Taking a counter-offer: how a refused call is made once more under the terms that would be served."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .errors import CounterOffer, Rejected
from .wire import Terms, terms_from

__all__ = ["acceptable", "with_offer"]


@contextmanager
def acceptable(call: Callable[..., Any], terms: Terms | None) -> Iterator[None]:
    """A reject that passes through can be accepted: ``call`` is then made with ``terms`` and ``quote_id`` of the offer."""
    try:
        yield
    except Rejected as refused:
        refused.again = lambda offer: call(terms=with_offer(terms, offer), quote_id=offer.quote_id)
        raise


def with_offer(terms: Terms | None, offer: CounterOffer) -> Terms:
    """The terms with what a counter-offer changes."""
    given = terms.model_dump(exclude_none=True) if terms is not None else {}
    return terms_from({**given, **offer.terms})
