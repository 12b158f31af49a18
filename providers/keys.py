"""A seller's keys: held as secrets, rotated by what is left on each, ejected alone.

A key's text is shown to the vendor and to nobody else: its type prints as ``***`` and has no other door than
:meth:`Secret.reveal`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple, NoReturn

from .clock import Clock
from .errors import AuthFailed, ProviderError, RateLimited

__all__ = ["ALL_MODELS", "Key", "KeyRing", "Rest", "Secret", "keys_from_environment"]

REFUSED_MS: Final = 600_000
"""How long a refused key rests: long enough not to hammer, short enough to see that it was paid or replaced."""

LIMITED_MS: Final = 1_000
"""How long a rate-limited key rests when the vendor does not say."""

MAX_REST_MS: Final = 3_600_000
"""The longest rest taken from a vendor's word."""


ALL_MODELS: Final = ""
"""Where a rest is from everything a key is for."""


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


class Rest(NamedTuple):
    """Until when a key is left alone, and for which failure."""

    until_ms: int
    why: type[ProviderError]


class Key:
    """One key and what is known of it: share of its window left (1 = all), calls in flight, what it rests from.

    rests: by model; under :data:`ALL_MODELS` from everything.
    """

    __slots__ = ("calls", "in_flight", "left", "rests", "secret")

    def __init__(self, secret: Secret | None) -> None:
        self.secret = secret
        self.left = 1.0
        self.in_flight = 0
        self.calls = 0
        self.rests: dict[str, Rest] = {}

    def __repr__(self) -> str:
        return f"Key({self.secret!r}, left={self.left:.2f}, in_flight={self.in_flight})"

    def rest(self, model: str, now_ms: int) -> Rest | None:
        """What keeps it from serving a model now, None = nothing."""
        if not self.rests:
            return None
        over = [name for name, rest in self.rests.items() if rest.until_ms <= now_ms]
        for name in over:
            del self.rests[name]
            self.left = 1.0
        found = [self.rests[name] for name in {ALL_MODELS, model} if name in self.rests]
        return max(found, default=None, key=lambda rest: rest.until_ms)


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

    def take(self, model: str = ALL_MODELS) -> Key:
        """The key with most left that serves ``model``; give it back through :meth:`release`.

        Raises the failure that put the last key to rest, with the time until one is back.
        """
        keys = self.keys
        if len(keys) == 1 and not keys[0].rests:
            key = keys[0]
        else:
            now_ms = self._clock.now_ms()
            ready = [key for key in keys if key.rest(model, now_ms) is None]
            if not ready:
                rest = self.rest(model)
                assert rest is not None, "all keys rest"
                left_ms, why = rest.until_ms - now_ms, "refused" if rest.why is AuthFailed else "limited"
                raise rest.why(
                    f"every key is {why}; the first is tried again in {left_ms} ms", retry_after_ms=left_ms
                )
            key = max(ready, key=lambda key: (key.left, -key.in_flight, -key.calls))
        key.in_flight += 1
        key.calls += 1
        return key

    def release(self, key: Key) -> None:
        """The call that took the key is over."""
        key.in_flight -= 1

    def masked(self, text: str) -> str:
        """A text with every key in it as ``***``: vendors repeat keys in their messages."""
        for key in self._keys or ():
            if key.secret is not None:
                text = text.replace(key.secret.reveal(), "***")
        return text

    @property
    def resting(self) -> bool:
        """Whether any key rests from anything."""
        return any(key.rests for key in self.keys)

    def rest(self, model: str = ALL_MODELS) -> Rest | None:
        """What keeps all keys from serving ``model`` now: of the key that is back first. None = a key is ready."""
        now_ms = self._clock.now_ms()
        rests = [key.rest(model, now_ms) for key in self.keys]
        known = [rest for rest in rests if rest is not None]
        return min(known, key=lambda rest: rest.until_ms) if len(known) == len(rests) else None

    def eject(self, key: Key, error: ProviderError, model: str = ALL_MODELS) -> bool:
        """Put one key to rest; whether another one serves ``model``.

        A full window is the model's own, and so is a missing permission (403); a refused key serves nothing.
        """
        rest_ms = error.retry_after_ms
        if rest_ms is None:
            rest_ms = LIMITED_MS if isinstance(error, RateLimited) else REFUSED_MS
        own = isinstance(error, RateLimited) or error.status == 403
        until_ms = self._clock.now_ms() + min(rest_ms, MAX_REST_MS)
        key.rests[model if own else ALL_MODELS] = Rest(until_ms, type(error))
        return self.rest(model) is None


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
