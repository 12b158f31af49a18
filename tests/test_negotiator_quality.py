"""The quality room: priors, what feedback teaches, sharing between workers, drift and exploration."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from negotiator.errors import InputInvalid
from negotiator.events import Event
from negotiator.quality import Explorer, Prior, Priors, Quality, load_priors

PRIORS = Priors({"good": Prior(0.8, 8.0, 200), "poor": Prior(0.5, 8.0, 100)})
MODELS = ("a/good", "b/poor")
DAY_MS = 24 * 3_600_000


class Hand:
    """A clock moved by hand."""

    def __init__(self) -> None:
        self.now_ms = 1_000_000

    def __call__(self) -> int:
        return self.now_ms


def room(clock: Hand | None = None, writer: str = "0", events: list[Event] | None = None) -> Quality:
    emit = (lambda event: None) if events is None else events.append
    return Quality(PRIORS, clock_ms=clock or Hand(), writer=writer, emit=emit)


def test_prior_says_so() -> None:
    """Before any answer the estimate is the prior, wide, with no observation behind it."""
    estimate = room().estimate("hello", MODELS)
    assert estimate.mean.tolist() == [0.8, 0.5]
    assert estimate.sd == pytest.approx([math.sqrt(0.16 / 9), math.sqrt(0.25 / 9)])
    assert estimate.observations.tolist() == [0, 0]
    assert estimate.output_tokens.tolist() == [200, 100]
    assert (estimate.output_tokens_p95 >= estimate.output_tokens).all()


def test_posterior_of_a_beta_distribution() -> None:
    """Eight prior answers at 0.8 and two wrong ones give 6.4 of 10, less sure of what it was sure of for nothing."""
    quality = room()
    quality.learn("a/good", None, 0.0)
    quality.learn("good", None, 0.0)
    estimate = quality.estimate("hello", MODELS)
    assert estimate.mean == pytest.approx([0.64, 0.5], abs=1e-3)
    assert estimate.observations.tolist() == [2, 0]


def test_a_cached_estimate_is_renewed() -> None:
    """An answer learnt between two equal questions changes the second reply and leaves the first as it was."""
    quality = room()
    before = quality.estimate("hello", MODELS)
    assert quality.estimate("hello", MODELS) is before
    quality.learn("poor", None, 1.0)
    after = quality.estimate("hello", MODELS)
    assert before.mean.tolist() == [0.8, 0.5]
    assert after.mean[1] > 0.5
    with pytest.raises(ValueError, match="read-only"):
        after.mean[0] = 0.0


def test_tasks_shrink_towards_their_model() -> None:
    """Bad answers on one task lower that task most, other tasks less."""
    quality = room()
    for _ in range(20):
        quality.learn("good", "law", 0.0)
    law, other = (quality.estimate("x", ["good"], task=task).mean[0] for task in ("law", "code"))
    assert law < other < 0.8


def test_lengths_are_learnt() -> None:
    """Answers four times as long as expected move the expected length most of the way there."""
    quality = room()
    for _ in range(50):
        quality.learn_length("good", None, 800)
    assert 600 < quality.estimate("x", ["good"]).output_tokens[0] <= 800


def test_answers_cut_by_the_buyer_s_limit_do_not_seem_short() -> None:
    """Answers cut at 20 tokens leave the expected length alone; cut at four times what was expected they raise it."""
    quality = room()
    before = quality.estimate("x", MODELS).output_tokens
    for _ in range(50):
        quality.learn_length("poor", None, 20, cut=True)
        quality.learn_length("good", None, 800, cut=True)
    after = quality.estimate("x", MODELS).output_tokens
    assert after[1] == before[1]
    assert 600 < after[0] <= 800


def test_old_answers_are_forgotten() -> None:
    """Half a year later little is left of twenty bad answers."""
    clock = Hand()
    quality = room(clock)
    for _ in range(20):
        quality.learn("good", None, 0.0)
    low = quality.estimate("x", ["good"]).mean[0]
    clock.now_ms += 180 * DAY_MS
    assert low < 0.3
    assert quality.estimate("x", ["good"]).mean[0] > 0.75


def test_state_survives_a_restart() -> None:
    """A restored room estimates as the saved one did and goes on learning."""
    quality = room()
    for score in (1.0, 0.0, 0.0):
        quality.learn("good", "law", score)
    quality.learn_length("good", "law", 900)
    again = room()
    again.restore(quality.state())
    for field in ("mean", "sd", "output_tokens", "observations"):
        assert np.array_equal(
            getattr(again.estimate("x", MODELS, task="law"), field),
            getattr(quality.estimate("x", MODELS, task="law"), field),
        )
    again.learn("good", "law", 0.0)
    assert again.estimate("x", ["good"]).observations[0] == 4


def test_workers_merge_in_any_order() -> None:
    """Two workers that tell each other twice, in either order, believe the same; nothing counts double."""
    one, two = room(writer="1"), room(writer="2")
    for _ in range(5):
        one.learn("good", None, 0.0)
        two.learn("good", None, 1.0)
    first, second = one.state(), two.state()
    for state in (second, second, first):
        one.merge(state)
    for state in (first, second, first):
        two.merge(state)
    a, b = one.estimate("x", ["good"]), two.estimate("x", ["good"])
    assert a.mean[0] == pytest.approx(b.mean[0])
    assert a.observations[0] == b.observations[0] == 10


def test_writers_that_are_gone_make_room() -> None:
    """Of a thousand workers that came and went the longest silent are forgotten; this one's own lessons never are."""
    clock = Hand()
    quality = room(clock, writer="here")
    quality.learn("good", None, 0.0)
    for number in range(1_000):
        clock.now_ms += 1
        other = room(clock, writer=f"gone {number}")
        other.learn("poor", None, 1.0)
        quality.merge(other.state())
    writers = json.loads(quality.state())["writers"]
    assert len(writers) == 256
    assert "gone 999" in writers
    assert "gone 0" not in writers
    assert quality.estimate("x", ["good"]).observations[0] == 1


