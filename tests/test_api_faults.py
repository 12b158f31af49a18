"""Errors on the wire: the status, shape and headers of every reject, and of everything HTTP itself refuses."""

from __future__ import annotations

from typing import Any

import pytest
from api_house import CHAT, api_house

from negotiator.api.faults import ApiFault, fault_headers, fault_out
from negotiator.errors import CounterOffer, Reject, RejectCode

STATUSES = {
    "INVALID": 400,
    "DUPLICATE_DIFFERENT": 422,
    "IN_PROGRESS": 409,
    "ACCOUNT_UNKNOWN": 403,
    "UNPRICEABLE": 422,
    "NO_QUOTE": 503,
    "ALL_DECLINED": 503,
    "QUOTES_EXPIRED": 503,
    "UNKNOWN_QUOTE": 404,
    "INPUT_CHANGED": 422,
    "QUOTE_EXPIRED": 410,
    "BUDGET_TOO_LOW": 402,
    "QUALITY_UNREACHABLE": 422,
    "DEADLINE_UNREACHABLE": 422,
    "CAPABILITY_MISSING": 422,
    "POLICY_FORBIDS": 403,
    "TERMS_CONFLICT": 422,
    "CAPACITY_EXHAUSTED": 429,
    "PRICED_OUT": 429,
    "NO_PLAN_IN_TIME": 503,
    "FUNDS_INSUFFICIENT": 402,
    "FUNDS_HELD": 429,
    "LEDGER_UNAVAILABLE": 503,
    "PROVIDERS_FAILED": 502,
    "DEADLINE_PASSED": 504,
    "CANCELLED": 499,
}
OFFER = CounterOffer(
    terms={"budget_usd": "0.002"},
    quote_id="q_1",
    provider="shop",
    model="m",
    expected_nusd=1_000_000,
    ceiling_nusd=2_000_000,
    valid_until_ms=1_795_500_000_000,
)


def test_every_reject_has_a_status() -> None:
    """The table here is the contract's, and no reject is missing from it."""
    assert {code.name: code.http_status for code in RejectCode} == STATUSES


@pytest.mark.parametrize("code", list(RejectCode), ids=lambda code: code.name)
def test_a_reject_is_an_error_in_openais_shape(code: RejectCode) -> None:
    """Name, message, facts and counter-offers are in the body; 402 and 422 say that trying again is no use."""
    reject = Reject(
        code=code,
        message="no",
        facts={"needed_usd": "0.002"},
        counter_offers=(OFFER,),
        retry_after_ms=1_500 if code.again else None,
    )
    fault = ApiFault.of(reject)
    error, headers = fault_out(fault, "req_1")["error"], fault_headers(fault)
    assert set(error) == {"message", "type", "param", "code", "reject"}
    assert (fault.status, error["code"]) == (STATUSES[code.name], code.name)
    assert error["reject"]["facts"] == {"needed_usd": "0.002"}
    assert error["reject"]["counter_offers"][0]["ceiling_usd"] == "0.002"
    assert headers.get("x-should-retry") == ("false" if fault.status in (402, 422) else None)
    if code.again:
        assert (headers["retry-after-ms"], headers["retry-after"]) == ("1500", "2")
    else:
        assert "retry-after-ms" not in headers


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (402, "billing_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
    ],
)
def test_anthropics_shape_has_anthropics_types(status: int, kind: str) -> None:
    """On ``/v1/messages`` the type is the one Anthropic's documentation has for the status."""
    body = fault_out(ApiFault(status, "NAME", "no"), "req_1", anthropic=True)
    assert (body["type"], body["error"]["type"], body["request_id"]) == ("error", kind, "req_1")
    assert body["error"]["code"] == "NAME"


async def refused(method: str, path: str, expected: int, **sent: Any) -> dict[str, Any]:
    """The error body of a refused request."""
    async with (
        api_house(server={"port": 0, "max_body": 2048}) as served,
        served.session.request(method, served.url + path, **sent) as answer,
    ):
        body: dict[str, Any] = await answer.json()
        assert answer.status == expected, body
        assert answer.headers["x-request-id"].startswith("req_")
        assert not served.playback.received
    return body


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("method", "path", "status", "code", "sent"),
    [
        ("GET", "/v1/nothing", 404, "NOT_FOUND", {}),
        ("DELETE", "/v1/quotes", 405, "METHOD_NOT_ALLOWED", {}),
        ("POST", "/v1/chat/completions", 413, "BODY_TOO_LARGE", {"json": {"messages": "x" * 4000}}),
        ("POST", "/v1/chat/completions", 415, "MEDIA_TYPE_UNSUPPORTED", {"data": "a=b"}),
        ("POST", "/v1/chat/completions", 400, "INVALID", {"data": "{", "headers": JSON}),
        ("POST", "/v1/chat/completions", 400, "INVALID", {"data": "[]", "headers": JSON}),
        ("POST", "/v1/chat/completions", 400, "INVALID", {"data": "", "headers": JSON}),
        ("POST", "/v1/chat/completions?x=1", 400, "INVALID", {"json": CHAT}),
        ("GET", "/v1/report?until=1", 400, "INVALID", {}),
        ("GET", "/v1/report?since=yesterday", 400, "INVALID", {}),
    ],
)
async def test_what_http_refuses_has_the_same_shape(
    method: str, path: str, status: int, code: str, sent: dict[str, Any]
) -> None:
    """Unknown paths, methods, media types, sizes and broken JSON are errors in the shape of all others."""
    body = await refused(method, path, status, **sent)
    assert set(body["error"]) == {"message", "type", "param", "code", "reject"}
    assert (body["error"]["code"], body["error"]["type"][-6:]) == (code, "_error")


async def test_a_misspelt_path_is_told_which_was_meant() -> None:
    """A path close to a route's names it; one that is close to none does not, however long it is."""
    body = await refused("POST", "/v1/chat/completion", 404)
    assert body["error"]["message"].endswith("; did you mean /v1/chat/completions?")
    for path in ("/wp-admin", "/" + "x" * 4000):
        assert "mean" not in (await refused("GET", path, 404))["error"]["message"]


async def test_errors_of_messages_are_anthropics() -> None:
    """The same refusals on ``/v1/messages`` come in Anthropic's shape."""
    for status, sent in (
        (415, {"data": "a=b"}),
        (400, {"json": {"model": "m"}}),
        (413, {"json": ["x" * 4000]}),
    ):
        body = await refused("POST", "/v1/messages", status, **sent)
        assert body["type"] == "error"
        assert body["request_id"].startswith("req_")


async def test_a_bug_says_nothing_of_itself(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What nobody foresaw is 500 with the request's id, its trace in the log and not in the answer."""
    async with api_house() as served:

        async def broken(*_: object) -> None:
            raise ZeroDivisionError("a secret of the house")

        monkeypatch.setattr(served.engine, "book", broken)
        status, body, headers = await served.call("POST", "/v1/quotes", CHAT)
    assert (status, body["error"]["code"]) == (500, "INTERNAL")
    assert "secret" not in str(body)
    assert "a secret of the house" in caplog.text
    assert headers["x-request-id"]


async def test_a_body_that_never_arrives_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that is announced and not sent is refused after a while; it holds no worker for ever."""
    import asyncio

    monkeypatch.setattr("negotiator.api.app.BODY_S", 0.05)
    async with api_house() as served:
        host, port = served.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )
        status = await asyncio.wait_for(reader.readline(), 10)
        writer.close()
        await writer.wait_closed()
    assert b" 408 " in status
