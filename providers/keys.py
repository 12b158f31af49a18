"""A seller's keys: held as secrets, rotated by what is left on each, ejected alone.

A key's text is shown to the vendor and to nobody else: its type prints as ``***`` and has no other door than
:meth:`Secret.reveal`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, NoReturn

from .clock import Clock
from .errors import AuthFailed, ProviderError, RateLimited

__all__ = ["Key", "KeyRing", "Secret", "keys_from_environment"]

REFUSED_MS: Final = 600_000
"""How long a refused key rests: long enough not to hammer, short enough to see that it was paid or replaced."""

LIMITED_MS: Final = 1_000
"""How long a rate-limited key rests when the vendor does not say."""

MAX_REST_MS: Final = 3_600_000
"""The longest rest taken from a vendor's word."""


class Secret:
    """A text that prints as ``***`` and cannot be pickled or compared by accident."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        if not text.strip() or not text.isprintable():
            raise ValueError(
                "expected a key of printable characters, found an empty one or a line break in it"
            )
        self._text = text.strip()

    def reveal(self) -> str:
        """The text itself, for the one header it belongs in."""
        return self._text

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not written anywhere")


class Key:
    """One key and what is known of it: share of its window left (1 = all), calls in flight, when it may be used."""

    __slots__ = ("calls", "in_flight", "left", "rests_until_ms", "secret", "why")

    def __init__(self, secret: Secret | None) -> None:
        self.secret = secret
        self.left = 1.0
        self.in_flight = 0
        self.calls = 0
        self.rests_until_ms = 0
        self.why: type[ProviderError] = AuthFailed

    def __repr__(self) -> str:
        return f"Key({self.secret!r}, left={self.left:.2f}, in_flight={self.in_flight})"


class KeyRing:
    """The keys of one seller. ``load`` gives their texts when the first call needs one; none = calls without a key."""

    def __init__(self, load: Callable[[], Iterable[str]], clock: Clock) -> None:
        self._load = load
        self._clock = clock
        self._keys: tuple[Key, ...] | None = None

    @property
    def keys(self) -> tuple[Key, ...]:
        """All keys, resting ones too; one without a secret where the seller needs none."""
        if self._keys is None:
            self._keys = tuple(Key(Secret(text)) for text in dict.fromkeys(self._load())) or (Key(None),)
        return self._keys

    def take(self) -> Key:
        """The usable key with most left; gives it back through :meth:`release`.

        Raises the failure that put the last key to rest, with the time until one is back.
        """
        keys = self.keys
        key = keys[0] if len(keys) == 1 and not keys[0].rests_until_ms else self._best(keys)
        key.in_flight += 1
        key.calls += 1
        return key

    def release(self, key: Key) -> None:
        """The call that took the key is over."""
        key.in_flight -= 1

    def usable(self) -> bool:
        """Whether a call would find a key now."""
        keys = self.keys
        return any(not key.rests_until_ms or key.rests_until_ms <= self._clock.now_ms() for key in keys)

    def back_in_ms(self) -> int:
        """How long until a key is usable; 0 = now."""
        now_ms = self._clock.now_ms()
        return max(0, min(key.rests_until_ms for key in self.keys) - now_ms)

    @property
    def resting_for(self) -> type[ProviderError]:
        """Why the key that is back first rests: refused or rate-limited."""
        return min(self.keys, key=lambda key: key.rests_until_ms).why

    def eject(self, key: Key, error: ProviderError) -> bool:
        """Put one key to rest for a refusal or a full window; whether another one is usable."""
        rest_ms = error.retry_after_ms
        if rest_ms is None:
            rest_ms = LIMITED_MS if isinstance(error, RateLimited) else REFUSED_MS
        key.why = type(error)
        key.rests_until_ms = self._clock.now_ms() + min(rest_ms, MAX_REST_MS)
        return self.usable()

    def _best(self, keys: tuple[Key, ...]) -> Key:
        now_ms = self._clock.now_ms()
        for key in keys:
            if key.rests_until_ms and key.rests_until_ms <= now_ms:
                key.rests_until_ms, key.left = 0, 1.0
        ready = [key for key in keys if not key.rests_until_ms]
        if not ready:
            why = "refused" if self.resting_for is AuthFailed else "out of its window"
            raise self.resting_for(
                f"every key is {why}; the first is tried again in {self.back_in_ms()} ms",
                retry_after_ms=self.back_in_ms(),
            )
        return max(ready, key=lambda key: (key.left, -key.in_flight, -key.calls))


def keys_from_environment(
    names: Iterable[str], environment: Mapping[str, str], provider: str
) -> tuple[str, ...]:
    """The key texts of the variables ``names``; raises :class:`AuthFailed` naming a variable that is not set."""
    texts = []
    for name in names:
        text = environment.get(name, "").strip()
        if not text:
            raise AuthFailed(
                f"expected its key in the variable {name}, found it unset or empty", provider=provider
            )
        texts.append(text)
    return tuple(texts)
