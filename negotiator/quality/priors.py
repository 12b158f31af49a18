"""What the house believes of a model before it has seen one answer of it: published scores, wide on purpose."""

from __future__ import annotations

import fnmatch
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from negotiator.errors import InputInvalid

__all__ = ["Prior", "Priors", "bare_name", "load_priors"]

_PATH = Path(__file__).with_name("priors.toml")
_VENDOR = re.compile(
    r"^(?:(?:us|eu|apac|global|regional)\.)?(?:anthropic|amazon|meta|mistral|openai|deepseek|qwen|cohere|google)\."
)
_VERSION = re.compile(r"(?<=\d)[.p](?=\d)")
# What may follow a model's name without making it another model: dates, sizes, channels, builds.
_NEUTRAL = re.compile(
    r"^(?:\d{2,}|v\d+|\d+|\d+[be]|a\d+b|latest|preview|exp|experimental|instruct|chat|it|base|turbo|versatile|instant|fp8"
    r"|fp4|maas|tput|free|reasoning|thinking|high|medium|low|none|minimal|xhigh|max|fast|basic|adaptive|us|001|002)$"
)


@dataclass(frozen=True, slots=True)
class Prior:
    """Where belief in a model starts.

    mean: P(acceptable). answers: how many observed answers the belief is worth (a Beta distribution of that
    size). output_tokens: expected length. source, date: where the score was published; "" = nowhere, a default.
    """

    mean: float
    answers: float
    output_tokens: int
    source: str = ""
    date: str = ""

    @property
    def sd(self) -> float:
        """Standard deviation of the belief."""
        return math.sqrt(self.mean * (1.0 - self.mean) / (self.answers + 1.0))


@lru_cache(maxsize=4096)
@lru_cache(maxsize=4096)
def bare_name(model: str) -> str:
    """The model's own name: no provider, region, vendor or ``:tag``; lower case, versions written with dashes."""
    name = model.lower().rsplit("/", 1)[-1].split("@", 1)[0]
    name = _VENDOR.sub("", name).split(":", 1)[0]
    return _VERSION.sub("-", name).replace("_", "-")


class Priors:
    """Priors by model name; a name nobody published a score for gets its family's, or an honest wide default."""

    def __init__(
        self,
        rows: Mapping[str, Prior],
        *,
        families: Sequence[tuple[str, str]] = (),
        family_answers: float = 4.0,
        default: Prior = Prior(0.6, 3.0, 250),
    ) -> None:
        self._rows = dict(rows)
        self._families = tuple(families)
        self._family_answers = family_answers
        self._default = default
        self._cache: dict[str, Prior] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Any:
        return iter(self._rows.items())

    def of(self, model: str) -> Prior:
        """The prior of a model by its bare or full name: exact, then longest prefix, then family, then default."""
        prior = self._cache.get(model)
        if prior is None:
            if len(self._cache) >= 4096:
                self._cache.clear()
            prior = self._cache[model] = self._find(bare_name(model))
        return prior

    def replaced(self, model: str, mean: float) -> Priors:
        """The same priors with one mean set by the operator (``quality_prior`` of the configuration)."""
        if not 0.0 <= mean <= 1.0:
            raise InputInvalid(f"quality_prior of {model}: expected a number in [0, 1], was {mean}")
        row = replace(
            self.of(model),
            mean=min(max(mean, 0.01), 0.99),
            source="configuration",
            date="",
        )
        rows = {**self._rows, bare_name(model): row}
        return Priors(
            rows,
            families=self._families,
            family_answers=self._family_answers,
            default=self._default,
        )

    def _find(self, name: str) -> Prior:
        parts = name.split("-")
        for end in range(len(parts), 0, -1):
            row = self._rows.get("-".join(parts[:end]))
            if row is not None and all(_NEUTRAL.match(part) for part in parts[end:]):
                return row
        for pattern, like in self._families:
            if fnmatch.fnmatchcase(name, pattern):
                row = self._rows[bare_name(like)]
                return replace(row, answers=self._family_answers, source=f"{row.source}, of {like}")
        return self._default


def load_priors(path: Path | str | None = None) -> Priors:
    """The priors of a TOML file (None: those shipped). A wrong row raises InputInvalid with file, row and value."""
    path = _PATH if path is None else Path(path)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise InputInvalid(f"{path}: priors cannot be read: {error}") from error
    try:
        return _build(data)
    except (KeyError, TypeError, ValueError) as error:
        what = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise InputInvalid(f"{path}: {what}") from error


def _build(data: Mapping[str, Any]) -> Priors:
    kinds, defaults, sources = data["kinds"], data["defaults"], data["sources"]
    rows: dict[str, Prior] = {}
    for number, entry in enumerate(data["models"], start=1):
        score = float(entry["score"])
        if not 0.0 < score < 100.0:
            raise ValueError(f"models[{number}] ({entry['name']}): expected a score in (0, 100), was {score}")
        source = sources[entry["source"]]
        logit = math.log(score / (100.0 - score)) + float(source["shift"])
        prior = Prior(
            mean=round(1.0 / (1.0 + math.exp(-logit)), 4),
            answers=float(defaults["published_answers"]),
            output_tokens=int(entry.get("output_tokens", kinds[entry.get("kind", "plain")])),
            source=str(entry["source"]),
            date=str(source["date"]),
        )
        for name in (entry["name"], *entry.get("aliases", ())):
            if rows.setdefault(bare_name(name), prior) is not prior:
                raise ValueError(f"models[{number}]: {name} is listed twice")
    families = [(str(entry["pattern"]), str(entry["like"])) for entry in data.get("families", ())]
    for pattern, like in families:
        if bare_name(like) not in rows:
            raise ValueError(f"families: {pattern} is said to be like {like}, which has no score")
    default = Prior(float(defaults["mean"]), float(defaults["unknown_answers"]), int(kinds["plain"]))
    return Priors(
        rows,
        families=families,
        family_answers=float(defaults["family_answers"]),
        default=default,
    )
