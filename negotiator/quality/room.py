"""The quality room: how good and how long an answer of each model will be, for this prompt, given all seen so far."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from negotiator.errors import InputInvalid
from negotiator.events import Emit, Event, discard
from negotiator.quality.estimate import Estimate, FloatArray, IntArray
from negotiator.quality.evidence import Belief, Evidence
from negotiator.quality.priors import Priors, bare_name

__all__ = ["Predictor", "Quality"]

logger = logging.getLogger("negotiator")

P95_FACTOR = 3.0
"""p95 over mean of a log-normal length with sigma 0.9, about what recorded answers show."""
TRAINED_ANSWERS = 100.0
"""What a trained predictor's level is worth against feedback: enough to resist noise, little enough to be moved."""
_REFRESH_MS = 60_000
_LENGTHS_MS = 250
_LENGTHS_MAX = 256
_CACHE_MAX = 256
_CACHED_TEXT_MAX = 16_384
_STATE_VERSION = 1


class Predictor(Protocol):
    """What was trained from recorded outcomes: see :class:`negotiator.quality.model.Model`."""

    def column(self, model: str) -> int:
        """Its number of a model, -1 = not trained on."""

    def usual(self, column: int) -> tuple[float, float, int]:
        """Mean quality and length of a model, and recorded answers: for a prompt nobody shows."""

    def estimate_texts(self, texts: Sequence[str]) -> Estimate:
        """Prompts x all its models."""


