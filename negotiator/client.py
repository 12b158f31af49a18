"""Clients of a house over HTTP: the methods of :class:`negotiator.Engine`, with the same results.

>>> from negotiator import Client, Rejected, Terms
>>> market = Client(url)
>>> answer = market.complete("Name three rivers.", terms=Terms(budget_usd="0.01", min_quality=0.8))
>>> answer.message["role"], answer.cost_nusd <= answer.ceiling_nusd <= 10_000_000
('assistant', True)

What is refused says what would be served; taking it is one call:

>>> try:
...     answer = market.complete("Name three rivers.", terms=Terms(budget_usd="0.0000001"))
... except Rejected as refused:
...     print(refused.reject.code.name)
...     answer = refused.accept(0)
BUDGET_TOO_LOW
>>> market.close()
"""

from __future__ import annotations

import random
import weakref
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

from providers.terms import Usage

from .acceptance import acceptable
from .client_batches import BatchCalls
from .client_bridge import Bridge, blocking, iterating
from .client_http import Connection
from .client_requests import answered, id_out, known, line_out, messages_out, order_out, terms_out, usage_out
from .client_results import PlanResult, SoldModel
from .client_stream import chunks_in
from .errors import InputInvalid, ServerRefused
from .money import format_usd
from .order import Book, Candidate, Chunk, Completion, Reservation, Settlement
from .store import Account, Balance
from .wire import Terms, options_from
from .wire_in import (
    balance_in,
    book_in,
    candidate_in,
    chat_completion_in,
    reservation_in,
    settlement_in,
)

__all__ = ["AsyncClient", "Client"]

DEFAULT_URL: Final = "http://127.0.0.1:8377"
TIMEOUT_S: Final = 600.0
TRIES: Final = 4

Messages = str | Sequence[Mapping[str, Any]]


