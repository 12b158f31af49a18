"""The trained predictor on outcomes whose structure is known: found when it is there, not invented when it is not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from negotiator.cli.train import command
from negotiator.errors import InputInvalid
from negotiator.quality import (
    Prior,
    Priors,
    Quality,
    decode_features,
    encode_features,
    load_model,
    read_outcomes,
    train,
)
from negotiator.quality.evaluate import hull
from negotiator.quality.features import encode
from negotiator.quality.fit import fit_model
from negotiator.quality.outcomes import Outcomes, folds
from negotiator.quality.training import cross_validate, judge

MODELS = ("big", "maths", "poet", "small")
# P(acceptable) by topic: sums, poems. The best single model is "big"; on each topic another is better.
TRUTH = {"big": (0.8, 0.8), "maths": (0.95, 0.4), "poet": (0.4, 0.95), "small": (0.5, 0.5)}
USD = {"big": 0.01, "maths": 0.002, "poet": 0.002, "small": 0.0001}
WORDS = (
    [
        "sum",
        "product",
        "integer",
        "equation",
        "triangle",
        "prime",
        "divisor",
        "polynomial",
        "root",
        "fraction",
    ],
    ["rose", "river", "moon", "sorrow", "verse", "rhyme", "autumn", "lantern", "whisper", "meadow"],
)


def rows(n: int, *, seed: int = 0, structure: bool = True) -> list[dict[str, Any]]:
    """n prompts of two topics with every model's outcome, length and cost."""
    draw = np.random.default_rng(seed)
    made = []
    for number in range(n):
        topic = int(draw.integers(2))
        words = " ".join(draw.choice(WORDS[topic], 8))
        row: dict[str, Any] = {"prompt": f"Task {number}: {words}", "input_tokens": 20}
        for model in MODELS:
            chance = TRUTH[model][topic] if structure else float(np.mean(TRUTH[model]))
            row[f"quality.{model}"] = float(draw.random() < chance)
            row[f"output_tokens.{model}"] = int(draw.integers(80, 120)) * (4 if topic else 1)
            row[f"cost_usd.{model}"] = USD[model]
        made.append(row)
    return made


