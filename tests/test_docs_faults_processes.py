"""The table of faults names tests that exist, and every test of a fault is in it."""

from __future__ import annotations

import re
from pathlib import Path


def test_every_named_test_exists_and_every_test_is_named(root: Path) -> None:
    """Neither side of the table is ahead of the other."""
    named = set(
        re.findall(r"`(test_\w+)`", (root / "docs" / "faults-processes.md").read_text(encoding="utf-8"))
    )
    there = {
        name
        for path in (root / "tests").glob("test_faults_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert named
    assert named == there
