"""The configuration: ``negotiator.toml``, environment on top, every key checked.

A variable ``NEGOTIATOR_SECTION__KEY`` (``NEGOTIATOR_STORE__URL``) overrides that key. Secrets are named, never
held: ``api_key_env`` says which variable has the key. Faults raise :class:`ConfigInvalid` with file and line.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .errors import ConfigInvalid
from .wire import Terms, Tier, Usd, describe_invalid

__all__ = [
    "AccountConfig",
    "BatchConfig",
    "Config",
    "LimitsConfig",
    "MarketConfig",
    "ModelConfig",
    "PricingConfig",
    "ProviderConfig",
    "QualityConfig",
    "ServerConfig",
    "StoreConfig",
    "TelemetryConfig",
    "load_config",
]

ENVIRONMENT_PREFIX = "NEGOTIATOR_"
Milliseconds = Annotated[int, Field(gt=0, le=7 * 24 * 3_600_000)]
Count = Annotated[int, Field(gt=0, le=10**12)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)


class ServerConfig(_Section):
    """Where ``negotiator serve`` listens, and how much it takes in at once."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8377
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    max_body: Annotated[int, Field(ge=1024, le=2**30)] = 32 * 2**20
    ops_bind: str | None = None


class StoreConfig(_Section):
    """Where ledger and shared state live; ``order_log``: a file that every order is written to, for reports.

    order_log_prompts: what it keeps of prompts: hashed ``features`` to learn from, their ``text``, or ``none``.
    """

    url: (
        Annotated[
            str,
            Field(pattern=r"^(embedded|redis|rediss|redis\+sentinel|redis\+cluster)://"),
        ]
        | None
    ) = None
    durability: Literal["process", "power"] = "process"
    order_log: Path | None = None
    order_log_prompts: Literal["none", "features", "text"] = "features"


class LimitsConfig(_Section):
    """A provider account's rate limits: calls and tokens per minute, calls in flight, and what may wait at its batch
    endpoint: input tokens of each model, requests of all together. Of the last two the vendor's lowest paid usage tier
    holds where nothing is said."""

    rpm: Count | None = None
    tpm: Count | None = None
    input_tpm: Count | None = None
    output_tpm: Count | None = None
    concurrency: Count | None = None
    batch_tokens: Count | None = None
    batch_requests: Count | None = None


class ModelConfig(_Section):
    """One model of a provider; prices only where no price card is known."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    input_usd_per_million: Usd | None = None
    cache_read_usd_per_million: Usd | None = None
    cache_write_usd_per_million: Usd | None = None
    output_usd_per_million: Usd | None = None
    context_tokens: Count | None = None
    quality_prior: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None

    @model_validator(mode="after")
    def _priced_whole(self) -> ModelConfig:
        given = [
            self.input_usd_per_million is not None,
            self.output_usd_per_million is not None,
        ]
        if any(given) != all(given):
            raise ValueError(
                "expected input_usd_per_million and output_usd_per_million together, found one of them"
            )
        return self


class PricingConfig(_Section):
    """How a self-hosted seller prices idle capacity."""

    reserve_share: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.3
    metrics_url: str | None = None


class ProviderConfig(_Section):
    """One seller account."""

    kind: Name
    name: Name | None = None
    base_url: Annotated[str, Field(pattern=r"^https?://")] | None = None
    api_key_env: str | tuple[str, ...] | None = None
    limits: LimitsConfig = LimitsConfig()
    tiers: tuple[Tier, ...] = ("standard",)
    tags: tuple[str, ...] = ()
    models: tuple[ModelConfig, ...] = ()
    pricing: PricingConfig | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0

    @property
    def label(self) -> str:
        """The name in ``provider/model``: as given, else the kind."""
        return self.name or self.kind


class AccountConfig(_Section):
    """An account of the ledger; ``budget_usd`` absent = no limit of its own."""

    id: Annotated[str, Field(min_length=1, max_length=255)]
    parent: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    budget_usd: Usd | None = None
    period: Literal["total", "day", "month"] = "total"
    default_budget_usd: Usd | None = None


class MarketConfig(_Section):
    """Times and counts of the market itself."""

    reprice_ms: Milliseconds = 2_000
    quote_ttl_ms: Milliseconds = 30_000
    rfq_timeout_ms: Milliseconds = 250
    attempts: Annotated[int, Field(ge=1, le=10)] = 3
    hold_ms: Milliseconds = 600_000
    in_doubt_ms: Milliseconds = 900_000


class QualityConfig(_Section):
    """Where quality estimates come from."""

    model: Path | None = None
    priors: Path | None = None
    exploration_share: Annotated[float, Field(ge=0, le=0.5, allow_inf_nan=False)] = 0.0


class BatchConfig(_Section):
    """How batches are planned and run. folder: of uploaded files and batches, absent = beside the ledger.

    max_file, max_stored: bytes of one file, and of all files of an account. max_lines: requests of one batch.
    running: batches at a time.
    """

    horizon_ms: Milliseconds = 60_000
    folder: Path | None = None
    max_file: Annotated[int, Field(ge=1024, le=2**40)] = 512 * 2**20
    max_stored: Annotated[int, Field(ge=1024, le=2**50)] = 16 * 2**30
    max_lines: Annotated[int, Field(ge=1, le=10_000_000)] = 1_000_000
    running: Annotated[int, Field(ge=1, le=64)] = 4


class TelemetryConfig(_Section):
    """Where OpenTelemetry's traces and metrics go; without an address nothing is made. ``sample_share``: of traces."""

    otlp_endpoint: Annotated[str, Field(pattern=r"^https?://")] | None = None
    service_name: Annotated[str, Field(min_length=1, max_length=100)] = "negotiator"
    sample_share: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 1.0
    export_every_ms: Milliseconds = 10_000


