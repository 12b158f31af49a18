"""The example workload is what it says it is, and the generator of larger ones repeats itself."""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from negotiator.intake import to_order
from negotiator.order import Order
from negotiator.wire import POLICY_NAMES, RequestLine
from providers.tokens import count_chat, count_text

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture(scope="module")
def lines() -> list[dict[str, Any]]:
    """The lines of examples/workload.jsonl."""
    return [
        json.loads(line) for line in (EXAMPLES / "workload.jsonl").read_text(encoding="utf-8").splitlines()
    ]


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    """examples/make_workload.py, imported."""
    spec = importlib.util.spec_from_file_location("make_workload", EXAMPLES / "make_workload.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _orders(lines: list[dict[str, Any]]) -> list[Order]:
    orders = []
    for line in lines:
        request = RequestLine.model_validate(line)
        order = to_order(request.body, request.terms)
        assert isinstance(order, Order), (line["custom_id"], order)
        orders.append(order)
    return orders


def test_every_line_is_an_order(lines: list[dict[str, Any]]) -> None:
    """At least 220 lines, each accepted by the edge and by intake."""
    assert len(_orders(lines)) >= 220


def test_names_are_readable_and_unique(lines: list[dict[str, Any]]) -> None:
    """A ``custom_id`` is a word or two and a number, once in the file."""
    names = [line["custom_id"] for line in lines]
    assert not [name for name, times in Counter(names).items() if times > 1]
    assert not [name for name in names if not re.fullmatch(r"[a-z]+(?:-[a-z]+)?-\d{3}", name)]


def test_no_two_lines_ask_the_same(lines: list[dict[str, Any]]) -> None:
    """The last message differs on every line."""
    last = Counter(json.dumps(line["body"]["messages"], ensure_ascii=False) for line in lines)
    assert max(last.values()) == 1


def test_long_prefixes_come_again(lines: list[dict[str, Any]]) -> None:
    """Seven documents of at least 1,500 tokens with their instructions open 6 to 12 requests each."""
    opened = Counter(
        line["body"]["messages"][0]["content"]
        for line in lines
        if line["body"]["messages"][0]["role"] == "system"
        and len(line["body"]["messages"][0]["content"]) > 4_000
    )
    assert len(opened) >= 7
    assert all(6 <= times <= 12 for times in opened.values()), opened.values()
    assert all(count_text(text) >= 1_500 for text in opened)


def test_all_terms_are_shown(lines: list[dict[str, Any]]) -> None:
    """Every term a stand-alone file can carry is used, every policy but the default, every tier."""
    terms = [line.get("terms", {}) for line in lines]
    used = {name for given in terms for name in given}
    assert set(RequestLine.model_fields["terms"].annotation.model_fields) - used == {
        "account",
        "order_id",
        "profile",
    }
    assert {given["policy"] for given in terms if "policy" in given} == set(POLICY_NAMES) - {"cheapest"}
    assert {tier for given in terms for tier in given.get("tiers", ())} == {
        "standard",
        "priority",
        "flex",
        "batch",
        "cached",
    }


def test_some_lines_cannot_be_served(lines: list[dict[str, Any]]) -> None:
    """10 to 15 lines ask for what nobody sells, and their names say so."""
    assert 10 <= sum(line["custom_id"].startswith("impossible-") for line in lines) <= 15


def test_the_generator_repeats_itself(generator: ModuleType) -> None:
    """The same seed gives the same lines, a longer file begins with the shorter one, another seed differs."""
    first = list(generator.requests(50, seed=3))
    assert first == list(itertools.islice(generator.requests(10**12, seed=3), 50))
    assert first != list(generator.requests(50, seed=4))


def test_generated_lines_are_orders(generator: ModuleType) -> None:
    """A thousand generated lines are accepted; they have unique names and about 250 tokens on average."""
    lines = list(generator.requests(1_000, seed=1))
    assert len(_orders(lines)) == 1_000
    assert len({line["custom_id"] for line in lines}) == 1_000
    tokens = sum(count_chat(line["body"]) for line in lines) / len(lines)
    assert 200 <= tokens <= 300


def test_generated_prefixes_are_shared(generator: ModuleType) -> None:
    """About one line in ten opens with a rule book, and books are asked about several times."""
    books = Counter(
        line["body"]["messages"][0]["content"]
        for line in generator.requests(1_600, seed=2)
        if line["custom_id"].startswith("book-")
    )
    assert 100 <= sum(books.values()) <= 220
    assert len(books) == 20
    assert min(count_text(book) for book in books) >= 1_200


def test_the_generator_writes_a_file(generator: ModuleType, tmp_path: Path) -> None:
    """``N --seed --out`` writes N lines."""
    out = tmp_path / "big.jsonl"
    assert generator.main(["20", "--seed", "5", "--out", str(out)]) == 0
    written = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert written == list(generator.requests(20, seed=5))


@pytest.mark.parametrize("count", ["0", "-3", "many", "1.5"])
def test_a_wrong_count_is_refused(
    generator: ModuleType, count: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A count that is no whole number above zero is a usage error that names what was found."""
    with pytest.raises(SystemExit) as stop:
        generator.main(["--", count])
    assert stop.value.code == 2
    assert f"found '{count}'" in capsys.readouterr().err


def test_a_folder_that_is_not_there_is_one_message(
    generator: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An output file that cannot be opened ends with exit 1 and one line."""
    assert generator.main(["1", "--out", str(tmp_path / "none" / "out.jsonl")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
