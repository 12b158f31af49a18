"""Who may do what: keys, scopes, expiry, limits, reach; and that no tenant ever sees or spends what is another's."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import aiohttp
import orjson
import pytest
from api_house import ANSWER, CHAT, Served, api_house, until
from hypothesis import given, settings
from hypothesis import strategies as st

from negotiator.api.app import ROUTES
from negotiator.api.faults import ApiFault
from negotiator.api.key_limits import SharedKeyLimits
from negotiator.api.keyring import TABLE, AccessKey, KeyRing, new_key
from negotiator.api.server import is_loopback, serve
from negotiator.config import Config
from negotiator.engine import Engine
from negotiator.errors import ConfigInvalid, InputInvalid
from negotiator.store import Account
from negotiator.store_embedded import EmbeddedStore
from providers.clock import SystemClock

GOOD = {"json": ANSWER}
TENANTS = (Account(account_id="red", budget_nusd=10**9), Account(account_id="blue", budget_nusd=10**9))
PATHS: Final = {
    "{account_id}": "blue",
    "{file}": "main.js",
    "{batch_id}": "batch_000000000000000000000000",
    "{file_id}": "file-000000000000000000000000",
    "{key_id}": "000000000000",
    "{order_id}": "blue-order",
    "{reservation_id}": "rsv_0",
}


def path_of(route: Any) -> str:
    """The route's path with something in each place."""
    path: str = route.path
    for name, value in PATHS.items():
        path = path.replace(name, value)
    return path


GUARDED = [route for route in ROUTES if route.scope is not None]
OPEN = [route for route in ROUTES if route.scope is None]


@pytest.mark.parametrize("route", GUARDED, ids=lambda route: f"{route.method} {route.path}")
async def test_every_guarded_route_wants_a_key(route: Any) -> None:
    """With keys in the house, no key, a wrong one, another scheme and an expired one are all 401, before any body."""
    async with api_house(GOOD, accounts=TENANTS) as served:
        await served.make_key("red", "red", "use", "read", "admin")
        await served.make_key("old", "red", "use", "read", "admin", expires_ms=1)
        path, forged = path_of(route), served.keys["red"][:-1] + "!"
        for headers in (
            {},
            {"authorization": "Bearer neg_000000000000_x"},
            {"authorization": f"Bearer {forged}"},
            {"authorization": f"Bearer {served.keys['old']}"},
            {"authorization": f"Basic {served.keys['red']}"},
            {"authorization": "Bearer "},
            {"x-api-key": "x" * 500},
        ):
            status, body, _ = await served.call(route.method, path, None, **headers)
            assert (status, body["error"]["code"]) == (401, "UNAUTHENTICATED"), headers


@pytest.mark.parametrize("route", GUARDED, ids=lambda route: f"{route.method} {route.path}")
async def test_every_guarded_route_wants_its_scope(route: Any) -> None:
    """A key without the route's scope is 403; ``admin`` includes the others; ``any`` takes each of them."""
    async with api_house(GOOD, accounts=TENANTS) as served:
        for scope in ("use", "read", "admin"):
            await served.make_key(scope, "red", scope)
            status, body, _ = await served.call(route.method, path_of(route), None, key=scope)
            allowed = route.scope in ("any", scope) or scope == "admin"
            missing = status == 403 and body["error"]["code"] == "SCOPE_MISSING"
            assert missing is not allowed, (scope, status, body)


@pytest.mark.parametrize("route", OPEN, ids=lambda route: f"{route.method} {route.path}")
async def test_open_routes_tell_nothing_of_anybody(route: Any) -> None:
    """Health, the document and its page answer without a key, and know no account."""
    async with api_house(GOOD, accounts=TENANTS) as served:
        await served.make_key("red", "red", "use")
        async with served.session.request(route.method, served.url + path_of(route)) as answer:
            text = await answer.text()
            assert answer.status == 200
    assert "red" not in text.replace("required", "").replace("credit", "").split('"')


async def test_both_headers_carry_a_key() -> None:
    """``Authorization: Bearer`` and, for Anthropic's clients, ``x-api-key``."""
    async with api_house(GOOD, accounts=TENANTS) as served:
        await served.make_key("red", "red", "use")
        for headers in ({"authorization": f"bearer {served.keys['red']}"}, {"x-api-key": served.keys["red"]}):
            status, answer, _ = await served.call("POST", "/v1/chat/completions", CHAT, **headers)
            assert status == 200, answer
        assert await served.posted_nusd("red") == 48_000


