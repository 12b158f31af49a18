"""Who calls, and what it may do: keys, scopes, accounts in reach.

A failed check raises; nothing here answers with an empty caller. Without any key the house serves loopback only, and
every caller has all scopes and the account ``default``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from providers.clock import Clock

from ..store import DEFAULT_ACCOUNT, LedgerStore
from .faults import ApiFault
from .keyring import AccessKey, KeyRing

__all__ = ["KEYLESS", "Caller", "Doorman"]

MAX_KEY_CHARS: Final = 200
LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller; ``key`` None = nobody needs a key here."""

    account: str
    key: AccessKey | None = None

    def allows(self, scope: str) -> bool:
        """Whether it has this scope."""
        return self.key is None or self.key.allows(scope)

    @property
    def everywhere(self) -> bool:
        """Whether every account is in its reach."""
        return self.key is None or (self.key.reach == "house" and self.key.allows("admin"))


KEYLESS: Final = Caller(DEFAULT_ACCOUNT)
"""Whoever calls a house without keys."""


class Doorman:
    """Lets callers in."""

    def __init__(self, keys: KeyRing, store: LedgerStore, clock: Clock, *, keyless_allowed: bool) -> None:
        """keyless_allowed: the server listens on loopback only."""
        self._keys = keys
        self._store = store
        self._clock = clock
        self._keyless = keyless_allowed

    async def admit(self, headers: Mapping[str, str], host: str) -> Caller:
        """Who sent these headers. Raises ApiFault 401, and 403 for a keyless call under a stranger's name."""
        if self._keyless:
            if await self._keys.empty():
                name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
                if name.lower() not in LOOPBACK_NAMES:
                    raise ApiFault(403, "HOST_FORBIDDEN", "without keys only loopback host names are served")
                return KEYLESS
            self._keyless = False  # a house that had keys never goes back while it runs
        text = _presented(headers)
        if text is None:
            raise _refused(
                "expected an API key as `Authorization: Bearer KEY` or `x-api-key: KEY`, found none"
            )
        key = await self._keys.find(text) if len(text) <= MAX_KEY_CHARS else None
        if key is None:
            raise _refused("the API key is unknown or has expired")
        return Caller(key.account, key)

    async def within_reach(self, caller: Caller, account: str) -> bool:
        """Whether an account is the caller's own, below it, or (reach ``house``) anybody's."""
        if caller.everywhere or account == caller.account:
            return True
        chain = await self._store.balances(account, self._clock.now_ms())
        return any(balance.account.account_id == caller.account for balance in chain)


def _presented(headers: Mapping[str, str]) -> str | None:
    bearer = headers.get("Authorization")
    if bearer is not None:
        scheme, _, text = bearer.partition(" ")
        if scheme.lower() != "bearer" or not text.strip():
            raise _refused("expected `Authorization: Bearer KEY`, found another scheme")
        return text.strip()
    return headers.get("x-api-key")


def _refused(message: str) -> ApiFault:
    return ApiFault(401, "UNAUTHENTICATED", message, headers={"www-authenticate": "Bearer"})
