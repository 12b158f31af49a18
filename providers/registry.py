"""Which kinds of sellers there are, and how each is made: written out, one line a kind.

A seller from outside this repository is one entry point in the group ``negotiator.providers``: its name is the kind,
its object a :data:`providers.base.ProviderFactory`. Factories are imported when the first seller of their kind is made.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Final, cast

from .base import Provider, ProviderFactory, ProviderSettings
from .clock import Clock

__all__ = ["BUILT_IN", "GROUP", "RegistryError", "factory_of", "known_kinds", "make_provider"]

GROUP: Final = "negotiator.providers"
_HTTP: Final = "providers.http_sellers:http_seller"

BUILT_IN: Final[tuple[tuple[str, str], ...]] = (
    ("simulated", "providers.simulated:simulated_seller"),
    ("openai", _HTTP),
    ("azure", _HTTP),
    ("anthropic", _HTTP),
    ("gemini", _HTTP),
    ("deepseek", _HTTP),
    ("mistral", _HTTP),
    ("xai", _HTTP),
    ("groq", _HTTP),
    ("together", _HTTP),
    ("fireworks", _HTTP),
    ("openrouter", _HTTP),
    ("alibaba", _HTTP),
    ("moonshotai", _HTTP),
    ("zai", _HTTP),
    ("novita", _HTTP),
    ("vllm", _HTTP),
    ("ollama", _HTTP),
    ("llamacpp", _HTTP),
    ("openai_compat", _HTTP),
    ("remote", "providers.remote:remote_seller"),
)
"""Kind → where its factory is."""


class RegistryError(ValueError):
    """A kind is unknown or cannot be loaded; the message says which are known, or what was wrong with it."""


def known_kinds() -> tuple[str, ...]:
    """All kinds, built-in ones first."""
    outside = sorted(point.name for point in _outside())
    return (*(kind for kind, _ in BUILT_IN), *outside)


def factory_of(kind: str) -> ProviderFactory:
    """What makes sellers of a kind; raises :class:`RegistryError`. A built-in kind cannot be replaced."""
    path = dict(BUILT_IN).get(kind)
    if path is not None:
        module, _, attribute = path.partition(":")
        return cast(ProviderFactory, getattr(import_module(module), attribute))
    point = next((point for point in _outside() if point.name == kind), None)
    if point is None:
        raise RegistryError(f"kind: expected one of {', '.join(known_kinds())}; found {kind!r}")
    try:
        factory = point.load()
    except Exception as error:
        raise RegistryError(
            f"kind {kind!r}: expected its entry point {point.value} to load, found {type(error).__name__}: {error}"
        ) from error
    if not callable(factory):
        raise RegistryError(
            f"kind {kind!r}: expected a callable at {point.value}, found {type(factory).__name__}"
        )
    return cast(ProviderFactory, factory)


def make_provider(settings: ProviderSettings, clock: Clock) -> Provider:
    """The seller that ``settings`` describe; raises :class:`RegistryError`, or ValueError for settings it refuses."""
    provider = factory_of(settings.kind)(settings, clock)
    if not isinstance(provider, Provider) or provider.name != settings.label:
        found = provider.name if isinstance(provider, Provider) else type(provider).__name__
        raise RegistryError(
            f"kind {settings.kind!r}: expected a provider named {settings.label!r}, found {found!r}"
        )
    return provider


def _outside() -> Iterable[EntryPoint]:
    return entry_points(group=GROUP)
