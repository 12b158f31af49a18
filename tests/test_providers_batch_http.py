"""Vendors' batch endpoints over real HTTP: handed in, polled, fetched, cancelled, found again, in every vendor's shape."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from batch_vendors import KEY, MODELS, BatchVendor, batch_seller

from providers import batch_single
from providers.batch import (
    BatchDriver,
    BatchHandle,
    BatchLine,
    BatchResult,
    BatchState,
    SubmitInDoubt,
    batches_of,
)
from providers.clock import SystemClock
from providers.errors import (
    Overloaded,
    ProviderError,
    ProviderTimeout,
    ProviderUnavailable,
    RequestRefused,
)
from providers.terms import RFQ, Quote, Ticket, Usage
from providers.vendor import VendorSeller

KINDS = ("openai", "groq", "mistral", "anthropic", "gemini")


@asynccontextmanager
async def opened(vendor: BatchVendor) -> AsyncIterator[tuple[VendorSeller, BatchDriver]]:
    """A seller at a vendor, and its driver."""
    async with vendor.at() as url:
        seller = batch_seller(url, vendor.kind)
        driver = batches_of(seller)
        assert driver is not None
        yield seller, driver
        await seller.aclose()


def line(number: int, text: str, **more: Any) -> BatchLine:
    body = {"messages": [{"role": "user", "content": text}], **more}
    return BatchLine(line_id=f"c-{number}", body=body, max_output_tokens=50)


async def handed_in(driver: BatchDriver, kind: str, *texts: str, name: str = "n-1") -> BatchHandle:
    lines = [driver.encode(MODELS[kind], line(number, text)) for number, text in enumerate(texts)]
    return await driver.submit(name, MODELS[kind], lines)


async def fetched(driver: BatchDriver, handle: BatchHandle) -> dict[str, BatchResult]:
    status = await driver.poll(handle)
    return {result.line_id: result async for result in driver.results(handle, status)}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_batch_is_handed_in_polled_and_fetched(kind: str) -> None:
    """Every vendor: running, then ended, then each line's answer with its usage, by the id it was handed in under."""
    vendor = BatchVendor(kind, ends_after=2)
    async with opened(vendor) as (_, driver):
        handle = await handed_in(driver, kind, "one", "two")
        again = BatchHandle(**json.loads(json.dumps(handle.out())))  # as it would be written down
        first = await driver.poll(again)
        assert (first.state, first.total) == (BatchState.RUNNING, 2)
        found = await fetched(driver, again)
        assert sorted(found) == ["c-0", "c-1"]
        for number, text in enumerate(("one", "two")):
            delta = found[f"c-{number}"].delta
            assert delta is not None
            assert delta.delta["content"] == f"then: {text}"
            assert delta.finish_reason == "stop"
            assert delta.usage == Usage(20, 5)
        assert vendor.keys == {KEY}


@pytest.mark.parametrize("kind", KINDS)
async def test_lines_that_failed_come_beside_those_that_did_not(kind: str) -> None:
    """One answered, one refused by the vendor, one not run in time: each has its own answer or error."""
    vendor = BatchVendor(kind, fates={"hard": "error", "late": "expired"})
    async with opened(vendor) as (_, driver):
        found = await fetched(driver, await handed_in(driver, kind, "fine", "hard", "late"))
        assert found["c-0"].delta is not None
        refused = found["c-1"].error
        assert isinstance(refused, RequestRefused)
        assert "too hard" in str(refused)
        assert KEY not in str(refused)
        if kind != "gemini":  # it names no line that it did not run
            assert isinstance(found["c-2"].error, ProviderTimeout)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_batch_that_is_cancelled_ends(kind: str) -> None:
    """After a cancel it has ended, and lines that were not run have no answer."""
    vendor = BatchVendor(kind, ends_after=99)
    async with opened(vendor) as (_, driver):
        handle = await handed_in(driver, kind, "one", "two")
        assert (await driver.poll(handle)).state is BatchState.RUNNING
        await driver.cancel(handle)
        assert (await driver.poll(handle)).state is BatchState.ENDED
        assert all(result.delta is None for result in (await fetched(driver, handle)).values())


@pytest.mark.parametrize("kind", ["openai", "mistral", "gemini"])
async def test_a_batch_that_was_not_run_says_why(kind: str) -> None:
    """A batch refused as a whole is failed, with the vendor's word."""
    async with opened(BatchVendor(kind, ends_as="failed")) as (_, driver):
        status = await driver.poll(await handed_in(driver, kind, "one"))
        assert status.state is BatchState.FAILED
        assert "no such model" in status.detail or "line 1" in status.detail


@pytest.mark.parametrize("kind", KINDS)
async def test_a_connection_lost_while_handing_in_is_in_doubt_and_the_batch_is_found(kind: str) -> None:
    """Taken or not, nobody can tell from the cut connection; the list of batches can."""
    for create, taken in (("cut", True), ("lost", False)):
        vendor = BatchVendor(kind, create=create)
        async with opened(vendor) as (_, driver):
            since_ms = SystemClock().now_ms()
            with pytest.raises(SubmitInDoubt) as caught:
                await handed_in(driver, kind, "one", "two", name="n-7")
            assert KEY not in str(caught.value)
            found = await driver.find("n-7", MODELS[kind], 2, since_ms)
            assert (found is not None) is taken
            assert driver.findable is (kind != "anthropic")
            if found is not None:
                assert found.batch_id.endswith("batch-1")
                assert set(await fetched(driver, found)) == {"c-0", "c-1"}
                other = await driver.find("n-8", MODELS[kind], 3, since_ms)
                assert other is None


