"""How good and how long an answer will be: priors, a trained predictor, and what feedback taught.

``Quality`` is the room; ``train`` and ``load_model`` make and read the predictor. Inference needs NumPy alone,
training imports SciPy when it begins. What makes or reads predictors is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from negotiator.quality.estimate import Estimate
from negotiator.quality.evidence import Change, Evidence
from negotiator.quality.explore import Explorer
from negotiator.quality.priors import Prior, Priors, bare_name, load_priors
from negotiator.quality.room import Predictor, Quality

if TYPE_CHECKING:
    from negotiator.quality.model import Model, load_model
    from negotiator.quality.outcomes import decode_features, encode_features, read_outcomes
    from negotiator.quality.training import Evaluation, train

__all__ = [
    "Change",
    "Estimate",
    "Evaluation",
    "Evidence",
    "Explorer",
    "Model",
    "Predictor",
    "Prior",
    "Priors",
    "Quality",
    "bare_name",
    "decode_features",
    "encode_features",
    "load_model",
    "load_priors",
    "read_outcomes",
    "train",
]

_HOME = {
    "Evaluation": "training",
    "Model": "model",
    "decode_features": "outcomes",
    "encode_features": "outcomes",
    "load_model": "model",
    "read_outcomes": "outcomes",
    "train": "training",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'negotiator.quality' has no attribute {name!r}")
    return getattr(importlib.import_module(f"negotiator.quality.{_HOME[name]}"), name)
