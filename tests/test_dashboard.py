"""The dashboard without a browser: its page and files, what guards them, and the data it reads with a key."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from api_house import ANSWER, CHAT, Served, api_house, two_shops, until

from negotiator.api import dashboard_schemas as out
from negotiator.api.schemas_out import HistoryOut, MarketOut
from negotiator.store import Account

STATIC = Path(__file__).resolve().parents[1] / "negotiator/api/static/dashboard"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
TEAMS = (
    Account(account_id="team"),
    Account(account_id="team-run", parent="team"),
    Account(account_id="rival"),
)


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    """A cheap and a dear seller of the same model, and accounts of two teams."""
    async with two_shops(TEAMS) as house:
        yield house


async def events_of(served: Served, path: str, key: str | None, *names: str) -> list[tuple[str, Any]]:
    """Events of a stream until each of ``names`` came."""
    headers = {} if key is None else {"authorization": f"Bearer {served.keys[key]}"}
    found: list[tuple[str, Any]] = []
    async with served.session.get(served.url + path, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        while {name for name, _ in found}.issuperset(names) is False:
            raw = (await answer.content.readuntil(b"\n\n")).decode()
            if raw.startswith("event: "):
                name, data = raw.removeprefix("event: ").split("\ndata: ")
                found.append((name, json.loads(data)))
    return found


async def buy(served: Served, key: str | None = None, **terms: Any) -> tuple[int, Any]:
    """One chat completion with terms."""
    status, body, _ = await served.call("POST", "/v1/chat/completions", {**CHAT, "negotiator": terms}, key)
    return status, body


async def test_a_browser_gets_the_page_and_a_program_the_index(served: Served) -> None:
    """``/`` answers what is liked better: HTML for a browser; JSON for JSON, for anything, and for nothing said."""
    async with served.session.get(served.url + "/", headers={"accept": BROWSER}) as answer:
        assert answer.content_type == "text/html"
        assert "<title>negotiator</title>" in await answer.text()
        assert answer.headers["vary"] == "accept"
    for accept in ("application/json", "*/*", "application/json, text/html"):
        _, body, headers = await served.call("GET", "/", accept=accept)
        assert body["openapi"] == "/openapi.json"
        assert headers["vary"] == "accept"


async def test_the_page_is_guarded(served: Served) -> None:
    """Only this server's scripts and styles run, nobody frames it, no type is guessed, no address leaks."""
    for path in ("/", "/dashboard/main.js"):
        _, _, headers = await served.call("GET", path, accept=BROWSER)
        policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
        assert {policy[name] for name in ("script-src", "style-src", "connect-src", "img-src")} == {"'self'"}
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("main.js", "text/javascript"),
        ("frame.css", "text/css"),
        ("icon.svg", "image/svg+xml"),
        ("uplot.js", "text/javascript"),
        ("uplot.LICENSE.txt", "text/plain"),
    ],
)
async def test_files_have_types_and_tags(served: Served, file: str, kind: str) -> None:
    """Each file says what it is, and one that is known already is not sent again."""
    async with served.session.get(f"{served.url}/dashboard/{file}") as answer:
        assert (answer.status, answer.content_type) == (200, kind)
        assert await answer.read() == (STATIC / file).read_bytes()
        tag = answer.headers["etag"]
    async with served.session.get(f"{served.url}/dashboard/{file}", headers={"if-none-match": tag}) as answer:
        assert (answer.status, await answer.read()) == (304, b"")
    async with served.session.get(
        f"{served.url}/dashboard/{file}", headers={"if-none-match": '"other"'}
    ) as answer:
        assert answer.status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/dashboard/../docs.html",
        "/dashboard/..%2fdocs.html",
        "/dashboard/%2e%2e/%2e%2e/app.py",
        "/dashboard/..%5c..%5capp.py",
        "/dashboard/%2fetc%2fpasswd",
        "/dashboard/main.js%00.txt",
        "/dashboard/nothing.js",
        "/dashboard/",
    ],
)
async def test_nothing_but_its_files_is_there(served: Served, path: str) -> None:
    """A path that leads elsewhere is not there, however it is written."""
    from yarl import URL

    async with served.session.get(URL(served.url + path, encoded=True)) as answer:
        assert answer.status == 404, await answer.text()
        assert (await answer.json())["error"]["code"] == "NOT_FOUND"


def test_the_sources_keep_to_the_rules() -> None:
    """Nothing of another host, nothing inline, no HTML made of data, keys in the session's storage only; short files."""
    page = (STATIC / "index.html").read_text()
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", page)
    for path in STATIC.iterdir():
        text = path.read_text()
        elsewhere = re.sub(r"http://www\.w3\.org/\S+|https://github\.com/leeoniya/uPlot", "", text)
        assert not re.search(r"(?:https?:|\burl\()\s*//?\w", elsewhere), path
        if path.suffix == ".js" and not path.name.startswith("uplot"):
            assert len(text.splitlines()) <= 300, path
            assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text), path
            for stored in re.findall(r"localStorage\.\w+\(([^,)]*)", text):
                assert "theme" in stored.lower(), path
    wanted = set(re.findall(r'(?:src|href)="/dashboard/([^"]+)"', page))
    for path in STATIC.glob("*.js"):
        wanted |= set(re.findall(r'from "\./([^"]+)"', path.read_text()))
    assert wanted <= {path.name for path in STATIC.iterdir()}


