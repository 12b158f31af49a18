"""Keys: never printed, rotated by what is left, ejected alone, back after their rest."""

from __future__ import annotations

import pickle

import pytest

from providers.clock import VIRTUAL_EPOCH_MS
from providers.errors import AuthFailed, RateLimited
from providers.keys import KeyRing, Secret, keys_from_environment


class Hands:
    """A clock set by hand."""

    def __init__(self) -> None:
        self.ms = VIRTUAL_EPOCH_MS

    def now_ms(self) -> int:
        """The time it was set to."""
        return self.ms


def test_a_secret_prints_as_stars_and_cannot_be_pickled() -> None:
    """No way of printing a secret shows it, and it cannot be written by accident."""
    secret = Secret(" sk-123 ")
    assert secret.reveal() == "sk-123"
    assert {str(secret), repr(secret), f"{secret}", f"{[secret]}"} == {"***", "[***]"}
    with pytest.raises(TypeError):
        pickle.dumps(secret)


@pytest.mark.parametrize("text", ["", "  ", "a\nb"])
def test_a_key_that_cannot_be_a_header_is_refused(text: str) -> None:
    """An empty key, or one with a line break, is refused without showing it."""
    with pytest.raises(ValueError, match="printable"):
        Secret(text)


def test_the_key_with_most_left_is_taken_then_the_least_busy() -> None:
    """Keys rotate by what their windows have left; where that is equal, by calls in flight and calls made."""
    ring = KeyRing(lambda: ["a", "b", "c"], Hands())
    taken = [ring.take() for _ in range(3)]
    assert len(set(map(id, taken))) == 3
    ring.release(taken[1])
    assert ring.take() is taken[1]
    for key in ring.keys:
        key.in_flight, key.left = 0, 0.5
    ring.keys[2].left = 0.9
    assert ring.take() is ring.keys[2]


def test_ejected_alone_and_back_after_its_rest() -> None:
    """A limited key rests as long as it was told to while the other serves; then it is used again."""
    clock = Hands()
    ring = KeyRing(lambda: ["a", "b"], clock)
    first = ring.take("m")
    assert ring.eject(first, RateLimited("full", retry_after_ms=5_000), "m")
    ring.release(first)
    second = ring.take("m")
    assert second is not first
    assert not ring.eject(second, AuthFailed("refused", status=401), "m")
    with pytest.raises(RateLimited, match="5000 ms") as caught:
        ring.take("m")
    assert caught.value.retry_after_ms == 5_000
    clock.ms += 4_999
    assert ring.rest("m") is not None
    clock.ms += 1
    assert ring.rest("m") is None
    assert ring.take("m") is first


def test_a_full_window_is_the_model_s_own() -> None:
    """A limit or a missing permission for one model leaves the others served; a refused key serves none."""
    ring = KeyRing(lambda: ["a"], Hands())
    key = ring.keys[0]
    for error in (RateLimited("full"), AuthFailed("not this model", status=403)):
        assert not ring.eject(key, error, "big")
        assert ring.rest("big") is not None
        assert ring.rest("small") is None
        assert ring.rest() is None
        assert ring.resting
    ring.eject(key, AuthFailed("refused", status=401), "big")
    rest = ring.rest("small")
    assert rest is not None
    assert rest.why is AuthFailed


def test_a_rest_is_bounded() -> None:
    """A vendor that asks for a day of rest gets an hour."""
    clock = Hands()
    ring = KeyRing(lambda: ["a"], clock)
    ring.eject(ring.take(), RateLimited("full", retry_after_ms=86_400_000))
    rest = ring.rest()
    assert rest is not None
    assert rest.until_ms - clock.ms == 3_600_000


def test_no_keys_is_a_call_without_one() -> None:
    """A seller that needs no key has a ring of one empty place."""
    assert KeyRing(list, Hands()).take().secret is None


def test_keys_are_read_once_and_equal_ones_are_one() -> None:
    """The texts are asked for at the first call only; the same text twice is one key."""
    asked = []
    ring = KeyRing(lambda: asked.append(1) or ["a", "a"], Hands())
    assert not asked
    assert len(ring.keys) == 1
    ring.take()
    assert asked == [1]


def test_a_variable_without_a_key_is_named() -> None:
    """An unset or empty variable is a refusal that names it, never its neighbours' values."""
    with pytest.raises(AuthFailed, match="KEY_B") as caught:
        keys_from_environment(["KEY_A", "KEY_B"], {"KEY_A": "secret", "KEY_B": " "}, "shop")
    assert "secret" not in str(caught.value)


def test_keys_in_a_text_are_masked() -> None:
    """Whatever text has a key in it comes out without; before any key is known there is nothing to mask."""
    ring = KeyRing(lambda: ["key-a", "key-b"], Hands())
    assert ring.masked("key-a") == "key-a"
    ring.take()
    assert ring.masked("key-a, then key-b twice: key-b") == "***, then *** twice: ***"