async def test_of_two_batches_that_could_be_ours_none_is_taken() -> None:
    """A vendor that keeps no names may have two that fit: then it is not known which is ours."""
    vendor = BatchVendor("anthropic")
    async with opened(vendor) as (_, driver):
        await handed_in(driver, "anthropic", "one")
        await handed_in(driver, "anthropic", "two")
        assert await driver.find("n-1", MODELS["anthropic"], 1, 0) is None


@pytest.mark.parametrize(("create", "error"), [("refused", RequestRefused), ("unclear", SubmitInDoubt)])
async def test_a_refusal_is_certain_and_a_server_error_is_not(
    create: str, error: type[ProviderError]
) -> None:
    """400: nothing was taken. 500: it may have been."""
    async with opened(BatchVendor("openai", create=create)) as (_, driver):
        with pytest.raises(ProviderError) as caught:
            await handed_in(driver, "openai", "one")
        assert type(caught.value) is error


async def test_a_vendor_that_is_not_there_took_nothing() -> None:
    """A refused connection is no doubt: nothing was sent."""
    seller = batch_seller("http://127.0.0.1:9/v1", "anthropic")
    driver = batches_of(seller)
    assert driver is not None
    with pytest.raises(ProviderUnavailable) as caught:
        await handed_in(driver, "anthropic", "one")
    assert not isinstance(caught.value, SubmitInDoubt)
    await seller.aclose()


async def test_a_vendor_that_is_down_and_a_batch_it_does_not_know_are_two_things() -> None:
    """503 may pass; 404 will not."""
    vendor = BatchVendor("openai")
    async with opened(vendor) as (_, driver):
        handle = await handed_in(driver, "openai", "one")
        vendor.down = True
        with pytest.raises(Overloaded):
            await driver.poll(handle)
        vendor.down = False
        with pytest.raises(RequestRefused):
            await driver.poll(BatchHandle(provider="shop", model="m", batch_id="gone"))


@pytest.mark.parametrize("kind", ["mistral", "anthropic", "gemini"])
async def test_what_a_vendor_cannot_honour_is_refused_before_anything_is_sent(kind: str) -> None:
    """A parameter without a word there is named."""
    vendor = BatchVendor(kind)
    async with opened(vendor) as (_, driver):
        with pytest.raises(RequestRefused, match="logit_bias"):
            driver.encode(MODELS[kind], line(1, "one", logit_bias={"1": 5}))
        assert vendor.calls == []


def ticket(seller: VendorSeller, kind: str, deadline_ms: int | None = None) -> Ticket:
    (quote,) = (
        item
        for item in seller.quote(RFQ(rfq_id="r", input_tokens=20, max_output_tokens=50, tiers=("batch",)))
        if isinstance(item, Quote)
    )
    body = {"messages": [{"role": "user", "content": "alone"}]}
    return Ticket(
        reservation_id="rsv_1",
        order_id="o",
        quote=quote,
        body=body,
        max_output_tokens=50,
        deadline_ms=deadline_ms,
    )


@pytest.mark.parametrize("kind", KINDS)
async def test_one_order_in_the_batch_tier_is_a_batch_of_one(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is quoted at the batch tier's price and delivered through the batch endpoint."""
    monkeypatch.setattr(batch_single, "SHORTEST_POLL_MS", 1)
    monkeypatch.setattr(batch_single, "LONGEST_POLL_MS", 1)
    vendor = BatchVendor(kind, ends_after=3)
    async with opened(vendor) as (seller, _):
        wanted = ticket(seller, kind)
        assert wanted.quote.discounts[0].kind == "batch"
        (delta,) = [delta async for delta in seller.execute(wanted)]
        assert delta.delta["content"] == "then: alone"
        assert (vendor.chats, len(vendor.batches)) == (0, 1)


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
async def test_a_batch_of_one_that_may_have_been_taken_is_looked_for(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by its name it is waited for; where nothing carries a name the call fails, and nobody else is asked to pay."""
    monkeypatch.setattr(batch_single, "SHORTEST_POLL_MS", 1)
    vendor = BatchVendor(kind, create="cut")
    async with opened(vendor) as (seller, _):
        if kind == "anthropic":
            with pytest.raises(SubmitInDoubt) as caught:
                [delta async for delta in seller.execute(ticket(seller, kind))]
            assert not caught.value.retryable
        else:
            (delta,) = [delta async for delta in seller.execute(ticket(seller, kind))]
            assert delta.delta["content"] == "then: alone"
        assert len(vendor.batches) == 1


async def test_a_batch_of_one_that_is_late_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the deadline the vendor is told to stop, and the call fails as any that is late."""
    monkeypatch.setattr(batch_single, "SHORTEST_POLL_MS", 5)
    vendor = BatchVendor("openai", ends_after=10**9)
    async with opened(vendor) as (seller, _):
        with pytest.raises(ProviderTimeout):
            [delta async for delta in seller.execute(ticket(seller, "openai", deadline_ms=30))]
        assert vendor.calls[-1] == "POST /batches/batch-1/cancel"
