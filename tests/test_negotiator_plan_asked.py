"""Plain lines are judged by hand: to the same numbers as by the models, and never instead of them where in doubt."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from negotiator.plan_asked import NO_LIMIT, Asked, Intake, read_asked
from negotiator.plan_lines import PlanLine, RequestFile, read_lines
from negotiator.wire import Terms

BUDGETS: dict[str, int | None] = {"default": 7_000, "rich": None}
PROFILES = {"careful": Terms(min_quality=0.9)}

PLAIN: dict[str, Any] = {
    "custom_id": "a",
    "method": "POST",
    "url": "/v1/chat/completions",
    "body": {"model": "auto", "messages": [{"role": "user", "content": "Say hi."}], "max_tokens": 50},
    "terms": {
        "budget_usd": "0.0012",
        "min_quality": 0.8,
        "deadline_ms": 9_000,
        "tiers": ["standard", "flex"],
    },
}

ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 1.5, 2**70, "", "x", "0.0012", "1e3", ".5", "5.", "٣", "-1", "0.0000000001",
    "9999999", "auto:careful", "rich", [], ["standard"], ["fast"], ["openai/*", 3], {}, {"a": 1}, "batch",
)  # fmt: skip
"""Values put in the place of others: most are wrong there, some right."""


def by_the_models(values: Any) -> tuple[list[Any], list[str]]:
    """What the models and room 1 say: rows and faults, without a look by hand."""
    intake = Intake(PROFILES, budgets=dict(BUDGETS), defaults=Terms())
    asked = read_asked([(1, 0, values)], intake)
    return asked.rows, [fault.message for fault in asked.faults]


def by_hand(values: Any) -> tuple[list[Any], list[str]]:
    """What is said of the same line where plain ones are judged by hand."""
    asked = read_asked([(1, 0, values)], Intake(PROFILES, budgets=dict(BUDGETS)))
    return asked.rows, [fault.message for fault in asked.faults]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inside:
        yield (*path, key)
        yield from places(part, (*path, key))


def test_a_plain_line_means_the_same_by_hand_and_by_the_models() -> None:
    """Every value of a line replaced by every odd one, dropped, or joined by an unknown field."""
    terms = PLAIN["terms"] | {
        "value_usd": "0.01",
        "ttft_ms": 900,
        "models": ["openai/*"],
        "exclude": ["x-ai/*"],
        "require": ["region:eu"],
        "task": "chat",
        "session": "s",
        "policy": "fastest",
        "account": "rich",
    }
    full = {**PLAIN, "terms": terms}
    for path in list(places(full)):
        for odd in (*ODD, "drop", "join"):
            line = copy.deepcopy(full)
            where = line
            for key in path[:-1]:
                where = where[key]
            if odd == "drop":
                del where[path[-1]]
            elif odd == "join" and isinstance(where, dict):
                where["unknown"] = 1
            else:
                where[path[-1]] = copy.deepcopy(odd)
            assert by_hand(line) == by_the_models(line), (path, odd)


def test_random_lines_mean_the_same() -> None:
    """Several replacements at once, 3,000 times."""
    rng = random.Random(5)
    for _ in range(3_000):
        line = copy.deepcopy(PLAIN)
        for _ in range(rng.randint(1, 4)):
            path = rng.choice(list(places(line)) or [()])
            where: Any = line
            for key in path[:-1]:
                where = where[key]
            if path:
                where[path[-1]] = copy.deepcopy(rng.choice(ODD))
        assert by_hand(line) == by_the_models(line), line


def test_the_example_workload_is_read_as_orders_are(root: Path) -> None:
    """Line by line: what is asked, what is counted and what the quality room reads."""
    file = RequestFile(root / "examples" / "workload.jsonl")
    asked = read_asked(file.lines(0, file.size), Intake({}, budgets=dict(BUDGETS)))
    slow = read_asked(file.lines(0, file.size), Intake({}, budgets=dict(BUDGETS), defaults=Terms()))
    assert asked.rows == slow.rows
    assert asked.texts == slow.texts
    assert asked.prompts == slow.prompts
    assert asked.ids == [line.request.custom_id for line in file if isinstance(line, PlanLine)]


def test_an_account_whose_budget_is_not_known_is_named() -> None:
    """Its rows are not to be used until the budget is looked up; a line with a budget of its own needs none."""
    lines = [
        {**PLAIN, "custom_id": "own", "terms": {**PLAIN["terms"], "account": "far"}},
        {**PLAIN, "custom_id": "needs", "terms": {"account": "far"}},
    ]
    own, needs = ([(1, 0, line)] for line in lines)
    assert read_asked(own, Intake({})).missing == set()
    assert read_asked(needs, Intake({})).missing == {"far"}
    found = read_asked(needs, Intake({}, budgets={"far": 42}))
    assert found.missing == set()
    assert found.columns()[6] == (42,)
    assert read_asked(needs, Intake({}, budgets={"far": None})).columns()[6] == (NO_LIMIT,)


@pytest.mark.parametrize("rows", [[], [1], [2, 0]])
def test_a_part_has_the_rows_asked_for(rows: list[int]) -> None:
    """In the order given."""
    asked = Asked()
    for n in range(3):
        line = {**PLAIN, "custom_id": f"{n}", "terms": {"budget_usd": f"0.{n + 1}"}}
        read_asked([(1, 0, orjson.dumps(line))], Intake({}), asked)
    assert asked.part(rows).rows == [asked.rows[row] for row in rows]
    assert list(read_lines([])) == []