class AsyncClient(BatchCalls):
    """A house over HTTP. ``async with AsyncClient("http://127.0.0.1:8377", key=...) as market: ...``

    timeout_s bounds every call, its retries included, and every wait for the next piece of a stream. tries: how often
    a request is sent at most. An order keeps its id over all of them, so none is paid twice. chance: where the jitter
    of waits comes from.

    >>> import asyncio
    >>> from negotiator import AsyncClient
    >>> async def main():
    ...     async with AsyncClient(url) as market:
    ...         async for chunk in market.stream("Name three rivers."):
    ...             done = chunk.completion
    ...         return done.complete
    >>> asyncio.run(main())
    True
    """

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        key: str | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
        tries: int = TRIES,
        chance: random.Random | None = None,
    ) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise InputInvalid(
                f"base_url: expected one that begins with http:// or https://, found {base_url!r}"
            )
        if timeout_s <= 0:
            raise InputInvalid(f"timeout_s: expected more than 0, found {timeout_s!r}")
        if tries < 1:
            raise InputInvalid(f"tries: expected 1 or more, found {tries!r}")
        self.base_url = base_url.rstrip("/").removesuffix("/v1")
        self._shown = _shown(self.base_url, key)
        self._house = Connection(self.base_url, key, timeout_s=timeout_s, tries=tries, chance=chance)

    def __repr__(self) -> str:
        return f"AsyncClient({self._shown})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._house.aclose()

    # Buying. Every method raises Rejected, ServerRefused or ServerUnreachable.

    async def quote(self, /, messages: Messages, *, terms: Terms | None = None, **body: Any) -> Book:
        """What every seller would do it for, judged against the terms; nothing is held or spent."""
        asked = {**body, "messages": messages_out(messages), "terms": terms_out(terms)}
        return answered(book_in, await self._house.call("POST", "/v1/quotes", asked))

    async def complete(
        self, /, messages: Messages, *, terms: Terms | None = None, quote_id: str | None = None, **body: Any
    ) -> Completion:
        """The answer, bought."""
        with acceptable(partial(self.complete, messages, **body), terms):
            order = order_out(messages, terms, quote_id, body)
            return answered(chat_completion_in, await self._house.call("POST", "/v1/orders", order))

    async def stream(
        self, /, messages: Messages, *, terms: Terms | None = None, quote_id: str | None = None, **body: Any
    ) -> AsyncGenerator[Chunk]:
        """The answer as it comes; the last chunk has the completion. Closing it hangs up."""
        order = order_out(messages, terms, quote_id, body)
        order |= {"stream": True, "stream_options": {"include_usage": True}}
        with acceptable(partial(self.stream, messages, **body), terms):
            response = await self._house.open("/v1/orders", order)
            async with aclosing(chunks_in(response)) as chunks:
                async for chunk in chunks:
                    yield chunk

    async def escalate(self, order_id: str, account: str | None = None) -> Completion:
        """Run an order again on a better model, under the same terms and what is left of its budget.

        Raises InputInvalid for an order that was not served lately. Sent once: a second would escalate again.
        """
        path = f"/v1/orders/{id_out(order_id)}/escalate"
        with known():
            answer = await self._house.call("POST", path, query=_of(account), repeatable=False)
        return answered(chat_completion_in, answer)

    async def feedback(
        self, order_id: str, score: float, *, source: str = "buyer", account: str | None = None
    ) -> tuple[str, str]:
        """How good an answer was, 0 to 1. Gives the provider and model it was of.

        Raises InputInvalid for an order that was not served lately.
        """
        said = {"order_id": order_id, "score": score, "source": source, **_of(account)}
        with known():
            answer = await self._house.call("POST", "/v1/feedback", said, repeatable=False)
        return answered(lambda learnt: (learnt["provider"], learnt["model"]), answer)

    async def history(self, order_id: str, account: str | None = None) -> dict[str, Any] | None:
        """State and history of an order, None = unknown."""
        try:
            found = await self._house.call("GET", f"/v1/orders/{id_out(order_id)}", query=_of(account))
        except ServerRefused as refused:
            if refused.code == "UNKNOWN_ORDER":
                return None
            raise
        return answered(dict, found)

    async def plan(self, /, lines: Iterable[Any], **options: Any) -> PlanResult:
        """The cheapest feasible plan of a batch, with its proof; nothing is held or spent.

        lines: dicts or JSON texts in OpenAI's batch format. options: as in :class:`negotiator.wire.PlanOptions`.
        Raises InputInvalid.
        """
        chosen = options_from(options).model_dump(mode="json", exclude_unset=True)
        asked = b"\n".join(map(line_out, lines))
        with known():
            made = await self._house.call(
                "POST", "/v1/plans", asked, query={name: str(value) for name, value in chosen.items()}
            )
        *rows, last = (answered(dict, row) for row in made.splitlines())
        return PlanResult(last["summary"], tuple(rows))

    # Buyers that call the model themselves.

    async def reserve(
        self, /, messages: Messages, *, terms: Terms | None = None, quote_id: str | None = None, **body: Any
    ) -> tuple[Reservation, Candidate]:
        """Only hold the money: call the model yourself, then :meth:`settle` or :meth:`void`. Sent once."""
        with acceptable(partial(self.reserve, messages, **body), terms):
            order = order_out(messages, terms, quote_id, body) | {"execute": False}
            held = await self._house.call("POST", "/v1/orders", order, repeatable=False)
        return answered(lambda one: (reservation_in(one["reservation"]), candidate_in(one["quote"])), held)

    async def settle(self, reservation: Reservation, usage: Usage) -> Settlement:
        """Charge what the call used at the reserved quote's rates, up to its ceiling; the rest is released.

        What had resolved before answers which way, with ``already``.
        """
        return await self._resolve(reservation, "settle", {"usage": usage_out(usage)})

    async def void(self, reservation: Reservation) -> Settlement:
        """The call was not made: release all of it. What had resolved before answers which way."""
        return await self._resolve(reservation, "void", None)

    async def _resolve(self, reservation: Reservation, verb: str, body: dict[str, Any] | None) -> Settlement:
        path = f"/v1/reservations/{id_out(reservation.reservation_id)}/{verb}"
        with known():
            return answered(settlement_in, await self._house.call("POST", path, body))

    # What is sold, and whose money it is.

    async def models(self) -> list[SoldModel]:
        """Every model that is sold now, with prices by tier, context and estimated quality."""
        found = await self._house.call("GET", "/v1/models")
        return answered(lambda listed: [SoldModel.of(entry) for entry in listed["data"]], found)

    async def account(self, account: str) -> Balance:
        """Where an account stands in its period."""
        return answered(balance_in, await self._house.call("GET", f"/v1/accounts/{id_out(account)}"))

    async def accounts(self) -> list[Balance]:
        """Every account in reach."""
        found = await self._house.call("GET", "/v1/accounts")
        return answered(lambda listed: [balance_in(one) for one in listed["accounts"]], found)

    async def put_account(self, account: Account) -> Balance:
        """Make an account, or give it other terms."""
        given = {
            "parent": account.parent,
            "budget_usd": _usd(account.budget_nusd),
            "period": account.period.value,
            "default_budget_usd": _usd(account.default_budget_nusd),
        }
        path = f"/v1/accounts/{id_out(account.account_id)}"
        return answered(balance_in, await self._house.call("PUT", path, given))

    async def deposit(self, account: str, amount_usd: str, reference: str) -> Balance:
        """Raise an account's budget; the same reference twice counts once."""
        given = {"amount_usd": amount_usd, "reference": reference}
        path = f"/v1/accounts/{id_out(account)}/deposits"
        return answered(balance_in, await self._house.call("POST", path, given))