async def test_a_key_is_shown_once_and_kept_as_a_digest() -> None:
    """Neither the store nor a list of keys has the secret; removing a key ends it at once."""
    async with api_house(GOOD, accounts=TENANTS) as served:
        await served.make_key("root", "red", "admin", reach="house")
        asked = {"account": "red", "scopes": ["use"], "label": "ci"}
        status, made, _ = await served.call("POST", "/v1/keys", asked, key="root")
        assert status == 201
        secret = made["key"].split("_", 2)[2]
        kept = await served.engine.rooms.store.entries(TABLE)
        assert secret.encode() not in b"".join(kept.values())
        _, listed, _ = await served.call("GET", "/v1/keys", key="root")
        assert secret not in str(listed)
        assert made["key_id"] in [key["key_id"] for key in listed["keys"]]
        served.keys["new"] = made["key"]
        assert (await served.call("POST", "/v1/chat/completions", CHAT, key="new"))[0] == 200
        await served.call("DELETE", f"/v1/keys/{made['key_id']}", key="root")
        assert (await served.call("POST", "/v1/chat/completions", CHAT, key="new"))[0] == 401


def key_of(**fields: Any) -> AccessKey:
    """A creating key."""
    return new_key("red", fields.pop("scopes", frozenset({"admin"})), 0, **fields)[0]


@pytest.mark.parametrize(
    ("creator", "wanted", "named"),
    [
        ({"scopes": frozenset({"use"})}, {"scopes": frozenset({"read"})}, "scopes"),
        ({"scopes": frozenset({"use"})}, {"scopes": frozenset({"admin"})}, "scopes"),
        ({}, {"scopes": frozenset({"use"}), "reach": "house"}, "reach"),
        ({"expires_ms": 1000}, {"scopes": frozenset({"use"}), "expires_ms": 1001}, "expires_ms"),
        ({"rpm": 10}, {"scopes": frozenset({"use"}), "rpm": 11}, "rpm"),
        ({"concurrency": 2}, {"scopes": frozenset({"use"}), "concurrency": 3}, "concurrency"),
    ],
)
def test_a_key_never_exceeds_its_creator(creator: dict[str, Any], wanted: dict[str, Any], named: str) -> None:
    """Scopes, reach, time and limits of a new key are at most the creating key's."""
    scopes = wanted.pop("scopes")
    with pytest.raises(InputInvalid, match=f"^{named}: "):
        new_key("red", scopes, 0, creator=key_of(**creator), **wanted)


@given(
    limit=st.one_of(st.none(), st.integers(1, 100)),
    wanted=st.one_of(st.none(), st.integers(1, 100)),
    scopes=st.sets(st.sampled_from(["use", "read", "admin"]), min_size=1),
    held=st.sets(st.sampled_from(["use", "read", "admin"]), min_size=1),
)
def test_whatever_is_asked_for_a_key_stays_below(
    limit: int | None, wanted: int | None, scopes: set[str], held: set[str]
) -> None:
    """A key is either refused or below its creator in every scope and limit."""
    creator = key_of(scopes=frozenset(held), rpm=limit)
    try:
        made, _ = new_key("red", frozenset(scopes), 0, creator=creator, rpm=wanted)
    except InputInvalid:
        return
    assert all(creator.allows(scope) for scope in made.scopes)
    assert limit is None or (made.rpm is not None and made.rpm <= limit)


async def test_keys_survive_a_restart(tmp_path: Any) -> None:
    """On the embedded file a key made before a restart works after it, and a removed one does not."""
    clock = SystemClock()
    kept, text = new_key("red", frozenset({"use"}), 1)
    gone, other = new_key("red", frozenset({"use"}), 2)
    store = EmbeddedStore(tmp_path / "ledger.db", clock=clock)
    ring = KeyRing(store, clock)
    await ring.add(kept)
    await ring.add(gone)
    await ring.remove(gone.key_id)
    await store.aclose()
    store = EmbeddedStore(tmp_path / "ledger.db", clock=clock)
    ring = KeyRing(store, clock)
    assert (await ring.find(text), await ring.find(other)) == (kept, None)
    assert await ring.all() == [kept]
    await store.aclose()


