"""The documentation: the site builds without a dead link, the reference is the code's, every snippet is tried."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from benchmarks.processes import serving
from negotiator.cli import COMMANDS
from negotiator.config import load_config
from negotiator.plan_lines import PlanLine, read_lines

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
OWN_TESTS = {"write-a-seller.md"}
"""Pages whose snippets are parts, tried in a test of their own."""

FENCE = re.compile(r"^```([a-z]+)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def snippets(*languages: str) -> list[tuple[str, str]]:
    """Page and code of each snippet in one of the languages."""
    pages = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
    return [
        (page.relative_to(ROOT).as_posix(), code)
        for page in pages
        if page.name not in OWN_TESTS
        for language, code in FENCE.findall(page.read_text(encoding="utf-8"))
        if language in languages
    ]


def named(found: list[tuple[str, str]]) -> list[object]:
    """The same as parameters that say which page and which snippet of it."""
    return [pytest.param(page, code, id=f"{page}-{number}") for number, (page, code) in enumerate(found)]


def told(code: str, folder: Path) -> str:
    """What a program prints that ends well."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def reference() -> dict[str, str]:
    """The pages as a fresh process makes them: a command remembers how its help was first asked for."""
    pages: dict[str, str] = json.loads(
        told(
            "import json, runpy; print(json.dumps(runpy.run_path('docs/make_reference.py')['pages']()))", ROOT
        )
    )
    return pages


def test_the_reference_is_the_codes() -> None:
    """docs/reference/ says what the code says; `python docs/make_reference.py` writes it anew."""
    for name, text in reference().items():
        assert (DOCS / "reference" / name).read_text(encoding="utf-8") == text, (
            f"{name} is stale: run python docs/make_reference.py"
        )


@pytest.mark.parametrize(("page", "code"), named(snippets("python")))
def test_programs_run(page: str, code: str, tmp_path: Path) -> None:
    """Each is a whole program that needs no key and no server."""
    assert told(code, tmp_path).strip(), "a snippet shows something"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("docs"), "", "embedded://") as market:
        yield market.url


@pytest.mark.parametrize(("page", "code"), named(snippets("py")))
def test_programs_against_a_server_run(page: str, code: str, url: str, tmp_path: Path) -> None:
    """Each runs as it stands against `negotiator serve`."""
    assert told(code.replace("http://127.0.0.1:8377", url), tmp_path).strip(), "a snippet shows something"


@pytest.mark.parametrize(("page", "code"), named(snippets("toml")))
def test_configurations_load(page: str, code: str, tmp_path: Path) -> None:
    """Each is a configuration, or a part of one that stands alone."""
    path = tmp_path / "negotiator.toml"
    path.write_text(code, encoding="utf-8")
    load_config(path, environment={})


@pytest.mark.parametrize(("page", "code"), named(snippets("json")))
def test_batch_lines_are_lines(page: str, code: str) -> None:
    """A JSON snippet with a custom_id is a line that a plan takes."""
    if '"custom_id"' in code and '"body"' in code:
        (line,) = read_lines([code.replace("\n", " ")])
        assert isinstance(line, PlanLine)


def test_the_readme_shows_every_way_in(tmp_path: Path) -> None:
    """Two whole programs, two against a server, a batch line, and a configuration of three sellers."""
    kinds = ("python", "py", "json", "toml")
    found = {kind: [code for page, code in snippets(kind) if page == "README.md"] for kind in kinds}
    assert {kind: len(codes) for kind, codes in found.items()} == {"python": 2, "py": 2, "json": 1, "toml": 1}
    assert '"custom_id"' in found["json"][0]
    path = tmp_path / "negotiator.toml"
    path.write_text(found["toml"][0], encoding="utf-8")
    config = load_config(path, environment={})
    assert [provider.label for provider in config.providers] == ["openai", "anthropic", "basement"]


def shown_commands() -> list[tuple[str, str]]:
    found = []
    for page, code in snippets("sh", "console", "bash"):
        for line in code.replace("\\\n", " ").splitlines():
            words = line.removeprefix("$ ").partition("  #")[0].strip()
            if re.match(r"(\.venv/bin/)?negotiator ", words):
                found.append((page, words))
    return found


@pytest.mark.parametrize(("page", "line"), named(shown_commands()))
def test_commands_have_the_options_shown(page: str, line: str) -> None:
    """Each command line is one that the program takes: command, subcommand, options and their values."""
    words = shlex.split(re.split(r" [|>&]+ ?", line)[0], comments=True)[1:]
    command: click.Command = importlib.import_module(f"negotiator.cli.{words[0]}").command
    assert words[0] in COMMANDS
    rest = words[1:]
    context = click.Context(command, info_name=words[0])
    while isinstance(command, click.Group):
        below = command.get_command(context, rest[0])
        assert below is not None, f"{page}: {line}"
        command, rest = below, rest[1:]
        context = click.Context(command, info_name=rest[0] if rest else "", parent=context)
    if "--help" not in rest:
        command.make_parser(context).parse_args(args=list(rest))


def test_the_site_builds_without_a_dead_link(tmp_path: Path) -> None:
    """Strictly: every page is in the navigation, every link and anchor inside leads somewhere, nothing is fetched."""
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install -e '.[docs]'")
    pytest.importorskip("material", reason="mkdocs-material is not installed")
    pytest.importorskip("mkdocstrings", reason="mkdocstrings is not installed")
    site = tmp_path / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(site)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for page in site.rglob("*.html"):
        assert not re.findall(
            r'(?:src|rel="stylesheet" href)="https?://[^"]+"', page.read_text(encoding="utf-8")
        )
