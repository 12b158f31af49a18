"""Vendors as rows of data: where to call, which dialect, and where each differs from OpenAI's chat API."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import date
from functools import cache
from importlib import resources
from typing import Any, Final

from .limit_headers import LIMIT_HEADERS

__all__ = ["PRESET_FILE", "Preset", "load_presets", "preset", "preset_names"]

PRESET_FILE: Final = "presets.toml"
_AUTH: Final = ("bearer", "api-key")
_DIALECTS: Final = ("openai", "anthropic", "gemini")
_BATCHES: Final = ("", "openai", "mistral", "anthropic", "gemini")


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """One row of ``presets.toml``; the file's head says what each field means.

    Raises ValueError where a field has a value it cannot have.
    """

    name: str
    vendor: str
    source: str
    checked: date
    dialect: str = "openai"
    refuses: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()
    base_url: str | None = None
    key_env: str | None = None
    auth: str = "bearer"
    output_limit: str = "max_tokens"
    limit_headers: str = "openai"
    usage_option: bool = True
    cache_key: bool = False
    batches: str = ""
    tiers: Mapping[str, str] = field(default_factory=dict)
    renames: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    stream_extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        choices = (
            ("auth", _AUTH),
            ("dialect", _DIALECTS),
            ("limit_headers", LIMIT_HEADERS),
            ("batches", _BATCHES),
        )
        for name, known in choices:
            if (value := getattr(self, name)) not in known:
                raise ValueError(
                    f"preset {self.name}: {name}: expected one of {', '.join(known)}, found {value!r}"
                )


def load_presets(text: str) -> dict[str, Preset]:
    """The presets of a TOML text, by name; raises ValueError naming preset and key that are wrong."""
    names = {one.name for one in fields(Preset)}
    presets = {}
    for name, row in tomllib.loads(text).items():
        if wrong := sorted(set(row) - names):
            raise ValueError(f"preset {name}: expected keys of a preset, found {wrong[0]!r}")
        try:
            presets[name] = Preset(
                name=name, **(row | {key: frozenset(row.get(key, ())) for key in ("refuses", "tags")})
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"preset {name}: {error}") from None
    return presets


@cache
def _shipped() -> dict[str, Preset]:
    return load_presets(resources.files(__package__).joinpath(PRESET_FILE).read_text(encoding="utf-8"))


def preset_names() -> tuple[str, ...]:
    """The names of the shipped presets."""
    return tuple(_shipped())


def preset(name: str) -> Preset:
    """The shipped preset of this name; raises ValueError naming those there are."""
    presets = _shipped()
    if name not in presets:
        raise ValueError(f"expected a preset among {', '.join(sorted(presets))}, found {name!r}")
    return presets[name]
