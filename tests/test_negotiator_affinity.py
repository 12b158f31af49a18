"""Affinity: a session keeps its model while that costs little, and never for another account."""

from __future__ import annotations

from negotiator.affinity import LIFETIME_MS, MAX_SESSIONS, Affinity
from negotiator.order import Candidate, Order, QualityEstimate
from providers.terms import Quantiles, Quote, Rates


class HandClock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.ms = 0

    def now_ms(self) -> int:
        return self.ms


def candidate(provider: str, nusd: int, tier: str = "standard") -> Candidate:
    """An offer of model ``m`` at ``provider`` for ``nusd``."""
    quote = Quote(
        quote_id=f"{provider}-{tier}",
        rfq_id="r",
        provider=provider,
        model="m",
        tier=tier,
        firm=True,
        rates=Rates(0, 0, 0, 0, 0, request_nusd=nusd),
        lines=(),
        expected_nusd=nusd,
        ceiling_nusd=nusd,
        input_tokens=1,
        expected_output_tokens=1,
        max_output_tokens=1,
        latency_ms=Quantiles(1, 2),
        ttft_ms=Quantiles(1, 2),
        valid_for_ms=1_000,
    )
    return Candidate(
        quote=quote,
        estimate=QualityEstimate(0.5, 0.1),
        expected_nusd=nusd,
        ceiling_nusd=nusd,
        max_output_tokens=1,
        valid_until_ms=1_000,
    )


def order(session: str | None = "s", account: str = "default", premium: float = 0.2) -> Order:
    return Order(order_id="o", account=account, body={}, session=session, session_premium=premium)


def price(candidate: Candidate) -> int:
    return candidate.expected_nusd


def test_a_session_keeps_its_offer_up_to_the_premium() -> None:
    """20 % above the best is kept and its cost told; a nano-dollar more is not, and the cost is told too."""
    affinity = Affinity(HandClock())
    best, mine, dearer = candidate("a", 1_000), candidate("b", 1_200), candidate("b", 1_201)
    affinity.served(order(), mine)
    kept = affinity.keep(order(), [best, mine], price)
    assert (kept.candidate, kept.reason, kept.cost_nusd) == (mine, "within", 200)
    left = affinity.keep(order(), [best, dearer], price)
    assert (left.candidate, left.reason, left.cost_nusd) == (None, "above", 201)


def test_the_best_offer_is_kept_at_no_cost() -> None:
    """Where the session's own offer is the best anyway, keeping it costs nothing."""
    affinity = Affinity(HandClock())
    affinity.served(order(), candidate("a", 1_000))
    kept = affinity.keep(order(), [candidate("a", 1_000), candidate("b", 1_100)], price)
    assert (kept.reason, kept.cost_nusd) == ("best", 0)


def test_scarcity_counts_in_the_comparison() -> None:
    """What is compared is the price given, shadow prices included."""
    affinity = Affinity(HandClock())
    best, mine = candidate("a", 1_000), candidate("b", 1_000)
    affinity.served(order(), mine)
    scarce = {"a": 0, "b": 500}
    kept = affinity.keep(order(), [best, mine], lambda c: c.expected_nusd + scarce[c.quote.provider])
    assert kept.reason == "above"


def test_a_seller_that_is_gone_does_not_bind() -> None:
    """When the session's offer is not eligible any more, nothing is kept and failover is free."""
    affinity = Affinity(HandClock())
    affinity.served(order(), candidate("b", 1_000))
    kept = affinity.keep(order(), [candidate("a", 1_000)], price)
    assert (kept.candidate, kept.reason) == (None, "gone")


def test_a_session_follows_its_last_answer() -> None:
    """After failover the session belongs to whoever served it."""
    affinity = Affinity(HandClock())
    first, second = candidate("a", 1_000), candidate("b", 1_000)
    affinity.served(order(), first)
    affinity.served(order(), second)
    assert affinity.keep(order(), [first, second], price).candidate is second


def test_the_cheaper_tier_of_the_same_model_is_kept() -> None:
    """A session stays with a model, not with a tier of it."""
    affinity = Affinity(HandClock())
    affinity.served(order(), candidate("a", 1_000))
    flex = candidate("a", 500, tier="flex")
    assert affinity.keep(order(), [candidate("a", 1_000), flex], price).candidate is flex


def test_sessions_belong_to_their_account() -> None:
    """The same session name under another account, and an order without a session, know nothing."""
    affinity = Affinity(HandClock())
    affinity.served(order(account="one"), candidate("a", 1_000))
    affinity.served(order(session=None), candidate("a", 1_000))
    assert len(affinity) == 1
    assert affinity.keep(order(account="two"), [candidate("a", 1_000)], price).reason == "new"
    assert affinity.keep(order(session=None), [candidate("a", 1_000)], price).reason == "new"


def test_a_silent_session_starts_anew() -> None:
    """After an hour without an answer the offer is forgotten."""
    clock = HandClock()
    affinity = Affinity(clock)
    affinity.served(order(), candidate("a", 1_000))
    clock.ms = LIFETIME_MS - 1
    assert affinity.keep(order(), [candidate("a", 1_000)], price).reason == "best"
    clock.ms = LIFETIME_MS
    assert affinity.keep(order(), [candidate("a", 1_000)], price).reason == "new"


def test_memory_is_bounded_and_the_quietest_session_goes_first() -> None:
    """One session too many pushes out the one that was served longest ago."""
    affinity, offer = Affinity(HandClock()), candidate("a", 1_000)
    for k in range(MAX_SESSIONS):
        affinity.served(order(session=str(k)), offer)
    affinity.served(order(session="0"), offer)
    affinity.served(order(session="new"), offer)
    assert len(affinity) == MAX_SESSIONS
    assert affinity.keep(order(session="0"), [offer], price).reason == "best"
    assert affinity.keep(order(session="1"), [offer], price).reason == "new"