class Quality:
    """Estimates per prompt and model, and learns from every scored answer.

    priors: where belief starts. clock_ms: the house's clock. model: a trained predictor, or None. emit: hears
    ``quality.changed`` when a model proves to be another than before. writer: this worker's name, unique among
    those that share state and the same after a restart.
    """

    def __init__(
        self,
        priors: Priors,
        *,
        clock_ms: Callable[[], int],
        model: Predictor | None = None,
        emit: Emit = discard,
        writer: str = "0",
    ) -> None:
        self._priors = priors
        self._model = model
        self._clock_ms = clock_ms
        self._emit = emit
        self._evidence = Evidence(writer)
        self._adjustments: dict[tuple[tuple[str, ...], str], _Adjustment] = {}
        self._taught: list[str] = []
        self._lengths: list[tuple[str, str, int, bool, str | None, int]] = []
        self._lengths_ms = 0
        self._predicted: dict[str, Estimate] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """As another process gets it: what is known now, under a clock that stands still."""
        return _still, (self._priors, self._model, self._clock_ms(), self.state())

    @property
    def reads(self) -> bool:
        """Whether the words of a prompt make a difference; without a trained predictor they do not."""
        return self._model is not None

    def estimate(self, text: str, models: Sequence[str], *, task: str | None = None) -> Estimate:
        """What one prompt may expect of each model: read-only arrays over ``models`` in their order."""
        adjustment = self._adjustment(tuple(models), task or "")
        if self._model is None or not adjustment.trained.size or not text:
            return adjustment.prior
        return adjustment.apply(self._predict(text))

    def estimate_many(
        self, texts: Sequence[str], models: Sequence[str], *, task: str | None = None
    ) -> Estimate:
        """The same for many prompts: arrays prompts x models."""
        adjustment = self._adjustment(tuple(models), task or "")
        if self._model is not None and adjustment.trained.size and texts:
            return adjustment.apply(self._model.estimate_texts(texts))
        shape, one = (len(texts), len(adjustment.beliefs)), adjustment.prior
        return Estimate(*(np.broadcast_to(getattr(one, name), shape) for name in Estimate.__slots__))

    def learn(
        self, model: str, task: str | None, score: float, *, weight: float = 1.0, text: str | None = None
    ) -> None:
        """Take one scored answer: score in [0, 1]; text: the prompt, which says what was to be expected."""
        if not 0.0 <= score <= 1.0:
            raise InputInvalid(f"score: expected a number in [0, 1], was {score}")
        if not 0.0 < weight <= 10.0:
            raise InputInvalid(f"weight: expected a number in (0, 10], was {weight}")
        name, now_ms = bare_name(model), self._clock_ms()
        expected, answers, _ = self._expected(model, text)
        change = self._evidence.observe(name, task or "", score, expected, answers, weight, now_ms)
        self._forget(name)
        if change is not None:
            facts = {
                "model": name,
                "before": change.before,
                "since": change.since,
                "answers": change.answers,
            }
            self._emit(Event("quality.changed", now_ms, facts))
            logger.warning(
                "%s is not what it was: mean score %.2f over its last %d judged answers, %.2f expected",
                name,
                change.since,
                change.answers,
                change.before,
            )

    def learn_length(
        self, model: str, task: str | None, output_tokens: int, *, cut: bool = False, text: str | None = None
    ) -> None:
        """Take one answer's length, reasoning included. cut: it ended at the buyer's limit, unfinished."""
        if output_tokens < 0:
            raise InputInvalid(f"output_tokens: expected 0 or more, was {output_tokens}")
        self._lengths.append((model, task or "", output_tokens, cut, text, self._clock_ms()))
        if len(self._lengths) >= _LENGTHS_MAX:
            self._take_lengths()

    def state(self) -> bytes:
        """All that was learnt, here and elsewhere, for :meth:`restore` after a restart or :meth:`merge` by others."""
        self._take_lengths()
        return json.dumps(
            {"version": _STATE_VERSION, "writers": self._evidence.dump()},
            separators=(",", ":"),
        ).encode()

    def restore(self, state: bytes) -> None:
        """Forget what this room knows and take a saved state; raises InputInvalid when it is none."""
        evidence = Evidence(self._evidence.writer)
        _merge(evidence, state)
        self._lengths.clear()
        self._evidence = evidence
        self._adjustments.clear()

    def merge(self, state: bytes) -> None:
        """Take from another worker's state what is newer; the same state twice changes nothing."""
        _merge(self._evidence, state)
        self._adjustments.clear()

    def _predict(self, text: str) -> Estimate:
        """The predictor's word on every model it knows; one order asks several times for the same text."""
        assert self._model is not None
        known = self._predicted.get(text)
        if known is None:
            many = self._model.estimate_texts([text])
            known = Estimate(*(getattr(many, name)[0] for name in Estimate.__slots__))
            if len(self._predicted) >= _CACHE_MAX:
                self._predicted.clear()
            if len(text) <= _CACHED_TEXT_MAX:
                self._predicted[text] = known
        return known

    def _expected(self, model: str, text: str | None) -> tuple[float, float, float]:
        """P(acceptable) before feedback, what that belief is worth in answers, and the expected length."""
        start = _start(self._priors, self._model, model)
        if start.column < 0 or not text:
            return start.mean, start.worth, start.tokens
        one = self._predict(text)
        return float(one.mean[start.column]), start.worth, float(one.output_tokens[start.column])

    def _take_lengths(self) -> None:
        """Lengths come with every answer and move estimates little: they are taken up together."""
        lengths, self._lengths = self._lengths, []
        for model, task, output_tokens, cut, text, at_ms in lengths:
            _, _, length = self._expected(model, text)
            ratio = math.log((1.0 + output_tokens) / (1.0 + length))
            self._evidence.observe_length(bare_name(model), task, ratio, at_ms, cut=cut)
        for name in {bare_name(model) for model, *_ in lengths}:
            self._forget(name)
        self._lengths_ms = self._clock_ms()

    def _forget(self, name: str) -> None:
        """Something was learnt of one model: what is cached of it will be renewed when it is next asked for."""
        self._taught.append(name)
        if len(self._taught) > 10 * _CACHE_MAX:
            self._taught.clear()
            self._adjustments.clear()

    def _adjustment(self, models: tuple[str, ...], task: str) -> _Adjustment:
        now_ms = self._clock_ms()
        if self._lengths and not 0 <= now_ms - self._lengths_ms < _LENGTHS_MS:
            self._take_lengths()
        known = self._adjustments.get((models, task))
        if known is not None and 0 <= now_ms - known.at_ms < _REFRESH_MS:
            if known.taught == len(self._taught):
                return known
            stale = set(self._taught[known.taught :])
            beliefs = [
                self._believe(model, task, now_ms) if name in stale else belief
                for model, name, belief in zip(models, known.names, known.beliefs, strict=True)
            ]
            at_ms = known.at_ms
        else:
            beliefs, at_ms = [self._believe(model, task, now_ms) for model in models], now_ms
        if len(self._adjustments) >= _CACHE_MAX:
            self._adjustments.clear()
        fresh = _Adjustment(self._priors, self._model, models, beliefs, at_ms, len(self._taught))
        self._adjustments[models, task] = fresh
        return fresh

    def _believe(self, model: str, task: str, now_ms: int) -> Belief:
        worth = _start(self._priors, self._model, model).worth
        return self._evidence.belief(bare_name(model), task, worth, now_ms)


