"""What the tests of the house rules look at: every source file of the three packages, its imports, floor and room."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

__all__ = [
    "HOUSE",
    "MODULES",
    "PACKAGES",
    "ROOT",
    "Function",
    "Import",
    "Module",
    "belongs",
    "floor",
    "hold",
    "imports_outside",
    "room",
]

ROOT: Final = Path(__file__).resolve().parents[1]
PACKAGES: Final = ("negotiator", "providers", "solver")

ROOMS: Final = {
    "intake": ("intake",),
    "desk": ("desk",),
    "policy": ("policy", "counter_offers"),
    "clearing": ("clearing",),
    "ledger": ("ledger",),
    "execution": ("execution",),
    "capacity": ("capacity",),
    "quality": ("quality",),
    "affinity": ("affinity",),
}
"""Room -> modules or subpackages of ``negotiator`` that it is made of, by name or by ``name_`` as prefix."""

UPPER_FLOORS: Final = {
    3: ("engine", "market_maker", "plan", "planner", "planning", "batches", "batch"),
    4: ("api", "replay", "report"),
    5: ("cli", "client", "demo", "__init__", "__main__"),
}
"""Floors above the rooms (2). What is named nowhere is a word (1) and imports no room."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Import:
    """One imported name: where, what (absolute, dotted), and whether it is loaded only when a function is called."""

    line: int
    target: str
    late: bool

    def reaches(self, *names: str) -> bool:
        """Whether this imports one of ``names`` or something inside it."""
        return any(self.target == name or self.target.startswith(name + ".") for name in names)

    @property
    def part(self) -> str | None:
        """Which part of the house it takes: ``policy`` for negotiator.policy.rank; None outside the house."""
        names = self.target.split(".")
        return names[1] if names[0] == "negotiator" and len(names) > 1 else None


@dataclass(frozen=True)
class Module:
    """A source file of one of the three packages."""

    path: Path

    @cached_property
    def text(self) -> str:
        """Its source."""
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        """Its syntax tree."""
        return ast.parse(self.text, str(self.path))

    @property
    def where(self) -> str:
        """Path from the top of the repository."""
        return self.path.relative_to(ROOT).as_posix()

    @property
    def name(self) -> str:
        """Dotted name to import it by."""
        return self.where.removesuffix("/__init__.py").removesuffix(".py").replace("/", ".")

    @property
    def package(self) -> str:
        """Which of the three packages it is in."""
        return self.path.relative_to(ROOT).parts[0]

    @property
    def part(self) -> str:
        """First name below the package: ``policy`` for policy.py, ``quality`` for quality/room.py."""
        return self.path.relative_to(ROOT).parts[1].removesuffix(".py")

    @property
    def length(self) -> int:
        """Lines of source."""
        return len(self.text.splitlines())

    @property
    def functions(self) -> Iterator[Function]:
        """Every function and method, nested ones too."""
        return (node for node in ast.walk(self.tree) if isinstance(node, Function))

    @property
    def calls(self) -> Iterator[tuple[ast.Call, str]]:
        """Every call with the dotted name of what is called."""
        return ((node, ast.unparse(node.func)) for node in ast.walk(self.tree) if isinstance(node, ast.Call))

    @cached_property
    def imports(self) -> tuple[Import, ...]:
        """Every imported name, inside functions too."""
        return tuple(self._imports(self.tree, late=False))

    def at(self, node: ast.AST | int, what: str) -> str:
        """``file:line: what``."""
        return f"{self.where}:{node if isinstance(node, int) else getattr(node, 'lineno', 1)}: {what}"

    def _imports(self, node: ast.AST, late: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(child.lineno, alias.name, late)
            elif isinstance(child, ast.ImportFrom):
                for alias in child.names:
                    yield Import(child.lineno, f"{self._source(child)}.{alias.name}", late)
            yield from self._imports(child, late or isinstance(child, Function) or _for_types_only(child))

    def _source(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        folder = self.path.relative_to(ROOT).parent.parts
        above = folder[: len(folder) - node.level + 1]
        return ".".join((*above, node.module) if node.module else above)


def _for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def belongs(part: str, *names: str) -> bool:
    """Whether ``part`` is one of ``names`` or begins with one of them and an underscore."""
    return any(part == name or part.startswith(name + "_") for name in names)


def room(part: str | None) -> str | None:
    """The room that a part of the house belongs to."""
    return next((room for room, names in ROOMS.items() if part and belongs(part, *names)), None)


def floor(part: str) -> int:
    """The floor that a part of the house is on: 1 words, 2 rooms, 3 engine, 4 api, 5 the doors."""
    if room(part):
        return 2
    return next((number for number, names in UPPER_FLOORS.items() if belongs(part, *names)), 1)


MODULES: Final = tuple(Module(path) for name in PACKAGES for path in sorted((ROOT / name).rglob("*.py")))
HOUSE: Final = tuple(module for module in MODULES if module.package == "negotiator")


def hold(faults: Iterable[str]) -> None:
    """Fails with one line per fault."""
    found = sorted(faults)
    assert not found, f"{len(found)} breaches of a house rule:\n  " + "\n  ".join(found)


def imports_outside(
    allowed: Callable[[Module], bool], *names: str, modules: tuple[Module, ...] = MODULES
) -> Iterator[str]:
    """A fault for each import of ``names`` by a module that is not ``allowed``."""
    for module in modules:
        if not allowed(module):
            for found in module.imports:
                if found.reaches(*names):
                    yield module.at(found.line, f"may not import {found.target}")