@pytest.mark.parametrize(
    "state",
    [
        b"",
        b"[]",
        b"{}",
        b'{"version": 9, "writers": {}}',
        b"\x00\xff",
        b'{"version": 1, "writers": {"0": {"m": 1}}}',
    ],
)
def test_a_wrong_state_is_refused(state: bytes) -> None:
    """What is not a saved state is named so, and the room keeps what it knew."""
    quality = room()
    quality.learn("good", None, 0.0)
    known = quality.estimate("x", ["good"]).mean[0]
    with pytest.raises(InputInvalid, match="not a saved state"):
        quality.restore(state)
    assert quality.estimate("x", ["good"]).mean[0] == known


def test_infinite_sums_are_refused() -> None:
    """A state with a sum that is no number is refused."""
    plain = json.loads(room().state())
    tally = dict.fromkeys(("answers", "score", "expected", "lengths", "log_ratio"), math.nan) | {"at_ms": 0}
    plain["writers"]["9"] = {"good": {"epoch": 0, "version": 1, "seen": 1, "tasks": {"": tally}}}
    with pytest.raises(InputInvalid, match="finite"):
        room().merge(json.dumps(plain).encode())


@pytest.mark.parametrize(
    ("score", "weight"), [(-0.1, 1.0), (1.1, 1.0), (math.nan, 1.0), (0.5, 0.0), (0.5, 11.0)]
)
def test_a_wrong_score_is_refused(score: float, weight: float) -> None:
    """A score outside [0, 1] or a weight outside (0, 10] teaches nothing."""
    with pytest.raises(InputInvalid, match="expected a number in"):
        room().learn("good", None, score, weight=weight)


def test_a_changed_model_is_noticed_once(caplog: pytest.LogCaptureFixture) -> None:
    """A model that falls from 0.8 to 0.4 is reported and logged once, within 100 answers, with what it was and is."""
    events: list[Event] = []
    quality, draw = room(events=events), np.random.default_rng(0)
    for _ in range(300):
        quality.learn("good", None, float(draw.random() < 0.8))
    assert not events
    for _ in range(100):
        quality.learn("good", None, float(draw.random() < 0.4))
    (event,) = events
    assert event.name == "quality.changed"
    assert event.facts["model"] == "good"
    assert event.facts["since"] < 0.55 < event.facts["before"]
    (line,) = caplog.messages
    assert line.startswith("good is not what it was: mean score 0.")
    assert quality.estimate("x", ["good"]).mean[0] == pytest.approx(0.4, abs=0.12)


@pytest.mark.parametrize("chance", [0.5, 0.8, 0.95])
def test_an_unchanged_model_raises_no_alarm(chance: float) -> None:
    """Four thousand answers at one rate are not taken for a change; a fall by 0.3 then is, within 200 answers."""
    events: list[Event] = []
    quality, draw = room(events=events), np.random.default_rng(11)
    for _ in range(4_000):
        quality.learn("good", None, float(draw.random() < chance))
    assert not events
    for _ in range(200):
        quality.learn("good", None, float(draw.random() < chance - 0.3))
    assert events


def test_a_change_is_told_to_other_workers() -> None:
    """A worker that hears of a change forgets what it knew from before it."""
    one, two = room(writer="1"), room(writer="2")
    for _ in range(300):
        two.learn("good", None, 1.0)
    for score, count in ((1.0, 300), (0.0, 60)):
        for _ in range(count):
            one.learn("good", None, score)
    two.merge(one.state())
    assert two.estimate("x", ["good"]).mean[0] < 0.3


def test_traffic_moves_after_a_drop() -> None:
    """The best of three models falls from 0.9 to 0.5: within 200 answers the others get nearly all orders."""
    truth = {"one": 0.9, "two": 0.8, "three": 0.6}
    priors = Priors({name: Prior(mean, 8.0, 100) for name, mean in truth.items()})
    quality, draw, names = Quality(priors, clock_ms=Hand()), np.random.default_rng(1), list(truth)
    served: list[str] = []
    for answer in range(900):
        if answer == 500:
            truth["one"] = 0.5
        name = names[int(np.argmax(quality.estimate("x", names).mean))]
        served.append(name)
        quality.learn(name, None, float(draw.random() < truth[name]))
    assert served[:500].count("one") > 450
    assert served[700:].count("one") < 20


