"""Room 3, policy: which quotes meet the terms, why the others do not, and what is the nearest that would.

Pure. Quotes and quality estimates in, candidates out; every drop keeps its term, what was asked and what was
offered. A refused buyer hears the nearest single change of terms that would be served now, with its price.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final

from providers.terms import Decline, DeclineCode, Quote, Target

from .errors import Reject, RejectCode
from .money import format_usd, parse_usd
from .order import Candidate, Loss, Miss, Order, QualityEstimate

__all__ = ["POLICIES", "consider", "matches_any", "rank", "refuse", "targets", "trusted_quality"]

RETRY_AFTER_MS: Final = 1_000
"""When a buyer may ask again after all sellers were silent or busy."""

NEAR: Final = 2
"""A quote that misses price or time by at most this factor is worth a second round."""

TARGET_SHARE: Final = (6, 10)
"""What a second round asks a seller to come down to when no competitor sets the price to beat."""

_MONEY: Final = frozenset({"budget_usd", "value_usd"})
_NEGOTIABLE: Final = _MONEY | {"deadline_ms"}
_CODES: Final = (
    (RejectCode.BUDGET_TOO_LOW, ("budget_usd", "value_usd")),
    (RejectCode.QUALITY_UNREACHABLE, ("min_quality",)),
    (RejectCode.DEADLINE_UNREACHABLE, ("deadline_ms", "ttft_ms")),
    (RejectCode.CAPABILITY_MISSING, ("require",)),
    (RejectCode.POLICY_FORBIDS, ("models", "exclude", "tiers")),
)


def consider(
    order: Order, quote: Quote, estimate: QualityEstimate, *, now_ms: int, probe: bool = False
) -> Candidate:
    """The quote as a candidate: judged against every term, its output cut to what the budget allows.

    ``probe``: an indicative quote counts as firm (a seller that is coming back is tried).
    """
    misses = _misses(order, quote, estimate, probe)
    max_output_tokens, ceiling_nusd = quote.max_output_tokens, quote.ceiling_nusd
    limit_nusd = order.limit_nusd
    if limit_nusd is not None and ceiling_nusd > limit_nusd:
        needed_nusd = ceiling_nusd
        if order.max_output_tokens is None:
            affordable = quote.affordable_output(limit_nusd)
            if affordable >= max(1, min(estimate.output_tokens_p95, quote.max_output_tokens)):
                max_output_tokens, ceiling_nusd = affordable, quote.ceiling_with(affordable)
                needed_nusd = 0
            else:
                needed_nusd = quote.ceiling_with(min(estimate.output_tokens_p95, quote.max_output_tokens))
        if needed_nusd:
            misses += _money_misses(order, needed_nusd)
    return Candidate(
        quote=quote,
        estimate=estimate,
        expected_nusd=min(quote.expected_nusd, ceiling_nusd),
        ceiling_nusd=ceiling_nusd,
        max_output_tokens=max_output_tokens,
        valid_until_ms=now_ms + quote.valid_for_ms,
        misses=tuple(misses),
    )


def trusted_quality(order: Order, estimate: QualityEstimate) -> float:
    """The quality a floor is compared with: the mean less ``quality_margin`` standard deviations."""
    return estimate.mean - order.quality_margin * estimate.sd


def matches_any(key: str, globs: Iterable[str]) -> bool:
    """Whether ``provider/model`` is one of the globs; a glob without a slash names the model alone."""
    model = key.partition("/")[2]
    return any(fnmatchcase(key if "/" in glob else model, glob) for glob in globs)


def _misses(order: Order, quote: Quote, estimate: QualityEstimate, probe: bool) -> list[Miss]:
    misses: list[Miss] = []
    miss = misses.append
    quality = trusted_quality(order, estimate)
    if quality < order.min_quality:
        miss(Miss("min_quality", order.min_quality, int(quality * 10_000) / 10_000, Loss.BELOW_QUALITY))
    if order.deadline_ms is not None and quote.latency_ms.p95 > order.deadline_ms:
        miss(Miss("deadline_ms", order.deadline_ms, quote.latency_ms.p95, Loss.TOO_SLOW))
    if order.ttft_ms is not None and quote.ttft_ms.p95 > order.ttft_ms:
        miss(Miss("ttft_ms", order.ttft_ms, quote.ttft_ms.p95, Loss.TOO_SLOW))
    if order.require and (missing := order.require - quote.tags):
        kept = tuple(sorted(order.require - missing))
        miss(Miss("require", tuple(sorted(order.require)), kept, Loss.NO_CAPABILITY))
    if order.models and not matches_any(quote.key, order.models):
        miss(Miss("models", order.models, (*order.models, quote.key), Loss.NO_CAPABILITY))
    if order.exclude and matches_any(quote.key, order.exclude):
        left = tuple(glob for glob in order.exclude if not matches_any(quote.key, (glob,)))
        miss(Miss("exclude", order.exclude, left, Loss.NO_CAPABILITY))
    if quote.tier not in order.tiers:
        miss(Miss("tiers", order.tiers, (*order.tiers, quote.tier), Loss.NO_CAPABILITY))
    if not quote.firm and not probe:
        miss(Miss("firm", True, False, Loss.INDICATIVE))
    return misses


def _money_misses(order: Order, needed_nusd: int) -> Iterable[Miss]:
    given = {"budget_usd": order.budget_nusd, "value_usd": order.value_nusd}
    short = {term: nusd for term, nusd in given.items() if nusd is not None and nusd < needed_nusd}
    if short.get("budget_usd") == short.get("value_usd"):
        short.pop("value_usd")  # value follows the budget unless it was given
    for term, nusd in short.items():
        yield Miss(term, format_usd(nusd), format_usd(needed_nusd), Loss.OVER_BUDGET)


Key = Callable[[Candidate], tuple[float, ...]]


def _cheapest(candidate: Candidate) -> tuple[float, ...]:
    return (candidate.expected_nusd, candidate.quote.latency_ms.p50)


def _best_quality(candidate: Candidate) -> tuple[float, ...]:
    return (-candidate.estimate.mean, candidate.expected_nusd)


def _fastest(candidate: Candidate) -> tuple[float, ...]:
    return (candidate.quote.latency_ms.p50, candidate.expected_nusd)


def _balanced(candidate: Candidate) -> tuple[float, ...]:
    """Cost x time / quality²: a halving of either is worth the same, quality counts double."""
    quality = max(candidate.estimate.mean, 0.01)
    return ((candidate.expected_nusd + 1) * (candidate.quote.latency_ms.p50 + 1) / quality**2,)


POLICIES: Final[dict[str, Key]] = {
    "cheapest": _cheapest,
    "best_quality": _best_quality,
    "fastest": _fastest,
    "balanced": _balanced,
    "two_tier": _cheapest,
}
"""How eligible candidates are ordered, the best first."""


def rank(order: Order, candidates: Iterable[Candidate]) -> list[Candidate]:
    """The eligible candidates, best first by the order's policy; ties by name, so the order is total."""
    key = POLICIES[order.policy]
    eligible = [candidate for candidate in candidates if not candidate.misses]
    if len(eligible) > 1:
        eligible.sort(key=lambda c: (*key(c), c.quote.key, c.quote.tier))
    return eligible


