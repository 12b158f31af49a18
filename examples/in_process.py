"""The market inside a program: quotes, an answer, a check, and the same question put to a better model.

No server and no key: without a configuration the sellers are simulated, at real list prices.
"""

from __future__ import annotations

import asyncio

from negotiator import Engine, Terms
from negotiator.money import format_usd

QUESTION = "A train leaves at 9:40 and arrives at 11:05. How long does it take?"


async def main() -> None:
    terms = Terms(budget_usd="0.01", min_quality=0.5, policy="two_tier")
    async with Engine.open() as market:
        book = await market.quote(QUESTION, terms=terms)
        print("the three cheapest that meet every term:")
        for candidate in book.eligible[:3]:
            quote = candidate.quote
            print(
                f"  {quote.provider + '/' + quote.model:34} expected ${format_usd(quote.expected_nusd):>12}"
                f"  ceiling ${format_usd(quote.ceiling_nusd):>12}  quality {candidate.estimate.mean:.2f}"
            )
        answer = await market.complete(QUESTION, terms=terms)
        print(f"{answer.provider}/{answer.model} answered for ${format_usd(answer.cost_nusd)}")
        await market.feedback(answer.order_id, 0.0, source="my check")
        better = await market.escalate(answer.order_id)
        print(f"not good enough; {better.provider}/{better.model} for ${format_usd(better.cost_nusd)}")
        history = await market.history(better.order_id) or {}
        for attempt in history["attempts"]:
            print(
                f"  {attempt['provider']}/{attempt['model']}: {attempt['outcome']}, billed ${attempt['billed_usd']}"
            )


if __name__ == "__main__":
    asyncio.run(main())
