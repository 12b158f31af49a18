"""The house rules about the look of the code: lengths, faces, docstrings, names, units.

Each rule reads the sources with ``ast`` and lists ``file:line`` of every breach.
"""

from __future__ import annotations

import ast
import re
import statistics
from collections.abc import Iterator
from typing import Final

import pytest
from house import MODULES, ROOT, Function, Module, hold

MAX_MODULE_LINES: Final = 400
MEDIAN_MODULE_LINES: Final = range(60, 221)
MAX_FUNCTION_LINES: Final = 60

MONEY: Final = re.compile(r"_nusd(?:_|$)")
DURATION: Final = re.compile(r"timeout|latency|ttft|deadline")
TIME_UNIT: Final = re.compile(r"_(?:ns|us|ms|s)(?:_|$)")


def test_modules_are_short() -> None:
    """No module has more than 400 lines, no benchmark either."""
    benchmarks = [Module(path) for path in sorted((ROOT / "benchmarks").glob("*.py"))]
    hold(
        module.at(MAX_MODULE_LINES + 1, f"{module.length} lines, expected at most {MAX_MODULE_LINES}")
        for module in [*MODULES, *benchmarks]
        if module.length > MAX_MODULE_LINES
    )


def test_the_median_module_is_neither_crumb_nor_lump() -> None:
    """The median module has 60 to 220 lines."""
    lengths = [module.length for module in MODULES if module.path.name != "__init__.py"]
    assert int(statistics.median(lengths)) in MEDIAN_MODULE_LINES


def test_functions_are_short() -> None:
    """No function has more than 60 lines."""
    hold(
        module.at(node, f"{node.name} has {length} lines, expected at most {MAX_FUNCTION_LINES}")
        for module in MODULES
        for node in module.functions
        if (length := (node.end_lineno or node.lineno) - node.lineno + 1) > MAX_FUNCTION_LINES
    )


def _face(module: Module) -> list[str]:
    for node in module.tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            return list(ast.literal_eval(node.value))  # type: ignore[attr-defined]
    return []


def _bound(module: Module) -> set[str]:
    """Names that a module binds, imported ones included."""
    names = {found.target.rsplit(".", 1)[-1] for found in module.imports}
    names |= {node.id for node in ast.walk(module.tree) if isinstance(node, ast.Name)}
    return names | {node.name for node in module.tree.body if isinstance(node, Function | ast.ClassDef)}


def _public(module: Module) -> Iterator[Function | ast.ClassDef]:
    for node in module.tree.body:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            yield node


def _constants_classes_rest(name: str) -> tuple[int, str]:
    """The order in which the linter keeps a face."""
    kind = 0 if len(name) > 1 and name.isupper() else 1 if name[:1].isupper() else 2
    return (kind, name)


def test_faces_are_complete() -> None:
    """A module's ``__all__`` names every public function and class that it defines."""
    hold(
        module.at(node, f"{node.name} is public, and not in __all__")
        for module in MODULES
        if module.path.name != "__main__.py"
        for node in _public(module)
        if node.name not in _face(module)
    )


def test_faces_are_true_and_sorted() -> None:
    """``__all__`` names only what is there (or made on demand), once each: constants, classes, the rest."""
    faults = []
    for module in MODULES:
        face, bound = _face(module), _bound(module)
        expected = sorted(set(face), key=_constants_classes_rest)
        if face != expected:
            faults.append(module.at(1, f"__all__ is not sorted, expected {expected}"))
        if "__getattr__" not in bound:
            faults += [module.at(1, f"__all__ names {name}, not there") for name in set(face) - bound]
    hold(faults)


def test_everybody_uses_the_front_door() -> None:
    """What one module takes from another is in the other's ``__all__``: a face shows all that is relied on."""
    by_name = {module.name: module for module in MODULES}
    hold(
        module.at(found.line, f"takes {name} from {source}, whose __all__ does not list it")
        for module in MODULES
        for found in module.imports
        for source, _, name in (found.target.rpartition("."),)
        if source in by_name and found.target not in by_name and by_name[source] is not module
        if name not in _face(by_name[source])
    )