class Config(_Section):
    """The whole configuration; without a file, the defaults below and simulated sellers."""

    server: ServerConfig = ServerConfig()
    store: StoreConfig = StoreConfig()
    providers: Annotated[tuple[ProviderConfig, ...], Field(max_length=200)] = ()
    profiles: dict[Name, Terms] = Field(default_factory=dict)
    accounts: tuple[AccountConfig, ...] = ()
    market: MarketConfig = MarketConfig()
    quality: QualityConfig = QualityConfig()
    batch: BatchConfig = BatchConfig()
    telemetry: TelemetryConfig = TelemetryConfig()

    def market_facts(self) -> dict[str, Any]:
        """What a replay needs to know of it, as JSON: no address, no place of a secret or a file."""
        facts = self.model_dump(
            mode="json", include={"providers", "profiles", "accounts", "market", "batch"}, exclude_none=True
        )
        for provider in facts["providers"]:
            for place in ("base_url", "api_key_env"):
                provider.pop(place, None)
            provider.get("pricing", {}).pop("metrics_url", None)
        return facts

    @model_validator(mode="after")
    def _names_once(self) -> Config:
        for what, names in (
            ("providers", [provider.label for provider in self.providers]),
            ("accounts", [account.id for account in self.accounts]),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{what}: expected each name once, found {twice[0]!r} again")
        known = {account.id for account in self.accounts} | {"default"}
        for account in self.accounts:
            if account.parent is not None and account.parent not in known:
                raise ValueError(
                    f"accounts: expected the parent of {account.id!r} among the accounts, found {account.parent!r}"
                )
        return self


def load_config(path: str | Path | None, environment: Mapping[str, str] | None = None) -> Config:
    """The configuration in ``path`` (None: defaults), with the environment on top."""
    values: dict[str, Any] = {}
    text = ""
    if path is not None:
        try:
            text = Path(path).read_text(encoding="utf-8")
            values = tomllib.loads(text)
        except OSError as error:
            raise ConfigInvalid(f"{path}: expected a readable file, found: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigInvalid(f"{path}: expected UTF-8 text, found other bytes") from None
        except tomllib.TOMLDecodeError as error:
            raise ConfigInvalid(f"{path}: expected TOML, found: {error}") from None
    set_by = _overlay(values, os.environ if environment is None else environment)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        location = tuple(error.errors(include_url=False, include_context=False)[0]["loc"])
        source = set_by.get(tuple(str(part) for part in location[:2]))
        line = _line_of(text, location)
        where = source or (f"{path}:{line}" if line else str(path or "configuration"))
        raise ConfigInvalid(f"{where}: {describe_invalid(error)}") from None


def _overlay(values: dict[str, Any], environment: Mapping[str, str]) -> dict[tuple[str, ...], str]:
    """Put environment values into ``values``; gives which variable set which key."""
    set_by: dict[tuple[str, ...], str] = {}
    for variable, text in environment.items():
        section, mark, key = variable.removeprefix(ENVIRONMENT_PREFIX).lower().partition("__")
        if variable.startswith(ENVIRONMENT_PREFIX) and mark:
            table = values.setdefault(section, {})
            if not isinstance(table, dict):
                raise ConfigInvalid(
                    f"{variable}: expected a section with single keys, found the list [[{section}]]"
                )
            table[key] = text
            set_by[(section, key)] = variable
    return set_by


_HEADER = re.compile(r"^\s*(\[\[?)\s*([^\]]+?)\s*\]\]?\s*(#.*)?$")
_KEY = re.compile(r"^\s*([A-Za-z0-9_\-\"']+)\s*(?:=|\.)")


def _line_of(text: str, location: Sequence[str | int]) -> int | None:
    """The line of the deepest part of ``location`` that the text names (1-based), None = nowhere."""
    best, best_depth = None, 0
    counters: dict[tuple[str | int, ...], int] = {}
    table: tuple[str | int, ...] = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            table = _table_path(header[2], header[1] == "[[", counters)
            found = table
        elif key := _KEY.match(line):
            found = (*table, key[1].strip("\"'"))
        else:
            continue
        if found == tuple(location[: len(found)]) and len(found) > best_depth:
            best, best_depth = number, len(found)
    return best


def _table_path(header: str, many: bool, counters: dict[tuple[str | int, ...], int]) -> tuple[str | int, ...]:
    path: tuple[str | int, ...] = ()
    parts = [part.strip().strip("\"'") for part in header.split(".")]
    for depth, part in enumerate(parts, start=1):
        path = (*path, part)
        if many and depth == len(parts):
            counters[path] = counters.get(path, -1) + 1
        if path in counters:
            path = (*path, counters[path])
    return path