def test_exploration_keeps_its_share_and_the_terms() -> None:
    """Off by default; else never an offer that misses a term, never more than its share of spend."""
    quality = room()
    estimate = quality.estimate("x", MODELS)
    cost, eligible = np.array([100, 10]), np.array([True, True])
    off = Explorer()
    off.settled(1_000_000, explored=False)
    assert off.propose(0, cost, estimate, eligible) == 0
    explorer = Explorer(0.02)
    for _ in range(2_000):
        choice = explorer.propose(0, cost, estimate, eligible)
        explorer.settled(int(cost[choice]), explored=choice != 0)
        assert explorer.explored_nusd <= 0.02 * explorer.spent_nusd
    assert explorer.explored_nusd > 0.01 * explorer.spent_nusd
    assert explorer.propose(0, cost, estimate, np.array([True, False])) == 0
    with pytest.raises(InputInvalid, match="exploration_share"):
        Explorer(1.5)


def test_regret_grows_slower_than_the_orders() -> None:
    """With priors that hide the best model, exploring finds it: the last quarter costs a fifth of the first."""
    truth = np.array([0.7, 0.9, 0.5, 0.6])
    names = ["a", "b", "c", "d"]
    priors = Priors({"a": Prior(0.75, 8.0, 1), **{name: Prior(0.6, 8.0, 1) for name in "bcd"}})
    quality, explorer, draw = Quality(priors, clock_ms=Hand()), Explorer(0.05), np.random.default_rng(2)
    cost, eligible, regret = np.full(4, 1_000), np.ones(4, dtype=bool), []
    for _ in range(4_000):
        estimate = quality.estimate("x", names)
        award = int(np.argmax(estimate.mean))
        choice = explorer.propose(award, cost, estimate, eligible)
        explorer.settled(1_000, explored=choice != award)
        quality.learn(names[choice], None, float(draw.random() < truth[choice]))
        regret.append(truth.max() - truth[choice])
    first, last = sum(regret[:1_000]), sum(regret[3_000:])
    assert last < first / 5


@pytest.mark.parametrize("text", ["", "\0\0", "😀" * 100, "x" * 1_000_000])
def test_any_text_is_estimated(text: str) -> None:
    """Empty, NUL, emoji and very long prompts get the prior without a predictor."""
    assert room().estimate(text, MODELS).mean.tolist() == [0.8, 0.5]


def test_many_prompts_at_once() -> None:
    """estimate_many gives prompts x models."""
    estimate = room().estimate_many(["x", "y", "z"], MODELS)
    assert estimate.mean.shape == estimate.output_tokens.shape == (3, 2)


def test_shipped_priors_name_their_source() -> None:
    """Every published prior has a source and a date, a probability and a wide spread."""
    priors = load_priors()
    assert len(priors) > 50
    for name, prior in priors:
        assert prior.source, name
        assert prior.date, name
        assert 0.0 < prior.mean < 1.0
        assert prior.sd > 0.03, name


@pytest.mark.parametrize(
    ("model", "like"),
    [
        ("openai/gpt-5.4-mini", "gpt-5.4-mini"),
        ("bedrock/us.anthropic.claude-3-haiku-20240307-v1:0", "claude-3-haiku"),
        ("groq/llama-3.1-8b-instant", "llama-3.1-8b"),
    ],
)
def test_names_of_sellers_find_their_prior(model: str, like: str) -> None:
    """Vendor, region, date and channel in a name do not hide the model."""
    priors = load_priors()
    assert priors.of(model) == priors.of(like)
    assert priors.of(model).source


def test_an_unknown_model_gets_a_wide_default() -> None:
    """A name nobody published a score for has a spread of more than 0.2 and no source."""
    prior = load_priors().of("nobody/never-heard-of-it")
    assert prior.source == ""
    assert prior.sd > 0.2


def test_an_operator_sets_a_prior() -> None:
    """quality_prior of the configuration replaces a mean and nothing else; out of range is refused."""
    priors = PRIORS.replaced("good", 0.3)
    assert (priors.of("x/good").mean, priors.of("poor").mean) == (0.3, 0.5)
    with pytest.raises(InputInvalid, match="quality_prior of good"):
        PRIORS.replaced("good", 1.5)


@pytest.mark.parametrize(
    ("text", "word"),
    [("models = 3", "kinds"), ("= broken", "cannot be read"), (None, "cannot be read")],
)
def test_broken_priors_are_refused(tmp_path, text: str | None, word: str) -> None:  # type: ignore[no-untyped-def]
    """A priors file that is missing, no TOML or lacks a table is refused with its name and what is wrong."""
    path = tmp_path / "priors.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputInvalid, match=word):
        load_priors(path)