DATA = ("/v1/orders", "/v1/summary", "/v1/tape/stream", "/v1/accounts", "/v1/market")


async def test_data_needs_the_scope_read(served: Served) -> None:
    """Once there is a key nothing is shown without one, nor with one that may only buy; the page itself is open."""
    await served.make_key("buyer", "team", "use")
    await served.make_key("reader", "team", "read")
    for path in DATA:
        assert (await served.call("GET", path))[0] == 401, path
        status, body, _ = await served.call("GET", path, key="buyer")
        assert (status, body["error"]["code"]) == (403, "SCOPE_MISSING"), path
        assert (await served.call("GET", path, key="reader"))[0] == 200, path
    assert (await served.call("GET", "/", accept=BROWSER))[0] == 200
    assert (await served.call("GET", "/dashboard/main.js"))[0] == 200


async def test_an_order_says_who_won_and_who_lost(served: Served) -> None:
    """A served order has its winner and price, and the loser with the reason: it was dearer."""
    await buy(served)
    _, body, _ = await served.call("GET", "/v1/orders")
    out.OrdersOut.model_validate(body)
    (order,) = body["orders"]
    assert (order["provider"], order["state"], order["quotes"], order["reject"]) == (
        "cheap",
        "SETTLED",
        2,
        None,
    )
    assert float(order["cost_usd"]) == pytest.approx(0.000024)
    assert [(one["provider"], one["loss"]) for one in order["losers"]] == [("dear", "L1 PRICIER")]
    status, history, _ = await served.call("GET", f"/v1/orders/{order['order_id']}")
    HistoryOut.model_validate(history)
    assert (status, history["attempts"][0]["outcome"]) == (200, "ok")


async def test_a_refusal_says_what_would_have_done(served: Served) -> None:
    """A refused order has its reason, its losers, and the counter-offer; refusals are counted by reject."""
    for _ in range(2):
        assert (await buy(served, budget_usd="0.000001"))[0] == 402
    _, body, _ = await served.call("GET", "/v1/orders?limit=1")
    (order,) = body["orders"]
    assert (order["reject"], order["provider"]) == ("BUDGET_TOO_LOW", None)
    assert "0.000001" in order["message"]
    assert {one["loss"] for one in order["losers"]} == {"L2 OVER_BUDGET"}
    assert order["counter_offer"]["provider"] == "cheap"
    _, summary, _ = await served.call("GET", "/v1/summary")
    (refusal,) = summary["refusals"]
    assert (refusal["reject"], refusal["code"], refusal["orders"]) == ("BUDGET_TOO_LOW", 3001, 2)
    assert refusal["counter_offer"]["orders"] == 2
    assert refusal["counter_offer"]["terms"].keys() == {"budget_usd"}
    assert (await served.call("GET", f"/v1/orders/{order['order_id']}"))[1]["reject"]["counter_offers"]


async def test_the_summary_adds_up(served: Served) -> None:
    """Totals, steps and quantiles are of the same orders: two served, one refused."""
    await buy(served)
    await buy(served)
    await buy(served, budget_usd="0.000001")
    _, summary, _ = await served.call("GET", "/v1/summary")
    out.SummaryOut.model_validate(summary)
    window, totals = summary["window"], summary["totals"]
    assert (sum(window["served"]), sum(window["refused"]), totals["orders"]) == (2, 1, 3)
    assert sum(map(float, window["spend_usd"])) == pytest.approx(float(totals["spend_usd"]))
    assert float(totals["spend_usd"]) == pytest.approx(0.000048)
    assert float(totals["saved_usd"]) > 0, "the dear seller's price was not paid"
    assert {len(window[name]) for name in ("served", "refused", "spend_usd", "saved_usd")} == {180}
    assert {len(values) for values in window["latency_ms"].values()} == {180}
    assert summary["caller"] == {"account": "default", "everywhere": True, "scopes": ["read", "use", "admin"]}
    assert summary["workers"] == 1


