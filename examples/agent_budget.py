"""An agent that cannot overspend: each run is a sub-account with a budget of its own.

Start ``negotiator serve`` first. The agent asks until its money is gone; four of its tools ask at the same time. What
is left of the run's budget, and what every call held, is the ledger's business, not the agent's.
"""

from __future__ import annotations

import asyncio
import os
import uuid

from negotiator import AsyncClient, Rejected, Terms
from negotiator.money import format_usd
from negotiator.store import Account

URL = os.environ.get("NEGOTIATOR_URL", "http://127.0.0.1:8377")
BUDGET_NUSD = 5_000_000
TOOLS = 4


async def tool(market: AsyncClient, run: str, number: int) -> int:
    """Ask until the run has no money for another call; gives how often it was answered."""
    answered = 0
    while True:
        question = f"Step {answered + 1} of tool {number}: what should be looked at next, and why?"
        try:
            terms = Terms(account=run, min_quality=0.6, budget_usd="0.0005")
            await market.complete(question, terms=terms, max_tokens=200)
            answered += 1
        except Rejected as refused:
            if refused.reject.code.name == "FUNDS_HELD":  # another tool's hold; it may come free
                await asyncio.sleep(0.2)
                continue
            print(f"tool {number}: {answered} steps, then {refused.reject.code.name}")
            return answered


async def main() -> None:
    run = f"run-{uuid.uuid4().hex[:8]}"
    async with AsyncClient(URL, os.environ.get("NEGOTIATOR_KEY")) as market:
        await market.put_account(Account(account_id=run, parent="default", budget_nusd=BUDGET_NUSD))
        steps = sum(await asyncio.gather(*(tool(market, run, number) for number in range(TOOLS))))
        balance = await market.account(run)
    print(f"{steps} steps for ${format_usd(balance.posted_nusd)} of ${format_usd(BUDGET_NUSD)}")
    assert balance.posted_nusd <= BUDGET_NUSD
    assert balance.pending_nusd == 0


if __name__ == "__main__":
    asyncio.run(main())
