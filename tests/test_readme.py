"""What the README shows is run: its Python, its configuration, its batch line."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from negotiator.config import load_config
from negotiator.plan_lines import PlanLine, read_lines


def blocks(root: Path, language: str) -> list[str]:
    text = (root / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", [0, 1])
def test_python_examples_run(root: Path, number: int, tmp_path: Path) -> None:
    """Each Python block is a whole program that prints something and ends well."""
    code = blocks(root, "python")[number]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("number", [0, 1])
def test_examples_against_a_server_run(root: Path, number: int) -> None:
    """The SDK programs are run as they stand against ``negotiator serve`` on a free port."""
    code = blocks(root, "py")[number]
    command = [
        sys.executable,
        "-m",
        "negotiator.cli",
        "serve",
        "--port",
        "0",
        "--quiet",
        "--store",
        "embedded://",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            told = next(line for line in server.stderr if "listens on" in line)
            url = re.search(r"http://[^\s;]+", told)
            assert url is not None
            done = subprocess.run(
                [sys.executable, "-c", code.replace("http://127.0.0.1:8377", url[0].rstrip("/"))],
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
        finally:
            server.terminate()
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_configuration_is_accepted(root: Path, tmp_path: Path) -> None:
    """The TOML block is a configuration that loads."""
    path = tmp_path / "negotiator.toml"
    path.write_text(blocks(root, "toml")[0], encoding="utf-8")
    config = load_config(path, environment={})
    assert [provider.label for provider in config.providers] == ["openai", "anthropic", "basement"]


def test_the_batch_line_is_one(root: Path) -> None:
    """The JSON block is a line that a plan takes."""
    (line,) = read_lines([blocks(root, "json")[0].replace("\n", " ")])
    assert isinstance(line, PlanLine)