def written(path: Path, made: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return path


def outcomes(tmp_path: Path, n: int, **options: Any) -> Outcomes:
    return read_outcomes([written(tmp_path / "outcomes.jsonl", rows(n, **options))])


def test_the_structure_is_found(tmp_path: Path) -> None:
    """Each topic's specialist is chosen on held-out prompts: far above the best single model, and accepted."""
    table = outcomes(tmp_path, 800)
    held_out = cross_validate(table)
    found = judge(table, held_out)
    assert found.accepted
    assert found.best_model == "big"
    assert found.quality > found.best_quality + 0.08
    chosen = [table.models[j] for j in held_out.mean.argmax(axis=1)]
    assert chosen.count("maths") + chosen.count("poet") > 0.98 * len(chosen)


def test_the_guard_falls_back_to_the_best_single_model(tmp_path: Path) -> None:
    """When no prompt says anything about any model, the best single model is chosen nearly always."""
    table = outcomes(tmp_path, 800, structure=False)
    held_out = cross_validate(table)
    assert (held_out.mean.argmax(axis=1) == held_out.usual.argmax(axis=1)).mean() > 0.97
    assert held_out.mean.std(axis=0).max() < 0.05


def test_few_prompts_move_all_models_alike(tmp_path: Path) -> None:
    """Below 300 labelled prompts the difference between two models is the same for every prompt."""
    table = outcomes(tmp_path, 200)
    estimate = fit_model(table).estimate_encoded(table.encoded)
    inside = ((estimate.mean > 0.011) & (estimate.mean < 0.989)).all(axis=1)
    apart = (estimate.mean[:, 0] - estimate.mean[:, 1])[inside]
    assert len(apart) > 100
    assert np.ptp(apart) < 1e-5


def test_named_tasks_steady_the_differences(tmp_path: Path) -> None:
    """With tasks named, differences between models on new prompts err at most half as much; shuffled names cost nothing."""
    made = outcomes(tmp_path, 800)
    fresh = [row["prompt"] for row in rows(400, seed=1)]

    def topic(prompt: str) -> int:
        return int(not set(WORDS[1]).isdisjoint(prompt.split()))

    truth = np.array([[TRUTH[model][topic(text)] for model in made.models] for text in fresh])
    topics = [str(topic(row["prompt"])) for row in rows(800)]

    def error(tasks: list[str]) -> float:
        mean = fit_model(replace(made, tasks=tuple(tasks))).estimate_texts(fresh).mean
        miss = mean - truth
        return float(((miss - miss.mean(axis=1, keepdims=True)) ** 2).mean())

    unnamed = error([""] * 800)
    assert error(topics) < 0.5 * unnamed
    shuffled = [topics[i] for i in np.random.default_rng(0).permutation(800)]
    assert error(shuffled) < 1.05 * unnamed


def test_folds_keep_equal_prompts_together(tmp_path: Path) -> None:
    """A prompt that occurs twice is in one fold, so its outcome cannot be looked up."""
    made = rows(60)
    table = read_outcomes([written(tmp_path / "a.jsonl", made + made)])
    fold = folds(table, 5, seed=0)
    assert (fold[:60] == fold[60:]).all()
    assert len(np.unique(fold)) == 5


def test_nothing_leaks_between_folds(tmp_path: Path) -> None:
    """Coin flips that repeat with their prompt are not predicted: no better than each model's mean."""
    made = rows(300)
    draw = np.random.default_rng(5)
    for row in made:
        row.update({f"quality.{model}": float(draw.integers(2)) for model in MODELS})
    table = read_outcomes([written(tmp_path / "a.jsonl", made + made)])
    found = judge(table, cross_validate(table))
    assert found.brier > 0.245


def test_a_floor_is_kept_in_realised_terms(tmp_path: Path) -> None:
    """Prompts served by the cheapest model whose estimate meets the floor reach it, for every floor."""
    table = outcomes(tmp_path, 1_500)
    held_out = cross_validate(table)
    cost = np.array([USD[model] for model in table.models])
    for floor in (0.5, 0.6, 0.7, 0.8, 0.9):
        meets = held_out.mean >= floor
        served = meets.any(axis=1)
        cheapest = np.where(meets, cost, np.inf).argmin(axis=1)
        assert served.mean() > 0.5, floor
        assert table.quality[np.arange(len(table)), cheapest][served].mean() >= floor - 0.02, floor


def test_lengths_follow_the_prompt(tmp_path: Path) -> None:
    """Poems are four times as long as sums; means agree within 5 %, and 95 % of answers are below the p95."""
    table = outcomes(tmp_path, 600)
    estimate = fit_model(table).estimate_encoded(table.encoded)
    assert estimate.output_tokens.mean() == pytest.approx(table.output_tokens.mean(), rel=0.05)
    by_topic = table.output_tokens[:, 0] > 200
    ratio = estimate.output_tokens[by_topic].mean() / estimate.output_tokens[~by_topic].mean()
    assert ratio == pytest.approx(4.0, rel=0.15)
    assert (table.output_tokens <= estimate.output_tokens_p95).mean() == pytest.approx(0.95, abs=0.03)


def test_a_saved_model_estimates_the_same(tmp_path: Path) -> None:
    """Save and load changes no number, the file is small, and the same seed writes the same bytes."""
    table = outcomes(tmp_path, 400)
    model = fit_model(table, seed=3)
    size = model.save(tmp_path / "a.model")
    fit_model(table, seed=3).save(tmp_path / "b.model")
    assert (tmp_path / "a.model").read_bytes() == (tmp_path / "b.model").read_bytes()
    assert size == (tmp_path / "a.model").stat().st_size < 40_000_000
    again = load_model(tmp_path / "a.model")
    one, two = (m.estimate_prompt("sum of a prime and a root", ["poet", "x/maths"]) for m in (model, again))
    for name in ("mean", "sd", "output_tokens", "output_tokens_p95", "observations"):
        assert np.array_equal(getattr(one, name), getattr(two, name)), name
    assert one.mean[1] > 0.8 > 0.6 > one.mean[0]
    assert one.observations.tolist() == [400, 400]
    with pytest.raises(InputInvalid, match="not trained on other"):
        again.estimate_prompt("x", ["other"])


@pytest.mark.parametrize(
    "content", [b"", b"negotiator quality model 1\n", b"\0" * 100, b"negotiator quality model 1\n{}\n"]
)
def test_another_file_is_no_model(tmp_path: Path, content: bytes) -> None:
    """A file that is empty, cut short or something else is refused by name."""
    path = tmp_path / "x.model"
    path.write_bytes(content)
    with pytest.raises(InputInvalid, match=r"x\.model: not a quality model"):
        load_model(path)


def test_a_truncated_model_is_refused(tmp_path: Path) -> None:
    """A model file cut in the middle is refused, not read beyond its end."""
    path = tmp_path / "x.model"
    fit_model(outcomes(tmp_path, 60)).save(path)
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(InputInvalid, match="not a quality model"):
        load_model(path)


HOSTILE = {
    "empty": "",
    "space": "   ",
    "nul": "\0\0\0",
    "emoji": "😀" * 500,
    "surrogate": "\ud800 lone",
    "one byte": "a",
    "newlines": "\n" * 5_000,
    "digits": "9" * 10_000,
    "a megabyte": "lorem ipsum " * 90_000,
    "options": "\n".join(f"{letter}. {letter * 20}" for letter in "ABCDEFGHIJ"),
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_any_prompt_has_an_estimate(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """Whatever a buyer sends, estimates are finite probabilities and positive lengths, alone or among others."""
    path = tmp_path_factory.getbasetemp() / "hostile.model"
    if not path.exists():
        fit_model(outcomes(path.parent, 400)).save(path)
    model = load_model(path)
    alone = model.estimate_prompt(text, MODELS)
    assert ((alone.mean >= 0.01) & (alone.mean <= 0.99)).all()
    assert np.isfinite(alone.sd).all()
    assert (alone.output_tokens >= 1).all()
    among = model.estimate_texts(["sum", text, "rose"])
    assert among.mean[1] == pytest.approx(alone.mean, abs=1e-5)


def test_a_batch_encodes_as_its_texts_do() -> None:
    """Encoding many texts at once gives each what it gets alone."""
    assert len(encode([])) == 0
    texts = ["One two three, 4.5!", "", "def f(x):\n    return x", "A. 1\nB. 2\nC. 33"]
    together = encode(texts)
    for number, text in enumerate(texts):
        alone = encode([text])
        part = together.rows(np.array([number]))
        assert np.array_equal(part.buckets, alone.buckets), text
        assert np.array_equal(part.counts, alone.counts), text
        assert part.hand == pytest.approx(alone.hand), text


def test_exported_features_hold_no_word_and_train_the_same(tmp_path: Path) -> None:
    """Rows with hashed features instead of prompts give the same estimates."""
    made = rows(400)
    exported = [
        {key: value for key, value in row.items() if key != "prompt"}
        | {"features": encode_features(row["prompt"])}
        for row in made
    ]
    text = json.dumps(exported)
    assert not any(word in text for topic in WORDS for word in topic)
    plain = fit_model(read_outcomes([written(tmp_path / "a.jsonl", made)]))
    hashed = fit_model(read_outcomes([written(tmp_path / "b.jsonl", exported)]))
    prompt = "verse of the moon and the river"
    assert hashed.estimate_prompt(prompt, MODELS).mean == pytest.approx(
        plain.estimate_prompt(prompt, MODELS).mean
    )


@pytest.mark.parametrize(
    "packed", ["", "n9:AAAA", "n1:@@", "n1:AAAA", encode_features("hello world")[:-8], "plain text"]
)
def test_broken_features_are_refused(packed: str) -> None:
    """Features of another version, cut short or not base64 are refused."""
    with pytest.raises(InputInvalid, match="features"):
        decode_features(packed)


def test_a_room_with_a_model_chooses_by_prompt(tmp_path: Path) -> None:
    """The same room picks another model for a sum than for a poem, and keeps priors for models it was not trained on."""
    model = fit_model(outcomes(tmp_path, 600))
    quality = Quality(Priors({"stranger": Prior(0.33, 8.0, 77)}), clock_ms=lambda: 0, model=model)
    names = ("a/maths", "b/poet", "c/stranger")
    addition = quality.estimate("sum of a prime and a fraction", names)
    poem = quality.estimate("rose river moon sorrow", names)
    assert addition.mean.argmax() == 0
    assert poem.mean.argmax() == 1
    assert addition.mean[2] == poem.mean[2] == 0.33
    assert addition.observations.tolist() == [600, 600, 0]
    nobody = quality.estimate("", names)
    assert nobody.mean[:2] == pytest.approx(model.level.mean[[1, 2]])
    assert nobody.observations.tolist() == [600, 600, 0]
    many = quality.estimate_many(["sum of a prime and a fraction", "rose river moon sorrow"], names)
    assert many.mean == pytest.approx(np.stack((addition.mean, poem.mean)), abs=1e-5)
    for _ in range(60):
        quality.learn("maths", None, 0.0, text="sum of a prime and a fraction")
    assert quality.estimate("sum of a prime and a fraction", names).mean[0] < addition.mean[0] - 0.2


def test_unrecorded_outcomes_say_nothing(tmp_path: Path) -> None:
    """Half of the outcomes missing at random: the specialists are still found."""
    made, draw = rows(1_000), np.random.default_rng(7)
    for row in made:
        for model in MODELS:
            if draw.random() < 0.5:
                row[f"quality.{model}"] = None
    model = fit_model(read_outcomes([written(tmp_path / "a.jsonl", made)]))
    estimate = model.estimate_prompt("Task 7: sum product prime root integer divisor sum root", MODELS)
    assert MODELS[int(estimate.mean.argmax())] == "maths"
    assert 400 < estimate.observations[0] < 600


def test_a_log_of_one_answer_per_prompt_trains(tmp_path: Path) -> None:
    """As a market's own log is: each prompt answered by one model, one model once. That one is left out and named."""
    made = rows(400)
    for number, row in enumerate(made):
        for model in MODELS[:3]:
            if model != MODELS[number % 2] and (model, number) != ("poet", 7):
                row[f"quality.{model}"] = None
        if number >= 3:
            row["quality.small"] = None
    path = written(tmp_path / "a.jsonl", made)
    told = CliRunner().invoke(command, [str(path), "--out", str(tmp_path / "quality.model")])
    assert told.exit_code in (0, 1), told.output
    assert "left out, with fewer than 20 recorded outcomes: poet (1), small (3)" in told.output
    assert "no prompt has every model's outcome" in told.output
    for row in made[10:]:
        row["quality.big"] = None
    with pytest.raises(InputInvalid, match="at least two models with 20 recorded outcomes, found big: 5"):
        read_outcomes([written(path, made)])


def test_a_fold_without_a_models_outcomes_is_fitted(tmp_path: Path) -> None:
    """Where all rows that a model answered are held out, the rest is fitted all the same, with finite estimates."""
    made = outcomes(tmp_path, 400)
    quality = made.quality.copy()
    quality[:, 1] = np.nan
    estimate = fit_model(replace(made, quality=quality)).estimate_texts(["prime", "moon"])
    assert np.isfinite(estimate.mean).all()


def test_parquet_and_json_lines_read_the_same(tmp_path: Path) -> None:
    """Both formats give the same table; two files with equal prompts share their groups."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    made = rows(40)
    parquet.write_table(pyarrow.Table.from_pylist(made), tmp_path / "a.parquet")
    one = read_outcomes([tmp_path / "a.parquet"])
    two = read_outcomes([written(tmp_path / "a.jsonl", made)])
    assert np.array_equal(one.quality, two.quality)
    assert one.cost_nusd is not None
    assert two.cost_nusd is not None
    assert np.array_equal(one.cost_nusd, two.cost_nusd)
    both = read_outcomes([tmp_path / "a.parquet", tmp_path / "a.jsonl"])
    assert len(both) == 80
    assert len(np.unique(both.group)) == 40


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"quality.big": 2.0}, "expected \\[0, 1\\]"),
        ({"quality.big": "good"}, "expected numbers"),
        ({"prompt": None}, "row 1: expected a text"),
    ],
)
def test_wrong_rows_are_refused(tmp_path: Path, change: dict[str, Any], word: str) -> None:
    """A row that cannot be trained on is refused, naming file and column or row."""
    made = rows(40)
    made[0].update(change)
    with pytest.raises(InputInvalid, match=word):
        read_outcomes([written(tmp_path / "a.jsonl", made)])


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("", "at least two models"),
        ("{}\nnot json\n", "line 2: not JSON"),
        ("[1]\n", "expected an object"),
        ('{"quality.a": 1, "quality.b": 1}\n', "prompt or features"),
        ('{"prompt": "x", "quality.a": 1}\n', "at least two models"),
        ('{"prompt": "x", "quality.a": 1, "quality.b": 1}\n', "at least 20 prompts"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, content: str, word: str) -> None:
    """A file without rows, columns or JSON is refused, naming what was expected."""
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    with pytest.raises(InputInvalid, match=word):
        read_outcomes([path])


def test_the_command_writes_a_model(tmp_path: Path) -> None:
    """`train` prints the choice beside single models and writes a file that loads."""
    path = written(tmp_path / "a.jsonl", rows(500))
    result = CliRunner().invoke(command, [str(path), "--out", str(tmp_path / "q.model"), "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["accepted"]
    assert found["quality"] > found["best_quality"]
    assert found["cheapest_model"] == "small"
    assert load_model(tmp_path / "q.model").models == MODELS
    shown = CliRunner().invoke(command, [str(path), "--out", str(tmp_path / "q.model")])
    assert "always the best" in shown.output
    assert "always the cheapest" in shown.output
    assert "Frontier" in shown.output


def test_the_command_refuses_a_worse_model(tmp_path: Path) -> None:
    """Where prompts say nothing, what was fitted is noise: exit 1, the reason, and no file."""
    path = written(tmp_path / "a.jsonl", rows(500, seed=4, structure=False))
    result = CliRunner().invoke(command, [str(path), "--out", str(tmp_path / "q.model")])
    assert result.exit_code == 1
    assert "not written:" in result.stderr
    assert not (tmp_path / "q.model").exists()


def test_choosing_the_worst_is_refused(tmp_path: Path) -> None:
    """Estimates turned upside down fail all three tests: choices, frontier, Brier."""
    table = outcomes(tmp_path, 500)
    held_out = cross_validate(table)
    assert judge(table, held_out).accepted
    reasons = judge(table, replace(held_out, mean=1.0 - held_out.mean)).reasons
    assert len(reasons) == 3


def test_training_is_judged_without_costs(tmp_path: Path) -> None:
    """Outcomes without costs and lengths train all the same; the evaluation then compares quality alone."""
    made = [{k: v for k, v in row.items() if not k.startswith(("cost", "output"))} for row in rows(400)]
    model, found = train(read_outcomes([written(tmp_path / "a.jsonl", made)]))
    assert found.accepted
    assert found.best_cost is None
    assert found.aiq is None
    assert model.estimate_prompt("rose", ["poet"]).output_tokens[0] > 0


def test_a_frontier_is_concave() -> None:
    """Of four points the one under the line between its neighbours is left out, as is the dominated one."""
    line = hull(np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.2, 0.3, 0.6, 0.5]))
    assert line.cost.tolist() == [1.0, 3.0]
    assert line.aiq(1.0, 3.0) == pytest.approx(0.4)
    assert line.quality_at(2.0) == pytest.approx(0.4)
    assert line.cost_at(0.4) == pytest.approx(2.0)
    assert np.isnan(line.cost_at(0.7))
