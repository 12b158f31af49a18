"""Access keys over HTTP: made by whoever has scope ``admin``, never beyond its own reach, shown once."""

from __future__ import annotations

from .faults import ApiFault
from .keyring import new_key
from .routes import Answer, Call, route
from .schemas import KeyRequest
from .schemas_out import KeyMadeOut, KeyOut, KeysOut

__all__ = ["create_key", "delete_key", "list_keys"]


@route("POST", "/v1/keys", scope="admin", req=KeyRequest, res=KeyMadeOut, status=201, errors=(404,))
async def create_key(call: Call) -> Answer:
    """Make a key. The answer has its text, which is not kept: this is the only time it is shown."""
    asked: KeyRequest = call.body
    account, rooms = await call.reach(asked.account), call.engine.rooms
    now_ms = rooms.clock.now_ms()
    if not await rooms.store.balances(account, now_ms):
        raise ApiFault(404, "ACCOUNT_UNKNOWN", f"account {account!r} does not exist or is out of reach")
    if call.caller.key is None and "admin" not in asked.scopes:
        raise ApiFault.invalid(
            "scopes: expected admin among the first key's, for from then on every caller needs a key"
        )
    if asked.profile is not None and asked.profile not in call.engine.config.profiles:
        raise ApiFault.invalid(f"profile: expected a configured one, found {asked.profile!r}")
    key, text = new_key(
        account,
        frozenset(asked.scopes),
        now_ms,
        creator=call.caller.key,
        reach=asked.reach,
        expires_ms=asked.expires_ms,
        rpm=asked.rpm,
        concurrency=asked.concurrency,
        profile=asked.profile,
        label=asked.label,
    )
    await call.house.keys.add(key)
    return {**key.out(), "key": text}


@route("GET", "/v1/keys", scope="admin", res=KeysOut)
async def list_keys(call: Call) -> Answer:
    """The keys of accounts in reach, without their secrets."""
    doorman, found = call.house.doorman, await call.house.keys.all()
    return {"keys": [key.out() for key in found if await doorman.within_reach(call.caller, key.account)]}


@route("DELETE", "/v1/keys/{key_id}", scope="admin", res=KeyOut, errors=(404,))
async def delete_key(call: Call) -> Answer:
    """Remove a key: it stops working here at once, at other workers within a second."""
    key_id = call.request.match_info["key_id"]
    key = await call.house.keys.by_id(key_id)
    if key is None or not await call.house.doorman.within_reach(call.caller, key.account):
        raise ApiFault(404, "KEY_UNKNOWN", f"there is no key {key_id!r}")
    mine = call.caller.key
    if key.reach == "house" and mine is not None and mine.reach != "house":
        raise ApiFault(
            403, "OUT_OF_REACH", "a key that manages one account cannot remove one that manages all"
        )
    await call.house.keys.remove(key_id)
    return key.out()
