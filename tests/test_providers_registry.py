"""The registry: kinds written out, plugins by entry point, one clear message for what is not there."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from providers import registry
from providers.base import Provider, ProviderSettings
from providers.clock import Clock, LoopClock
from providers.registry import BUILT_IN, RegistryError, factory_of, known_kinds, make_provider
from providers.simulated import SimulatedSeller, simulated_seller


def outside_seller(settings: ProviderSettings, clock: Clock) -> Provider:
    """A plugin's factory."""
    return simulated_seller(ProviderSettings(kind="simulated", name="groq"), clock)


def nothing(settings: ProviderSettings, clock: Clock) -> None:
    """A plugin's factory that makes nothing."""


def plug_in(patch: pytest.MonkeyPatch, value: str, name: str = "acme") -> None:
    """Install one entry point for this test."""
    point = EntryPoint(name, value, registry.GROUP)
    patch.setattr(registry, "entry_points", lambda group: [point] if group == registry.GROUP else [])


def test_a_simulated_seller_is_made_by_its_kind() -> None:
    """Kind and name in, provider with that name out."""
    seller = make_provider(ProviderSettings(kind="simulated", name="openai"), LoopClock())
    assert isinstance(seller, SimulatedSeller)
    assert seller.name == "openai"


@pytest.mark.parametrize("kind", [kind for kind, _ in BUILT_IN])
def test_every_built_in_kind_has_its_factory(kind: str) -> None:
    """No kind is promised that cannot be imported."""
    assert callable(factory_of(kind))


def test_an_unknown_kind_is_told_the_known_ones() -> None:
    """The message lists them all."""
    with pytest.raises(
        RegistryError, match=r"kind: expected one of simulated, openai, .*remote; found 'opnai'"
    ):
        make_provider(ProviderSettings(kind="opnai"), LoopClock())


def test_a_plugin_brings_a_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """One entry point makes a kind; it is listed last and cannot replace a built-in one."""
    plug_in(monkeypatch, f"{__name__}:outside_seller")
    assert known_kinds()[-1] == "acme"
    assert make_provider(ProviderSettings(kind="acme", name="groq"), LoopClock()).name == "groq"
    plug_in(monkeypatch, f"{__name__}:outside_seller", name="simulated")
    assert factory_of("simulated") is simulated_seller


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("no_such_module:f", "expected its entry point no_such_module:f to load, found ModuleNotFoundError"),
        (f"{__name__}:missing", "to load, found AttributeError"),
        (f"{__name__}:__doc__", "expected a callable at .*:__doc__, found str"),
        (f"{__name__}:nothing", "expected a provider named 'acme', found 'NoneType'"),
        (f"{__name__}:outside_seller", "expected a provider named 'acme', found 'groq'"),
    ],
)
def test_a_broken_plugin_is_named(monkeypatch: pytest.MonkeyPatch, value: str, message: str) -> None:
    """What was wrong with it, in one line, never its traceback."""
    plug_in(monkeypatch, value)
    with pytest.raises(RegistryError, match=message):
        make_provider(ProviderSettings(kind="acme"), LoopClock())


def test_the_group_is_the_one_that_packages_declare() -> None:
    """Installed packages are asked for ``negotiator.providers``."""
    assert registry.GROUP == "negotiator.providers"
    assert list(importlib.metadata.entry_points(group=registry.GROUP)) == list(registry._outside())


def test_the_registry_loads_no_seller_before_one_is_made() -> None:
    """Importing it costs neither HTTP client, prices nor vocabularies."""
    code = (
        "import sys, providers.registry as r; r.known_kinds();"
        "print([m for m in ('aiohttp', 'genai_prices', 'splintr', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
