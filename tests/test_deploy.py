"""deploy/: what is written there names things that exist, and holds no more rights than it needs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from negotiator.api.app import ROUTES
from negotiator.config import load_config

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")


def documents(name: str) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all((DEPLOY / name).read_text(encoding="utf-8")) if each]


def manifests() -> list[dict[str, Any]]:
    names = sorted(p.name for p in (DEPLOY / "kubernetes").glob("*.yaml"))
    return [d for name in names for d in documents(f"kubernetes/{name}") if d["kind"] != "Kustomization"]


def pods() -> list[tuple[str, dict[str, Any]]]:
    return [
        (one["metadata"]["name"], one["spec"]["template"]["spec"])
        for one in manifests()
        if "template" in one.get("spec", {})
    ]


def test_the_configurations_load() -> None:
    """Both files pass the check that `serve` makes; both keep money in a store that processes share."""
    for name in ("negotiator.toml", "kubernetes/negotiator.toml"):
        config = load_config(DEPLOY / name, {})
        assert (config.store.url or "").startswith("redis://valkey:")
        assert config.server.host == "0.0.0.0"


def test_every_package_of_the_image_is_locked_to_its_digest() -> None:
    """The lock covers each dependency of the project, and has a digest for each line."""
    lock = (DEPLOY / "requirements.lock").read_text(encoding="utf-8")
    entries = re.split(r"\n(?=[a-z0-9])", lock)
    locked = {entry.partition("==")[0] for entry in entries}
    wanted = {re.split(r"[\[<>=!~ ]", dependency)[0].lower() for dependency in PROJECT["dependencies"]}
    assert wanted <= locked
    assert all("--hash=sha256:" in entry for entry in entries)
    assert all(
        "--hash=sha256:" in entry
        for entry in re.split(r"\n(?=[a-z0-9])", (DEPLOY / "build.lock").read_text())
    )


def test_the_image_copies_what_is_there_and_runs_without_root() -> None:
    """Each COPY has its source, which .dockerignore lets through; the last user is not root."""
    lines = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").splitlines()
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [
        word
        for line in lines
        if line.startswith("COPY ") and "--from" not in line
        for word in line.split()[1:-1]
    ]
    assert copied
    for source in copied:
        assert (ROOT / source).exists(), source
        assert any(Path(source).match(pattern.rstrip("/")) for pattern in allowed), source
    assert [line for line in lines if line.startswith("USER ")][-1] == "USER 65532:65532"


@pytest.mark.parametrize(("name", "pod"), pods())
def test_pods_have_no_rights_they_do_not_need(name: str, pod: dict[str, Any]) -> None:
    """No root, no capability, a read-only file system, no token of the cluster, bounded memory where it serves."""
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    assert pod["automountServiceAccountToken"] is False
    for container in pod["containers"]:
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
        assert name == "first-key" or "memory" in container["resources"]["limits"]


def test_probes_and_times_fit_the_server() -> None:
    """Probes ask routes that need no key; the grace period covers leaving the service, draining and cutting."""
    from negotiator.api.server import CUT_S, DRAIN_S

    pod = dict(pods())["api"]
    (container,) = pod["containers"]
    open_routes = {route.path for route in ROUTES if route.scope is None}
    probes = [
        container[kind]["httpGet"]["path"] for kind in ("startupProbe", "readinessProbe", "livenessProbe")
    ]
    assert set(probes) <= open_routes
    leave_s = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] >= leave_s + DRAIN_S + CUT_S
    compose = documents("compose.yaml")[0]["services"]["api"]
    assert int(compose["stop_grace_period"].rstrip("s")) >= DRAIN_S + CUT_S


def test_images_are_of_this_version() -> None:
    """Compose and manifests name the image of the version in pyproject.toml."""
    version = PROJECT["version"].partition(".dev")[0]
    texts = [path.read_text(encoding="utf-8") for path in DEPLOY.rglob("*.yaml")]
    named = {found for text in texts for found in re.findall(r"image: negotiator:(\S+)", text)}
    assert named == {version}


def test_compose_gives_its_services_no_rights_they_do_not_need() -> None:
    """Read-only, no capabilities, and only loopback of the host is open."""
    services = documents("compose.yaml")[0]["services"]
    for service in services.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
    assert [port for each in services.values() for port in each.get("ports", [])] == ["127.0.0.1:8377:8377"]


def test_manifests_fit_the_api_of_kubernetes() -> None:
    """Every object against the published schemas, unknown fields refused."""
    validate = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate (108 MB) is not installed"
    )
    for manifest in manifests():
        validate.validate(manifest, "1.32", strict=True)
