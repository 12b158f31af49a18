"""Rules of security that can be read off the sources, and the page that says where each rule is kept."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path for package in ("negotiator", "providers", "solver") for path in (ROOT / package).rglob("*.py")
)
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "xml.etree.ElementTree"}


@pytest.fixture(scope="module")
def trees() -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}


def test_no_module_evaluates_or_unpickles(trees: dict[Path, ast.Module]) -> None:
    """No eval, exec or unpickling anywhere, and no command goes through a shell."""
    found = []
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in FORBIDDEN_CALLS
            ):
                found.append(f"{path.name}:{node.lineno} {node.func.id}")
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = (
                    [node.module or ""]
                    if isinstance(node, ast.ImportFrom)
                    else [one.name for one in node.names]
                )
                found += [f"{path.name}:{node.lineno} {name}" for name in names if name in FORBIDDEN_MODULES]
            if isinstance(node, ast.keyword) and node.arg == "shell":
                found.append(f"{path.name}:{node.value.lineno} shell")
    assert found == []


def test_certificates_are_always_verified(trees: dict[Path, ast.Module]) -> None:
    """Nothing turns off the verification of TLS."""
    found = [
        f"{path.name}:{node.lineno}"
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Attribute) and node.attr in {"CERT_NONE", "_create_unverified_context"})
        or (
            isinstance(node, ast.keyword)
            and node.arg in {"ssl", "verify", "verify_ssl", "check_hostname"}
            and isinstance(node.value, ast.Constant)
            and node.value.value is False
        )
    ]
    assert found == []


def test_sql_is_never_made_of_strings(trees: dict[Path, ast.Module]) -> None:
    """What is executed is a constant, or made of constants of the module: never of a value that came in."""
    found = []
    for path, tree in trees.items():
        if not path.name.startswith("store_embedded"):
            continue
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if node.func.attr not in {"execute", "executemany", "executescript"} or not node.args:
                continue
            parts = [part for part in ast.walk(node.args[0]) if isinstance(part, ast.FormattedValue)]
            foreign = [ast.unparse(part.value) for part in parts if not _made_here(part.value)]
            found += [f"{path.name}:{node.lineno} {text}" for text in foreign]
    assert found == []


def _made_here(value: ast.expr) -> bool:
    """A constant's name, a number of this program's own, or a choice between two literal words."""
    text = ast.unparse(value)
    named = re.fullmatch(r"_?[A-Z][A-Z_]*|len\(_[A-Z]+\)|number|statements", text)
    chosen = isinstance(value, ast.IfExp) and all(
        isinstance(branch, ast.Constant) for branch in (value.body, value.orelse)
    )
    return bool(named) or chosen


def test_the_page_names_tests_and_files_that_exist() -> None:
    """Every rule of docs/guides/security.md is kept by something that is there."""
    page = (ROOT / "docs" / "guides" / "security.md").read_text(encoding="utf-8")
    table = page.partition("| rule | kept by |")[2].partition("\n\n")[0]
    rules = [row for row in table.splitlines() if row.startswith("| ")]
    assert len(rules) >= 15
    known = {
        node.name
        for path in (ROOT / "tests").glob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    for row in rules:
        kept_by = re.findall(r"`([^`]+)`", row.rpartition(" | ")[2] if row.count(" | ") else row)
        kept = [one for one in kept_by if one.startswith("test_") or "/" in one]
        assert kept, row
        for one in kept:
            assert one in known if one.startswith("test_") else (ROOT / one).exists(), one
