"""What answers have taught: per model and task, discounted sums that merge between workers.

An observation is a score in [0, 1] beside what was expected of that prompt. The estimate moves by the mean surprise,
shrunk by what the prior is worth; with a constant expectation this is exactly the posterior mean of a Beta
distribution. Tasks shrink towards their model. Each writer owns its sums and others only replace them by a newer
version, so merging is idempotent and order does not matter (a state-based counter). A change behind a name is noticed
by a two-sided CUSUM (Page 1954): what was seen before the change is then dropped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Belief", "Change", "Evidence", "ModelRecord", "Tally"]

WINDOW_ANSWERS = 500.0
HALF_LIFE_MS = 14 * 24 * 3_600_000
TASK_ANSWERS = 20.0
# Simulated: no alarm in 80,000 answers of models that stayed the same, a fall of 0.3 noticed after about 70 answers.
DRIFT_SLACK = 0.1
DRIFT_THRESHOLD = 12.0
DRIFT_ARMED_ANSWERS = 30
CHANGED_PRIOR_ANSWERS = 4.0
MODELS_MAX = 1024
TASKS_MAX = 64
WRITERS_MAX = 256


@dataclass(slots=True)
class Tally:
    """Discounted sums: answers, their scores, the scores expected; lengths and their log ratio to the expected."""

    answers: float = 0.0
    score: float = 0.0
    expected: float = 0.0
    lengths: float = 0.0
    log_ratio: float = 0.0
    at_ms: int = 0

    def age(self, now_ms: int) -> None:
        """Forget half of it every half-life."""
        if now_ms > self.at_ms:
            self.scale(0.5 ** ((now_ms - self.at_ms) / HALF_LIFE_MS))
            self.at_ms = now_ms

    def scale(self, keep: float) -> None:
        """Multiply all sums."""
        self.answers *= keep
        self.score *= keep
        self.expected *= keep
        self.lengths *= keep
        self.log_ratio *= keep


@dataclass(slots=True)
class ModelRecord:
    """One writer's knowledge of one model. epoch: changes noticed; version: grows with every observation."""

    epoch: int = 0
    version: int = 0
    seen: int = 0
    tasks: dict[str, Tally] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Change:
    """A model is no longer what it was: mean score before and since, over so many answers."""

    model: str
    before: float
    since: float
    answers: int


@dataclass(frozen=True, slots=True)
class Belief:
    """What evidence adds to a model's prior: the mean moves by shift, sd shrinks by its answers, length scales."""

    shift: float = 0.0
    answers: float = 0.0
    seen: int = 0
    length_factor: float = 1.0
    changed: bool = False


@dataclass(slots=True)
class _Run:
    """A CUSUM in one direction with the sums since it last was zero: the answers after the likely change."""

    level: float = 0.0
    since: Tally = field(default_factory=Tally)
    count: int = 0

    def step(self, surprise: float, score: float, expected: float) -> bool:
        self.level = max(0.0, self.level + surprise - DRIFT_SLACK)
        if self.level == 0.0:
            self.since, self.count = Tally(), 0
            return False
        self.since.answers += 1.0
        self.since.score += score
        self.since.expected += expected
        self.count += 1
        return self.level > DRIFT_THRESHOLD


