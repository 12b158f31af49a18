"""Does routing pay for the traffic in a log? One model, two tiers, routing by prompt, or nothing, in dollars a month.

Every way keeps today's mean quality, as far as scores in the log and published priors tell it, and is compared by cost:

- one model: the cheapest that alone keeps it. Needs no router.
- two tiers: a cheap model, a check of its answer that is right ``check_right`` of the time, a dear model when it fails.
- routing: prompts shared between two models by a trained predictor. How well that works is taken from the weakest of the
  recorded results (``benchmarks/results/routing.md``, two models): the share of calls that must go to the dear model to
  recover a share r of the quality between the two is 0.91 r ** 2.1.

Costs here are estimates for a report, in dollars as floats; no money moves on them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np

from negotiator.errors import InputInvalid
from negotiator.quality.priors import Prior, Priors, bare_name

__all__ = ["Advice", "Call", "Way", "advise"]

REACHED_AT, EXPONENT = 0.91, 2.1
OWN_CPU_USD = 0.25e-3 / 3_600 * 0.05
"""Our work on one call: a quarter of a millisecond of a core at five cents an hour."""
SLACK = 0.005
"""How much mean quality a way may lose and still keep today's: below what a log can tell."""


@dataclass(frozen=True, slots=True)
class Call:
    """One line of the log. score: None = nobody said how good it was."""

    model: str
    input_tokens: int
    output_tokens: int
    cost_usd: float
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Way:
    """One way to buy. cost_usd, quality: of one call, mean. net_usd: saved in a month, our own cost taken off."""

    name: str
    models: tuple[str, ...]
    cost_usd: float
    quality: float
    saved_usd: float
    net_usd: float
    break_even_calls: int | None


@dataclass(frozen=True, slots=True)
class Advice:
    """today: what is paid now. ways: those that keep its quality, best first. best: the one to take, None = nothing.

    spread: how much cheaper the cheapest model is than the dearest on this traffic, 0 to 1. scored: answers with a
    score, per model.
    """

    calls: int
    calls_per_month: int
    today: Way
    ways: tuple[Way, ...]
    best: Way | None
    spread: float
    scored: Mapping[str, int]
    reason: str


def advise(
    calls: Sequence[Call],
    priors: Priors,
    *,
    calls_per_month: int,
    own_usd_per_month: float = 150.0,
    check_right: float = 0.8,
    also: Mapping[str, tuple[float, float]] | None = None,
) -> Advice:
    """What to do; ``also``: other models with dollars per million tokens in and out. InputInvalid without any call."""
    if not calls:
        raise InputInvalid("log: expected at least one call")
    models = list(dict.fromkeys(call.model for call in calls))
    prices = {model: _prices([c for c in calls if c.model == model]) for model in models}
    prices |= {name: (i / 1e6, o / 1e6) for name, (i, o) in (also or {}).items()}
    tokens = np.array([[c.input_tokens, c.output_tokens] for c in calls], dtype=np.float64).mean(axis=0)
    cost = {name: float(tokens @ np.array(price)) for name, price in prices.items()}
    scores = _scores(calls)
    quality = {name: _quality(priors.of(name), scores.get(bare_name(name), [])) for name in cost}
    paid = float(np.mean([call.cost_usd for call in calls]))
    kept = float(np.mean([quality[call.model] for call in calls]))
    today = Way("as today", tuple(models), paid, kept, 0.0, 0.0, None)
    found = [
        _priced(way, paid, calls_per_month, 0.0 if way.name == "one model" else own_usd_per_month)
        for way in _ways(cost, quality, kept, check_right)
    ]
    ways = tuple(sorted(found, key=lambda way: -way.net_usd))
    best = ways[0] if ways and ways[0].net_usd > 0.0 else None
    spread = 1.0 - min(cost.values()) / max(*cost.values(), 1e-12)
    scored = {name: len(scores.get(bare_name(name), [])) for name in cost}
    return Advice(
        len(calls), calls_per_month, today, ways, best, spread, scored, _reason(best, ways, len(cost), spread)
    )