def targets(order: Order, candidates: Sequence[Candidate]) -> dict[str, Target]:
    """What a second round asks of sellers that miss price or time by little, and nothing else; by seller.

    The price to beat is the best eligible competitor's, else a fixed share of the seller's own: never the budget.
    """
    failing = [candidate for candidate in candidates if candidate.misses]
    if not failing:
        return {}
    best_nusd = min((c.ceiling_nusd for c in candidates if c.eligible), default=None)
    asked: dict[str, Target] = {}
    for candidate in failing:
        quote, terms = candidate.quote, {miss.term for miss in candidate.misses}
        if not terms <= _NEGOTIABLE:
            continue
        price = latency = None
        if terms & _MONEY:
            if order.limit_nusd is None or candidate.ceiling_nusd > NEAR * order.limit_nusd:
                continue
            own_nusd = candidate.ceiling_nusd * TARGET_SHARE[0] // TARGET_SHARE[1]
            price = own_nusd if best_nusd is None else min(own_nusd, best_nusd)
        if "deadline_ms" in terms:
            if order.deadline_ms is None or quote.latency_ms.p95 > NEAR * order.deadline_ms:
                continue
            latency = order.deadline_ms
        known = asked.get(quote.provider)
        asked[quote.provider] = (
            _lower(known, Target(nusd=price, latency_ms=latency))
            if known
            else Target(nusd=price, latency_ms=latency)
        )
    return asked


def _lower(one: Target, other: Target) -> Target:
    prices = [target.nusd for target in (one, other) if target.nusd is not None]
    times = [target.latency_ms for target in (one, other) if target.latency_ms is not None]
    return Target(nusd=min(prices, default=None), latency_ms=min(times, default=None))