class Evidence:
    """All that this worker learnt itself and was told by others."""

    def __init__(self, writer: str) -> None:
        self.writer = writer
        self._writers: dict[str, dict[str, ModelRecord]] = {writer: {}}
        self._runs: dict[str, tuple[_Run, _Run]] = {}

    def observe(
        self,
        model: str,
        task: str,
        score: float,
        expected: float,
        prior_answers: float,
        weight: float,
        now_ms: int,
    ) -> Change | None:
        """Take one scored answer; a Change when the model proves to be another than before."""
        believed = min(
            max(expected + self.belief(model, task, prior_answers, now_ms).shift, 0.0),
            1.0,
        )
        record, tally = self._own(model, task, now_ms)
        tally.scale(1.0 - weight / WINDOW_ANSWERS)
        tally.answers += weight
        tally.score += weight * score
        tally.expected += weight * expected
        record.seen += 1
        record.version += 1
        return self._drift(model, record, score, expected, believed, now_ms)

    def observe_length(
        self, model: str, task: str, log_ratio: float, now_ms: int, *, cut: bool = False
    ) -> None:
        """Take one answer's length as log(actual / expected). cut: at the buyer's limit, so it was at least so long.

        A cut answer counts as what is believed where that is longer. Taken as whole, answers would seem as short as
        buyers' limits, and shortest at dear sellers, which get the short orders.
        """
        if cut:
            log_ratio = max(log_ratio, math.log(self.belief(model, task, 1.0, now_ms).length_factor))
        record, tally = self._own(model, task, now_ms)
        tally.lengths = tally.lengths * (1.0 - 1.0 / WINDOW_ANSWERS) + 1.0
        tally.log_ratio = tally.log_ratio * (1.0 - 1.0 / WINDOW_ANSWERS) + log_ratio
        record.version += 1

    def belief(self, model: str, task: str, prior_answers: float, now_ms: int) -> Belief:
        """The posterior of one model on one task ("" = any)."""
        epoch, seen, total, here = self._sums(model, task, now_ms)
        if total.answers == 0.0 and total.lengths == 0.0:
            return Belief(changed=epoch > 0)
        worth = min(prior_answers, CHANGED_PRIOR_ANSWERS) if epoch else prior_answers
        shift = (total.score - total.expected) / (total.answers + worth)
        if task and here.answers:
            shift += (here.score - here.expected - here.answers * shift) / (here.answers + TASK_ANSWERS)
        factor = math.exp(total.log_ratio / (total.lengths + 5.0))
        return Belief(shift, total.answers, seen, factor, epoch > 0)

    def models(self) -> set[str]:
        """Every model anything is known of."""
        return {model for records in self._writers.values() for model in records}

    def dump(self) -> dict[str, Any]:
        """Plain values, for :meth:`merge` elsewhere."""
        return {
            writer: {model: asdict(record) for model, record in records.items()}
            for writer, records in self._writers.items()
        }

    def merge(self, writers: Mapping[str, Mapping[str, Any]]) -> None:
        """Take from another dump whatever is newer than what is known here."""
        for writer, records in writers.items():
            if writer not in self._writers and len(self._writers) >= WRITERS_MAX:
                self._writers.pop(
                    min((name for name in self._writers if name != self.writer), key=self._last_ms)
                )
            mine = self._writers.setdefault(writer, {})
            for model, plain in records.items():
                tasks = {task: Tally(**tally) for task, tally in plain["tasks"].items()}
                if not all(math.isfinite(v) for tally in tasks.values() for v in asdict(tally).values()):
                    raise ValueError(f"expected finite sums of {model}")
                record = ModelRecord(int(plain["epoch"]), int(plain["version"]), int(plain["seen"]), tasks)
                known = mine.get(model)
                if known is None or (record.epoch, record.version) > (
                    known.epoch,
                    known.version,
                ):
                    mine[model] = record

    def _last_ms(self, writer: str) -> int:
        """When a writer last learnt anything."""
        records = self._writers[writer].values()
        return max((tally.at_ms for record in records for tally in record.tasks.values()), default=0)

    def _own(self, model: str, task: str, now_ms: int) -> tuple[ModelRecord, Tally]:
        """This writer's record, brought to the newest epoch and to now."""
        records = self._writers[self.writer]
        if model not in records and len(records) >= MODELS_MAX:
            records.pop(
                min(
                    records,
                    key=lambda name: max(t.at_ms for t in records[name].tasks.values()),
                )
            )
        record = records.setdefault(model, ModelRecord())
        epoch = max(self._epochs(model))
        if record.epoch < epoch:
            record.epoch, record.tasks, record.seen = epoch, {}, 0
        if task not in record.tasks and len(record.tasks) >= TASKS_MAX:
            task = ""
        tally = record.tasks.setdefault(task, Tally(at_ms=now_ms))
        tally.age(now_ms)
        return record, tally

    def _epochs(self, model: str) -> Iterator[int]:
        yield 0
        for records in self._writers.values():
            if model in records:
                yield records[model].epoch

    def _sums(self, model: str, task: str, now_ms: int) -> tuple[int, int, Tally, Tally]:
        """Newest epoch, answers seen in it, sums over all tasks, sums of this task."""
        epoch, seen = max(self._epochs(model)), 0
        total, here = Tally(at_ms=now_ms), Tally(at_ms=now_ms)
        for records in self._writers.values():
            record = records.get(model)
            if record is None or record.epoch < epoch:
                continue
            seen += record.seen
            for name, tally in record.tasks.items():
                keep = 0.5 ** (max(0, now_ms - tally.at_ms) / HALF_LIFE_MS)
                for target in (total, here) if name == task else (total,):
                    target.answers += keep * tally.answers
                    target.score += keep * tally.score
                    target.expected += keep * tally.expected
                    target.lengths += keep * tally.lengths
                    target.log_ratio += keep * tally.log_ratio
        return epoch, seen, total, here

    def _drift(
        self,
        model: str,
        record: ModelRecord,
        score: float,
        expected: float,
        believed: float,
        now_ms: int,
    ) -> Change | None:
        if record.seen <= DRIFT_ARMED_ANSWERS:
            return None
        worse, better = self._runs.setdefault(model, (_Run(), _Run()))
        fell, rose = (
            worse.step(believed - score, score, expected),
            better.step(score - believed, score, expected),
        )
        if not (fell or rose):
            return None
        run = worse if fell else better
        run.since.at_ms = now_ms
        change = Change(
            model,
            round(believed, 4),
            round(run.since.score / run.since.answers, 4),
            run.count,
        )
        record.epoch += 1
        record.tasks = {"": run.since}
        record.seen = run.count
        del self._runs[model]
        return change
