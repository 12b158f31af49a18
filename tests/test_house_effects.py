"""The house rules that need more than reading one file: what importing does, what is in the repository."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from house import MODULES, PACKAGES, ROOT, hold

WATCH: Final = """
import importlib, logging, os, signal, sys, threading

root, names = sys.argv[1], sys.argv[2:]
ours = tuple(os.path.join(root, package) + os.sep for package in ("negotiator", "providers", "solver"))
effects = {"os.mkdir", "os.remove", "os.system", "socket.bind", "socket.connect", "sqlite3.connect", "subprocess.Popen"}
between = ("os.py", "_collections_abc.py", "<frozen os>", "<frozen _collections_abc>")
faults, current = [], ""

def watched(method):
    def call(self, *args):
        frame = sys._getframe(1)
        while frame.f_code.co_filename.endswith(between):
            frame = frame.f_back
        if frame.f_code.co_filename.startswith(ours):
            faults.append(f"{frame.f_code.co_filename}:{frame.f_lineno}: reads the environment on import")
        return method(self, *args)
    return call

for name in ("__getitem__", "__contains__", "__iter__"):
    setattr(os._Environ, name, watched(getattr(os._Environ, name)))

def audit(event, args):
    writes = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")
    if event in effects or writes:
        faults.append(f"{current}: importing it does {event} {args[:1]}")

def state():
    signals = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    return os.getcwd(), dict(os.environ), signals, threading.active_count(), logging.root.handlers[:]

before = state()
sys.addaudithook(audit)
for current in names:
    importlib.import_module(current)
    if before != state():
        faults.append(f"{current}: importing it changes folder, environment, signals, threads or root handlers")
        before = state()
for name in logging.root.manager.loggerDict:
    kinds = [type(handler).__name__ for handler in logging.getLogger(name).handlers]
    if name.split(".")[0] in ("negotiator", "providers", "solver") and set(kinds) - {"NullHandler"}:
        faults.append(f"logger {name} was given {kinds} on import")
if "ortools" in sys.modules:
    faults.append("OR-Tools was loaded on import")
sys.exit("\\n".join(faults) or 0)
"""

TEXTS: Final = (".css", ".html", ".js", ".jsonl", ".lua", ".md", ".py", ".toml", ".yaml", ".yml")
FOLDERS: Final = (*PACKAGES, "tests", "benchmarks", "examples", "docs", ".ci", ".github")
# Written in two halves, for this file is searched as well.
FORBIDDEN: Final = re.compile(
    "|".join(
        first + second
        for first, second in (
            (r"(?<![\w.*])/wo", r"rk(?![\w-])"),
            (r"(?<!\w)/ro", r"ot/"),
            (r"\bTO", r"DO\b"),
            (r"\bFIX", r"ME\b"),
            (r"\bX", r"XX\b"),
        )
    )
)


def _run(code: str, *args: str) -> None:
    command = [sys.executable, "-B", "-c", code, *args]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_does_nothing() -> None:
    """All modules imported afresh: no environment read, handler, thread, file or socket, and no OR-Tools."""
    _run(WATCH, str(ROOT), *(module.name for module in MODULES if module.path.name != "__main__.py"))


@pytest.mark.parametrize("package", ["negotiator", "solver"])
def test_the_first_import_is_light(package: str) -> None:
    """``import negotiator`` and ``import solver`` load none of the heavy libraries."""
    heavy = {"matplotlib", "ortools", "pandas", "pyarrow", "rich", "scipy", "splintr"}
    _run(f"import sys, {package}; sys.exit(', '.join({heavy!r} & set(sys.modules)) or 0)")


def _texts() -> Iterator[Path]:
    for path in ROOT.iterdir():
        if path.is_file() and (path.suffix in TEXTS or path.name == "Makefile"):
            yield path
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and (path.suffix in TEXTS or folder == ".ci") and "vendor" not in path.parts:
                yield path


def test_sources_name_no_machine_and_leave_nothing_for_later() -> None:
    """No path of somebody's machine and no note of unfinished work is in the repository."""
    hold(
        f"{path.relative_to(ROOT)}:{number}: {found.group()}"
        for path in _texts()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if (found := FORBIDDEN.search(line))
    )


def test_the_wheel_has_three_packages() -> None:
    """The wheel lists exactly the three packages, each typed, and no other top-level folder is a package."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == list(PACKAGES)
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"benchmarks"} == set(PACKAGES)
    assert {path.parent.name for path in ROOT.glob("*/py.typed")} == set(PACKAGES)


def test_tests_lie_flat() -> None:
    """tests/ has no packages: a folder there named like a package would hide the real one."""
    hold(f"{path.relative_to(ROOT)}:1: not under tests" for path in (ROOT / "tests").rglob("__init__.py"))