async def test_a_key_has_a_rate_and_a_breadth() -> None:
    """Beyond its calls a minute or at once a key is told when to come again; the body is not even read."""
    async with api_house({"hang": True}, accounts=TENANTS) as served:
        await served.make_key("slow", "red", "use", rpm=1)
        await served.make_key("narrow", "red", "use", concurrency=1)
        assert (await served.call("GET", "/v1/models", key="slow"))[0] == 200
        status, body, headers = await served.call("POST", "/v1/chat/completions", {"bad": 1}, key="slow")
        assert (status, body["error"]["code"]) == (429, "KEY_RATE_LIMITED")
        assert 0 < int(headers["retry-after-ms"]) <= 60_000
        running = asyncio.ensure_future(served.call("POST", "/v1/chat/completions", CHAT, key="narrow"))
        await until(lambda: bool(served.playback.received))
        status, body, _ = await served.call("POST", "/v1/chat/completions", {"bad": 1}, key="narrow")
        assert (status, body["error"]["code"]) == (429, "KEY_BUSY")
        running.cancel()
        await until(lambda: not served.house.running)
        assert (await served.call("GET", "/v1/models", key="narrow"))[0] == 200


async def test_workers_share_a_keys_limits() -> None:
    """Two workers of one store let in together what the key allows, of calls a minute and of calls at once."""
    store = EmbeddedStore(None, clock=SystemClock())
    workers = [SharedKeyLimits(store, name, SystemClock()) for name in ("one", "two")]
    fast, narrow = key_of(rpm=10), key_of(concurrency=3)
    for key, code, most in ((fast, "KEY_RATE_LIMITED", 10), (narrow, "KEY_BUSY", 3)):
        entered, refused = [], []
        for number in range(30):
            try:
                await workers[number % 2].enter(key)
                entered.append(workers[number % 2])
            except ApiFault as fault:
                refused.append(fault)
        assert len(entered) == most
        assert {(fault.code, fault.status) for fault in refused} == {(code, 429)}
        assert all(fault.retry_after_ms for fault in refused)
    entered[0].leave(narrow)
    await asyncio.sleep(0)
    await entered[0].enter(narrow)


async def test_a_key_brings_its_profile() -> None:
    """Terms of the key's profile hold for calls that name no other, and the body's own terms count more."""
    profiles = {"thrifty": {"budget_usd": "0.000001"}}
    async with api_house(GOOD, accounts=TENANTS, profiles=profiles) as served:
        await served.make_key("red", "red", "use", profile="thrifty")
        status, body, _ = await served.call("POST", "/v1/chat/completions", CHAT, key="red")
        assert (status, body["error"]["code"]) == (402, "BUDGET_TOO_LOW")
        rich = {**CHAT, "negotiator": {"budget_usd": "0.5"}}
        assert (await served.call("POST", "/v1/chat/completions", rich, key="red"))[0] == 200


async def test_the_account_term_is_for_admins() -> None:
    """``account`` needs scope admin, and an account in reach; otherwise nothing is spent."""
    below = Account(account_id="red/run", parent="red", budget_nusd=10**8)
    async with api_house(GOOD, accounts=(*TENANTS, below)) as served:
        await served.make_key("user", "red", "use")
        await served.make_key("boss", "red", "admin")
        path = "/v1/chat/completions"
        asked = {**CHAT, "negotiator": {"account": "red/run"}}
        status, body, _ = await served.call("POST", path, asked, key="user")
        assert (status, body["error"]["param"]) == (403, "account")
        assert (await served.call("POST", path, asked, key="boss"))[0] == 200
        asked = {**CHAT, "negotiator": {"account": "blue"}}
        assert (await served.call("POST", path, asked, key="boss"))[0] == 404
        assert await served.posted_nusd("red/run") == await served.posted_nusd("red") == 24_000
        assert await served.posted_nusd("blue") == 0