class Client:
    """:class:`AsyncClient` for programs that wait: the same parameters, methods and results, from any thread.

    The work is done by a private thread with an event loop of its own, so it may be used inside a running loop too
    (which then waits). ``with Client(...) as market: ...`` or :meth:`close`; else it closes with the program.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        key: str | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
        tries: int = TRIES,
        chance: random.Random | None = None,
    ) -> None:
        self.asynchronous = AsyncClient(base_url, key, timeout_s=timeout_s, tries=tries, chance=chance)
        self.bridge = Bridge()
        weakref.finalize(self, _close, self.asynchronous, self.bridge)

    def __repr__(self) -> str:
        return repr(self.asynchronous).removeprefix("Async")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and stop the thread; a later call opens and starts them again."""
        _close(self.asynchronous, self.bridge)

    quote = blocking(AsyncClient.quote)
    complete = blocking(AsyncClient.complete)
    stream = iterating(AsyncClient.stream)
    escalate = blocking(AsyncClient.escalate)
    feedback = blocking(AsyncClient.feedback)
    history = blocking(AsyncClient.history)
    plan = blocking(AsyncClient.plan)
    reserve = blocking(AsyncClient.reserve)
    settle = blocking(AsyncClient.settle)
    void = blocking(AsyncClient.void)
    models = blocking(AsyncClient.models)
    account = blocking(AsyncClient.account)
    accounts = blocking(AsyncClient.accounts)
    put_account = blocking(AsyncClient.put_account)
    deposit = blocking(AsyncClient.deposit)
    upload_file = blocking(AsyncClient.upload_file)
    files = blocking(AsyncClient.files)
    download_file = blocking(AsyncClient.download_file)
    delete_file = blocking(AsyncClient.delete_file)
    create_batch = blocking(AsyncClient.create_batch)
    batch = blocking(AsyncClient.batch)
    batches = blocking(AsyncClient.batches)
    cancel_batch = blocking(AsyncClient.cancel_batch)
    batch_events = iterating(AsyncClient.batch_events)
    batch_report = blocking(AsyncClient.batch_report)


def _close(client: AsyncClient, bridge: Bridge) -> None:
    if bridge.running:
        bridge.run(client.aclose())
        bridge.close()


def _of(account: str | None) -> dict[str, str]:
    return {} if account is None else {"account": account}


def _usd(nusd: int | None) -> str | None:
    return None if nusd is None else format_usd(nusd)


def _shown(base_url: str, key: str | None) -> str:
    """The constructor's arguments as they may be seen: of a key only its end, where that tells little."""
    if key is None:
        return repr(base_url)
    return f"{base_url!r}, key='...{key[-4:] if len(key) >= 16 else ''}'"
