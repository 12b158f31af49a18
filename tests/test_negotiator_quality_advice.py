"""Advice from a log: which way of buying keeps today's quality for less, our own cost taken off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from negotiator.cli.advise import command
from negotiator.errors import InputInvalid
from negotiator.quality import Prior, Priors
from negotiator.quality.advice import Call, advise

PRIORS = Priors({"dear": Prior(0.9, 8.0, 100), "cheap": Prior(0.7, 8.0, 100), "equal": Prior(0.9, 8.0, 100)})
# $1 and $0.10 per 1,000 calls of 500 tokens in and 100 out.
DEAR = Call("dear", 500, 100, 0.001)
CHEAP = Call("cheap", 500, 100, 0.0001)


def test_at_large_volume_two_tiers_pay() -> None:
    """Nine tenths of every cheap answer's price saved, a million calls: two tiers, net of our own cost."""
    found = advise([DEAR] * 50 + [CHEAP] * 2, PRIORS, calls_per_month=1_000_000, check_right=1.0)
    assert found.best is not None
    assert found.best.name == "two tiers"
    assert found.best.models == ("cheap", "dear")
    # The cheap answer passes in 70 % of calls: 0.0001 + 0.3 * 0.001 a call.
    assert found.best.cost_usd == pytest.approx(0.0004)
    assert found.best.net_usd == pytest.approx(found.best.saved_usd - 150.0, abs=0.1)
    assert found.spread == pytest.approx(0.9)


def test_at_small_volume_nothing_is_needed() -> None:
    """The same traffic at ten thousand calls a month saves less than we cost; the break-even says from when it pays."""
    found = advise([DEAR] * 50 + [CHEAP] * 2, PRIORS, calls_per_month=10_000, check_right=1.0)
    assert found.best is None
    assert "nothing is needed at this volume" in found.reason
    (two,) = [way for way in found.ways if way.name == "two tiers"]
    assert two.break_even_calls is not None
    again = advise(
        [DEAR] * 50 + [CHEAP] * 2, PRIORS, calls_per_month=two.break_even_calls + 1, check_right=1.0
    )
    assert again.best is not None


def test_an_equal_model_for_less_needs_no_router() -> None:
    """When a cheaper model is as good, the advice is to switch and not to route."""
    found = advise([DEAR] * 20, PRIORS, calls_per_month=1_000, also={"equal": (0.5, 0.5)})
    assert found.best is not None
    assert found.best.name == "one model"
    assert found.best.models == ("equal",)
    assert "no router is needed" in found.reason


def test_equal_prices_need_nothing() -> None:
    """Models at one price leave nothing to save, whatever the volume."""
    same = Call("cheap", 500, 100, 0.001)
    found = advise([DEAR] * 10 + [same] * 10, PRIORS, calls_per_month=100_000_000)
    assert all(way.saved_usd <= 0.0 or way.name == "one model" for way in found.ways)
    assert found.spread == pytest.approx(0.0)


def test_routing_pays_where_a_check_is_wrong_half_the_time() -> None:
    """With a useless check two tiers cannot keep the quality; sharing prompts by a predictor still saves."""
    found = advise([DEAR] * 40 + [CHEAP] * 10, PRIORS, calls_per_month=5_000_000, check_right=0.5)
    assert found.best is not None
    assert found.best.name == "routing"
    assert found.best.quality == pytest.approx(found.today.quality)
    assert found.best.cost_usd < found.today.cost_usd


def test_scores_of_the_log_count_more_than_priors() -> None:
    """Two hundred bad answers of the cheap model in the log end the plan to ask it first."""
    bad = Call("cheap", 500, 100, 0.0001, score=0.0)
    good = Call("dear", 500, 100, 0.001, score=1.0)
    found = advise([good] * 200 + [bad] * 200, PRIORS, calls_per_month=1_000_000)
    assert found.scored == {"dear": 200, "cheap": 200}
    assert found.today.quality == pytest.approx(0.51, abs=0.02)


def test_one_model_leaves_no_choice() -> None:
    """A log of one model says so; no call at all is refused."""
    assert "one model only" in advise([DEAR], PRIORS, calls_per_month=1).reason
    with pytest.raises(InputInvalid, match="at least one call"):
        advise([], PRIORS, calls_per_month=1)


def line(model: str, cost: float, day: int, **more: Any) -> str:
    row = {"model": model, "input_tokens": 500, "output_tokens": 100, "cost_usd": cost}
    return json.dumps({**row, "at": f"2026-01-{day:02d}T00:00:00Z", **more}) + "\n"


def test_the_command_reads_a_log(tmp_path: Path) -> None:
    """`advise` takes the volume from the log's times and prints the sentence, or one JSON object."""
    log = tmp_path / "log.jsonl"
    log.write_text("".join(line("gpt-4o", 0.002, 1 + i % 28) for i in range(280)))
    options = [str(log), "--also", "gpt-4o-mini=0.15,0.60"]
    result = CliRunner().invoke(command, options)
    assert result.exit_code == 0, result.output
    assert "311 a month" in result.output
    found = json.loads(
        CliRunner().invoke(command, [*options, "--calls-per-month", "9000000", "--json"]).stdout
    )
    assert found["way"] in ("one model", "two tiers", "routing")
    assert found["best"]["net_usd"] > 0


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("", "found none"),
        ("not json\n", "line 1"),
        ('{"model": "a"}\n', "line 1: input_tokens is missing"),
        (line("a", -1.0, 1), "0 or more"),
        (line("a", 1.0, 1, score=7), "score: expected 0 to 1"),
        (line("a", 1.0, 1), "give --calls-per-month"),
        ("3\n", "line 1"),
    ],
)
def test_a_wrong_log_is_refused(tmp_path: Path, content: str, word: str) -> None:
    """A log that cannot be read is refused with the line and what was expected."""
    log = tmp_path / "log.jsonl"
    log.write_text(content)
    result = CliRunner().invoke(command, [str(log)])
    assert isinstance(result.exception, InputInvalid)
    assert word in str(result.exception)


def test_a_missing_log_and_a_wrong_price_are_refused(tmp_path: Path) -> None:
    """A file that is not there is named with what was expected; a price that is none is a usage error."""
    result = CliRunner().invoke(command, [str(tmp_path / "none.jsonl")])
    assert isinstance(result.exception, InputInvalid)
    assert "none.jsonl: expected a readable order log" in str(result.exception)
    log = tmp_path / "log.jsonl"
    log.write_text(line("a", 1.0, 1))
    assert CliRunner().invoke(command, [str(log), "--also", "x=1"]).exit_code == 2
