"""Access keys: made once, shown once, kept as digests in the store, found by their public half.

A key is ``neg_ID_SECRET``. The secret has 256 random bits, so a plain SHA-256 of the whole key is a safe digest; it
is compared in constant time. A key never exceeds its creator: neither in scopes nor in accounts, time or limits.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from providers.clock import Clock

from ..errors import InputInvalid
from ..store import SharedStore

__all__ = ["ALL_SCOPES", "AccessKey", "KeyRing", "new_key"]

TABLE: Final = "keys"
ALL_SCOPES: Final = ("use", "read", "admin")
"""use: buy. read: market, reports, metrics. admin: accounts and keys; it includes the other two."""

BELIEVED_MS: Final = 1_000
"""How long this process believes what it read of a key: so soon a key removed elsewhere stops working here."""

MAX_BELIEVED: Final = 10_000
_NOBODY: Final = hashlib.sha256(b"nobody's key").digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessKey:
    """What is kept of a key. reach: ``account`` = its account and all below, ``house`` = every account.

    expires_ms None = never. rpm, concurrency None = not limited. profile: terms of its calls that name no other.
    """

    key_id: str
    digest: bytes
    account: str
    scopes: frozenset[str]
    reach: str = "account"
    expires_ms: int | None = None
    rpm: int | None = None
    concurrency: int | None = None
    profile: str | None = None
    label: str = ""
    last_four: str = ""
    created_ms: int = 0
    created_by: str = ""

    def allows(self, scope: str) -> bool:
        """Whether the key has this scope."""
        return scope in self.scopes or "admin" in self.scopes

    def out(self) -> dict[str, Any]:
        """What may be shown of it."""
        return {
            "key_id": self.key_id,
            "account": self.account,
            "scopes": [scope for scope in ALL_SCOPES if scope in self.scopes],
            "reach": self.reach,
            "expires_ms": self.expires_ms,
            "rpm": self.rpm,
            "concurrency": self.concurrency,
            "profile": self.profile,
            "label": self.label,
            "last_four": self.last_four,
            "created_ms": self.created_ms,
            "created_by": self.created_by,
        }

    def save(self) -> bytes:
        """The record in the store."""
        return orjson.dumps({**self.out(), "digest": self.digest.hex()})

    @classmethod
    def load(cls, saved: bytes) -> AccessKey:
        """What :meth:`save` wrote."""
        values = orjson.loads(saved)
        values["digest"] = bytes.fromhex(values["digest"])
        values["scopes"] = frozenset(values["scopes"])
        return cls(**values)


def new_key(
    account: str,
    scopes: frozenset[str],
    now_ms: int,
    *,
    creator: AccessKey | None = None,
    **wanted: Any,
) -> tuple[AccessKey, str]:
    """A key and its text, which nobody can read again. ``creator`` None: the operator at the store itself.

    wanted: fields of :class:`AccessKey`. Limits not asked for are the creator's. Raises InputInvalid.
    """
    unknown = sorted(scopes - set(ALL_SCOPES))
    if unknown or not scopes:
        found = unknown[0] if unknown else "none"
        raise InputInvalid(f"scopes: expected some of {', '.join(ALL_SCOPES)}, found {found}")
    if creator is not None:
        wanted = _within(creator, scopes, wanted)
    key_id = secrets.token_hex(6)
    text = f"neg_{key_id}_{secrets.token_urlsafe(32)}"
    key = AccessKey(
        key_id=key_id,
        digest=_digest(text),
        account=account,
        scopes=scopes,
        last_four=text[-4:],
        created_ms=now_ms,
        created_by="operator" if creator is None else creator.key_id,
        **wanted,
    )
    return key, text


def _within(creator: AccessKey, scopes: frozenset[str], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The wanted fields, none above the creator's."""
    above = sorted(scope for scope in scopes if not creator.allows(scope))
    if above:
        raise InputInvalid(f"scopes: expected none beyond the creating key's, found {above[0]}")
    given = dict(wanted)
    if given.get("reach") == "house" and creator.reach != "house":
        raise InputInvalid("reach: expected 'account', the creating key's own, found 'house'")
    for name in ("expires_ms", "rpm", "concurrency"):
        limit = getattr(creator, name)
        if given.get(name) is None:
            given[name] = limit
        elif limit is not None and given[name] > limit:
            raise InputInvalid(
                f"{name}: expected at most the creating key's own {limit}, found {given[name]}"
            )
    return given


class KeyRing:
    """The keys of one store, as this process sees them."""

    def __init__(self, store: SharedStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._believed: dict[str, tuple[AccessKey | None, int]] = {}
        self._any_until_ms = 0

    async def add(self, key: AccessKey) -> None:
        """Keep a new key."""
        await self._store.put_entry(TABLE, key.key_id, key.save())
        self._believed.pop(key.key_id, None)
        self._any_until_ms = 0

    async def remove(self, key_id: str) -> None:
        """Forget a key: it stops working here at once, elsewhere within a second."""
        await self._store.put_entry(TABLE, key_id, None)
        self._believed.pop(key_id, None)

    async def all(self) -> list[AccessKey]:
        """Every key, oldest first."""
        keys = [AccessKey.load(saved) for saved in (await self._store.entries(TABLE)).values()]
        return sorted(keys, key=lambda key: (key.created_ms, key.key_id))

    async def empty(self) -> bool:
        """Whether there is no key at all; believed for a second."""
        now_ms = self._clock.now_ms()
        if now_ms < self._any_until_ms:
            return True
        empty = not await self._store.entries(TABLE)
        if empty:
            self._any_until_ms = now_ms + BELIEVED_MS
        return empty

    async def by_id(self, key_id: str) -> AccessKey | None:
        """The key with this public half, None = there is none."""
        now_ms = self._clock.now_ms()
        key, until_ms = self._believed.get(key_id, (None, 0))
        if until_ms > now_ms:
            return key
        saved = await self._store.entry(TABLE, key_id)
        key = None if saved is None else AccessKey.load(saved)
        if len(self._believed) >= MAX_BELIEVED:
            self._believed.clear()
        self._believed[key_id] = (key, now_ms + BELIEVED_MS)
        return key

    async def find(self, text: str) -> AccessKey | None:
        """The key with this text, None = no such key, or it has expired."""
        parts = text.split("_", 2)
        key = await self.by_id(parts[1]) if len(parts) == 3 and parts[0] == "neg" else None
        same = hmac.compare_digest(_digest(text), _NOBODY if key is None else key.digest)
        if key is None or not same:
            return None
        if key.expires_ms is not None and self._clock.now_ms() >= key.expires_ms:
            return None
        return key


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
