"""What every test finds: no keys and no state of the user's, time-free property tests, the measured data if there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]

# The machine may be busy: a property test is judged by its cases, never by its speed; under CI it repeats exactly.
settings.register_profile(
    "negotiator",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("negotiator")


@pytest.fixture(scope="session", autouse=True)
def _nobody_at_home(tmp_path_factory: pytest.TempPathFactory) -> object:
    """No vendor's key, no configuration and no ledger of the user's reaches a test."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.endswith("_API_KEY") or (
                name.startswith("NEGOTIATOR_")
                and name not in {"NEGOTIATOR_DATA", "NEGOTIATOR_SIMULATION_SEEDS"}
            ):
                patch.delenv(name)
        for name in ("XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
            patch.setenv(name, str(home / name.lower()))
        yield


@pytest.fixture(scope="session")
def root() -> Path:
    """The top of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Measured data: ``NEGOTIATOR_DATA``, or ``shared/data`` beside the repository; skips when neither is there."""
    given = os.environ.get("NEGOTIATOR_DATA")
    folder = Path(given) if given else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no data: {folder} is not a folder; set NEGOTIATOR_DATA")
    return folder