def test_public_names_say_what_they_answer() -> None:
    """Every module, public class and public function has a docstring."""
    faults = [module.at(1, "no docstring") for module in MODULES if not ast.get_docstring(module.tree)]
    faults += [
        module.at(node, f"{node.name} has no docstring")
        for module in MODULES
        for node in _public(module)
        if not ast.get_docstring(node)
    ]
    hold(faults)


def test_names_say_what_they_hold() -> None:
    """No module and no class is named for being useful."""
    idle = {"common", "helper", "helpers", "manager", "managers", "misc", "util", "utils"}
    faults = [
        module.at(1, "says nothing") for module in MODULES if idle & set(re.split(r"\W|_", module.where))
    ]
    faults += [
        module.at(node, f"class {node.name} says nothing")
        for module in MODULES
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef)
        and idle & {w.lower() for w in re.findall("[A-Z]?[a-z]+", node.name)}
    ]
    hold(faults)


def _annotated(module: Module) -> Iterator[tuple[ast.AST, str, str]]:
    """Every annotated name: fields, variables, parameters, and functions with what they return."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.AnnAssign):
            yield node, ast.unparse(node.target).rsplit(".", 1)[-1], ast.unparse(node.annotation)
        elif isinstance(node, ast.arg) and node.annotation:
            yield node, node.arg, ast.unparse(node.annotation)
        elif isinstance(node, Function) and node.returns:
            yield node, node.name, ast.unparse(node.returns)


def _fields(module: Module) -> Iterator[tuple[ast.AST, str, str]]:
    """Annotated fields of classes and parameters of their constructors."""
    for owner in ast.walk(module.tree):
        if isinstance(owner, ast.ClassDef):
            for node in owner.body:
                if isinstance(node, ast.AnnAssign):
                    yield node, ast.unparse(node.target), ast.unparse(node.annotation)
                elif isinstance(node, Function) and node.name == "__init__":
                    for arg in (*node.args.args, *node.args.kwonlyargs):
                        if arg.annotation:
                            yield arg, arg.arg, ast.unparse(arg.annotation)


def _is_money(node: ast.AST) -> bool:
    return bool(MONEY.search(getattr(node, "id", None) or getattr(node, "attr", None) or ""))


def test_money_is_never_declared_a_float() -> None:
    """A name in nano-dollars is an integer, or integers."""
    hold(
        module.at(node, f"{name}: {annotation}; nano-dollars are whole")
        for module in MODULES
        for node, name, annotation in _annotated(module)
        if MONEY.search(name) and re.search(r"\bfloat(?:\d\d)?\b", annotation)
    )


def test_money_is_never_turned_into_a_float() -> None:
    """``float(x_nusd)`` appears nowhere."""
    hold(
        module.at(node, f"{ast.unparse(node)[:60]} makes money a float")
        for module in MODULES
        for node, name in module.calls
        if name == "float" and any(_is_money(part) for arg in node.args for part in ast.walk(arg))
    )


def _put_under_money(node: ast.AST) -> ast.AST:
    """The expression given a name in nano-dollars by assignment, default or keyword; else nothing."""
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", node)]
    named = any(_is_money(target) for target in targets)
    if named or (isinstance(node, ast.keyword) and MONEY.search(node.arg or "")):
        return getattr(node, "value", None) or ast.Pass()
    return ast.Pass()


def test_money_is_never_the_quotient_of_floats() -> None:
    """What is put under a name in nano-dollars was divided with ``//``, so that the code says how it rounds."""
    hold(
        module.at(node if hasattr(node, "lineno") else division, "nano-dollars from /; use // or divmod")
        for module in MODULES
        for node in ast.walk(module.tree)
        for division in ast.walk(_put_under_money(node))
        if isinstance(division, ast.BinOp) and isinstance(division.op, ast.Div)
    )


@pytest.mark.parametrize("kind", ["int", "float"])
def test_durations_carry_their_unit(kind: str) -> None:
    """A numeric field called timeout, latency, ttft or deadline says in its name whether it is ms or s."""
    hold(
        module.at(node, f"{name}: {annotation} has no unit, expected _ms or _s")
        for module in MODULES
        for node, name, annotation in _fields(module)
        if DURATION.search(name) and not TIME_UNIT.search(name)
        if re.search(rf"\b{kind}\b", annotation)
    )