def refuse(
    order: Order, candidates: Sequence[Candidate], declines: Sequence[Decline] = (), *, silent: bool = True
) -> Reject:
    """Why no candidate is eligible; the first code of the contract's order that fits. Without counter-offers.

    ``silent``: whether a seller gave no answer at all, so that asking again may help.
    """
    assert not any(candidate.eligible for candidate in candidates)
    if not candidates:
        return _refuse_without_quotes(order, declines, silent)
    for code, terms in _CODES:
        if all(any(miss.term in terms for miss in candidate.misses) for candidate in candidates):
            wanted = [decline for decline in declines if _wanted(order, decline)]
            if code is RejectCode.POLICY_FORBIDS and wanted:
                # whom the buyer would have taken said no just now
                return _refuse_without_quotes(order, wanted, silent)
            return _refuse_for(order, candidates, code, terms)
    if all(any(miss.term == "firm" for miss in candidate.misses) for candidate in candidates):
        return Reject(
            code=RejectCode.NO_QUOTE,
            message=f"expected a firm quote, found {len(candidates)} indicative ones: the sellers are recovering",
            retry_after_ms=RETRY_AFTER_MS,
        )
    missed = sorted({miss.term for candidate in candidates for miss in candidate.misses})
    return Reject(
        code=RejectCode.TERMS_CONFLICT,
        message=f"each of {', '.join(missed)} can be met, but no offer meets all of them at once",
        facts={"terms": missed, "offers": len(candidates)},
    )


def _wanted(order: Order, decline: Decline) -> bool:
    """Whether the terms allow something that this seller did not offer."""
    if decline.model:
        key = f"{decline.provider}/{decline.model}"
        return (not order.models or matches_any(key, order.models)) and not matches_any(key, order.exclude)
    sellers = [glob.partition("/")[0] for glob in order.models if "/" in glob]
    return len(sellers) < max(1, len(order.models)) or any(
        fnmatchcase(decline.provider, seller) for seller in sellers
    )


def _refuse_for(
    order: Order, candidates: Sequence[Candidate], code: RejectCode, terms: tuple[str, ...]
) -> Reject:
    misses = [miss for candidate in candidates for miss in candidate.misses if miss.term in terms]
    term = misses[0].term
    same = [miss for miss in misses if miss.term == term]
    offers = f"{len(candidates)} offer{'s' if len(candidates) > 1 else ''}"
    facts: dict[str, Any]
    if code is RejectCode.BUDGET_TOO_LOW:
        best = min(same, key=lambda miss: parse_usd(miss.offered))
        facts = {"needed_usd": best.offered, "available_usd": best.asked}
        message = f"{term}: {best.asked} was asked, the cheapest of {offers} needs {best.offered}"
    elif code is RejectCode.QUALITY_UNREACHABLE:
        best = max(same, key=lambda miss: miss.offered)
        facts = {"asked": best.asked, "reachable": best.offered}
        message = f"min_quality: {best.asked} was asked, the best of {offers} reaches {best.offered}"
    elif code is RejectCode.DEADLINE_UNREACHABLE:
        best = min(same, key=lambda miss: miss.offered)
        facts = {"asked_ms": best.asked, "reachable_ms": best.offered}
        message = f"{term}: {best.asked} ms was asked, the fastest of {offers} has a p95 of {best.offered} ms"
    elif code is RejectCode.CAPABILITY_MISSING:
        best = max(same, key=lambda miss: len(miss.offered))
        missing = sorted(set(best.asked) - set(best.offered))
        facts = {"missing": missing}
        message = f"require: none of {offers} has {', '.join(missing)}"
    else:
        facts = {"asked": list(same[0].asked)}
        message = f"{term}: {', '.join(same[0].asked)} leaves none of {offers}"
    return Reject(code=code, message=message, facts={**facts, "term": term, "offers": len(candidates)})


def _refuse_without_quotes(order: Order, declines: Sequence[Decline], silent: bool) -> Reject:
    if not declines and not silent and order.tiers != ("standard",):
        return Reject(
            code=RejectCode.POLICY_FORBIDS,
            message=f"tiers: {', '.join(order.tiers)} was asked, no seller sells {order.named or 'anything'} there",
            facts={"term": "tiers", "asked": list(order.tiers), "offers": 0},
        )
    if not declines and order.named:
        return Reject(
            code=RejectCode.UNPRICEABLE,
            message=f"model: expected auto or a model that a seller sells at a known price, found {order.named!r}",
            facts={"model": order.named},
        )
    if not declines:
        return Reject(
            code=RejectCode.NO_QUOTE, message="no seller answered in time", retry_after_ms=RETRY_AFTER_MS
        )
    details = sorted(
        {
            f"{decline.code.name}: {decline.detail}" if decline.detail else decline.code.name
            for decline in declines
        }
    )
    facts: dict[str, Any] = {"declines": len(declines)}
    if all(decline.code in (DeclineCode.UNSUPPORTED, DeclineCode.TOO_LONG) for decline in declines):
        message = f"none of {len(declines)} offers can serve this request ({'; '.join(details[:3])})"
        return Reject(code=RejectCode.CAPABILITY_MISSING, message=message, facts=facts)
    return Reject(
        code=RejectCode.ALL_DECLINED,
        message=f"all {len(declines)} offers were declined ({'; '.join(details[:3])})",
        facts=facts,
        retry_after_ms=RETRY_AFTER_MS,
    )