async def test_an_admin_manages_what_is_below() -> None:
    """An admin key makes and raises accounts below its own, never its own nor a stranger's."""
    async with api_house(GOOD, accounts=TENANTS) as served:
        await served.make_key("boss", "red", "admin")
        status, made, _ = await served.call("PUT", "/v1/accounts/team", {"budget_usd": "0.5"}, key="boss")
        assert (status, made["parent"], made["available_usd"]) == (200, "red", "0.5")
        deposit = {"amount_usd": "0.25", "reference": "march"}
        for _ in range(2):
            _, raised, _ = await served.call("POST", "/v1/accounts/team/deposits", deposit, key="boss")
        assert raised["available_usd"] == "0.75"
        for account, expected in (("red", 403), ("blue", 404)):
            status, _, _ = await served.call("PUT", f"/v1/accounts/{account}", {"budget_usd": 99}, key="boss")
            assert status == expected
            path = f"/v1/accounts/{account}/deposits"
            assert (await served.call("POST", path, deposit, key="boss"))[0] == expected
        status, _, _ = await served.call("PUT", "/v1/accounts/mine", {"parent": "blue"}, key="boss")
        assert status == 404
        asked = {"account": "blue", "scopes": ["use"]}
        assert (await served.call("POST", "/v1/keys", asked, key="boss"))[0] == 404


async def test_without_keys_only_loopback_is_served() -> None:
    """A public address without keys is refused at start, with what to do; with a key it may listen."""
    assert [
        is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "10.0.0.1", "x.org")
    ] == [
        True,
        True,
        True,
        False,
        False,
        False,
    ]
    config = Config.model_validate({"server": {"host": "0.0.0.0", "port": 0}})
    async with Engine(config) as engine:
        with pytest.raises(ConfigInvalid, match="negotiator keys create"):
            async with serve(engine):
                pass
        key, _ = new_key("default", frozenset({"use"}), 1)
        await KeyRing(engine.rooms.store, SystemClock()).add(key)
        async with serve(engine) as at:
            assert at.urls


async def test_a_house_without_keys_answers_to_loopback_names() -> None:
    """A page of another host cannot reach it by a name that resolves here."""
    async with api_house(GOOD) as served:
        assert (await served.call("GET", "/v1/models", host="localhost:8377"))[0] == 200
        status, body, _ = await served.call("GET", "/v1/models", host="evil.example")
        assert (status, body["error"]["code"]) == (403, "HOST_FORBIDDEN")


async def test_the_first_key_shuts_the_door() -> None:
    """The first key made over HTTP must be able to make others; from then on everybody needs one, for good."""
    async with api_house(GOOD) as served:
        await served.call("POST", "/v1/chat/completions", CHAT)  # makes the account default
        status, _, _ = await served.call("POST", "/v1/keys", {"account": "default", "scopes": ["use"]})
        assert status == 400
        asked = {"account": "default", "scopes": ["admin"]}
        status, made, _ = await served.call("POST", "/v1/keys", asked)
        assert status == 201
        assert (await served.call("GET", "/v1/models"))[0] == 401
        served.keys["root"] = made["key"]
        await served.call("DELETE", f"/v1/keys/{made['key_id']}", key="root")
        assert (await served.call("GET", "/v1/models"))[0] == 401, (
            "the last key's end does not open the house"
        )


SECRET: Final = "the colour of blue's secret"


async def furnished(served: Served) -> dict[str, str]:
    """What blue has: an order, a reservation, a key, an account below; by the name of the path's part."""
    await served.make_key("blue", "blue", "use", "read", "admin")
    await served.make_key("red", "red", "use", "read", "admin")
    chat = {**CHAT, "messages": [{"role": "user", "content": SECRET}]}
    await served.call("POST", "/v1/orders", {**chat, "order_id": "blue-order"}, key="blue")
    reserve = {**chat, "order_id": "blue-hold", "execute": False}
    _, reserved, _ = await served.call("POST", "/v1/orders", reserve, key="blue")
    _, book, _ = await served.call("POST", "/v1/quotes", chat, key="blue")
    asked = {"account": "blue", "scopes": ["use"], "label": "blue's own"}
    _, made, _ = await served.call("POST", "/v1/keys", asked, key="blue")
    line = {"custom_id": "c", "method": "POST", "url": "/v1/chat/completions", "body": chat}
    form = aiohttp.FormData({"purpose": "batch"})
    form.add_field("file", orjson.dumps(line), filename="blue's own.jsonl")
    bearer = {"authorization": f"Bearer {served.keys['blue']}"}
    async with served.session.post(f"{served.url}/v1/files", data=form, headers=bearer) as answer:
        file_id = (await answer.json())["id"]
    asked = {**BATCH, "input_file_id": file_id, "metadata": {"note": "blue's own"}}
    _, batch, _ = await served.call("POST", "/v1/batches", asked, key="blue")

    async def over() -> bool:
        _, found, _ = await served.call("GET", f"/v1/batches/{batch['id']}", key="blue")
        return bool(found["status"] == "completed")

    await until(over)
    return {
        "{batch_id}": batch["id"],
        "{file_id}": file_id,
        "{account_id}": "blue",
        "{file}": "main.js",
        "{order_id}": "blue-order",
        "{reservation_id}": reserved["reservation"]["reservation_id"],
        "{key_id}": made["key_id"],
        "quote": book["best"],
    }