@dataclass(frozen=True, slots=True)
class _Start:
    """Where belief in a model starts for a prompt nobody shows; column: its number in the predictor, -1 = none."""

    column: int
    mean: float
    worth: float
    tokens: float
    observations: int


def _start(priors: Priors, model: Predictor | None, name: str) -> _Start:
    column = -1 if model is None else model.column(name)
    if model is None or column < 0:
        prior = priors.of(name)
        return _Start(-1, prior.mean, prior.answers, prior.output_tokens, 0)
    mean, tokens, observations = model.usual(column)
    return _Start(column, mean, TRAINED_ANSWERS, tokens, observations)


class _Adjustment:
    """Priors and evidence of some models on one task, as arrays; ``trained`` are the positions a predictor knows."""

    def __init__(
        self,
        priors: Priors,
        model: Predictor | None,
        models: tuple[str, ...],
        beliefs: list[Belief],
        at_ms: int,
        taught: int,
    ) -> None:
        self.names = [bare_name(name) for name in models]
        self.beliefs, self.at_ms, self.taught = beliefs, at_ms, taught
        starts = [_start(priors, model, name) for name in models]
        columns = np.array([start.column for start in starts], dtype=np.int64)
        shift, answers, factor = (
            np.array(
                [(belief.shift, belief.answers, belief.length_factor) for belief in beliefs], dtype=np.float64
            )
            .reshape(-1, 3)
            .T
        )
        self.worth = answers + [start.worth for start in starts]
        mean = np.clip(np.array([start.mean for start in starts]) + shift, 0.01, 0.99)
        tokens = np.array([start.tokens for start in starts]) * factor
        self.prior = Estimate(
            mean,
            _beta_sd(mean, self.worth),
            np.rint(tokens).astype(np.int64),
            np.ceil(tokens * P95_FACTOR).astype(np.int64),
            np.array([b.seen + s.observations for b, s in zip(beliefs, starts, strict=True)], dtype=np.int64),
        )
        for name in Estimate.__slots__:
            getattr(self.prior, name).flags.writeable = False
        self.trained: IntArray = np.flatnonzero(columns >= 0)
        self.columns = columns[self.trained]
        self.shift, self.factor = shift[self.trained], factor[self.trained]

    def apply(self, base: Estimate) -> Estimate:
        """What the predictor says (arrays over its columns, or prompts x columns), moved by what feedback taught."""
        at, columns, one = self.trained, self.columns, self.prior
        shape = (*base.mean.shape[:-1], len(self.beliefs))
        mean, sd, tokens, p95, seen = (
            np.broadcast_to(getattr(one, name), shape).copy() for name in Estimate.__slots__
        )
        level = np.clip(base.mean[..., columns] + self.shift, 0.01, 0.99)
        mean[..., at] = level
        # The predictor's spread is of its weights; the prior's Beta part is what feedback has yet to confirm.
        sd[..., at] = np.hypot(base.sd[..., columns], _beta_sd(level, self.worth[at]))
        tokens[..., at] = np.maximum(np.rint(base.output_tokens[..., columns] * self.factor), 1)
        p95[..., at] = np.ceil(base.output_tokens_p95[..., columns] * self.factor)
        return Estimate(mean, sd, tokens, p95, seen)


def _beta_sd(mean: FloatArray, answers: FloatArray) -> FloatArray:
    return np.asarray(np.sqrt(mean * (1.0 - mean) / (answers + 1.0)), dtype=np.float64)


def _still(priors: Priors, model: Predictor | None, now_ms: int, state: bytes) -> Quality:
    """The room as it was at an instant."""
    room = Quality(priors, clock_ms=lambda: now_ms, model=model)
    room.restore(state)
    return room


def _merge(evidence: Evidence, state: bytes) -> None:
    try:
        plain = json.loads(state)
        if plain["version"] != _STATE_VERSION:
            raise ValueError(f"expected version {_STATE_VERSION}, was {plain['version']}")
        evidence.merge(plain["writers"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputInvalid(f"quality state: not a saved state of this program: {error}") from error
