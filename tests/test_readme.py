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
