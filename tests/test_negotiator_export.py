"""From a market's own log to a trained model: what export writes train reads, and no prompt's words go along."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from negotiator.cli import group
from negotiator.config import Config, StoreConfig
from negotiator.engine import Engine
from negotiator.errors import InputInvalid
from negotiator.export import outcome_rows, write_outcomes
from negotiator.order_log import read_log
from negotiator.quality import bare_name, encode_features, load_model, read_outcomes
from negotiator.wire import terms_from
from providers.clock import LoopClock, run_virtual
from providers.simulated import default_sellers

MODELS = ("openai/gpt-5-nano", "anthropic/claude-haiku-5-5")
SUMS = ["integral", "theorem", "prime", "divisor", "polynomial", "fraction", "root", "triangle"]
POEMS = ["river", "moon", "sorrow", "verse", "rhyme", "autumn", "lantern", "meadow"]


def prompt(number: int) -> str:
    words = (SUMS, POEMS)[number % 2]
    return f"Task {number}: " + " ".join(words[(number // 2 + k) % len(words)] for k in range(6))


async def buy(path: Path, prompts: int, **store: Any) -> None:
    """Every prompt of both models: one is right about sums, the other about poems."""
    clock = LoopClock(1_795_500_000_000)
    config = Config(store=StoreConfig(order_log=path, **store))
    async with Engine.open(config, clock=clock, sellers=default_sellers(clock, seed=1)) as market:
        for number in range(prompts):
            for k, model in enumerate(MODELS):
                terms = terms_from({"models": [model], "task": "school"})
                done = await market.complete(prompt(number), terms=terms, max_tokens=60)
                await market.feedback(done.order_id, float(number % 2 == k))
        await market.complete("Nobody judged this one.", max_tokens=20)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log of a market that answered 320 prompts twice."""
    path = tmp_path_factory.mktemp("log") / "orders.jsonl"
    run_virtual(buy(path, 320))
    return path


def test_both_formats_say_the_same(log: Path, tmp_path: Path) -> None:
    """Parquet and JSON lines are read to equal outcomes."""
    found = outcome_rows(read_log(log), name_of=bare_name)
    paths = [tmp_path / "o.parquet", tmp_path / "o.jsonl"]
    for path in paths:
        write_outcomes(found, path)
    one, other = (read_outcomes([path]) for path in paths)
    assert one.models == other.models
    for name in ("quality", "output_tokens", "cost_nusd", "input_tokens", "group"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    assert not np.isnan(one.quality).any()


def test_a_market_learns_from_its_own_log(log: Path, tmp_path: Path) -> None:
    """Export, then train, by the command line: the model is accepted and knows which model does what."""
    out, model = tmp_path / "outcomes.parquet", tmp_path / "quality.model"
    run = CliRunner().invoke
    told = run(group, ["export", str(log), "--out", str(out), "--json"], catch_exceptions=False)
    assert told.exit_code == 0, told.output
    facts = json.loads(told.stdout)
    assert (facts["prompts"], facts["scored"]) == (320, 640)
    assert facts["models"] == ["claude-haiku-5-5", "gpt-5-nano"]
    assert facts["left_out"] == {"without_score": 1, "without_prompt": 0}
    assert b"lantern" not in out.read_bytes()
    trained = run(group, ["train", str(out), "--out", str(model), "--json"], catch_exceptions=False)
    assert trained.exit_code == 0, trained.output
    names = ["gpt-5-nano", "claude-haiku-5-5"]
    sums, poems = (load_model(model).estimate_prompt(prompt(n), names) for n in (1000, 1001))
    assert sums.mean[0] > sums.mean[1]
    assert poems.mean[0] < poems.mean[1]


def test_text_leaves_only_where_it_was_kept_and_asked_for(tmp_path: Path) -> None:
    """By default the log has no word of a prompt; told to keep them, export writes them when asked, and not otherwise."""
    plain, text, none = (tmp_path / name for name in ("plain", "text", "none"))
    run_virtual(buy(plain, 1))
    run_virtual(buy(text, 1, order_log_prompts="text"))
    run_virtual(buy(none, 1, order_log_prompts="none"))
    assert "Task 0" not in plain.read_text()
    (row,) = outcome_rows(read_log(plain)).rows
    assert row["features"] == encode_features(prompt(0))
    with pytest.raises(InputInvalid, match="order_log_prompts"):
        outcome_rows(read_log(plain), text=True)
    (row,) = outcome_rows(read_log(text), text=True).rows
    assert row["prompt"] == prompt(0)
    assert outcome_rows(read_log(none)).unread == 3
    assert "features" not in none.read_text()


def test_rows_merge_by_prompt_and_say_what_each_model_made_of_it(tmp_path: Path) -> None:
    """Scores of one answer are averaged; a model that did not answer is null; costs are dollars."""
    path = tmp_path / "orders.jsonl"
    run_virtual(buy(path, 2))
    found = outcome_rows(read_log(path), unscored=True)
    assert [row["task"] for row in found.rows] == ["school", "school", None]
    first, last = found.rows[0], found.rows[2]
    assert (first["quality.gpt-5-nano"], first["quality.claude-haiku-5-5"]) == (1.0, 0.0)
    assert 0 < first["cost_usd.gpt-5-nano"] < 0.01
    assert first["output_tokens.gpt-5-nano"] > 0
    assert [value for name, value in last.items() if name.startswith("quality.")] == [None] * len(
        found.models
    )


def test_a_log_without_judgements_is_one_message(tmp_path: Path) -> None:
    """It says how many orders nobody judged."""
    path = tmp_path / "orders.jsonl"
    run_virtual(buy(path, 0))
    result = CliRunner().invoke(group, ["export", str(path), "--out", str(tmp_path / "o.jsonl")])
    assert result.exit_code == 1
    assert "1 without a score" in str(result.exception)


def test_advice_reads_the_markets_own_log(log: Path) -> None:
    """`advise` takes the log that `export` takes: served orders are its calls, with their scores."""
    asked = ["advise", str(log), "--calls-per-month", "1000000", "--json"]
    result = CliRunner().invoke(group, asked, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["calls"] == 641
    assert sum(found["scored"].values()) == 640