async def test_accounts_are_apart(served: Served) -> None:
    """A key sees orders, sums and refusals of its account and those below, never a rival's; the house's sees all."""
    await served.make_key("team", "team", "read", "use")
    await served.make_key("rival", "rival", "read", "use")
    await served.make_key("house", "default", "admin", reach="house")
    await buy(served, "team")
    await buy(served, "team", budget_usd="0.000001")
    await buy(served, "house", account="team-run")
    await buy(served, "rival")
    orders = {}
    for name, accounts, spent in (
        ("team", {"team", "team-run"}, 2),
        ("rival", {"rival"}, 1),
        ("house", {"team", "team-run", "rival"}, 3),
    ):
        _, body, _ = await served.call("GET", "/v1/orders", key=name)
        orders[name] = body["orders"]
        assert {order["account"] for order in body["orders"]} == accounts
        _, summary, _ = await served.call("GET", "/v1/summary", key=name)
        assert sum(summary["window"]["served"]) == spent
        assert float(summary["totals"]["spend_usd"]) == pytest.approx(spent * 0.000024)
        assert bool(summary["refusals"]) == (name != "rival")
        assert set(summary["totals"]["by_account"]) == accounts
        _, body, _ = await served.call("GET", "/v1/accounts", key=name)
        assert {one["account"] for one in body["accounts"]} - {"default"} == accounts
    theirs = orders["team"][0]["order_id"]
    assert (await served.call("GET", f"/v1/orders/{theirs}", key="rival"))[0] == 404
    assert (await served.call("GET", f"/v1/orders/{theirs}?account=team", key="rival"))[0] == 404
    assert (await served.call("GET", "/v1/orders?account=team", key="rival"))[0] == 404
    _, body, _ = await served.call("GET", "/v1/orders?account=team-run", key="team")
    assert {order["account"] for order in body["orders"]} == {"team-run"}


async def test_the_stream_tells_of_orders_as_they_end(served: Served) -> None:
    """Summary and market come at once, an order soon after it ended; each holds to its model."""
    await served.make_key("team", "team", "read", "use")
    await served.make_key("rival", "rival", "read", "use")
    path = "/v1/tape/stream?events=orders,summary,market"
    headers = {"authorization": f"Bearer {served.keys['team']}"}
    async with served.session.get(served.url + path, headers=headers) as answer:
        assert answer.content_type == "text/event-stream"
        seen: dict[str, Any] = {}
        first = await answer.content.readuntil(b"\n\n")
        await buy(served, "rival")
        await buy(served, "team")
        raw = first
        while "orders" not in seen:
            if raw.startswith(b"event: "):
                name, data = raw.decode().removeprefix("event: ").split("\ndata: ")
                seen.setdefault(name, json.loads(data))
            raw = await answer.content.readuntil(b"\n\n")
    out.SummaryOut.model_validate(seen["summary"])
    MarketOut.model_validate(seen["market"])
    assert seen["orders"]["missed"] == 0
    assert [order["account"] for order in seen["orders"]["orders"]] == ["team"], "a rival's order is not told"


async def test_a_stream_ends_with_its_key(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that is removed hears no more, though its stream was open."""
    monkeypatch.setattr("negotiator.api.dashboard_feed.EVERY_S", 0.01)
    monkeypatch.setattr("negotiator.api.dashboard_feed.TICK_S", 0.01)
    await served.make_key("boss", "default", "admin")
    made = await served.make_key("reader", "team", "read")
    headers = {"authorization": f"Bearer {served.keys['reader']}"}
    async with served.session.get(served.url + "/v1/tape/stream", headers=headers) as answer:
        assert answer.status == 200
        await served.house.keys.remove(made.key_id)
        await answer.read()  # it ends
    assert not served.house.tape._listeners


async def test_listeners_are_bounded(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """One listener too many is told to come again."""
    monkeypatch.setattr("negotiator.api.dashboard_tape.MAX_LISTENERS", 1)
    async with served.session.get(served.url + "/v1/tape/stream") as answer:
        assert answer.status == 200
        status, body, headers = await served.call("GET", "/v1/tape/stream")
        assert (status, body["error"]["code"]) == (503, "TOO_MANY_STREAMS")
        assert headers["retry-after-ms"] == "5000"
    await until(lambda: not served.house.tape.full)


@pytest.mark.parametrize(
    "path",
    ["/v1/orders?limit=0", "/v1/orders?limit=9999", "/v1/tape/stream?events=secrets", "/v1/summary?a=1"],
)
async def test_a_wrong_query_is_named(served: Served, path: str) -> None:
    """What is not understood is refused with the parameter's name."""
    status, body, _ = await served.call("GET", path)
    assert (status, body["error"]["code"]) == (400, "INVALID")


async def test_the_dashboard_moves_with_operations() -> None:
    """With ``ops_bind`` page and data are served there; nothing can be bought there, and the page is not at the API."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with api_house({"json": ANSWER}, server={"port": 0, "ops_bind": f"127.0.0.1:{port}"}) as served:
        assert (await served.call("GET", "/", accept=BROWSER))[0] == 404
        assert (await served.call("GET", "/v1/summary"))[0] == 200
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            for path in ("/", "/dashboard/main.js", *DATA, "/metrics"):
                async with session.get(path, headers={"accept": BROWSER}) as answer:
                    assert answer.status == 200, path
            async with session.post("/v1/chat/completions", json=CHAT) as answer:
                assert answer.status == 404