BATCH: Final = {
    "input_file_id": "file-000000000000000000000000",
    "endpoint": "/v1/chat/completions",
    "completion_window": "24h",
}
BODIES: Final[dict[str, Any]] = {
    "/v1/batches": BATCH,
    "/v1/chat/completions": {**CHAT, "negotiator": {"account": "blue"}},
    "/v1/embeddings": {"input": "x", "negotiator": {"account": "blue"}},
    "/v1/responses": {"input": "x", "negotiator": {"account": "blue"}},
    "/v1/messages": {
        "model": "auto",
        "max_tokens": 5,
        "messages": [{"role": "user", "content": "x"}],
        "negotiator": {"account": "blue"},
    },
    "/v1/quotes": {**CHAT, "terms": {"account": "blue"}},
    "/v1/orders": {**CHAT, "terms": {"account": "blue"}},
    "/v1/plans": {"requests": [{"custom_id": "a", "body": CHAT, "terms": {"account": "blue"}}]},
    "/v1/feedback": {"order_id": "blue-order", "score": 0.0, "account": "blue"},
    "/v1/keys": {"account": "blue", "scopes": ["use"]},
    "/v1/accounts/{account_id}": {"budget_usd": "99"},
    "/v1/accounts/{account_id}/deposits": {"amount_usd": "99", "reference": "r"},
    "/v1/reservations/{reservation_id}/settle": {"usage": {"prompt_tokens": 1, "completion_tokens": 1}},
}
REACHING: Final = [route for route in GUARDED if route.path != "/v1/market/stream"]


@settings(max_examples=4, deadline=None)
@given(data=st.data())
def test_no_route_reaches_into_another_tenant(data: st.DataObject) -> None:
    """Over every route, in any order: red, an admin of its own, neither sees nor changes anything of blue's."""
    order = data.draw(st.permutations(REACHING))
    query = data.draw(st.sampled_from(["", "?account=blue"]))
    asyncio.run(_attack(order, query))


async def _attack(routes: list[Any], query: str) -> None:
    async with api_house(GOOD, accounts=TENANTS) as served:
        parts = await furnished(served)
        rooms = served.engine.rooms
        before = await rooms.store.balances("blue", 10**13), await rooms.store.entries(TABLE)
        for route in routes:
            path = route.path
            for name, value in parts.items():
                path = path.replace(name, value)
            asked = path + (query if route.query is not None else "")
            body = BODIES.get(route.path) if route.method in ("POST", "PUT") else None
            status, answer, _ = await served.call(route.method, asked, body, key="red")
            said = str(answer)
            told = [word for word in (SECRET, "blue-hold", "blue's own") if word in said]
            assert not told, (route.path, told)
            if "{" in route.path or body is not None or (query and route.query is not None):
                assert status in (400, 403, 404), (route.path, status, answer)
        taken = {**CHAT, "messages": [{"role": "user", "content": SECRET}], "quote_id": parts["quote"]}
        assert (await served.call("POST", "/v1/orders", taken, key="red"))[0] == 404
        assert (await rooms.store.balances("blue", 10**13), await rooms.store.entries(TABLE)) == before
        assert await served.posted_nusd("red") == 0


async def test_order_ids_of_two_tenants_do_not_meet() -> None:
    """The same order id of two accounts is two orders: each reads, replays and judges its own."""
    async with api_house(GOOD, accounts=TENANTS) as served:
        await served.make_key("red", "red", "use")
        await served.make_key("blue", "blue", "use")
        for name, text in (("red", "one"), ("blue", "two")):
            chat = {**CHAT, "messages": [{"role": "user", "content": text}], "order_id": "same"}
            status, answer, _ = await served.call("POST", "/v1/orders", chat, key=name)
            assert (status, answer["negotiator"]["replayed"]) == (200, False)
        for name in ("red", "blue"):
            _, history, _ = await served.call("GET", "/v1/orders/same", key=name)
            assert history["account"] == name
        assert await served.posted_nusd("red") == await served.posted_nusd("blue") == 24_000
