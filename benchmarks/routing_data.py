"""Outcome files for the routing benchmark: those of a folder, or a small synthetic one that says so."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from negotiator.quality.outcomes import Outcomes, read_outcomes

__all__ = ["find_files", "load", "synthetic"]

TOPICS = (
    [
        "integer",
        "equation",
        "polynomial",
        "triangle",
        "prime",
        "divisor",
        "fraction",
        "root",
        "sum",
        "product",
    ],
    [
        "plaintiff",
        "contract",
        "statute",
        "court",
        "evidence",
        "tort",
        "liability",
        "property",
        "jury",
        "deed",
    ],
    ["function", "return", "list", "append", "range", "print", "string", "while", "loop", "index"],
    ["patient", "disease", "treatment", "drug", "cell", "protein", "enzyme", "tissue", "blood", "diagnosis"],
)


def find_files(data: Path | None) -> list[Path]:
    """Outcome files in a folder or its ``router_outcomes``, by name; empty when there is none."""
    if data is None:
        return []
    folders = [folder for folder in (data / "router_outcomes", data) if folder.is_dir()]
    return sorted(path for folder in folders[:1] for path in folder.glob("*.parquet"))


def load(path: Path) -> Outcomes:
    """One file, prompts hashed."""
    return read_outcomes([path])


def synthetic(prompts: int = 1_500, models: int = 6, seed: int = 0) -> Outcomes:
    """Prompts of four topics and two difficulties; each model has a strength per topic, dear ones are better."""
    draw = np.random.default_rng(seed)
    strength = np.linspace(-0.6, 1.6, models)[:, None] + draw.normal(0.0, 0.6, (models, len(TOPICS)))
    price = np.geomspace(0.1, 10.0, models)
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", delete=False) as file:
        for number in range(prompts):
            topic, hard = int(draw.integers(len(TOPICS))), int(draw.integers(2))
            words = " ".join(draw.choice(TOPICS[topic], 12)) + (" prove rigorously" if hard else " briefly")
            row: dict[str, object] = {"prompt": f"{number}: {words}", "input_tokens": 40, "task": str(topic)}
            for j in range(models):
                chance = 1.0 / (1.0 + np.exp(-(strength[j, topic] + 0.8 - 1.6 * hard)))
                tokens = int(draw.gamma(4.0, 40.0 * (1 + hard)))
                row[f"quality.m{j}"] = float(draw.random() < chance)
                row[f"output_tokens.m{j}"] = tokens
                row[f"cost_usd.m{j}"] = round((40 + 4 * tokens) * price[j] * 1e-6, 12)
            file.write(json.dumps(row) + "\n")
    path = Path(file.name)
    try:
        return replace(read_outcomes([path]), name="synthetic")
    finally:
        path.unlink()