def _prices(calls: Sequence[Call]) -> tuple[float, float]:
    """Dollars per token in and out that explain what was paid; in equal shares when the log cannot tell them apart."""
    tokens = np.array([[c.input_tokens, c.output_tokens] for c in calls], dtype=np.float64)
    paid = np.array([c.cost_usd for c in calls])
    if len(calls) >= 5 and np.linalg.matrix_rank(tokens) == 2:
        (first, second), *_ = np.linalg.lstsq(tokens, paid, rcond=None)
        if first >= 0.0 and second >= 0.0:
            return float(first), float(second)
    blended = float(paid.sum() / max(tokens.sum(), 1.0))
    return blended, blended


def _scores(calls: Iterable[Call]) -> dict[str, list[float]]:
    """The log's own scores, by bare name."""
    found: dict[str, list[float]] = {}
    for call in calls:
        if call.score is not None:
            found.setdefault(bare_name(call.model), []).append(call.score)
    return found


def _quality(prior: Prior, scores: Sequence[float]) -> float:
    """The prior moved by scores."""
    return (prior.mean * prior.answers + sum(scores)) / (prior.answers + len(scores))


def _ways(
    cost: Mapping[str, float], quality: Mapping[str, float], kept: float, check_right: float
) -> Iterable[Way]:
    """The cheapest of each kind that keeps the quality."""
    least = kept - SLACK
    kinds: list[list[Way]] = [
        [_way("one model", (name,), cost[name], quality[name]) for name in cost],
        [],
        [],
    ]
    for cheap, dear in permutations(cost, 2):
        if cost[cheap] >= cost[dear] or quality[cheap] >= quality[dear]:
            continue
        passed = quality[cheap] * check_right + (1.0 - quality[cheap]) * (1.0 - check_right)
        got = quality[cheap] * check_right + (1.0 - passed) * quality[dear]
        kinds[1].append(_way("two tiers", (cheap, dear), cost[cheap] + (1.0 - passed) * cost[dear], got))
        wanted = (least - quality[cheap]) / (quality[dear] - quality[cheap])
        if 0.0 < wanted <= 1.0:
            share = REACHED_AT * wanted**EXPONENT
            kinds[2].append(
                _way(
                    "routing", (cheap, dear), (1.0 - share) * cost[cheap] + share * cost[dear], least + SLACK
                )
            )
    for ways in kinds:
        good = [way for way in ways if way.quality >= least]
        if good:
            yield min(good, key=lambda way: way.cost_usd)


def _way(name: str, models: tuple[str, ...], cost_usd: float, quality: float) -> Way:
    return Way(name, models, cost_usd, quality, 0.0, 0.0, None)


def _priced(way: Way, paid: float, calls_per_month: int, own_usd: float) -> Way:
    """With what it saves in a month, and how many calls pay for our own cost."""
    own_per_call = OWN_CPU_USD if own_usd else 0.0
    each = paid - way.cost_usd - own_per_call
    return replace(
        way,
        saved_usd=(paid - way.cost_usd) * calls_per_month,
        net_usd=each * calls_per_month - own_usd,
        break_even_calls=int(np.ceil(own_usd / each)) if each > 0.0 else None,
    )


def _reason(best: Way | None, ways: Sequence[Way], models: int, spread: float) -> str:
    """One sentence."""
    if models < 2:
        return "the log has one model only: there is nothing to choose between; name others with their prices"
    if best is not None:
        what = {
            "one model": f"send everything to {best.models[0]}: no router is needed",
            "two tiers": f"ask {best.models[0]} first, check the answer, escalate to {best.models[-1]}",
            "routing": f"share the prompts between {' and '.join(best.models)} by a trained quality model",
        }
        return what[best.name]
    later = [way.break_even_calls for way in ways if way.break_even_calls]
    if later:
        return f"nothing is needed at this volume; the first way to pay does so from {min(later):,} calls a month"
    return f"nothing is needed: no way keeps the quality for less (prices are {100 * spread:.0f} % apart)"
