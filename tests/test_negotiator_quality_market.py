"""Quality in the simulated market: a trained model decides who is asked, and feedback moves the traffic."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest

from negotiator.config import Config
from negotiator.engine import Engine
from negotiator.quality import read_outcomes
from negotiator.quality.fit import fit_model
from negotiator.wire import terms_from
from providers.clock import LoopClock, run_virtual
from providers.simulated import default_sellers

CHEAP, DEAR = "gpt-5-nano", "claude-sonnet-5-5"
EASY, HARD = "greet the visitor and spell the name", "prove the theorem and derive the integral"


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained on prompts where the cheap model fails what is hard and nobody fails what is easy."""
    folder, draw = tmp_path_factory.mktemp("model"), Random(0)
    with (folder / "outcomes.jsonl").open("w") as file:
        for number in range(600):
            hard = draw.random() < 0.5
            row = {"prompt": f"{HARD if hard else EASY}, case {number}"}
            row |= {
                f"quality.{CHEAP}": float(draw.random() < (0.2 if hard else 0.97)),
                f"quality.{DEAR}": float(draw.random() < (0.93 if hard else 0.97)),
                f"output_tokens.{CHEAP}": 200,
                f"output_tokens.{DEAR}": 200,
            }
            file.write(json.dumps(row) + "\n")
    fit_model(read_outcomes([folder / "outcomes.jsonl"])).save(folder / "quality.model")
    return folder / "quality.model"


def test_an_easy_and_a_hard_prompt_go_to_different_models(model_file: Path) -> None:
    """Under one floor the easy prompt goes to the cheap model and the hard one to the dear; quotes show the evidence."""

    async def work() -> None:
        clock = LoopClock()
        config = Config.model_validate({"quality": {"model": str(model_file)}})
        terms = terms_from({"min_quality": 0.8, "models": [CHEAP, DEAR]})
        async with Engine.open(config, clock=clock, sellers=default_sellers(clock, seed=3)) as market:
            for prompt, expected in ((EASY, CHEAP), (HARD, DEAR)):
                book = await market.quote(f"{prompt}, case 9000", terms=terms)
                assert book.best is not None
                assert book.best.quote.model == expected
                assert book.best.estimate.observations == 600
                done = await market.complete(f"{prompt}, case 9001", terms=terms)
                assert done.model == expected

    run_virtual(work())


def test_feedback_moves_traffic_within_200_answers() -> None:
    """The model most orders go to falls to 0.4 at answer 150: 200 answers later hardly any is."""

    async def work() -> None:
        clock, draw, served = LoopClock(), Random(1), []
        terms = terms_from({"min_quality": 0.75})
        async with Engine.open(Config(), clock=clock, sellers=default_sellers(clock, seed=3)) as market:
            for number in range(450):
                order_id = f"o{number}"
                done = await market.complete(
                    f"Question {number}", terms=terms.model_copy(update={"order_id": order_id}), max_tokens=50
                )
                served.append(done.model)
                favourite = max(set(served[:150]), key=served[:150].count)
                chance = 0.4 if number >= 150 and done.model == favourite else 0.9
                await market.feedback(order_id, float(draw.random() < chance))
        assert served[:150].count(favourite) > 100
        assert served[350:].count(favourite) < 5

    run_virtual(work())
