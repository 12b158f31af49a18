"""The page of known faults: every test it names is there, and no seller is reached past the ledger."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from house import HOUSE, hold

from negotiator.api.app import ROUTES

NAMED = re.compile(r"`(test_\w+)::(test_\w+)`")


def _rows(root: Path) -> Iterator[str]:
    text = (root / "docs" / "faults.md").read_text(encoding="utf-8")
    for row in text.splitlines():
        if row.startswith("| ") and not row.startswith(("| reported", "|---")):
            yield row


def test_every_test_that_the_page_names_is_there(root: Path) -> None:
    """Each row has tests that exist, or says that its case is not in this release."""
    functions: dict[str, set[str]] = {}
    rows = list(_rows(root))
    assert len(rows) > 45
    faults = []
    for row in rows:
        named = NAMED.findall(row)
        if not named and "not in this release" not in row:
            faults.append(f"no test: {row}")
        for module, function in named:
            path = root / "tests" / f"{module}.py"
            if module not in functions:
                tree = ast.parse(path.read_text(encoding="utf-8")) if path.exists() else ast.parse("")
                functions[module] = {
                    node.name
                    for node in ast.walk(tree)
                    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
                }
            if function not in functions[module]:
                faults.append(f"{module}::{function} is not there")
    hold(faults)


def test_no_route_of_the_server_passes_through() -> None:
    """bifrost 2873: pass-through routes evaded budgets. No route has an open end, and only execution calls sellers."""
    assert ROUTES
    assert not [route.path for route in ROUTES if re.search(r"\{[^}]*[:*]", route.path)]
    callers = {
        module.where
        for module in HOUSE
        for _, name in module.calls
        if name.endswith(".execute") and "_sellers" in name
    }
    assert callers == {"negotiator/execution.py"}
    handers = {module.where for module in HOUSE for _, name in module.calls if name == "driver.submit"}
    assert handers == {"negotiator/batch_vendor.py"}
